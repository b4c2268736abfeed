//! Extents: the ranges of an image that may hold data, found without reading it.
//!
//! Files are asked for their holes, memory of a live guest for the pages that were never touched.
//! When in doubt, it is data.

mod file;
mod finder;
mod walk;

pub(crate) use file::Holes;
pub(crate) use finder::{Finder, Options};
pub(crate) use walk::Extents;
