//! Lets LLDB 22 and newer debug a WebAssembly core dump, over the gdb-remote protocol.
//!
//! A [`Target`] is a dump with the modules of its guest. A [`Session`] is the connection of one client to it: a state
//! machine without I/O. Bytes of the client go in, and bytes for the client come out, so any transport can drive it.
//!
//! ```
//! use corestream::{CoreDump, CoreDumpFile, Dumper, Frame, Instance, Thread};
//! use corestream_debug::{Options, Session, Status, Target};
//! use corestream_symbols::SymbolFile;
//!
//! # fn module() -> Vec<u8> {
//! #     use wasm_encoder::*;
//! #     let (mut types, mut functions, mut code) =
//! #         (TypeSection::new(), FunctionSection::new(), CodeSection::new());
//! #     types.ty().function([], []);
//! #     functions.function(0);
//! #     let mut body = Function::new([]);
//! #     body.instructions().unreachable().end();
//! #     code.function(&body);
//! #     let mut module = Module::new();
//! #     module.section(&types).section(&functions).section(&code);
//! #     module.finish()
//! # }
//! // A module with one function, and the dump of a guest that trapped in it.
//! let wasm: Vec<u8> = module();
//! let mut dump = CoreDump::new("guest.wasm");
//! let module = dump.add_module("guest.wasm");
//! let instance = dump.add_instance(Instance::new(module));
//! dump.add_thread(Thread::new("main").with_frames([Frame::new(instance, 0, 1)]));
//! let bytes = Dumper::new().plan(&dump)?.to_vec()?;
//!
//! let dump = CoreDumpFile::from_slice(&bytes)?;
//! let files = [SymbolFile::new("/srv/guest.wasm", &wasm)];
//! let target = Target::new(&dump, &files, &Options::new())?;
//! assert_eq!(target.stop_reason(), "wasm trap: unreachable");
//!
//! // The client asks for the call stack of thread 1.
//! let mut session = Session::new(&target);
//! let (mut input, mut output) = (&b"$qWasmCallStack:1#e6"[..], Vec::new());
//! assert_eq!(session.receive(&mut input, &mut output), Status::Replied);
//! assert_eq!(output, b"+$1700000000000040#0c");
//! # Ok::<(), corestream::Error>(())
//! ```
//!
//! In LLDB, `process connect --plugin wasm connect://127.0.0.1:PORT` or `unix-connect:///path/of/socket` connects to a
//! server. The example `serve` is one.
//!
//! # No wrong values
//! LLDB asks with too little information to get every value right ([`Target::warnings`] lists the cases). Where the server
//! can tell that LLDB would show a wrong value, it gets a module without debugging information: the frame has its function, and no values.
//! Everything that the dump does not have is an error for LLDB, and never zeros: unknown locals, excluded ranges, lost
//! data, and mutable globals of callers.
//!
//! # Security
//! A dump can hold secrets, and any local user can connect to a TCP port. Prefer a Unix socket in a private directory.
//! Clients, dumps and module files are untrusted; [`limits`] bounds what each can cause. There is no access to files and
//! nothing is written.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used))]

mod code;
mod image;
pub mod limits;
mod memory_map;
mod modules;
mod packet;
mod placing;
mod reliability;
mod session;
mod stacks;
mod stop;
mod target;

pub use session::{Session, Status};
pub use target::{Options, Target};

/// Runs the Rust examples of README.md as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
