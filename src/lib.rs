//! corestream writes WebAssembly core dumps of guests with very large memories, on a trap or whenever
//! they are stopped. It finds what is not zero in parallel, fixes the exact layout of the dump, and then
//! streams it to a file, a pipe or a socket straight from the guest's memory, without copying that
//! memory. It reads dumps back as well, its own and those of other tools.
//!
//! # Embed
//! The crate [`corestream-wasmtime`](https://docs.rs/corestream-wasmtime) describes guests of Wasmtime: a guest that
//! traps leaves its dump in a file with one call. The model below is for guests of any other engine.
//!
//! # Dump
//! Guests of any engine are described by hand. Their memories are borrowed.
//!
//! ```
//! use corestream::{
//!     CoreDump, Dumper, Frame, Instance, Memory, MemoryImage, MemoryType, Thread,
//! };
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path();
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
//! let plan = Dumper::new().plan(&dump)?; // from here on the length is known to the byte
//! plan.write_file(folder.join("guest.core"))?; // appears under its name when it is whole
//! plan.write_to(&mut socket)?; // any `io::Write`, or a `PipeSink` or `SocketSink`, which know faster ways
//! assert_eq!(socket.len() as u64, plan.len());
//! # Ok::<(), corestream::Error>(())
//! ```
//!
//! # Read
//! A dump is read from any source of bytes: a file, a slice, or one of your own ([`read::ReadAt`]). Memory is found by its
//! address without reading the rest.
//!
//! ```
//! use corestream::{CoreDumpFile, MemoryIndex};
//!
//! # use corestream::*;
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path();
//! # let mut dump = CoreDump::new("guest.wasm");
//! # dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&[7; 65_536])));
//! # let module = dump.add_module("guest.wasm");
//! # let instance = dump.add_instance(Instance::new(module));
//! # dump.add_thread(Thread::new("main").with_frames([Frame::new(instance, 3, 17)]));
//! # Dumper::new().plan(&dump)?.write_file(folder.join("guest.core"))?;
//! let dump = CoreDumpFile::open(folder.join("guest.core"))?;
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
//! | crate | what it brings |
//! |---|---|
//! | [`corestream-wasmtime`](https://docs.rs/corestream-wasmtime) | guests of Wasmtime; the embedder brings the compiler and, with `gc`, a collector |
//! | [`corestream-symbols`](https://docs.rs/corestream-symbols) | functions, lines, inlined calls and variables of the frames in a dump |
//! | [`corestream-cli`](https://docs.rs/corestream-cli) | the tool `corestream` |
//!
//! # Names
//! - `new` makes a value from nothing or from its parts, `from_x` from an `x`. `open` reads what exists, `create` makes a
//!   file or a directory.
//! - A value of the model has `with_x`, which returns it with another `x`. What works with options, such as a [`Dumper`], a
//!   [`Writer`] or a sink, has a method for each option, called as the option is.
//! - A sink is called after its destination, `...Sink`, and made by `new` from a descriptor that it owns or borrows.
//! - Zero threads are one per core, wherever threads are asked for.
//! - What has a text form reads and writes the same one, by [`FromStr`](std::str::FromStr) and
//!   [`Display`](std::fmt::Display): values, types, indices, [`ByteSize`] and [`AddressRange`].
//! - Types that will grow are `#[non_exhaustive]`: make them by their constructors, and match them with a `_`.
//!
//! # Where things are
//! Data flows one way: image ([`MemoryImage`]) -> extents ([`ExtentMethod`]) -> scan -> plan
//! ([`Plan`], made by a [`Dumper`]) -> encode ([`Piece`]) -> sink ([`Sink`]). What comes in is the model,
//! [`CoreDump`]; [`read`] knows none of that and reads what comes out.
//!
//! Every cap of the format and of engines is in [`limits`]. All that can fail gives an [`Error`], one line
//! that names the thing, with an [`ErrorKind`] to act on; nothing here prints, exits, or panics on input.
//! The dump is in the tool-conventions'
//! [Coredump format](https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md), as a module
//! that wasmparser's validator accepts with all features. An engine accepts it within limits of its own;
//! those of V8 are in [`limits`].

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(unreachable_pub)]
// Nothing that input says may end the process of who calls.
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
mod threads;
mod unnamed_file;
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
    Memory, MemoryIndex, MemoryType, Module, ModuleIdentity, ModuleIndex, NumberType, RefType,
    Thread, UnixTime, Value,
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

/// What tests and benches use of the library, and nobody else: it may change at any time.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use crate::plan::SEGMENT_COST;
    pub use crate::scan::Scanner;

    /// The least that `Dumper::max_section_bytes` takes.
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
