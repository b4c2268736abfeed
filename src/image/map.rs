//! Files as memory: the one place where a file is mapped.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapOptions};

/// A private, read-only mapping of a whole file.
pub(super) struct Map(Option<Mmap>);

impl Map {
    /// Maps the whole of `file`; an empty one needs no mapping.
    pub(super) fn new(file: &File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        if len == 0 {
            return Ok(Self(None));
        }
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // SAFETY: the mapping is private, read-only and owned by `Map`, so this process neither
        // writes through it nor outlives it. What Rust can't see is a change of the file by others:
        // that nobody does so while the image lives is the contract in the docs of `MemoryImage`.
        let map = unsafe { MmapOptions::new().len(len).map(file) }?;
        Ok(Self(Some(map)))
    }

    /// The mapped bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
