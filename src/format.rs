//! The definitions of the on-disk format: section ids and names, flags, opcodes, and the structures of corestream's
//! sections.
//!
//! The writer and the reader share these definitions but no logic. `docs/format.md` describes the structures byte by
//! byte. The names of the other sections come from the tool-conventions [Coredump
//! format](https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md), and the ids and opcodes from the
//! core specification, ["Binary format"](https://webassembly.github.io/spec/core/binary/modules.html).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The id of a custom section.
pub(crate) const CUSTOM: u8 = 0;
/// The id of the memory section.
pub(crate) const MEMORY: u8 = 5;
/// The id of the global section.
pub(crate) const GLOBAL: u8 = 6;
/// The id of the data section.
pub(crate) const DATA: u8 = 11;

/// Flag of a memory's type: it has a maximum.
pub(crate) const HAS_MAXIMUM: u8 = 1;
/// Flag of a memory's type: threads share it.
pub(crate) const SHARED: u8 = 2;
/// Flag of a memory's type: its addresses have 64 bits.
pub(crate) const MEMORY64: u8 = 4;
/// Flag of a memory's type: the size of its pages follows.
pub(crate) const HAS_PAGE_SIZE: u8 = 8;

/// The type of an unknown value of a frame (Coredump format).
pub(crate) const MISSING: u8 = 0x01;
/// The type `i32`.
pub(crate) const I32: u8 = 0x7f;
/// The type `i64`.
pub(crate) const I64: u8 = 0x7e;
/// The type `f32`.
pub(crate) const F32: u8 = 0x7d;
/// The type `f64`.
pub(crate) const F64: u8 = 0x7c;
/// The type `v128`.
pub(crate) const V128: u8 = 0x7b;
/// A nullable reference type, whose heap type follows.
pub(crate) const REF_NULL_TYPE: u8 = 0x63;
/// A non-nullable reference type, whose heap type follows.
pub(crate) const REF_TYPE: u8 = 0x64;

/// The flags of an active data segment of memory 0, without a memory index.
pub(crate) const ACTIVE: u8 = 0;
/// The flags of a passive data segment.
pub(crate) const PASSIVE: u8 = 1;
/// The flags of an active data segment with a memory index.
pub(crate) const ACTIVE_WITH_MEMORY: u8 = 2;

/// The opcode `i32.const`.
pub(crate) const I32_CONST: u8 = 0x41;
/// The opcode `i64.const`.
pub(crate) const I64_CONST: u8 = 0x42;
/// The opcode `f32.const`.
pub(crate) const F32_CONST: u8 = 0x43;
/// The opcode `f64.const`.
pub(crate) const F64_CONST: u8 = 0x44;
/// The opcode `ref.null`.
pub(crate) const REF_NULL: u8 = 0xd0;
/// The opcode `ref.func`.
pub(crate) const REF_FUNC: u8 = 0xd2;
/// The first byte of the vector opcodes.
pub(crate) const VECTOR: u8 = 0xfd;
/// The second part of the opcode `v128.const`, after [`VECTOR`].
pub(crate) const V128_CONST: u32 = 12;
/// The opcode `end`.
pub(crate) const END: u8 = 0x0b;

/// The process. Every core dump has this section.
pub(crate) const CORE: &str = "core";
/// The modules of the process.
pub(crate) const MODULES: &str = "coremodules";
/// The instances of the process.
pub(crate) const INSTANCES: &str = "coreinstances";
/// The frames of one thread.
pub(crate) const STACK: &str = "corestack";
/// The length of the dump and the offset of its index ([`Header`]).
pub(crate) const HEADER: &str = "corestream";
/// The data segments that do not fit in the data section.
pub(crate) const CONTINUATION: &str = "corestream.data";
/// Notes for people.
pub(crate) const NOTES: &str = "corestream.notes";
/// The identities of the modules ([`IdentitiesHead`]).
pub(crate) const IDENTITIES: &str = "corestream.modules";
/// The trap's message and the time of the capture ([`TrapHead`]).
pub(crate) const TRAP: &str = "corestream.trap";
/// The index at the end of the dump ([`IndexHead`]).
pub(crate) const INDEX: &str = "corestream.index";

/// The version of the sections [`HEADER`] and [`INDEX`].
pub(crate) const VERSION: u32 = 1;
/// The version of the section [`NOTES`].
pub(crate) const NOTES_VERSION: u32 = 1;
/// The version of the section [`IDENTITIES`].
pub(crate) const IDENTITIES_VERSION: u32 = 1;
/// The version of the section [`TRAP`].
pub(crate) const TRAP_VERSION: u32 = 1;

/// The time of the capture that means "unknown".
pub(crate) const UNKNOWN_TIME: u64 = u64::MAX;
/// Flag of a module's identity: the SHA-256 of its bytes follows.
pub(crate) const HAS_SHA256: u32 = 1 << 0;
/// The length of a SHA-256 in bytes.
pub(crate) const SHA256_BYTES: usize = 32;

/// Flag of the dump: ranges of memories were excluded on purpose.
pub(crate) const PARTIAL: u32 = 1 << 0;
/// Flag of the dump: parts of the guest are missing because the format has no room for them.
pub(crate) const DEGRADED: u32 = 1 << 1;
/// Flag of a memory: other threads or processes may have written to it during the dump.
pub(crate) const CHANGING: u32 = 1 << 0;

/// The body of the section [`HEADER`], after its name.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) fields: HeaderFields,
    /// The CRC-32 of the fields.
    pub(crate) crc: U32,
}

/// The fields of the section [`HEADER`].
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct HeaderFields {
    /// [`VERSION`].
    pub(crate) version: U32,
    /// [`PARTIAL`] and [`DEGRADED`].
    pub(crate) flags: U32,
    /// The length of the dump in bytes.
    pub(crate) length: U64,
    /// The offset of the section [`INDEX`] in bytes.
    pub(crate) index: U64,
    /// The base-2 logarithm of the length of a checksum block; 0 without checksums.
    pub(crate) block_log2: U32,
}

/// The first fields of the section [`INDEX`], after its name. Its tables follow: [`IndexMemory`], [`IndexSegment`],
/// [`IndexRange`], the checksum of each block, and the CRC-32 of all preceding fields (each a `u32`).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct IndexHead {
    /// [`VERSION`].
    pub(crate) version: U32,
    /// The flags of the [`Header`].
    pub(crate) flags: U32,
    /// The number of memories.
    pub(crate) memories: U32,
    /// The number of segments of all memories.
    pub(crate) segments: U32,
    /// The number of excluded ranges of all memories.
    pub(crate) ranges: U32,
    /// The same as in the [`Header`].
    pub(crate) block_log2: U32,
    /// The number of checksums.
    pub(crate) blocks: U32,
}

/// A memory in the index.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct IndexMemory {
    /// The number of its segments.
    pub(crate) segments: U32,
    /// The number of its excluded ranges.
    pub(crate) ranges: U32,
    /// [`CHANGING`].
    pub(crate) flags: U32,
}

/// A data segment in the index.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct IndexSegment {
    /// The address of its first byte in its memory.
    pub(crate) address: U64,
    /// The offset of its first byte in the dump.
    pub(crate) offset: U64,
    /// Its length in bytes.
    pub(crate) len: U32,
}

/// An excluded range of a memory in the index.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct IndexRange {
    /// The first address.
    pub(crate) first: U64,
    /// The last address.
    pub(crate) last: U64,
}

/// The first fields of the section [`IDENTITIES`], after its name and its version. One [`IdentityHead`] for each module
/// follows, in the order of the modules.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct IdentitiesHead {
    /// The number of identities.
    pub(crate) modules: U32,
}

/// The first fields of a module's identity. The SHA-256 follows if [`HAS_SHA256`] is set, then the build id.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct IdentityHead {
    /// [`HAS_SHA256`].
    pub(crate) flags: U32,
    /// The length of the build id in bytes; 0 without one.
    pub(crate) build_id_len: U32,
}

/// The first fields of the section [`TRAP`], after its name and its version. The message follows.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct TrapHead {
    /// The Unix time of the capture in nanoseconds, or [`UNKNOWN_TIME`].
    pub(crate) captured_at: U64,
    /// The length of the message in bytes; 0 without one.
    pub(crate) message_len: U32,
}

/// The length of a checksum in bytes.
pub(crate) const CRC_BYTES: usize = size_of::<U32>();

/// Returns the length in bytes of the encoded name of a section, including its length prefix.
#[allow(clippy::arithmetic_side_effects, reason = "at most 128")]
pub(crate) const fn name_bytes(name: &str) -> usize {
    1 + one_byte(name.len()) as usize
}

/// Encodes a length as a LEB128 of one byte.
///
/// # Panics
/// Panics if the length needs more than one byte. This happens only at compile time: no name in this file is that long,
/// and neither is the section [`HEADER`].
#[allow(clippy::cast_possible_truncation, clippy::panic, reason = "checked, and constants")]
pub(crate) const fn one_byte(len: usize) -> u8 {
    assert!(len < 128, "the length needs more than one byte");
    len as u8
}

/// The length in bytes of the body of the section [`HEADER`].
pub(crate) const HEADER_BODY_BYTES: usize = name_bytes(HEADER) + size_of::<Header>();

/// The length in bytes of the whole section [`HEADER`]: id, size and body.
pub(crate) const HEADER_SECTION_BYTES: usize = 1 + 1 + one_byte(HEADER_BODY_BYTES) as usize;

// docs/format.md fixes these lengths.
const _: () = {
    assert!(size_of::<Header>() == 32);
    assert!(size_of::<IndexHead>() == 28);
    assert!(size_of::<IndexMemory>() == 12);
    assert!(size_of::<IndexSegment>() == 20);
    assert!(size_of::<IndexRange>() == 16);
    assert!(size_of::<IdentitiesHead>() == 4);
    assert!(size_of::<IdentityHead>() == 8);
    assert!(size_of::<TrapHead>() == 12);
    assert!(CRC_BYTES == 4);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_little_endian_and_unaligned() {
        let bytes = [
            0xee, // misaligns what follows
            1, 0, 0, 0, 0, 0, 0, 0, // address
            0, 2, 0, 0, 0, 0, 0, 0, // offset
            3, 0, 0, 0x80, // length
        ];
        let segment = IndexSegment::ref_from_bytes(&bytes[1..]).unwrap();
        assert_eq!(segment.address.get(), 1);
        assert_eq!(segment.offset.get(), 0x200);
        assert_eq!(segment.len.get(), 0x8000_0003);
        assert_eq!(segment.as_bytes(), &bytes[1..]);
    }
}
