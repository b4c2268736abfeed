//! Extents of a file: what its file system calls a hole is zero.
//!
//! Source: [lseek(2)](https://man7.org/linux/man-pages/man2/lseek.2.html), "Seeking file data and
//! holes".

use std::fs::File;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};

/// How far an extent of a file reaches before the holes in it have been asked for, in bytes.
///
/// Each question takes as long as reading a page, so they are asked by all threads: one thread at a
/// time finds where data begins, and whoever scans such a part of the file finds the holes in it.
const PART: u64 = 2 << 20;

/// Whether the file system can tell where the holes of `file` are.
pub(super) fn can_tell(file: &File, len: u64) -> bool {
    imp::data(file, 0, len).is_some()
}

/// The next part of the first `len` bytes of `file` from `at` on that begins with data and may have
/// [`Holes`]; empty after the last.
///
/// # Errors
/// The file has become shorter than `len`.
pub(super) fn next(file: &File, at: u64, len: u64) -> Result<Range<u64>> {
    let start = imp::data(file, at, len).unwrap_or(at);
    if start >= len {
        check_len(file, len)?;
    }
    Ok(start..len.min(start.saturating_add(PART)))
}

/// Finds the holes in a part of an image, if it is of a file that has some.
#[derive(Default)]
pub(crate) struct Holes<'i> {
    pub(super) file: Option<&'i File>,
}

impl Holes<'_> {
    /// Whether the kernel is asked: where it is not, there are none.
    pub(crate) fn are_asked_for(&self) -> bool {
        self.file.is_some()
    }

    /// Takes the next extent without holes from the front of `part`; `None` if there is none.
    pub(crate) fn next_extent(&self, part: &mut Range<u64>) -> Option<Range<u64>> {
        let Range { start, end } = *part;
        let extent = match self.file {
            Some(file) => {
                let start = imp::data(file, start, end).unwrap_or(start);
                start..imp::hole(file, start, end)
            }
            None => start..end,
        };
        part.start = extent.end;
        (!extent.is_empty()).then_some(extent)
    }
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

    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;

    /// Where data begins from `at` on, `end` if it does not before; `None` where the file system can't
    /// tell.
    pub(super) fn data(file: &File, at: u64, end: u64) -> Option<u64> {
        match seek(file, SeekFrom::Data(at)) {
            Ok(start) => Some(start.clamp(at, end.max(at))),
            Err(Errno::NXIO) => Some(end),
            Err(_) => None,
        }
    }

    /// Where the data at `at` ends, `end` if it goes on to there.
    pub(super) fn hole(file: &File, at: u64, end: u64) -> u64 {
        match seek(file, SeekFrom::Hole(at)) {
            Ok(hole) if hole > at => hole.min(end),
            // The file was cut between the two calls: let the reader find that out.
            _ => end,
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "freebsd")))]
mod imp {
    use std::fs::File;

    /// Other systems can't be asked.
    pub(super) fn data(_: &File, _: u64, _: u64) -> Option<u64> {
        None
    }

    pub(super) fn hole(_: &File, _: u64, end: u64) -> u64 {
        end
    }
}
