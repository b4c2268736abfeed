//! An open dump: its process, modules, instances, threads, globals and memories.

use std::fmt;
use std::path::Path;

use super::item;
use super::items::{self, List, ThreadView, UntilError};
use super::layout::FrameLayout;
use super::memory::MemoryView;
use super::open::OpenedDump;
use super::open_options::OpenOptions;
use super::read_at::ReadAt;
use super::source::Source;
use crate::control::{Control, Stage};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{DEGRADED, PARTIAL};
use crate::model::{Global, GlobalIndex, Instance, InstanceIndex, MemoryIndex, ModuleIndex};

/// A core dump that is open for reading.
///
/// The reader accepts the dumps of corestream and of other writers. It knows the frame layouts of Wasmtime,
/// wasm-coredump-builder, wasm-coredump-rewriter and WasmEdge ([`FrameLayout`]). Unknown custom sections are skipped.
///
/// Opening a dump by corestream uses the index and reads nothing of the memories. Opening a dump of another writer
/// reads the header of each segment once. Its segments may come in any order and overlap: the last one of the file
/// wins.
///
/// Opening checks everything except the contents of memories, their checksums, and whether the index lists the segments
/// in the sections. [`verify`](Self::verify) checks these as well. Indices in instances and frames are not checked:
/// they may refer to items that the dump does not list.
///
/// # Sources
/// A dump can be in any source of bytes ([`ReadAt`]): a slice, a file that is read, a file that an unsafe constructor
/// has mapped ([`MappedFile`](super::MappedFile)), or your own type. Names, frames and the contents of memories are
/// read on demand. The metadata of an open dump is owned, and takes at most
/// [`MAX_METADATA_BYTES`](crate::limits::MAX_METADATA_BYTES) for any dump.
///
/// The source should not change while the dump is open. If it does, the methods return a mixture of old and new bytes,
/// or an error.
///
/// ```
/// use corestream::*;
///
/// # let mut bytes = vec![0; 65_536];
/// # bytes[4096..4100].fill(7);
/// # let mut guest = CoreDump::new("guest.wasm");
/// # guest.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
/// # let module = guest.add_module("guest.wasm");
/// # let instance = guest.add_instance(Instance::new(module));
/// # guest.add_thread(Thread::new("main").with_frames([Frame::new(instance, 3, 17)]));
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("guest.core");
/// # Dumper::new().plan(&guest)?.write_file(&path)?;
/// let dump = CoreDumpFile::open(&path)?;
/// assert_eq!(dump.name(), "guest.wasm");
/// for thread in dump.threads() {
///     for frame in thread?.frames() {
///         let frame = frame?;
///         assert_eq!((frame.function, frame.offset), (3, 17));
///     }
/// }
///
/// let memory = dump.memory(MemoryIndex(0))?;
/// let mut buffer = [1; 5];
/// memory.read(4099, &mut buffer)?;
/// assert_eq!(buffer, [7, 0, 0, 0, 0]);
/// # Ok::<(), Error>(())
/// ```
pub struct CoreDumpFile<'b> {
    source: Box<dyn ReadAt + 'b>,
    len: u64,
    pub(super) opened: OpenedDump,
    damage: Option<Error>,
    /// The number of threads for verifying and restoring, or 0 for one per core.
    pub(super) threads: usize,
    pub(super) control: Control,
}

/// The writer of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Producer {
    /// corestream: the dump has a section `corestream`.
    Corestream,
    /// Another tool.
    Other,
}

impl CoreDumpFile<'static> {
    /// Opens the dump at `path`. The file is read, not mapped.
    ///
    /// # Errors
    /// Returns an error of one of these kinds:
    /// - [`ErrorKind::Input`]: the file cannot be read or is not a regular file.
    /// - [`ErrorKind::Format`]: the file is not a core dump.
    /// - [`ErrorKind::Damaged`], [`ErrorKind::Truncated`]: the dump is damaged or truncated.
    /// - [`ErrorKind::Unsupported`]: the dump contains something unknown to this version, or exceeds a limit.
    /// - [`ErrorKind::OutOfMemory`]: memory for a table cannot be allocated.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        OpenOptions::new().open(path)
    }

    /// Opens the readable parts of the dump at `path`; see [`salvage_slice`](CoreDumpFile::salvage_slice).
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, and the errors of [`salvage_slice`](CoreDumpFile::salvage_slice).
    pub fn salvage(path: impl AsRef<Path>) -> Result<Self> {
        OpenOptions::new().salvage(true).open(path)
    }
}

impl<'b> CoreDumpFile<'b> {
    /// Opens a dump in memory.
    ///
    /// # Errors
    /// Returns the errors of [`open`](CoreDumpFile::open), except for [`ErrorKind::Input`].
    ///
    /// ```
    /// use corestream::{CoreDumpFile, ErrorKind};
    ///
    /// let error = CoreDumpFile::from_slice(b"\0asm\x01\0\0\0").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Format);
    /// assert_eq!(error.to_string(), "not a core dump: it has no section `core`");
    /// ```
    pub fn from_slice(bytes: &'b [u8]) -> Result<Self> {
        Self::from_source(bytes)
    }

    /// Opens a dump in any source of bytes.
    ///
    /// # Errors
    /// Returns the errors of [`open`](CoreDumpFile::open). [`ErrorKind::Input`] means that the source cannot be read.
    ///
    /// ```
    /// use std::fs::File;
    ///
    /// use corestream::{CoreDump, CoreDumpFile, Dumper};
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("guest.core");
    /// Dumper::new().plan(&CoreDump::new("guest.wasm"))?.write_file(&path)?;
    /// let dump = CoreDumpFile::from_source(File::open(&path).unwrap())?;
    /// assert_eq!(dump.name(), "guest.wasm");
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn from_source(source: impl ReadAt + 'b) -> Result<Self> {
        OpenOptions::new().open_source(source)
    }

    /// Opens the readable parts of a dump in memory that may be damaged or truncated. [`damage`](Self::damage) returns
    /// the fault that opening found, if any.
    ///
    /// If the index of a dump by corestream is intact, it locates the data of all memories, however damaged the rest
    /// is. Lists then contain the items of the intact sections. If the type of a memory is lost, the memory is as large
    /// as its segments need ([`MemoryView::declared_pages`] reports that). If the name of the process is lost, it is
    /// empty. The recovered bytes may still be wrong: [`verify`](Self::verify) names the bad blocks.
    ///
    /// Without an index, the dump consists of its intact sections if the sizes of all sections are consistent, and
    /// otherwise of the sections before the first fault. If the file ends within a segment, the part in the file
    /// counts. Memory that may be missing is reported as lost.
    ///
    /// # Errors
    /// Returns an error if nothing of a core dump is found: no intact index, no section `core`, and no section
    /// `corestream` after a damaged first section. Its kind is [`ErrorKind::Format`], or that of the fault in the first
    /// section.
    ///
    /// ```
    /// use corestream::*;
    ///
    /// # let bytes = vec![7; 65_536];
    /// # let mut guest = CoreDump::new("guest.wasm");
    /// # guest.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    /// # guest.add_thread(Thread::new("main"));
    /// # let bytes = Dumper::new().plan(&guest)?.to_vec()?;
    /// let truncated = &bytes[..1000];
    /// assert!(CoreDumpFile::from_slice(truncated).is_err());
    /// let dump = CoreDumpFile::salvage_slice(truncated)?;
    /// assert_eq!(dump.damage().unwrap().kind(), ErrorKind::Truncated);
    /// assert_eq!(dump.thread(0)?.name(), "main");
    /// assert!(dump.memory(MemoryIndex(0))?.coverage().data_bytes > 800);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn salvage_slice(bytes: &'b [u8]) -> Result<Self> {
        OpenOptions::new().salvage(true).open_source(bytes)
    }

    pub(super) fn new(
        source: Box<dyn ReadAt + 'b>,
        salvage: bool,
        threads: usize,
        control: Control,
    ) -> Result<Self> {
        control.check_cancelled()?;
        let bytes = Source::new(&*source)?;
        let len = bytes.len();
        let meter = control.begin(Stage::Open, len);
        let (opened, damage) = match OpenedDump::open(bytes, &control, &meter) {
            Ok(opened) => (opened, None),
            Err(fault) if salvage && fault.is_of_dump() => {
                let (opened, fault) = OpenedDump::salvage(bytes, fault, &control)?;
                (opened, Some(fault.into()))
            }
            Err(fault) => return Err(fault.into()),
        };
        meter.finish();
        Ok(Self { source, len, opened, damage, threads, control })
    }

    /// Returns the source of the dump, with its length.
    pub(super) fn source(&self) -> Source<'_> {
        Source::with_len(&*self.source, self.len)
    }

    /// Returns the length of the dump in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a dump is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns the fault of a damaged dump that was salvaged ([`salvage`](CoreDumpFile::salvage)), or `None` if opening
    /// found no fault.
    pub fn damage(&self) -> Option<&Error> {
        self.damage.as_ref()
    }

    /// Returns the writer of the dump.
    pub fn producer(&self) -> Producer {
        match self.opened.structure.any_header() {
            Some(_) => Producer::Corestream,
            None => Producer::Other,
        }
    }

    /// Returns whether another tool has moved or changed sections of a dump by corestream.
    ///
    /// The checksums of such a dump do not apply any more. Everything is read from the sections, except for the
    /// excluded ranges and the changing memories, which come from the index.
    pub fn is_rewritten(&self) -> bool {
        self.opened.structure.moved_header.is_some()
    }

    /// Returns the layout of the frames, which depends on the writer of the dump. With an unknown layout, threads have
    /// no frames.
    ///
    /// ```
    /// use corestream::read::FrameLayout;
    /// use corestream::{CoreDump, CoreDumpFile, Dumper};
    ///
    /// let bytes = Dumper::new().plan(&CoreDump::new("guest.wasm"))?.to_vec()?;
    /// assert_eq!(CoreDumpFile::from_slice(&bytes)?.frame_layout(), FrameLayout::Standard);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn frame_layout(&self) -> FrameLayout {
        self.opened.structure.layout
    }

    /// Returns whether the reader uses an index. In a rewritten dump ([`is_rewritten`](Self::is_rewritten)) it gives
    /// only the excluded ranges and the changing memories.
    pub fn has_index(&self) -> bool {
        self.opened.index.is_some()
    }

    /// Returns whether the dump has checksums of its blocks.
    pub fn has_checksums(&self) -> bool {
        self.opened.structure.header.as_ref().is_some_and(|header| header.block_log2 != 0)
    }

    /// Returns whether ranges of memories were excluded on purpose.
    pub fn is_partial(&self) -> bool {
        self.has_flag(PARTIAL)
    }

    /// Returns whether parts of the guest are missing because the format has no room for them.
    pub fn is_degraded(&self) -> bool {
        self.has_flag(DEGRADED)
    }

    fn has_flag(&self, flag: u32) -> bool {
        self.opened.structure.any_header().is_some_and(|header| header.flags & flag != 0)
    }

    /// Returns the name of the process. It is empty if a damaged dump has lost it.
    pub fn name(&self) -> &str {
        &self.opened.items.process
    }

    /// Returns the names of the modules. Like the other lists, this one ends after the first error.
    ///
    /// # Errors
    /// Yields an error if the dump cannot be read or has changed since it was opened.
    pub fn modules(&self) -> impl ExactSizeIterator<Item = Result<String>> {
        let places = &self.opened.items.modules;
        let mut listed = List::<item::Module>::new(self.source(), places);
        let bare = self.opened.items.bare_module;
        let names = (0..places.len()).map(move |_| match bare {
            Some((at, len)) => Ok(items::decode_bare_name(self.source(), at, len)?),
            None => listed.next().unwrap_or_else(|| Err(changed_error())),
        });
        UntilError::new(names)
    }

    /// Returns the name of a module.
    ///
    /// # Errors
    /// Returns an error if there is no such module ([`ErrorKind::Option`]), and the errors of
    /// [`modules`](Self::modules).
    pub fn module(&self, index: ModuleIndex) -> Result<String> {
        let places = &self.opened.items.modules;
        match self.opened.items.bare_module {
            Some((at, len)) if index.0 == 0 => Ok(items::decode_bare_name(self.source(), at, len)?),
            _ => {
                let name = List::<item::Module>::item(self.source(), places, index.0 as usize)?;
                name.ok_or_else(|| no_such("module", index.0, places.len()))
            }
        }
    }

    /// Returns the notes of the writer of the dump ([`CoreDump::notes`](crate::CoreDump::notes)).
    ///
    /// # Errors
    /// Yields the errors of [`modules`](Self::modules).
    pub fn notes(&self) -> impl ExactSizeIterator<Item = Result<String>> {
        List::<item::Note>::new(self.source(), &self.opened.items.notes)
    }

    /// Returns the instances. Their indices may refer to items that the dump does not list.
    ///
    /// # Errors
    /// Yields the errors of [`modules`](Self::modules), and [`ErrorKind::Unsupported`] if the index spaces of an
    /// instance are longer than any engine allows.
    pub fn instances(&self) -> impl ExactSizeIterator<Item = Result<Instance>> {
        List::<Instance>::new(self.source(), &self.opened.items.instances)
    }

    /// Returns an instance.
    ///
    /// # Errors
    /// Returns an error if there is no such instance ([`ErrorKind::Option`]), and the errors of
    /// [`instances`](Self::instances).
    pub fn instance(&self, index: InstanceIndex) -> Result<Instance> {
        let places = &self.opened.items.instances;
        let item = List::<Instance>::item(self.source(), places, index.0 as usize)?;
        item.ok_or_else(|| no_such("instance", index.0, places.len()))
    }

    /// Returns the threads.
    ///
    /// # Errors
    /// Yields the errors of [`modules`](Self::modules).
    pub fn threads(&self) -> impl ExactSizeIterator<Item = Result<ThreadView<'_>>> {
        let threads = self.opened.items.threads.iter();
        let decode = |at: &_| Ok(ThreadView::decode(self.source(), *at, self.frame_layout())?);
        UntilError::new(threads.map(decode))
    }

    /// Returns a thread by its index, counted from 0.
    ///
    /// # Errors
    /// Returns an error if there is no such thread ([`ErrorKind::Option`]), and the errors of
    /// [`threads`](Self::threads).
    ///
    /// ```
    /// use corestream::*;
    ///
    /// # let mut guest = CoreDump::new("guest.wasm");
    /// # guest.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&[7; 65_536])));
    /// # guest.add_global(Global::constant(7.into()));
    /// # guest.add_thread(Thread::new("main"));
    /// # let bytes = Dumper::new().plan(&guest)?.to_vec()?;
    /// let dump = CoreDumpFile::from_slice(&bytes)?;
    /// assert_eq!(dump.thread(0)?.name(), "main");
    /// assert_eq!(dump.global(GlobalIndex(0))?.value, GlobalValue::I32(7));
    /// assert_eq!(dump.memory(MemoryIndex(0))?.ty(), MemoryType::wasm32(1));
    ///
    /// let error = dump.thread(1).unwrap_err();
    /// assert_eq!(error.to_string(), "there is no thread 1; the dump has 1");
    /// # Ok::<(), Error>(())
    /// ```
    pub fn thread(&self, index: usize) -> Result<ThreadView<'_>> {
        let threads = &self.opened.items.threads;
        let at = threads.get(index).ok_or_else(|| no_such("thread", index, threads.len()))?;
        Ok(ThreadView::decode(self.source(), *at, self.frame_layout())?)
    }

    /// Returns the globals.
    ///
    /// # Errors
    /// Yields the errors of [`modules`](Self::modules).
    pub fn globals(&self) -> impl ExactSizeIterator<Item = Result<Global>> {
        List::<Global>::new(self.source(), &self.opened.items.globals)
    }

    /// Returns a global.
    ///
    /// # Errors
    /// Returns an error if there is no such global ([`ErrorKind::Option`]), and the errors of
    /// [`globals`](Self::globals).
    pub fn global(&self, index: GlobalIndex) -> Result<Global> {
        let places = &self.opened.items.globals;
        let item = List::<Global>::item(self.source(), places, index.0 as usize)?;
        item.ok_or_else(|| no_such("global", index.0, places.len()))
    }

    /// Returns the memories.
    pub fn memories(&self) -> impl ExactSizeIterator<Item = MemoryView<'_>> + Clone {
        let types = self.opened.structure.memories.iter();
        types.enumerate().map(|(index, ty)| MemoryView::new(self, index, ty))
    }

    /// Returns a memory.
    ///
    /// # Errors
    /// Returns an error if there is no such memory ([`ErrorKind::Option`]).
    pub fn memory(&self, index: MemoryIndex) -> Result<MemoryView<'_>> {
        let types = &self.opened.structure.memories;
        let ty = types.get(index.0 as usize);
        let ty = ty.ok_or_else(|| no_such("memory", index.0, types.len()))?;
        Ok(MemoryView::new(self, index.0 as usize, ty))
    }
}

impl fmt::Debug for CoreDumpFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoreDumpFile")
            .field("name", &self.name())
            .field("len", &self.len())
            .field("producer", &self.producer())
            .field("memories", &self.opened.structure.memories)
            .field("threads", &self.opened.items.threads.len())
            .finish_non_exhaustive()
    }
}

/// Returns the error of an item index that is past the end of a list.
pub(super) fn no_such(what: &str, index: impl fmt::Display, count: usize) -> Error {
    let message = format!("there is no {what} {index}; the dump has {count}");
    Error::new(ErrorKind::Option, message)
}

/// Returns the error of a source that has changed since the dump was opened.
fn changed_error() -> Error {
    Error::new(ErrorKind::Input, "the dump changed while it was read")
}
