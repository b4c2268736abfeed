//! POSIX, for systems without specific support.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// The flags to open a directory.
pub(in crate::atomic_file) const DIRECTORY_ACCESS: OFlags = OFlags::RDONLY;

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

/// Returns an error: a POSIX rename may overwrite a file.
pub(in crate::atomic_file) fn rename_to_new(
    _: BorrowedFd<'_>,
    _: &OsStr,
    _: BorrowedFd<'_>,
    _: &OsStr,
) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// Returns `None`: every POSIX handle can read or write.
pub(in crate::atomic_file) fn hold(_: BorrowedFd<'_>, _: &OsStr) -> Option<OwnedFd> {
    None
}

/// Returns an error.
pub(in crate::atomic_file) fn sync_file_system(_: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
