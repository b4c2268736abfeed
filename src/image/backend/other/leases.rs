//! Leases, which these systems do not have.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::image::backend::answers::Writers;

/// Returns [`Writers::Unknown`].
pub(in crate::image) fn writers_of(_: &File) -> Writers {
    Writers::Unknown
}

/// Returns [`AGAIN`](rustix::io::Errno::AGAIN), because there is no lease to wait for.
pub(in crate::image) fn open_without_lease(_: &Path) -> io::Result<File> {
    Err(rustix::io::Errno::AGAIN.into())
}
