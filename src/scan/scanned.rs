//! The input of a scan, and the gaps that it finds.

use std::ops::Range;

use crate::image::MemoryImage;
use crate::ranges::AddressRanges;

/// A memory to scan.
#[derive(Clone, Copy)]
pub(crate) struct Scanned<'i> {
    pub(crate) image: &'i MemoryImage<'i>,
    /// The ranges that are not read.
    pub(crate) excluded: &'i AddressRanges,
    /// Whether the file system was found to report wrong holes. Then the whole file is read.
    pub(crate) in_doubt: bool,
}

impl Scanned<'_> {
    /// Returns `true` if bytes between `gap.start` and `gap.end` are excluded.
    pub(super) fn excludes(&self, gap: &Range<u64>) -> bool {
        self.excluded.overlaps(gap)
    }
}

/// A note about the scan for people: why it used a method that is not the best.
#[derive(Debug)]
pub(crate) struct ScanNote {
    /// The position of the image among the scanned images; `None` if the note is about all of them.
    pub(crate) image: Option<usize>,
    pub(crate) text: String,
    /// Whether the note is also for readers of the dump.
    pub(crate) is_for_dump: bool,
}

/// A range of zeros or excluded bytes between two runs of one memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// The index of the image among the scanned images.
    pub(crate) memory: u32,
    /// The address of the first byte.
    pub(crate) start: u64,
    /// The length in bytes.
    pub(crate) len: u64,
}

impl Gap {
    /// Returns the address after the last byte.
    #[allow(clippy::arithmetic_side_effects, reason = "a gap ends within an image")]
    pub(crate) fn end(&self) -> u64 {
        self.start + self.len
    }
}
