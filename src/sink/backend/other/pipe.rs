//! Writes to pipes with `writev`.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, writev};

use crate::held_signal::without_sigpipe;
use crate::sink::transport::Transport;

/// Does nothing.
pub(in crate::sink) fn enlarge(_: BorrowedFd<'_>) {}

/// The transport of pipes: `writev`.
#[derive(Debug)]
pub(in crate::sink) struct PipeTransport;

impl Transport for PipeTransport {
    const MIN_LEND_BYTES: usize = 16 << 10;

    fn write(
        &self,
        fd: BorrowedFd<'_>,
        slices: &[IoSlice<'_>],
        may_block: bool,
    ) -> Result<usize, Errno> {
        match may_block {
            true => without_sigpipe(|| writev(fd, slices)),
            false => Err(Errno::OPNOTSUPP),
        }
    }

    fn lend(&self, _: BorrowedFd<'_>, _: &File, _: u64, _: usize, _: bool) -> Result<usize, Errno> {
        Err(Errno::OPNOTSUPP)
    }

    fn capacity(&self, _: BorrowedFd<'_>) -> Option<u64> {
        None
    }
}
