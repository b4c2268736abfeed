//! The section `corestream.index`: where everything in the dump is, and checksums. `docs/format.md` describes it byte by
//! byte.
//!
//! Its tables may have many megabytes. They are made a bounded number of bytes at a time, straight from the plan.

use std::iter::Enumerate;
use std::ops::RangeInclusive;
use std::{slice, vec};

use crc32fast::Hasher;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::header::flags;
use super::name::push_name;
use crate::arithmetic::{Checked, exact, sum};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    CHANGING, CUSTOM, INDEX, IndexHead, IndexMemory, IndexRange, IndexSegment, VERSION,
};
use crate::leb::push_u32;
use crate::plan::{DataSection, Plan, PlannedMemory, Segment};

/// Bytes of the index that are made at once, up to an entry more.
const CHUNK: usize = 64 << 10;
/// The most bytes of an entry of its tables, and of what precedes them.
const MAX_ENTRY: usize = 64;

/// The section, made a bounded number of bytes at a time.
pub(crate) struct Index<'p> {
    plan: &'p Plan<'p>,
    /// Whether each memory may have changed while it was read.
    changing: Vec<bool>,
    /// The checksums of all blocks before the index.
    checksums: vec::IntoIter<u32>,
    /// The checksum of what was made.
    crc: Hasher,
    next: Next<'p>,
}

/// What comes next: the rest of a table.
enum Next<'p> {
    Head,
    /// The entries of memories, and the segments of these memories.
    Memories(Enumerate<slice::Iter<'p, PlannedMemory<'p>>>, vec::IntoIter<bool>, &'p [Segment]),
    Segments(Segments<'p>),
    /// The excluded ranges of a memory, and the memories after it.
    Ranges(slice::Iter<'p, RangeInclusive<u64>>, slice::Iter<'p, PlannedMemory<'p>>),
    Checksums,
    End,
}

/// The entries of segments.
struct Segments<'p> {
    /// The sections after the one in hand.
    sections: slice::Iter<'p, DataSection>,
    /// The segments of the section in hand that are not listed yet.
    segments: &'p [Segment],
    /// The offset of the header of the next segment, or else of the next section, in the dump.
    offset: u64,
}

impl<'p> Index<'p> {
    pub(crate) fn new(plan: &'p Plan<'p>, checksums: Vec<u32>, changing: Vec<bool>) -> Self {
        let checksums = checksums.into_iter();
        Self { plan, checksums, changing, crc: Hasher::new(), next: Next::Head }
    }

    /// Replaces the bytes of `chunk` by the next ones of the section; none are left at its end.
    ///
    /// # Errors
    /// Returns an error if the buffer cannot be allocated.
    pub(crate) fn fill(&mut self, chunk: &mut Vec<u8>) -> Result<()> {
        chunk.clear();
        let no_room = |_| Error::out_of_memory("a buffer for the index");
        chunk.try_reserve(CHUNK + MAX_ENTRY).map_err(no_room)?;
        while chunk.len() < CHUNK {
            let plan = self.plan;
            match &mut self.next {
                Next::Head => {
                    push_head(chunk, plan)?;
                    let changing = std::mem::take(&mut self.changing).into_iter();
                    self.next =
                        Next::Memories(plan.memories.iter().enumerate(), changing, &plan.segments);
                }
                Next::Memories(memories, changing, segments) => {
                    match memories.next().zip(changing.next()) {
                        Some((planned, changing)) => {
                            *segments = push_memory(chunk, planned, changing, segments)?;
                        }
                        None => self.next = Next::Segments(Segments::new(plan)),
                    }
                }
                Next::Segments(segments) => {
                    if segments.fill(chunk, plan)? {
                        self.next = Next::Ranges([].iter(), plan.memories.iter());
                    }
                }
                Next::Ranges(ranges, memories) => match (ranges.next(), memories.as_slice()) {
                    (Some(range), _) => {
                        let (first, last) = (*range.start(), *range.end());
                        let entry = IndexRange { first: first.into(), last: last.into() };
                        chunk.extend_from_slice(entry.as_bytes());
                    }
                    (None, []) => self.next = Next::Checksums,
                    (None, [planned, later @ ..]) => {
                        self.next = Next::Ranges(planned.excluded.iter(), later.iter());
                    }
                },
                Next::Checksums => match self.checksums.next() {
                    Some(checksum) => chunk.extend_from_slice(&checksum.to_le_bytes()),
                    None => {
                        self.next = Next::End;
                        self.crc.update(chunk);
                        chunk.extend_from_slice(&self.crc.clone().finalize().to_le_bytes());
                        return Ok(());
                    }
                },
                Next::End => return Ok(()),
            }
        }
        self.crc.update(chunk);
        Ok(())
    }
}

/// Appends everything before the tables.
fn push_head(to: &mut Vec<u8>, plan: &Plan<'_>) -> Result<()> {
    to.push(CUSTOM);
    push_u32(to, plan.index.body_len);
    push_name(to, INDEX);
    let head = IndexHead {
        version: VERSION.into(),
        flags: flags(plan).into(),
        memories: count(plan.memories.len())?,
        segments: count(plan.segments.len())?,
        ranges: count(sum(plan.memories.iter().map(|planned| planned.excluded.len()))?)?,
        block_log2: plan.index.block_log2.into(),
        blocks: plan.index.blocks.into(),
    };
    to.extend_from_slice(head.as_bytes());
    Ok(())
}

/// Appends the entry of memory `i` of the dump, whose segments are the first ones of `segments`; returns those of the
/// memories after it.
fn push_memory<'p>(
    to: &mut Vec<u8>,
    (i, planned): (usize, &PlannedMemory<'_>),
    changing: bool,
    segments: &'p [Segment],
) -> Result<&'p [Segment]> {
    let own = segments.partition_point(|segment| segment.memory.0 as usize <= i);
    let entry = IndexMemory {
        segments: count(own)?,
        ranges: count(planned.excluded.len())?,
        flags: if changing { CHANGING } else { 0 }.into(),
    };
    to.extend_from_slice(entry.as_bytes());
    Ok(segments.split_at(own).1)
}

impl<'p> Segments<'p> {
    fn new(plan: &'p Plan<'p>) -> Self {
        Self { sections: plan.sections.iter(), segments: &[], offset: plan.data_offset }
    }

    /// Appends entries until the chunk is full; returns whether all are listed.
    fn fill(&mut self, to: &mut Vec<u8>, plan: &'p Plan<'p>) -> Result<bool> {
        while let Some(room) = CHUNK.checked_sub(to.len()).filter(|room| *room > 0) {
            if self.segments.is_empty() {
                let Some(section) = self.sections.next() else { return Ok(true) };
                self.offset = self.offset.plus(section.head_len())?;
                let segments = plan.segments.get(section.segments.clone());
                let missing = || Error::new(ErrorKind::Internal, "a section of unknown segments");
                self.segments = segments.ok_or_else(missing)?;
            }
            let some = self.segments.len().min(room.div_ceil(size_of::<IndexSegment>()));
            let (now, later) = self.segments.split_at(some);
            let mut offset = self.offset;
            for segment in now {
                offset = offset.plus(segment.header_len(plan.ty(segment)).into())?;
                let entry = IndexSegment {
                    address: segment.address.into(),
                    offset: offset.into(),
                    len: segment.len.into(),
                };
                to.extend_from_slice(entry.as_bytes());
                offset = offset.plus(segment.len.into())?;
            }
            (self.segments, self.offset) = (later, offset);
        }
        Ok(false)
    }
}

/// The number of entries of a table.
fn count(entries: usize) -> Result<U32> {
    Ok(U32::new(exact(entries)?))
}
