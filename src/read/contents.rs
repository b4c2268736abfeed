//! The contents of a memory in the order of addresses: data, zeros, and what nobody knows.

use std::fmt;
use std::ops::RangeInclusive;

use super::segment::Segment;

/// A part of a memory, without its bytes ([`MemoryView::read`](super::MemoryView::read) reads them). Ranges have the first
/// and the last address, since a memory of 2^64 bytes has no end of 64 bits; they are never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Content {
    /// Bytes that lie in the dump.
    Data {
        /// Their addresses.
        addresses: RangeInclusive<u64>,
        /// The offset of the first of them in the dump, in bytes.
        offset: u64,
    },
    /// Bytes that are zero.
    Zero(RangeInclusive<u64>),
    /// Bytes that were excluded from the dump on purpose.
    Excluded(RangeInclusive<u64>),
    /// Bytes that are lost in a damaged dump ([`CoreDumpFile::salvage`](super::CoreDumpFile::salvage)).
    Lost(RangeInclusive<u64>),
}

impl Content {
    /// Returns the addresses that it covers.
    pub fn addresses(&self) -> &RangeInclusive<u64> {
        match self {
            Self::Data { addresses: range, .. }
            | Self::Zero(range)
            | Self::Excluded(range)
            | Self::Lost(range) => range,
        }
    }

    /// Returns the addresses if nobody knows the bytes there, whether they were excluded or are lost.
    pub fn unknown(self) -> Option<RangeInclusive<u64>> {
        match self {
            Self::Excluded(range) | Self::Lost(range) => Some(range),
            Self::Data { .. } | Self::Zero(_) => None,
        }
    }
}

/// The address before `address`, if that is not before `at`.
#[inline]
fn before(address: u64, at: u64) -> Option<u64> {
    if address <= at { None } else { address.checked_sub(1) }
}

/// The parts of a memory from an address to its end, without a gap. Made by
/// [`MemoryView::contents`](super::MemoryView::contents).
#[derive(Clone)]
pub struct Contents<'d> {
    segments: &'d [Segment],
    excluded: &'d [RangeInclusive<u64>],
    /// From here on, what is in no segment is lost.
    lost: Option<u64>,
    /// What is to come.
    rest: Option<RangeInclusive<u64>>,
}

impl<'d> Contents<'d> {
    /// Segments and excluded ranges are those from the beginning of `rest` on, which is `None` where there is nothing.
    pub(super) fn new(
        segments: &'d [Segment],
        excluded: &'d [RangeInclusive<u64>],
        lost: Option<u64>,
        rest: Option<RangeInclusive<u64>>,
    ) -> Self {
        Self { segments, excluded, lost, rest }
    }

    /// The first part of the rest, which is `at..=last`.
    fn part(&mut self, at: u64, last: u64) -> Option<Content> {
        // The last address before the next segment.
        let next = match self.segments.split_first() {
            Some((segment, later)) => match before(segment.address(), at) {
                Some(next) => next.min(last),
                None => {
                    self.segments = later;
                    let passed = at.checked_sub(segment.address())?;
                    let offset = segment.offset().checked_add(passed)?;
                    return Some(Content::Data { addresses: at..=segment.last(), offset });
                }
            },
            None => last,
        };
        // Zeros end there, or where something is not known.
        let mut zeros = next;
        if let Some((range, later)) = self.excluded.split_first() {
            match before(*range.start(), at) {
                Some(before) => zeros = zeros.min(before),
                None => {
                    let end = (*range.end()).min(next).max(at);
                    self.excluded = later;
                    return Some(Content::Excluded(at..=end));
                }
            }
        }
        if let Some(lost) = self.lost {
            match before(lost, at) {
                Some(before) => zeros = zeros.min(before),
                None => return Some(Content::Lost(at..=next)),
            }
        }
        Some(Content::Zero(at..=zeros))
    }
}

/// The addresses that are to come.
impl fmt::Debug for Contents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").field("rest", &self.rest).finish_non_exhaustive()
    }
}

impl Iterator for Contents<'_> {
    type Item = Content;

    fn next(&mut self) -> Option<Content> {
        let (at, last) = self.rest.take()?.into_inner();
        let part = self.part(at, last)?;
        let end = *part.addresses().end();
        self.rest = end.checked_add(1).filter(|next| *next <= last).map(|next| next..=last);
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::super::segment::Placement;
    use super::super::table::{Builder, Table};
    use super::*;

    /// The contents from `at` on of a memory of 2^64 bytes with segments at these addresses, one after the other from the
    /// first byte of the dump on.
    fn contents<'d>(
        table: &'d mut Table,
        segments: &[(u64, u32)],
        lost: Option<u64>,
        at: u64,
    ) -> Contents<'d> {
        let mut offset = 0;
        let segments = segments.iter().map(|(address, len)| {
            let segment = Placement { memory: 0, address: *address, offset, len: *len }.segment();
            offset += u64::from(*len);
            segment.unwrap()
        });
        let mut builder = Builder::new();
        segments.for_each(|segment| builder.push(segment).unwrap());
        *table = builder.finish().unwrap().0;
        Contents::new(table.from(0, at), &[], lost, Some(at..=u64::MAX))
    }

    #[test]
    fn a_segment_may_end_at_the_end_of_all_addresses() {
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
    fn all_addresses_may_be_zero_or_lost() {
        for (lost, expected) in [
            (None, vec![Content::Zero(0..=u64::MAX)]),
            (Some(0), vec![Content::Lost(0..=u64::MAX)]),
            (
                Some(u64::MAX),
                vec![Content::Zero(0..=u64::MAX - 1), Content::Lost(u64::MAX..=u64::MAX)],
            ),
        ] {
            let mut table = Table::default();
            assert!(contents(&mut table, &[], lost, 0).eq(expected), "{lost:?}");
        }
    }
}
