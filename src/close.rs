//! Errors of `close`.
//!
//! NFS, CIFS, FUSE and quotas may accept every write and report only at `close` that the bytes did not arrive
//! ([close(2)](https://man7.org/linux/man-pages/man2/close.2.html)). The drop of a [`File`](std::fs::File) ignores that error.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};

use rustix::io::Errno;

/// How often an interrupted `close` is repeated.
const TRIES: u32 = 100;

/// Returns the error that `close` has for what was written to `file`, which stays open.
///
/// It closes a duplicate of the descriptor: the kernel flushes the file at each `close`, not only at the last.
/// Call it after the last write, where bytes reach a regular file by other ways than
/// [`FileSink`](crate::FileSink), [`UnnamedFile`](crate::UnnamedFile) or
/// [`Plan::write_file`](crate::Plan::write_file), which do so themselves.
///
/// # Errors
/// Returns an error if the file system could not store what was written.
///
/// ```
/// use std::io::Write;
///
/// let mut file = tempfile::tempfile()?;
/// file.write_all(b"bytes")?;
/// corestream::check_close(&file)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn check_close(file: impl AsFd) -> io::Result<()> {
    for _ in 0..TRIES {
        let duplicate = match file.as_fd().try_clone_to_owned() {
            Ok(duplicate) => duplicate,
            // No descriptor is free, or a sandbox refuses the call: `fsync` takes longer and reports the same.
            Err(_) => return Ok(rustix::fs::fsync(&file)?),
        };
        match close(duplicate) {
            Ok(()) => return Ok(()),
            // The duplicate is gone, but whether the file was flushed is unknown.
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::INTR.into())
}

/// Closes a file. It is closed in any case, also after an error.
fn close(file: OwnedFd) -> Result<(), Errno> {
    // SAFETY: the descriptor is open and owned by `file`, which gives it up: nothing else closes it.
    let result = unsafe { libc::close(file.into_raw_fd()) };
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
