//! Extents: the ranges of an image that may contain data, found without reading the image.
//!
//! For files, the file system reports holes ([`file`](mod@file)). For the memory of a live guest, the kernel reports
//! untouched pages ([`live`](super::backend::live)). In case of doubt, a range is data: reading zeros costs time, but
//! skipping data loses it.

mod file;
mod finder;
mod walk;

pub(crate) use file::HoleFinder;
pub(crate) use finder::{ExtentFinder, ExtentOptions};
pub(crate) use walk::Extents;
