//! corestream writes WebAssembly core dumps of stopped guests with very large memories. It finds the non-zero bytes in
//! parallel, computes the exact layout of the dump, and streams it to a file, a pipe or a socket straight from the
//! guest's memory, without copying that memory. It also reads dumps, its own and those of other tools.
//!
//! # Guests of Wasmtime
//! The crate [`corestream-wasmtime`](https://docs.rs/corestream-wasmtime) dumps a Wasmtime guest that trapped with one
//! call.
//!
//! # Guests of other engines
//! For any other engine, describe the guest as a [`CoreDump`]. It borrows the guest's memories.
//!
//! ```
//! use corestream::{
//!     CoreDump, Dumper, Frame, Instance, Memory, MemoryImage, MemoryType, Thread,
//! };
//!
//! # let directory = tempfile::tempdir().unwrap();
//! # let directory = directory.path();
//! # let mut socket = Vec::new();
//! # let mut bytes = vec![0; 1 << 20];
//! # bytes[4096..8192].fill(1);
//! let mut dump = CoreDump::new("guest.wasm");
//! let memory = Memory::new(MemoryType::wasm32(16), MemoryImage::from_slice(&bytes));
//! let memory = dump.add_memory(memory);
//! let module = dump.add_module("guest.wasm");
//! let instance = dump.add_instance(Instance::new(module).with_memories([memory]));
//! dump.add_thread(Thread::new("main").with_frames([Frame::new(instance, 3, 17)]));
//!
//! let plan = Dumper::new().plan(&dump)?; // scans the memories and computes the exact length
//! plan.write_file(directory.join("guest.core"))?; // the file appears once it is complete
//! plan.write_to(&mut socket)?; // any `io::Write`, or the faster `PipeSink` or `SocketSink`
//! assert_eq!(socket.len() as u64, plan.len());
//! # Ok::<(), corestream::Error>(())
//! ```
//!
//! # Reading dumps
//! [`CoreDumpFile`] reads a dump from a file, a slice, or any other source that implements [`read::ReadAt`]. It finds
//! memory by address without reading the rest.
//!
//! ```
//! use corestream::{CoreDumpFile, MemoryIndex};
//!
//! # use corestream::*;
//! # let directory = tempfile::tempdir().unwrap();
//! # let directory = directory.path();
//! # let mut dump = CoreDump::new("guest.wasm");
//! # dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&[7; 65_536])));
//! # let module = dump.add_module("guest.wasm");
//! # let instance = dump.add_instance(Instance::new(module));
//! # dump.add_thread(Thread::new("main").with_frames([Frame::new(instance, 3, 17)]));
//! # Dumper::new().plan(&dump)?.write_file(directory.join("guest.core"))?;
//! let dump = CoreDumpFile::open(directory.join("guest.core"))?;
//! for thread in dump.threads() {
//!     let thread = thread?;
//!     for frame in thread.frames() {
//!         let frame = frame?;
//!         println!("{}: function {} at {:#x}", thread.name(), frame.function, frame.offset);
//!     }
//! }
//! let mut buffer = [0; 16];
//! dump.memory(MemoryIndex(0))?.read(0x1000, &mut buffer)?;
//! # assert_eq!(buffer, [7; 16]);
//! # Ok::<(), Error>(())
//! ```
//!
//! # Other crates
//! | crate | contents |
//! |---|---|
//! | [`corestream-wasmtime`](https://docs.rs/corestream-wasmtime) | dumps of Wasmtime guests; the embedder chooses the compiler and, with `gc`, the collector |
//! | [`corestream-symbols`](https://docs.rs/corestream-symbols) | functions, lines, inlined calls and variables for the frames of a dump |
//! | [`corestream-debug`](https://docs.rs/corestream-debug) | serves a dump to LLDB, over any transport |
//! | [`corestream-cli`](https://docs.rs/corestream-cli) | the tool `corestream` |
//!
//! # Naming conventions
//! - `new` makes a value from its parts and `from_x` from an `x`. `open` reads an existing file, `create` makes a file
//!   or a directory.
//! - Types of the model have builder methods `with_x`. Types with options, such as [`Dumper`], [`Writer`] and the
//!   sinks, have one method per option, with the option's name.
//! - A sink is named after its destination, such as [`FileSink`]. `new` takes a descriptor, owned or borrowed.
//! - A thread count of zero means one thread per core.
//! - Types with a text form parse the text that they display ([`FromStr`](std::str::FromStr) and
//!   [`Display`](std::fmt::Display)): values, types, indices, [`ByteSize`] and [`AddressRange`].
//! - Types that may grow are `#[non_exhaustive]`.
//!
//! # Architecture
//! Data flows one way: image ([`MemoryImage`]) -> extents ([`ExtentMethod`]) -> scan -> plan
//! ([`Plan`], made by a [`Dumper`]) -> encode ([`Piece`]) -> sink ([`Sink`]). The input is the model, [`CoreDump`].
//! [`read`] is independent of these stages and reads the finished dump.
//!
//! [`limits`] has every limit of the format and of engines. Fallible operations return an [`Error`] with an
//! [`ErrorKind`] and a one-line message. The crate never prints, never exits and never panics on input.
//!
//! Dumps have the tool-conventions
//! [Coredump format](https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md). A dump is a module that
//! wasmparser's validator accepts with all features. Engines have further limits. Those of V8 are in [`limits`].

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(unreachable_pub)]
// No input may panic the caller's process.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::string_slice,
    )
)]

mod address_range;
mod arithmetic;
mod atomic_file;
mod batch;
mod byte_size;
mod checksum;
mod close;
mod control;
mod dump;
mod encode;
mod error;
mod format;
mod held_signal;
mod image;
mod leb;
pub mod limits;
mod model;
mod piece;
mod pieces;
mod plan;
mod ranges;
pub mod read;
#[allow(unreachable_pub, reason = "public with the feature `internals`")]
mod scan;
mod sink;
pub mod snapshot;
mod threads;
mod unnamed_file;
mod userfaultfd;
mod visible;
mod write;

pub use address_range::AddressRange;
pub use atomic_file::{FileOptions, NewDirectory};
pub use byte_size::ByteSize;
pub use close::check_close;
pub use control::{Cancel, Progress, Stage};
pub use dump::Dumper;
pub use error::{Error, ErrorKind, Result};
pub use image::{Change, ExtentMethod, MappingMethod, MemoryImage, SharedBytes};
pub use model::{
    CoreDump, DumpMemoryIndex, Frame, Global, GlobalIndex, GlobalValue, Instance, InstanceIndex,
    Memory, MemoryIndex, MemoryType, MergedIndices, Module, ModuleIdentity, ModuleIndex, ModuleKey,
    NumberType, RefType, Thread, UnixTime, Value,
};
pub use piece::Piece;
pub use pieces::{Pieces, Reader};
pub use plan::{Plan, Segment, Shortfall, Stats};
pub use ranges::AddressRanges;
pub use read::CoreDumpFile;
pub use sink::{FileSink, PipeSink, Sink, SocketSink};
pub use unnamed_file::UnnamedFile;
pub use visible::Visible;
pub use write::Writer;

/// Internals for the tests and benches of this repository, without any stability guarantee.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use crate::plan::SEGMENT_COST;
    pub use crate::scan::Scanner;
    pub use crate::snapshot::{find_mismatch, kill_thread};

    /// The smallest value that `Dumper::max_section_bytes` accepts.
    pub const MIN_SECTION_BYTES: u32 = crate::limits::MIN_SECTION_BYTES;
}

/// Runs the code of README.md and of the guide as doc tests.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/guide.md")]
    struct Guide;
}
