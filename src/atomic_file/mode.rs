//! The mode of a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::Mode;
use rustix::io::Errno;

/// Makes a file readable and writable for its owner only, whatever the umask and the default ACL of the folder are.
///
/// A file system without modes (vfat, many FUSE and CIFS mounts) refuses or ignores that. The dump is worth more than
/// its mode then: the mode that the mount has set stays.
pub(super) fn make_private(file: &File) -> io::Result<()> {
    const PRIVATE: u32 = 0o600;
    if file.metadata().is_ok_and(|metadata| metadata.mode() & 0o777 == PRIVATE) {
        return Ok(());
    }
    match rustix::io::retry_on_intr(|| rustix::fs::fchmod(file, Mode::RUSR | Mode::WUSR)) {
        Err(Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
        result => Ok(result?),
    }
}
