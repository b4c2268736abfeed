//! Encodes the section `corestream.index`, which locates everything in the dump and holds its checksums.
//! `docs/format.md` describes it byte by byte.
//!
//! Its tables may have many megabytes. So the encoder generates them from the plan in chunks of bounded length.

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

/// The length in bytes of a chunk, which may exceed it by one entry.
const CHUNK_BYTES: usize = 64 << 10;
/// The maximum length in bytes of a table entry, and of everything before the tables.
const MAX_ENTRY_BYTES: usize = 64;

/// The encoder of the section, which yields it in chunks.
pub(crate) struct IndexEncoder<'p> {
    plan: &'p Plan<'p>,
    /// For each memory, whether it may have changed while it was read.
    changing: Vec<bool>,
    /// The checksums of all blocks before the index.
    checksums: vec::IntoIter<u32>,
    /// The checksum of the bytes encoded so far.
    crc: Hasher,
    next: NextEntries<'p>,
}

/// The table entries that come next.
enum NextEntries<'p> {
    Head,
    /// The remaining memories, their marks, and the segments of these memories.
    Memories(Enumerate<slice::Iter<'p, PlannedMemory<'p>>>, vec::IntoIter<bool>, &'p [Segment]),
    Segments(SegmentEntries<'p>),
    /// The remaining excluded ranges of a memory, and the memories after it.
    Ranges(slice::Iter<'p, RangeInclusive<u64>>, slice::Iter<'p, PlannedMemory<'p>>),
    Checksums,
    End,
}

/// The encoder of the segments' entries.
struct SegmentEntries<'p> {
    /// The sections after the current one.
    sections: slice::Iter<'p, DataSection>,
    /// The remaining segments of the current section.
    segments: &'p [Segment],
    /// The offset in the dump of the next segment's header, or of the next section if the current one has no more
    /// segments.
    offset: u64,
}

impl<'p> IndexEncoder<'p> {
    pub(crate) fn new(plan: &'p Plan<'p>, checksums: Vec<u32>, changing: Vec<bool>) -> Self {
        let checksums = checksums.into_iter();
        Self { plan, checksums, changing, crc: Hasher::new(), next: NextEntries::Head }
    }

    /// Replaces the content of `chunk` with the next bytes of the section. The chunk is empty at the end.
    ///
    /// # Errors
    /// Returns an error if the buffer cannot be allocated.
    pub(crate) fn fill(&mut self, chunk: &mut Vec<u8>) -> Result<()> {
        chunk.clear();
        let no_room = |_| Error::out_of_memory("a buffer for the index");
        chunk.try_reserve(CHUNK_BYTES + MAX_ENTRY_BYTES).map_err(no_room)?;
        while chunk.len() < CHUNK_BYTES {
            let plan = self.plan;
            match &mut self.next {
                NextEntries::Head => {
                    push_head(chunk, plan)?;
                    let changing = std::mem::take(&mut self.changing).into_iter();
                    self.next = NextEntries::Memories(
                        plan.memories.iter().enumerate(),
                        changing,
                        &plan.segments,
                    );
                }
                NextEntries::Memories(memories, changing, segments) => {
                    match memories.next().zip(changing.next()) {
                        Some((planned, changing)) => {
                            *segments = push_memory(chunk, planned, changing, segments)?;
                        }
                        None => self.next = NextEntries::Segments(SegmentEntries::new(plan)),
                    }
                }
                NextEntries::Segments(segments) => {
                    if segments.fill(chunk, plan)? {
                        self.next = NextEntries::Ranges([].iter(), plan.memories.iter());
                    }
                }
                NextEntries::Ranges(ranges, memories) => match (ranges.next(), memories.as_slice())
                {
                    (Some(range), _) => {
                        let (first, last) = (*range.start(), *range.end());
                        let entry = IndexRange { first: first.into(), last: last.into() };
                        chunk.extend_from_slice(entry.as_bytes());
                    }
                    (None, []) => self.next = NextEntries::Checksums,
                    (None, [planned, later @ ..]) => {
                        self.next = NextEntries::Ranges(planned.excluded.iter(), later.iter());
                    }
                },
                NextEntries::Checksums => match self.checksums.next() {
                    Some(checksum) => chunk.extend_from_slice(&checksum.to_le_bytes()),
                    None => {
                        self.next = NextEntries::End;
                        self.crc.update(chunk);
                        chunk.extend_from_slice(&self.crc.clone().finalize().to_le_bytes());
                        return Ok(());
                    }
                },
                NextEntries::End => return Ok(()),
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
        memories: entry_count(plan.memories.len())?,
        segments: entry_count(plan.segments.len())?,
        ranges: entry_count(sum(plan.memories.iter().map(|planned| planned.excluded.len()))?)?,
        block_log2: plan.index.block_log2.into(),
        blocks: plan.index.blocks.into(),
    };
    to.extend_from_slice(head.as_bytes());
    Ok(())
}

/// Appends the entry of memory `i` of the dump. Its segments are the first ones of `segments`. Returns the remaining
/// segments.
fn push_memory<'p>(
    to: &mut Vec<u8>,
    (i, planned): (usize, &PlannedMemory<'_>),
    changing: bool,
    segments: &'p [Segment],
) -> Result<&'p [Segment]> {
    let len = segments.partition_point(|segment| segment.memory.0 as usize <= i);
    let entry = IndexMemory {
        segments: entry_count(len)?,
        ranges: entry_count(planned.excluded.len())?,
        flags: if changing { CHANGING } else { 0 }.into(),
    };
    to.extend_from_slice(entry.as_bytes());
    Ok(segments.split_at(len).1)
}

impl<'p> SegmentEntries<'p> {
    fn new(plan: &'p Plan<'p>) -> Self {
        Self { sections: plan.sections.iter(), segments: &[], offset: plan.data_offset }
    }

    /// Appends entries until the chunk is full. Returns whether no entry is left.
    fn fill(&mut self, to: &mut Vec<u8>, plan: &'p Plan<'p>) -> Result<bool> {
        while let Some(room) = CHUNK_BYTES.checked_sub(to.len()).filter(|room| *room > 0) {
            if self.segments.is_empty() {
                let Some(section) = self.sections.next() else { return Ok(true) };
                self.offset = self.offset.plus(section.head_len())?;
                let segments = plan.segments.get(section.segments.clone());
                let missing = || Error::new(ErrorKind::Internal, "a section with unknown segments");
                self.segments = segments.ok_or_else(missing)?;
            }
            let count = self.segments.len().min(room.div_ceil(size_of::<IndexSegment>()));
            let (now, later) = self.segments.split_at(count);
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

/// Returns the number of entries of a table as the index stores it.
fn entry_count(entries: usize) -> Result<U32> {
    Ok(U32::new(exact(entries)?))
}
