//! A shared memory that does not change.
#![allow(unsafe_code, reason = "implements a handle of shared memory")]

use std::cell::UnsafeCell;

use corestream::{MemoryImage, SharedBytes};

struct Still(Vec<UnsafeCell<u8>>);

// SAFETY: there are no writes to the bytes.
unsafe impl Sync for Still {}

// SAFETY: the bytes live as long as the handle, and there are no writes to them.
unsafe impl SharedBytes for Still {
    fn bytes(&self) -> &[UnsafeCell<u8>] {
        &self.0
    }
}

/// Returns an image of a shared memory with a copy of `bytes`.
pub fn image(bytes: &[u8]) -> MemoryImage<'static> {
    MemoryImage::from_shared(Still(bytes.iter().copied().map(UnsafeCell::new).collect()))
}
