//! corestream writes WebAssembly core dumps of guests with very large memories: it finds what is
//! not zero in parallel, fixes the exact layout, and streams the dump to a file, a pipe or a socket
//! straight from the guest's memory, without copying that memory.
//!
//! ```
//! use corestream::*;
//!
//! // The stopped guest: one memory, which is borrowed and not copied.
//! # let mut bytes = vec![0; 1 << 20];
//! # bytes[4096..8192].fill(1);
//! let mut dump = CoreDump::new("guest.wasm");
//! let memory = dump.add_memory(Memory::new(MemoryType::wasm32(16), MemoryImage::from_slice(&bytes)));
//! let module = dump.add_module("guest.wasm");
//! let instance = dump.add_instance(Instance::of(module).with_memories([memory]));
//! dump.add_thread(Thread::new("main").with_frames([Frame::new(instance, 3, 17)]));
//!
//! // The plan: a parallel scan, then the length of the dump is known to the byte.
//! let plan = Dumper::new().plan(&dump)?;
//! let mut socket = Vec::new();
//! plan.write_to(&mut socket)?; // any `io::Write`
//! assert_eq!(socket.len() as u64, plan.len());
//! # Ok::<(), Error>(())
//! ```
//!
//! Data flows one way: image -> extents -> scan -> plan -> encode -> sink. The dump is in the
//! tool-conventions' [Coredump format](https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md),
//! as a module that every engine accepts.

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

mod atomic_file;
mod checksum;
mod control;
mod dump;
mod encode;
mod error;
mod image;
pub mod limits;
mod model;
mod piece;
mod plan;
pub mod read;
pub mod scan;
mod sink;
mod unnamed_file;
#[cfg(feature = "wasmtime")]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "indices are those of lists that it made itself of what the engine of this process gave; \
              the guest's code is read by `bytecode` alone, which denies both"
)]
pub mod wasmtime;

pub use atomic_file::FileOptions;
pub use control::{Progress, Stage};
pub use dump::Dumper;
pub use error::{Error, ErrorKind, Result};
pub use image::{ExtentMethod, MappingMethod, MemoryImage, SharedBytes};
pub use model::{
    CoreDump, Frame, Global, GlobalIndex, GlobalValue, Instance, InstanceIndex, Memory,
    MemoryIndex, MemoryType, Module, ModuleIndex, RefType, Thread, Value,
};
pub use piece::{Header, Piece};
pub use plan::{CONTINUATION, Plan, SEGMENT_COST, Segment, Shortfall, Stats};
pub use read::CoreDumpFile;
pub use sink::{FileSink, Pipe, Sink, Socket};
pub use unnamed_file::UnnamedFile;

/// Keeps the code in README true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
