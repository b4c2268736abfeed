//! Descriptors that this process inherited, addressed by number.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Duplicates the descriptor with this number. The duplicate shares position and flags with the original.
///
/// `F_DUPFD` works everywhere. `pidfd_getfd` would need no unsafe code, but seccomp profiles of containers deny it
/// because it can take descriptors from other processes. Opening `/proc/self/fd/N` yields a new file description at
/// position 0, and fails for sockets.
///
/// # Errors
/// Returns an error if no such descriptor is open.
pub fn duplicate(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: `F_DUPFD_CLOEXEC` accepts any number: it fails if the number is not open, and otherwise leaves the
    // original descriptor open, whichever part of this process owns it.
    let duplicate = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if duplicate < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just created this descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}
