//! A data segment: its addresses in a memory and its offsets in the file.
//!
//! A [`Placement`] holds the values that the file gives. They can be anything. A [`Segment`] is a placement that was
//! checked once. Its last address and its end in the file fit in 64 bits, so code that computes with segments needs no
//! further check.

use std::fmt;
use std::ops::{Range, RangeInclusive};

use super::fault::{Fault, Result, plural_s};
use super::wide;
use crate::arithmetic::{Checked, exact};
use crate::error;
use crate::format::IndexSegment;
use crate::model::MemoryType;

/// The number of addresses in the largest possible memory.
const ALL_ADDRESSES: u128 = 1 << 64;

/// The place of a segment, as the file gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// The index of the memory.
    pub(super) memory: u32,
    /// The address of the first byte.
    pub(super) address: u64,
    /// The offset of the first byte in the file.
    pub(super) offset: u64,
    /// The length in bytes.
    pub(super) len: u32,
}

impl Placement {
    /// Returns the placement that an entry of the index gives for a segment of `memory`.
    pub(super) fn from_index_entry(entry: &IndexSegment, memory: u32) -> Self {
        let IndexSegment { address, offset, len } = entry;
        Self { memory, address: address.get(), offset: offset.get(), len: len.get() }
    }

    /// Returns the address after the last byte, which can need 65 bits.
    pub(super) fn end(&self) -> u128 {
        wide::sum(self.address, self.len.into())
    }

    /// Returns the offset after the last byte in the file, which can need 65 bits.
    pub(super) fn end_in_file(&self) -> u128 {
        wide::sum(self.offset, self.len.into())
    }

    /// Checks that the segment lies in its memory. `at` is the place in the file that gives this placement.
    pub(super) fn check(&self, memories: &[MemoryType], at: Range<u64>) -> Result<()> {
        let Some(ty) = memories.get(self.memory as usize) else {
            let (memory, n) = (self.memory, memories.len());
            let message = format!("there is no memory {memory}; the dump has {n}");
            return Err(Fault::damaged(at, message));
        };
        match self.end() <= ty.size() {
            true => Ok(()),
            false => Err(self.past_the_end(ty, at)),
        }
    }

    /// Returns the fault of a segment past the end of its memory, which has type `ty`.
    #[cold]
    pub(super) fn past_the_end(&self, ty: &MemoryType, at: Range<u64>) -> Box<Fault> {
        let Self { memory, address, len, .. } = self;
        let bytes = ty.size();
        let message = format!(
            "{len}-byte segment at address {address:#x} is past the end of memory {memory} ({bytes:#x} bytes)"
        );
        Fault::damaged(at, message)
    }

    /// Checks that the segment lies within the addresses of the largest possible memory.
    pub(super) fn check_addresses(&self, at: &Range<u64>) -> Result<()> {
        if self.end() > ALL_ADDRESSES {
            let Self { address, len, .. } = self;
            let message = format!(
                "{len}-byte segment at address {address:#x} is past the end of the address space"
            );
            return Err(Fault::damaged(at.clone(), message));
        }
        Ok(())
    }

    /// Returns the segment, or `None` if it is empty.
    ///
    /// # Errors
    /// Returns an error if its end is past the address space or past the largest file offset.
    #[inline]
    pub(super) fn checked(&self, at: Range<u64>) -> Result<Option<Segment>> {
        match self.segment() {
            None if self.len > 0 => Err(self.past_address_space_or_file(at)),
            segment => Ok(segment),
        }
    }

    /// Returns the fault of a segment past the address space or past the largest file offset.
    #[cold]
    fn past_address_space_or_file(&self, at: Range<u64>) -> Box<Fault> {
        let Self { offset, len, .. } = self;
        match self.check_addresses(&at) {
            Err(fault) => fault,
            Ok(()) => {
                let message = format!(
                    "{len}-byte segment at offset {offset:#x} is past the largest file offset"
                );
                Fault::damaged(at, message)
            }
        }
    }

    /// Returns the segment, or `None` if it is empty or impossible.
    #[inline]
    pub(super) fn segment(&self) -> Option<Segment> {
        let more = self.len.checked_sub(1)?;
        self.address.checked_add(more.into())?;
        self.offset.checked_add(self.len.into())?;
        Some(Segment(*self))
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, offset, len, memory } = self;
        write!(
            f,
            "{len} byte{} at address {address:#x} of memory {memory}, file offset {offset:#x}",
            plural_s((*len).into())
        )
    }
}

/// A part of a memory that lies in the file. It is not empty. Its addresses and its end in the file fit in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment(Placement);

impl Segment {
    /// Returns its placement.
    pub(super) fn placement(&self) -> &Placement {
        &self.0
    }

    /// Returns the index of its memory.
    pub(super) fn memory(&self) -> u32 {
        self.0.memory
    }

    /// Returns the address of its first byte.
    pub(super) fn address(&self) -> u64 {
        self.0.address
    }

    /// Returns the offset of its first byte in the file.
    pub(super) fn offset(&self) -> u64 {
        self.0.offset
    }

    /// Returns its length in bytes.
    pub(super) fn len(&self) -> u32 {
        self.0.len
    }

    /// Returns the address of its last byte. The address after that can need 65 bits.
    #[allow(clippy::arithmetic_side_effects, reason = "`Placement::segment` has checked both")]
    pub(super) fn last(&self) -> u64 {
        self.0.address + u64::from(self.0.len - 1)
    }

    /// Returns the range of its bytes in the file.
    #[allow(clippy::arithmetic_side_effects, reason = "`Placement::segment` has checked the sum")]
    pub(super) fn in_file(&self) -> Range<u64> {
        self.0.offset..self.0.offset + u64::from(self.0.len)
    }

    /// Returns whether it comes after `other` in the order of the index, and does not overlap it.
    pub(super) fn follows(&self, other: &Self) -> bool {
        (other.memory(), other.last()) < (self.memory(), self.address())
    }

    /// Splits the segment at an `offset` in the file. Returns `None` if one of the two parts would be empty.
    pub(super) fn split_at_offset(&self, offset: u64) -> Option<(Self, Self)> {
        let Placement { memory, address, offset: start, len } = self.0;
        let before = u32::try_from(offset.checked_sub(start)?).ok()?;
        let after = len.checked_sub(before)?;
        let address_after = address.checked_add(before.into())?;
        let before = Placement { memory, address, offset: start, len: before };
        let after = Placement { memory, address: address_after, offset, len: after };
        Some((before.segment()?, after.segment()?))
    }

    /// Returns the part of the segment with these addresses.
    ///
    /// # Errors
    /// Returns an internal error if the segment does not contain them.
    pub(super) fn part(&self, addresses: RangeInclusive<u64>) -> error::Result<Self> {
        let (first, last) = addresses.into_inner();
        self.last().minus(last)?;
        let offset = self.offset().plus(first.minus(self.address())?)?;
        let len = exact::<u32, _>(last.minus(first)?)?.plus(1)?;
        // Both ends lie within a checked segment.
        Ok(Self(Placement { address: first, offset, len, ..self.0 }))
    }

    /// Returns this segment and `next` as one segment.
    ///
    /// Returns `None` if `next` does not begin where this one ends, in the memory and in the file, or if their total
    /// length has more than 32 bits.
    pub(super) fn joined(&self, next: &Self) -> Option<Self> {
        let adjacent = self.memory() == next.memory()
            && self.last().checked_add(1) == Some(next.address())
            && self.in_file().end == next.offset();
        let len = self.len().checked_add(next.len()).filter(|_| adjacent)?;
        Placement { len, ..self.0 }.segment()
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn placement(address: u64, offset: u64, len: u32) -> Placement {
        Placement { memory: 0, address, offset, len }
    }

    fn segment(address: u64, offset: u64, len: u32) -> Segment {
        placement(address, offset, len).segment().unwrap()
    }

    fn fault(placement: Placement) -> String {
        let fault = placement.checked(5..9).unwrap_err();
        assert_eq!((fault.kind, &fault.range), (ErrorKind::Damaged, &(5..9)));
        assert_eq!(placement.segment(), None);
        fault.line()
    }

    #[test]
    fn accepts_a_segment_up_to_the_last_address() {
        let last = segment(u64::MAX - 3, 100, 4);
        assert_eq!((last.last(), last.placement().end()), (u64::MAX, 1 << 64));
        assert_eq!(segment(u64::MAX, 100, 1).last(), u64::MAX);
        assert_eq!(
            fault(placement(u64::MAX - 3, 100, 5)),
            "at 0x5: 5-byte segment at address 0xfffffffffffffffc is past the end of the address space"
        );
        assert!(
            fault(placement(u64::MAX, 100, u32::MAX))
                .ends_with("past the end of the address space")
        );
    }

    #[test]
    fn accepts_a_segment_up_to_the_last_offset() {
        assert_eq!(segment(0, u64::MAX - 4, 4).in_file(), u64::MAX - 4..u64::MAX);
        assert_eq!(
            fault(placement(0, u64::MAX - 4, 5)),
            "at 0x5: 5-byte segment at offset 0xfffffffffffffffb is past the largest file offset"
        );
    }

    #[test]
    fn returns_none_for_an_empty_segment() {
        for empty in [placement(0, 0, 0), placement(u64::MAX, u64::MAX, 0)] {
            assert_eq!(empty.checked(0..1).unwrap(), None);
            assert_eq!(empty.segment(), None);
        }
    }

    #[test]
    fn checks_a_segment_against_its_memory() {
        let all = MemoryType::wasm64(1 << 48);
        let at_the_end = placement(u64::MAX - 3, 0, 4);
        assert!(at_the_end.check(&[all], 0..1).is_ok());
        assert!(placement(u64::MAX - 3, 0, 5).check(&[all], 0..1).is_err());
        assert!(at_the_end.check(&[MemoryType::wasm64((1 << 48) - 1)], 0..1).is_err());
    }

    #[test]
    fn splits_and_joins_segments_at_the_last_address() {
        let whole = segment(u64::MAX - 9, 100, 10);
        assert_eq!(whole.part(u64::MAX - 1..=u64::MAX).unwrap(), segment(u64::MAX - 1, 108, 2));
        assert_eq!(whole.part(whole.address()..=whole.last()).unwrap(), whole);
        let halves = (segment(u64::MAX - 9, 100, 9), segment(u64::MAX, 109, 1));
        assert_eq!(whole.split_at_offset(109), Some(halves));
        assert_eq!(halves.0.joined(&halves.1), Some(whole));
        assert_eq!(halves.1.joined(&segment(0, 110, 1)), None);
        assert_eq!([99, 100, 110, 111].map(|at| whole.split_at_offset(at)), [None; 4]);
        let error = whole.part(0..=u64::MAX).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
    }

    #[test]
    fn does_not_join_segments_beyond_32_bits() {
        let first = segment(0, 0, u32::MAX);
        assert_eq!(first.joined(&segment(u32::MAX.into(), u32::MAX.into(), 1)), None);
    }
}
