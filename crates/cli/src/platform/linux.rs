//! Linux.

mod unsent;

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_domain};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

pub use self::unsent::unsent;

/// What a socket is polled for whose peer is waited for to end.
pub const PEER_END: PollFlags = PollFlags::RDHUP;

/// Whether a Unix socket that is closed with a byte in it breaks the connection.
pub const KEEPS_LAST_BYTE: bool = true;

/// Connects to a Unix socket, whose queue may be full, within `timeout`. The kernel can't count more than `longest`.
///
/// # Errors
/// Returns the errors of `connect`, and [`io::ErrorKind::TimedOut`].
pub fn connect_unix(path: &Path, timeout: Duration, longest: Duration) -> io::Result<OwnedFd> {
    let start = Instant::now();
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    loop {
        // A connect waits as long as this, see unix(7); one that does not block would not wait at all.
        let left = timeout.saturating_sub(start.elapsed()).min(longest);
        let left = left.max(Duration::from_millis(1));
        set_socket_timeout(&socket, Timeout::Send, Some(left))?;
        match connect(&socket, &address) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if start.elapsed() < timeout => {}
            Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
    // The writes have their own way to wait.
    set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(socket)
}

/// Whether [`unsent`] knows what the peer has read, and an early end can be told without waiting for it.
pub fn is_unix(socket: BorrowedFd<'_>) -> bool {
    socket_domain(socket) == Ok(AddressFamily::UNIX)
}

/// Makes a pipe hold `bytes`, if the system lets it. One that stays as it was is only slower.
pub fn enlarge_pipe(pipe: &File, bytes: usize) {
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, bytes);
}
