//! The barrier before the index, which the three inputs share.

use crate::read::fault::{Fault, Result, at_least_one_byte};
use crate::read::index;

/// The offset of the index, which nothing before the index may reach past.
#[derive(Clone, Copy, Debug)]
pub(super) struct Barrier {
    /// The offset of the index. Without a barrier it is `u64::MAX`, which no byte has.
    at: u64,
    pub(super) has_passed: bool,
}

impl Barrier {
    pub(super) const NONE: Self = Self { at: u64::MAX, has_passed: false };

    pub(super) fn new(at: u64) -> Self {
        Self { at, has_passed: false }
    }

    /// Returns the barrier's offset if the `len` bytes from `offset` on reach past it. `offset` itself is not past it.
    #[inline]
    pub(super) fn crossed_by(self, offset: u64, len: u64) -> Option<u64> {
        let ends_before = offset.checked_add(len).is_some_and(|end| end <= self.at);
        (!ends_before && offset <= self.at && self.at != u64::MAX).then_some(self.at)
    }

    /// Removes the barrier unless an index begins with `bytes`, the bytes at the barrier. `offset` is where the
    /// operation that crosses it began.
    ///
    /// If `bytes` is empty the barrier stays. The dump ends there, so nothing can pass it.
    ///
    /// # Errors
    /// Returns an error if an index begins with `bytes`.
    #[cold]
    pub(super) fn pass(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let at = self.at;
        if index::begins(bytes) {
            let message = format!("reaches into the index at {at:#x}");
            return Err(Fault::damaged(at_least_one_byte(offset, at), message));
        }
        if !bytes.is_empty() {
            *self = Self { has_passed: true, ..Self::NONE };
        }
        Ok(())
    }
}
