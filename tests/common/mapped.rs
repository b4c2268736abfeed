//! Images of files that are mapped.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(unsafe_code, reason = "to map a file is unsafe")]

use std::fs::File;
use std::path::Path;

use corestream::MemoryImage;

/// Maps the file at `path`.
pub fn open(path: impl AsRef<Path>) -> MemoryImage<'static> {
    // SAFETY: the file is the test's own. A test that changes it meanwhile looks at what becomes of the tool's users, for
    // whom nobody keeps the promise.
    unsafe { MemoryImage::map(path) }.unwrap()
}

/// Maps an open file.
pub fn from_file(file: File) -> MemoryImage<'static> {
    // SAFETY: as above.
    unsafe { MemoryImage::map_file(file) }.unwrap()
}
