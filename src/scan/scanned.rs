//! What a scan is given, and the gaps that it finds.

use std::ops::{Range, RangeInclusive};

use crate::image::MemoryImage;

/// What is scanned of a memory.
#[derive(Clone, Copy)]
pub(crate) struct Scanned<'i> {
    pub(crate) image: &'i MemoryImage<'i>,
    /// Ranges that are not read, in order.
    pub(crate) left_out: &'i [RangeInclusive<u64>],
    /// Whether its file system was found to be wrong about its holes: then all of it is read.
    pub(crate) in_doubt: bool,
}

impl Scanned<'_> {
    /// Whether bytes between `gap.start` and `gap.end` are left out.
    pub(super) fn leaves_out(&self, gap: &Range<u64>) -> bool {
        let passed = self.left_out.partition_point(|range| *range.end() < gap.start);
        self.left_out.get(passed).is_some_and(|range| *range.start() < gap.end)
    }
}

/// Zeros, and what is left out, between two runs of one memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Index of the image among those that are scanned.
    pub(crate) memory: u32,
    /// Address of the first byte.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) len: u64,
}
