//! Extents: the ranges of an image that may hold data, found without reading it.
//!
//! Source for files: [lseek(2)](https://man7.org/linux/man-pages/man2/lseek.2.html), "Seeking file
//! data and holes". When in doubt, it is data.

use std::fmt;
use std::fs::File;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};

/// How the extents of an image were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtentMethod {
    /// Nothing was asked: the whole image is one extent.
    Whole,
    /// `SEEK_DATA` and `SEEK_HOLE` on the file of the image.
    Seek,
}

impl fmt::Display for ExtentMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "whole",
            Self::Seek => "seek",
        })
    }
}

/// The extents of one image, in the order of their addresses; made as they are asked for, so that
/// any number of them needs no memory.
pub(crate) struct Extents<'i> {
    file: Option<&'i File>,
    at: u64,
    len: u64,
}

impl<'i> Extents<'i> {
    /// One extent of `len` bytes.
    pub(super) fn whole(len: u64) -> Self {
        Self { file: None, at: 0, len }
    }

    /// What is not a hole in the first `len` bytes of `file`.
    pub(super) fn of_file(file: &'i File, len: u64) -> Self {
        let file = imp::next_data(file, 0, len).is_some().then_some(file);
        Self { file, at: 0, len }
    }

    /// How they are found.
    pub(crate) fn method(&self) -> ExtentMethod {
        if self.file.is_some() { ExtentMethod::Seek } else { ExtentMethod::Whole }
    }

    /// The next extent in bytes, not empty; `None` after the last.
    ///
    /// # Errors
    /// The file has become shorter than it was when the image was opened.
    pub(crate) fn next(&mut self) -> Result<Option<Range<u64>>> {
        if self.at >= self.len {
            return Ok(None);
        }
        let extent = match self.file {
            Some(file) => {
                let found = imp::next_data(file, self.at, self.len).unwrap_or(self.at..self.len);
                if found.is_empty() {
                    check_len(file, self.len)?;
                }
                found
            }
            None => self.at..self.len,
        };
        self.at = extent.end;
        Ok((!extent.is_empty()).then_some(extent))
    }
}

/// A file that was cut looks as if it ended in a hole.
pub(super) fn check_len(file: &File, expected: u64) -> Result<()> {
    match file.metadata() {
        Ok(metadata) if metadata.len() >= expected => Ok(()),
        Ok(metadata) => Err(shrunk(metadata.len(), expected)),
        Err(source) => {
            Err(Error::io(ErrorKind::Image, "cannot read the length of an image", source))
        }
    }
}

/// The error for an image file that was cut while it was dumped: how long it is, and must be.
pub(super) fn shrunk(now: u64, needed: u64) -> Error {
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
