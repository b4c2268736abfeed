//! Reading core dumps: their contents, the guest's memory, and whether they are intact.
//!
//! The reader follows the specification of the format and shares no logic with the writer. One pull parser for the
//! sections serves opening, salvage and verification, over any source and over a stream.

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
pub use verify::{DamageReport, EarlyFact, Excluded, IntactDump, MemoryRange, Verdict, Verifier};
