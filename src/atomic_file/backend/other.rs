//! Systems of which nothing is known but POSIX.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// How a directory is opened.
pub(in crate::atomic_file) const ACCESS: OFlags = OFlags::RDONLY;

/// Returns false.
pub(in crate::atomic_file) fn is_append_only(_: impl AsFd, _: &Path) -> bool {
    false
}

/// Returns `None`: every file has a name.
pub(in crate::atomic_file) fn create_unnamed(_: BorrowedFd<'_>) -> Option<File> {
    None
}

/// Returns an error.
pub(in crate::atomic_file) fn link_by_descriptor(
    _: BorrowedFd<'_>,
    _: BorrowedFd<'_>,
    _: &OsStr,
) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// Returns an error: a rename may overwrite a file.
pub(in crate::atomic_file) fn rename_to_new(
    _: BorrowedFd<'_>,
    _: &OsStr,
    _: BorrowedFd<'_>,
    _: &OsStr,
) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// Returns `None`: every handle is one to read or write by.
pub(in crate::atomic_file) fn hold(_: BorrowedFd<'_>, _: &OsStr) -> Option<OwnedFd> {
    None
}

/// Returns an error.
pub(in crate::atomic_file) fn sync_file_system(_: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
