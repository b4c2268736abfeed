//! The table of segments: the index, or what a walk has listed; finds a segment by its address.
//!
//! Without an index the table stays bounded: as long as segments come in order it lists every one,
//! then one of two headers, of four and so on, and the headers between are walked again when
//! somebody asks. Segments that put nothing into a memory count, so that no look-up walks more
//! headers than twice the stride, whatever the file is made of. Segments out of order are sorted, the last
//! of those that overlap wins.

use std::collections::BinaryHeap;
use std::ops::Range;

use zerocopy::FromBytes;

use super::data::{self, DataSection};
use super::decode::Decoder;
use super::fault::{Fault, Result};
use super::input::{self, Input, Slice};
use super::segment::{Placement, Segment};
use crate::arithmetic::Checked;
use crate::error;
use crate::format::IndexSegment;
use crate::limits::MAX_LISTED_SEGMENTS;
use crate::model::MemoryType;

/// All segments in the order of memory and address.
#[derive(Debug)]
pub(super) enum Table {
    /// In the file.
    Index {
        /// Where in the file.
        offset: u64,
        /// Which entries are of which memory.
        memories: Vec<Range<usize>>,
    },
    /// In memory, all or some of them.
    List {
        /// Segments that do not overlap; the last one of the file is among them.
        segments: Vec<Segment>,
        /// How many headers are walked at most from one that is listed to the next: less than twice the stride, or
        /// none if all are listed.
        walked: u64,
    },
}

/// What a table is of.
#[derive(Clone, Copy)]
pub(super) struct Dump<'d> {
    pub(super) bytes: &'d [u8],
    pub(super) memories: &'d [MemoryType],
    pub(super) data: &'d [DataSection],
}

impl Table {
    /// The segments of `memory` that have bytes at `address` or behind it.
    pub(super) fn from<'d>(&'d self, dump: Dump<'d>, memory: u32, address: u64) -> Segments<'d> {
        let next = match self {
            Self::Index { offset, memories } => {
                let raw: &[IndexSegment] =
                    entries(dump.bytes, *offset, memories.get(memory as usize));
                Next::Index(from_last(raw, |segment| segment.address.get() <= address).iter())
            }
            Self::List { segments, walked } => {
                let key = (memory, address);
                let listed =
                    from_last(segments, |segment| (segment.memory(), segment.address()) <= key);
                Next::List(Listed { listed: listed.iter(), walked: *walked, before: None, left: 0 })
            }
        };
        Segments { dump, memory, address, next }
    }
}

/// Returns the tail of `sorted` from the last entry for which `is_before` holds, or all of it if it holds for none.
fn from_last<T>(sorted: &[T], is_before: impl FnMut(&T) -> bool) -> &[T] {
    let after_first = sorted.get(1..).unwrap_or_default();
    sorted.get(after_first.partition_point(is_before)..).unwrap_or_default()
}

/// Those entries of a table in the file, which was checked when the dump was opened.
pub(super) fn entries<'b, T: FromBytes + zerocopy::Immutable + zerocopy::KnownLayout>(
    bytes: &'b [u8],
    offset: u64,
    of: Option<&Range<usize>>,
) -> &'b [T] {
    let part = || {
        let of = of?;
        let at = |entry: usize| offset.checked_add(entry.checked_mul(size_of::<T>())? as u64);
        <[T]>::ref_from_bytes(input::part(bytes, at(of.start)?..at(of.end)?)?).ok()
    };
    part().unwrap_or_default()
}

/// The segments of a memory from an address on, in order.
#[derive(Clone)]
pub(super) struct Segments<'d> {
    dump: Dump<'d>,
    memory: u32,
    address: u64,
    next: Next<'d>,
}

#[derive(Clone)]
enum Next<'d> {
    Index(std::slice::Iter<'d, IndexSegment>),
    List(Listed<'d>),
}

/// Listed segments, and those between them.
#[derive(Clone)]
struct Listed<'d> {
    listed: std::slice::Iter<'d, Segment>,
    /// How many headers are walked at most from one segment that is listed to the next.
    walked: u64,
    /// The segment to walk on from.
    before: Option<Segment>,
    /// How many headers may still be walked until the next segment that is listed.
    left: u64,
}

impl Listed<'_> {
    fn step(&mut self, dump: Dump<'_>) -> Option<Segment> {
        let next = self.listed.as_slice().first().filter(|_| self.left > 0);
        if let (Some(before), Some(next)) = (self.before, next) {
            match between(dump, &before, next, &mut self.left) {
                Ok(None) => {}
                Ok(found) => {
                    self.before = found;
                    return found;
                }
                // A section between them is damaged: what it had is lost. Or the file has changed.
                Err(_) => {}
            }
        }
        self.before = self.listed.next().copied();
        self.left = self.walked;
        self.before
    }
}

impl Segments<'_> {
    fn step(&mut self) -> Option<Segment> {
        match &mut self.next {
            // Each was checked when the dump was opened. Only if the file has changed since, one is none.
            Next::Index(entries) => {
                entries.next().and_then(|raw| Placement::listed(raw, self.memory).segment())
            }
            Next::List(listed) => listed.step(self.dump),
        }
    }
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        loop {
            let segment = self.step()?;
            if segment.memory() > self.memory {
                self.next = Next::Index(Default::default());
                return None;
            }
            if (segment.memory(), segment.last()) >= (self.memory, self.address) {
                return Some(segment);
            }
        }
    }
}

/// The segment behind `before` in the file if there is one before `next`, by the next `left` headers.
fn between(
    dump: Dump<'_>,
    before: &Segment,
    next: &Segment,
    left: &mut u64,
) -> Result<Option<Segment>> {
    let passed = dump.data.partition_point(|section| section.end <= before.offset());
    let mut sections = dump.data.get(passed..).unwrap_or_default();
    let mut at = before.in_file().end;
    while let Some(fewer) = left.checked_sub(1) {
        *left = fewer;
        // No section is without a segment.
        while let Some((section, later)) = sections.split_first()
            && section.end <= at
        {
            sections = later;
            at = later.first().map_or(at, |section| section.start);
        }
        let Some(section) = sections.first().filter(|_| at < next.offset()) else { break };
        let mut input = Slice::new(dump.bytes, at);
        let mut decoder = Decoder::new(&mut input, section.end);
        if let Some(found) = data::segment(&mut decoder, dump.memories)? {
            if found.offset() < next.offset() {
                return Ok(Some(found));
            }
            break;
        }
        at = input.offset();
    }
    *left = 0;
    Ok(None)
}

/// Makes a table of the segments that a walk finds.
#[derive(Debug)]
pub(super) struct Builder {
    segments: Vec<Segment>,
    /// The [`distance`] of each to the one before it.
    behind: Vec<u32>,
    most: usize,
    stride: u64,
    /// Headers since the last one that is listed.
    headers: u64,
    last: Option<Segment>,
    ordered: bool,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self::with_limit(MAX_LISTED_SEGMENTS)
    }

    /// One that lists `most` segments, an even number.
    fn with_limit(most: usize) -> Self {
        let (segments, behind) = (Vec::new(), Vec::new());
        Self { segments, behind, most, stride: 1, headers: 0, last: None, ordered: true }
    }

    /// Takes a segment that puts nothing into a memory.
    ///
    /// # Errors
    /// Returns an internal error.
    pub(super) fn pass(&mut self) -> Result<()> {
        self.headers = self.headers.plus(1)?;
        Ok(())
    }

    /// Takes the next segment of the file.
    ///
    /// # Errors
    /// Segments are out of order, and more than can be sorted.
    pub(super) fn push(&mut self, segment: Segment) -> Result<()> {
        let ordered = self.ordered && self.last.is_none_or(|last| segment.follows(&last));
        let full = self.segments.len() == self.most;
        if !ordered && (full || self.stride > 1) {
            let message = format!(
                "segments are out of order, and more than the limit of {} that can be sorted",
                self.most
            );
            return Err(Fault::unsupported(segment.in_file(), message));
        }
        (self.ordered, self.last) = (ordered, Some(segment));
        self.headers = self.headers.plus(1)?;
        if full && self.headers >= self.stride {
            self.thin()?;
        }
        if self.headers >= self.stride || self.segments.is_empty() {
            self.segments.push(segment);
            self.behind.push(distance(self.headers));
            self.headers = 0;
        }
        Ok(())
    }

    /// Makes the stride so long that half of the list is free again.
    ///
    /// One that is dropped is less than the new stride behind one that stays, and what was to be
    /// walked from it is, as before, less than twice the old stride behind it.
    fn thin(&mut self) -> Result<()> {
        while self.segments.len() > self.most / 2 {
            self.stride = self.stride.times(2)?;
            let mut headers = 0_u64;
            let mut first = true;
            for behind in &mut self.behind {
                headers = headers.plus(u64::from(*behind))?;
                let kept = std::mem::take(&mut first) || headers >= self.stride;
                // Each is a header at least behind the one before it: 0 is that of none.
                *behind = if kept { distance(std::mem::take(&mut headers)) } else { 0 };
            }
            let mut behind = self.behind.iter();
            self.segments.retain(|_| behind.next().is_some_and(|behind| *behind > 0));
            self.behind.retain(|behind| *behind > 0);
            self.headers = self.headers.plus(headers)?;
        }
        Ok(())
    }

    /// The table, and whether segments had to be sorted.
    ///
    /// # Errors
    /// Returns an internal error.
    pub(super) fn finish(mut self) -> error::Result<(Table, bool)> {
        // What is walked always lies before something that is listed.
        self.segments.extend(self.last.filter(|last| self.segments.last() != Some(last)));
        let segments = if self.ordered { self.segments } else { resolve(self.segments)? };
        let walked = match self.stride {
            1 => 0,
            stride => stride.times(2)?.minus(1)?,
        };
        Ok((Table::List { segments, walked }, !self.ordered))
    }
}

/// Returns a number of headers as the distance of two segments that are listed. A bound is meant: `u32::MAX` stands for
/// that many or more, which is longer than every stride. It takes 2^50 headers to make a stride longer than that.
fn distance(headers: u64) -> u32 {
    u32::try_from(headers).unwrap_or(u32::MAX)
}

/// Sorts segments and cuts out of each what a later one of the file overwrites.
///
/// Goes over the addresses once; a heap holds the segments that begin before the address in hand,
/// the last of the file on top.
fn resolve(mut segments: Vec<Segment>) -> error::Result<Vec<Segment>> {
    segments.sort_unstable_by_key(|segment| (segment.memory(), segment.address()));
    let mut resolved = Vec::new();
    let mut open = BinaryHeap::new();
    let nexts = segments.iter().skip(1).map(Some).chain([None]);
    for ((i, segment), next) in segments.iter().enumerate().zip(nexts) {
        open.push((segment.offset(), i));
        let next = next.filter(|next| next.memory() == segment.memory());
        // Up to where the next one begins, only those that are open count.
        let until = match next {
            Some(next) if next.address() == segment.address() => continue,
            Some(next) => next.address().minus(1)?,
            None => u64::MAX,
        };
        let mut at = segment.address();
        while let Some(top) = open.peek().and_then(|(_, top)| segments.get(*top)) {
            if top.last() < at {
                open.pop();
                continue;
            }
            let last = top.last().min(until);
            add(&mut resolved, top.part(at..=last)?);
            match last.checked_add(1) {
                Some(after) if last < until => at = after,
                _ => break,
            }
        }
        if next.is_none() {
            open.clear();
        }
    }
    Ok(resolved)
}

/// Adds a part, or makes the last one longer if it is of the same segment.
fn add(resolved: &mut Vec<Segment>, part: Segment) {
    let last = resolved.last_mut();
    match last.and_then(|last| last.joined(&part).map(|joined| (last, joined))) {
        Some((last, joined)) => *last = joined,
        None => resolved.push(part),
    }
}

#[cfg(test)]
mod tests {
    use super::super::segment::Placement;
    use super::*;

    fn segment(memory: u32, address: u64, offset: u64, len: u32) -> Segment {
        Placement { address, offset, len, memory }.segment().unwrap()
    }

    fn all(table: &Table) -> &[Segment] {
        match table {
            Table::List { segments, .. } => segments,
            Table::Index { .. } => panic!("a list"),
        }
    }

    #[test]
    fn the_last_of_the_file_wins() {
        let mut builder = Builder::new();
        for one in [
            segment(1, 0, 100, 10),
            segment(0, 5, 200, 10), // behind a higher memory
            segment(0, 0, 300, 7),  // overwrites two bytes of it
            segment(1, 4, 400, 2),  // splits the first
            segment(0, 20, 500, 1),
            segment(0, 20, 600, 1), // the same once more
        ] {
            builder.push(one).unwrap();
        }
        let (table, sorted) = builder.finish().unwrap();
        assert!(sorted);
        assert_eq!(
            all(&table),
            [
                segment(0, 0, 300, 7),
                segment(0, 7, 202, 8),
                segment(0, 20, 600, 1),
                segment(1, 0, 100, 4),
                segment(1, 4, 400, 2),
                segment(1, 6, 106, 4),
            ]
        );
    }

    #[test]
    fn the_end_of_all_addresses() {
        let mut builder = Builder::new();
        builder.push(segment(0, u64::MAX - 3, 100, 4)).unwrap();
        builder.push(segment(0, u64::MAX, 200, 1)).unwrap();
        let (table, _) = builder.finish().unwrap();
        let expected = [segment(0, u64::MAX - 3, 100, 3), segment(0, u64::MAX, 200, 1)];
        assert_eq!(all(&table), expected);
    }

    #[test]
    fn a_full_list_keeps_every_second() {
        let mut builder = Builder::with_limit(4);
        for i in 0..17 {
            builder.push(segment(0, i * 10, i * 20, 5)).unwrap();
        }
        let error = builder.push(segment(0, 0, 999, 5)).unwrap_err();
        assert!(error.line().ends_with("more than the limit of 4 that can be sorted"));
        let mut builder = Builder::with_limit(4);
        for i in 0..17 {
            builder.push(segment(0, i * 10, i * 20, 5)).unwrap();
        }
        let (table, _) = builder.finish().unwrap();
        let expected = [0, 8, 16].map(|i| segment(0, i * 10, i * 20, 5));
        assert_eq!(all(&table), expected);
        assert!(matches!(table, Table::List { walked: 15, .. }));
    }

    /// A data section of segments of a byte, of which every third is empty or passive.
    fn section(count: u8) -> (Vec<u8>, Vec<DataSection>) {
        let mut bytes = vec![0xee; 3];
        for i in 0..count {
            match i % 6 {
                2 => bytes.extend([0x00, 0x41, 0x00, 0x0b, 0x00]), // empty
                5 => bytes.extend([0x01, 0x01, 0xee]),             // passive
                _ => {
                    // i32.const i * 256
                    bytes.extend([0x00, 0x41, 0x80, 0x80 | (i << 1 & 0x7f), i >> 6, 0x0b]);
                    bytes.extend([0x01, i]);
                }
            }
        }
        let end = bytes.len() as u64;
        let nothing = DataSection { start: 1, end: 1 };
        let sections = vec![nothing, DataSection { start: 3, end }, nothing];
        (bytes, sections)
    }

    #[test]
    fn what_is_between_listed_segments_is_walked() {
        let (bytes, mut data) = section(60);
        data.pop();
        let memories = [MemoryType::wasm32(1)];
        let dump = Dump { bytes: &bytes, memories: &memories, data: &data };
        let mut input = Slice::new(&bytes, 3);
        let mut decoder = Decoder::new(&mut input, bytes.len() as u64);
        let mut builder = Builder::with_limit(4);
        let mut expected = Vec::new();
        while decoder.offset() < decoder.end() {
            match data::segment(&mut decoder, &memories).unwrap() {
                Some(found) => {
                    builder.push(found).unwrap();
                    expected.push(found);
                }
                None => builder.pass().unwrap(),
            }
        }
        assert_eq!(expected.len(), 40);
        let (table, _) = builder.finish().unwrap();
        for address in 0..=u64::from(u16::MAX) {
            let found: Vec<_> = table.from(dump, 0, address).take(3).collect();
            let first = expected.partition_point(|segment| segment.address() < address);
            let most = expected.len().min(first + 3);
            assert_eq!(found, expected[first..most], "from {address:#x}");
        }
        assert_eq!(table.from(dump, 1, 0).count(), 0);
    }

    /// One look-up is as cheap wherever segments that are empty or passive lie, and whatever lies
    /// behind it in the file: headers that are too far away are not decoded.
    #[test]
    fn no_look_up_walks_more_headers_than_twice_the_stride() {
        let memories = [MemoryType::wasm32(1)];
        let mut state = 5_u32;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % below
        };
        for round in 0..40 {
            // Some real segments, with few or with many headers of nothing between them.
            let mut bytes = Vec::new();
            let mut headers = Vec::new();
            let mut expected = Vec::new();
            let mut builder = Builder::with_limit(8);
            for i in 0..60 {
                let nothing = match round % 4 {
                    0 => 0,
                    1 => random(3),
                    2 => random(90),
                    _ => {
                        if i % 20 == 7 {
                            2000
                        } else {
                            random(2)
                        }
                    }
                };
                for _ in 0..nothing {
                    headers.push(bytes.len());
                    let one: &[u8] = if random(2) == 0 { &[1, 0] } else { &[0, 0x41, 0, 0x0b, 0] };
                    bytes.extend(one);
                    builder.pass().unwrap();
                }
                headers.push(bytes.len());
                bytes.extend([0, 0x41, 0x80 | (i << 2 & 0x7f), i >> 5, 0x0b, 1, i]);
                let offset = bytes.len() as u64 - 1;
                expected.push((headers.len() - 1, segment(0, u64::from(i) * 4, offset, 1)));
                builder.push(expected.last().unwrap().1).unwrap();
            }
            let (table, _) = builder.finish().unwrap();
            let Table::List { segments, walked } = &table else { panic!("a list") };
            assert!(segments.len() <= 9 && *walked <= 2 * headers.len() as u64, "{walked}");
            let data = [DataSection { start: 0, end: bytes.len() as u64 }];
            for address in 0..=59 * 4 {
                let from = segments.iter().rposition(|listed| listed.address() <= address).unwrap();
                let at = expected.iter().find(|(_, one)| *one == segments[from]).unwrap().0;
                // All that is out of reach can't be decoded.
                let mut spoiled = vec![0xff; bytes.len()];
                let reach = at + usize::try_from(*walked).unwrap() + 1;
                let end = headers.get(reach).map_or(bytes.len(), |end| *end);
                spoiled[headers[at]..end].copy_from_slice(&bytes[headers[at]..end]);
                let dump = Dump { bytes: &spoiled, memories: &memories, data: &data };
                let first = expected.partition_point(|(_, one)| one.address() < address);
                let found = table.from(dump, 0, address).next();
                assert_eq!(found, Some(expected[first].1), "{round}, {address}");
                let dump = Dump { bytes: &bytes, memories: &memories, data: &data };
                let all = table.from(dump, 0, address);
                assert!(all.eq(expected[first..].iter().map(|(_, one)| *one)));
            }
        }
    }

    /// A file of segments that put something into memories only now and then.
    #[test]
    fn the_stride_is_long_enough_to_make_room() {
        let mut builder = Builder::with_limit(16);
        for i in 0..10_000 {
            (0..1000).for_each(|_| builder.pass().unwrap());
            builder.push(segment(0, i * 10, i * 20_000, 5)).unwrap();
            assert!(builder.segments.len() <= 16 && builder.segments.len() == builder.behind.len());
        }
        // Ten million headers, of which at least one in four times as many as fit is listed.
        assert!(builder.stride <= 4 * 10_010_000 / 16, "{}", builder.stride);
        assert!(builder.segments.len() >= 4);
    }
}
