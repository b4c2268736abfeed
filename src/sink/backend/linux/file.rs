//! Room for regular files.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// How often room is asked for. Some file systems begin anew after each signal, and with a signal every
/// few milliseconds, as from a profiler, never end.
const TRIES: u32 = 10;

/// Reserves `len` bytes of a file from `at` on.
///
/// Only a disk that has no room, or is broken, is an error. Whatever else is in the way, be it a file
/// system or a sandbox that has no such call, the writes are not concerned.
pub(in crate::sink) fn reserve(file: impl AsFd, at: u64, len: u64) -> io::Result<()> {
    for _ in 0..TRIES {
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
