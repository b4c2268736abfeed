//! Holes of files, on systems that have `SEEK_DATA` and `SEEK_HOLE`.

use std::fs::File;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Returns the position of the first data at or after `at`, or `None` if there is none.
///
/// # Errors
/// Returns an error if the file system cannot tell.
pub(in crate::image) fn data(file: &File, at: u64) -> Result<Option<u64>, ()> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(_) => Err(()),
    }
}

/// Returns the end of the data at `at`, or `None` if it is unknown.
pub(in crate::image) fn hole(file: &File, at: u64) -> Option<u64> {
    seek(file, SeekFrom::Hole(at)).ok()
}
