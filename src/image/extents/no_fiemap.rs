//! What the blocks of a file are allocated for, where the system does not tell.

use std::fs::File;

/// Bytes of a file that have blocks.
pub(super) struct Allocated {
    pub(super) data: u64,
    pub(super) unwritten: u64,
}

/// Returns an error.
pub(super) fn allocated(_: &File, _: u64, _: bool) -> Result<Allocated, rustix::io::Errno> {
    Err(rustix::io::Errno::NOSYS)
}
