//! A pipe as a sink. It is enlarged, and lent the pages of image files that cannot change.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::backend::pipe::{PipeTransport, enlarge};
use super::descriptor::Descriptor;
use super::traits::Sink;
use crate::piece::Piece;

/// A sink for a pipe or FIFO, or for any other descriptor that is written in order and may have to be waited for, such
/// as a terminal.
///
/// The sink enlarges the pipe to 1 MiB if the system permits. It waits for a descriptor that does not block. If the
/// reader goes away, the dump fails with [`io::ErrorKind::BrokenPipe`], without a SIGPIPE.
///
/// # Image files
/// On Linux, [`splice`](https://man7.org/linux/man-pages/man2/splice.2.html) lends the pages of mapped files that
/// cannot change ([`MemoryImage`](crate::MemoryImage#files-that-change)) to the pipe, without copying them. The memory
/// of a live guest is never lent.
///
/// When the dump is done, the pipe holds no lent page: the last bytes of the dump, as many as fit into the pipe, are
/// copied. A reader that enlarges the pipe during the dump, or that forwards the pages with `splice` or `tee`, holds
/// lent pages for longer.
///
/// ```
/// use corestream::{CoreDump, Dumper, PipeSink};
///
/// let (mut reader, writer) = std::io::pipe().unwrap();
/// let dump = CoreDump::new("guest.wasm");
/// let plan = Dumper::new().plan(&dump)?;
/// plan.write_to(&mut PipeSink::new(&writer))?;
/// drop(writer);
///
/// let mut bytes = Vec::new();
/// std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
/// assert_eq!(bytes.len() as u64, plan.len());
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct PipeSink<F>(Descriptor<F, PipeTransport>);

impl<F: AsFd> PipeSink<F> {
    /// Returns a sink that writes to `pipe`, which it owns or borrows.
    pub fn new(pipe: F) -> Self {
        Self(Descriptor::new(pipe, PipeTransport))
    }

    /// Sets whether to lend pages of image files to the pipe. This is the default.
    ///
    /// ```
    /// use corestream::PipeSink;
    ///
    /// let (reader, writer) = std::io::pipe()?;
    /// let sink = PipeSink::new(writer).lend(false); // every byte is copied
    /// # drop(sink);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn lend(mut self, lend: bool) -> Self {
        self.0.set_lend(lend);
        self
    }
}

impl<F: AsFd> Sink for PipeSink<F> {
    fn begin(&mut self, len: u64, may_block: bool) -> io::Result<()> {
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
