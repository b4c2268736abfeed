//! The bytes of a linear memory: borrowed from a live guest, mapped from a file, or read from one.
//!
//! What only the operating system knows (holes, untouched pages, writers) is asked for in [`backend`], which has one
//! directory per platform.

mod backend;
mod bytes;
mod change;
mod extents;
mod gather;
mod machine_copy;
pub(crate) mod map;
mod memory_image;
mod method;
mod read;
mod shared;
mod watch;

pub(crate) use bytes::Bytes;
pub use change::Change;
pub(crate) use extents::{Extents, Finder, Holes, Options as ExtentOptions};
pub(crate) use gather::MAX_GAP;
pub use memory_image::MemoryImage;
pub(crate) use memory_image::Payload;
pub use method::{ExtentMethod, MappingMethod};
pub use shared::SharedBytes;
pub(crate) use watch::Watch;
