//! The sections `corestream` and `corestream.index`: how long the dump is, where everything is in it,
//! and checksums. `docs/format.md` describes them byte by byte.

use crc32fast::Hasher;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes, Unaligned};

use super::data::{CUSTOM, push_name, push_u32};
use crate::error::{Error, ErrorKind, Result};
use crate::piece::HEADER_BYTES;
use crate::plan::{
    CRC_BYTES, HEADER, HEADER_SECTION_BYTES, INDEX, INDEX_HEAD_BYTES, MEMORY_ENTRY_BYTES, Plan,
    RANGE_ENTRY_BYTES, SEGMENT_ENTRY_BYTES,
};

/// The version of both sections.
const VERSION: u32 = 1;
/// Ranges of memories were left out on purpose.
const PARTIAL: u32 = 1 << 0;
/// Parts of the guest were left out, because the format has no room for them.
const DEGRADED: u32 = 1 << 1;
/// A memory may have been written to while it was read.
const CHANGING: u32 = 1 << 0;

/// Bytes of the index that are made at once, up to an entry more.
const CHUNK: usize = 64 << 10;
/// The most bytes of an entry of its tables, and of what stands before them.
const MAX_ENTRY: usize = 64;

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct HeaderFields {
    version: U32,
    flags: U32,
    length: U64,
    index: U64,
    block_log2: U32,
}

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    version: U32,
    flags: U32,
    memories: U32,
    segments: U32,
    ranges: U32,
    block_log2: U32,
    blocks: U32,
}

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct MemoryEntry {
    segments: U32,
    ranges: U32,
    flags: U32,
}

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct SegmentEntry {
    address: U64,
    offset: U64,
    len: U32,
}

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct RangeEntry {
    first: U64,
    last: U64,
}

// The plan counts on these lengths.
const _: () = {
    assert!(size_of::<Head>() as u64 == INDEX_HEAD_BYTES);
    assert!(size_of::<MemoryEntry>() as u64 == MEMORY_ENTRY_BYTES);
    assert!(size_of::<SegmentEntry>() as u64 == SEGMENT_ENTRY_BYTES);
    assert!(size_of::<RangeEntry>() as u64 == RANGE_ENTRY_BYTES);
    assert!(size_of::<U32>() as u64 == CRC_BYTES);
    let name = 1 + HEADER.len() as u64;
    let fields = size_of::<HeaderFields>() as u64 + CRC_BYTES;
    assert!(1 + 1 + name + fields == HEADER_SECTION_BYTES);
    assert!(HEADER_SECTION_BYTES <= HEADER_BYTES as u64);
};

/// Appends the section `corestream`.
pub(super) fn push_header_section(to: &mut Vec<u8>, plan: &Plan<'_>) {
    let fields = HeaderFields {
        version: VERSION.into(),
        flags: flags(plan).into(),
        length: plan.len().into(),
        index: plan.index.offset.into(),
        block_log2: plan.index.block_log2.into(),
    };
    to.push(CUSTOM);
    // Less than 64.
    push_u32(to, u32::try_from(HEADER_SECTION_BYTES - 2).unwrap_or(u32::MAX));
    push_name(to, HEADER);
    to.extend_from_slice(fields.as_bytes());
    to.extend_from_slice(&crc32fast::hash(fields.as_bytes()).to_le_bytes());
}

fn flags(plan: &Plan<'_>) -> u32 {
    let partial = if plan.left_out().next().is_none() { 0 } else { PARTIAL };
    let degraded = if plan.shortfalls().is_empty() { 0 } else { DEGRADED };
    partial | degraded
}

/// The section `corestream.index`, made a bounded number of bytes at a time.
pub(crate) struct Index<'p> {
    plan: &'p Plan<'p>,
    /// The checksums of all blocks before the index.
    checksums: Vec<u32>,
    /// Whether each memory may have changed while it was read.
    changing: Vec<bool>,
    /// The checksum of what was made.
    crc: Hasher,
    next: Next,
}

/// What comes next.
#[derive(Clone, Copy)]
enum Next {
    Head,
    /// The entry of a memory, whose segments begin at `segment`.
    Memory {
        memory: usize,
        segment: usize,
    },
    /// The entry of a segment, whose header begins at `offset` in the dump. `left` segments of its section have not been
    /// listed; the next section is `section`.
    Segment {
        segment: usize,
        section: usize,
        left: usize,
        offset: u64,
    },
    Range {
        memory: usize,
        range: usize,
    },
    Checksum(usize),
    Crc,
    End,
}

impl<'p> Index<'p> {
    pub(crate) fn new(plan: &'p Plan<'p>, checksums: Vec<u32>, changing: Vec<bool>) -> Self {
        Self { plan, checksums, changing, crc: Hasher::new(), next: Next::Head }
    }

    /// Replaces the bytes of `chunk` by the next ones of the section; none are left at its end.
    ///
    /// # Errors
    /// There is no memory for them.
    pub(crate) fn fill(&mut self, chunk: &mut Vec<u8>) -> Result<()> {
        chunk.clear();
        let no_room = |_| Error::out_of_memory("a buffer for the index");
        chunk.try_reserve(CHUNK + MAX_ENTRY).map_err(no_room)?;
        while chunk.len() < CHUNK {
            match self.next {
                Next::Head => {
                    self.push_head(chunk);
                    self.next = Next::Memory { memory: 0, segment: 0 };
                }
                Next::Memory { memory, segment } => self.push_memory(chunk, memory, segment),
                Next::Segment { segment, section, left, offset } => {
                    self.push_segments(chunk, segment, section, left, offset)?;
                }
                Next::Range { memory, range } => self.push_range(chunk, memory, range),
                Next::Checksum(i) => match self.checksums.get(i) {
                    Some(checksum) => {
                        chunk.extend_from_slice(&checksum.to_le_bytes());
                        self.next = Next::Checksum(i.saturating_add(1));
                    }
                    None => self.next = Next::Crc,
                },
                Next::Crc => {
                    self.crc.update(chunk);
                    chunk.extend_from_slice(&self.crc.clone().finalize().to_le_bytes());
                    self.next = Next::End;
                    return Ok(());
                }
                Next::End => return Ok(()),
            }
        }
        self.crc.update(chunk);
        Ok(())
    }

    fn push_head(&self, to: &mut Vec<u8>) {
        let plan = self.plan;
        to.push(CUSTOM);
        push_u32(to, plan.index.body_len);
        push_name(to, INDEX);
        let head = Head {
            version: VERSION.into(),
            flags: flags(plan).into(),
            memories: count(plan.memories.len()),
            segments: count(plan.segments.len()),
            ranges: count(plan.left_out.iter().map(Vec::len).sum()),
            block_log2: plan.index.block_log2.into(),
            blocks: plan.index.blocks.into(),
        };
        to.extend_from_slice(head.as_bytes());
    }

    fn push_memory(&mut self, to: &mut Vec<u8>, memory: usize, segment: usize) {
        let entry = self.changing.get(memory).zip(self.plan.left_out.get(memory));
        let Some((changing, left_out)) = entry else {
            let offset = self.plan.data_offset();
            self.next = Next::Segment { segment: 0, section: 0, left: 0, offset };
            return;
        };
        // They are in the order of memories.
        let rest = self.plan.segments.get(segment..).unwrap_or_default();
        let own = rest.partition_point(|segment| segment.memory as usize <= memory);
        let entry = MemoryEntry {
            segments: count(own),
            ranges: count(left_out.len()),
            flags: if *changing { CHANGING } else { 0 }.into(),
        };
        to.extend_from_slice(entry.as_bytes());
        let (memory, segment) = (memory.saturating_add(1), segment.saturating_add(own));
        self.next = Next::Memory { memory, segment };
    }

    /// Appends entries of segments until the chunk is full or all are listed.
    fn push_segments(
        &mut self,
        to: &mut Vec<u8>,
        mut segment: usize,
        mut section: usize,
        mut left: usize,
        mut offset: u64,
    ) -> Result<()> {
        let plan = self.plan;
        let too_far = || Error::new(ErrorKind::Internal, "a segment past the end of all offsets");
        let after = |offset: u64, len: u64| offset.checked_add(len).ok_or_else(too_far);
        while to.len() < CHUNK {
            if left == 0 {
                let Some(next) = plan.sections.get(section) else {
                    self.next = Next::Range { memory: 0, range: 0 };
                    return Ok(());
                };
                offset = after(offset, next.head_len())?;
                (segment, left) = (next.segments.start, next.segments.len());
                section = section.saturating_add(1);
            }
            let room = CHUNK.saturating_sub(to.len()).div_ceil(size_of::<SegmentEntry>());
            let some = left.min(room);
            let end = segment.saturating_add(some);
            for one in plan.segments.get(segment..end).unwrap_or_default() {
                offset = after(offset, one.header_len(plan.ty(one)).into())?;
                let entry = SegmentEntry {
                    address: one.address.into(),
                    offset: offset.into(),
                    len: one.len.into(),
                };
                to.extend_from_slice(entry.as_bytes());
                offset = after(offset, one.len.into())?;
            }
            (segment, left) = (end, left.saturating_sub(some));
        }
        self.next = Next::Segment { segment, section, left, offset };
        Ok(())
    }

    fn push_range(&mut self, to: &mut Vec<u8>, memory: usize, range: usize) {
        self.next = match self.plan.left_out.get(memory).map(|ranges| ranges.get(range)) {
            Some(Some(left_out)) => {
                let (first, last) = (*left_out.start(), *left_out.end());
                let entry = RangeEntry { first: first.into(), last: last.into() };
                to.extend_from_slice(entry.as_bytes());
                Next::Range { memory, range: range.saturating_add(1) }
            }
            Some(None) => Next::Range { memory: memory.saturating_add(1), range: 0 },
            None => Next::Checksum(0),
        };
    }
}

/// The entries of a table, which are less than the bytes of the section: those are a `u32`.
fn count(entries: usize) -> U32 {
    u32::try_from(entries).unwrap_or(u32::MAX).into()
}
