//! Pipes: made larger, written to by `writev`, and lent pages by `splice`.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, ReadWriteFlags, pwritev2, writev};
use rustix::pipe::{SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, splice};

use crate::held_signal::without_sigpipe;
use crate::sink::transport::Transport;

/// Bytes that a pipe is made to hold, if the system allows it
/// ([`fs.pipe-max-size`](https://man7.org/linux/man-pages/man7/pipe.7.html) is 1 MiB by default).
const PIPE_BYTES: usize = 1 << 20;

/// Makes the pipe hold [`PIPE_BYTES`], or as much as may be: a pipe that stays as it was is only
/// slower.
pub(in crate::sink) fn enlarge(fd: BorrowedFd<'_>) {
    let Ok(now) = fcntl_getpipe_size(fd) else { return };
    let mut wanted = PIPE_BYTES;
    while wanted > now && fcntl_setpipe_size(fd, wanted) == Err(Errno::PERM) {
        wanted /= 2;
    }
}

/// `writev` and `splice`.
#[derive(Debug)]
pub(in crate::sink) struct PipeTransport;

impl Transport for PipeTransport {
    const LEAST_LENT: usize = 16 << 10;

    fn write(
        &self,
        fd: BorrowedFd<'_>,
        slices: &[IoSlice<'_>],
        wait: bool,
    ) -> Result<usize, Errno> {
        if wait {
            return without_sigpipe(|| writev(fd, slices));
        }
        // All ones stand for the present position.
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
        wait: bool,
    ) -> Result<usize, Errno> {
        let flags = if wait { SpliceFlags::empty() } else { SpliceFlags::NONBLOCK };
        splice(file, Some(&mut at), fd, None, len, flags)
    }

    fn capacity(&self, fd: BorrowedFd<'_>) -> Option<u64> {
        fcntl_getpipe_size(fd).ok().map(|size| size as u64)
    }
}
