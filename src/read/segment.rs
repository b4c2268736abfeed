//! A data segment of a memory: where it lies there, and where in the file.
//!
//! The file says where a segment is, and may say anything: a [`Placement`] is what it says. A [`Segment`] is a
//! placement that was checked once. So its last address and its end in the file are numbers of 64 bits wherever they
//! are asked for, and nothing that is made of a segment needs another check.

use std::fmt;
use std::ops::{Range, RangeInclusive};

use super::fault::{Fault, Result};
use super::wide;
use crate::arithmetic::{Checked, exact};
use crate::error;
use crate::format::IndexSegment;
use crate::model::MemoryType;

/// The addresses of the largest memory that there can be.
const ALL_ADDRESSES: u128 = 1 << 64;

/// Where a segment lies, as the file says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// The memory that it is a part of.
    pub(super) memory: u32,
    /// The address of its first byte.
    pub(super) address: u64,
    /// The offset of its first byte in the file.
    pub(super) offset: u64,
    /// Its length in bytes.
    pub(super) len: u32,
}

impl Placement {
    /// Returns what an entry of the index says of a segment of `memory`.
    pub(super) fn listed(entry: &IndexSegment, memory: u32) -> Self {
        let IndexSegment { address, offset, len } = entry;
        Self { memory, address: address.get(), offset: offset.get(), len: len.get() }
    }

    /// Returns the address after its last byte, which may have more than 64 bits.
    pub(super) fn end(&self) -> u128 {
        wide::sum(self.address, self.len.into())
    }

    /// Returns the offset after its last byte in the file, which may have more than 64 bits.
    pub(super) fn end_in_file(&self) -> u128 {
        wide::sum(self.offset, self.len.into())
    }

    /// Checks that it is in its memory; `at` is where the file says where it is.
    pub(super) fn check(&self, memories: &[MemoryType], at: Range<u64>) -> Result<()> {
        let Some(ty) = memories.get(self.memory as usize) else {
            let (memory, n) = (self.memory, memories.len());
            let message = format!("there is no memory {memory}, the dump has {n}");
            return Err(Fault::damaged(at, message));
        };
        match self.end() <= ty.size() {
            true => Ok(()),
            false => Err(self.past_the_end(ty, at)),
        }
    }

    /// Returns the fault of a segment that is not in its memory, which is of type `ty`.
    #[cold]
    pub(super) fn past_the_end(&self, ty: &MemoryType, at: Range<u64>) -> Box<Fault> {
        let Self { memory, address, len, .. } = self;
        let bytes = ty.size();
        let message = format!(
            "{len} bytes at address {address:#x} are past the end of memory {memory} ({bytes:#x} bytes)"
        );
        Fault::damaged(at, message)
    }

    /// Checks that a memory can have its addresses.
    pub(super) fn check_addresses(&self, at: &Range<u64>) -> Result<()> {
        if self.end() > ALL_ADDRESSES {
            let Self { address, len, .. } = self;
            let message = format!(
                "{len}-byte segment at address {address:#x} is past the end of all addresses"
            );
            return Err(Fault::damaged(at.clone(), message));
        }
        Ok(())
    }

    /// Returns the segment, or `None` if it is empty.
    ///
    /// # Errors
    /// No memory can have its addresses, or no file its offsets.
    #[inline]
    pub(super) fn checked(&self, at: Range<u64>) -> Result<Option<Segment>> {
        match self.segment() {
            None if self.len > 0 => Err(self.past_all(at)),
            segment => Ok(segment),
        }
    }

    /// Returns the error for a segment past the end of all addresses or offsets.
    #[cold]
    fn past_all(&self, at: Range<u64>) -> Box<Fault> {
        let Self { offset, len, .. } = self;
        match self.check_addresses(&at) {
            Err(fault) => fault,
            Ok(()) => {
                let message =
                    format!("{len}-byte segment at {offset:#x} is past the end of all offsets");
                Fault::damaged(at, message)
            }
        }
    }

    /// Returns the segment, or `None` if there can't be such a segment or it is empty.
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
        write!(f, "{len} bytes at address {address:#x} of memory {memory} from {offset:#x} on")
    }
}

/// A part of a memory that lies in the file. It is not empty, its addresses have 64 bits, and so has its end in the
/// file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment(Placement);

impl Segment {
    /// Returns where it lies.
    pub(super) fn placement(&self) -> &Placement {
        &self.0
    }

    /// Returns the memory that it is a part of.
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

    /// Returns the address of its last byte. The address after it may have no 64 bits.
    #[allow(clippy::arithmetic_side_effects, reason = "`Placement::segment` has checked both")]
    pub(super) fn last(&self) -> u64 {
        self.0.address + u64::from(self.0.len - 1)
    }

    /// Returns its bytes of the file.
    #[allow(clippy::arithmetic_side_effects, reason = "`Placement::segment` has checked the sum")]
    pub(super) fn in_file(&self) -> Range<u64> {
        self.0.offset..self.0.offset + u64::from(self.0.len)
    }

    /// Returns whether it lies after `other` as an index has them.
    pub(super) fn follows(&self, other: &Self) -> bool {
        (other.memory(), other.last()) < (self.memory(), self.address())
    }

    /// Returns the part whose bytes lie before `offset` of the file, and the rest; `None` if one of them is empty.
    pub(super) fn split_at_offset(&self, offset: u64) -> Option<(Self, Self)> {
        let Placement { memory, address, offset: start, len } = self.0;
        let before = u32::try_from(offset.checked_sub(start)?).ok()?;
        let after = len.checked_sub(before)?;
        let address_after = address.checked_add(before.into())?;
        let before = Placement { memory, address, offset: start, len: before };
        let after = Placement { memory, address: address_after, offset, len: after };
        Some((before.segment()?, after.segment()?))
    }

    /// Returns the part with these addresses.
    ///
    /// # Errors
    /// Returns an internal error if it does not have them.
    pub(super) fn part(&self, addresses: RangeInclusive<u64>) -> error::Result<Self> {
        let (first, last) = addresses.into_inner();
        self.last().minus(last)?;
        let offset = self.offset().plus(first.minus(self.address())?)?;
        let len = exact::<u32, _>(last.minus(first)?)?.plus(1)?;
        // The whole was checked, so its part is valid.
        Ok(Self(Placement { address: first, offset, len, ..self.0 }))
    }

    /// Returns this segment and `next` as one; `None` if `next` does not go on where this one ends, in the memory and
    /// in the file, or if they are too long.
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
    fn a_segment_may_end_at_the_end_of_all_addresses() {
        let last = segment(u64::MAX - 3, 100, 4);
        assert_eq!((last.last(), last.placement().end()), (u64::MAX, 1 << 64));
        assert_eq!(segment(u64::MAX, 100, 1).last(), u64::MAX);
        assert_eq!(
            fault(placement(u64::MAX - 3, 100, 5)),
            "at 0x5: 5-byte segment at address 0xfffffffffffffffc is past the end of all addresses"
        );
        assert!(
            fault(placement(u64::MAX, 100, u32::MAX)).ends_with("past the end of all addresses")
        );
    }

    #[test]
    fn a_segment_may_end_at_the_last_offset() {
        assert_eq!(segment(0, u64::MAX - 4, 4).in_file(), u64::MAX - 4..u64::MAX);
        assert_eq!(
            fault(placement(0, u64::MAX - 4, 5)),
            "at 0x5: 5-byte segment at 0xfffffffffffffffb is past the end of all offsets"
        );
    }

    #[test]
    fn an_empty_segment_is_none() {
        for empty in [placement(0, 0, 0), placement(u64::MAX, u64::MAX, 0)] {
            assert_eq!(empty.checked(0..1).unwrap(), None);
            assert_eq!(empty.segment(), None);
        }
    }

    #[test]
    fn the_memory_says_which_addresses_there_are() {
        let all = MemoryType::wasm64(1 << 48);
        let at_the_end = placement(u64::MAX - 3, 0, 4);
        assert!(at_the_end.check(&[all], 0..1).is_ok());
        assert!(placement(u64::MAX - 3, 0, 5).check(&[all], 0..1).is_err());
        assert!(at_the_end.check(&[MemoryType::wasm64((1 << 48) - 1)], 0..1).is_err());
    }

    #[test]
    fn parts_are_exact_at_the_end_of_all_addresses() {
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
    fn segments_that_are_too_long_together_stay_two() {
        let first = segment(0, 0, u32::MAX);
        assert_eq!(first.joined(&segment(u32::MAX.into(), u32::MAX.into(), 1)), None);
    }
}
