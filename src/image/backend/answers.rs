//! The answers of platforms: the types that all of them have in common.

use std::io;

/// What the kernel says of the writers of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::image) enum Writers {
    /// Nobody has the file open for writing.
    None,
    /// Somebody has.
    Some,
    /// Leases do not tell: the file belongs to another user, or its file system has no leases or
    /// grants them without knowing every writer.
    Unknown,
}

/// Bytes of a file that have blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::image) struct Allocated {
    /// They hold data, or are waiting to be written.
    pub(in crate::image) data: u64,
    /// They are reserved and were never written, or lie beyond the end of the file.
    pub(in crate::image) unwritten: u64,
}

/// Why the kernel can't be asked about live memory.
pub(in crate::image) enum Impossible {
    /// No way, or not the forced one, to find pages.
    Method(io::Error),
    /// No way, or not the forced one, to find mappings.
    Mappings(io::Error),
}
