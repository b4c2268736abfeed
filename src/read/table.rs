//! The table of segments: all of them in memory, in the order of memory and address; finds a segment by its address.
//!
//! The index of a dump lists them in that order. The sections of another writer's dump may have them in any order, and
//! overlapping: they are sorted once, in place, and the last one of the file wins.
//!
//! A table is never longer than [`MAX_LISTED_SEGMENTS`], which is most of what a reader may keep in memory. So a long table
//! must not be copied: neither to make it longer, which is why a table of many segments is given its full room at once, nor
//! to cut segments that overlap, which is why a dump may have fewer of those ([`MAX_OVERLAPPING_SEGMENTS`]). Unused
//! capacity costs address space only: the kernel allocates a page when it is first written.

use std::collections::{BinaryHeap, TryReserveError};

use super::fault::{Fault, Result};
use super::segment::Segment;
use crate::arithmetic::Checked;
use crate::error::Error;
use crate::limits::{MAX_LISTED_SEGMENTS, MAX_OVERLAPPING_SEGMENTS};

/// Segments up to which a table grows by doubling, so that a table of a few segments has little room: 3 MiB. One that may
/// have to be cut, because segments overlap, has no more.
pub(super) const DOUBLED: usize = MAX_OVERLAPPING_SEGMENTS;

/// All segments in the order of memory and address, none overlapping another.
#[derive(Debug, Default)]
pub(super) struct Table {
    segments: Vec<Segment>,
}

impl Table {
    /// Returns the segments of `memory` that have bytes at `address` or after it.
    pub(super) fn from(&self, memory: u32, address: u64) -> &[Segment] {
        let key = (memory, address);
        let before = |segment: &Segment| (segment.memory(), segment.last()) < key;
        let from = self.segments.get(self.segments.partition_point(before)..).unwrap_or_default();
        let count = from.partition_point(|segment| segment.memory() == memory);
        from.get(..count).unwrap_or_default()
    }

    /// Returns all segments.
    pub(super) fn all(&self) -> &[Segment] {
        &self.segments
    }
}

/// Makes a table of the segments of a file.
#[derive(Debug)]
pub(super) struct Builder {
    segments: Vec<Segment>,
    most: usize,
    most_overlapping: usize,
    is_ordered: bool,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self::with_limits(MAX_LISTED_SEGMENTS, MAX_OVERLAPPING_SEGMENTS)
    }

    /// One for at most `most` segments, or `most_overlapping` if some of them overlap.
    fn with_limits(most: usize, most_overlapping: usize) -> Self {
        Self { segments: Vec::new(), most, most_overlapping, is_ordered: true }
    }

    /// Makes room for the only segments that will come, which are `count` at most.
    ///
    /// # Errors
    /// Returns an error if memory for them cannot be allocated.
    pub(super) fn expect(&mut self, count: usize) -> Result<()> {
        Ok(self.segments.try_reserve_exact(count).map_err(no_room)?)
    }

    /// Takes the next segment of the file.
    ///
    /// # Errors
    /// Returns an error if the table is full, or if memory for the segment cannot be allocated.
    pub(super) fn push(&mut self, segment: Segment) -> Result<()> {
        if self.segments.len() == self.most {
            let message = format!("over the limit of {} segments", self.most);
            return Err(Fault::unsupported(segment.in_file(), message));
        }
        self.is_ordered &= self.segments.last().is_none_or(|last| segment.follows(last));
        if self.segments.len() == self.segments.capacity() {
            self.grow()?;
        }
        self.segments.push(segment);
        Ok(())
    }

    /// Makes room for one more segment at least.
    #[cold]
    fn grow(&mut self) -> Result<()> {
        let left = self.most.minus(self.segments.len())?;
        let grown = match self.segments.len() < DOUBLED {
            true => self.segments.try_reserve(1),
            false => self.segments.try_reserve_exact(left),
        };
        Ok(grown.map_err(no_room)?)
    }

    /// Returns the table, and whether it has parts of segments that overlap.
    ///
    /// # Errors
    /// Returns an error if segments overlap and are too many, or if memory cannot be allocated.
    pub(super) fn finish(self) -> Result<(Table, bool)> {
        let Self { mut segments, most_overlapping, is_ordered, .. } = self;
        if is_ordered {
            return Ok((Table { segments }, false));
        }
        segments.sort_unstable_by_key(|segment| (segment.memory(), segment.address()));
        let overlap = segments.array_windows().find(|[segment, next]| !next.follows(segment));
        let Some([_, overlap]) = overlap else { return Ok((Table { segments }, false)) };
        let count = segments.len();
        if count > most_overlapping {
            let message = format!(
                "{count} segments are over the limit of {most_overlapping} of a dump in which some \
                 overlap"
            );
            return Err(Fault::unsupported(overlap.in_file(), message));
        }
        Ok((Table { segments: resolve(segments)? }, true))
    }
}

fn no_room(_: TryReserveError) -> Error {
    Error::out_of_memory("the table of segments")
}

/// Cuts out of each segment what a later one of the file overwrites. The segments come in the order of memory and
/// address.
///
/// Goes over the addresses once; a heap holds the segments that begin before the address in hand,
/// the last of the file on top. Each segment that begins or ends makes at most one part more.
fn resolve(segments: Vec<Segment>) -> Result<Vec<Segment>> {
    let mut resolved = Vec::new();
    resolved.try_reserve_exact(segments.len().times(2)?).map_err(no_room)?;
    let mut open = BinaryHeap::new();
    let nexts = segments.iter().skip(1).map(Some).chain([None]);
    for ((i, segment), next) in segments.iter().enumerate().zip(nexts) {
        open.try_reserve(1).map_err(no_room)?;
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
    drop((segments, open));
    resolved.shrink_to_fit();
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
    use crate::ErrorKind;

    fn segment(memory: u32, address: u64, offset: u64, len: u32) -> Segment {
        Placement { address, offset, len, memory }.segment().unwrap()
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
    fn the_end_of_all_addresses() {
        let mut builder = Builder::new();
        builder.push(segment(0, u64::MAX - 3, 100, 4)).unwrap();
        builder.push(segment(0, u64::MAX, 200, 1)).unwrap();
        let (table, _) = builder.finish().unwrap();
        let expected = [segment(0, u64::MAX - 3, 100, 3), segment(0, u64::MAX, 200, 1)];
        assert_eq!(table.segments, expected);
    }

    #[test]
    fn no_more_segments_than_the_limit() {
        let mut builder = Builder::with_limits(4, 1);
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
    fn fewer_segments_that_overlap_than_the_limit() {
        let apart = [segment(0, 0, 0, 5), segment(1, 4, 60, 9), segment(0, 10, 40, 5)];
        let overlapping = [apart[0], apart[1], segment(0, 4, 40, 5)];
        let finish = |segments: &[Segment], most_overlapping| {
            let mut builder = Builder::with_limits(4, most_overlapping);
            segments.iter().for_each(|segment| builder.push(*segment).unwrap());
            builder.finish()
        };
        let (table, overlapped) = finish(&apart, 2).unwrap();
        assert_eq!((table.all(), overlapped), (&[apart[0], apart[2], apart[1]][..], false));

        let fault = finish(&overlapping, 2).unwrap_err();
        assert_eq!((fault.kind, fault.range.clone()), (ErrorKind::Unsupported, 40..45));
        let message = "3 segments are over the limit of 2 of a dump in which some overlap";
        assert!(fault.line().ends_with(message), "{}", fault.line());

        let (table, overlapped) = finish(&overlapping, 3).unwrap();
        let expected = [segment(0, 0, 0, 4), overlapping[2], overlapping[1]];
        assert_eq!((table.all(), overlapped), (&expected[..], true));
    }

    /// Nested and staggered segments, of which each cuts the ones before it: as many parts as there can be.
    #[test]
    fn parts_are_at_most_twice_as_many_as_segments() {
        for (step, len) in [(1, 20), (2, 5), (3, 4)] {
            let mut builder = Builder::new();
            builder.push(segment(0, 0, 0, 1000)).unwrap();
            for i in (0..100).rev() {
                builder.push(segment(0, 5 + i * step, 2000 - i * 20, len)).unwrap();
            }
            let (table, _) = builder.finish().unwrap();
            assert!(table.all().len() <= 202, "{}", table.all().len());
        }
        let mut builder = Builder::new();
        builder.push(segment(0, 0, 0, 1000)).unwrap();
        for i in 0..100 {
            builder.push(segment(0, 5 + i * 5, 2000 + i * 5, 3)).unwrap();
        }
        let (table, _) = builder.finish().unwrap();
        assert_eq!(table.all().len(), 201);
    }

    /// A table of many segments is not copied to become longer.
    #[test]
    fn many_segments_are_given_all_room_at_once() {
        let mut builder = Builder::new();
        for i in 0..DOUBLED as u64 + 1 {
            builder.push(segment(0, i * 2, i * 2, 1)).unwrap();
        }
        assert_eq!(builder.segments.capacity(), MAX_LISTED_SEGMENTS);

        let mut builder = Builder::new();
        builder.expect(1000).unwrap();
        (0..1000).for_each(|i| builder.push(segment(0, i * 2, i * 2, 1)).unwrap());
        assert_eq!(builder.segments.capacity(), 1000);
    }

    #[test]
    fn segments_are_found_by_their_last_address() {
        let mut builder = Builder::new();
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
            assert_eq!(table.from(memory, address), expected, "{memory}, {address}");
        }
    }
}
