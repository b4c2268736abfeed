//! Functions, lines, inlined calls and variables for the frames of a WebAssembly core dump, from the name sections and
//! DWARF of the guest's modules.
//!
//! A dump has function indices and code offsets. This crate looks them up in the files of the guest's modules:
//!
//! ```
//! use corestream::{CoreDump, CoreDumpFile, Dumper, Frame, Instance, Thread};
//! use corestream_symbols::{SymbolFile, Symbols};
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
//! #     let (mut names, mut map) = (NameSection::new(), NameMap::new());
//! #     map.append(0, "_ZN5guest4main17h0123456789abcdefE");
//! #     names.functions(&map);
//! #     let mut module = Module::new();
//! #     module.section(&types).section(&functions).section(&code).section(&names);
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
//! let files = [SymbolFile::new("guest.wasm", &wasm)];
//! let symbols = Symbols::new(&files, &dump)?;
//! let thread = dump.thread(0)?;
//! for (i, frame) in thread.frames().enumerate() {
//!     let resolved = symbols.resolve(&frame?, i)?.unwrap();
//!     assert_eq!(resolved.name.as_deref(), Some("guest::main"));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A file may also be a [component](Component). The crate finds its core modules and matches each with the modules of the
//! dump.
//!
//! Module files are as untrusted as dumps. The crate reads a malformed file up to the fault, and [`limits`] bounds the
//! work that debugging information can cause.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod budget;
mod component;
mod demangle;
mod dwarf;
mod frame_state;
mod instances;
pub mod limits;
mod matching;
mod module;
mod reader;
mod symbol_file;
mod symbols;
mod value;

use dwarf::Debug;
use module::Module;

pub use component::{Component, ExpandedFiles, expand_components};
pub use demangle::demangle;
pub use matching::{Mismatch, ModuleMatch, Verdict, match_modules};
pub use reader::ValueLimits;
pub use symbol_file::{Error, SymbolFile};
pub use symbols::{
    Position, Resolved, StaticScope, StaticUnit, StaticUnits, Statics, Symbols, UnreliablePlaces,
    Variable, VariableKind,
};
pub use value::{FramePlace, Member, Text, Unknown, Value};

/// Returns the source position of the instruction at `offset` (in bytes) of a module in the binary format, or `None` if
/// the debugging information has none.
///
/// ```
/// use corestream_symbols::position_at;
///
/// assert_eq!(position_at(b"\0asm\x01\0\0\0", 8), None);
/// ```
pub fn position_at(wasm: &[u8], offset: u64) -> Option<Position> {
    let module = Module::read(wasm);
    let debug = Debug::read(&module, &[], &mut |_| ()).ok()??;
    let found = debug.positions(module.place_at(offset)?).ok()?;
    found.positions.into_iter().next().map(Position::without_variables)
}

/// Runs the Rust examples of README.md as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
