//! The backend for other POSIX systems.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::PollFlags;

/// The poll events that report the end of the peer's half.
pub const PEER_END: PollFlags = PollFlags::HUP;

/// Whether closing a Unix socket with unread bytes breaks the connection. This is unknown.
pub const KEEPS_LAST_BYTE: bool = false;

/// Connects to a Unix socket without a timeout.
///
/// # Errors
/// Returns the errors of `connect`.
pub fn connect_unix(path: &Path, _: Duration, _: Duration) -> io::Result<OwnedFd> {
    Ok(UnixStream::connect(path)?.into())
}

/// Returns `None`, because the number of unsent bytes is unknown.
pub fn unsent(_: BorrowedFd<'_>) -> Option<u64> {
    None
}

/// Whether [`unsent`] reports what the peer has read.
pub fn is_unix(_: BorrowedFd<'_>) -> bool {
    false
}

/// Does nothing, because the size of a pipe cannot be changed.
pub fn enlarge_pipe(_: &File, _: usize) {}

/// Returns `false`, because file systems are unknown.
pub fn mapping_allocates(_: &File) -> bool {
    false
}
