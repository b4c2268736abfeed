//! The sections `corestream` and `corestream.index`: how long the dump is, where everything is in it,
//! and checksums. `docs/format.md` describes them byte by byte.

use std::io;

use crc32fast::Hasher;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes, Unaligned};

use super::data::{CUSTOM, push_name, push_u32};
use crate::error::Error;
use crate::piece::{HEADER_BYTES, Header};
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

/// Bytes of the index that are handed on at once.
const CHUNK: usize = 64 << 10;

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

/// The section `corestream`.
pub(super) fn header_section(plan: &Plan<'_>) -> Header {
    let fields = HeaderFields {
        version: VERSION.into(),
        flags: flags(plan).into(),
        length: plan.len().into(),
        index: plan.index.offset.into(),
        block_log2: plan.index.block_log2.into(),
    };
    let mut header = Header::new();
    header.push(&[CUSTOM]);
    // Less than 64.
    push_u32(&mut header, u32::try_from(HEADER_SECTION_BYTES - 2).unwrap_or(u32::MAX));
    push_name(&mut header, HEADER);
    header.push(fields.as_bytes());
    header.push(&crc32fast::hash(fields.as_bytes()).to_le_bytes());
    header
}

fn flags(plan: &Plan<'_>) -> u32 {
    let partial = if plan.left_out().next().is_none() { 0 } else { PARTIAL };
    let degraded = if plan.shortfalls().is_empty() { 0 } else { DEGRADED };
    partial | degraded
}

/// The section `corestream.index`, made as it is written.
pub(crate) struct Index<'p> {
    plan: &'p Plan<'p>,
    /// The checksums of all blocks before the index.
    checksums: &'p [u32],
    /// Whether each memory may have changed while it was read.
    changing: &'p [bool],
}

impl<'p> Index<'p> {
    pub(crate) fn new(plan: &'p Plan<'p>, checksums: &'p [u32], changing: &'p [bool]) -> Self {
        Self { plan, checksums, changing }
    }

    /// Gives the bytes of the section to `put`, a bounded number at once.
    ///
    /// # Errors
    /// Those of `put`.
    pub(crate) fn emit(&self, put: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let no_room = |_| io::Error::other(Error::out_of_memory("a buffer for the index"));
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(CHUNK).map_err(no_room)?;
        let mut chunks = Chunks { buffer, crc: Hasher::new(), put };
        self.head(&mut chunks)?;
        self.memories(&mut chunks)?;
        self.segments(&mut chunks)?;
        self.ranges(&mut chunks)?;
        for checksum in self.checksums {
            chunks.push(&checksum.to_le_bytes())?;
        }
        chunks.finish()
    }

    fn head<F: FnMut(&[u8]) -> io::Result<()>>(&self, chunks: &mut Chunks<F>) -> io::Result<()> {
        let plan = self.plan;
        let mut section = Header::new();
        section.push(&[CUSTOM]);
        push_u32(&mut section, plan.index.body_len);
        push_name(&mut section, INDEX);
        chunks.push(section.as_bytes())?;
        let head = Head {
            version: VERSION.into(),
            flags: flags(plan).into(),
            memories: count(plan.memories.len()),
            segments: count(plan.segments.len()),
            ranges: count(plan.left_out.iter().map(Vec::len).sum()),
            block_log2: plan.index.block_log2.into(),
            blocks: plan.index.blocks.into(),
        };
        chunks.push(head.as_bytes())
    }

    fn memories<F: FnMut(&[u8]) -> io::Result<()>>(
        &self,
        chunks: &mut Chunks<F>,
    ) -> io::Result<()> {
        let mut segments = self.plan.segments.iter().peekable();
        let memories = self.changing.iter().zip(&self.plan.left_out);
        for (i, (changing, left_out)) in (0_u32..).zip(memories) {
            let mut of_memory = 0_u32;
            while segments.next_if(|segment| segment.memory == i).is_some() {
                of_memory = of_memory.saturating_add(1);
            }
            let flags = if *changing { CHANGING } else { 0 };
            let entry = MemoryEntry {
                segments: of_memory.into(),
                ranges: count(left_out.len()),
                flags: flags.into(),
            };
            chunks.push(entry.as_bytes())?;
        }
        Ok(())
    }

    fn ranges<F: FnMut(&[u8]) -> io::Result<()>>(&self, chunks: &mut Chunks<F>) -> io::Result<()> {
        for range in self.plan.left_out.iter().flatten() {
            let (first, last) = (*range.start(), *range.end());
            let entry = RangeEntry { first: first.into(), last: last.into() };
            chunks.push(entry.as_bytes())?;
        }
        Ok(())
    }

    fn segments<F: FnMut(&[u8]) -> io::Result<()>>(
        &self,
        chunks: &mut Chunks<F>,
    ) -> io::Result<()> {
        let plan = self.plan;
        let mut offset = plan.data_offset();
        for section in &plan.sections {
            offset = offset.saturating_add(section.head_len());
            for segment in plan.segments.get(section.segments.clone()).unwrap_or_default() {
                offset = offset.saturating_add(segment.header_len(plan.ty(segment)).into());
                let entry = SegmentEntry {
                    address: segment.address.into(),
                    offset: offset.into(),
                    len: segment.len.into(),
                };
                chunks.push(entry.as_bytes())?;
                offset = offset.saturating_add(segment.len.into());
            }
        }
        Ok(())
    }
}

/// The entries of a table, which are less than the bytes of the section: those are a `u32`.
fn count(entries: usize) -> U32 {
    u32::try_from(entries).unwrap_or(u32::MAX).into()
}

/// Collects small parts, and sums up what has passed.
struct Chunks<F> {
    buffer: Vec<u8>,
    crc: Hasher,
    put: F,
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Chunks<F> {
    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len().saturating_add(bytes.len()) > CHUNK {
            self.hand_on()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn hand_on(&mut self) -> io::Result<()> {
        self.crc.update(&self.buffer);
        (self.put)(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.hand_on()?;
        (self.put)(&self.crc.finalize().to_le_bytes())
    }
}
