//! The bytes of a linear memory: borrowed from a live guest, mapped from a file, or read from a file.
//!
//! [`backend`] queries the operating system about holes, untouched pages and writers. It has one directory per
//! platform.

mod backend;
mod bytes;
mod change;
mod copied;
mod extents;
mod frozen;
mod gather;
mod machine_copy;
pub(crate) mod map;
mod memory_image;
mod method;
mod read;
mod shared;
mod watch;

pub(crate) use backend::answers::MemoryKind;
pub(crate) use backend::tracked::TrackedPages;
pub(crate) use bytes::Bytes;
pub use change::Change;
pub(crate) use extents::{ExtentFinder, ExtentOptions, Extents, HoleFinder};
pub(crate) use frozen::FrozenBytes;
pub(crate) use gather::MAX_READ_GAP;
pub(crate) use machine_copy::copy as copy_racing;
pub use memory_image::MemoryImage;
pub(crate) use memory_image::PayloadSource;
pub use method::{ExtentMethod, MappingMethod};
pub use shared::SharedBytes;
pub(crate) use watch::Watch;
