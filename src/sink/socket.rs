//! A socket as a sink: large vectored writes, and lent pages of image files that cannot change.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, SocketType, sendmsg};

use super::Sink;
use super::descriptor::{Descriptor, Ways};
#[cfg(not(target_os = "linux"))]
use crate::held_signal::without_sigpipe;
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
/// use corestream::{CoreDump, Dumper, Socket};
///
/// let (mut peer, socket) = UnixStream::pair().unwrap();
/// let dump = CoreDump::new("guest.wasm");
/// let plan = Dumper::new().plan(&dump)?;
/// plan.write_to(&mut Socket::new(&socket))?;
/// drop(socket);
///
/// let mut bytes = Vec::new();
/// std::io::Read::read_to_end(&mut peer, &mut bytes).unwrap();
/// assert_eq!(bytes.len() as u64, plan.len());
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Socket<F>(Descriptor<F, SocketWays>);

impl<F: AsFd> Socket<F> {
    /// A sink that writes to `socket`, which it owns or borrows.
    pub fn new(socket: F) -> Self {
        Self(Descriptor::new(socket, SocketWays))
    }

    /// Whether pages of image files are lent to the socket, as they are by default. The call that does so
    /// can't be kept from blocking: if the dump can be stopped or has a time limit
    /// ([`Writer`](crate::Writer)), they are lent only to a descriptor that does not block.
    pub fn lend(mut self, lend: bool) -> Self {
        self.0.set_lend(lend);
        self
    }
}

impl<F: AsFd> Sink for Socket<F> {
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

/// `sendmsg` and `sendfile`.
#[derive(Debug)]
struct SocketWays;

impl Ways for SocketWays {
    const LEAST_LENT: usize = 64 << 10;

    fn write(
        &self,
        fd: BorrowedFd<'_>,
        slices: &[IoSlice<'_>],
        wait: bool,
    ) -> Result<usize, Errno> {
        let flags = if wait { SendFlags::empty() } else { SendFlags::DONTWAIT };
        let send = |flags| sendmsg(fd, slices, &mut SendAncillaryBuffer::default(), flags);
        #[cfg(target_os = "linux")]
        return send(flags | SendFlags::NOSIGNAL);
        #[cfg(not(target_os = "linux"))]
        without_sigpipe(|| send(flags))
    }

    #[cfg(target_os = "linux")]
    fn lend(
        &self,
        fd: BorrowedFd<'_>,
        file: &File,
        mut at: u64,
        len: usize,
        wait: bool,
    ) -> Result<usize, Errno> {
        use rustix::fs::{OFlags, fcntl_getfl, sendfile};

        // There is no flag for this call alone.
        if !wait && !fcntl_getfl(fd)?.contains(OFlags::NONBLOCK) {
            return Err(Errno::OPNOTSUPP);
        }
        sendfile(fd, file, Some(&mut at), len)
    }

    #[cfg(not(target_os = "linux"))]
    fn lend(&self, _: BorrowedFd<'_>, _: &File, _: u64, _: usize, _: bool) -> Result<usize, Errno> {
        Err(Errno::OPNOTSUPP)
    }

    #[cfg(target_os = "linux")]
    fn capacity(&self, fd: BorrowedFd<'_>) -> Option<u64> {
        use rustix::net::AddressFamily;
        use rustix::net::sockopt::{socket_domain, socket_send_buffer_size};

        if socket_domain(fd) != Ok(AddressFamily::UNIX) {
            return None;
        }
        // One buffer more goes in when the socket is not yet full.
        (socket_send_buffer_size(fd).ok()? as u64).checked_mul(2)
    }

    #[cfg(not(target_os = "linux"))]
    fn capacity(&self, _: BorrowedFd<'_>) -> Option<u64> {
        None
    }
}
