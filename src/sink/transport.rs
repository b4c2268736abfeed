//! The interface between a [`Descriptor`](super::descriptor::Descriptor) and the system calls of its kind.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// The system calls for one kind of descriptor.
pub(super) trait Transport {
    /// The minimum length in bytes to lend a part of an image file. Lending a shorter part costs more than writing it
    /// along with its neighbours.
    const MIN_LEND_BYTES: usize;

    /// Writes some of `slices`, and returns the number of bytes written. Must not block unless `may_block` is set.
    ///
    /// # Errors
    /// Returns [`Errno::OPNOTSUPP`] if it cannot write without blocking, or the error of the system call.
    fn write(
        &self,
        fd: BorrowedFd<'_>,
        slices: &[IoSlice<'_>],
        may_block: bool,
    ) -> Result<usize, Errno>;

    /// Lends the descriptor up to `len` bytes of `file` from `at` on, without copying them, and returns their number.
    ///
    /// # Errors
    /// Returns the error of the system call. The bytes are then written instead, and the write reports what is wrong
    /// with the descriptor.
    fn lend(
        &self,
        fd: BorrowedFd<'_>,
        file: &File,
        at: u64,
        len: usize,
        may_block: bool,
    ) -> Result<usize, Errno>;

    /// Returns the maximum number of bytes that the descriptor holds until its reader takes them, or `None` if nothing
    /// should be lent to it.
    ///
    /// This many bytes at the end of a dump are copied. Once they are all in the descriptor, the reader has taken
    /// everything that was lent before them, and the dump no longer needs the image.
    fn capacity(&self, fd: BorrowedFd<'_>) -> Option<u64>;
}
