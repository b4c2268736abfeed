//! The exact layout: every length of a dump before its first byte is written.
//!
//! Sources: core specification, "Binary format", [modules](https://webassembly.github.io/spec/core/binary/modules.html#data-section)
//! and [integers](https://webassembly.github.io/spec/core/binary/values.html#integers).
#![allow(
    clippy::arithmetic_side_effects,
    reason = "the header of a segment has less than 64 bytes, sections are kept below 2^32 bytes, and \
              positions lie in images, which end below 2^64"
)]

use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::model::MemoryType;

/// The name of the custom sections that hold what does not fit into the data section.
#[allow(unreachable_pub, reason = "public with the feature `internals`")]
pub const CONTINUATION: &str = "corestream.data";

/// The name of the custom section that says how long the dump is.
pub(crate) const HEADER: &str = "corestream";
/// The name of the custom section that closes the dump.
pub(crate) const INDEX: &str = "corestream.index";

/// Bytes of the section [`HEADER`]: id, size, name and 32 bytes.
pub(crate) const HEADER_SECTION_BYTES: u64 = 1 + 1 + name_bytes(HEADER) + 32;

/// Bytes of the index: its head, and of an entry of each of its tables.
pub(crate) const INDEX_HEAD_BYTES: u64 = 28;
pub(crate) const MEMORY_ENTRY_BYTES: u64 = 12;
pub(crate) const SEGMENT_ENTRY_BYTES: u64 = 20;
pub(crate) const RANGE_ENTRY_BYTES: u64 = 16;
pub(crate) const CRC_BYTES: u64 = 4;

/// A part of a payload that is not worth a segment of its own at the end of a section, in bytes.
const SMALL_PART: u64 = 64;

/// One active data segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The address of its first byte.
    pub address: u64,
    /// Its length in bytes.
    pub len: u32,
    /// The index of its memory in the dump.
    pub memory: u32,
}

impl Segment {
    /// The bytes of its header: flag, memory, address and length.
    pub(crate) fn header_len(&self, ty: &MemoryType) -> u32 {
        head_len(self.memory, self.address, ty) + leb_u32_len(self.len)
    }
}

/// The bytes of a header without the length of the segment at its end.
fn head_len(memory: u32, address: u64, ty: &MemoryType) -> u32 {
    let memory = if memory == 0 { 0 } else { leb_u32_len(memory) };
    let address = if ty.memory64 { address.cast_signed() } else { sign_extended(address) };
    // The flag, `i32.const` or `i64.const`, and `end`.
    3 + memory + leb_i64_len(address)
}

/// The operand of the `i32.const` that gives an address below 2^32: from 2^31 on it is negative.
pub(crate) fn sign_extended(address: u64) -> i64 {
    let low = address & u64::from(u32::MAX);
    (low << 32).cast_signed() >> 32
}

/// The length of an unsigned LEB128 in bytes.
pub(crate) fn leb_u32_len(value: u32) -> u32 {
    (32 - (value | 1).leading_zeros()).div_ceil(7)
}

/// The length of a signed LEB128 in bytes; the same for `i32` and `i64`.
pub(crate) fn leb_i64_len(value: i64) -> u32 {
    let magnitude = if value < 0 { !value } else { value };
    (64 - magnitude.leading_zeros() + 1).div_ceil(7)
}

/// A section with data segments: `data` itself or one that continues it.
#[derive(Clone, Debug)]
pub(crate) struct DataSection {
    /// Its segments, as indices into those of the layout.
    pub(crate) segments: Range<usize>,
    /// Whether it continues the data section as a custom one.
    pub(crate) continuation: bool,
    /// The bytes of its body, name and count included.
    pub(crate) body_len: u32,
}

impl DataSection {
    /// The number of its segments.
    pub(crate) fn count(&self) -> u32 {
        // Each has more than four bytes, and all of them are less than 4 GiB.
        u32::try_from(self.segments.len()).unwrap_or(u32::MAX)
    }

    /// All its bytes: id, size and body.
    fn len(&self) -> u64 {
        section_len(self.body_len)
    }

    /// The bytes before its first segment.
    pub(crate) fn head_len(&self) -> u64 {
        let count = u64::from(leb_u32_len(self.count()));
        1 + u64::from(leb_u32_len(self.body_len)) + name_len(self.continuation) + count
    }
}

/// The bytes of the name of a section of ours, and of its length, which takes one.
const fn name_bytes(name: &str) -> u64 {
    1 + name.len() as u64
}

/// The bytes that precede the count: the name of a custom section.
fn name_len(continuation: bool) -> u64 {
    if continuation { name_bytes(CONTINUATION) } else { 0 }
}

/// What the section [`INDEX`] will hold, as far as lengths are concerned.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IndexLayout {
    /// Offset of its first byte in the dump.
    pub(crate) offset: u64,
    /// A checksum is over blocks of two to the power of this many bytes; 0: there are none.
    pub(crate) block_log2: u32,
    /// How many checksums there are.
    pub(crate) blocks: u32,
    /// Bytes of its body.
    pub(crate) body_len: u32,
}

/// How many entries its tables have, but for that of checksums.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entries {
    pub(crate) memories: usize,
    pub(crate) segments: usize,
    pub(crate) ranges: usize,
}

impl IndexLayout {
    /// The layout at `offset`; `None` if it would not fit into a section.
    pub(crate) fn new(offset: u64, entries: Entries, checksums: bool) -> Option<Self> {
        let Entries { memories, segments, ranges } = entries;
        let mut block_log2 = 0;
        if checksums {
            block_log2 = limits::MIN_CHECKSUM_BLOCK_LOG2;
            while offset.div_ceil(1 << block_log2) > limits::MAX_CHECKSUM_BLOCKS.into() {
                block_log2 += 1;
            }
        }
        let blocks = if checksums { offset.div_ceil(1 << block_log2) } else { 0 };
        let body_len = name_bytes(INDEX)
            + INDEX_HEAD_BYTES
            + memories as u64 * MEMORY_ENTRY_BYTES
            + segments as u64 * SEGMENT_ENTRY_BYTES
            + ranges as u64 * RANGE_ENTRY_BYTES
            + blocks * CRC_BYTES
            + CRC_BYTES;
        let blocks = u32::try_from(blocks).ok()?;
        Some(Self { offset, block_log2, blocks, body_len: u32::try_from(body_len).ok()? })
    }

    /// All its bytes: id, size and body.
    pub(crate) fn len(&self) -> u64 {
        section_len(self.body_len)
    }
}

/// All bytes of a section: id, size and body.
pub(crate) fn section_len(body_len: u32) -> u64 {
    1 + u64::from(leb_u32_len(body_len)) + u64::from(body_len)
}

/// Places segments, in the order of memory and address, into sections.
pub(crate) struct Layout<'t> {
    types: &'t [MemoryType],
    limit: u64,
    segments: Vec<Segment>,
    sections: Vec<DataSection>,
    /// First segment of the section in hand.
    first: usize,
    /// Bytes of headers and payload in the section in hand.
    used: u64,
}

impl<'t> Layout<'t> {
    /// For memories of these types, sections with bodies of at most `limit` bytes, and about
    /// `count` segments.
    pub(crate) fn new(types: &'t [MemoryType], limit: u32, count: usize) -> Result<Self> {
        let mut layout = Self {
            types,
            limit: u64::from(limit),
            segments: Vec::new(),
            sections: Vec::new(),
            first: 0,
            used: 0,
        };
        layout.segments.try_reserve_exact(count).map_err(|_| out_of_memory())?;
        Ok(layout)
    }

    /// Places a range of a memory: as one segment, or as several where a section ends within it.
    pub(crate) fn place(&mut self, memory: u32, mut range: Range<u64>) -> Result<()> {
        let ty = self.types.get(memory as usize).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("data of memory {memory}, which is not kept"))
        })?;
        while !range.is_empty() {
            let left = range.end - range.start;
            let room = self.room(memory, range.start, ty);
            if room < left.min(SMALL_PART) {
                self.close();
                continue;
            }
            // No more than the limit of a section, which is a `u32`.
            let len = u32::try_from(left.min(room)).unwrap_or(u32::MAX);
            let segment = Segment { address: range.start, len, memory };
            self.used += u64::from(segment.header_len(ty)) + u64::from(len);
            self.segments.try_reserve(1).map_err(|_| out_of_memory())?;
            self.segments.push(segment);
            range.start += u64::from(len);
        }
        Ok(())
    }

    /// The payload bytes that a segment at this address may have in the section in hand.
    fn room(&self, memory: u32, address: u64, ty: &MemoryType) -> u64 {
        let most = limits::MAX_LEB_U32_BYTES;
        let overhead = u64::from(head_len(memory, address, ty) + most + most);
        let name = name_len(!self.sections.is_empty());
        self.limit.saturating_sub(name + overhead + self.used)
    }

    /// Ends the section in hand, if it has any segment.
    fn close(&mut self) {
        let segments = self.first..self.segments.len();
        if segments.is_empty() {
            return;
        }
        let continuation = !self.sections.is_empty();
        let mut section = DataSection { segments, continuation, body_len: 0 };
        let count = u64::from(leb_u32_len(section.count()));
        let body_len = name_len(continuation) + count + self.used;
        // `room` keeps it within the limit, which is a `u32`.
        section.body_len = u32::try_from(body_len).unwrap_or(u32::MAX);
        self.sections.push(section);
        (self.first, self.used) = (self.segments.len(), 0);
    }

    /// The segments, the sections, and the bytes of all sections.
    pub(crate) fn finish(mut self) -> (Vec<Segment>, Vec<DataSection>, u64) {
        self.close();
        let len = self.sections.iter().map(DataSection::len).fold(0, u64::saturating_add);
        (self.segments, self.sections, len)
    }
}

fn out_of_memory() -> Error {
    Error::out_of_memory("the table of segments")
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasm_encoder::Encode;

    #[test]
    fn lengths_are_those_of_wasm_encoder() {
        let edges = (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) - 1, (1 << bit) + 1]);
        for value in edges.chain([u64::MAX]) {
            let mut bytes = Vec::new();
            value.cast_signed().encode(&mut bytes);
            assert_eq!(leb_i64_len(value.cast_signed()) as usize, bytes.len(), "{value:#x} as i64");
            if let Ok(value) = u32::try_from(value) {
                bytes.clear();
                value.encode(&mut bytes);
                assert_eq!(leb_u32_len(value) as usize, bytes.len(), "{value:#x} as u32");
                bytes.clear();
                value.cast_signed().encode(&mut bytes);
                let len = leb_i64_len(sign_extended(value.into()));
                assert_eq!(len as usize, bytes.len(), "{value:#x} as i32");
            }
        }
    }

    #[test]
    fn a_segment_over_the_limit_goes_on_in_the_next_section() {
        let types = [MemoryType::wasm32(1)];
        let mut layout = Layout::new(&types, 256, 1).unwrap();
        layout.place(0, 10..1000).unwrap();
        let (segments, sections, len) = layout.finish();
        let mut next = 10;
        for segment in &segments {
            assert_eq!(segment.address, next);
            next += u64::from(segment.len);
        }
        assert_eq!(next, 1000);
        assert!(sections.iter().all(|s| s.body_len <= 256));
        assert_eq!(sections.iter().map(|s| s.continuation).collect::<Vec<_>>()[..2], [false, true]);
        assert!(len > 990);
    }
}
