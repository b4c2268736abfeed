//! Extents of a file: what its file system calls a hole is zero.
//!
//! Source: [lseek(2)](https://man7.org/linux/man-pages/man2/lseek.2.html), "Seeking file data and
//! holes".

use std::fs::File;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};

/// Whether the file system can tell where the holes of `file` are.
pub(super) fn can_tell(file: &File, len: u64) -> bool {
    imp::next_data(file, 0, len).is_some()
}

/// The next extent of the first `len` bytes of `file` from `at` on; empty after the last.
///
/// # Errors
/// The file has become shorter than `len`.
pub(super) fn next(file: &File, at: u64, len: u64) -> Result<Range<u64>> {
    let found = imp::next_data(file, at, len).unwrap_or(at..len);
    if found.is_empty() {
        check_len(file, len)?;
    }
    Ok(found)
}

/// A file that was cut looks as if it ended in a hole.
pub(in crate::image) fn check_len(file: &File, expected: u64) -> Result<()> {
    match file.metadata() {
        Ok(metadata) if metadata.len() >= expected => Ok(()),
        Ok(metadata) => Err(shrunk(metadata.len(), expected)),
        Err(source) => {
            Err(Error::io(ErrorKind::Image, "cannot read the length of an image", source))
        }
    }
}

/// The error for an image file that was cut while it was dumped: how long it is, and must be.
pub(in crate::image) fn shrunk(now: u64, needed: u64) -> Error {
    let message =
        format!("the image file was cut to {now} bytes while it was dumped, {needed} are needed");
    Error::new(ErrorKind::Image, message)
}

#[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
mod imp {
    use std::fs::File;
    use std::ops::Range;

    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;

    /// The next range of data from `at` on, empty and at `len` if there is none; `None` where the
    /// file system can't tell.
    pub(super) fn next_data(file: &File, at: u64, len: u64) -> Option<Range<u64>> {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.max(at),
            Err(Errno::NXIO) => return Some(len..len),
            Err(_) => return None,
        };
        if start >= len {
            return Some(len..len);
        }
        match seek(file, SeekFrom::Hole(start)) {
            Ok(end) if end > start => Some(start..end.min(len)),
            // The file was cut between the two calls: let the reader find that out.
            _ => Some(start..len),
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "freebsd")))]
mod imp {
    use std::fs::File;
    use std::ops::Range;

    /// Other systems can't be asked.
    pub(super) fn next_data(_: &File, _: u64, _: u64) -> Option<Range<u64>> {
        None
    }
}
