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

/// The maximum number of core modules in a component, with those of nested components. Engines accept 1,000 in each
/// component; a composed one may have more.
pub const MAX_CORE_MODULES: usize = 10_000;

/// The maximum depth of components in components. Components that people compose are a few levels deep.
pub const MAX_COMPONENT_DEPTH: usize = 100;

/// The maximum number of comparisons of a frame, or of one of its locals, with a core module of a component. They find the
/// module of a core module whose identity the dump does not have.
pub const MAX_COMPARED_FRAMES: usize = 1 << 24;

/// The maximum number of bytes of a module's code that are decoded: the largest module that V8 accepts. Beyond it,
/// variables in locals are unknown, and code is not compared with the frames.
pub const MAX_DECODED_BYTES: u64 = corestream::limits::V8_MAX_MODULE_BYTES;

/// The maximum number of frames that are checked when a file is matched with a module.
pub const MAX_CHECKED_FRAMES: usize = 1 << 20;

/// The maximum number of characters of a name, a demangled name or a path. A short mangled name can double its length
/// with every letter.
pub const MAX_NAME_CHARS: usize = 4096;

/// The maximum nesting depth of entries of the debugging information. The reader recurses into inlined calls.
pub const MAX_ENTRY_DEPTH: isize = 512;

/// The maximum number of local variables of a function, with its parameters, which is the limit of engines.
pub const MAX_LOCALS: usize = 50_000;

/// The work that looking up symbols may cause, in steps for each byte of a module's debugging information. Reading a
/// byte of it is a step. Work is limited, and not the size of files or dumps.
pub const MAX_STEPS_PER_BYTE: u64 = 6;

/// The number of steps in addition to [`MAX_STEPS_PER_BYTE`], which allows for many frames of a small guest.
pub const MAX_MORE_STEPS: u64 = 64 << 20;

/// The number of additional steps for each frame whose symbols are looked up. With it, the symbols of a call stack that
/// overflowed, which may have a million frames, do not exhaust the limit.
pub const MAX_STEPS_PER_FRAME: u64 = 64 << 10;

/// The maximum number of cached instructions that assign to locals.
pub const MAX_CACHED_ASSIGNMENTS: usize = 1 << 20;

/// The maximum number of cached offsets to which a call may return.
pub const MAX_CACHED_RETURNS: usize = 1 << 16;

/// The maximum number of bytes of cached code positions. Recursion visits the same positions over and over.
pub const MAX_CACHED_POSITION_BYTES: usize = 16 << 20;

/// The maximum number of source files whose hashes are cached.
pub const MAX_CACHED_FILES: usize = 1 << 14;

/// The maximum number of variables of a function.
pub const MAX_VARIABLES: usize = 1000;

/// The maximum number of steps from a type to its underlying type, such as from a typedef to its target.
pub const MAX_TYPE_STEPS: usize = 32;

/// The maximum depth of nested values, whatever [`ValueLimits`](crate::ValueLimits) says. Reading and displaying a value
/// recurses.
pub const MAX_VALUE_DEPTH: u32 = 64;

/// The maximum number of locals that are checked when files are matched with modules.
pub const MAX_CHECKED_LOCALS: usize = 1 << 22;

/// The maximum number of functions of the debugging information that are compared with the code of a module.
pub const MAX_CHECKED_FUNCTIONS: usize = 1 << 16;

/// The maximum number of direct members, enumerators or dimensions of a type.
pub const MAX_MEMBERS: usize = 100_000;

/// The maximum number of attributes of all direct members of a type, at about 50 bytes each.
pub const MAX_MEMBER_ATTRIBUTES: usize = 1_000_000;

/// The maximum number of entries of split DWARF files that are searched for a unit.
pub const MAX_SPLIT_UNITS: usize = 1_000_000;

/// The maximum number of compile units whose static variables are listed.
pub const MAX_STATIC_UNITS: usize = 1 << 16;

/// The maximum number of operations in the location of a variable. Compilers use one to three, and more for variables
/// that they have split into pieces.
pub const MAX_LOCATION_STEPS: usize = 256;

/// The maximum number of operands on the stack of a location's expression.
pub const MAX_LOCATION_OPERANDS: usize = 64;

/// The maximum number of bytes of a value that is not in memory, such as a structure in several locals.
pub const MAX_PIECE_BYTES: u64 = 4096;

/// The maximum number of cached values of globals, at about 50 bytes each. Without the cache, many threads with a
/// variable in a global would decode the same instances over and over.
pub const MAX_KNOWN_GLOBALS: usize = 1 << 16;
