//! Every limit on what the file of a module may cost, each with its reason.
//!
//! Files are as untrusted as dumps: a garbled one may hold a million functions of one name, or types that refer to each
//! other without an end. What is beyond a limit is not used.
//!
//! ```
//! use corestream_symbols::demangle;
//! use corestream_symbols::limits::MAX_NAME_CHARS;
//!
//! assert_eq!(demangle(&"x".repeat(1_000_000)).len(), MAX_NAME_CHARS);
//! ```

/// Functions of a module at most, which is where engines stop
/// ([WebAssembly JavaScript Interface, "Limits"](https://webassembly.github.io/spec/js-api/#limits)).
pub const MAX_FUNCTIONS: usize = 1_000_000;

/// Bytes of code that are decoded at most, to find out where calls are: as many as V8 takes of a module.
pub const MAX_DECODED_BYTES: u64 = corestream::limits::V8_MAX_MODULE_BYTES;

/// Characters of a name or a path at most, and of a name that is demangled. A short name can stand for one that doubles
/// with every letter.
pub const MAX_NAME_CHARS: usize = 4096;

/// Nesting of entries of the debugging information at most: its reader recurs into calls that are inlined into each
/// other.
pub const MAX_ENTRY_DEPTH: isize = 512;

/// Times that all of the debugging information may be read, in addition to [`MAX_MORE_DEBUG_BYTES`].
pub const MAX_DEBUG_READS: u64 = 4;

/// Bytes of debugging information that may be read in addition to [`MAX_DEBUG_READS`] times all of it, so that many frames
/// of a small guest have enough.
pub const MAX_MORE_DEBUG_BYTES: u64 = 64 << 20;

/// Variables of a function at most.
pub const MAX_VARIABLES: usize = 1000;

/// Types that a type is followed to at most, as from a typedef to what it stands for.
pub const MAX_TYPE_STEPS: usize = 16;

/// Operations of the location of a variable at most. Compilers use one to three.
pub const MAX_LOCATION_STEPS: usize = 16;

/// Globals of instances whose values are kept at most, about 50 bytes each, so that many threads with a variable in a
/// global do not decode the same instances over and over.
pub const MAX_KNOWN_GLOBALS: usize = 1 << 16;
