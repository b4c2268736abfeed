//! A socket as a sink: large vectored writes, and lent pages of image files that cannot change.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, SocketType, sendmsg};

use super::Sink;
use super::descriptor::{Descriptor, Ways};
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
pub struct Socket<'f>(Descriptor<'f, SocketWays>);

impl<'f> Socket<'f> {
    /// A sink that writes to `socket`.
    pub fn new(socket: &'f (impl AsFd + ?Sized)) -> Self {
        Self(Descriptor::new(socket.as_fd(), SocketWays))
    }

    /// How long to wait for a peer that takes nothing; then the dump fails with
    /// [`io::ErrorKind::TimedOut`]. `None`, the default, is for ever, whatever the socket's own options
    /// say.
    ///
    /// ```
    /// use std::io::ErrorKind::TimedOut;
    /// use std::os::unix::net::UnixStream;
    /// use std::time::Duration;
    ///
    /// use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType, Socket};
    ///
    /// let bytes = vec![1; 32 * 65_536];
    /// let mut dump = CoreDump::new("guest.wasm");
    /// dump.add_memory(Memory::new(MemoryType::wasm32(32), MemoryImage::from_slice(&bytes)));
    /// let (_peer, socket) = UnixStream::pair().unwrap();
    /// let mut socket = Socket::new(&socket).write_timeout(Some(Duration::from_millis(10)));
    /// let error = Dumper::new().plan(&dump)?.write_to(&mut socket).unwrap_err();
    /// assert_eq!(error.io_error().unwrap().kind(), TimedOut);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn write_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.0.set_timeout(timeout);
        self
    }

    /// Whether pages of image files are lent to the socket, as they are by default. The call that does so
    /// can't be kept from blocking: with a timeout, or a flag that stops the dump
    /// ([`Dumper::cancel`](crate::Dumper::cancel)), they are lent only to a descriptor that does not block.
    pub fn lend(mut self, lend: bool) -> Self {
        self.0.set_lend(lend);
        self
    }
}

impl Sink for Socket<'_> {
    fn cancel(&mut self, flag: Option<&Arc<AtomicBool>>) {
        self.0.set_cancel(flag.cloned());
    }

    fn begin(&mut self, len: u64) -> io::Result<()> {
        // Messages of another socket may be lost, and one that does not fit is cut or refused.
        if rustix::net::sockopt::socket_type(self.0.fd())
            .is_ok_and(|kind| kind != SocketType::STREAM)
        {
            let message = "a dump is a stream, and this is not a stream socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.0.begin(len);
        Ok(())
    }

    fn put(&mut self, pieces: &[Piece<'_>], written: &mut u64) -> io::Result<()> {
        self.0.put(pieces, written)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
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
        sendmsg(fd, slices, &mut SendAncillaryBuffer::default(), flags)
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
        socket_send_buffer_size(fd).ok().map(|size| (size as u64).saturating_mul(2))
    }

    #[cfg(not(target_os = "linux"))]
    fn capacity(&self, _: BorrowedFd<'_>) -> Option<u64> {
        None
    }
}
