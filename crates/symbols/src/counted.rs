//! A gimli reader with a budget.
//!
//! Debugging information is untrusted: references can form cycles, and a small section can describe endless work. Every
//! read takes bytes from a budget, and fails once it is spent. This bounds the work and the output for any input.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gimli::{EndianSlice, Error, LittleEndian, Reader, ReaderOffsetId, Result};

/// The number of bytes that may still be read, shared by all readers of a file.
///
/// It is atomic so that a file's symbols can be sent to another thread. Only one thread reads a file at a time, so a
/// separate load and store are enough.
#[derive(Clone, Debug)]
pub struct Budget(Arc<AtomicU64>);

impl Budget {
    /// Creates a budget of `bytes` bytes. A step that reads no bytes costs one.
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// Spends part of the budget.
    ///
    /// # Errors
    /// Returns an error, and spends the rest, if less than that remains.
    pub fn take(&self, bytes: u64) -> Result<()> {
        let left = self.0.load(Ordering::Relaxed).checked_sub(bytes);
        self.0.store(left.unwrap_or(0), Ordering::Relaxed);
        left.map(drop).ok_or(Error::UnexpectedEof(ReaderOffsetId(0)))
    }

    /// Returns whether the budget is spent.
    pub fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// A section of debugging information, or a part of one.
#[derive(Clone, Debug)]
pub struct Counted<'b> {
    slice: EndianSlice<'b, LittleEndian>,
    budget: Budget,
}

impl<'b> Counted<'b> {
    pub fn new(bytes: &'b [u8], budget: &Budget) -> Self {
        Self { slice: EndianSlice::new(bytes, LittleEndian), budget: budget.clone() }
    }
}

impl Reader for Counted<'_> {
    type Endian = LittleEndian;
    type Offset = usize;

    fn endian(&self) -> LittleEndian {
        LittleEndian
    }

    fn len(&self) -> usize {
        self.slice.len()
    }

    fn empty(&mut self) {
        self.slice.empty();
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        self.slice.truncate(len)
    }

    fn offset_from(&self, base: &Self) -> usize {
        self.slice.offset_from(base.slice)
    }

    fn offset_id(&self) -> ReaderOffsetId {
        self.slice.offset_id()
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<usize> {
        self.slice.lookup_offset_id(id)
    }

    fn find(&self, byte: u8) -> Result<usize> {
        let found = Reader::find(&self.slice, byte);
        let passed = found.as_ref().map_or(self.slice.len(), |at| *at);
        self.budget.take(passed as u64 + 1)?;
        found
    }

    fn skip(&mut self, len: usize) -> Result<()> {
        self.budget.take(1)?;
        self.slice.skip(len)
    }

    fn split(&mut self, len: usize) -> Result<Self> {
        self.budget.take(1)?;
        Ok(Self { slice: self.slice.split(len)?, budget: self.budget.clone() })
    }

    fn to_slice(&self) -> Result<Cow<'_, [u8]>> {
        self.budget.take(self.slice.len() as u64)?;
        self.slice.to_slice()
    }

    fn to_string(&self) -> Result<Cow<'_, str>> {
        self.budget.take(self.slice.len() as u64)?;
        Reader::to_string(&self.slice)
    }

    fn to_string_lossy(&self) -> Result<Cow<'_, str>> {
        self.budget.take(self.slice.len() as u64)?;
        Reader::to_string_lossy(&self.slice)
    }

    fn read_slice(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.budget.take(buffer.len() as u64)?;
        Reader::read_slice(&mut self.slice, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_until_the_budget_is_spent() {
        let budget = Budget::new(10);
        let mut reader = Counted::new(&[1, 2, 3, 4, 5, 6, 7, 0, 9], &budget);
        assert_eq!(reader.read_u32(), Ok(0x0403_0201));
        let mut other = reader.clone();
        assert_eq!(other.read_u32(), Ok(0x0007_0605));
        assert!(!budget.is_spent());
        // Finding the byte costs three bytes. Two remain.
        assert!(reader.find(0).is_err() && budget.is_spent());
        assert!(reader.read_u8().is_err() && other.read_u8().is_err());
    }
}
