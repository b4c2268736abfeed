//! Reads image files, and tells one that was cut meanwhile from one that can't be read.

use std::fs::File;

use crate::arithmetic::Checked;
use crate::error::{Error, ErrorKind, Result};

/// Fills `buffer` from an image file at `at`.
///
/// # Errors
/// The file can't be read, or ends before the buffer is full.
pub(super) fn read_file_at(file: &File, buffer: &mut [u8], at: u64) -> Result<()> {
    let fail =
        |source| Error::io(ErrorKind::Image, format!("cannot read an image at {at:#x}"), source);
    let end = at.plus(buffer.len() as u64)?;
    let (mut left, mut next) = (buffer, at);
    while !left.is_empty() {
        match rustix::io::pread(file, &mut *left, next) {
            Ok(0) => {
                let now = file.metadata().map_or(next, |metadata| metadata.len());
                // A file may be as long as it was, and still give no more.
                let end_of_file = || fail(std::io::ErrorKind::UnexpectedEof.into());
                return Err(if now < end { shrunk(now, end) } else { end_of_file() });
            }
            Ok(read) => {
                left = left.get_mut(read..).unwrap_or_default();
                next = next.plus(read as u64)?;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(fail(errno.into())),
        }
    }
    Ok(())
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
fn shrunk(now: u64, needed: u64) -> Error {
    let message =
        format!("the image file was cut to {now} bytes while it was dumped, {needed} are needed");
    Error::new(ErrorKind::Image, message)
}
