//! The allocation of a file, which these systems do not report.

use std::fs::File;

use rustix::io::Errno;

use crate::image::backend::answers::Allocation;

/// Returns an error.
pub(in crate::image) fn allocation(_: &File, _: u64, _: bool) -> Result<Allocation, Errno> {
    Err(Errno::NOSYS)
}
