//! A socket as a sink. It gets large vectored writes, and is lent pages of image files that cannot change.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::SocketType;

use super::backend::socket::SocketTransport;
use super::descriptor::Descriptor;
use super::traits::Sink;
use crate::piece::Piece;

/// A sink for a connected stream socket, such as a `TcpStream` or a `UnixStream`.
///
/// The sink waits for a descriptor that does not block. If the peer goes away, the dump fails with
/// [`io::ErrorKind::BrokenPipe`] or [`io::ErrorKind::ConnectionReset`], without a SIGPIPE. The sink neither shuts the
/// socket down nor changes its options.
///
/// # Image files
/// On Linux, [`sendfile`](https://man7.org/linux/man-pages/man2/sendfile.2.html) lends the pages of mapped files that
/// cannot change ([`MemoryImage`](crate::MemoryImage#files-that-change)) to a Unix socket, without copying them. The
/// memory of a live guest is never lent. Nothing is lent to a TCP socket, where it gains nothing.
///
/// When the dump is done, the socket holds no lent page: the last bytes of the dump, twice the size of the socket's
/// buffer, are copied.
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

    /// Sets whether to lend pages of image files to the socket. This is the default.
    ///
    /// `sendfile` may block. So if the dump can be cancelled or has a time limit ([`Writer`](crate::Writer)), pages are
    /// lent only to a descriptor that does not block.
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
        // Other sockets may lose messages, and truncate or reject long ones.
        if rustix::net::sockopt::socket_type(self.0.fd())
            .is_ok_and(|kind| kind != SocketType::STREAM)
        {
            let message = "not a stream socket: other sockets lose or truncate messages";
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
