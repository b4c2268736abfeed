//! What a verifier says of a dump: that it is whole, or what is wrong with it.

use std::fmt;
use std::ops::{Range, RangeInclusive};

use crate::model::MemoryIndex;
use crate::read::file::Producer;
use crate::read::layout::FrameLayout;

/// Whether a dump is whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use = "it may say that the dump is damaged"]
pub enum Verdict {
    /// It is.
    Whole(Whole),
    /// It is not.
    Damaged(Damage),
}

impl Verdict {
    /// Whether the dump is whole.
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

/// A dump that is whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Whole {
    /// Its length in bytes.
    pub bytes: u64,
    /// Its segments.
    pub segments: u64,
    /// Who wrote it. Of a dump by others only the structure can be checked.
    pub producer: Producer,
    /// Whether another tool has moved or changed sections since: then the index and the checksums are of
    /// other bytes, and only the structure could be checked.
    pub rewritten: bool,
    /// Bytes of sections that another tool has added after the end of the dump.
    pub appended: u64,
    /// How its frames are laid out; `None` without frames.
    pub layout: Option<FrameLayout>,
    /// Whether it has checksums, which hold.
    pub checksums: bool,
    /// Whether ranges of memories were left out on purpose.
    pub partial: bool,
    /// Each memory of which some were.
    pub excluded: Vec<Excluded>,
    /// Each memory that may have been written to while it was dumped: it may hold old and new bytes.
    pub changing: Vec<MemoryIndex>,
    /// Whether parts of the guest were left out because the format has no room for them.
    pub degraded: bool,
}

/// What was left out of a memory on purpose ([`MemoryView::unknown`](crate::read::MemoryView::unknown) says where).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Excluded {
    /// The memory.
    pub memory: MemoryIndex,
    /// How many ranges of it.
    pub ranges: u64,
    /// The bytes in all of them: up to all 2^64.
    pub bytes: u128,
}

/// What is wrong with a dump: the first place of the file that is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Damage {
    /// Bytes of the file; where it is cut off, those that are missing.
    pub range: Range<u64>,
    /// What is wrong, in a line.
    pub reason: String,
    /// Whether it ends too early.
    pub truncated: bool,
    /// How many blocks have not the bytes that their checksum is of.
    pub bad_blocks: usize,
    /// The memory that lies in `range`, where that is a block and the index is there to tell.
    pub memory: Vec<MemoryRange>,
    /// The memory that lies in all bad blocks, in order; ranges that touch are one. At most
    /// [`MAX_DAMAGED_RANGES`](crate::limits::MAX_DAMAGED_RANGES).
    pub all_memory: Vec<MemoryRange>,
    /// How many more ranges there are than `all_memory` has.
    pub more_memory: usize,
    /// Whether a bad block has bytes of the sections before the memory: names, sizes of memories, globals
    /// and frames may be wrong, even where they can be read.
    pub guest: bool,
    /// Whether checksums tell the bad blocks from the good ones. They do not where the dump has none or
    /// where its index is lost: then any byte may be wrong.
    pub checksums: bool,
    /// Whether `range` is the first bad block.
    pub(super) is_block: bool,
}

/// A range of a memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemoryRange {
    /// The memory.
    pub memory: MemoryIndex,
    /// From the first to the last byte; not all that is between must be concerned.
    pub addresses: RangeInclusive<u64>,
}

impl fmt::Display for MemoryRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.addresses.start(), self.addresses.end());
        write!(f, "memory {} {first:#x}..={last:#x}", self.memory)
    }
}

/// One line: the reason, how many blocks are bad, and which memory that concerns.
impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if self.bad_blocks > 1 && self.is_block {
            write!(f, "; {} blocks are bad, this is the first", self.bad_blocks)?;
        }
        for (i, range) in self.memory.iter().enumerate() {
            write!(f, "{} {range}", if i == 0 { "; this concerns" } else { "," })?;
        }
        Ok(())
    }
}
