//! Queries for the snapshot of a live memory, which these systems do not support.

use std::convert::Infallible;
use std::io;
use std::ops::Range;

use rustix::io::Errno;

use crate::image::backend::answers::MemoryKind;

/// The interfaces of the kernel that a snapshot needs, which do not exist.
pub(crate) struct TrackedPages(Infallible);

impl TrackedPages {
    pub(crate) fn open() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn mappings(&self, _: Range<u64>, _: impl FnMut(Range<u64>, MemoryKind)) {
        match self.0 {}
    }

    pub(crate) fn scan(&self, _: Range<u64>, _: impl FnMut(Range<u64>, bool)) -> Result<(), Errno> {
        match self.0 {}
    }
}
