//! A source together with its length, as the opener and the verifier use it.

use std::ops::Range;

use super::fault::{self, Fault};
use super::input::{self, Cursor, Slice, Window};
use super::read_at::ReadAt;
use crate::error::{Error, ErrorKind, Result, zeros};

/// A source whose length is known.
#[derive(Clone, Copy)]
pub(super) struct Source<'s> {
    bytes: &'s (dyn ReadAt + 's),
    /// All bytes of the source, if it lends them.
    lent: Option<&'s [u8]>,
    len: u64,
}

impl<'s> Source<'s> {
    /// Asks the source for its bytes and its length.
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Input`] if the source cannot determine its length.
    pub(super) fn new(bytes: &'s (dyn ReadAt + 's)) -> Result<Self> {
        let lent = bytes.as_slice();
        let len = lent.map_or_else(|| bytes.len(), |bytes| Ok(bytes.len() as u64));
        let failed =
            |error| Error::io(ErrorKind::Input, "cannot determine the length of the dump", error);
        Ok(Self { bytes, lent, len: len.map_err(failed)? })
    }

    /// Returns a source that is known to have `len` bytes.
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

    /// Returns an input that begins at `offset`.
    pub(super) fn input(self, offset: u64) -> Cursor<'s> {
        match self.lent {
            Some(bytes) => Cursor::Slice(Slice::new(bytes, offset)),
            None => Cursor::Window(Window::new(self.bytes, self.len, offset)),
        }
    }

    /// Returns the bytes in `range`. They are borrowed from the source if it lends its bytes. Otherwise they are read
    /// into `buffer`, which grows as needed.
    ///
    /// # Errors
    /// Returns an error if the range reaches past the end, if the source cannot be read, or if memory for the buffer
    /// cannot be allocated.
    pub(super) fn part<'b>(
        self,
        range: Range<u64>,
        buffer: &'b mut Vec<u8>,
    ) -> fault::Result<&'b [u8]>
    where
        's: 'b,
    {
        let past_end = || Fault::unexpected_end(self.len, range.end);
        if let Some(bytes) = self.lent {
            return input::subslice(bytes, range.clone()).ok_or_else(past_end);
        }
        let len = range.end.checked_sub(range.start).and_then(|len| usize::try_from(len).ok());
        let len = len.filter(|_| range.end <= self.len).ok_or_else(past_end)?;
        if buffer.len() < len {
            *buffer = zeros(len, "a buffer to read a dump")?;
        }
        let part = buffer.get_mut(..len).ok_or_else(past_end)?;
        self.read(range.start, part)?;
        Ok(part)
    }
}
