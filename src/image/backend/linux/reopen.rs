//! Opens a file again. Leases and file positions belong to the open file description, which an image may share with
//! the caller.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use rustix::fs::{Mode, OFlags, open};

/// Opens the same file for reading, whatever its current name is.
pub(in crate::image) fn reopen(file: &File) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(open(path_of(file), flags, Mode::empty())?.into())
}

/// Returns a path that leads to an open file, whatever its current name is.
pub(super) fn path_of(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}
