//! The address range of a live memory.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use crate::image::copy_racing;

/// The address range of a live memory, which a snapshot protects and reads.
///
/// It is only an address and a length. [`SnapshotOptions::prepare`](super::SnapshotOptions::prepare) states the
/// requirements for the memory there.
#[derive(Clone, Copy, Debug)]
pub struct LiveMemory {
    start: *const UnsafeCell<u8>,
    len: usize,
}

// SAFETY: the address is used only under the contract of `SnapshotOptions::prepare`, which permits any thread to read the
// memory there.
unsafe impl Send for LiveMemory {}
// SAFETY: as above.
unsafe impl Sync for LiveMemory {}

impl LiveMemory {
    /// Returns the memory of `len` bytes at `start`. Nothing is read.
    pub fn new(start: *const u8, len: usize) -> Self {
        Self { start: start.cast(), len }
    }

    /// Returns the address of the first byte.
    pub fn start(&self) -> *const u8 {
        self.start.cast()
    }

    /// Returns the length in bytes.
    #[allow(
        clippy::len_without_is_empty,
        reason = "a memory without bytes is an edge case for no caller"
    )]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the same memory with another length.
    pub(super) fn with_len(self, len: usize) -> Self {
        Self { len, ..self }
    }

    pub(super) fn address(&self) -> u64 {
        self.start.addr() as u64
    }

    /// Copies the bytes from `offset` on to `to`.
    ///
    /// # Safety
    /// - `offset` and the length of `to` lie within the memory, rounded up to whole pages, and the memory is mapped.
    /// - No thread writes to these bytes during the call: they are protected, their writer waits in a fault, or the
    ///   writer is the caller. Otherwise the caller must not use the copy.
    pub(super) unsafe fn read(&self, offset: usize, to: &mut [u8]) {
        // SAFETY: the caller guarantees that the bytes are mapped. Cells promise nothing about their contents, so the
        // reference is valid even if other threads hold references to the memory.
        let bytes = unsafe {
            let start = self.start.byte_add(offset);
            std::slice::from_raw_parts(start, to.len())
        };
        copy_racing(bytes, to);
    }
}
