//! The verdict of a verifier: a dump is intact, or damaged, and where.

use std::fmt;
use std::ops::{Range, RangeInclusive};

use crate::model::MemoryIndex;
use crate::read::file::Producer;
use crate::read::layout::FrameLayout;

/// The result of verifying a dump.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use = "the dump may be damaged"]
pub enum Verdict {
    /// The dump is intact.
    Intact(IntactDump),
    /// The dump is damaged or truncated.
    Damaged(DamageReport),
}

impl Verdict {
    /// Returns whether the dump is intact.
    pub fn is_intact(&self) -> bool {
        matches!(self, Self::Intact(_))
    }
}

/// The properties of an intact dump.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct IntactDump {
    /// The length of the dump in bytes.
    pub bytes: u64,
    /// The number of segments.
    pub segments: u64,
    /// The writer of the dump. For a dump by another tool, only the structure can be checked.
    pub producer: Producer,
    /// Whether another tool has moved or changed sections since the dump was written. The index and the checksums then
    /// do not apply any more, and only the structure was checked.
    pub rewritten: bool,
    /// The number of bytes in sections that another tool has appended to the dump.
    pub appended: u64,
    /// The layout of the frames, or `None` without frames.
    pub layout: Option<FrameLayout>,
    /// Whether the dump has checksums. They all match.
    pub checksums: bool,
    /// Whether ranges of memories were excluded on purpose.
    pub partial: bool,
    /// The memories with excluded ranges.
    pub excluded: Vec<Excluded>,
    /// The memories to which the guest may have written while they were dumped. They may hold old and new bytes.
    pub changing: Vec<MemoryIndex>,
    /// Whether parts of the guest are missing because the format has no room for them.
    pub degraded: bool,
}

/// The amount of memory that was excluded on purpose. [`MemoryView::excluded`](crate::read::MemoryView::excluded)
/// returns the ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Excluded {
    /// The memory.
    pub memory: MemoryIndex,
    /// The number of excluded ranges.
    pub ranges: u64,
    /// The total number of bytes in these ranges, up to 2^64.
    pub bytes: u128,
}

/// The first fault of a damaged dump, and all memory in bad blocks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DamageReport {
    /// The damaged bytes of the file. For a truncated dump, the missing bytes.
    pub range: Range<u64>,
    /// A description of the fault in one line.
    pub reason: String,
    /// Whether the dump is truncated.
    pub truncated: bool,
    /// The number of blocks with a checksum mismatch.
    pub bad_blocks: usize,
    /// The memory in `range`, if `range` is a block and the index is intact.
    pub memory: Vec<MemoryRange>,
    /// The memory in all bad blocks, in order, with adjacent ranges joined. At most
    /// [`MAX_DAMAGED_RANGES`](crate::limits::MAX_DAMAGED_RANGES) ranges.
    pub all_memory: Vec<MemoryRange>,
    /// The number of ranges that `all_memory` omits.
    pub more_memory: usize,
    /// Whether a bad block includes sections before the memory. Names, memory sizes, globals and frames may then be
    /// wrong even if they can be read.
    pub guest: bool,
    /// Whether checksums distinguish bad blocks from intact ones. If the dump has no checksums, or if its index is
    /// lost, any byte may be wrong.
    pub checksums: bool,
    /// Whether `range` is the first bad block.
    pub(super) is_block: bool,
}

/// A range of a memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemoryRange {
    /// The memory.
    pub memory: MemoryIndex,
    /// The first and the last affected address. Addresses between them may be unaffected.
    pub addresses: RangeInclusive<u64>,
}

impl fmt::Display for MemoryRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.addresses.start(), self.addresses.end());
        write!(f, "memory {} {first:#x}..={last:#x}", self.memory)
    }
}

/// Writes one line: the reason, the damaged bytes of the file, the number of bad blocks, and the memory in the first one.
impl fmt::Display for DamageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        // The reason of a truncated dump states the missing bytes.
        if !self.truncated {
            write!(f, " (bytes {:#x}..{:#x})", self.range.start, self.range.end)?;
        }
        if self.bad_blocks > 1 && self.is_block {
            write!(f, "; first of {} bad blocks", self.bad_blocks)?;
        }
        for (i, range) in self.memory.iter().enumerate() {
            write!(f, "{} {range}", if i == 0 { "; affects" } else { "," })?;
        }
        Ok(())
    }
}
