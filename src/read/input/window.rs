//! An input that reads a source through a window.

use std::ops::{Range, RangeInclusive};

use crc32fast::Hasher;

use super::Input;
use super::barrier::Barrier;
use crate::arithmetic::{Checked, at_most};
use crate::error::Error;
use crate::read::fault::{Fault, Result};
use crate::read::index;
use crate::read::read_at::ReadAt;

/// The least and the most bytes that a window reads at a time, unless an operation needs more.
const READ_AHEAD: RangeInclusive<usize> = 1 << 12..=1 << 18;

/// A dump in a source that lends no bytes, read through a window that grows while the reads are sequential.
pub(in crate::read) struct Window<'s> {
    source: &'s dyn ReadAt,
    /// The length of the source in bytes.
    len: u64,
    offset: u64,
    /// The buffer never shrinks, so each of its bytes is zeroed once only.
    buffer: Vec<u8>,
    /// The number of bytes in the buffer that were read from the source.
    filled: usize,
    /// The offset in the dump of the first byte of the buffer.
    start: u64,
    /// The number of bytes that the next read fetches.
    read_ahead: usize,
    barrier: Barrier,
    crc: Option<Hasher>,
}

impl<'s> Window<'s> {
    /// Returns an input that begins at `offset` of a source of `len` bytes.
    pub(in crate::read) fn new(source: &'s dyn ReadAt, len: u64, offset: u64) -> Self {
        let offset = offset.min(len);
        Self {
            source,
            len,
            offset,
            buffer: Vec::new(),
            filled: 0,
            start: offset,
            read_ahead: *READ_AHEAD.start(),
            barrier: Barrier::NONE,
            crc: None,
        }
    }

    /// Passes the barrier if the next `len` bytes cross it.
    #[inline]
    fn pass_barrier(&mut self, len: u64) -> Result<()> {
        match self.barrier.crossed_by(self.offset, len) {
            None => Ok(()),
            Some(at) => {
                let mut bytes = [0; index::BEGINNING];
                let there = self.len.checked_sub(at).map_or(0, |left| at_most(left, bytes.len()));
                let bytes = bytes.get_mut(..there).unwrap_or_default();
                if !bytes.is_empty() {
                    self.source.read_exact_at(bytes, at).map_err(|error| Fault::io(at, error))?;
                }
                self.barrier.pass(bytes, self.offset)
            }
        }
    }

    /// Returns the range of the next `len` bytes in the buffer, or `None` if the buffer does not have all of them.
    fn buffered(&self, len: usize) -> Option<Range<usize>> {
        let from = usize::try_from(self.offset.checked_sub(self.start)?).ok()?;
        let to = from.checked_add(len)?;
        (to <= self.filled).then_some(from..to)
    }

    /// Reads until the buffer has the next `len` bytes. Returns their range in the buffer.
    fn fill(&mut self, len: usize) -> Result<Range<usize>> {
        if let Some(buffered) = self.buffered(len) {
            return Ok(buffered);
        }
        let remaining = self.len.minus(self.offset)?;
        if len as u64 > remaining {
            return Err(self.unexpected_end(len as u64));
        }
        // The bytes at the end of the buffer that are among the next ones.
        let from = self.offset.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let kept = from.filter(|from| *from <= self.filled).unwrap_or(self.filled)..self.filled;
        let is_sequential = self.filled > 0 && from.is_some_and(|from| from <= self.filled);
        self.read_ahead = match is_sequential {
            true => self.read_ahead.times(2)?.min(*READ_AHEAD.end()),
            false => *READ_AHEAD.start(),
        };
        let fill_to = at_most(remaining, len.max(self.read_ahead));
        self.buffer.copy_within(kept.clone(), 0);
        (self.start, self.filled) = (self.offset, kept.len());
        if let Some(more) = fill_to.checked_sub(self.buffer.len()) {
            let no_room = |_| Error::out_of_memory("a buffer to read a dump");
            self.buffer.try_reserve_exact(more).map_err(no_room)?;
            self.buffer.resize(fill_to, 0);
        }
        let offset = self.offset.plus(kept.len() as u64)?;
        let to_fill = self.buffer.get_mut(kept.len()..fill_to).unwrap_or_default();
        self.source.read_exact_at(to_fill, offset).map_err(|error| Fault::io(offset, error))?;
        self.filled = fill_to;
        Ok(0..len)
    }

    fn unexpected_end(&self, len: u64) -> Box<Fault> {
        Fault::unexpected_end_within(self.len, self.offset, len)
    }
}

impl Input for Window<'_> {
    fn offset(&self) -> u64 {
        self.offset
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&[u8]> {
        self.pass_barrier(len as u64)?;
        let buffered = self.fill(len)?;
        self.offset = self.offset.plus(len as u64)?;
        let bytes = self.buffer.get(buffered).unwrap_or_default();
        if let Some(crc) = &mut self.crc {
            crc.update(bytes);
        }
        Ok(bytes)
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        self.pass_barrier(len)?;
        let end = self.offset.checked_add(len).filter(|end| *end <= self.len);
        let end = end.ok_or_else(|| self.unexpected_end(len))?;
        // Skipped bytes are read only for a checksum.
        while self.crc.is_some() && self.offset < end {
            let left = end.minus(self.offset)?;
            self.take(at_most(left, *READ_AHEAD.end()))?;
        }
        self.offset = end;
        Ok(())
    }

    fn drain(&mut self) -> Result<u64> {
        self.offset = self.len;
        Ok(self.len)
    }

    fn at_end(&mut self) -> Result<bool> {
        Ok(self.offset == self.len)
    }

    fn guard_index(&mut self, offset: u64) {
        self.barrier = Barrier::new(offset);
    }

    fn unguard_index(&mut self) {
        self.barrier = Barrier::NONE;
    }

    fn has_passed_index(&self) -> bool {
        self.barrier.has_passed
    }

    fn start_crc(&mut self, before: Hasher) {
        self.crc = Some(before);
    }

    fn finish_crc(&mut self) -> u32 {
        self.crc.take().unwrap_or_default().finalize()
    }
}
