//! The section `corestream.index`: decoded once, for any source and for a stream, and held
//! against what the sections say.

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

/// The name of the section after its length.
const NAMED: &[u8; name_bytes(INDEX)] = b"\x10corestream.index";

/// Bytes from the id of the section to the end of its name, at most.
pub(super) const BEGINNING: usize = 1 + MAX_LEB_U32_BYTES as usize + NAMED.len();

/// Returns whether an index begins with these bytes.
pub(super) fn begins(bytes: &[u8]) -> bool {
    let mut input = Slice::new(bytes, 0);
    let mut from = Decoder::new(&mut input, bytes.len() as u64);
    let mut is_named = || Ok(from.byte()? == CUSTOM && from.u32()? > 0 && from.is_named(INDEX)?);
    dump_fault_to_none(is_named()).is_ok_and(|is_named| is_named == Some(true))
}

/// The bytes of a section are no more, with its id and its size.
const MAX_SECTION: u64 = MAX_SECTION_BYTES as u64 + MAX_LEB_U32_BYTES as u64 + 1;

/// Bytes of an index that are summed up at once where they are not decoded.
const SKIPPED: u64 = 1 << 16;

/// Bytes in which the name of the index may begin that are searched at once.
const SEARCHED: u64 = (1 << 20) - NAMED.len() as u64;

/// What the index says, but for the long tables of segments and checksums.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Offset in the file of the table of segments.
    pub(super) segments: u64,
    /// In the order of the memory section.
    pub(super) memories: Vec<IndexedMemory>,
    /// Where it is not what the sections say, first.
    pub(super) disagrees: Option<Box<Fault>>,
}

/// A memory in the index.
#[derive(Clone, Debug)]
pub(super) struct IndexedMemory {
    /// Its entries in the table of segments.
    pub(super) segments: Range<usize>,
    /// Its excluded ranges.
    pub(super) excluded: AddressRanges,
    /// Other threads may have written to it while it was read.
    pub(super) changing: bool,
}

/// An entry of one of the long tables.
pub(super) enum Entry {
    /// Of the table of segments.
    Segment(Segment),
    /// Of the table of checksums: those of the blocks in order.
    Checksum(u32),
    /// Some bytes of a table that is not decoded, because something before it is wrong.
    Skipped,
}

impl Index {
    /// Decodes the index at the offset of `input`, which is where the header says it is, and holds it against the sections
    /// before it, if all of those are sound.
    ///
    /// # Errors
    /// Returns an error if it cannot be read, or if it contradicts itself, its checksum or the header. That its checksum does
    /// not hold comes before everything else that is wrong with it. An index that is sound but not what the sections say is
    /// no error ([`disagrees`](Self::disagrees)).
    pub(super) fn decode<I: Input>(
        input: &mut I,
        header: &Header,
        sections: Option<&Structure>,
        entry: &mut impl FnMut(Entry) -> Result<()>,
    ) -> Result<Self> {
        let range = header.index_range();
        input.start_crc(Hasher::new());
        // The checksum is the last four bytes.
        let summed = range.end.checked_sub(CRC_BYTES as u64).filter(|end| range.start <= *end);
        let Some(summed) = summed else {
            return Err(Fault::damaged(range, "corestream.index: has no room for its checksum"));
        };
        if range.end.minus(range.start)? > MAX_SECTION {
            return Err(Fault::damaged(range, "corestream.index: is longer than a section can be"));
        }
        let from = Decoder::new(input, summed);
        let mut tables = Tables { from, header, sections, index: Self::default() };
        let decoded = tables.decode(entry);
        let Tables { mut from, index, .. } = tables;
        let decoded = match decoded {
            Err(fault) if !fault.is_of_dump() => return Err(fault),
            decoded => decoded,
        };
        // An input that has ended here does so again.
        let passed = skip_rest(&mut from, entry);
        let passed = match passed {
            Err(fault) if !fault.is_of_dump() => return Err(fault),
            passed => passed,
        };
        let crc = input.finish_crc();
        let stored = passed.and_then(|()| Decoder::new(input, range.end).array());
        let stored = stored.map_err(|fault| fault.with_dump_len(header.length))?;
        if crc != u32::from_le_bytes(stored) {
            let message = "corestream.index: its checksum does not hold";
            return Err(Fault::damaged(range, message));
        }
        decoded.map_err(|fault| fault.within(INDEX))?;
        Ok(index)
    }
}

/// Passes what is left of an index, in parts of which each is an entry.
fn skip_rest<I: Input>(
    from: &mut Decoder<'_, I>,
    entry: &mut impl FnMut(Entry) -> Result<()>,
) -> Result<()> {
    while from.remaining()? > 0 {
        entry(Entry::Skipped)?;
        from.skip(from.remaining()?.min(SKIPPED))?;
    }
    Ok(())
}

/// What the checksum is over, while it is decoded.
struct Tables<'i, 'w, I> {
    from: Decoder<'i, I>,
    header: &'w Header,
    sections: Option<&'w Structure>,
    index: Index,
}

impl<I: Input> Tables<'_, '_, I> {
    fn decode(&mut self, entry: &mut impl FnMut(Entry) -> Result<()>) -> Result<()> {
        self.section()?;
        let head = self.head()?;
        let ranges = self.memories(&head)?;
        let mut listed = Vec::new();
        self.segments(|segment| {
            // Ranges are rare, and held against the segments only where there are some.
            if head.ranges.get() > 0 {
                listed.push(segment);
            }
            entry(Entry::Segment(segment))
        })?;
        self.ranges(&listed, ranges)?;
        for _ in 0..head.blocks.get() {
            entry(Entry::Checksum(u32::from_le_bytes(self.from.array()?)))?;
        }
        Ok(())
    }

    /// Notes what `check` finds, unless something was found before.
    fn compare(&mut self, check: impl FnOnce(&Structure) -> Result<()>) {
        if let (Some(sections), None) = (self.sections, &self.index.disagrees) {
            let fault = check(sections).err();
            self.index.disagrees = fault.map(|fault| fault.within(INDEX));
        }
    }

    /// Id, size and name.
    fn section(&mut self) -> Result<()> {
        let from = &mut self.from;
        let start = from.offset();
        let custom = from.byte()? == CUSTOM;
        let size = from.u32()?;
        let left = self.header.length.minus(from.offset())?;
        let named = from.is_named(INDEX)?;
        if !custom || !named {
            return Err(Fault::damaged(from.since(start), "is not where `corestream` says it is"));
        }
        if u64::from(size) != left {
            let message = format!("has {size} bytes and not the {left} up to the end");
            return Err(Fault::damaged(from.since(start), message));
        }
        Ok(())
    }

    fn head(&mut self) -> Result<IndexHead> {
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
            return Err(damaged("its flags or its blocks are not those of `corestream`".into()));
        }
        let ranges = head.ranges.get();
        if (head.flags.get() & PARTIAL != 0) != (ranges > 0) {
            return Err(damaged(format!("lists {ranges} ranges, its flags say otherwise")));
        }
        if head.blocks.get() != self.header.block_count() {
            let (n, expected) = (head.blocks.get(), self.header.block_count());
            return Err(damaged(format!("lists {n} checksums, there are {expected} blocks")));
        }
        if memories as usize > MAX_MEMORIES {
            return Err(damaged(format!("lists {memories} memories")));
        }
        if head.ranges.get() > 0 && segments as usize > MAX_PARTIAL_SEGMENTS {
            let message = format!(
                "{segments} segments are over the limit of {MAX_PARTIAL_SEGMENTS} of a dump of \
                 which ranges were left out"
            );
            return Err(Fault::unsupported(at, message));
        }
        check_ranges(&head, at.clone())?;
        let expected = table_bytes(&head);
        let left = self.from.remaining()?;
        if expected != left.into() {
            return Err(damaged(format!(
                "its tables have {expected} bytes and not the {left} left"
            )));
        }
        self.compare(|there| match (there.memories.len(), there.segments) {
            (there, _) if memories as usize != there => {
                Err(damaged(format!("lists {memories} memories, there are {there}")))
            }
            (_, there) if u64::from(segments) != there => {
                Err(damaged(format!("lists {segments} segments, the sections have {there}")))
            }
            _ => Ok(()),
        });
        Ok(head)
    }

    /// The table of memories; returns the entries of each in the table of ranges.
    fn memories(&mut self, head: &IndexHead) -> Result<Vec<Range<usize>>> {
        let start = self.from.offset();
        let differ = |from: &Decoder<'_, I>| {
            let message = "the segments or ranges of its memories are not as many as it lists";
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
                next(&mut segments, memory.segments.get()),
                next(&mut ranges, memory.ranges.get()),
            );
            let (Some(segments), Some(ranges)) = entries else { return Err(differ(&self.from)) };
            let changing = memory.flags.get() & CHANGING != 0;
            let excluded = AddressRanges::default();
            self.index.memories.push(IndexedMemory { segments, excluded, changing });
            all_ranges.push(ranges);
        }
        let expected = (u64::from(head.segments.get()), u64::from(head.ranges.get()));
        match (segments as u64, ranges as u64) == expected {
            true => Ok(all_ranges),
            false => Err(differ(&self.from)),
        }
    }

    /// The table of segments: in order, in their memories, and in the sections.
    fn segments(&mut self, mut each: impl FnMut(Segment) -> Result<()>) -> Result<()> {
        self.index.segments = self.from.offset();
        let mut sections = self.sections.map_or(&[][..], |there| &there.data).iter().peekable();
        let mut before: Option<Segment> = None;
        for (memory, entries) in (0..).zip(self.index.entries()) {
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
                    return damaged("is empty".into());
                };
                let file = segment.in_file();
                let behind = before.is_none_or(|before| {
                    segment.follows(&before) && before.in_file().end <= file.start
                });
                if !behind {
                    return damaged("is out of order or overlaps the previous one".into());
                }
                self.compare(|there| {
                    segment.placement().check(&there.memories, at.clone()).map_err(in_segment)?;
                    while sections.next_if(|section| section.end < file.end).is_some() {}
                    match sections.peek().is_some_and(|section| section.start <= file.start) {
                        true => Ok(()),
                        false => {
                            damaged(format!("{:#x}..{:#x} is in no section", file.start, file.end))
                        }
                    }
                });
                before = Some(segment);
                each(segment)?;
            }
        }
        Ok(())
    }

    /// The table of ranges: in order, in their memories, and where none of `segments` is.
    fn ranges(&mut self, segments: &[Segment], ranges: Vec<Range<usize>>) -> Result<()> {
        for (memory, (entries, of)) in ranges.into_iter().zip(self.index.entries()).enumerate() {
            let mut segments = segments.get(of).unwrap_or_default().iter().peekable();
            let mut excluded = AddressRanges::default();
            for i in entries {
                let start = self.from.offset();
                let bytes: [u8; size_of::<IndexRange>()] = self.from.array()?;
                let raw: IndexRange = transmute!(bytes);
                let (first, last) = (raw.first.get(), raw.last.get());
                while segments.next_if(|segment| segment.last() < first).is_some() {}
                let at = self.from.since(start);
                let damaged = |message| {
                    let message = format!("range {i}, of memory {memory}: {message}");
                    Err(Fault::damaged(at.clone(), message))
                };
                if first > last {
                    return damaged("is empty");
                }
                if !excluded.push(first..=last) {
                    return damaged("is out of order, or overlaps or touches the previous one");
                }
                if segments.peek().is_some_and(|segment| segment.address() <= last) {
                    return damaged("has bytes that a segment holds");
                }
                self.compare(|there| match there.memories.get(memory) {
                    Some(ty) if u128::from(last) < ty.size() => Ok(()),
                    _ => damaged("is past the end of its memory"),
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
    /// Decodes what still holds of the index of a dump that another tool has rewritten: the ranges that
    /// were left out of each memory, and whether it was changing. `body` is what follows the name of the
    /// section. `None` if its checksum does not hold, or it is not about these memories.
    ///
    /// # Errors
    /// The dump cannot be read.
    pub(super) fn moved(
        source: Source<'_>,
        body: Range<u64>,
        header: &Header,
        memories: &[MemoryType],
    ) -> Result<Option<Self>> {
        let len = body.end.checked_sub(body.start);
        let summed = body.end.checked_sub(CRC_BYTES as u64);
        let hasher = len.and_then(hasher_of);
        let (Some(summed), Some(hasher)) = (summed, hasher) else { return Ok(None) };
        let mut input = source.input(body.start);
        input.start_crc(hasher);
        let decoded = Self::decode_moved(&mut Decoder::new(&mut input, summed), header, memories);
        let mut holds = || {
            Decoder::new(&mut input, summed).skip_rest()?;
            let crc = input.finish_crc();
            let stored = Decoder::new(&mut input, body.end).array()?;
            Ok(crc == u32::from_le_bytes(stored))
        };
        match (dump_fault_to_none(holds())?, decoded) {
            (Some(true), Err(fault)) if fault.kind == ErrorKind::Unsupported => Err(fault),
            (Some(true), decoded) => Ok(dump_fault_to_none(decoded)?.flatten()),
            _ => Ok(None),
        }
    }

    /// Decodes all but the checksum; `None` if it is not about these memories.
    ///
    /// # Errors
    /// It contradicts itself, or has more ranges than a reader keeps.
    fn decode_moved<I: Input>(
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
        check_ranges(&head, from.since(start)).map_err(|fault| fault.within(INDEX))?;
        let mut entries = Vec::new();
        for _ in memories {
            let entry: [u8; size_of::<IndexMemory>()] = from.array()?;
            let entry: IndexMemory = transmute!(entry);
            entries.push(entry);
        }
        let segments = u64::from(head.segments.get());
        from.skip(segments.times(size_of::<IndexSegment>() as u64)?)?;
        let mut index = Self::default();
        let mut left = head.ranges.get();
        for (entry, ty) in entries.iter().zip(memories) {
            let count = entry.ranges.get();
            let Some(fewer) = left.checked_sub(count) else { return Ok(None) };
            left = fewer;
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
        Ok((left == 0).then_some(index))
    }

    /// Returns whether no segment of a table has an excluded byte.
    pub(super) fn is_apart_from(&self, table: &Table) -> bool {
        (0..).zip(&self.memories).all(|(memory, of)| {
            let Some(first) = of.excluded.as_slice().first() else { return true };
            // Both are in order, so that each segment is looked at once.
            let mut segments = table.from(memory, *first.start()).iter().peekable();
            of.excluded.iter().all(|range| {
                while segments.next_if(|segment| segment.last() < *range.start()).is_some() {}
                segments.peek().is_none_or(|segment| segment.address() > *range.end())
            })
        })
    }

    /// Returns the entries of each memory in the table of segments.
    fn entries(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let entries: Vec<_> = self.memories.iter().map(|memory| memory.segments.clone()).collect();
        entries.into_iter()
    }
}

/// Checks that a reader can keep the ranges of an index, whose head is at `at`.
fn check_ranges(head: &IndexHead, at: Range<u64>) -> Result<()> {
    match head.ranges.get() {
        ranges if ranges as usize > MAX_EXCLUDED_RANGES => {
            let message = format!("{ranges} ranges are over the limit of {MAX_EXCLUDED_RANGES}");
            Err(Fault::unsupported(at, message))
        }
        _ => Ok(()),
    }
}

/// Returns the bytes of the tables after the head of an index.
fn table_bytes(head: &IndexHead) -> u128 {
    let tables = [
        (head.memories.get(), size_of::<IndexMemory>()),
        (head.segments.get(), size_of::<IndexSegment>()),
        (head.ranges.get(), size_of::<IndexRange>()),
        (head.blocks.get(), size_of::<u32>()),
    ];
    tables.iter().map(|(n, size)| wide::product(u64::from(*n), *size as u64)).sum()
}

/// What `corestream` says of a dump that ends with an index, by each place at which that may begin, the last one first.
/// Whether one is there, [`Index::decode`] tells. Anything may follow it.
///
/// # Errors
/// Returns an error if the dump cannot be read, or if the work was cancelled.
pub(super) fn at_end(source: Source<'_>, control: &Control) -> Result<Vec<Header>> {
    let mut headers = Vec::new();
    for name in places(source, control)? {
        for digits in 1..=5 {
            headers.extend(dump_fault_to_none(header_of(source, name, digits))?.flatten());
        }
    }
    Ok(headers)
}

/// Returns the last places of the name of the index in the bytes that it can be in.
fn places(source: Source<'_>, control: &Control) -> Result<Vec<u64>> {
    let mut places = Vec::new();
    let mut buffer = Vec::new();
    let len = source.len();
    // A place that is looked at begins before `end`.
    let mut end = len;
    // Nothing begins before the file does.
    let first = end.saturating_sub(MAX_SECTION);
    while end > first && places.len() < MAX_PLACES {
        control.check_cancelled()?;
        let start = end.saturating_sub(SEARCHED).max(first);
        // A name may begin before the end of a part and go on after it.
        let more = end.checked_add(NAMED.len() as u64).map_or(len, |more| more.min(len));
        let part = source.part(start..more, &mut buffer)?;
        let names = part.windows(NAMED.len()).enumerate().rev().filter(|(_, name)| *name == NAMED);
        let at = names.filter_map(|(at, _)| start.checked_add(at as u64).filter(|at| *at < end));
        let room = places.len()..MAX_PLACES;
        places.extend(at.take(room.len()));
        end = start;
    }
    Ok(places)
}

/// What `corestream` says of a dump whose index has its name, with the length of that, at `name`, after a size of so many
/// bytes; `None` if that can't be.
fn header_of(source: Source<'_>, name: u64, digits: u64) -> Result<Option<Header>> {
    let before = digits.checked_add(1).and_then(|before| name.checked_sub(before));
    let Some(start) = before else { return Ok(None) };
    let mut input = source.input(start);
    let mut section = Decoder::new(&mut input, source.len());
    let (custom, size) = (section.byte()? == CUSTOM, section.u32()?);
    let sized = section.offset() == name;
    let end = section.offset().checked_add(size.into()).filter(|end| *end <= source.len());
    section.skip(NAMED.len() as u64)?;
    let head: [u8; size_of::<IndexHead>()] = section.array()?;
    let head: IndexHead = transmute!(head);
    let (flags, block_log2) = (head.flags.get(), head.block_log2.get());
    // An index of another length is none, which is seen before all of it is read.
    let tables_end = end.and_then(|end| end.checked_sub(CRC_BYTES as u64));
    let left = tables_end.and_then(|end| end.checked_sub(section.offset()));
    let fits = left.is_some_and(|left| u128::from(left) == table_bytes(&head));
    let end = end.filter(|_| custom && sized && fits);
    Ok(end.and_then(|end| Header::new(flags, end, start, block_log2)))
}

/// Returns the hasher of an index whose section has `len` bytes after its name, as it was before those: with the least
/// size that says so, whatever another tool has made of that.
fn hasher_of(len: u64) -> Option<Hasher> {
    let mut head = vec![CUSTOM];
    leb::push_u32(&mut head, u32::try_from(len.checked_add(NAMED.len() as u64)?).ok()?);
    head.extend_from_slice(NAMED);
    let mut hasher = Hasher::new();
    hasher.update(&head);
    Some(hasher)
}

/// The next `count` entries; `None` if there can't be so many.
fn next(from: &mut usize, count: u32) -> Option<Range<usize>> {
    let start = *from;
    *from = start.checked_add(count as usize)?;
    Some(start..*from)
}
