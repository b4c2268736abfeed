//! Systems of which no more is known than what POSIX says.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::PollFlags;

/// What a socket is polled for whose peer is waited for to end.
pub const PEER_END: PollFlags = PollFlags::HUP;

/// Whether a Unix socket that is closed with a byte in it breaks the connection: not known.
pub const KEEPS_LAST_BYTE: bool = false;

/// Connects to a Unix socket; the time can't be limited.
///
/// # Errors
/// Returns the errors of `connect`.
pub fn connect_unix(path: &Path, _: Duration, _: Duration) -> io::Result<OwnedFd> {
    Ok(UnixStream::connect(path)?.into())
}

/// The number of bytes that are on the way is not known.
pub fn unsent(_: BorrowedFd<'_>) -> Option<u64> {
    None
}

/// Whether [`unsent`] knows what the peer has read.
pub fn is_unix(_: BorrowedFd<'_>) -> bool {
    false
}

/// The size of a pipe can't be changed.
pub fn enlarge_pipe(_: &File, _: usize) {}

/// Nothing is known of file systems here.
pub fn mapping_allocates(_: &File) -> bool {
    false
}
