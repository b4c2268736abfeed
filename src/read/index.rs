//! The section `corestream.index`: finds it, decodes it and compares it with the sections.
//!
//! # The problem
//! The index locates every segment of a dump, lists the excluded ranges and holds the checksums of the blocks. A reader
//! uses it without touching the data, also when the dump is damaged or another tool has rewritten it. An index
//! in the wrong place, or of another dump, must not be believed: it would map addresses to the wrong bytes.
//!
//! # Places
//! - At the offset in the header, if the header is intact and in its place ([`Index::decode`]).
//! - Anywhere, in a dump that another tool has rewritten. Its offsets are void, but it still knows which ranges were
//!   excluded and which memories were changing ([`Index::decode_moved`]).
//! - Near the end of a damaged file whose header is lost, possibly with other bytes after it ([`find_at_end`]). The
//!   search goes backwards over the last 4 GiB, the maximum length of a section, and tries at most [`MAX_PLACES`]
//!   names. The size before a name may be encoded in one to five bytes, so each name gives five candidates. A candidate
//!   counts only if the lengths of its tables, which its head gives, add up to its size. The caller decodes the
//!   remaining ones.
//!
//! # Checks
//! An index counts only if its checksum matches. A checksum mismatch outranks every other fault in the index, so after
//! a fault the rest is still read and summed, in parts of 64 KiB. After that the index must agree with itself and with
//! the header: versions, flags, block size, the number of blocks, and tables that fill the section exactly. Segments
//! must be sorted and disjoint, both by address and by file offset, and no segment may overlap an excluded range.
//!
//! An intact index may still contradict the sections. That is not an error of decoding: [`Index::mismatch`] records the
//! first contradiction, and the caller decides. Salvage passes no sections to compare with,
//! because they are damaged.
//!
//! # The cost
//! One pass over any source or stream, in bounded memory. The entries of the long tables go to the caller one by one
//! and are not kept, except in a dump with excluded ranges: the segments come first there and have to be compared with
//! the ranges, so they are listed until then. [`MAX_PARTIAL_SEGMENTS`] bounds that list.

use std::ops::Range;

use crc32fast::Hasher;
use zerocopy::transmute;

use super::decode::Decoder;
use super::fault::{Fault, Result, dump_fault_to_none};
use super::header::{Header, unknown_value};
use super::input::{Input, Slice};
use super::segment::{Placement, Segment};
use super::source::Source;
use super::structure::Structure;
use super::table::Table;
use super::wide;
use crate::arithmetic::Checked;
use crate::control::Control;
use crate::error::ErrorKind;
use crate::format::{
    CHANGING, CRC_BYTES, CUSTOM, INDEX, IndexHead, IndexMemory, IndexRange, IndexSegment, PARTIAL,
    VERSION, name_bytes,
};
use crate::leb;
use crate::limits::{
    MAX_EXCLUDED_RANGES, MAX_LEB_U32_BYTES, MAX_MEMORIES, MAX_PARTIAL_SEGMENTS, MAX_PLACES,
    MAX_SECTION_BYTES,
};
use crate::model::MemoryType;
use crate::ranges::AddressRanges;

/// The name of the section, after the byte with its length.
const ENCODED_NAME: &[u8; name_bytes(INDEX)] = b"\x10corestream.index";

/// The maximum length in bytes of the section's id, size and name.
pub(super) const BEGINNING: usize = 1 + MAX_LEB_U32_BYTES as usize + ENCODED_NAME.len();

/// Returns whether `bytes` begin with the id, the size and the name of an index.
pub(super) fn begins(bytes: &[u8]) -> bool {
    let mut input = Slice::new(bytes, 0);
    let mut from = Decoder::new(&mut input, bytes.len() as u64);
    let mut is_named = || Ok(from.byte()? == CUSTOM && from.u32()? > 0 && from.is_named(INDEX)?);
    dump_fault_to_none(is_named()).is_ok_and(|is_named| is_named == Some(true))
}

/// The maximum length in bytes of a section, with its id and its size.
const MAX_SECTION_LEN: u64 = MAX_SECTION_BYTES as u64 + MAX_LEB_U32_BYTES as u64 + 1;

/// The number of bytes of an index that are skipped at once after a fault. Cancellation is checked between two skips.
const SKIP_BYTES: u64 = 1 << 16;

/// The number of offsets that are searched for the name of the index at once. With the rest of a name that begins at
/// the last of them, 1 MiB is read.
const SEARCH_BYTES: u64 = (1 << 20) - ENCODED_NAME.len() as u64;

/// A decoded index, without the long tables of segments and checksums.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The file offset of the table of segments.
    pub(super) segments_offset: u64,
    /// The memories, in the order of the memory section.
    pub(super) memories: Vec<IndexedMemory>,
    /// The first contradiction between the index and the sections.
    pub(super) mismatch: Option<Box<Fault>>,
}

/// A memory in the index.
#[derive(Clone, Debug)]
pub(super) struct IndexedMemory {
    /// The positions of its entries in the table of segments.
    pub(super) segments: Range<usize>,
    /// Its excluded ranges.
    pub(super) excluded: AddressRanges,
    /// Whether other threads may have written to the memory while the dump was written.
    pub(super) changing: bool,
}

/// An entry of one of the long tables.
pub(super) enum IndexEntry {
    /// The next segment.
    Segment(Segment),
    /// The checksum of the next block.
    Checksum(u32),
    /// At most 64 KiB of the index that were skipped after a fault.
    Skipped,
}

impl Index {
    /// Decodes the index at the offset of `input`, where the header locates it, and compares it with `sections`, if all
    /// of them are intact. Passes each entry of the long tables to `entry`.
    ///
    /// # Errors
    /// Returns an error if the index cannot be read, if its checksum does not match, or if it contradicts itself or the
    /// header. A checksum mismatch takes precedence over the other faults of the index. An intact index that
    /// contradicts the sections is not an error ([`mismatch`](Self::mismatch)).
    pub(super) fn decode<I: Input>(
        input: &mut I,
        header: &Header,
        sections: Option<&Structure>,
        entry: &mut impl FnMut(IndexEntry) -> Result<()>,
    ) -> Result<Self> {
        let range = header.index_range();
        input.start_crc(Hasher::new());
        // The checksum is the last four bytes.
        let crc_start = range.end.checked_sub(CRC_BYTES as u64).filter(|end| range.start <= *end);
        let Some(crc_start) = crc_start else {
            return Err(Fault::damaged(range, "corestream.index: too short for a checksum"));
        };
        if range.end.minus(range.start)? > MAX_SECTION_LEN {
            return Err(Fault::damaged(range, "corestream.index: longer than a section can be"));
        }
        let from = Decoder::new(input, crc_start);
        let mut tables = TableDecoder { from, header, sections, index: Self::default() };
        let decoded = tables.decode(entry);
        let TableDecoder { mut from, index, .. } = tables;
        let decoded = match decoded {
            Err(fault) if !fault.is_of_dump() => return Err(fault),
            decoded => decoded,
        };
        // If decoding ran into the end of the input, this does so again.
        let skipped = skip_rest(&mut from, entry);
        let skipped = match skipped {
            Err(fault) if !fault.is_of_dump() => return Err(fault),
            skipped => skipped,
        };
        let computed = input.finish_crc();
        let stored = skipped.and_then(|()| Decoder::new(input, range.end).array());
        let stored = stored.map_err(|fault| fault.with_dump_len(header.length))?;
        if computed != u32::from_le_bytes(stored) {
            return Err(Fault::damaged(range, "corestream.index: checksum mismatch"));
        }
        decoded.map_err(|fault| fault.within(INDEX))?;
        Ok(index)
    }
}

/// Skips the rest of an index. Passes an entry for each part, so that the caller can check for cancellation.
fn skip_rest<I: Input>(
    from: &mut Decoder<'_, I>,
    entry: &mut impl FnMut(IndexEntry) -> Result<()>,
) -> Result<()> {
    while from.remaining()? > 0 {
        entry(IndexEntry::Skipped)?;
        from.skip(from.remaining()?.min(SKIP_BYTES))?;
    }
    Ok(())
}

/// Decodes the part of an index that its checksum covers.
struct TableDecoder<'i, 'w, I> {
    from: Decoder<'i, I>,
    header: &'w Header,
    sections: Option<&'w Structure>,
    index: Index,
}

impl<I: Input> TableDecoder<'_, '_, I> {
    fn decode(&mut self, entry: &mut impl FnMut(IndexEntry) -> Result<()>) -> Result<()> {
        self.decode_prefix()?;
        let head = self.decode_head()?;
        let ranges = self.decode_memories(&head)?;
        let mut listed = Vec::new();
        self.decode_segments(|segment| {
            // Few dumps have excluded ranges. The others need no list of segments.
            if head.ranges.get() > 0 {
                listed.push(segment);
            }
            entry(IndexEntry::Segment(segment))
        })?;
        self.decode_ranges(&listed, ranges)?;
        for _ in 0..head.blocks.get() {
            entry(IndexEntry::Checksum(u32::from_le_bytes(self.from.array()?)))?;
        }
        Ok(())
    }

    /// Compares the index with the sections. Records the fault that `check` returns, unless there is one already.
    fn compare(&mut self, check: impl FnOnce(&Structure) -> Result<()>) {
        if let (Some(sections), None) = (self.sections, &self.index.mismatch) {
            let fault = check(sections).err();
            self.index.mismatch = fault.map(|fault| fault.within(INDEX));
        }
    }

    /// Decodes the id, the size and the name of the section.
    fn decode_prefix(&mut self) -> Result<()> {
        let from = &mut self.from;
        let start = from.offset();
        let custom = from.byte()? == CUSTOM;
        let size = from.u32()?;
        let remaining = self.header.length.minus(from.offset())?;
        let named = from.is_named(INDEX)?;
        if !custom || !named {
            let message = "not found at the offset in section `corestream`";
            return Err(Fault::damaged(from.since(start), message));
        }
        if u64::from(size) != remaining {
            let message = format!("section size {size}, but the dump ends after {remaining} bytes");
            return Err(Fault::damaged(from.since(start), message));
        }
        Ok(())
    }

    fn decode_head(&mut self) -> Result<IndexHead> {
        let start = self.from.offset();
        let bytes: [u8; size_of::<IndexHead>()] = self.from.array()?;
        let head: IndexHead = transmute!(bytes);
        let at = self.from.since(start);
        let damaged = |message| Fault::damaged(at.clone(), message);
        let (memories, segments) = (head.memories.get(), head.segments.get());
        if head.version.get() != VERSION {
            return Err(unknown_value(at, "version", head.version.get()));
        }
        if (head.flags.get(), head.block_log2.get()) != (self.header.flags, self.header.block_log2)
        {
            let message = "flags or block size differ from section `corestream`";
            return Err(damaged(message.into()));
        }
        let ranges = head.ranges.get();
        if (head.flags.get() & PARTIAL != 0) != (ranges > 0) {
            return Err(damaged(format!("the number of ranges, {ranges}, contradicts the flags")));
        }
        if head.blocks.get() != self.header.block_count() {
            let (n, expected) = (head.blocks.get(), self.header.block_count());
            return Err(damaged(format!("checksum count {n}, but there are {expected} blocks")));
        }
        if memories as usize > MAX_MEMORIES {
            let message = format!("{memories} memories are over the limit of {MAX_MEMORIES}");
            return Err(damaged(message));
        }
        if head.ranges.get() > 0 && segments as usize > MAX_PARTIAL_SEGMENTS {
            let message = format!(
                "{segments} segments are over the limit of {MAX_PARTIAL_SEGMENTS} for a dump with \
                 excluded ranges"
            );
            return Err(Fault::unsupported(at, message));
        }
        check_range_count(&head, at.clone())?;
        let expected = table_bytes(&head);
        let remaining = self.from.remaining()?;
        if expected != remaining.into() {
            return Err(damaged(format!(
                "tables of {expected} bytes, but {remaining} bytes remain"
            )));
        }
        self.compare(|sections| match (sections.memories.len(), sections.segments) {
            (found, _) if memories as usize != found => {
                let message = format!("memory count {memories}, but the sections have {found}");
                Err(damaged(message))
            }
            (_, found) if u64::from(segments) != found => {
                let message = format!("segment count {segments}, but the sections have {found}");
                Err(damaged(message))
            }
            _ => Ok(()),
        });
        Ok(head)
    }

    /// Decodes the table of memories. Returns the positions of each memory's entries in the table of ranges.
    fn decode_memories(&mut self, head: &IndexHead) -> Result<Vec<Range<usize>>> {
        let start = self.from.offset();
        let wrong_totals = |from: &Decoder<'_, I>| {
            let message = "the counts of segments or ranges do not add up to their totals";
            Fault::damaged(from.since(start), message)
        };
        let mut all_ranges = Vec::new();
        let (mut segments, mut ranges) = (0, 0);
        for i in 0..head.memories.get() {
            let entry = self.from.offset();
            let bytes: [u8; size_of::<IndexMemory>()] = self.from.array()?;
            let memory: IndexMemory = transmute!(bytes);
            if memory.flags.get() & !CHANGING != 0 {
                let fault = unknown_value(self.from.since(entry), "flags", memory.flags.get());
                return Err(fault.within(format_args!("memory {i}")));
            }
            let entries = (
                take_entries(&mut segments, memory.segments.get()),
                take_entries(&mut ranges, memory.ranges.get()),
            );
            let (Some(segments), Some(ranges)) = entries else {
                return Err(wrong_totals(&self.from));
            };
            let changing = memory.flags.get() & CHANGING != 0;
            let excluded = AddressRanges::default();
            self.index.memories.push(IndexedMemory { segments, excluded, changing });
            all_ranges.push(ranges);
        }
        let expected = (u64::from(head.segments.get()), u64::from(head.ranges.get()));
        match (segments as u64, ranges as u64) == expected {
            true => Ok(all_ranges),
            false => Err(wrong_totals(&self.from)),
        }
    }

    /// Decodes the table of segments. Checks that they are in order, and compares them with the memories and the data
    /// sections.
    fn decode_segments(&mut self, mut each: impl FnMut(Segment) -> Result<()>) -> Result<()> {
        self.index.segments_offset = self.from.offset();
        let mut data = self.sections.map_or(&[][..], |sections| &sections.data).iter().peekable();
        let mut previous: Option<Segment> = None;
        for (memory, entries) in (0..).zip(self.index.segment_entries()) {
            for i in entries {
                let start = self.from.offset();
                let bytes: [u8; size_of::<IndexSegment>()] = self.from.array()?;
                let raw: IndexSegment = transmute!(bytes);
                let at = self.from.since(start);
                let in_segment = |fault: Box<Fault>| fault.within(format_args!("segment {i}"));
                let damaged = |message: String| {
                    Err(Fault::damaged(at.clone(), format!("segment {i}: {message}")))
                };
                let Some(segment) = Placement::from_index_entry(&raw, memory)
                    .checked(at.clone())
                    .map_err(in_segment)?
                else {
                    return damaged("empty".into());
                };
                let file = segment.in_file();
                let follows = previous.is_none_or(|previous| {
                    segment.follows(&previous) && previous.in_file().end <= file.start
                });
                if !follows {
                    return damaged("out of order, or overlaps the previous segment".into());
                }
                self.compare(|sections| {
                    segment
                        .placement()
                        .check(&sections.memories, at.clone())
                        .map_err(in_segment)?;
                    while data.next_if(|section| section.end < file.end).is_some() {}
                    match data.peek().is_some_and(|section| section.start <= file.start) {
                        true => Ok(()),
                        false => {
                            let Range { start, end } = file;
                            damaged(format!(
                                "file range {start:#x}..{end:#x} is in no data section"
                            ))
                        }
                    }
                });
                previous = Some(segment);
                each(segment)?;
            }
        }
        Ok(())
    }

    /// Decodes the table of ranges. `ranges` holds the positions of each memory's entries. Checks that they are in
    /// order and overlap none of `segments`, and compares them with the memories.
    fn decode_ranges(&mut self, segments: &[Segment], ranges: Vec<Range<usize>>) -> Result<()> {
        let memories = ranges.into_iter().zip(self.index.segment_entries()).enumerate();
        for (memory, (entries, segment_entries)) in memories {
            let mut segments = segments.get(segment_entries).unwrap_or_default().iter().peekable();
            let mut excluded = AddressRanges::default();
            for i in entries {
                let start = self.from.offset();
                let bytes: [u8; size_of::<IndexRange>()] = self.from.array()?;
                let raw: IndexRange = transmute!(bytes);
                let (first, last) = (raw.first.get(), raw.last.get());
                while segments.next_if(|segment| segment.last() < first).is_some() {}
                let at = self.from.since(start);
                let damaged = |message| {
                    let message = format!("range {i} (memory {memory}): {message}");
                    Err(Fault::damaged(at.clone(), message))
                };
                if first > last {
                    return damaged("empty");
                }
                if !excluded.push(first..=last) {
                    return damaged("out of order, or overlaps or touches the previous range");
                }
                if segments.peek().is_some_and(|segment| segment.address() <= last) {
                    return damaged("overlaps a segment");
                }
                self.compare(|sections| match sections.memories.get(memory) {
                    Some(ty) if u128::from(last) < ty.size() => Ok(()),
                    _ => damaged("past the end of the memory"),
                });
            }
            if let Some(memory) = self.index.memories.get_mut(memory) {
                memory.excluded = excluded;
            }
        }
        Ok(())
    }
}

impl Index {
    /// Decodes the index of a dump that another tool has rewritten, as far as it is still true: the excluded ranges of
    /// each memory, and whether it was changing.
    ///
    /// `body` is the range of the section after its name. Returns `None` if the checksum does not match, or if the
    /// index does not fit `memories`.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read, or if an intact index has more ranges than a reader keeps.
    pub(super) fn decode_moved(
        source: Source<'_>,
        body: Range<u64>,
        header: &Header,
        memories: &[MemoryType],
    ) -> Result<Option<Self>> {
        let len = body.end.checked_sub(body.start);
        let crc_start = body.end.checked_sub(CRC_BYTES as u64);
        let hasher = len.and_then(hasher_before_body);
        let (Some(crc_start), Some(hasher)) = (crc_start, hasher) else { return Ok(None) };
        let mut input = source.input(body.start);
        input.start_crc(hasher);
        let mut from = Decoder::new(&mut input, crc_start);
        let decoded = Self::decode_moved_body(&mut from, header, memories);
        let mut crc_matches = || {
            Decoder::new(&mut input, crc_start).skip_rest()?;
            let computed = input.finish_crc();
            let stored = Decoder::new(&mut input, body.end).array()?;
            Ok(computed == u32::from_le_bytes(stored))
        };
        match (dump_fault_to_none(crc_matches())?, decoded) {
            (Some(true), Err(fault)) if fault.kind == ErrorKind::Unsupported => Err(fault),
            (Some(true), decoded) => Ok(dump_fault_to_none(decoded)?.flatten()),
            _ => Ok(None),
        }
    }

    /// Decodes the body of such an index, except for its checksum. Returns `None` if it does not fit `memories`.
    ///
    /// # Errors
    /// Returns an error if the index is truncated or has more ranges than a reader keeps.
    fn decode_moved_body<I: Input>(
        from: &mut Decoder<'_, I>,
        header: &Header,
        memories: &[MemoryType],
    ) -> Result<Option<Self>> {
        let start = from.offset();
        let head: [u8; size_of::<IndexHead>()] = from.array()?;
        let head: IndexHead = transmute!(head);
        let is_of_dump = head.version.get() == VERSION
            && head.flags.get() == header.flags
            && head.memories.get() as usize == memories.len();
        if !is_of_dump {
            return Ok(None);
        }
        check_range_count(&head, from.since(start)).map_err(|fault| fault.within(INDEX))?;
        let mut entries = Vec::new();
        for _ in memories {
            let entry: [u8; size_of::<IndexMemory>()] = from.array()?;
            let entry: IndexMemory = transmute!(entry);
            entries.push(entry);
        }
        let segments = u64::from(head.segments.get());
        from.skip(segments.times(size_of::<IndexSegment>() as u64)?)?;
        let mut index = Self::default();
        let mut remaining = head.ranges.get();
        for (entry, ty) in entries.iter().zip(memories) {
            let count = entry.ranges.get();
            let Some(fewer) = remaining.checked_sub(count) else { return Ok(None) };
            remaining = fewer;
            let mut excluded = AddressRanges::default();
            for _ in 0..count {
                let range: [u8; size_of::<IndexRange>()] = from.array()?;
                let range: IndexRange = transmute!(range);
                let (first, last) = (range.first.get(), range.last.get());
                if u128::from(last) >= ty.size() || !excluded.push(first..=last) {
                    return Ok(None);
                }
            }
            let changing = entry.flags.get() & CHANGING != 0;
            index.memories.push(IndexedMemory { segments: 0..0, excluded, changing });
        }
        Ok((remaining == 0).then_some(index))
    }

    /// Returns whether no segment of `table` overlaps an excluded range.
    pub(super) fn is_disjoint_from(&self, table: &Table) -> bool {
        (0..).zip(&self.memories).all(|(memory, indexed)| {
            let Some(first) = indexed.excluded.as_slice().first() else { return true };
            // Ranges and segments are both sorted, so one pass over each is enough.
            let mut segments = table.segments_from(memory, *first.start()).iter().peekable();
            indexed.excluded.iter().all(|range| {
                while segments.next_if(|segment| segment.last() < *range.start()).is_some() {}
                segments.peek().is_none_or(|segment| segment.address() > *range.end())
            })
        })
    }

    /// Returns the positions of each memory's entries in the table of segments.
    fn segment_entries(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let entries: Vec<_> = self.memories.iter().map(|memory| memory.segments.clone()).collect();
        entries.into_iter()
    }
}

/// Checks the number of excluded ranges against the limit of a reader. The head is at `at`.
fn check_range_count(head: &IndexHead, at: Range<u64>) -> Result<()> {
    match head.ranges.get() {
        ranges if ranges as usize > MAX_EXCLUDED_RANGES => {
            let message = format!("{ranges} ranges are over the limit of {MAX_EXCLUDED_RANGES}");
            Err(Fault::unsupported(at, message))
        }
        _ => Ok(()),
    }
}

/// Returns the length in bytes of the tables after the head of an index.
fn table_bytes(head: &IndexHead) -> u128 {
    let tables = [
        (head.memories.get(), size_of::<IndexMemory>()),
        (head.segments.get(), size_of::<IndexSegment>()),
        (head.ranges.get(), size_of::<IndexRange>()),
        (head.blocks.get(), size_of::<u32>()),
    ];
    tables.iter().map(|(n, size)| wide::product(u64::from(*n), *size as u64)).sum()
}

/// Finds candidates for an index near the end of a dump whose header is lost, the last one first.
///
/// Returns the header that the dump must have had for each candidate. [`Index::decode`] decides whether a candidate is
/// an index. Other bytes may follow it.
///
/// # Errors
/// Returns an error if the dump cannot be read, or if the work was cancelled.
pub(super) fn find_at_end(source: Source<'_>, control: &Control) -> Result<Vec<Header>> {
    let mut headers = Vec::new();
    for name in find_names(source, control)? {
        for size_len in 1..=5 {
            headers.extend(dump_fault_to_none(infer_header(source, name, size_len))?.flatten());
        }
    }
    Ok(headers)
}

/// Returns the last [`MAX_PLACES`] offsets of the name of the index in a dump, the last one first.
fn find_names(source: Source<'_>, control: &Control) -> Result<Vec<u64>> {
    let mut offsets = Vec::new();
    let mut buffer = Vec::new();
    let len = source.len();
    // The names that were found so far begin at or after `end`.
    let mut end = len;
    // The search stops at the start of the file.
    let first = end.saturating_sub(MAX_SECTION_LEN);
    while end > first && offsets.len() < MAX_PLACES {
        control.check_cancelled()?;
        let start = end.saturating_sub(SEARCH_BYTES).max(first);
        // A name that begins before `end` may end after it.
        let name_len = ENCODED_NAME.len();
        let part_end = end.checked_add(name_len as u64).map_or(len, |part_end| part_end.min(len));
        let part = source.part(start..part_end, &mut buffer)?;
        let names =
            part.windows(name_len).enumerate().rev().filter(|(_, name)| *name == ENCODED_NAME);
        let at = names.filter_map(|(at, _)| start.checked_add(at as u64).filter(|at| *at < end));
        let room = offsets.len()..MAX_PLACES;
        offsets.extend(at.take(room.len()));
        end = start;
    }
    Ok(offsets)
}

/// Infers the header of a dump from its index. The index has its encoded name at offset `name`, and a size of
/// `size_len` bytes before that. Returns `None` if there can be no such index.
fn infer_header(source: Source<'_>, name: u64, size_len: u64) -> Result<Option<Header>> {
    let before = size_len.checked_add(1).and_then(|before| name.checked_sub(before));
    let Some(start) = before else { return Ok(None) };
    let mut input = source.input(start);
    let mut section = Decoder::new(&mut input, source.len());
    let (custom, size) = (section.byte()? == CUSTOM, section.u32()?);
    let sized = section.offset() == name;
    let end = section.offset().checked_add(size.into()).filter(|end| *end <= source.len());
    section.skip(ENCODED_NAME.len() as u64)?;
    let head: [u8; size_of::<IndexHead>()] = section.array()?;
    let head: IndexHead = transmute!(head);
    let (flags, block_log2) = (head.flags.get(), head.block_log2.get());
    // This rejects most false candidates by their head, without reading up to 4 GiB.
    let tables_end = end.and_then(|end| end.checked_sub(CRC_BYTES as u64));
    let tables_len = tables_end.and_then(|end| end.checked_sub(section.offset()));
    let fits = tables_len.is_some_and(|len| u128::from(len) == table_bytes(&head));
    let end = end.filter(|_| custom && sized && fits);
    Ok(end.and_then(|end| Header::new(flags, end, start, block_log2)))
}

/// Returns a hasher that has consumed the id, the size and the name of an index section with `len` bytes after its
/// name.
///
/// The checksum covers the size in its shortest encoding. Another tool may have encoded it in more bytes since.
fn hasher_before_body(len: u64) -> Option<Hasher> {
    let mut prefix = vec![CUSTOM];
    leb::push_u32(&mut prefix, u32::try_from(len.checked_add(ENCODED_NAME.len() as u64)?).ok()?);
    prefix.extend_from_slice(ENCODED_NAME);
    let mut hasher = Hasher::new();
    hasher.update(&prefix);
    Some(hasher)
}

/// Returns the positions of the next `count` entries from `position` on, and advances it. Returns `None` on overflow.
fn take_entries(position: &mut usize, count: u32) -> Option<Range<usize>> {
    let start = *position;
    *position = start.checked_add(count as usize)?;
    Some(start..*position)
}

#[cfg(test)]
mod tests;
