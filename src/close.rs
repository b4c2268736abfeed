//! Detects the errors that only `close` reports.
//!
//! NFS, CIFS, FUSE and quotas may accept every write and report only at `close` that the bytes did not arrive
//! ([close(2)](https://man7.org/linux/man-pages/man2/close.2.html)). Dropping a [`File`](std::fs::File) ignores that
//! error.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};

use rustix::io::Errno;

/// The maximum number of attempts if a signal interrupts `close`.
const MAX_ATTEMPTS: u32 = 100;

/// Checks that the file system stored the bytes that were written to `file`, which stays open.
///
/// It closes a duplicate of the descriptor. The kernel flushes the file at each `close`, not only at the last one. Call
/// it after the last write to a regular file. [`FileSink`](crate::FileSink), [`UnnamedFile`](crate::UnnamedFile) and
/// [`Plan::write_file`](crate::Plan::write_file) do so themselves.
///
/// # Errors
/// Returns an error if the file system could not store the bytes.
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
    for _ in 0..MAX_ATTEMPTS {
        let duplicate = match file.as_fd().try_clone_to_owned() {
            Ok(duplicate) => duplicate,
            // No descriptor is free, or a sandbox forbids the call. `fsync` reports the same errors, but takes longer.
            Err(_) => return Ok(rustix::fs::fsync(&file)?),
        };
        match close(duplicate) {
            Ok(()) => return Ok(()),
            // The duplicate is closed, but it is unknown whether the file was flushed.
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::INTR.into())
}

/// Closes a file. It is closed even if the call fails.
fn close(file: OwnedFd) -> Result<(), Errno> {
    // SAFETY: the descriptor is open and was owned by `file`, which has given it up, so nothing else closes it.
    let result = unsafe { libc::close(file.into_raw_fd()) };
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
