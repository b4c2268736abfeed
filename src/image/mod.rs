//! The bytes of a linear memory: borrowed from a live guest, mapped from a file, or read from one.

mod extents;
pub(crate) mod map;

use std::fmt;
use std::fs::File;
use std::path::Path;

pub use extents::ExtentMethod;
pub(crate) use extents::Extents;
use extents::shrunk;

use crate::error::{Error, ErrorKind, Result};

/// The bytes of one linear memory. Nothing of them is copied to make one.
///
/// # Files that change
/// The file behind a mapped image must not change while the image lives. A dump of one that is
/// written to holds a mixture of old and new bytes; the process that maps one that is made shorter
/// is killed by SIGBUS when it reads past the new end. Where that can't be promised, an image that
/// is read instead ([`MemoryImage::open_unmapped`]) gives an error, at the cost of one copy through
/// a small buffer.
///
/// ```
/// use corestream::MemoryImage;
///
/// let image = MemoryImage::from_slice(&[0, 1, 2]);
/// assert_eq!(image.len(), 3);
/// ```
pub struct MemoryImage<'a> {
    source: Source<'a>,
}

/// Where the bytes of an image are.
#[derive(Clone, Copy)]
pub(crate) enum Bytes<'i> {
    /// In the address space of this process.
    Slice(&'i [u8]),
    /// In a file that is read piece by piece.
    File(&'i File),
}

enum Source<'a> {
    Slice(&'a [u8]),
    Mapped { map: map::Map, file: File },
    File { file: File, len: u64 },
}

impl<'a> MemoryImage<'a> {
    /// The memory of a live guest.
    pub fn from_slice(bytes: &'a [u8]) -> Self {
        Self { source: Source::Slice(bytes) }
    }

    /// Maps the file at `path`, of any length, whose first byte is at address 0. Holes of a sparse
    /// file are known to be zero without being read.
    ///
    /// # Errors
    /// The file can't be opened or mapped, or is no regular file.
    pub fn open(path: impl AsRef<Path>) -> Result<MemoryImage<'static>> {
        let path = path.as_ref();
        MemoryImage::from_file(open(path)?).map_err(|source| fail(path, "cannot map", source))
    }

    /// Like [`open`](Self::open), but the file is read with a small buffer and not mapped.
    ///
    /// # Errors
    /// The file can't be opened, or is no regular file.
    pub fn open_unmapped(path: impl AsRef<Path>) -> Result<MemoryImage<'static>> {
        let path = path.as_ref();
        let file = open(path)?;
        let len = file.metadata().map_err(|source| fail(path, "cannot read", source))?.len();
        Ok(MemoryImage { source: Source::File { file, len } })
    }

    /// Maps a file that is open for reading.
    ///
    /// # Errors
    /// Those of `mmap`.
    pub fn from_file(file: File) -> std::io::Result<MemoryImage<'static>> {
        let map = map::Map::new(&file)?;
        Ok(MemoryImage { source: Source::Mapped { map, file } })
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        match &self.source {
            Source::Slice(bytes) => bytes.len() as u64,
            Source::Mapped { map, .. } => map.bytes().len() as u64,
            Source::File { len, .. } => *len,
        }
    }

    /// Whether it has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, if they are in the address space of this process.
    pub fn as_slice(&self) -> Option<&[u8]> {
        match self.bytes() {
            Bytes::Slice(bytes) => Some(bytes),
            Bytes::File(_) => None,
        }
    }

    pub(crate) fn bytes(&self) -> Bytes<'_> {
        match &self.source {
            Source::Slice(bytes) => Bytes::Slice(bytes),
            Source::Mapped { map, .. } => Bytes::Slice(map.bytes()),
            Source::File { file, .. } => Bytes::File(file),
        }
    }

    /// The ranges that may hold data, in the order of their addresses.
    ///
    /// With `trust_holes` false that is everything.
    pub(crate) fn extents(&self, trust_holes: bool) -> Extents<'_> {
        match &self.source {
            Source::Mapped { file, .. } | Source::File { file, .. } if trust_holes => {
                Extents::of_file(file, self.len())
            }
            _ => Extents::whole(self.len()),
        }
    }
}

impl fmt::Debug for MemoryImage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Slice(_) => "slice",
            Source::Mapped { .. } => "mapped file",
            Source::File { .. } => "file",
        };
        write!(f, "MemoryImage({source} of {} bytes)", self.len())
    }
}

fn fail(path: &Path, what: &str, source: std::io::Error) -> Error {
    Error::io(ErrorKind::Image, format!("{}: {what}", path.display()), source)
}

/// Opens a regular file.
fn open(path: &Path) -> Result<File> {
    let file = map::open(path).map_err(|source| fail(path, "cannot open", source))?;
    let metadata = file.metadata().map_err(|source| fail(path, "cannot read", source))?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a folder" } else { "no regular file" };
        let message =
            format!("{}: an image must be a regular file, this is {what}", path.display());
        return Err(Error::new(ErrorKind::Image, message));
    }
    Ok(file)
}

/// Fills `buffer` from an image file at `at`.
///
/// # Errors
/// The file can't be read, or ends before the buffer is full.
pub(crate) fn read_at(file: &File, buffer: &mut [u8], at: u64) -> Result<()> {
    let fail =
        |source| Error::io(ErrorKind::Image, format!("cannot read an image at {at:#x}"), source);
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], at + done as u64) {
            Ok(0) => {
                let now = file.metadata().map_or(at + done as u64, |metadata| metadata.len());
                return Err(shrunk(now, at + buffer.len() as u64));
            }
            Ok(read) => done += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(fail(errno.into())),
        }
    }
    Ok(())
}
