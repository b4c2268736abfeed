//! Enlarges pipes, writes to them with `writev`, and lends them pages with `splice`.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, ReadWriteFlags, pwritev2, writev};
use rustix::pipe::{SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, splice};

use crate::held_signal::without_sigpipe;
use crate::sink::transport::Transport;

/// The capacity in bytes that a pipe gets if the system permits
/// ([`fs.pipe-max-size`](https://man7.org/linux/man-pages/man7/pipe.7.html) is 1 MiB by default).
const PIPE_BYTES: usize = 1 << 20;

/// Enlarges the pipe to [`PIPE_BYTES`], or to as much as the system permits. Ignores errors: a pipe that stays as it
/// was is only slower.
pub(in crate::sink) fn enlarge(fd: BorrowedFd<'_>) {
    let Ok(now) = fcntl_getpipe_size(fd) else { return };
    let mut capacity = PIPE_BYTES;
    while capacity > now && fcntl_setpipe_size(fd, capacity) == Err(Errno::PERM) {
        capacity /= 2;
    }
}

/// The transport of pipes: `writev` and `splice`.
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
        if may_block {
            return without_sigpipe(|| writev(fd, slices));
        }
        // All ones mean the current position.
        let now = || pwritev2(fd, slices, u64::MAX, ReadWriteFlags::NOWAIT);
        match without_sigpipe(now) {
            Err(Errno::NOSYS | Errno::INVAL) => Err(Errno::OPNOTSUPP),
            result => result,
        }
    }

    fn lend(
        &self,
        fd: BorrowedFd<'_>,
        file: &File,
        mut at: u64,
        len: usize,
        may_block: bool,
    ) -> Result<usize, Errno> {
        let flags = if may_block { SpliceFlags::empty() } else { SpliceFlags::NONBLOCK };
        splice(file, Some(&mut at), fd, None, len, flags)
    }

    fn capacity(&self, fd: BorrowedFd<'_>) -> Option<u64> {
        fcntl_getpipe_size(fd).ok().map(|size| size as u64)
    }
}
