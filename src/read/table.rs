//! The table of segments: all of them in memory, in the order of memory and address; finds a segment by its address.
//!
//! The index of a dump lists them in that order. The sections of another writer's dump may have them in any order, and
//! overlapping: they are sorted once, and the last one of the file wins.

use std::collections::BinaryHeap;

use super::fault::{Fault, Result};
use super::segment::Segment;
use crate::arithmetic::Checked;
use crate::error;
use crate::limits::MAX_LISTED_SEGMENTS;

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
    is_ordered: bool,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self::with_limit(MAX_LISTED_SEGMENTS)
    }

    /// One for at most `most` segments.
    fn with_limit(most: usize) -> Self {
        Self { segments: Vec::new(), most, is_ordered: true }
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
        let no_room = |_| error::Error::out_of_memory("the table of segments");
        self.segments.try_reserve(1).map_err(no_room)?;
        self.segments.push(segment);
        Ok(())
    }

    /// Returns the table, and whether segments had to be sorted.
    ///
    /// # Errors
    /// Returns an internal error.
    pub(super) fn finish(self) -> error::Result<(Table, bool)> {
        let segments = if self.is_ordered { self.segments } else { resolve(self.segments)? };
        Ok((Table { segments }, !self.is_ordered))
    }
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
        let (table, sorted) = builder.finish().unwrap();
        assert!(sorted);
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
        let mut builder = Builder::with_limit(4);
        for i in [0, 3, 1, 2] {
            builder.push(segment(0, i * 10, i * 20, 5)).unwrap();
        }
        let fault = builder.push(segment(0, 100, 80, 5)).unwrap_err();
        assert_eq!((fault.kind, fault.range.clone()), (ErrorKind::Unsupported, 80..85));
        assert!(fault.line().ends_with("over the limit of 4 segments"), "{}", fault.line());
        let (table, is_sorted) = builder.finish().unwrap();
        assert_eq!((table.all().len(), is_sorted), (4, true));
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
        let (table, is_sorted) = builder.finish().unwrap();
        assert!(!is_sorted);
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
