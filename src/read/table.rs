//! The table of segments: all segments of a dump, sorted by memory and address.
//!
//! # The problem
//! A dump has up to a million segments ([`MAX_LISTED_SEGMENTS`]), and a reader looks them up by address. The index of
//! corestream's own dumps lists them sorted and disjoint. Another writer's sections may have them in any order, and
//! they may overlap. A WebAssembly engine applies active segments in file order, so the last one of the file wins. The
//! whole metadata of an open dump must fit into [`MAX_METADATA_BYTES`](crate::limits::MAX_METADATA_BYTES), 32 MiB, and
//! a full table takes 24 MiB of that.
//!
//! # The idea
//! The segments are kept in one vector. While they arrive, the builder notes whether they are sorted and disjoint. If
//! so, the table is ready. If not, the vector is sorted in place. Only if two neighbours then overlap does a second
//! vector exist: a sweep over the addresses cuts each segment where a later one of the file overwrites it
//! ([`cut_overlaps`]). A lookup is a binary search by last address.
//!
//! # The invariant
//! In a finished [`Table`] each segment begins after the last byte of the previous one, or in a later memory. So the
//! last addresses are sorted like the first ones, and each byte of a memory has at most one place in the file.
//!
//! # The cost
//! Building takes O(n) for a sorted table and O(n log n) otherwise; a lookup takes O(log n). Each segment has 24 bytes.
//! A long table is never copied:
//! - A table grows by doubling only up to [`MAX_DOUBLED_SEGMENTS`] (3 MiB). Then it reserves its maximum at once.
//!   Unused capacity costs address space only: the kernel allocates a page at the first write to it.
//! - Overlapping segments have a lower limit, [`MAX_OVERLAPPING_SEGMENTS`], because their table exists twice while it
//!   is cut.
//!
//! # What was tried
//! - Reading the table from the index at each lookup, and for a dump without an index keeping only some of the segments
//!   and parsing the headers between them again. A source that lends nothing cannot afford these reads.
//! - Growing by doubling up to the limit. While the vector moves, the old and the new one exceed the 32 MiB.

use std::collections::{BinaryHeap, TryReserveError};

use super::fault::{Fault, Result};
use super::segment::Segment;
use crate::arithmetic::Checked;
use crate::error::Error;
use crate::limits::{MAX_LISTED_SEGMENTS, MAX_OVERLAPPING_SEGMENTS};

/// The number of segments up to which a table grows by doubling.
///
/// This keeps small tables small. A table with overlapping segments never has more segments.
pub(super) const MAX_DOUBLED_SEGMENTS: usize = MAX_OVERLAPPING_SEGMENTS;

/// All segments of a dump, sorted by memory and address, without overlaps.
#[derive(Debug, Default)]
pub(super) struct Table {
    segments: Vec<Segment>,
}

impl Table {
    /// Returns the segments of `memory` that end at or after `address`.
    pub(super) fn segments_from(&self, memory: u32, address: u64) -> &[Segment] {
        let key = (memory, address);
        let ends_before = |segment: &Segment| (segment.memory(), segment.last()) < key;
        let start = self.segments.partition_point(ends_before);
        let rest = self.segments.get(start..).unwrap_or_default();
        let count = rest.partition_point(|segment| segment.memory() == memory);
        rest.get(..count).unwrap_or_default()
    }

    /// Returns all segments.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// Builds a [`Table`] from segments in file order.
#[derive(Debug)]
pub(super) struct TableBuilder {
    segments: Vec<Segment>,
    limit: usize,
    overlap_limit: usize,
    /// Whether the segments so far are sorted and disjoint.
    is_sorted: bool,
}

impl TableBuilder {
    pub(super) fn new() -> Self {
        Self::with_limits(MAX_LISTED_SEGMENTS, MAX_OVERLAPPING_SEGMENTS)
    }

    /// Returns a builder for at most `limit` segments, or at most `overlap_limit` if any overlap.
    fn with_limits(limit: usize, overlap_limit: usize) -> Self {
        Self { segments: Vec::new(), limit, overlap_limit, is_sorted: true }
    }

    /// Reserves memory for exactly `count` segments, when the total is known.
    ///
    /// # Errors
    /// Returns an error if the allocation fails.
    pub(super) fn reserve_exact(&mut self, count: usize) -> Result<()> {
        Ok(self.segments.try_reserve_exact(count).map_err(out_of_memory)?)
    }

    /// Adds the next segment of the file.
    ///
    /// # Errors
    /// Returns an error if the table is full or an allocation fails.
    pub(super) fn push(&mut self, segment: Segment) -> Result<()> {
        if self.segments.len() == self.limit {
            let message = format!("over the limit of {} segments", self.limit);
            return Err(Fault::unsupported(segment.in_file(), message));
        }
        self.is_sorted &= self.segments.last().is_none_or(|last| segment.follows(last));
        if self.segments.len() == self.segments.capacity() {
            self.grow()?;
        }
        self.segments.push(segment);
        Ok(())
    }

    /// Reserves memory for at least one more segment.
    #[cold]
    fn grow(&mut self) -> Result<()> {
        let remaining = self.limit.minus(self.segments.len())?;
        let grown = match self.segments.len() < MAX_DOUBLED_SEGMENTS {
            true => self.segments.try_reserve(1),
            false => self.segments.try_reserve_exact(remaining),
        };
        Ok(grown.map_err(out_of_memory)?)
    }

    /// Returns the table, and whether overlapping segments were cut.
    ///
    /// # Errors
    /// Returns an error if segments overlap and there are too many of them, or if an allocation fails.
    pub(super) fn finish(self) -> Result<(Table, bool)> {
        let Self { mut segments, overlap_limit, is_sorted, .. } = self;
        if is_sorted {
            return Ok((Table { segments }, false));
        }
        segments.sort_unstable_by_key(|segment| (segment.memory(), segment.address()));
        let overlap = segments.array_windows().find(|[segment, next]| !next.follows(segment));
        let Some([_, overlap]) = overlap else { return Ok((Table { segments }, false)) };
        let count = segments.len();
        if count > overlap_limit {
            let message = format!(
                "{count} segments are over the limit of {overlap_limit} for a dump with \
                 overlapping segments"
            );
            return Err(Fault::unsupported(overlap.in_file(), message));
        }
        Ok((Table { segments: cut_overlaps(segments)? }, true))
    }
}

fn out_of_memory(_: TryReserveError) -> Error {
    Error::out_of_memory("the table of segments")
}

/// Cuts each segment where a later segment of the file overwrites it. `segments` are sorted by memory and address.
///
/// The sweep visits the addresses once, from one segment start to the next. A heap holds the open segments, those that
/// start at or before the current address; the last one of the file is on top and owns the bytes. Closed segments stay
/// in the heap until they come to the top. Each start and each end of a segment adds at most one part, so there are at
/// most twice as many parts as segments.
fn cut_overlaps(segments: Vec<Segment>) -> Result<Vec<Segment>> {
    let mut parts = Vec::new();
    parts.try_reserve_exact(segments.len().times(2)?).map_err(out_of_memory)?;
    let mut open = BinaryHeap::new();
    let nexts = segments.iter().skip(1).map(Some).chain([None]);
    for ((i, segment), next) in segments.iter().enumerate().zip(nexts) {
        open.try_reserve(1).map_err(out_of_memory)?;
        open.push((segment.offset(), i));
        let next = next.filter(|next| next.memory() == segment.memory());
        // No other segment opens before the next one starts.
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
            push_part(&mut parts, top.part(at..=last)?);
            match last.checked_add(1) {
                Some(after) if last < until => at = after,
                _ => break,
            }
        }
        if next.is_none() {
            open.clear();
        }
    }
    drop((segments, open));
    parts.shrink_to_fit();
    Ok(parts)
}

/// Appends `part`, or extends the last part if `part` continues it.
fn push_part(parts: &mut Vec<Segment>, part: Segment) {
    let last = parts.last_mut();
    match last.and_then(|last| last.joined(&part).map(|joined| (last, joined))) {
        Some((last, joined)) => *last = joined,
        None => parts.push(part),
    }
}

#[cfg(test)]
mod tests {
    use super::super::segment::Placement;
    use super::*;
    use crate::ErrorKind;

    fn segment(memory: u32, address: u64, offset: u64, len: u32) -> Segment {
        Placement { address, offset, len, memory }.segment().unwrap()
    }

    #[test]
    fn the_last_segment_of_the_file_wins() {
        let mut builder = TableBuilder::new();
        for one in [
            segment(1, 0, 100, 10),
            segment(0, 5, 200, 10), // after a higher memory
            segment(0, 0, 300, 7),  // overwrites two bytes of the previous one
            segment(1, 4, 400, 2),  // splits the first
            segment(0, 20, 500, 1),
            segment(0, 20, 600, 1), // the same address again
        ] {
            builder.push(one).unwrap();
        }
        let (table, overlapped) = builder.finish().unwrap();
        assert!(overlapped);
        assert_eq!(
            table.segments,
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
    fn cuts_at_the_end_of_the_address_space() {
        let mut builder = TableBuilder::new();
        builder.push(segment(0, u64::MAX - 3, 100, 4)).unwrap();
        builder.push(segment(0, u64::MAX, 200, 1)).unwrap();
        let (table, _) = builder.finish().unwrap();
        let expected = [segment(0, u64::MAX - 3, 100, 3), segment(0, u64::MAX, 200, 1)];
        assert_eq!(table.segments, expected);
    }

    #[test]
    fn rejects_segments_over_the_limit() {
        let mut builder = TableBuilder::with_limits(4, 1);
        for i in [0, 3, 1, 2] {
            builder.push(segment(0, i * 10, i * 20, 5)).unwrap();
        }
        let fault = builder.push(segment(0, 100, 80, 5)).unwrap_err();
        assert_eq!((fault.kind, fault.range.clone()), (ErrorKind::Unsupported, 80..85));
        assert!(fault.line().ends_with("over the limit of 4 segments"), "{}", fault.line());
        let (table, overlapped) = builder.finish().unwrap();
        let expected = [0, 1, 2, 3].map(|i| segment(0, i * 10, i * 20, 5));
        assert_eq!(table.segments, expected);
        assert!(!overlapped);
    }

    #[test]
    fn rejects_overlapping_segments_over_their_limit() {
        let apart = [segment(0, 0, 0, 5), segment(1, 4, 60, 9), segment(0, 10, 40, 5)];
        let overlapping = [apart[0], apart[1], segment(0, 4, 40, 5)];
        let finish = |segments: &[Segment], overlap_limit| {
            let mut builder = TableBuilder::with_limits(4, overlap_limit);
            segments.iter().for_each(|segment| builder.push(*segment).unwrap());
            builder.finish()
        };
        let (table, overlapped) = finish(&apart, 2).unwrap();
        assert_eq!((table.segments(), overlapped), (&[apart[0], apart[2], apart[1]][..], false));

        let fault = finish(&overlapping, 2).unwrap_err();
        assert_eq!((fault.kind, fault.range.clone()), (ErrorKind::Unsupported, 40..45));
        let message = "3 segments are over the limit of 2 for a dump with overlapping segments";
        assert!(fault.line().ends_with(message), "{}", fault.line());

        let (table, overlapped) = finish(&overlapping, 3).unwrap();
        let expected = [segment(0, 0, 0, 4), overlapping[2], overlapping[1]];
        assert_eq!((table.segments(), overlapped), (&expected[..], true));
    }

    /// Nested and staggered segments, each of which cuts the previous ones: the maximum number of parts.
    #[test]
    fn makes_at_most_two_parts_per_segment() {
        for (step, len) in [(1, 20), (2, 5), (3, 4)] {
            let mut builder = TableBuilder::new();
            builder.push(segment(0, 0, 0, 1000)).unwrap();
            for i in (0..100).rev() {
                builder.push(segment(0, 5 + i * step, 2000 - i * 20, len)).unwrap();
            }
            let (table, _) = builder.finish().unwrap();
            assert!(table.segments().len() <= 202, "{}", table.segments().len());
        }
        let mut builder = TableBuilder::new();
        builder.push(segment(0, 0, 0, 1000)).unwrap();
        for i in 0..100 {
            builder.push(segment(0, 5 + i * 5, 2000 + i * 5, 3)).unwrap();
        }
        let (table, _) = builder.finish().unwrap();
        assert_eq!(table.segments().len(), 201);
    }

    /// Growing a long table must not copy it.
    #[test]
    fn a_long_table_reserves_its_maximum_at_once() {
        let mut builder = TableBuilder::new();
        for i in 0..MAX_DOUBLED_SEGMENTS as u64 + 1 {
            builder.push(segment(0, i * 2, i * 2, 1)).unwrap();
        }
        assert_eq!(builder.segments.capacity(), MAX_LISTED_SEGMENTS);

        let mut builder = TableBuilder::new();
        builder.reserve_exact(1000).unwrap();
        (0..1000).for_each(|i| builder.push(segment(0, i * 2, i * 2, 1)).unwrap());
        assert_eq!(builder.segments.capacity(), 1000);
    }

    #[test]
    fn finds_segments_by_last_address() {
        let mut builder = TableBuilder::new();
        let all = [
            segment(0, 10, 0, 5),
            segment(0, 15, 20, 1),
            segment(2, 0, 40, 7),
            segment(2, u64::MAX, 50, 1),
        ];
        all.iter().for_each(|segment| builder.push(*segment).unwrap());
        let (table, overlapped) = builder.finish().unwrap();
        assert!(!overlapped);
        for (memory, address, expected) in [
            (0, 0, &all[..2]),
            (0, 14, &all[..2]),
            (0, 15, &all[1..2]),
            (0, 16, &[]),
            (1, 0, &[]),
            (2, 6, &all[2..]),
            (2, 7, &all[3..]),
            (2, u64::MAX, &all[3..]),
            (3, 0, &[]),
        ] {
            assert_eq!(table.segments_from(memory, address), expected, "{memory}, {address}");
        }
    }
}
