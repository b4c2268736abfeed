//! Every limit of the format, of the engines that read it and of this crate, each with its source.
//!
//! No other file of the crate defines one. The limits of engines are those of the
//! [WebAssembly JavaScript Interface, "Limits"](https://webassembly.github.io/spec/js-api/#limits),
//! which wasmparser, V8 and Binaryen share.
//!
//! ```
//! use corestream::limits::{MAX_MEMORIES, PAGE_BYTES, V8_MAX_MEMORY64_PAGES, V8_MAX_MODULE_BYTES, max_pages};
//!
//! assert_eq!(MAX_MEMORIES, 100);
//! assert_eq!(max_pages(false, PAGE_BYTES) * u64::from(PAGE_BYTES), 4 << 30);
//! assert_eq!(V8_MAX_MEMORY64_PAGES * u64::from(PAGE_BYTES), 16 * V8_MAX_MODULE_BYTES);
//! ```

use std::num::NonZeroU64;

/// Data segments that engines accept in a module (JavaScript interface, "Limits").
pub const MAX_DATA_SEGMENTS: u32 = 100_000;

/// Memories that engines accept in a module (JavaScript interface, "Limits").
pub const MAX_MEMORIES: usize = 100;

/// The longest module that V8 accepts, in bytes: 1 GiB (`kV8MaxWasmModuleSize` in V8's
/// `src/wasm/wasm-limits.h`; JavaScript interface, "Limits"). Tried with V8 11.3 and 13.6.
pub const V8_MAX_MODULE_BYTES: u64 = 1 << 30;

/// The largest 64-bit memory that V8 accepts, in pages of 64 KiB: 16 GiB (`kV8MaxWasmMemory64Pages` in V8's
/// `src/wasm/wasm-limits.h`; JavaScript interface, "Limits"). It holds for the size and for the declared
/// maximum of a memory. Tried with V8 11.3 and 13.6.
pub const V8_MAX_MEMORY64_PAGES: u64 = 262_144;

/// Globals that engines accept in a module (JavaScript interface, "Limits").
pub const MAX_GLOBALS: usize = 1_000_000;

/// Exclusive upper bound of function indices: a module has at most a million imported and a million defined functions
/// (JavaScript interface, "Limits"). A frame of another writer with a larger index was read in the wrong layout.
pub const MAX_FUNCTIONS: u32 = 2_000_000;

/// The largest module that any engine accepts, in bytes; code offsets are smaller (JavaScript interface, "Limits").
pub const MAX_CODE_OFFSET: u32 = 1 << 30;

/// Bytes of UTF-8 in a name that wasmparser reads (`MAX_WASM_STRING_SIZE`).
pub const MAX_NAME_BYTES: usize = 100_000;

/// Bytes that the body of a section may have: its size is a `u32` (core specification, "Sections").
pub const MAX_SECTION_BYTES: u32 = u32::MAX;

/// The least size of a block of the dump that has a checksum of its own, as a power of two: 1 MiB.
pub const MIN_CHECKSUM_BLOCK_LOG2: u32 = 20;

/// Checksums that a dump has at most, so that their table needs no more than 256 KiB
/// (`docs/format.md`, "Checksums").
pub const MAX_CHECKSUM_BLOCKS: u32 = 65_536;

/// Pieces of a batch at most ([`Pieces::next_batch`](crate::Pieces::next_batch), [`Sink::put`](crate::Sink::put)):
/// fewer than the 1024 that one vectored write takes on Linux (`IOV_MAX`,
/// [writev(2)](https://man7.org/linux/man-pages/man2/writev.2.html)).
pub const MAX_BATCH_PIECES: usize = 512;

/// Bytes of a batch at most: 8 MiB. A larger piece comes in parts, except for the sections before the memory.
pub const MAX_BATCH_BYTES: u64 = 8 << 20;

/// The smallest limit on the body of a section with data, in bytes: a name, a count, and a segment with some payload
/// always fit.
pub(crate) const MIN_SECTION_BYTES: u32 = 256;

/// Threads that are used at most, however many are asked for: each costs a stack and a place in every
/// queue, and no machine's memory feeds as many.
pub const MAX_THREADS: usize = 256;

/// Bytes of a page, if a memory's type does not say otherwise (core specification, "Memory instances").
pub const PAGE_BYTES: u32 = 65_536;

/// Bytes that a 32-bit memory can address.
pub const MEMORY32_BYTES: u64 = 1 << 32;

/// The index that stands for "not known" in a file.
pub const UNKNOWN_INDEX: u32 = u32::MAX;

/// Modules and instances that a dump lists, of each: a section of 4 GiB can hold a thousand times as many. Real processes
/// have some hundreds.
pub const MAX_LISTED: usize = 1_000_000;

/// Threads that a dump lists. A reader keeps the place of each, 16 bytes, and no system runs as many threads in one
/// process.
pub const MAX_LISTED_THREADS: usize = 1 << 16;

/// Locals of a frame, and values on its operand stack, that a reader decodes, of each: 16 bytes each. Engines accept 50,000
/// locals of a function (JavaScript interface, "Limits").
pub const MAX_FRAME_VALUES: usize = 1 << 18;

/// Bytes of memory that a reader needs at most for an open dump, whatever is in it: for names, places and segments, and
/// not for the contents of memories.
pub const MAX_METADATA_BYTES: usize = 32 << 20;

/// Sections with segments that a reader keeps track of, 16 bytes each: a dump has one for each 4 GiB of
/// data, so that this is enough for 256 TiB.
pub const MAX_DATA_SECTIONS: usize = 65_536;

/// Segments that a dump may have to be opened. A reader keeps all of them in memory, 24 bytes each. Engines accept a tenth
/// of that ([`MAX_DATA_SEGMENTS`]). A verifier has no such limit.
pub const MAX_LISTED_SEGMENTS: usize = 1 << 20;

/// Segments that a dump may have to be opened if some of them overlap: a reader makes a second table of them. Still more
/// than engines accept ([`MAX_DATA_SEGMENTS`]).
pub const MAX_OVERLAPPING_SEGMENTS: usize = 1 << 17;

/// Segments that an index may have in a dump of which ranges were left out: a verifier keeps them, 24 bytes
/// each, to hold the ranges against them. More than twice [`MAX_DATA_SEGMENTS`].
pub const MAX_PARTIAL_SEGMENTS: usize = 1 << 18;

/// Ranges of memories that may be left out of a dump on purpose, of all memories together: each may need
/// one more segment, and together with one for each memory those never pass [`MAX_DATA_SEGMENTS`].
pub const MAX_EXCLUDED_RANGES: usize = 65_536;

/// Notes of a dump ([`CoreDump::notes`](crate::CoreDump::notes)). Notes are for a person to read.
pub const MAX_NOTES: usize = 64;

/// Bytes of a note of a dump.
pub const MAX_NOTE_BYTES: usize = 1024;

/// Bytes of the message of a trap ([`CoreDump::trap`](crate::CoreDump::trap)).
pub const MAX_TRAP_BYTES: usize = 4096;

/// Bytes of a module's build id ([`ModuleIdentity::build_id`](crate::ModuleIdentity::build_id)). Linkers write 8 to 20, or
/// as many as they are told.
pub const MAX_BUILD_ID_BYTES: usize = 256;

/// Ranges of memories that a verifier lists of a damaged dump: 40 bytes each, and more than a person reads.
pub const MAX_DAMAGED_RANGES: usize = 1024;

/// Places that are tried for an index at the end of a file, whose bytes may be anything.
pub(crate) const MAX_PLACES: usize = 16;

/// The longest LEB128 encoding of a `u32`, in bytes (core specification, "Integers").
pub const MAX_LEB_U32_BYTES: u32 = 5;

/// The pages that a memory of this type may have at most, as wasmparser's validator counts them.
///
/// `page_size` is in bytes, 1 or 65,536.
///
/// ```
/// use corestream::limits::max_pages;
///
/// assert_eq!(max_pages(false, 65_536), 65_536);
/// assert_eq!(max_pages(false, 1), u64::from(u32::MAX));
/// assert_eq!(max_pages(true, 65_536), 1 << 48);
/// ```
pub fn max_pages(memory64: bool, page_size: u32) -> u64 {
    let page_size = NonZeroU64::new(page_size.into()).unwrap_or(NonZeroU64::MIN);
    match (memory64, page_size.get()) {
        (false, 1) => u64::from(u32::MAX),
        (false, _) => MEMORY32_BYTES / page_size,
        (true, 1) => u64::MAX,
        (true, _) => u64::MAX.div_ceil(page_size.get()),
    }
}
