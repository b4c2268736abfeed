//! Holes of files, on the systems that have `SEEK_DATA` and `SEEK_HOLE`.

use std::fs::File;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Returns where data begins from `at` on; `None` if there is no more.
///
/// # Errors
/// Returns an error if the file system can't tell.
pub(in crate::image) fn data(file: &File, at: u64) -> Result<Option<u64>, ()> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(_) => Err(()),
    }
}

/// Returns where the data at `at` ends; `None` if that is not known.
pub(in crate::image) fn hole(file: &File, at: u64) -> Option<u64> {
    seek(file, SeekFrom::Hole(at)).ok()
}
