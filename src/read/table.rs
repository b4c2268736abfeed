//! The table of segments: the index, or what a walk has listed; finds a segment by its address.
//!
//! Without an index the table stays bounded: as long as segments come in order it lists every one,
//! then every second, every fourth and so on, and the headers between are walked again when
//! somebody asks. Segments out of order are sorted, the last of those that overlap wins.

use std::collections::BinaryHeap;
use std::ops::Range;

use zerocopy::FromBytes;

use super::data::{self, DataSection, Segment};
use super::decode::Decoder;
use super::fault::{Fault, Result};
use super::input::{self, Input, Slice};
use super::tables::RawSegment;
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
    /// In memory, every `stride`-th of them.
    List {
        /// Segments that do not overlap.
        segments: Vec<Segment>,
        /// 1, or the file is walked from a segment to the next.
        stride: u64,
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
                let raw: &[RawSegment] =
                    entries(dump.bytes, *offset, memories.get(memory as usize));
                let behind = raw.partition_point(|segment| segment.address.get() <= address);
                Next::Index(raw[behind.saturating_sub(1)..].iter())
            }
            Self::List { segments, stride } => {
                let key = (memory, address);
                let behind =
                    segments.partition_point(|segment| (segment.memory, segment.address) <= key);
                let from = &segments[behind.saturating_sub(1)..];
                match *stride {
                    1 => Next::List(from.iter()),
                    _ => Next::Walk(from.first().copied()),
                }
            }
        };
        Segments { dump, memory, address, next }
    }
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
    Index(std::slice::Iter<'d, RawSegment>),
    List(std::slice::Iter<'d, Segment>),
    Walk(Option<Segment>),
}

impl Segments<'_> {
    fn step(&mut self) -> Option<Segment> {
        match &mut self.next {
            Next::Index(entries) => entries.next().map(|raw| Segment {
                address: raw.address.get(),
                offset: raw.offset.get(),
                len: raw.len.get(),
                memory: self.memory,
            }),
            Next::List(segments) => segments.next().copied(),
            Next::Walk(next) => {
                let segment = next.take()?;
                *next = after(self.dump, &segment);
                Some(segment)
            }
        }
    }
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        loop {
            let segment = self.step()?;
            if segment.memory > self.memory {
                self.next = Next::Walk(None);
                return None;
            }
            if (segment.memory, segment.last()) >= (self.memory, self.address) {
                return Some(segment);
            }
        }
    }
}

/// The segment behind `segment` in the file, by its header.
fn after(dump: Dump<'_>, segment: &Segment) -> Option<Segment> {
    let mut sections = dump.data.partition_point(|section| section.end <= segment.offset);
    let mut at = segment.in_file().end;
    loop {
        while at >= dump.data.get(sections)?.end {
            sections += 1;
            at = dump.data.get(sections)?.start;
        }
        let mut input = Slice::new(dump.bytes, at);
        let mut decoder = Decoder::new(&mut input, dump.data[sections].end);
        // The file was walked once: this can only fail if it has changed.
        if let Some(next) = data::segment(&mut decoder, dump.memories).ok()? {
            return Some(next);
        }
        at = input.offset();
    }
}

/// Makes a table of the segments that a walk finds.
#[derive(Debug)]
pub(super) struct Builder {
    segments: Vec<Segment>,
    most: usize,
    stride: u64,
    count: u64,
    last: Option<Segment>,
    ordered: bool,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self::with_limit(MAX_LISTED_SEGMENTS)
    }

    /// One that lists `most` segments, an even number.
    fn with_limit(most: usize) -> Self {
        Self { segments: Vec::new(), most, stride: 1, count: 0, last: None, ordered: true }
    }

    /// Takes the next segment of the file.
    ///
    /// # Errors
    /// Segments are out of order, and more than can be sorted.
    pub(super) fn push(&mut self, segment: Segment) -> Result<()> {
        let follows = self.last.replace(segment).is_none_or(|last| segment.follows(&last));
        self.ordered &= follows;
        let full = self.segments.len() == self.most;
        if !self.ordered && (full || self.stride > 1) {
            let message = format!(
                "segments are out of order, and more than the limit of {} that can be sorted",
                self.most
            );
            return Err(Fault::unsupported(segment.in_file(), message));
        }
        if full && self.count.is_multiple_of(self.stride) {
            let mut even = false;
            self.segments.retain(|_| {
                even = !even;
                even
            });
            self.stride *= 2;
        }
        if self.count.is_multiple_of(self.stride) {
            self.segments.push(segment);
        }
        self.count += 1;
        Ok(())
    }

    /// The table, and whether segments had to be sorted.
    pub(super) fn finish(self) -> (Table, bool) {
        let segments = if self.ordered { self.segments } else { resolve(self.segments) };
        (Table::List { segments, stride: self.stride }, !self.ordered)
    }
}

/// Sorts segments and cuts out of each what a later one of the file overwrites.
///
/// Goes over the addresses once; a heap holds the segments that begin before the address in hand,
/// the last of the file on top.
fn resolve(mut segments: Vec<Segment>) -> Vec<Segment> {
    segments.sort_unstable_by_key(|segment| (segment.memory, segment.address));
    let mut resolved = Vec::new();
    let mut open = BinaryHeap::new();
    for (i, segment) in segments.iter().enumerate() {
        open.push((segment.offset, i));
        let next = segments.get(i + 1).filter(|next| next.memory == segment.memory);
        if next.is_some_and(|next| next.address == segment.address) {
            continue;
        }
        // Up to where the next one begins, only those that are open count.
        let until = next.map_or(u64::MAX, |next| next.address - 1);
        let mut at = segment.address;
        while let Some((_, top)) = open.peek() {
            let top = segments[*top];
            if top.last() < at {
                open.pop();
                continue;
            }
            let last = top.last().min(until);
            add(&mut resolved, part(&top, at, last));
            if last == until {
                break;
            }
            at = last + 1;
        }
        if next.is_none() {
            open.clear();
        }
    }
    resolved
}

/// The bytes of `segment` from `first` to `last`.
fn part(segment: &Segment, first: u64, last: u64) -> Segment {
    let offset = segment.offset + (first - segment.address);
    // No part is longer than the whole.
    let len = u32::try_from(last - first + 1).unwrap_or(segment.len);
    Segment { address: first, offset, len, memory: segment.memory }
}

/// Adds a part, or makes the last one longer if it is of the same segment.
fn add(resolved: &mut Vec<Segment>, part: Segment) {
    if let Some(last) = resolved.last_mut() {
        let adjacent =
            last.memory == part.memory && last.last().checked_add(1) == Some(part.address);
        if adjacent && last.in_file().end == part.offset {
            last.len += part.len;
            return;
        }
    }
    resolved.push(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(memory: u32, address: u64, offset: u64, len: u32) -> Segment {
        Segment { address, offset, len, memory }
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
        let (table, sorted) = builder.finish();
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
        let (table, _) = builder.finish();
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
        let (table, _) = builder.finish();
        let expected = [0, 8, 16].map(|i| segment(0, i * 10, i * 20, 5));
        assert_eq!(all(&table), expected);
        assert!(matches!(table, Table::List { stride: 8, .. }));
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
            if let Some(found) = data::segment(&mut decoder, &memories).unwrap() {
                builder.push(found).unwrap();
                expected.push(found);
            }
        }
        assert_eq!(expected.len(), 40);
        let (table, _) = builder.finish();
        for address in 0..=u64::from(u16::MAX) {
            let found: Vec<_> = table.from(dump, 0, address).take(3).collect();
            let first = expected.partition_point(|segment| segment.address < address);
            let most = expected.len().min(first + 3);
            assert_eq!(found, expected[first..most], "from {address:#x}");
        }
        assert_eq!(table.from(dump, 1, 0).count(), 0);
    }
}
