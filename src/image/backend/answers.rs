//! The types of answers that all platforms share.

use std::io;

/// The answer to whether a file has writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::image) enum Writers {
    /// No process has the file open for writing.
    Absent,
    /// A process has the file open for writing.
    Present,
    /// Leases give no answer: the file belongs to another user, or its file system supports no leases or grants them
    /// without knowing every writer.
    Unknown,
}

/// The bytes of a file for which blocks are allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::image) struct Allocation {
    /// Bytes that contain data, or are waiting to be written.
    pub(in crate::image) data: u64,
    /// Bytes that are reserved and were never written, or that lie past the end of the file.
    pub(in crate::image) unwritten: u64,
}

/// The kind of a mapping, for the snapshot of a live memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryKind {
    /// Private anonymous memory, in which untouched pages are zero.
    Anonymous,
    /// A shared mapping, to which other processes may write.
    Shared,
    /// A private mapping of a file, memory of the kernel, or no mapping.
    Other,
}

/// The reason why the kernel cannot be queried about live memory.
pub(in crate::image) enum ProbeError {
    /// No method to find pages is available, or the forced one is not.
    Method(io::Error),
    /// No method to find mappings is available, or the forced one is not.
    Mappings(io::Error),
}
