//! The interface between an image and a snapshot, which supplies the bytes of a frozen memory.

use std::ops::Range;

use crate::error::Result;

/// A memory whose contents were fixed at one moment, while its guest may write to the memory itself.
pub(crate) trait FrozenBytes: Send + Sync {
    /// Returns the length in bytes.
    fn len(&self) -> u64;

    /// Returns the next range at or after `at` that may contain data. It is empty after the last one.
    fn next_extent(&self, at: u64) -> Range<u64>;

    /// Fills `buffer` with the bytes starting at `at`.
    ///
    /// # Errors
    /// Returns an error if the snapshot has failed, or if the bytes were released.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<()>;

    /// Declares that this dump does not need the bytes before `at` any more.
    fn release_before(&self, at: u64);

    /// Checks that everything that was read is from the moment of the freeze.
    ///
    /// # Errors
    /// Returns an error if the snapshot has failed.
    fn check(&self) -> Result<()>;
}
