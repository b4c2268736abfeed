//! A gimli reader with a budget of work.
//!
//! Debugging information is untrusted: references can form cycles, and a small section can describe endless work. Every
//! step of reading takes from a budget, and fails once it is spent. The budget grows with the size of the debugging
//! information and with the number of frames, so the work is linear in both for any input, and so is the output.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gimli::{EndianSlice, Error, LittleEndian, Reader, ReaderOffsetId, Result};

/// The number of steps of work that are left, shared by all readers of a module's debugging information. Reading a byte
/// is a step.
///
/// It is atomic so that a file's symbols can be sent to another thread. Only one thread reads a file at a time, so a
/// separate load and store are enough.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Steps>);

#[derive(Debug)]
struct Steps {
    left: AtomicU64,
    /// Whether work has ever exceeded a limit. addr2line keeps such errors, so they can come up again later.
    has_failed: AtomicBool,
}

impl Budget {
    /// Creates a budget of `steps` steps.
    pub fn new(steps: u64) -> Self {
        Self(Arc::new(Steps { left: AtomicU64::new(steps), has_failed: AtomicBool::new(false) }))
    }

    /// Spends part of the budget.
    ///
    /// # Errors
    /// Returns an error, and spends the rest, if less than that remains.
    pub fn take(&self, steps: u64) -> Result<()> {
        let left = self.0.left.load(Ordering::Relaxed).checked_sub(steps);
        self.0.left.store(left.unwrap_or(0), Ordering::Relaxed);
        left.map(drop).ok_or_else(|| self.exceed())
    }

    /// Returns the error for work that exceeds a limit.
    pub fn exceed(&self) -> Error {
        self.0.has_failed.store(true, Ordering::Relaxed);
        Error::UnexpectedEof(ReaderOffsetId(0))
    }

    /// Adds to the budget.
    pub fn grant(&self, steps: u64) {
        let left = self.0.left.load(Ordering::Relaxed);
        self.0.left.store(left.saturating_add(steps), Ordering::Relaxed);
    }

    /// Returns whether work has ever exceeded a limit.
    pub fn is_exceeded(&self) -> bool {
        self.0.has_failed.load(Ordering::Relaxed)
    }
}

/// A section of debugging information, or a part of one.
#[derive(Clone, Debug)]
pub struct BudgetReader<'b> {
    slice: EndianSlice<'b, LittleEndian>,
    budget: Budget,
}

impl<'b> BudgetReader<'b> {
    pub fn new(bytes: &'b [u8], budget: &Budget) -> Self {
        Self { slice: EndianSlice::new(bytes, LittleEndian), budget: budget.clone() }
    }
}

impl Reader for BudgetReader<'_> {
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
        let mut reader = BudgetReader::new(&[1, 2, 3, 4, 5, 6, 7, 0, 9], &budget);
        assert_eq!(reader.read_u32(), Ok(0x0403_0201));
        let mut other = reader.clone();
        assert_eq!(other.read_u32(), Ok(0x0007_0605));
        assert!(!budget.is_exceeded());
        // Finding the byte costs three bytes. Two remain.
        assert!(reader.find(0).is_err() && budget.is_exceeded());
        assert!(reader.read_u8().is_err() && other.read_u8().is_err());
    }
}
