//! Limits of the format, of engines and of this crate, each with its source.
//!
//! No other file of the crate defines a limit. The limits of engines come from the
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

/// The maximum number of data segments in a module that engines accept (JavaScript interface, "Limits").
pub const MAX_DATA_SEGMENTS: u32 = 100_000;

/// The maximum number of memories in a module that engines accept (JavaScript interface, "Limits").
pub const MAX_MEMORIES: usize = 100;

/// The maximum length in bytes of a module that V8 accepts: 1 GiB (`kV8MaxWasmModuleSize` in V8's
/// `src/wasm/wasm-limits.h`; JavaScript interface, "Limits"). Checked with V8 11.3 and 13.6.
pub const V8_MAX_MODULE_BYTES: u64 = 1 << 30;

/// The maximum size in 64 KiB pages of a 64-bit memory that V8 accepts: 16 GiB (`kV8MaxWasmMemory64Pages` in V8's
/// `src/wasm/wasm-limits.h`; JavaScript interface, "Limits"). It applies to the size and to the declared
/// maximum of a memory. Checked with V8 11.3 and 13.6.
pub const V8_MAX_MEMORY64_PAGES: u64 = 262_144;

/// The maximum number of globals in a module that engines accept (JavaScript interface, "Limits").
pub const MAX_GLOBALS: usize = 1_000_000;

/// The exclusive upper bound of function indices: a module has at most a million imported and a million defined
/// functions (JavaScript interface, "Limits"). A larger index in a frame of another writer means that the reader uses
/// the wrong frame layout.
pub const MAX_FUNCTIONS: u32 = 2_000_000;

/// The exclusive upper bound of code offsets: the maximum length in bytes of a module that any engine accepts
/// (JavaScript interface, "Limits").
pub const MAX_CODE_OFFSET: u32 = 1 << 30;

/// The maximum length in bytes of a name that wasmparser reads (`MAX_WASM_STRING_SIZE`).
pub const MAX_NAME_BYTES: usize = 100_000;

/// The maximum length in bytes of the body of a section, whose size is a `u32` (core specification, "Sections").
pub const MAX_SECTION_BYTES: u32 = u32::MAX;

/// The base-2 logarithm of the smallest checksum block in bytes: 1 MiB.
pub const MIN_CHECKSUM_BLOCK_LOG2: u32 = 20;

/// The maximum number of checksums in a dump, which bounds their table to 256 KiB
/// (`docs/format.md`, "Checksums").
pub const MAX_CHECKSUM_BLOCKS: u32 = 65_536;

/// The maximum number of pieces in a batch ([`Pieces::next_batch`](crate::Pieces::next_batch),
/// [`Sink::put`](crate::Sink::put)): below the 1024 that one vectored write accepts on Linux (`IOV_MAX`,
/// [writev(2)](https://man7.org/linux/man-pages/man2/writev.2.html)).
pub const MAX_BATCH_PIECES: usize = 512;

/// The maximum number of bytes in a batch: 8 MiB. Larger pieces are split, except for the sections before the memory.
pub const MAX_BATCH_BYTES: u64 = 8 << 20;

/// The smallest permitted limit in bytes on the body of a section with data: a name, a count and a segment with some
/// payload always fit.
pub(crate) const MIN_SECTION_BYTES: u32 = 256;

/// The maximum number of threads used, even if the caller requests more. Each costs a stack and a slot in every queue,
/// and no machine has enough memory bandwidth for more.
pub const MAX_THREADS: usize = 256;

/// The default page size of a memory in bytes (core specification, "Memory instances").
pub const PAGE_BYTES: u32 = 65_536;

/// The size in bytes of the address space of a 32-bit memory.
pub const MEMORY32_BYTES: u64 = 1 << 32;

/// The index that means "unknown" in a dump.
pub const UNKNOWN_INDEX: u32 = u32::MAX;

/// The maximum number of modules, and of instances, in a dump. A section of 4 GiB could hold a thousand times more.
/// Real processes have a few hundred.
pub const MAX_LISTED: usize = 1_000_000;

/// The maximum number of threads in a dump. A reader keeps 16 bytes for each. No system runs more threads in a process.
pub const MAX_LISTED_THREADS: usize = 1 << 16;

/// The maximum number of locals of a frame, and of values on its operand stack, that a reader decodes. Each takes 16
/// bytes. Engines accept 50,000 locals per function (JavaScript interface, "Limits").
pub const MAX_FRAME_VALUES: usize = 1 << 18;

/// The maximum memory in bytes that a reader uses for the metadata of an open dump: names, offsets and segments.
/// The contents of memories are not part of it.
pub const MAX_METADATA_BYTES: usize = 32 << 20;

/// The maximum number of sections with segments in a dump. A reader keeps 16 bytes for each. A dump has one for each
/// 4 GiB of data, so the limit allows 256 TiB.
pub const MAX_DATA_SECTIONS: usize = 65_536;

/// The maximum number of segments in a dump that a reader opens. It keeps 24 bytes for each. Engines accept a tenth
/// of that ([`MAX_DATA_SEGMENTS`]). A verifier has no such limit.
pub const MAX_LISTED_SEGMENTS: usize = 1 << 20;

/// The maximum number of segments in a dump that a reader opens if some of them overlap. It then builds a second table.
/// This is still more than engines accept ([`MAX_DATA_SEGMENTS`]).
pub const MAX_OVERLAPPING_SEGMENTS: usize = 1 << 17;

/// The maximum number of segments in the index of a dump with excluded ranges. A verifier keeps 24 bytes for each, to
/// compare the ranges with the segments. This is more than twice [`MAX_DATA_SEGMENTS`].
pub const MAX_PARTIAL_SEGMENTS: usize = 1 << 18;

/// The maximum number of excluded ranges in a dump, of all memories together. Each may cost one more segment. Even with
/// one segment for each memory the total stays below [`MAX_DATA_SEGMENTS`].
pub const MAX_EXCLUDED_RANGES: usize = 65_536;

/// The maximum number of notes in a dump ([`CoreDump::notes`](crate::CoreDump::notes)), which people read.
pub const MAX_NOTES: usize = 64;

/// The maximum length of a note in bytes.
pub const MAX_NOTE_BYTES: usize = 1024;

/// The maximum length in bytes of a trap's message ([`CoreDump::trap`](crate::CoreDump::trap)).
pub const MAX_TRAP_BYTES: usize = 4096;

/// The maximum length in bytes of a module's build id
/// ([`ModuleIdentity::build_id`](crate::ModuleIdentity::build_id)). Linkers write 8 to 20 bytes by default.
pub const MAX_BUILD_ID_BYTES: usize = 256;

/// The maximum number of memory ranges that a verifier lists for a damaged dump, at 40 bytes each.
pub const MAX_DAMAGED_RANGES: usize = 1024;

/// The maximum number of offsets that a reader tries as the start of an index at the end of a damaged file.
pub(crate) const MAX_PLACES: usize = 16;

/// The maximum length in bytes of the LEB128 encoding of a `u32` (core specification, "Integers").
pub const MAX_LEB_U32_BYTES: u32 = 5;

/// Returns the maximum size in pages of a memory, as wasmparser's validator defines it.
///
/// `page_size` is 1 or 65,536 bytes.
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
