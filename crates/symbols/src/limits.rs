//! Limits on the work that a module file can cause, each with its reason.
//!
//! Module files are as untrusted as dumps. A malformed one may have a million functions with the same name, or types
//! that refer to each other in a cycle. Parts of a file beyond a limit are ignored.
//!
//! ```
//! use corestream_symbols::demangle;
//! use corestream_symbols::limits::MAX_NAME_CHARS;
//!
//! assert_eq!(demangle(&"x".repeat(1_000_000)).len(), MAX_NAME_CHARS);
//! ```

/// The maximum number of functions of a module, which is the limit of engines
/// ([WebAssembly JavaScript Interface, "Limits"](https://webassembly.github.io/spec/js-api/#limits)).
pub const MAX_FUNCTIONS: usize = 1_000_000;

/// The maximum number of bytes of code decoded to find calls: the largest module that V8 accepts.
pub const MAX_DECODED_BYTES: u64 = corestream::limits::V8_MAX_MODULE_BYTES;

/// The maximum number of characters of a name, a demangled name or a path. A short mangled name can double its length
/// with every letter.
pub const MAX_NAME_CHARS: usize = 4096;

/// The maximum nesting depth of entries of the debugging information. The reader recurses into inlined calls.
pub const MAX_ENTRY_DEPTH: isize = 512;

/// How many times the whole debugging information may be read, in addition to [`MAX_MORE_DEBUG_BYTES`].
pub const MAX_DEBUG_READS: u64 = 4;

/// The number of bytes of debugging information that may be read in addition to [`MAX_DEBUG_READS`] times its size.
/// This allows for many frames of a small guest.
pub const MAX_MORE_DEBUG_BYTES: u64 = 64 << 20;

/// The maximum number of variables of a function.
pub const MAX_VARIABLES: usize = 1000;

/// The maximum number of steps from a type to its underlying type, such as from a typedef to its target.
pub const MAX_TYPE_STEPS: usize = 16;

/// The maximum number of operations in the location of a variable. Compilers use one to three.
pub const MAX_LOCATION_STEPS: usize = 16;

/// The maximum number of cached values of globals, at about 50 bytes each. Without the cache, many threads with a
/// variable in a global would decode the same instances over and over.
pub const MAX_KNOWN_GLOBALS: usize = 1 << 16;
