//! Restricts access to the owner, whatever the umask and the default ACL of the directory.
//!
//! A file system without modes (vfat, many FUSE and CIFS mounts) rejects or ignores that. The content is worth more
//! than its mode, so the file then keeps the mode that the mount sets.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::Mode;
use rustix::io::{Errno, retry_on_intr};

use super::directory::Directory;

/// Makes a file readable and writable only for its owner, if its file system has modes.
pub(super) fn make_private(file: &File) -> io::Result<()> {
    const PRIVATE: u32 = 0o600;
    if file.metadata().is_ok_and(|metadata| metadata.mode() & 0o777 == PRIVATE) {
        return Ok(());
    }
    ignore_unsupported(retry_on_intr(|| rustix::fs::fchmod(file, Mode::RUSR | Mode::WUSR)))
}

/// Makes a new directory in `parent` accessible only for its owner, if its file system has modes.
pub(super) fn make_directory_private(parent: &Directory, name: &OsStr) -> io::Result<()> {
    ignore_unsupported(parent.change_mode(name, Mode::RWXU))
}

/// Ignores the errors of file systems without modes.
fn ignore_unsupported(changed: Result<(), Errno>) -> io::Result<()> {
    match changed {
        Err(Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
        result => Ok(result?),
    }
}
