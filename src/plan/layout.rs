//! Computes the exact layout of a dump: every length and offset, before the first byte is written.
//!
//! The length of a dump is at its start, so it must be known before any payload is read. A wasm module encodes most
//! lengths and addresses as LEB128, whose length depends on the value. Three of these nest: the size of a section
//! depends on the headers of its segments, each header on the segment's address and length, and the length of a segment
//! on the remaining space in its section.
//!
//! [`Layout`] avoids the circle. It places segments in order of memory and address, and fills one section at a time. For
//! the two lengths that are not known yet (the number of segments in the section and the length of the segment), it
//! reserves the maximum of 5 bytes each. If the rest of a section is too small for a segment, the segment is split
//! there and continues in the next section. So a body may end a few bytes below the limit, but never exceeds it. Once a
//! section is full, its lengths follow from its counts.
//!
//! The invariant: the encoder produces exactly the bytes that are counted here. `Segment::header_len` and the encoder
//! are tested against each other and against wasm-encoder, and a dump whose length differs from its plan is an error.
//!
//! The first section is the data section. The limit is 4 GiB, because the size of a section is a `u32`. Data beyond it
//! goes into custom sections named `corestream.data`, which have the same form. The index follows: its length depends
//! only on the number of its entries, and the checksum blocks grow until their number is at most 65,536.
//!
//! The cost is one pass over the segments, at 16 bytes for each.
//!
//! Sources: core specification, "Binary format",
//! [modules](https://webassembly.github.io/spec/core/binary/modules.html#data-section) and
//! [integers](https://webassembly.github.io/spec/core/binary/values.html#integers).
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

/// The length in bytes of the name that precedes the count in a section that continues the data section.
const CONTINUATION_NAME_BYTES: u32 = one_byte(name_bytes(CONTINUATION)) as u32;

/// The length in bytes below which the start of a payload does not become a segment of its own at the end of a section.
const MIN_SPLIT_BYTES: u64 = 64;

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
    /// Returns the length in bytes of its header: flag, memory, address and length.
    pub(crate) fn header_len(&self, ty: &MemoryType) -> u32 {
        header_start_len(self.memory, self.address, ty) + leb::u32_len(self.len)
    }
}

/// Returns the length in bytes of a segment's header without the length of the payload at its end.
fn header_start_len(memory: DumpMemoryIndex, address: u64, ty: &MemoryType) -> u32 {
    let memory = if memory.0 == 0 { 0 } else { leb::u32_len(memory.0) };
    let address = if ty.memory64 { address.cast_signed() } else { sign_extended(address) };
    // The flag, `i32.const` or `i64.const`, and `end`.
    3 + memory + leb::i64_len(address)
}

/// Returns the operand of the `i32.const` for an address below 2^32. It is negative from 2^31 on.
pub(crate) fn sign_extended(address: u64) -> i64 {
    let low = address & u64::from(u32::MAX);
    (low << 32).cast_signed() >> 32
}

/// A section with data segments: the data section or a custom section that continues it.
#[derive(Clone, Debug)]
pub(crate) struct DataSection {
    /// Its segments, as indices into the segments of the layout.
    pub(crate) segments: Range<usize>,
    /// The number of its segments.
    pub(crate) count: u32,
    /// Whether it is a custom section that continues the data section.
    pub(crate) is_continuation: bool,
    /// The length of its body in bytes, including name and count.
    pub(crate) body_len: u32,
}

impl DataSection {
    /// Returns its length in bytes: id, size and body.
    fn len(&self) -> u64 {
        section_len(self.body_len)
    }

    /// Returns the number of bytes before its first segment.
    pub(crate) fn head_len(&self) -> u64 {
        let lengths = [self.count, self.body_len].map(|number| u64::from(leb::u32_len(number)));
        let [count, size] = lengths;
        let name = if self.is_continuation { CONTINUATION_NAME_BYTES } else { 0 };
        1 + size + u64::from(name) + count
    }
}

/// The layout of the section [`INDEX`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IndexLayout {
    /// The offset of its first byte in the dump.
    pub(crate) offset: u64,
    /// The base-2 logarithm of the length in bytes of a checksum block; 0 if there are no checksums.
    pub(crate) block_log2: u32,
    /// The number of checksums.
    pub(crate) blocks: u32,
    /// The length of its body in bytes.
    pub(crate) body_len: u32,
}

/// The number of entries in each table of the index, except for the checksums.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EntryCounts {
    pub(crate) memories: usize,
    pub(crate) segments: usize,
    pub(crate) ranges: usize,
}

impl IndexLayout {
    /// Returns the layout of an index at `offset`, or `None` if the index does not fit into a section.
    pub(crate) fn new(offset: u64, entries: EntryCounts, checksums: bool) -> Option<Self> {
        let EntryCounts { memories, segments, ranges } = entries;
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

    /// Returns its length in bytes: id, size and body.
    pub(crate) fn len(&self) -> u64 {
        section_len(self.body_len)
    }
}

/// Returns the length of a section in bytes: id, size and body.
pub(crate) fn section_len(body_len: u32) -> u64 {
    1 + u64::from(leb::u32_len(body_len)) + u64::from(body_len)
}

/// A layout under construction, which places segments into sections in order of memory and address.
pub(crate) struct Layout<'t> {
    types: &'t [MemoryType],
    /// The maximum length in bytes of the body of a section.
    max_body_len: u32,
    segments: Vec<Segment>,
    sections: Vec<DataSection>,
    /// The index of the first segment in the current section.
    first: usize,
    /// The bytes of headers and payloads in the current section.
    used: u32,
}

impl<'t> Layout<'t> {
    /// Returns an empty layout for memories of these types, with section bodies of at most `max_body_len` bytes and
    /// room for `count` segments.
    ///
    /// # Errors
    /// Returns an error if the table of segments cannot be allocated.
    pub(crate) fn new(types: &'t [MemoryType], max_body_len: u32, count: usize) -> Result<Self> {
        let mut layout = Self {
            types,
            max_body_len,
            segments: Vec::new(),
            sections: Vec::new(),
            first: 0,
            used: 0,
        };
        layout.segments.try_reserve_exact(count).map_err(|_| out_of_memory())?;
        Ok(layout)
    }

    /// Places a range of a memory as one segment, or as several if a section ends within it.
    ///
    /// # Errors
    /// Returns an error if the table of segments cannot be allocated.
    pub(crate) fn place(&mut self, memory: DumpMemoryIndex, mut range: Range<u64>) -> Result<()> {
        let ty = self.types.get(memory.0 as usize).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("data of memory {memory}, which is not kept"))
        })?;
        while !range.is_empty() {
            let left = range.end - range.start;
            let room = self.room(memory, range.start, ty);
            if u64::from(room) < left.min(MIN_SPLIT_BYTES) {
                self.end_section()?;
                continue;
            }
            let len = u32::try_from(left).map_or(room, |left| left.min(room));
            let segment = Segment { address: range.start, len, memory };
            // Cannot exceed the limit, because `room` subtracts the headers.
            self.used += segment.header_len(ty) + len;
            self.segments.try_reserve(1).map_err(|_| out_of_memory())?;
            self.segments.push(segment);
            range.start += u64::from(len);
        }
        Ok(())
    }

    /// Returns the number of payload bytes that fit into the current section for a segment at `address`: 0 if not even
    /// its header fits.
    fn room(&self, memory: DumpMemoryIndex, address: u64, ty: &MemoryType) -> u32 {
        // The number of segments in the section and the length of the segment are not known yet.
        let reserved = 2 * limits::MAX_LEB_U32_BYTES;
        let overhead = header_start_len(memory, address, ty) + reserved;
        let name = if self.sections.is_empty() { 0 } else { CONTINUATION_NAME_BYTES };
        self.max_body_len.saturating_sub(self.used).saturating_sub(name + overhead)
    }

    /// Ends the current section if it has any segments.
    fn end_section(&mut self) -> Result<()> {
        let segments = self.first..self.segments.len();
        if segments.is_empty() {
            return Ok(());
        }
        let is_continuation = !self.sections.is_empty();
        let name = if is_continuation { CONTINUATION_NAME_BYTES } else { 0 };
        let count = exact(segments.len())?;
        // Cannot exceed the limit, because `room` subtracts the headers.
        let body_len = self.used.plus(name)?.plus(leb::u32_len(count))?;
        self.sections.push(DataSection { segments, count, is_continuation, body_len });
        (self.first, self.used) = (self.segments.len(), 0);
        Ok(())
    }

    /// Returns the segments, the sections, and the total length of the sections in bytes.
    pub(crate) fn finish(mut self) -> Result<(Vec<Segment>, Vec<DataSection>, u64)> {
        self.end_section()?;
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
    fn continues_a_long_segment_in_the_next_section() {
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
        assert_eq!(
            sections.iter().map(|s| s.is_continuation).collect::<Vec<_>>()[..2],
            [false, true]
        );
        assert!(len > 990);
    }
}
