//! Limits on what a target serves and on what a client can send, each with its reason.
//!
//! Clients, dumps and module files are all untrusted.
//!
//! ```
//! use corestream_debug::limits::{MAX_PACKET_BYTES, MAX_REPLY_BYTES};
//!
//! assert!(MAX_PACKET_BYTES < MAX_REPLY_BYTES && MAX_REPLY_BYTES < 1 << 20);
//! ```

/// The maximum number of bytes of a client's packet, and of memory in one reply. LLDB takes larger replies for the same
/// number of memory reads, but a read of this size already takes less time than its round trip.
pub const MAX_PACKET_BYTES: usize = 0x2_0000;

/// The maximum number of bytes that a session appends for one packet. Escaping can double the bytes of memory.
pub const MAX_REPLY_BYTES: usize = 2 * MAX_PACKET_BYTES + 64;

/// The maximum number of frames of a thread that are served, the youngest ones. LLDB 22 needs 17 seconds to count 4,097
/// frames, and its time grows with the square of their number.
pub const MAX_FRAMES: usize = 10_000;

/// The maximum number of frames of all threads. Each takes 16 bytes.
pub const MAX_ALL_FRAMES: usize = 100_000;

/// The maximum number of threads that are served.
pub const MAX_THREADS: usize = 1000;

/// The maximum number of instances that are served. Their number in a dump is up to a million.
pub const MAX_INSTANCES: usize = 1 << 16;

/// The maximum number of copies of a module for the frames of a recursive function. LLDB 22 reads and indexes each copy
/// like another module.
pub const MAX_COPIES: u8 = 15;

/// The maximum number of images of modules, with all copies. LLDB reads all of them when it connects.
pub const MAX_IMAGES: usize = 256;

/// The maximum number of characters of the name of a thread, and of the name that a module has in the dump.
pub const MAX_NAME_CHARS: usize = 256;
