//! The backend for Linux.

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

/// The poll events that report the end of the peer's half.
pub const PEER_END: PollFlags = PollFlags::RDHUP;

/// Whether closing a Unix socket with unread bytes breaks the connection.
pub const KEEPS_LAST_BYTE: bool = true;

/// Connects to a Unix socket within `timeout`. Its queue may be full. The kernel cannot represent more than `longest`.
///
/// # Errors
/// Returns the errors of `connect`, and [`io::ErrorKind::TimedOut`].
pub fn connect_unix(path: &Path, timeout: Duration, longest: Duration) -> io::Result<OwnedFd> {
    let start = Instant::now();
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    loop {
        // `connect` uses this timeout, see unix(7). A non-blocking `connect` would not wait at all.
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
    // Resets the timeout: the writer waits with `poll`.
    set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(socket)
}

/// Whether [`unsent`] reports what the peer has read, so that an early end is recognized without waiting.
pub fn is_unix(socket: BorrowedFd<'_>) -> bool {
    socket_domain(socket) == Ok(AddressFamily::UNIX)
}

/// Enlarges a pipe to `bytes`, if the system permits it. A smaller pipe is only slower.
pub fn enlarge_pipe(pipe: &File, bytes: usize) {
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, bytes);
}

/// Returns whether reading a hole of `file` through a mapping allocates memory, as in tmpfs and hugetlbfs. `read`
/// allocates none.
pub fn mapping_allocates(file: &File) -> bool {
    /// The magic numbers of these file systems
    /// ([statfs(2)](https://man7.org/linux/man-pages/man2/statfs.2.html)).
    const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x9584_58f6];

    // The type of the field differs between architectures. Magic numbers have 32 bits.
    let magic = |statfs: rustix::fs::StatFs| u32::try_from(i128::from(statfs.f_type) & 0xffff_ffff);
    let magic = rustix::fs::fstatfs(file).ok().and_then(|statfs| magic(statfs).ok());
    magic.is_some_and(|magic| IN_MEMORY.contains(&magic))
}
