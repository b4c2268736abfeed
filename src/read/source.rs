//! The bytes of a dump that is opened or verified: a source, and its length.

use std::io;
use std::ops::Range;

use super::fault::{self, Fault};
use super::input::{self, Cursor, Slice, Window};
use super::read_at::ReadAt;
use crate::error::{Error, ErrorKind, Result};

/// A source whose length is known: what opening and verifying a dump works on.
#[derive(Clone, Copy)]
pub(super) struct Source<'s> {
    bytes: &'s (dyn ReadAt + 's),
    len: u64,
}

impl<'s> Source<'s> {
    /// # Errors
    /// Returns an error of [`ErrorKind::Input`] if the source does not say how long it is.
    pub(super) fn new(bytes: &'s (dyn ReadAt + 's)) -> Result<Self> {
        let len = match bytes.as_slice() {
            Some(bytes) => Ok(bytes.len() as u64),
            None => bytes.len(),
        };
        let failed =
            |error| Error::io(ErrorKind::Input, "cannot tell the length of the dump", error);
        Ok(Self { bytes, len: len.map_err(failed)? })
    }

    /// Returns a source of which it is known that it has `len` bytes.
    pub(super) fn with_len(bytes: &'s (dyn ReadAt + 's), len: u64) -> Self {
        Self { bytes, len }
    }

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// Returns an error if the source cannot be read.
    pub(super) fn read(self, offset: u64, buffer: &mut [u8]) -> fault::Result<()> {
        self.bytes.read_exact_at(buffer, offset).map_err(|error| Fault::io(offset, error))
    }

    /// Returns the length in bytes.
    pub(super) fn len(self) -> u64 {
        self.len
    }

    /// Returns what decodes the bytes from `offset` on.
    pub(super) fn input(self, offset: u64) -> Cursor<'s> {
        match self.bytes.as_slice() {
            Some(bytes) => Cursor::Slice(Slice::new(bytes, offset)),
            None => Cursor::Window(Window::new(self.bytes, self.len, offset)),
        }
    }

    /// Returns a range of the bytes: those of the source, if it lends them, or else those that are read into `buffer`.
    ///
    /// # Errors
    /// Returns an error if the range is past the end, if the source cannot be read, or if there is no memory for the
    /// buffer.
    pub(super) fn part<'b>(self, range: Range<u64>, buffer: &'b mut Vec<u8>) -> io::Result<&'b [u8]>
    where
        's: 'b,
    {
        if let Some(bytes) = self.bytes.as_slice() {
            return input::part(bytes, range).ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
        }
        let len = range.end.checked_sub(range.start).and_then(|len| usize::try_from(len).ok());
        let len = len.filter(|_| range.end <= self.len).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.clear();
        buffer.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        buffer.resize(len, 0);
        self.bytes.read_exact_at(buffer, range.start)?;
        Ok(buffer)
    }
}
