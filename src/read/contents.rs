//! The contents of a memory by address: data, zeros, and ranges whose bytes are unknown.
//!
//! The iterator merges the sorted segments with the sorted excluded ranges and fills the gaps between them: with lost
//! bytes at or after the address where a damaged dump stops, with zeros before it.

use std::fmt;
use std::ops::RangeInclusive;

use super::segment::Segment;

/// A range of a memory and its kind. [`MemoryView::read`](super::MemoryView::read) reads the bytes.
///
/// The ranges are inclusive, because the end of a memory of 2^64 bytes does not fit a `u64`. They are never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Content {
    /// Bytes in the dump.
    Data {
        /// The addresses of the bytes.
        addresses: RangeInclusive<u64>,
        /// The file offset of the first byte.
        offset: u64,
    },
    /// Zeros.
    Zero(RangeInclusive<u64>),
    /// Unknown bytes: they were excluded from the dump on purpose.
    Excluded(RangeInclusive<u64>),
    /// Unknown bytes: they are lost in a damaged dump ([`CoreDumpFile::salvage`](super::CoreDumpFile::salvage)).
    Lost(RangeInclusive<u64>),
}

impl Content {
    /// Returns the addresses of the range.
    pub fn addresses(&self) -> &RangeInclusive<u64> {
        match self {
            Self::Data { addresses: range, .. }
            | Self::Zero(range)
            | Self::Excluded(range)
            | Self::Lost(range) => range,
        }
    }

    /// Returns the addresses if the bytes are unknown, because they were excluded or are lost.
    pub fn unknown(self) -> Option<RangeInclusive<u64>> {
        match self {
            Self::Excluded(range) | Self::Lost(range) => Some(range),
            Self::Data { .. } | Self::Zero(_) => None,
        }
    }
}

/// Returns `address - 1` if `address` is greater than `at`.
#[inline]
fn last_before(address: u64, at: u64) -> Option<u64> {
    if address <= at { None } else { address.checked_sub(1) }
}

/// An iterator over the contents of a memory from an address to its end, without gaps. Created by
/// [`MemoryView::contents`](super::MemoryView::contents).
#[derive(Clone)]
pub struct Contents<'d> {
    segments: &'d [Segment],
    excluded: &'d [RangeInclusive<u64>],
    /// The address from which on bytes outside of segments are lost.
    lost_from: Option<u64>,
    /// The addresses that are still to be yielded.
    rest: Option<RangeInclusive<u64>>,
}

impl<'d> Contents<'d> {
    /// Returns the contents of `rest`, the addresses up to the end of the memory, or nothing for `None`. The segments
    /// and excluded ranges are those that end at or after the start of `rest`.
    pub(super) fn new(
        segments: &'d [Segment],
        excluded: &'d [RangeInclusive<u64>],
        lost_from: Option<u64>,
        rest: Option<RangeInclusive<u64>>,
    ) -> Self {
        Self { segments, excluded, lost_from, rest }
    }

    /// Returns the first range of the rest, `at..=last`.
    fn next_content(&mut self, at: u64, last: u64) -> Option<Content> {
        // The last address before the next segment.
        let gap_last = match self.segments.split_first() {
            Some((segment, later)) => match last_before(segment.address(), at) {
                Some(gap_last) => gap_last.min(last),
                None => {
                    self.segments = later;
                    let skipped = at.checked_sub(segment.address())?;
                    let offset = segment.offset().checked_add(skipped)?;
                    return Some(Content::Data { addresses: at..=segment.last(), offset });
                }
            },
            None => last,
        };
        // The zeros end with the gap, or earlier where bytes are unknown.
        let mut zeros_last = gap_last;
        if let Some((range, later)) = self.excluded.split_first() {
            match last_before(*range.start(), at) {
                Some(known_last) => zeros_last = zeros_last.min(known_last),
                None => {
                    let range_last = (*range.end()).min(gap_last).max(at);
                    self.excluded = later;
                    return Some(Content::Excluded(at..=range_last));
                }
            }
        }
        if let Some(lost_from) = self.lost_from {
            match last_before(lost_from, at) {
                Some(known_last) => zeros_last = zeros_last.min(known_last),
                None => return Some(Content::Lost(at..=gap_last)),
            }
        }
        Some(Content::Zero(at..=zeros_last))
    }
}

/// Shows the addresses that are still to be yielded.
impl fmt::Debug for Contents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").field("rest", &self.rest).finish_non_exhaustive()
    }
}

impl Iterator for Contents<'_> {
    type Item = Content;

    fn next(&mut self) -> Option<Content> {
        let (at, last) = self.rest.take()?.into_inner();
        let content = self.next_content(at, last)?;
        let end = *content.addresses().end();
        self.rest = end.checked_add(1).filter(|next| *next <= last).map(|next| next..=last);
        Some(content)
    }
}

#[cfg(test)]
mod tests {
    use super::super::segment::Placement;
    use super::super::table::{Table, TableBuilder};
    use super::*;

    /// Returns the contents from `at` on of a memory of 2^64 bytes. `segments` are addresses and lengths; their bytes
    /// are contiguous in the file, from offset 0 on.
    fn contents<'d>(
        table: &'d mut Table,
        segments: &[(u64, u32)],
        lost_from: Option<u64>,
        at: u64,
    ) -> Contents<'d> {
        let mut offset = 0;
        let segments = segments.iter().map(|(address, len)| {
            let segment = Placement { memory: 0, address: *address, offset, len: *len }.segment();
            offset += u64::from(*len);
            segment.unwrap()
        });
        let mut builder = TableBuilder::new();
        segments.for_each(|segment| builder.push(segment).unwrap());
        *table = builder.finish().unwrap().0;
        Contents::new(table.segments_from(0, at), &[], lost_from, Some(at..=u64::MAX))
    }

    #[test]
    fn yields_a_segment_at_the_end_of_the_address_space() {
        let segments = [(0, 1), (u64::MAX - 2, 3)];
        let mut table = Table::default();
        let expected = [
            Content::Data { addresses: 0..=0, offset: 0 },
            Content::Zero(1..=u64::MAX - 3),
            Content::Data { addresses: u64::MAX - 2..=u64::MAX, offset: 1 },
        ];
        let found: Vec<_> = contents(&mut table, &segments, None, 0).collect();
        assert_eq!(found, expected);
        let found: Vec<_> = contents(&mut table, &segments, None, u64::MAX).collect();
        assert_eq!(found, [Content::Data { addresses: u64::MAX..=u64::MAX, offset: 3 }]);
        let found: Vec<_> = contents(&mut table, &segments, Some(2), 0).skip(1).collect();
        let lost = Content::Lost(2..=u64::MAX - 3);
        assert_eq!(found, [Content::Zero(1..=1), lost, expected[2].clone()]);
    }

    #[test]
    fn covers_the_whole_address_space_without_segments() {
        for (lost_from, expected) in [
            (None, vec![Content::Zero(0..=u64::MAX)]),
            (Some(0), vec![Content::Lost(0..=u64::MAX)]),
            (
                Some(u64::MAX),
                vec![Content::Zero(0..=u64::MAX - 1), Content::Lost(u64::MAX..=u64::MAX)],
            ),
        ] {
            let mut table = Table::default();
            assert!(contents(&mut table, &[], lost_from, 0).eq(expected), "{lost_from:?}");
        }
    }
}
