//! The one place where the tool maps files.
//!
//! # Soundness
//! To map a file is sound only as long as nobody changes the file, which no program can ensure. The tool maps nevertheless,
//! as other tools that search and copy large files do: a dump has gigabytes, and nothing else is as fast. What it does
//! about it: it decodes numbers and copies bytes, and takes no reference to a string or a structure from a mapping, so that a
//! byte that changes gives another number; the handler of SIGBUS puts zeros where a file has become shorter
//! ([`sigbus`](crate::sigbus)); and when it is done, it looks whether the file has changed, and fails if so.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use corestream::MemoryImage;
use corestream::read::{MappedFile, ReadAt};

use crate::platform;

/// A dump: mapped, but for one on a file system that allocates the holes of a file when they are read through a mapping.
pub enum Dump {
    Mapped(MappedFile),
    Read(File),
}

/// Maps a dump, or makes it one that is read.
pub fn dump(file: File) -> io::Result<Dump> {
    match platform::mapping_allocates(&file) {
        true => Ok(Dump::Read(file)),
        false => self::file(&file).map(Dump::Mapped),
    }
}

/// Maps a file.
pub fn file(file: &File) -> io::Result<MappedFile> {
    // SAFETY: see above; the caller handles SIGBUS, and checks at the end whether the file has changed.
    unsafe { MappedFile::new(file) }
}

impl ReadAt for Dump {
    fn len(&self) -> io::Result<u64> {
        match self {
            Self::Mapped(file) => file.len(),
            Self::Read(file) => ReadAt::len(file),
        }
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Mapped(file) => file.read_exact_at(buffer, offset),
            Self::Read(file) => ReadAt::read_exact_at(file, buffer, offset),
        }
    }

    fn as_slice(&self) -> Option<&[u8]> {
        match self {
            Self::Mapped(file) => file.as_slice(),
            Self::Read(_) => None,
        }
    }
}

/// Maps the image at `path`.
pub fn image(path: &Path) -> corestream::Result<MemoryImage<'static>> {
    // SAFETY: see above; the caller handles SIGBUS. The library fetches every byte that may have changed by a read, once,
    // and marks the memory as changing if the image was written to.
    unsafe { MemoryImage::map(path) }
}
