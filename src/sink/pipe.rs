//! A pipe as a sink: made larger, and lent the pages of image files that cannot change.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::Sink;
use super::descriptor::{Descriptor, Ways};
use crate::held_signal::without_sigpipe;
use crate::piece::Piece;

/// Bytes that a pipe is made to hold, if the system allows it
/// ([`fs.pipe-max-size`](https://man7.org/linux/man-pages/man7/pipe.7.html) is 1 MiB by default).
#[cfg(target_os = "linux")]
const PIPE_BYTES: usize = 1 << 20;

/// Writes to a pipe or FIFO, or to anything else that is written in order and may have to be waited
/// for, such as a terminal.
///
/// The pipe is made to hold 1 MiB where the system allows that. A descriptor that does not block is
/// waited for, and a reader that goes away is [`io::ErrorKind::BrokenPipe`] and never a SIGPIPE.
///
/// # Image files
/// On Linux, the pages of mapped files that cannot change
/// ([`MemoryImage`](crate::MemoryImage#files-that-change)) are lent to the pipe by
/// [`splice`](https://man7.org/linux/man-pages/man2/splice.2.html) and not copied. The memory of a live
/// guest is never lent. When the dump is done, the pipe holds no lent page any more: the last bytes of the
/// dump, as many as fit into the pipe, are copied. A reader that makes the pipe larger meanwhile, or passes the pages on
/// by `splice` or `tee`, has lent ones for longer.
///
/// ```
/// use corestream::{CoreDump, Dumper, Pipe};
///
/// let (mut reader, writer) = std::io::pipe().unwrap();
/// let dump = CoreDump::new("guest.wasm");
/// let plan = Dumper::new().plan(&dump)?;
/// plan.write_to(&mut Pipe::new(&writer))?;
/// drop(writer);
///
/// let mut bytes = Vec::new();
/// std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
/// assert_eq!(bytes.len() as u64, plan.len());
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Pipe<F>(Descriptor<F, PipeWays>);

impl<F: AsFd> Pipe<F> {
    /// A sink that writes to `pipe`, which it owns or borrows.
    pub fn new(pipe: F) -> Self {
        Self(Descriptor::new(pipe, PipeWays))
    }

    /// Whether pages of image files are lent to the pipe, as they are by default.
    pub fn lend(mut self, lend: bool) -> Self {
        self.0.set_lend(lend);
        self
    }
}

impl<F: AsFd> Sink for Pipe<F> {
    fn begin(&mut self, len: u64, may_block: bool) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        enlarge(self.0.fd());
        self.0.begin(len, may_block);
        Ok(())
    }

    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        self.0.put(pieces)
    }

    fn waits_on(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.fd())
    }
}

/// Makes the pipe hold [`PIPE_BYTES`], or as much as may be: a pipe that stays as it was is only
/// slower.
#[cfg(target_os = "linux")]
fn enlarge(fd: BorrowedFd<'_>) {
    use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};

    let Ok(now) = fcntl_getpipe_size(fd) else { return };
    let mut wanted = PIPE_BYTES;
    while wanted > now && fcntl_setpipe_size(fd, wanted) == Err(Errno::PERM) {
        wanted /= 2;
    }
}

/// `writev` and `splice`.
#[derive(Debug)]
struct PipeWays;

#[cfg(target_os = "linux")]
impl Ways for PipeWays {
    const LEAST_LENT: usize = 16 << 10;

    fn write(
        &self,
        fd: BorrowedFd<'_>,
        slices: &[IoSlice<'_>],
        wait: bool,
    ) -> Result<usize, Errno> {
        use rustix::io::{ReadWriteFlags, pwritev2, writev};

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
        use rustix::pipe::{SpliceFlags, splice};

        let flags = if wait { SpliceFlags::empty() } else { SpliceFlags::NONBLOCK };
        splice(file, Some(&mut at), fd, None, len, flags)
    }

    fn capacity(&self, fd: BorrowedFd<'_>) -> Option<u64> {
        rustix::pipe::fcntl_getpipe_size(fd).ok().map(|size| size as u64)
    }
}

#[cfg(not(target_os = "linux"))]
impl Ways for PipeWays {
    const LEAST_LENT: usize = 16 << 10;

    fn write(
        &self,
        fd: BorrowedFd<'_>,
        slices: &[IoSlice<'_>],
        wait: bool,
    ) -> Result<usize, Errno> {
        match wait {
            true => without_sigpipe(|| rustix::io::writev(fd, slices)),
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
