//! The bytes of a dump that is opened or verified: a source, and its length.

use std::ops::Range;

use super::fault::{self, Fault};
use super::input::{self, Cursor, Slice, Window};
use super::read_at::ReadAt;
use crate::error::{Error, ErrorKind, Result, zeros};

/// A source whose length is known: what opening and verifying a dump works on.
#[derive(Clone, Copy)]
pub(super) struct Source<'s> {
    bytes: &'s (dyn ReadAt + 's),
    /// All bytes, if the source lends them.
    lent: Option<&'s [u8]>,
    len: u64,
}

impl<'s> Source<'s> {
    /// # Errors
    /// Returns an error of [`ErrorKind::Input`] if the source does not say how long it is.
    pub(super) fn new(bytes: &'s (dyn ReadAt + 's)) -> Result<Self> {
        let lent = bytes.as_slice();
        let len = lent.map_or_else(|| bytes.len(), |bytes| Ok(bytes.len() as u64));
        let failed =
            |error| Error::io(ErrorKind::Input, "cannot tell the length of the dump", error);
        Ok(Self { bytes, lent, len: len.map_err(failed)? })
    }

    /// Returns a source of which it is known that it has `len` bytes.
    pub(super) fn with_len(bytes: &'s (dyn ReadAt + 's), len: u64) -> Self {
        Self { bytes, lent: bytes.as_slice(), len }
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
        match self.lent {
            Some(bytes) => Cursor::Slice(Slice::new(bytes, offset)),
            None => Cursor::Window(Window::new(self.bytes, self.len, offset)),
        }
    }

    /// Returns a range of the bytes: those of the source, if it lends them, or else those that are read into `buffer`.
    ///
    /// # Errors
    /// Returns an error if the range is past the end, if the source cannot be read, or if memory for the buffer cannot be
    /// allocated.
    pub(super) fn part<'b>(
        self,
        range: Range<u64>,
        buffer: &'b mut Vec<u8>,
    ) -> fault::Result<&'b [u8]>
    where
        's: 'b,
    {
        let ended = || Fault::end(self.len, range.end);
        if let Some(bytes) = self.lent {
            return input::part(bytes, range.clone()).ok_or_else(ended);
        }
        let len = range.end.checked_sub(range.start).and_then(|len| usize::try_from(len).ok());
        let len = len.filter(|_| range.end <= self.len).ok_or_else(ended)?;
        if buffer.len() < len {
            *buffer = zeros(len, "a buffer to read a dump")?;
        }
        let part = buffer.get_mut(..len).ok_or_else(ended)?;
        self.read(range.start, part)?;
        Ok(part)
    }
}
