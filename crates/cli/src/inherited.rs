//! Descriptors that the process that started this one left open, by their number.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Duplicates the descriptor with this number: position and flags are shared with the original.
///
/// `F_DUPFD` is allowed everywhere. `pidfd_getfd`, which needs no unsafe code, is a way to take descriptors from other
/// processes, so the seccomp profiles of containers refuse it. `/proc/self/fd/N` opens a file anew, at position 0, and
/// no socket.
///
/// # Errors
/// Returns an error if no such descriptor is open.
pub fn duplicate(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call only looks the number up: a number that is not open is an error, and one that another part of
    // this process owns stays open and is not closed by it.
    let duplicate = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if duplicate < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}
