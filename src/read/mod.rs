//! Reading core dumps back: what is in them, whether they are whole, and the guest's memory.
//!
//! The reader is written against the format, and shares nothing with this project's writer. One pull parser of the
//! sections serves all of it, for any source and for a stream alike.

mod appended;
mod bounds;
mod contents;
mod data;
mod decode;
mod facts;
mod fault;
mod file;
mod header;
mod index;
mod input;
mod item;
mod items;
mod layout;
mod memory;
mod open;
mod open_options;
mod parser;
mod preamble;
mod read_at;
mod restore;
mod salvage;
mod segment;
mod source;
mod structure;
mod table;
mod types;
mod verify;
mod wide;

pub use contents::{Content, Contents};
pub use file::{CoreDumpFile, Producer};
pub use items::{Frames, ThreadView};
pub use layout::FrameLayout;
pub use memory::{Coverage, MemoryView, SegmentView};
pub use open_options::OpenOptions;
pub use read_at::{MappedFile, ReadAt};
pub use restore::Restored;
pub use verify::{Damage, Early, Excluded, MemoryRange, Verdict, Verifier, Whole};
