//! Files as memory: the one place where a file is mapped.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

/// Opens a file for reading; `O_NONBLOCK` so that a FIFO is not waited for, but seen to be one.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};

    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// A private, read-only mapping of a whole file.
pub(crate) struct Map(Option<Mmap>);

impl Map {
    /// Maps the whole of `file`; an empty one needs no mapping.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
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
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
