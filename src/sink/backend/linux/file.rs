//! Preallocates regular files.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// The maximum number of attempts. Some file systems start over after each signal. With a signal every few
/// milliseconds, as from a profiler, they would never finish.
const MAX_ATTEMPTS: u32 = 10;

/// Reserves `len` bytes of a file from `at` on.
///
/// # Errors
/// Returns an error only if the disk is full or broken, or if the file would exceed a limit. Other errors, such as
/// those of a file system or a sandbox without this call, do not affect the writes.
pub(in crate::sink) fn reserve(file: impl AsFd, at: u64, len: u64) -> io::Result<()> {
    for _ in 0..MAX_ATTEMPTS {
        match fallocate(&file, FallocateFlags::KEEP_SIZE, at, len) {
            Err(Errno::INTR) => {}
            Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::IO)) => {
                return Err(errno.into());
            }
            Ok(()) | Err(_) => return Ok(()),
        }
    }
    Ok(())
}
