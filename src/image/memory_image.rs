//! The image of one linear memory: where its bytes are, and who may write them.
//!
//! # Files are read or mapped
//! The scan reads a mapped file fastest, but no program can keep other processes from writing to the file or from cutting
//! it, and then a `&[u8]` of the mapping is undefined behaviour or a SIGBUS. So the constructors that map are unsafe, and
//! the safe ones read: each thread of the scan has a buffer, and batches copy their bytes, as they do anyway from a file
//! that can change.
//!
//! No safe function maps a file, not even one that the kernel keeps from changing. A sealed memfd comes closest: nobody can
//! write to it or cut it. But it may have holes, and to read one in a mapping takes a page, for which a kernel that does
//! not overcommit may have no room: a SIGBUS. So there is no proof for all of them.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::path::Path;

use super::backend::{file_system, fixed};
use super::bytes::Bytes;
use super::extents::{Extents, Finder};
use super::map;
use super::read::check_len;
use super::shared::{SharedBytes, SharedImage};
use crate::error::{Error, ErrorKind, Result};

/// The bytes of one linear memory. None of them are copied when an image is made.
///
/// # Images of files
/// [`open`](Self::open) and [`from_file`](Self::from_file) read a file, with a small buffer for each thread.
/// [`map`](Self::map) and [`map_file`](Self::map_file) map it, which makes the scan faster (docs/performance.md) and lets
/// a dump lend the pages of a file that cannot change. They are unsafe: their caller guarantees that nobody changes the
/// file meanwhile. The dump is the same.
///
/// # Files that change
/// A dump of a file that somebody writes to meanwhile is valid, but torn: it holds old and new bytes. Each byte that may
/// change is copied once through a small buffer, and the checksums are those of the copy. If the file was written to, or
/// was open for writing, the dump marks the memory as *changing*, and [`Plan::changes`](crate::Plan::changes) tells, as
/// far as the kernel lets this process know: it may not tell of another user's file, nor on network file systems. A dump
/// of a file that somebody has made shorter fails with an error.
///
/// # Bytes that are not copied
/// A dump writes bytes straight from the image, or lends them to a pipe, only where nobody can change them: the borrowed
/// memory of a live guest, and a mapped file that is a memfd with the seals `F_SEAL_WRITE` and `F_SEAL_SHRINK`, a file
/// with fs-verity, or a file on a local file system that is read-only as a whole.
///
/// ```
/// use corestream::MemoryImage;
///
/// let image = MemoryImage::from_slice(&[0, 1, 2]);
/// assert_eq!(image.len(), 3);
/// ```
pub struct MemoryImage<'a> {
    source: Source<'a>,
    /// What is known of who may write the bytes.
    stability: Stability,
}

/// Whether the bytes of an image may change while it is dumped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stability {
    /// Nobody can ever write them.
    Fixed,
    /// Nobody can write them as long as their file system is read-only.
    ReadOnly,
    /// Nobody is known to write them, but it is possible.
    Changeable,
    /// They are taken to change: the dump says so.
    Changing,
}

/// How a dump takes the bytes of an image.
pub(crate) enum Payload<'i> {
    /// From where they lie; with their file if they are a mapping of it.
    Borrowed(&'i [u8], Option<&'i File>),
    /// By a copy.
    Copied(Bytes<'i>),
}

enum Source<'a> {
    Slice(&'a [u8]),
    Mapped { map: map::Map, file: File },
    File { file: File, len: u64 },
    Shared(SharedImage),
}

impl<'a> MemoryImage<'a> {
    /// The memory of a live guest.
    ///
    /// On Linux, pages of private anonymous memory that were never touched are known to be zero:
    /// they are neither read nor made to exist. Nor are the holes of a memfd or of another file in tmpfs
    /// that is mapped shared, if this process can open the file: by a descriptor that it has, by its path,
    /// or with `CAP_CHECKPOINT_RESTORE`. Any other mapping is read, and reading may allocate its pages:
    /// huge pages of hugetlbfs, and private mappings of files. Memory that a userfaultfd supplies is read,
    /// whichever process holds it.
    pub fn from_slice(bytes: &'a [u8]) -> Self {
        Self { source: Source::Slice(bytes), stability: Stability::Fixed }
    }

    /// The memory of a live guest that other threads may write while it is dumped. It is never
    /// borrowed: a dump copies it through a small buffer, and holds of each byte a value that stood
    /// there at some time. Its length is that of now; what it grows by later is not part of it.
    ///
    /// Pages that were never touched when the dump was planned are not read, as those of
    /// [`from_slice`](Self::from_slice): they count as zero, which they were then, also if a thread
    /// writes to them before the dump is finished.
    ///
    /// ```
    /// use std::cell::UnsafeCell;
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType, SharedBytes};
    ///
    /// struct Words(Arc<[AtomicU64]>);
    ///
    /// // SAFETY: the words live as long as the handle, do not move, and are written as atomics.
    /// unsafe impl SharedBytes for Words {
    ///     fn bytes(&self) -> &[UnsafeCell<u8>] {
    ///         let start = self.0.as_ptr().cast::<UnsafeCell<u8>>();
    ///         // SAFETY: these are the bytes of the words.
    ///         unsafe { std::slice::from_raw_parts(start, 8 * self.0.len()) }
    ///     }
    /// }
    ///
    /// let words: Arc<[AtomicU64]> = (0..8192).map(AtomicU64::new).collect();
    /// let image = MemoryImage::from_shared(Words(Arc::clone(&words)));
    /// assert!(image.is_changing() && image.as_slice().is_none());
    ///
    /// let mut dump = CoreDump::new("guest.wasm");
    /// dump.add_memory(Memory::new(MemoryType::wasm32(1), image));
    /// let plan = Dumper::new().plan(&dump)?;
    /// words[17].store(1 << 40, Ordering::Relaxed);
    /// assert_eq!(plan.to_vec()?.len() as u64, plan.len());
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn from_shared(memory: impl SharedBytes + 'static) -> MemoryImage<'static> {
        let source = Source::Shared(SharedImage::new(Box::new(memory)));
        MemoryImage { source, stability: Stability::Changing }
    }

    /// Opens the file at `path`, of any length, whose first byte is at address 0. Dumps read it with a small buffer.
    /// Holes of a sparse file are known to be zero without being read.
    ///
    /// # Errors
    /// Returns an error if the file can't be opened, is no regular file, or has bytes but no length, as files of `/proc`.
    ///
    /// ```
    /// use corestream::MemoryImage;
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("guest.mem");
    /// std::fs::write(&path, [1; 65_536]).unwrap();
    /// let image = MemoryImage::open(&path)?;
    /// assert_eq!((image.len(), image.as_slice()), (65_536, None));
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<MemoryImage<'static>> {
        let path = path.as_ref();
        MemoryImage::from_file(open(path)?).map_err(|source| fail(path, "cannot read", source))
    }

    /// Returns the image of a file that is open for reading, as [`open`](Self::open).
    ///
    /// # Errors
    /// Returns an error if the file is no regular file, or has bytes but no length, as files of `/proc`.
    pub fn from_file(file: File) -> std::io::Result<MemoryImage<'static>> {
        let len = map::regular_len(&file, "an image")?;
        let stability = stability(&file);
        Ok(MemoryImage { source: Source::File { file, len }, stability })
    }

    /// Maps the file at `path`, of any length, whose first byte is at address 0. Holes of a sparse file are known to be
    /// zero without being read.
    ///
    /// A file of hugetlbfs is read as by [`open`](Self::open), because a mapping takes huge pages for its holes.
    ///
    /// # Errors
    /// Returns an error if the file can't be opened or mapped, is no regular file, or has bytes but no length, as files of
    /// `/proc`.
    ///
    /// # Safety
    /// The caller guarantees that, as long as the image, or anything that is borrowed from it, exists:
    /// - Nobody writes to the file: no process, by no other name of the file, and through no mapping.
    /// - Nobody makes the file shorter. To read past its new end is a SIGBUS, which ends the process by default.
    /// - Its storage stays readable, for the same reason: the disk does not fail, the server does not go away.
    ///
    /// The kernel guarantees the first two of a memfd with the seals `F_SEAL_WRITE` and `F_SEAL_SHRINK`, whoever holds it:
    /// seals are never removed, and the kernel does not add `F_SEAL_WRITE` while a writable mapping exists. Its storage is
    /// memory, of which reading a hole takes a page. A read-only mount or file system is no guarantee: somebody may make it
    /// writable.
    ///
    /// ```
    /// use corestream::MemoryImage;
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("guest.mem");
    /// std::fs::write(&path, [1; 65_536]).unwrap();
    /// // SAFETY: nobody else knows the file, and its file system is local.
    /// let image = unsafe { MemoryImage::map(&path)? };
    /// assert_eq!(image.as_slice(), Some(&[1; 65_536][..]));
    /// # Ok::<(), corestream::Error>(())
    /// ```
    ///
    /// Safe code can't map:
    ///
    /// ```compile_fail,E0133
    /// #![forbid(unsafe_code)]
    ///
    /// let image = corestream::MemoryImage::map("guest.mem").unwrap();
    /// ```
    pub unsafe fn map(path: impl AsRef<Path>) -> Result<MemoryImage<'static>> {
        let path = path.as_ref();
        let file = open(path)?;
        // SAFETY: the caller guarantees the same.
        unsafe { MemoryImage::map_file(file) }.map_err(|source| fail(path, "cannot map", source))
    }

    /// Maps a file that is open for reading, as [`map`](Self::map).
    ///
    /// # Errors
    /// Returns the errors of `mmap`, and an error if the file is no regular file, or has bytes but no length, as files of
    /// `/proc`.
    ///
    /// # Safety
    /// The caller guarantees the same as of [`map`](Self::map).
    ///
    /// ```compile_fail,E0133
    /// #![forbid(unsafe_code)]
    ///
    /// let file = std::fs::File::open("guest.mem").unwrap();
    /// let image = corestream::MemoryImage::map_file(file).unwrap();
    /// ```
    pub unsafe fn map_file(file: File) -> std::io::Result<MemoryImage<'static>> {
        let len = map::regular_len(&file, "an image")?;
        let stability = stability(&file);
        let source = if file_system::mapping_reserves(&file) {
            Source::File { file, len }
        } else {
            // SAFETY: the caller guarantees that the file does not change, and stays readable, as long as the image exists.
            let map = unsafe { map::Map::new(&file) }?;
            Source::Mapped { map, file }
        };
        Ok(MemoryImage { source, stability })
    }

    /// Treats the bytes as changing, whatever kind of image it is. Each byte is copied before it is summed up and written,
    /// a mapped file is unmapped and read instead, and the dump marks the memory as *changing*.
    ///
    /// ```
    /// use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryIndex, MemoryType};
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("guest.mem");
    /// # let core = directory.path().join("guest.core");
    /// # std::fs::write(&path, [1; 65_536]).unwrap();
    ///
    /// let image = MemoryImage::open(&path)?.mark_changing();
    /// assert!(image.is_changing());
    ///
    /// let mut dump = CoreDump::new("guest.wasm");
    /// dump.add_memory(Memory::new(MemoryType::wasm32(1), image));
    /// Dumper::new().plan(&dump)?.write_file(&core)?;
    /// assert!(corestream::CoreDumpFile::open(&core)?.memory(MemoryIndex(0))?.coverage().changing);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn mark_changing(self) -> Self {
        let len = self.len();
        let source = match self.source {
            Source::Mapped { file, .. } => Source::File { file, len },
            source => source,
        };
        Self { source, stability: Stability::Changing }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        match &self.source {
            Source::Slice(bytes) => bytes.len() as u64,
            Source::Mapped { map, .. } => map.bytes().len() as u64,
            Source::File { len, .. } => *len,
            Source::Shared(shared) => shared.len(),
        }
    }

    /// Whether its bytes are taken to change while it is dumped
    /// ([`from_shared`](Self::from_shared), [`mark_changing`](Self::mark_changing)). A file that can
    /// change, but was not marked, is none of these: the dump finds out.
    pub fn is_changing(&self) -> bool {
        self.stability == Stability::Changing
    }

    /// Whether it has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes, if they are borrowed or a mapping: those of [`from_slice`](Self::from_slice) and
    /// [`map`](Self::map). Of any other image there are none to lend.
    pub fn as_slice(&self) -> Option<&[u8]> {
        self.bytes().as_slice()
    }

    pub(crate) fn bytes(&self) -> Bytes<'_> {
        match &self.source {
            Source::Slice(bytes) => Bytes::Slice(bytes),
            Source::Mapped { map, file } => Bytes::Mapped(map.bytes(), file),
            Source::File { file, .. } => Bytes::File(file),
            Source::Shared(shared) => Bytes::Shared(shared),
        }
    }

    /// The bytes as a dump takes them: borrowed if nobody can write them, else to be copied. `is_guarded` says that a
    /// write to its [`guarded_file`](Self::guarded_file) would be seen.
    pub(crate) fn payload(&self, is_guarded: bool) -> Payload<'_> {
        let is_fixed = match self.stability {
            Stability::Fixed => true,
            Stability::ReadOnly => is_guarded,
            Stability::Changeable | Stability::Changing => false,
        };
        match self.bytes() {
            Bytes::Slice(bytes) if is_fixed => Payload::Borrowed(bytes, None),
            Bytes::Mapped(bytes, file) if is_fixed => Payload::Borrowed(bytes, Some(file)),
            // Read, not taken from the mapping: a file that was cut is an error then and no SIGBUS.
            Bytes::Mapped(_, file) => Payload::Copied(Bytes::File(file)),
            bytes => Payload::Copied(bytes),
        }
    }

    /// The file of the image, if its bytes are borrowed and only its file system keeps them from being changed.
    pub(super) fn guarded_file(&self) -> Option<&File> {
        match &self.source {
            Source::Mapped { file, .. } if self.stability == Stability::ReadOnly => Some(file),
            _ => None,
        }
    }

    /// The file of the image, if it is one that can change. One that is marked as changing may be one that
    /// cannot.
    pub(super) fn changeable_file(&self) -> Option<&File> {
        match &self.source {
            Source::Mapped { file, .. } | Source::File { file, .. } => {
                let is_fixed = match self.stability {
                    Stability::Fixed | Stability::ReadOnly => true,
                    Stability::Changeable => false,
                    Stability::Changing => stability(file) != Stability::Changeable,
                };
                (!is_fixed).then_some(file)
            }
            Source::Slice(_) | Source::Shared(_) => None,
        }
    }

    /// # Errors
    /// The file of the image is shorter than it was when it was opened: what is mapped beyond its
    /// end can't be read, and the rest of its last page reads as zero.
    pub(crate) fn check_len(&self) -> Result<()> {
        match &self.source {
            Source::Slice(_) | Source::Shared(_) => Ok(()),
            Source::Mapped { file, .. } | Source::File { file, .. } => check_len(file, self.len()),
        }
    }

    /// Whether it is memory of this process, whose pages the kernel can be asked about.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.source, Source::Slice(_) | Source::Shared(_))
    }

    /// The ranges that may hold data, in the order of their addresses, as `finder` finds them; all of a
    /// file that is known to be in doubt.
    pub(crate) fn extents<'i>(&'i self, finder: &'i Finder, in_doubt: bool) -> Result<Extents<'i>> {
        Ok(match &self.source {
            Source::Mapped { file, .. } | Source::File { file, .. } => {
                finder.of_file(file, self.len(), in_doubt)?
            }
            Source::Slice(bytes) => finder.of_live(bytes.as_ptr().addr(), bytes.len()),
            Source::Shared(shared) => {
                let (start, len) = shared.location();
                finder.of_live(start, len)
            }
        })
    }
}

impl fmt::Debug for MemoryImage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Slice(_) => "slice",
            Source::Mapped { .. } => "mapped file",
            Source::File { .. } => "file",
            Source::Shared(_) => "shared",
        };
        write!(f, "MemoryImage({source} of {} bytes)", self.len())
    }
}

/// What is known of who may write a file.
fn stability(file: &File) -> Stability {
    if fixed::is_fixed(file) {
        Stability::Fixed
    } else if fixed::is_on_read_only_file_system(file) {
        Stability::ReadOnly
    } else {
        Stability::Changeable
    }
}

fn fail(path: &Path, what: &str, source: std::io::Error) -> Error {
    Error::io(ErrorKind::Image, format!("{}: {what}", path.display()), source)
}

/// Opens a regular file.
fn open(path: &Path) -> Result<File> {
    let file = map::open(path).map_err(|source| fail(path, "cannot open", source))?;
    map::regular_len(&file, "an image").map_err(|source| match source.kind() {
        // The cause says it all.
        std::io::ErrorKind::InvalidInput => {
            Error::new(ErrorKind::Image, format!("{}: {source}", path.display()))
        }
        _ => fail(path, "cannot read", source),
    })?;
    Ok(file)
}
