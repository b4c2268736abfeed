//! Access for the owner only, whatever the umask and the default ACL of the directory are.
//!
//! A file system without modes (vfat, many FUSE and CIFS mounts) refuses or ignores that. What is written is worth more
//! than its mode then: the mode that the mount has set stays.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::Mode;
use rustix::io::{Errno, retry_on_intr};

use super::directory::Directory;

/// Makes a file readable and writable for its owner only, if its file system has modes.
pub(super) fn make_private(file: &File) -> io::Result<()> {
    const PRIVATE: u32 = 0o600;
    if file.metadata().is_ok_and(|metadata| metadata.mode() & 0o777 == PRIVATE) {
        return Ok(());
    }
    if_it_has_modes(retry_on_intr(|| rustix::fs::fchmod(file, Mode::RUSR | Mode::WUSR)))
}

/// Makes a new directory in `parent` accessible for its owner only, if its file system has modes.
pub(super) fn make_directory_private(parent: &Directory, name: &OsStr) -> io::Result<()> {
    if_it_has_modes(parent.change_mode(name, Mode::RWXU))
}

fn if_it_has_modes(changed: Result<(), Errno>) -> io::Result<()> {
    match changed {
        Err(Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
        result => Ok(result?),
    }
}
