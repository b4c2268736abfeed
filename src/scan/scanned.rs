//! What a scan is given, and the gaps that it finds.

use std::ops::Range;

use crate::image::MemoryImage;
use crate::ranges::AddressRanges;

/// What is scanned of a memory.
#[derive(Clone, Copy)]
pub(crate) struct Scanned<'i> {
    pub(crate) image: &'i MemoryImage<'i>,
    /// Ranges that are not read.
    pub(crate) excluded: &'i AddressRanges,
    /// Whether its file system was found to be wrong about its holes: then all of it is read.
    pub(crate) in_doubt: bool,
}

impl Scanned<'_> {
    /// Whether bytes between `gap.start` and `gap.end` are left out.
    pub(super) fn excludes(&self, gap: &Range<u64>) -> bool {
        self.excluded.overlaps(gap)
    }
}

/// What to tell a person about the scan: why it took a worse way than others.
#[derive(Debug)]
pub(crate) struct Note {
    /// The position of the image among those that are scanned; `None` if it concerns all of them.
    pub(crate) image: Option<usize>,
    pub(crate) text: String,
    /// Whether readers of the dump are told, too.
    pub(crate) is_for_dump: bool,
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

impl Gap {
    /// Returns the address after the last byte.
    #[allow(clippy::arithmetic_side_effects, reason = "a gap ends within an image")]
    pub(crate) fn end(&self) -> u64 {
        self.start + self.len
    }
}
