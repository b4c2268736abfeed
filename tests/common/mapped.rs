//! Images of mapped files.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(unsafe_code, reason = "mapping a file is unsafe")]

use std::fs::File;
use std::path::Path;

use corestream::MemoryImage;

/// Maps the file at `path`.
pub fn open(path: impl AsRef<Path>) -> MemoryImage<'static> {
    // SAFETY: only the test has the file. A test that changes it checks the effect on users of the tool, who cannot
    // guarantee that a file does not change.
    unsafe { MemoryImage::map(path) }.unwrap()
}

/// Maps an open file.
pub fn from_file(file: File) -> MemoryImage<'static> {
    // SAFETY: as above.
    unsafe { MemoryImage::map_file(file) }.unwrap()
}
