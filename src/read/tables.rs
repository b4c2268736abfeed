//! The tables of `corestream` and `corestream.index`, byte for byte as `docs/format.md` has them.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::segment::Placement;

/// The version of both sections that this reader knows.
pub(super) const VERSION: u32 = 1;

/// Ranges of memories were left out on purpose.
pub(super) const PARTIAL: u32 = 1;

/// Parts of the guest were left out because the format has no room for them.
pub(super) const DEGRADED: u32 = 2;

/// Other threads may have written to the memory while it was read.
pub(super) const CHANGING: u32 = 1;

/// The table of the section `corestream`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) version: U32,
    pub(super) flags: U32,
    pub(super) length: U64,
    pub(super) index: U64,
    pub(super) block_log2: U32,
    pub(super) crc: U32,
}

/// The head of the section `corestream.index`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHead {
    pub(super) version: U32,
    pub(super) flags: U32,
    pub(super) memories: U32,
    pub(super) segments: U32,
    pub(super) ranges: U32,
    pub(super) block_log2: U32,
    pub(super) blocks: U32,
}

/// A memory in the index.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawMemory {
    pub(super) segments: U32,
    pub(super) ranges: U32,
    pub(super) flags: U32,
}

/// A segment in the index.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawSegment {
    pub(super) address: U64,
    pub(super) offset: U64,
    pub(super) len: U32,
}

impl RawSegment {
    /// The entry as one of a memory, unchecked.
    pub(super) fn of(&self, memory: u32) -> Placement {
        let Self { address, offset, len } = self;
        Placement { address: address.get(), offset: offset.get(), len: len.get(), memory }
    }
}

/// A range of a memory that was left out.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawRange {
    pub(super) first: U64,
    pub(super) last: U64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_format() {
        assert_eq!(size_of::<RawHeader>(), 32);
        assert_eq!(size_of::<RawHead>(), 28);
        assert_eq!(size_of::<RawMemory>(), 12);
        assert_eq!(size_of::<RawSegment>(), 20);
        assert_eq!(size_of::<RawRange>(), 16);
    }

    #[test]
    fn fields_are_little_endian_and_not_aligned() {
        let bytes = [
            0xee, // something before it
            1, 0, 0, 0, 0, 0, 0, 0, // address
            0, 2, 0, 0, 0, 0, 0, 0, // offset
            3, 0, 0, 0x80, // length
        ];
        let segment = RawSegment::ref_from_bytes(&bytes[1..]).unwrap();
        assert_eq!(segment.address.get(), 1);
        assert_eq!(segment.offset.get(), 0x200);
        assert_eq!(segment.len.get(), 0x8000_0003);
    }
}
