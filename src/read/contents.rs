//! The contents of a memory in the order of addresses: data, zeros, and what was left out.

use std::fmt;
use std::ops::RangeInclusive;

use super::input;
use super::segment::Segment;

/// A part of a memory. Addresses are given by the first and the last byte, since a memory of 2^64
/// bytes has no end of 64 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'d> {
    /// Bytes that lie in the dump.
    Data {
        /// The address of the first of them.
        address: u64,
        /// Borrowed from the dump; not empty.
        bytes: &'d [u8],
    },
    /// Bytes that are zero.
    Zero(RangeInclusive<u64>),
    /// Bytes that nobody knows: they were left out of the dump on purpose, or they are lost in a damaged
    /// one ([`CoreDumpFile::salvage`](super::CoreDumpFile::salvage)).
    /// [`CoreDumpFile::read`](super::CoreDumpFile::read) fails with which it is.
    LeftOut(RangeInclusive<u64>),
}

impl Content<'_> {
    /// The addresses that it covers; never empty.
    pub fn addresses(&self) -> RangeInclusive<u64> {
        match self {
            // A bound is meant, for what no dump has: no bytes, or more of them than there are addresses.
            Self::Data { address, bytes } => {
                *address..=address.saturating_add((bytes.len() as u64).saturating_sub(1))
            }
            Self::Zero(range) | Self::LeftOut(range) => range.clone(),
        }
    }
}

/// The address before `address`, if that is not before `at`.
#[inline]
fn before(address: u64, at: u64) -> Option<u64> {
    if address <= at { None } else { address.checked_sub(1) }
}

/// The parts of a memory from an address to its end, without a gap. Made by
/// [`CoreDumpFile::contents`](super::CoreDumpFile::contents).
#[derive(Clone)]
pub struct Contents<'d> {
    bytes: &'d [u8],
    segments: &'d [Segment],
    left_out: &'d [RangeInclusive<u64>],
    /// From here on, what is in no segment is lost.
    lost: Option<u64>,
    /// What is to come.
    rest: Option<RangeInclusive<u64>>,
}

impl<'d> Contents<'d> {
    /// Segments and excluded ranges are those from the beginning of `rest` on, which is `None` where there is nothing.
    pub(super) fn new(
        bytes: &'d [u8],
        segments: &'d [Segment],
        left_out: &'d [RangeInclusive<u64>],
        lost: Option<u64>,
        rest: Option<RangeInclusive<u64>>,
    ) -> Self {
        Self { bytes, segments, left_out, lost, rest }
    }

    /// The first part of the rest, which is `at..=last`.
    fn part(&mut self, at: u64, last: u64) -> Option<Content<'d>> {
        // The last address before the next segment.
        let next = match self.segments.split_first() {
            Some((segment, later)) => match before(segment.address(), at) {
                Some(next) => next.min(last),
                None => {
                    self.segments = later;
                    let passed = usize::try_from(at.checked_sub(segment.address())?).ok()?;
                    let bytes = input::part(self.bytes, segment.in_file())?.get(passed..)?;
                    return Some(Content::Data { address: at, bytes });
                }
            },
            None => last,
        };
        // Zeros end there, or where something is not known.
        let mut zeros = next;
        if let Some((range, later)) = self.left_out.split_first() {
            match before(*range.start(), at) {
                Some(before) => zeros = zeros.min(before),
                None => {
                    // At least one byte, even of a file that has changed.
                    let end = (*range.end()).min(next).max(at);
                    self.left_out = later;
                    return Some(Content::LeftOut(at..=end));
                }
            }
        }
        if let Some(lost) = self.lost {
            match before(lost, at) {
                Some(before) => zeros = zeros.min(before),
                None => return Some(Content::LeftOut(at..=next)),
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

impl<'d> Iterator for Contents<'d> {
    type Item = Content<'d>;

    fn next(&mut self) -> Option<Content<'d>> {
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

    /// The contents from `at` on of a memory of 2^64 bytes with segments at these addresses, one after the other in
    /// `bytes`.
    fn contents<'d>(
        table: &'d mut Table,
        bytes: &'d [u8],
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
        Contents::new(bytes, table.from(0, at), &[], lost, Some(at..=u64::MAX))
    }

    #[test]
    fn a_segment_may_end_at_the_end_of_all_addresses() {
        let bytes = [1, 2, 3, 4];
        let segments = [(0, 1), (u64::MAX - 2, 3)];
        let mut table = Table::default();
        let expected = [
            Content::Data { address: 0, bytes: &bytes[..1] },
            Content::Zero(1..=u64::MAX - 3),
            Content::Data { address: u64::MAX - 2, bytes: &bytes[1..] },
        ];
        let found: Vec<_> = contents(&mut table, &bytes, &segments, None, 0).collect();
        assert_eq!(found, expected);
        assert_eq!(found[2].addresses(), u64::MAX - 2..=u64::MAX);
        let found: Vec<_> = contents(&mut table, &bytes, &segments, None, u64::MAX).collect();
        assert_eq!(found, [Content::Data { address: u64::MAX, bytes: &bytes[3..] }]);
        let found: Vec<_> = contents(&mut table, &bytes, &segments, Some(2), 0).skip(1).collect();
        let lost = Content::LeftOut(2..=u64::MAX - 3);
        assert_eq!(found, [Content::Zero(1..=1), lost, expected[2].clone()]);
    }

    #[test]
    fn all_addresses_may_be_zero_or_lost() {
        for (lost, expected) in [
            (None, vec![Content::Zero(0..=u64::MAX)]),
            (Some(0), vec![Content::LeftOut(0..=u64::MAX)]),
            (
                Some(u64::MAX),
                vec![Content::Zero(0..=u64::MAX - 1), Content::LeftOut(u64::MAX..=u64::MAX)],
            ),
        ] {
            let mut table = Table::default();
            assert!(contents(&mut table, &[], &[], lost, 0).eq(expected), "{lost:?}");
        }
    }
}
