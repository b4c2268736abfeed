//! The frozen view of one memory.

use std::ops::Range;
use std::sync::Arc;

use super::guard::Guard;
use crate::error::Result;
use crate::image::FrozenBytes;

/// One memory of a snapshot, as an image reads it.
pub(super) struct FrozenMemory {
    guard: Arc<Guard>,
    /// The index among the prepared memories.
    memory: usize,
    /// The length in bytes at the freeze.
    len: u64,
}

impl FrozenMemory {
    pub(super) fn new(guard: Arc<Guard>, memory: usize, len: u64) -> Self {
        Self { guard, memory, len }
    }
}

impl FrozenBytes for FrozenMemory {
    fn len(&self) -> u64 {
        self.len
    }

    fn next_extent(&self, at: u64) -> Range<u64> {
        self.guard.engine().next_extent(self.memory, at, self.len)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<()> {
        self.guard.engine().read_at(self.memory, buffer, at)
    }

    fn release_before(&self, at: u64) {
        if self.guard.releases() {
            // At the end, the last page is released even if the memory ends in it.
            let at = if at >= self.len { u64::MAX } else { at };
            self.guard.engine().release_before(self.memory, at);
        }
    }

    fn check(&self) -> Result<()> {
        self.guard.engine().check()
    }
}
