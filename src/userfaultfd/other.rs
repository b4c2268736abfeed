//! Systems without userfaultfd.

use std::convert::Infallible;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::{Delivery, Message};

/// Returns whether this descriptor is a [`Userfaultfd`] of this module.
#[allow(dead_code, reason = "only Linux has userfaultfd")]
pub(crate) fn is_own(_: std::os::fd::RawFd) -> bool {
    false
}

/// A userfaultfd, which cannot exist.
#[derive(Debug)]
pub(crate) struct Userfaultfd(Infallible);

impl Userfaultfd {
    pub(crate) fn open(_: Delivery) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn register(&self, _: &Range<u64>) -> Result<(), Errno> {
        match self.0 {}
    }

    pub(crate) fn unregister(&self, _: &Range<u64>) -> Result<(), Errno> {
        match self.0 {}
    }

    pub(crate) fn protect(&self, _: &Range<u64>) -> Result<(), Errno> {
        match self.0 {}
    }

    pub(crate) fn unprotect(&self, _: &Range<u64>) -> Result<(), Errno> {
        match self.0 {}
    }

    pub(crate) fn read(&self, _: impl FnMut(Message)) -> Result<usize, Errno> {
        match self.0 {}
    }
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }
}
