//! How bytes get into a kind of descriptor.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// Moves bytes into a kind of descriptor.
pub(super) trait Transport {
    /// Bytes of a part of an image file from which on it is lent: to lend shorter ones costs more than
    /// to write them with what is around them.
    const LEAST_LENT: usize;

    /// Writes some of `slices`; `wait` is whether it may block. [`Errno::OPNOTSUPP`] if it can't help
    /// blocking.
    fn write(&self, fd: BorrowedFd<'_>, slices: &[IoSlice<'_>], wait: bool)
    -> Result<usize, Errno>;

    /// Has the kernel hand over up to `len` bytes of `file` from `at` on, without copying them. What
    /// can't be handed over is written, and then says why it fails.
    fn lend(
        &self,
        fd: BorrowedFd<'_>,
        file: &File,
        at: u64,
        len: usize,
        wait: bool,
    ) -> Result<usize, Errno>;

    /// The most bytes that the descriptor holds until its reader takes them; `None` if nothing is to
    /// be lent to it.
    ///
    /// So many bytes at the end of a dump are copied: when they are all in, the reader has taken what
    /// was lent before them, and the dump is done with the image.
    fn capacity(&self, fd: BorrowedFd<'_>) -> Option<u64>;
}
