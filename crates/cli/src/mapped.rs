//! Maps files. No other module of the tool does.
//!
//! # Soundness
//!
//! Mapping a file is sound only while no process modifies or truncates the file, and no program can ensure that. The
//! tool maps files anyway, as ripgrep and other tools for large files do: dumps have gigabytes, and nothing else is as
//! fast (`docs/performance.md`). Three measures limit the risk:
//!
//! - The tool only decodes numbers and copies bytes. It never takes a reference to a string or a structure from a
//!   mapping, so a byte that changes yields another number, not an invalid value.
//! - The SIGBUS handler maps zeros where a file was truncated ([`sigbus`](crate::sigbus)).
//! - When the work is done, the tool checks whether the file has changed. It fails if a dump that it reads has changed,
//!   and marks a memory as changing if its image has.
//!
//! The library's safe functions read files instead. Its functions that map are `unsafe`, and only this module calls
//! them.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use corestream::MemoryImage;
use corestream::read::{MappedFile, ReadAt};

use crate::platform;

/// The bytes of a dump.
pub enum DumpSource {
    Mapped(MappedFile),
    /// A file that is read instead of mapped, because its file system allocates holes that are read through a mapping.
    Read(File),
}

/// Maps a dump, or returns a source that reads it if mapping would allocate its holes.
///
/// # Errors
/// Returns an error if the file cannot be mapped.
pub fn open_dump(file: File) -> io::Result<DumpSource> {
    match platform::mapping_allocates(&file) {
        true => Ok(DumpSource::Read(file)),
        false => map_file(&file).map(DumpSource::Mapped),
    }
}

/// Maps a file.
///
/// # Errors
/// Returns an error if the file cannot be mapped.
pub fn map_file(file: &File) -> io::Result<MappedFile> {
    // SAFETY: see the module documentation. The caller handles SIGBUS and checks at the end whether the file has
    // changed.
    unsafe { MappedFile::new(file) }
}

impl ReadAt for DumpSource {
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
///
/// # Errors
/// Returns an error if the image cannot be mapped.
pub fn map_image(path: &Path) -> corestream::Result<MemoryImage<'static>> {
    // SAFETY: see the module documentation. The caller handles SIGBUS. The library fetches every byte that may have
    // changed exactly once, by a read, and marks the memory as changing if the image was written to.
    unsafe { MemoryImage::map(path) }
}
