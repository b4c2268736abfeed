//! Standard streams that were closed when the process started.
//!
//! Rust's runtime opens `/dev/null` in place of each closed stream, so that no other file gets its number. Output to
//! such a placeholder would be lost without an error.

use std::fs::Metadata;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl, fstat};

/// Returns whether a standard stream was closed when the process started.
///
/// The runtime opens the placeholder `/dev/null` for both reading and writing. A shell redirection to `/dev/null` opens
/// it for one of the two.
pub fn is_placeholder(stream: impl AsFd) -> bool {
    let null = Path::new("/dev/null").metadata().map(|null: Metadata| null.rdev());
    let is_null =
        null.is_ok_and(|null| null != 0 && fstat(&stream).is_ok_and(|stat| stat.st_rdev == null));
    let access = fcntl_getfl(&stream).map(|flags| flags & OFlags::ACCMODE);
    is_null && access == Ok(OFlags::RDWR)
}
