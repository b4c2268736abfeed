//! Reads image files, and distinguishes a file that was truncated in the meantime from an unreadable one.

use std::fs::File;

use crate::arithmetic::Checked;
use crate::error::{Error, ErrorKind, Result};

/// Fills `buffer` with the bytes of an image file starting at `at`.
///
/// # Errors
/// Returns an error if the file cannot be read, or ends before the buffer is full.
pub(super) fn read_file_at(file: &File, buffer: &mut [u8], at: u64) -> Result<()> {
    let read_error =
        |source| Error::io(ErrorKind::Image, format!("cannot read the image at {at:#x}"), source);
    let end = at.plus(buffer.len() as u64)?;
    let (mut remaining, mut next) = (buffer, at);
    while !remaining.is_empty() {
        match rustix::io::pread(file, &mut *remaining, next) {
            Ok(0) => {
                let now = file.metadata().map_or(next, |metadata| metadata.len());
                // The file may have its full length and still return no bytes.
                let end_of_file = || read_error(std::io::ErrorKind::UnexpectedEof.into());
                return Err(if now < end { truncated_error(now, end) } else { end_of_file() });
            }
            Ok(read) => {
                remaining = remaining.get_mut(read..).unwrap_or_default();
                next = next.plus(read as u64)?;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(read_error(errno.into())),
        }
    }
    Ok(())
}

/// Checks that the file still has at least `expected` bytes. Without this check, a truncated file looks as if it
/// ended in a hole.
///
/// # Errors
/// Returns an error if the file is shorter, or if its length cannot be read.
pub(super) fn check_len(file: &File, expected: u64) -> Result<()> {
    match file.metadata() {
        Ok(metadata) if metadata.len() >= expected => Ok(()),
        Ok(metadata) => Err(truncated_error(metadata.len(), expected)),
        Err(source) => {
            Err(Error::io(ErrorKind::Image, "cannot read the length of the image", source))
        }
    }
}

/// Returns the error for an image file that was truncated to `now` bytes while it was dumped, although `needed` bytes
/// are needed.
fn truncated_error(now: u64, needed: u64) -> Error {
    let unit = |bytes: u64| if bytes == 1 { "byte" } else { "bytes" };
    let message = format!(
        "the image file was truncated to {now} {} while it was dumped; {needed} {} are needed",
        unit(now),
        unit(needed)
    );
    Error::new(ErrorKind::Image, message)
}
