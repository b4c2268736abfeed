//! The model of a stopped guest, in the terms of the format: process, modules, instances, memories, globals,
//! threads, frames and values. This module does no I/O.
//!
//! Source: the tool-conventions
//! [Coredump format](https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md).

mod core_dump;
mod display;
mod excluded;
mod identity;
mod index;
mod instance;
mod key;
mod memory;
mod merge;
mod text;
mod thread;
mod time;
mod values;

pub use core_dump::CoreDump;
pub use identity::ModuleIdentity;
pub use index::{DumpMemoryIndex, GlobalIndex, InstanceIndex, MemoryIndex, ModuleIndex};
pub use instance::{Instance, Module};
pub use key::ModuleKey;
pub use memory::{Memory, MemoryType};
pub use merge::MergedIndices;
pub use thread::{Frame, Thread};
pub use time::UnixTime;
pub use values::{Global, GlobalValue, NumberType, RefType, Value};
