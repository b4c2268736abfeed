//! The image of one linear memory: the location of its bytes and what is known about their writers.
//!
//! # Why the safe constructors read
//! The scan is fastest on a mapped file. But no program can keep other processes from writing to the file or
//! truncating it. A write makes a `&[u8]` of the mapping undefined behavior, and a truncation turns a read into a
//! SIGBUS. Therefore the constructors that map are `unsafe`, and the safe constructors read. Each scan thread then
//! has a buffer, and batches copy the bytes. They do the same for every file that can change.
//!
//! No safe function maps a file, not even a file that the kernel protects from changes. A sealed memfd comes closest:
//! no process can write to it or truncate it. But it may have holes, and reading a hole through a mapping allocates a
//! page. A kernel that does not overcommit may have no page left, and then the read is a SIGBUS. So no kind of file
//! is known to be safe to map.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::path::Path;

use super::backend::{file_system, fixed};
use super::bytes::Bytes;
use super::copied::CopiedMemory;
use super::extents::{ExtentFinder, Extents};
use super::frozen::FrozenBytes;
use super::map;
use super::read::check_len;
use super::shared::{SharedBytes, SharedImage};
use crate::error::{Error, ErrorKind, Result};

/// The bytes of one linear memory. Creating an image copies none of them.
///
/// # Images of files
/// [`open`](Self::open) and [`from_file`](Self::from_file) read a file through a small buffer for each thread.
/// [`map`](Self::map) and [`map_file`](Self::map_file) map it. Mapping makes the scan faster (docs/performance.md)
/// and lets a dump lend the pages of a file that cannot change. It is unsafe, because the caller must guarantee that
/// no process changes the file in the meantime. The resulting dump is the same.
///
/// # Files that change
/// If a process writes to a file while it is dumped, the dump is valid but torn: it contains old and new bytes. Each
/// byte that may change is copied once through a small buffer, and the checksums cover that copy. If the file was
/// written to, or was open for writing, the dump marks the memory as *changing*, and
/// [`Plan::changes`](crate::Plan::changes) reports why. This works as far as the kernel informs this process: it may
/// not do so for files of other users and on network file systems. Dumping a file that is truncated meanwhile fails
/// with an error.
///
/// # Bytes that are not copied
/// A dump writes bytes directly from the image, or lends them to a pipe, only if no process can change them. These
/// are the borrowed memory of a live guest and a mapped file of one of these kinds: a memfd with the seals
/// `F_SEAL_WRITE` and `F_SEAL_SHRINK`, a file with fs-verity, or a file on a local file system that is read-only as a
/// whole.
///
/// ```
/// use corestream::MemoryImage;
///
/// let image = MemoryImage::from_slice(&[0, 1, 2]);
/// assert_eq!(image.len(), 3);
/// ```
pub struct MemoryImage<'a> {
    source: ImageSource<'a>,
    /// What is known about the writers of the bytes.
    stability: Stability,
}

/// Whether the bytes of an image can change while it is dumped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stability {
    /// No process can ever write to them.
    Fixed,
    /// No process can write to them while their file system is read-only.
    ReadOnly,
    /// No writer is known, but there may be one.
    Changeable,
    /// They are assumed to change, and the dump says so.
    Changing,
}

/// How a dump obtains the bytes of an image.
pub(crate) enum PayloadSource<'i> {
    /// Borrowed from the address space; with the file if the bytes are a mapping of it.
    Borrowed(&'i [u8], Option<&'i File>),
    /// Copied into a buffer.
    Copied(Bytes<'i>),
}

enum ImageSource<'a> {
    Slice(&'a [u8]),
    Mapped {
        map: map::Map,
        file: File,
    },
    File {
        file: File,
        len: u64,
    },
    Shared(SharedImage),
    /// A private copy of a live memory.
    Copied(CopiedMemory),
    Frozen(Box<dyn FrozenBytes>),
}

impl<'a> MemoryImage<'a> {
    /// Returns the image of a live guest's memory.
    ///
    /// On Linux, untouched pages of private anonymous memory are known to be zero. A dump neither reads nor allocates
    /// them. The same holds for the holes of a memfd, or of another tmpfs file, that is mapped shared, provided that
    /// this process can open the file: through one of its descriptors, by path, or with `CAP_CHECKPOINT_RESTORE`.
    ///
    /// A dump reads every other mapping. Reading can allocate pages, for example huge pages of hugetlbfs and pages of
    /// private file mappings. Memory that a userfaultfd supplies is read as well, whichever process holds the
    /// userfaultfd.
    pub fn from_slice(bytes: &'a [u8]) -> Self {
        Self { source: ImageSource::Slice(bytes), stability: Stability::Fixed }
    }

    /// Returns the image of a live guest's memory that other threads may write while it is dumped.
    ///
    /// The memory is never borrowed. A dump copies it through a small buffer and contains, for each byte, a value
    /// that the byte had at some time. The length of the image is the current length of the memory. If the memory
    /// grows later, the new part is not included.
    ///
    /// As with [`from_slice`](Self::from_slice), a dump does not read the pages that were untouched when the dump was
    /// planned. They were zero at that time and count as zero, even if a thread writes to them before the dump is
    /// finished.
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
        let source = ImageSource::Shared(SharedImage::new(Box::new(memory)));
        MemoryImage { source, stability: Stability::Changing }
    }

    /// Opens the file at `path`, whose first byte is at address 0. The file can have any length.
    ///
    /// Dumps read the file through a small buffer. They do not read the holes of a sparse file, which are known to be
    /// zero.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened, is not a regular file, or has content but reports a length of
    /// 0, as files of `/proc` do.
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
        MemoryImage::from_file(open_regular(path)?)
            .map_err(|source| image_error(path, "cannot read", source))
    }

    /// Returns the image of a file that is open for reading. Apart from that it is like [`open`](Self::open).
    ///
    /// # Errors
    /// Returns an error if the file is not a regular file, or has content but reports a length of 0, as files of
    /// `/proc` do.
    pub fn from_file(file: File) -> std::io::Result<MemoryImage<'static>> {
        let len = map::regular_len(&file)?;
        let stability = stability_of(&file);
        Ok(MemoryImage { source: ImageSource::File { file, len }, stability })
    }

    /// Maps the file at `path`, whose first byte is at address 0. The file can have any length.
    ///
    /// Dumps do not read the holes of a sparse file, which are known to be zero. A file of hugetlbfs is read as by
    /// [`open`](Self::open), because a mapping reserves huge pages for its holes.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened or mapped, is not a regular file, or has content but reports a
    /// length of 0, as files of `/proc` do.
    ///
    /// # Safety
    /// The caller guarantees the following for as long as the image, or anything borrowed from it, exists:
    /// - No process writes to the file, under any of its names or through any mapping.
    /// - No process truncates the file. Reading past its new end is a SIGBUS, which kills the process by default.
    /// - The storage of the file stays readable: the disk does not fail and the server stays reachable. A failure is
    ///   a SIGBUS as well.
    ///
    /// For a memfd with the seals `F_SEAL_WRITE` and `F_SEAL_SHRINK`, the kernel guarantees the first two, even if
    /// other processes have it open. Seals are never removed, and the kernel does not add `F_SEAL_WRITE` while a
    /// writable mapping exists. The storage of a memfd is memory, and reading a hole allocates a page. A read-only
    /// mount or file system guarantees nothing, because it can be made writable.
    ///
    /// ```
    /// use corestream::MemoryImage;
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("guest.mem");
    /// std::fs::write(&path, [1; 65_536]).unwrap();
    /// // SAFETY: no other process knows the file, and its file system is local.
    /// let image = unsafe { MemoryImage::map(&path)? };
    /// assert_eq!(image.as_slice(), Some(&[1; 65_536][..]));
    /// # Ok::<(), corestream::Error>(())
    /// ```
    ///
    /// Safe code cannot map:
    ///
    /// ```compile_fail,E0133
    /// #![forbid(unsafe_code)]
    ///
    /// let image = corestream::MemoryImage::map("guest.mem").unwrap();
    /// ```
    pub unsafe fn map(path: impl AsRef<Path>) -> Result<MemoryImage<'static>> {
        let path = path.as_ref();
        let file = open_regular(path)?;
        // SAFETY: the caller gives the same guarantees.
        unsafe { MemoryImage::map_file(file) }
            .map_err(|source| image_error(path, "cannot map", source))
    }

    /// Maps a file that is open for reading. Apart from that it is like [`map`](Self::map).
    ///
    /// # Errors
    /// Returns the errors of `mmap`, and an error if the file is not a regular file, or has content but reports a
    /// length of 0, as files of `/proc` do.
    ///
    /// # Safety
    /// The caller gives the guarantees that [`map`](Self::map) requires.
    ///
    /// ```compile_fail,E0133
    /// #![forbid(unsafe_code)]
    ///
    /// let file = std::fs::File::open("guest.mem").unwrap();
    /// let image = corestream::MemoryImage::map_file(file).unwrap();
    /// ```
    pub unsafe fn map_file(file: File) -> std::io::Result<MemoryImage<'static>> {
        let len = map::regular_len(&file)?;
        let stability = stability_of(&file);
        let source = if file_system::mapping_reserves(&file) {
            ImageSource::File { file, len }
        } else {
            // SAFETY: the caller guarantees that the file does not change and stays readable while the image exists.
            let map = unsafe { map::Map::new(&file) }?;
            ImageSource::Mapped { map, file }
        };
        Ok(MemoryImage { source, stability })
    }

    /// Treats the bytes as changing, whatever kind of image this is.
    ///
    /// Each byte is copied before it is checksummed and written, a mapped file is unmapped and read instead, and the
    /// dump marks the memory as *changing*.
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
            ImageSource::Mapped { file, .. } => ImageSource::File { file, len },
            source => source,
        };
        Self { source, stability: Stability::Changing }
    }

    /// Marks the image as [`mark_changing`](Self::mark_changing) does. An image that borrows live memory stays borrowed.
    pub(crate) fn set_changing(&mut self) {
        self.stability = Stability::Changing;
    }

    /// Returns whether both images certainly borrow the same memory of this process, of which one may have more.
    ///
    /// An empty memory has no bytes, so its address identifies nothing.
    pub(crate) fn is_same_memory(&self, other: &Self) -> bool {
        let same = match (&self.source, &other.source) {
            (ImageSource::Slice(one), ImageSource::Slice(other)) => std::ptr::eq(*one, *other),
            (ImageSource::Shared(one), ImageSource::Shared(other)) => {
                one.location().0 == other.location().0
            }
            _ => false,
        };
        same && !self.is_empty() && !other.is_empty()
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> u64 {
        match &self.source {
            ImageSource::Slice(bytes) => bytes.len() as u64,
            ImageSource::Mapped { map, .. } => map.bytes().len() as u64,
            ImageSource::File { len, .. } => *len,
            ImageSource::Shared(shared) => shared.len(),
            ImageSource::Copied(copy) => copy.bytes().len() as u64,
            ImageSource::Frozen(frozen) => frozen.len(),
        }
    }

    /// Returns `true` if the bytes are assumed to change while the image is dumped
    /// ([`from_shared`](Self::from_shared), [`mark_changing`](Self::mark_changing)).
    ///
    /// Returns `false` for a file that can change but was not marked. The dump detects whether such a file changes.
    pub fn is_changing(&self) -> bool {
        self.stability == Stability::Changing
    }

    /// Returns `true` if the image has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of an image that was made by [`from_slice`](Self::from_slice) or [`map`](Self::map). Returns
    /// `None` for any other image, because its bytes cannot be borrowed.
    pub fn as_slice(&self) -> Option<&[u8]> {
        self.bytes().as_slice()
    }

    /// Returns the image of a memory in a snapshot.
    pub(crate) fn from_frozen(memory: impl FrozenBytes + 'static) -> MemoryImage<'static> {
        MemoryImage { source: ImageSource::Frozen(Box::new(memory)), stability: Stability::Fixed }
    }

    /// Returns the address and the length in bytes of borrowed live memory.
    pub(crate) fn live_location(&self) -> Option<(*const u8, usize)> {
        match self.source {
            ImageSource::Slice(bytes) => Some((bytes.as_ptr(), bytes.len())),
            _ => None,
        }
    }

    /// Returns an image that borrows nothing. Borrowed live memory is copied; `budget` is the number of bytes that may
    /// be copied, and is reduced.
    ///
    /// # Errors
    /// Returns an error if the memory has more data than that, or if no memory for it is available.
    pub(crate) fn into_owned(
        self,
        finder: &ExtentFinder,
        budget: &mut u64,
    ) -> Result<MemoryImage<'static>> {
        let stability = self.stability;
        let source = match self.source {
            ImageSource::Slice(_) => ImageSource::Copied(CopiedMemory::new(&self, finder, budget)?),
            ImageSource::Mapped { map, file } => ImageSource::Mapped { map, file },
            ImageSource::File { file, len } => ImageSource::File { file, len },
            ImageSource::Shared(shared) => ImageSource::Shared(shared),
            ImageSource::Copied(copy) => ImageSource::Copied(copy),
            ImageSource::Frozen(frozen) => ImageSource::Frozen(frozen),
        };
        Ok(MemoryImage { source, stability })
    }

    pub(crate) fn bytes(&self) -> Bytes<'_> {
        match &self.source {
            ImageSource::Slice(bytes) => Bytes::Slice(bytes),
            ImageSource::Mapped { map, file } => Bytes::Mapped(map.bytes(), file),
            ImageSource::File { file, .. } => Bytes::File(file),
            ImageSource::Shared(shared) => Bytes::Shared(shared),
            ImageSource::Copied(copy) => Bytes::Slice(copy.bytes()),
            ImageSource::Frozen(frozen) => Bytes::Frozen(&**frozen),
        }
    }

    /// Returns how a dump obtains the bytes: borrowed if no process can write to them, otherwise copied. `is_guarded`
    /// states that a write to the [`guarded_file`](Self::guarded_file) would be detected.
    pub(crate) fn payload(&self, is_guarded: bool) -> PayloadSource<'_> {
        let is_fixed = match self.stability {
            Stability::Fixed => true,
            Stability::ReadOnly => is_guarded,
            Stability::Changeable | Stability::Changing => false,
        };
        match self.bytes() {
            Bytes::Slice(bytes) if is_fixed => PayloadSource::Borrowed(bytes, None),
            Bytes::Mapped(bytes, file) if is_fixed => PayloadSource::Borrowed(bytes, Some(file)),
            // Read the file instead of copying from the mapping: if the file was truncated, that is an error and not
            // a SIGBUS.
            Bytes::Mapped(_, file) => PayloadSource::Copied(Bytes::File(file)),
            bytes => PayloadSource::Copied(bytes),
        }
    }

    /// Returns the file of the image if its bytes are borrowed and only a read-only file system protects them from
    /// writes.
    pub(super) fn guarded_file(&self) -> Option<&File> {
        match &self.source {
            ImageSource::Mapped { file, .. } if self.stability == Stability::ReadOnly => Some(file),
            _ => None,
        }
    }

    /// Returns the file of the image if it can change. An image that is marked as changing may have a file that
    /// cannot.
    pub(super) fn changeable_file(&self) -> Option<&File> {
        match &self.source {
            ImageSource::Mapped { file, .. } | ImageSource::File { file, .. } => {
                let is_fixed = match self.stability {
                    Stability::Fixed | Stability::ReadOnly => true,
                    Stability::Changeable => false,
                    Stability::Changing => stability_of(file) != Stability::Changeable,
                };
                (!is_fixed).then_some(file)
            }
            ImageSource::Slice(_)
            | ImageSource::Shared(_)
            | ImageSource::Copied(_)
            | ImageSource::Frozen(_) => None,
        }
    }

    /// Checks that the file of the image is still as long as it was when it was opened, and that a snapshot is intact. Otherwise, the mapping past
    /// the end of the file is unreadable, and the rest of the last page reads as zero.
    ///
    /// # Errors
    /// Returns an error if the file is shorter, if its length cannot be read, or if the snapshot has failed.
    pub(crate) fn check_len(&self) -> Result<()> {
        match &self.source {
            ImageSource::Slice(_) | ImageSource::Shared(_) | ImageSource::Copied(_) => Ok(()),
            ImageSource::Frozen(frozen) => frozen.check(),
            ImageSource::Mapped { file, .. } | ImageSource::File { file, .. } => {
                check_len(file, self.len())
            }
        }
    }

    /// Returns `true` if the image is memory of this process, so that the kernel can be queried for its pages.
    pub(crate) fn is_live(&self) -> bool {
        matches!(
            self.source,
            ImageSource::Slice(_) | ImageSource::Shared(_) | ImageSource::Copied(_)
        )
    }

    /// Returns the ranges that may contain data, in address order, as found by `finder`. If `in_doubt` is set, the
    /// holes that a file system reports are not believed, and the file is one extent.
    pub(crate) fn extents<'i>(
        &'i self,
        finder: &'i ExtentFinder,
        in_doubt: bool,
    ) -> Result<Extents<'i>> {
        Ok(match &self.source {
            ImageSource::Mapped { file, .. } | ImageSource::File { file, .. } => {
                finder.file_extents(file, self.len(), in_doubt)?
            }
            ImageSource::Slice(bytes) => finder.live_extents(bytes.as_ptr().addr(), bytes.len()),
            ImageSource::Shared(shared) => {
                let (start, len) = shared.location();
                finder.live_extents(start, len)
            }
            ImageSource::Copied(copy) => {
                finder.live_extents(copy.bytes().as_ptr().addr(), copy.bytes().len())
            }
            ImageSource::Frozen(frozen) => ExtentFinder::frozen_extents(&**frozen),
        })
    }
}

impl fmt::Debug for MemoryImage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            ImageSource::Slice(_) => "slice",
            ImageSource::Mapped { .. } => "mapped file",
            ImageSource::File { .. } => "file",
            ImageSource::Shared(_) => "shared",
            ImageSource::Copied(_) => "copy",
            ImageSource::Frozen(_) => "snapshot",
        };
        write!(f, "MemoryImage({source} of {} bytes)", self.len())
    }
}

/// Returns what is known about the writers of a file.
fn stability_of(file: &File) -> Stability {
    if fixed::is_fixed(file) {
        Stability::Fixed
    } else if fixed::is_on_read_only_file_system(file) {
        Stability::ReadOnly
    } else {
        Stability::Changeable
    }
}

fn image_error(path: &Path, what: &str, source: std::io::Error) -> Error {
    Error::io(ErrorKind::Image, format!("{}: {what}", path.display()), source)
}

/// Opens a regular file.
fn open_regular(path: &Path) -> Result<File> {
    let file = map::open(path).map_err(|source| image_error(path, "cannot open", source))?;
    map::regular_len(&file).map_err(|source| match source.kind() {
        // The cause is a complete message.
        std::io::ErrorKind::InvalidInput => {
            Error::new(ErrorKind::Image, format!("{}: {source}", path.display()))
        }
        _ => image_error(path, "cannot read", source),
    })?;
    Ok(file)
}
