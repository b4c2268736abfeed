//! Opens a file again: leases and file positions belong to the open file description, which an image may share with
//! the caller.

use std::fs::File;
use std::io;

/// Opens the same file for reading, whatever its name is by now.
#[cfg(target_os = "linux")]
pub(super) fn reopen(file: &File) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};

    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(open(path_of(file), flags, Mode::empty())?.into())
}

/// Other systems have no path for it.
#[cfg(not(target_os = "linux"))]
pub(super) fn reopen(_: &File) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A path that leads to an open file, whatever its name is by now.
#[cfg(target_os = "linux")]
pub(super) fn path_of(file: &File) -> String {
    use std::os::fd::AsRawFd;

    format!("/proc/self/fd/{}", file.as_raw_fd())
}
