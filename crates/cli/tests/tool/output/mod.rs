//! The files that `dump` and `extract` write: their names, their directories, and what can be in the way.

mod close;
mod directories;
mod naming;
mod targets;

use tempfile::TempDir;

use crate::tool::{ok, write_image};

/// Returns a directory with `guest.mem`, which has `len` bytes 6, and its dump `guest.core`.
fn guest(len: usize) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    write_image(directory.path().join("guest.mem"), vec![6; len]);
    ok(directory.path(), ["dump", "--memory", "guest.mem", "-o", "guest.core"]);
    directory
}
