//! The contents of a memory in the order of addresses: data, zeros, and what was left out.

use std::fmt;
use std::iter::Peekable;
use std::ops::RangeInclusive;

use super::input;
use super::table::Segments;
use super::tables::RawRange;

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
            Self::Data { address, bytes } => {
                let more = (bytes.len() as u64).saturating_sub(1);
                *address..=address.saturating_add(more)
            }
            Self::Zero(range) | Self::LeftOut(range) => range.clone(),
        }
    }
}

/// How many addresses there are; all 2^64 count as one less.
pub(super) fn count(addresses: &RangeInclusive<u64>) -> u64 {
    addresses.end().saturating_sub(*addresses.start()).saturating_add(1)
}

/// The parts of a memory from an address to its end, without a gap. Made by
/// [`CoreDumpFile::contents`](super::CoreDumpFile::contents).
#[derive(Clone)]
pub struct Contents<'d> {
    bytes: &'d [u8],
    segments: Peekable<Segments<'d>>,
    left_out: &'d [RawRange],
    /// From here on, what is in no segment is lost.
    lost: Option<u64>,
    /// What is to come.
    rest: Option<RangeInclusive<u64>>,
}

impl<'d> Contents<'d> {
    /// `rest` is `None` where there is nothing.
    pub(super) fn new(
        bytes: &'d [u8],
        segments: Segments<'d>,
        left_out: &'d [RawRange],
        lost: Option<u64>,
        rest: Option<RangeInclusive<u64>>,
    ) -> Self {
        let at = rest.as_ref().map_or(0, |rest| *rest.start());
        let passed = left_out.partition_point(|range| range.last.get() < at);
        let left_out = left_out.get(passed..).unwrap_or_default();
        Self { bytes, segments: segments.peekable(), left_out, lost, rest }
    }

    /// The first part of the rest.
    fn part(&mut self, at: u64, last: u64) -> Option<Content<'d>> {
        let next = match self.segments.peek() {
            Some(segment) if segment.address <= at => {
                let segment = self.segments.next()?;
                let passed = usize::try_from(at.checked_sub(segment.address)?).ok()?;
                let bytes = input::part(self.bytes, segment.in_file())?.get(passed..)?;
                return Some(Content::Data { address: at, bytes });
            }
            Some(segment) => segment.address.saturating_sub(1).min(last),
            None => last,
        };
        Some(match (self.left_out.split_first(), self.lost) {
            (Some((range, later)), _) if range.first.get() <= at => {
                // At least one byte, even of a file that has changed.
                let end = range.last.get().min(next).max(at);
                self.left_out = later;
                Content::LeftOut(at..=end)
            }
            (_, Some(lost)) if lost <= at => Content::LeftOut(at..=next),
            (Some((range, _)), _) => {
                Content::Zero(at..=range.first.get().saturating_sub(1).min(next).max(at))
            }
            (None, Some(lost)) => Content::Zero(at..=lost.saturating_sub(1).min(next)),
            (None, None) => Content::Zero(at..=next),
        })
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
