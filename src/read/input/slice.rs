//! An input that borrows from a dump in memory.

use crc32fast::Hasher;

use super::barrier::Barrier;
use super::{Input, subslice};
use crate::arithmetic::at_most;
use crate::read::fault::{Fault, Result};

/// A dump in memory.
#[derive(Clone)]
pub(in crate::read) struct Slice<'b> {
    bytes: &'b [u8],
    /// The bytes before the barrier. One comparison with their end covers both the barrier and the end of the dump.
    before_barrier: &'b [u8],
    offset: usize,
    barrier: Barrier,
    /// The offset at which the CRC-32 starts, and its state there.
    crc_start: usize,
    before_crc: Option<Hasher>,
}

impl<'b> Slice<'b> {
    /// Returns an input that begins at `offset`.
    pub(in crate::read) fn new(bytes: &'b [u8], offset: u64) -> Self {
        let offset = at_most(offset, bytes.len());
        Self {
            bytes,
            before_barrier: bytes,
            offset,
            barrier: Barrier::NONE,
            crc_start: offset,
            before_crc: None,
        }
    }

    /// Takes the next `len` bytes, like [`Input::take`], borrowed for as long as the dump.
    #[inline]
    pub(in crate::read) fn borrow(&mut self, len: usize) -> Result<&'b [u8]> {
        match self.offset.checked_add(len).and_then(|end| self.before_barrier.get(self.offset..end))
        {
            Some(taken) => {
                // This cannot wrap: the sum is the end of a subslice.
                self.offset = self.offset.wrapping_add(len);
                Ok(taken)
            }
            None => self.borrow_past_barrier(len),
        }
    }

    /// Takes bytes that end after the barrier or after the end of the dump.
    #[cold]
    fn borrow_past_barrier(&mut self, len: usize) -> Result<&'b [u8]> {
        self.pass_barrier(len as u64)?;
        let end = self.offset.checked_add(len);
        let taken = end.and_then(|end| self.bytes.get(self.offset..end).map(|taken| (end, taken)));
        let (end, taken) = taken.ok_or_else(|| self.unexpected_end(len as u64))?;
        self.offset = end;
        Ok(taken)
    }

    /// Passes the barrier if the next `len` bytes cross it.
    fn pass_barrier(&mut self, len: u64) -> Result<()> {
        if let Some(at) = self.barrier.crossed_by(self.offset as u64, len) {
            let bytes = subslice(self.bytes, at..self.bytes.len() as u64).unwrap_or_default();
            self.barrier.pass(bytes, self.offset as u64)?;
            self.before_barrier = self.bytes;
        }
        Ok(())
    }

    fn unexpected_end(&self, len: u64) -> Box<Fault> {
        Fault::unexpected_end_within(self.bytes.len() as u64, self.offset as u64, len)
    }
}

impl Input for Slice<'_> {
    fn offset(&self) -> u64 {
        self.offset as u64
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&[u8]> {
        self.borrow(len)
    }

    #[inline]
    fn skip(&mut self, len: u64) -> Result<()> {
        let end = self.offset().checked_add(len).and_then(|end| usize::try_from(end).ok());
        match end {
            Some(end) if end <= self.before_barrier.len() => self.offset = end,
            _ => {
                self.pass_barrier(len)?;
                let end = end.filter(|end| *end <= self.bytes.len());
                self.offset = end.ok_or_else(|| self.unexpected_end(len))?;
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<u64> {
        self.offset = self.bytes.len();
        Ok(self.offset as u64)
    }

    fn at_end(&mut self) -> Result<bool> {
        Ok(self.offset == self.bytes.len())
    }

    fn guard_index(&mut self, offset: u64) {
        self.barrier = Barrier::new(offset);
        self.before_barrier = subslice(self.bytes, 0..offset).unwrap_or(self.bytes);
    }

    fn unguard_index(&mut self) {
        (self.barrier, self.before_barrier) = (Barrier::NONE, self.bytes);
    }

    fn has_passed_index(&self) -> bool {
        self.barrier.has_passed
    }

    fn start_crc(&mut self, before: Hasher) {
        (self.crc_start, self.before_crc) = (self.offset, Some(before));
    }

    fn finish_crc(&mut self) -> u32 {
        let mut hasher = self.before_crc.take().unwrap_or_default();
        hasher.update(self.bytes.get(self.crc_start..self.offset).unwrap_or_default());
        hasher.finalize()
    }
}
