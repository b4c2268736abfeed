//! Every limit of the tool, each with its source or reason. Those of the format are in [`corestream::limits`].

/// Bytes of a manifest at most: that of a million frames has less.
pub const MAX_MANIFEST_BYTES: u64 = 256 << 20;

/// Bytes of the file of a module at most, of a guest or for symbols: it is read whole. V8 stops at the same size.
pub const MAX_MODULE_BYTES: u64 = corestream::limits::V8_MAX_MODULE_BYTES;

/// Bytes of a module at most in which unsupported proposals are looked for: it is validated once for each.
#[cfg(feature = "run")]
pub const MAX_SEARCHED_BYTES: usize = 64 << 20;

/// Frames that `run` dumps at most: Wasmtime gives no backtrace if it cannot allocate room for as many.
#[cfg(feature = "run")]
pub const MAX_FRAMES: u32 = 1_000_000;

/// Runs of `bench` at most: it keeps the time of each.
pub const MAX_RUNS: u32 = 100_000;

/// Senders that `receive` serves at once at most: each has a thread.
pub const MAX_SENDERS: u16 = 256;

/// Bytes of a reason why a receiver did not keep a dump at most, without the line feed (`docs/receive.md`).
pub const MAX_REASON_BYTES: usize = 512;

/// Bytes of an image without data that every file system takes as a hole.
pub const MAX_EMPTY_IMAGE_BYTES: u64 = 1 << 40;

/// Symbolic links that are followed at most, as in the kernel
/// ([path_resolution(7)](https://man7.org/linux/man-pages/man7/path_resolution.7.html)).
pub const MAX_LINKS: usize = 40;

/// Bytes of the path of a Unix socket at most, without the byte that ends it
/// ([unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)).
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Bytes of the name of a file at most (`NAME_MAX`,
/// [limits.h(0p)](https://man7.org/linux/man-pages/man0/limits.h.0p.html)).
pub const MAX_FILE_NAME_BYTES: usize = 255;

/// Bytes of a process's name in a file name at most: what stands around it must fit too.
pub const MAX_PROCESS_NAME_BYTES: usize = 128;

/// The largest whole number up to which every one is a number of JavaScript (`Number.MAX_SAFE_INTEGER`, plus one).
pub const MAX_EXACT_NUMBER: u64 = 1 << 53;

/// Ranges of a memory that `extract` names one by one where they are missing.
pub const MAX_SHOWN_RANGES: usize = 8;

/// Bytes of module names that `inspect` keeps for frames at most.
pub const MAX_KEPT_NAME_BYTES: usize = 1 << 20;
