//! A socket as a sink: large vectored writes, and lent pages of image files that cannot change.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::SocketType;

use super::backend::socket::SocketTransport;
use super::descriptor::Descriptor;
use super::traits::Sink;
use crate::piece::Piece;

/// Writes to a connected stream socket, such as a `TcpStream` or a `UnixStream`.
///
/// A descriptor that does not block is waited for, and a peer that goes away is
/// [`io::ErrorKind::BrokenPipe`] or [`io::ErrorKind::ConnectionReset`] and never a SIGPIPE. The socket
/// is neither shut down nor are its options changed.
///
/// # Image files
/// On Linux, the pages of mapped files that cannot change
/// ([`MemoryImage`](crate::MemoryImage#files-that-change)) are lent to a Unix socket by
/// [`sendfile`](https://man7.org/linux/man-pages/man2/sendfile.2.html) and not copied. The memory of a live
/// guest is never lent, and to TCP, where it gains nothing, no file is. When the dump is done, the socket
/// holds no lent page any more: the last bytes of the dump, twice as many as its buffer has, are copied.
///
/// ```
/// use std::os::unix::net::UnixStream;
///
/// use corestream::{CoreDump, Dumper, SocketSink};
///
/// let (mut peer, socket) = UnixStream::pair().unwrap();
/// let dump = CoreDump::new("guest.wasm");
/// let plan = Dumper::new().plan(&dump)?;
/// plan.write_to(&mut SocketSink::new(&socket))?;
/// drop(socket);
///
/// let mut bytes = Vec::new();
/// std::io::Read::read_to_end(&mut peer, &mut bytes).unwrap();
/// assert_eq!(bytes.len() as u64, plan.len());
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct SocketSink<F>(Descriptor<F, SocketTransport>);

impl<F: AsFd> SocketSink<F> {
    /// Returns a sink that writes to `socket`, which it owns or borrows.
    pub fn new(socket: F) -> Self {
        Self(Descriptor::new(socket, SocketTransport))
    }

    /// Sets whether pages of image files are lent to the socket, as they are by default. The call that does so
    /// can't be kept from blocking: if the dump can be stopped or has a time limit
    /// ([`Writer`](crate::Writer)), they are lent only to a descriptor that does not block.
    ///
    /// ```
    /// use corestream::SocketSink;
    ///
    /// let (peer, writer) = std::os::unix::net::UnixStream::pair()?;
    /// let sink = SocketSink::new(writer).lend(false); // every byte is copied
    /// # drop(sink);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn lend(mut self, lend: bool) -> Self {
        self.0.set_lend(lend);
        self
    }
}

impl<F: AsFd> Sink for SocketSink<F> {
    fn begin(&mut self, len: u64, may_block: bool) -> io::Result<()> {
        // Messages of another socket may be lost, and one that does not fit is cut or refused.
        if rustix::net::sockopt::socket_type(self.0.fd())
            .is_ok_and(|kind| kind != SocketType::STREAM)
        {
            let message = "a dump is a stream, and this is not a stream socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
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
