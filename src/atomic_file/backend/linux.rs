//! Linux: unnamed files, handles without access to the content, and renames that never overwrite.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, StatxAttributes, StatxFlags, linkat, openat, renameat_with,
    statx, syncfs,
};
use rustix::io::{Errno, retry_on_intr};

/// The flags to open a directory, which do not require permission to read it.
pub(in crate::atomic_file) const DIRECTORY_ACCESS: OFlags = OFlags::PATH;

/// Returns whether names can be added to the directory at `path`, relative to `fd`, but neither removed nor changed
/// (`chattr +a`).
pub(in crate::atomic_file) fn is_append_only(fd: impl AsFd, path: &Path) -> bool {
    let known = statx(fd, path, AtFlags::EMPTY_PATH, StatxFlags::TYPE);
    known.is_ok_and(|statx| statx.stx_attributes.contains(StatxAttributes::APPEND))
}

/// Creates a file without a name, if the file system supports it.
pub(in crate::atomic_file) fn create_unnamed(directory: BorrowedFd<'_>) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Some(openat(directory, ".", flags, Mode::RUSR | Mode::WUSR).ok()?.into())
}

/// Gives an unnamed file a name, by its descriptor.
///
/// # Errors
/// Returns the errors of `linkat`.
pub(in crate::atomic_file) fn link_by_descriptor(
    file: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    name: &OsStr,
) -> Result<(), Errno> {
    retry_on_intr(|| linkat(file, "", directory, name, AtFlags::EMPTY_PATH))
}

/// Renames a file unless the new name exists.
///
/// # Errors
/// Returns the errors of `renameat2`.
pub(in crate::atomic_file) fn rename_to_new(
    from: BorrowedFd<'_>,
    name: &OsStr,
    to: BorrowedFd<'_>,
    new: &OsStr,
) -> Result<(), Errno> {
    retry_on_intr(|| renameat_with(from, name, to, new, RenameFlags::NOREPLACE))
}

/// Opens a handle of a file that can neither read nor write it.
pub(in crate::atomic_file) fn hold(directory: BorrowedFd<'_>, name: &OsStr) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry_on_intr(|| openat(directory, name, flags, Mode::empty())).ok()
}

/// Syncs the file system of `file` to disk.
///
/// # Errors
/// Returns the errors of `syncfs`.
pub(in crate::atomic_file) fn sync_file_system(file: &File) -> io::Result<()> {
    Ok(syncfs(file)?)
}
