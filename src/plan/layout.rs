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

use crate::arithmetic::{Checked, exact, sum};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    CONTINUATION, CRC_BYTES, INDEX, IndexHead, IndexMemory, IndexRange, IndexSegment, name_bytes,
    one_byte,
};
use crate::leb;
use crate::limits;
use crate::model::{DumpMemoryIndex, MemoryType};

/// The bytes that precede the count in a section that continues the data section.
const CONTINUATION_NAME_BYTES: u32 = one_byte(name_bytes(CONTINUATION)) as u32;

/// A part of a payload that is not worth a segment of its own at the end of a section, in bytes.
const SMALL_PART: u64 = 64;

/// One active data segment.
///
/// ```
/// use corestream::{CoreDump, Dumper, DumpMemoryIndex, Memory, MemoryImage, MemoryType};
///
/// let mut bytes = vec![0; 65_536];
/// bytes[1000..2000].fill(1);
/// let mut dump = CoreDump::new("guest.wasm");
/// dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
/// let plan = Dumper::new().plan(&dump)?;
/// let segment = plan.segments()[0];
/// assert_eq!((segment.memory, segment.address, segment.len), (DumpMemoryIndex(0), 1000, 1000));
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Segment {
    /// The address of its first byte.
    pub address: u64,
    /// Its length in bytes.
    pub len: u32,
    /// The index of its memory in the dump.
    pub memory: DumpMemoryIndex,
}

impl Segment {
    /// The bytes of its header: flag, memory, address and length.
    pub(crate) fn header_len(&self, ty: &MemoryType) -> u32 {
        head_len(self.memory, self.address, ty) + leb::u32_len(self.len)
    }
}

/// The bytes of a header without the length of the segment at its end.
fn head_len(memory: DumpMemoryIndex, address: u64, ty: &MemoryType) -> u32 {
    let memory = if memory.0 == 0 { 0 } else { leb::u32_len(memory.0) };
    let address = if ty.memory64 { address.cast_signed() } else { sign_extended(address) };
    // The flag, `i32.const` or `i64.const`, and `end`.
    3 + memory + leb::i64_len(address)
}

/// The operand of the `i32.const` that gives an address below 2^32: from 2^31 on it is negative.
pub(crate) fn sign_extended(address: u64) -> i64 {
    let low = address & u64::from(u32::MAX);
    (low << 32).cast_signed() >> 32
}

/// A section with data segments: `data` itself or one that continues it.
#[derive(Clone, Debug)]
pub(crate) struct DataSection {
    /// Its segments, as indices into those of the layout.
    pub(crate) segments: Range<usize>,
    /// The number of its segments.
    pub(crate) count: u32,
    /// Whether it continues the data section as a custom one.
    pub(crate) continuation: bool,
    /// The bytes of its body, name and count included.
    pub(crate) body_len: u32,
}

impl DataSection {
    /// All its bytes: id, size and body.
    fn len(&self) -> u64 {
        section_len(self.body_len)
    }

    /// The bytes before its first segment.
    pub(crate) fn head_len(&self) -> u64 {
        let lengths = [self.count, self.body_len].map(|number| u64::from(leb::u32_len(number)));
        let [count, size] = lengths;
        let name = if self.continuation { CONTINUATION_NAME_BYTES } else { 0 };
        1 + size + u64::from(name) + count
    }
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
        let tables = [
            (memories, size_of::<IndexMemory>()),
            (segments, size_of::<IndexSegment>()),
            (ranges, size_of::<IndexRange>()),
            (usize::try_from(blocks).ok()?, CRC_BYTES),
        ];
        let mut body_len = name_bytes(INDEX) + size_of::<IndexHead>() + CRC_BYTES;
        for (entries, bytes) in tables {
            body_len = body_len.checked_add(entries.checked_mul(bytes)?)?;
        }
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
    1 + u64::from(leb::u32_len(body_len)) + u64::from(body_len)
}

/// Places segments, in the order of memory and address, into sections.
pub(crate) struct Layout<'t> {
    types: &'t [MemoryType],
    /// The most bytes of the body of a section.
    limit: u32,
    segments: Vec<Segment>,
    sections: Vec<DataSection>,
    /// First segment of the section in hand.
    first: usize,
    /// Bytes of headers and payload in the section in hand.
    used: u32,
}

impl<'t> Layout<'t> {
    /// For memories of these types, sections with bodies of at most `limit` bytes, and about
    /// `count` segments.
    pub(crate) fn new(types: &'t [MemoryType], limit: u32, count: usize) -> Result<Self> {
        let mut layout =
            Self { types, limit, segments: Vec::new(), sections: Vec::new(), first: 0, used: 0 };
        layout.segments.try_reserve_exact(count).map_err(|_| out_of_memory())?;
        Ok(layout)
    }

    /// Places a range of a memory: as one segment, or as several where a section ends within it.
    pub(crate) fn place(&mut self, memory: DumpMemoryIndex, mut range: Range<u64>) -> Result<()> {
        let ty = self.types.get(memory.0 as usize).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("data of memory {memory}, which is not kept"))
        })?;
        while !range.is_empty() {
            let left = range.end - range.start;
            let room = self.room(memory, range.start, ty);
            if u64::from(room) < left.min(SMALL_PART) {
                self.close()?;
                continue;
            }
            let len = u32::try_from(left).map_or(room, |left| left.min(room));
            let segment = Segment { address: range.start, len, memory };
            // `room` keeps it within the limit.
            self.used += segment.header_len(ty) + len;
            self.segments.try_reserve(1).map_err(|_| out_of_memory())?;
            self.segments.push(segment);
            range.start += u64::from(len);
        }
        Ok(())
    }

    /// The payload bytes that a segment at this address may have in the section in hand: 0 if its header does not fit.
    fn room(&self, memory: DumpMemoryIndex, address: u64, ty: &MemoryType) -> u32 {
        let most = limits::MAX_LEB_U32_BYTES;
        let overhead = head_len(memory, address, ty) + most + most;
        let name = if self.sections.is_empty() { 0 } else { CONTINUATION_NAME_BYTES };
        self.limit.saturating_sub(self.used).saturating_sub(name + overhead)
    }

    /// Ends the section in hand, if it has any segment.
    fn close(&mut self) -> Result<()> {
        let segments = self.first..self.segments.len();
        if segments.is_empty() {
            return Ok(());
        }
        let continuation = !self.sections.is_empty();
        let name = if continuation { CONTINUATION_NAME_BYTES } else { 0 };
        let count = exact(segments.len())?;
        // `room` keeps it within the limit.
        let body_len = self.used.plus(name)?.plus(leb::u32_len(count))?;
        self.sections.push(DataSection { segments, count, continuation, body_len });
        (self.first, self.used) = (self.segments.len(), 0);
        Ok(())
    }

    /// Returns the segments, the sections, and the length of all sections in bytes.
    pub(crate) fn finish(mut self) -> Result<(Vec<Segment>, Vec<DataSection>, u64)> {
        self.close()?;
        let len = sum(self.sections.iter().map(DataSection::len))?;
        Ok((self.segments, self.sections, len))
    }
}

fn out_of_memory() -> Error {
    Error::out_of_memory("the table of segments")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_over_the_limit_goes_on_in_the_next_section() {
        let types = [MemoryType::wasm32(1)];
        let mut layout = Layout::new(&types, 256, 1).unwrap();
        layout.place(DumpMemoryIndex(0), 10..1000).unwrap();
        let (segments, sections, len) = layout.finish().unwrap();
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
