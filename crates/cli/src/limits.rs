//! Limits of the tool, each with its source or reason. The limits of the format are in [`corestream::limits`].

/// The maximum length in bytes of a manifest. The manifest of a guest with a million frames is shorter.
pub const MAX_MANIFEST_BYTES: u64 = 256 << 20;

/// The maximum length in bytes of the file of a module, of a guest or for symbols. The tool reads the whole file into
/// memory. V8 has the same limit.
pub const MAX_MODULE_BYTES: u64 = corestream::limits::V8_MAX_MODULE_BYTES;

/// The maximum length in bytes of a module in which `run` searches for unsupported proposals. The search validates the
/// module once per proposal.
#[cfg(feature = "run")]
pub const MAX_SEARCHED_BYTES: usize = 64 << 20;

/// The maximum number of frames that `run` dumps. Wasmtime gives no backtrace if it cannot allocate room for them all.
#[cfg(feature = "run")]
pub const MAX_FRAMES: u32 = 1_000_000;

/// The maximum number of runs of `bench`, which stores the time of each run.
pub const MAX_RUNS: u32 = 100_000;

/// The maximum number of senders that `receive` serves at once. Each sender has a thread.
pub const MAX_SENDERS: u16 = 256;

/// The maximum length in bytes of the reason that a receiver sends when it does not keep a dump, without the line feed
/// (`docs/receive.md`).
pub const MAX_REASON_BYTES: usize = 512;

/// The length in bytes of the longest image without data that `extract --all` writes as a file with one hole. Common
/// file systems accept a file of this length.
pub const MAX_EMPTY_IMAGE_BYTES: u64 = 1 << 40;

/// The maximum number of symbolic links that the tool follows, the same as the kernel's
/// ([path_resolution(7)](https://man7.org/linux/man-pages/man7/path_resolution.7.html)).
pub const MAX_LINKS: usize = 40;

/// The maximum length in bytes of the path of a Unix socket, without the terminating null byte
/// ([unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)).
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The maximum length in bytes of the name of a file (`NAME_MAX`,
/// [limits.h(0p)](https://man7.org/linux/man-pages/man0/limits.h.0p.html)).
pub const MAX_FILE_NAME_BYTES: usize = 255;

/// The maximum length in bytes of the name of a process within a file name. It leaves room for the rest of the name.
pub const MAX_PROCESS_NAME_BYTES: usize = 128;

/// The largest n such that JavaScript represents every integer from 0 to n exactly (`Number.MAX_SAFE_INTEGER`, plus
/// one).
pub const MAX_EXACT_NUMBER: u64 = 1 << 53;

/// The maximum number of missing ranges of a memory that `extract` lists.
pub const MAX_SHOWN_RANGES: usize = 8;

/// The number of bytes of module names above which `inspect` empties its cache of them.
pub const MAX_KEPT_NAME_BYTES: usize = 1 << 20;

/// The maximum number of bytes of a source file that are read for excerpts.
pub const MAX_SOURCE_BYTES: u64 = 16 << 20;

/// The maximum number of source files that are kept for excerpts.
pub const MAX_SOURCE_FILES: usize = 64;

/// The maximum number of bytes of a dump whose checksums are compared before it is debugged.
pub const MAX_VERIFIED_BYTES: u64 = 64 << 20;

/// The maximum number of debuggers that are connected at once. Each has a thread.
pub const MAX_DEBUGGERS: usize = 64;
