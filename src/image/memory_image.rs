//! The image of one linear memory: where its bytes are, and who may write them.

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

/// The bytes of one linear memory. Nothing of them is copied to make one.
///
/// # Files that change
/// A dump of a file that somebody writes to meanwhile is valid, but torn: it holds old and new bytes. Each
/// byte that may change is copied once through a small buffer, and the checksums are those of the copy. If
/// the file was written to, or was open for writing, the dump marks the memory as *changing*, and
/// [`Plan::changes`](crate::Plan::changes) tells, as far as the kernel lets this process know: of another user's file, and
/// on network file systems, it may not. Bytes are written straight from the image, or lent to a
/// pipe, only where nobody can change them: the borrowed memory of a live guest, a memfd with the seals
/// `F_SEAL_WRITE` and `F_SEAL_SHRINK`, a file with fs-verity, and a file on a local file system that is
/// read-only as a whole.
///
/// A file that is made shorter is another matter. The scan reads through the mapping, and a process
/// that reads a mapping past the new end of its file is killed by SIGBUS. Where that can't be ruled out,
/// use an image that is read instead ([`MemoryImage::open_unmapped`]): the dump then fails with an
/// error.
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

    /// Maps the file at `path`, of any length, whose first byte is at address 0. Holes of a sparse
    /// file are known to be zero without being read. A file of hugetlbfs is read as by
    /// [`open_unmapped`](Self::open_unmapped), because a mapping takes huge pages for its holes.
    ///
    /// # Errors
    /// The file can't be opened or mapped, is no regular file, or has bytes but no length, as files of
    /// `/proc`.
    pub fn open(path: impl AsRef<Path>) -> Result<MemoryImage<'static>> {
        let path = path.as_ref();
        MemoryImage::from_file(open(path)?).map_err(|source| fail(path, "cannot map", source))
    }

    /// Like [`open`](Self::open), but the file is read with a small buffer and not mapped.
    ///
    /// # Errors
    /// The file can't be opened, is no regular file, or has bytes but no length, as files of `/proc`.
    pub fn open_unmapped(path: impl AsRef<Path>) -> Result<MemoryImage<'static>> {
        let path = path.as_ref();
        let file = open(path)?;
        let len = map::regular_len(&file, "an image")
            .map_err(|source| fail(path, "cannot read", source))?;
        let stability = stability(&file);
        Ok(MemoryImage { source: Source::File { file, len }, stability })
    }

    /// Maps a file that is open for reading; one of hugetlbfs is read instead.
    ///
    /// # Errors
    /// Those of `mmap`. The file is no regular file, or has bytes but no length, as files of `/proc`.
    pub fn from_file(file: File) -> std::io::Result<MemoryImage<'static>> {
        let len = map::regular_len(&file, "an image")?;
        if file_system::mapping_reserves(&file) {
            let stability = stability(&file);
            return Ok(MemoryImage { source: Source::File { file, len }, stability });
        }
        let map = map::Map::new(&file)?;
        let stability = stability(&file);
        Ok(MemoryImage { source: Source::Mapped { map, file }, stability })
    }

    /// Treats the bytes as changing, whatever they are of. Each byte is copied before it is summed up and
    /// written, a file is read and not mapped, and the dump marks the memory as *changing*.
    ///
    /// ```
    /// use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryIndex, MemoryType};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("guest.mem");
    /// # let core = folder.path().join("guest.core");
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

    /// The bytes, if they are in the address space of this process and no other thread writes them. If they
    /// are those of a file that can change, so can they.
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
