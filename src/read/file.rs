//! A dump that is open: what is in it.

use std::fmt;
use std::path::Path;

use super::item;
use super::items::{self, List, ThreadView, UntilError};
use super::layout::FrameLayout;
use super::memory::MemoryView;
use super::open::Opened;
use super::open_options::OpenOptions;
use super::read_at::ReadAt;
use super::source::Source;
use crate::control::{Control, Stage};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{DEGRADED, PARTIAL};
use crate::model::{Global, GlobalIndex, Instance, InstanceIndex, MemoryIndex, ModuleIndex};

/// A core dump that is open for reading, of this tool or of another writer. The frame layouts of Wasmtime,
/// wasm-coredump-builder, wasm-coredump-rewriter and WasmEdge are known ([`FrameLayout`]).
///
/// With an index nothing of the memories is touched to open a dump. Of a dump of another tool the headers of all
/// segments are read once. Its segments may overlap and come
/// in any order: the last one of the file wins. Custom sections that are not known are passed over.
///
/// What is checked when it is opened is everything but the contents of memories, their checksums, and whether an
/// index lists the segments that the sections hold: [`verify`](Self::verify) does that. Indices in instances and frames
/// may be those of things that the dump does not list.
///
/// # Sources
/// A dump can be in any source of bytes ([`ReadAt`]): a slice, a file, which is read, a file that an unsafe constructor
/// has mapped ([`MappedFile`](super::MappedFile)), or one of your own. Names, frames and the contents of memories are read
/// when they are asked for, and what is kept of a dump owns its bytes: at most [`MAX_METADATA_BYTES`](crate::limits::MAX_METADATA_BYTES),
/// whatever is in it.
///
/// The source should not change while the dump is open. If it does, what is read is a mixture of old and new bytes, or an
/// error.
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
    pub(super) opened: Opened,
    damage: Option<Error>,
    /// How many threads work on it; 0 stands for the number of cores.
    pub(super) threads: usize,
    /// Who watches and stops the work on it.
    pub(super) control: Control,
}

/// Who wrote a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Producer {
    /// This project: the dump has a section `corestream`.
    Corestream,
    /// Anybody else.
    Other,
}

impl CoreDumpFile<'static> {
    /// Opens the dump at `path`, which is read and not mapped.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is no regular file ([`ErrorKind::Input`]), if it is no core dump
    /// ([`ErrorKind::Format`]), if it is damaged or cut off ([`ErrorKind::Damaged`], [`ErrorKind::Truncated`]), if it has
    /// something that is not known here or is over a limit ([`ErrorKind::Unsupported`]), or if memory for a table cannot be
    /// allocated ([`ErrorKind::OutOfMemory`]).
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
    /// Returns the errors of [`open`](CoreDumpFile::open), but for those of files.
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
    /// Returns the errors of [`open`](CoreDumpFile::open); a source that cannot be read is one of [`ErrorKind::Input`].
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

    /// Opens the readable parts of a dump in memory that may be damaged or cut off. [`damage`](Self::damage)
    /// says what opening has found wrong.
    ///
    /// Where the index of a dump of this project's is sound, all that is known of its memories comes from there,
    /// wherever else the dump is damaged, and lists have what is in sections that are sound. The pages of a memory
    /// whose type is lost are as many as its segments need ([`MemoryView::declared_pages`] says so), and the
    /// name of a process that is lost is empty. Bytes may be wrong all the same: [`verify`](Self::verify) says which.
    ///
    /// Without an index it is the sections that are sound, as long as their sizes can be believed, otherwise those
    /// before the first fault; where the file ends within a segment, the part of that which is there. What may be lost
    /// of memories counts as lost.
    ///
    /// # Errors
    /// There is nothing of a core dump: neither a sound index, nor a section `core`, nor a section `corestream` behind a
    /// damaged first section ([`ErrorKind::Format`], or what that section fails with).
    ///
    /// ```
    /// use corestream::*;
    ///
    /// # let bytes = vec![7; 65_536];
    /// # let mut guest = CoreDump::new("guest.wasm");
    /// # guest.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    /// # guest.add_thread(Thread::new("main"));
    /// # let whole = Dumper::new().plan(&guest)?.to_vec()?;
    /// let cut = &whole[..1000];
    /// assert!(CoreDumpFile::from_slice(cut).is_err());
    /// let dump = CoreDumpFile::salvage_slice(cut)?;
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
        let all = Source::new(&*source)?;
        let len = all.len();
        let meter = control.begin(Stage::Open, len);
        let (opened, damage) = match Opened::strict(all, &control, &meter) {
            Ok(opened) => (opened, None),
            Err(fault) if salvage && fault.is_of_dump() => {
                let (opened, fault) = Opened::lenient(all, fault, &control)?;
                (opened, Some(fault.into()))
            }
            Err(fault) => return Err(fault.into()),
        };
        meter.finish();
        Ok(Self { source, len, opened, damage, threads, control })
    }

    /// The bytes of the dump.
    pub(super) fn source(&self) -> Source<'_> {
        Source::with_len(&*self.source, self.len)
    }

    /// Returns the length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a dump is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns what is wrong with a dump that was opened nevertheless ([`salvage`](CoreDumpFile::salvage)).
    pub fn damage(&self) -> Option<&Error> {
        self.damage.as_ref()
    }

    /// Who wrote it.
    pub fn producer(&self) -> Producer {
        match self.opened.structure.any_header() {
            Some(_) => Producer::Corestream,
            None => Producer::Other,
        }
    }

    /// Whether another tool has moved or changed sections of a dump of this project's. Then its checksums
    /// are of other bytes; everything is read from the sections, and of the index only which ranges of
    /// memories were left out, and which memories were changing.
    pub fn is_rewritten(&self) -> bool {
        self.opened.structure.moved_header.is_some()
    }

    /// Returns how the frames are laid out, which tells what wrote the dump. If that can't be told, threads
    /// have no frames.
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

    /// Whether it has an index that is used; of a dump that was rewritten ([`is_rewritten`](Self::is_rewritten))
    /// only for what was left out and what was changing.
    pub fn has_index(&self) -> bool {
        self.opened.index.is_some()
    }

    /// Whether it has checksums over its blocks.
    pub fn has_checksums(&self) -> bool {
        self.opened.structure.header.as_ref().is_some_and(|header| header.block_log2 != 0)
    }

    /// Whether ranges of memories were left out on purpose.
    pub fn is_partial(&self) -> bool {
        self.flag(PARTIAL)
    }

    /// Whether parts of the guest were left out because the format has no room for them.
    pub fn is_degraded(&self) -> bool {
        self.flag(DEGRADED)
    }

    fn flag(&self, flag: u32) -> bool {
        self.opened.structure.any_header().is_some_and(|header| header.flags & flag != 0)
    }

    /// Returns the name of the process; it is empty where a damaged dump has lost it.
    pub fn name(&self) -> &str {
        &self.opened.items.process
    }

    /// Returns the names of the modules. The first error ends them, as in the other lists.
    ///
    /// # Errors
    /// An item is an error if the dump cannot be read or has changed since it was opened.
    pub fn modules(&self) -> impl ExactSizeIterator<Item = Result<String>> {
        let places = &self.opened.items.modules;
        let mut listed = List::<item::Module>::new(self.source(), places);
        let bare = self.opened.items.bare_module;
        let names = (0..places.len()).map(move |_| match bare {
            Some((at, len)) => Ok(items::decode_bare_name(self.source(), at, len)?),
            None => listed.next().unwrap_or_else(|| Err(changed())),
        });
        UntilError::new(names)
    }

    /// Returns the name of a module.
    ///
    /// # Errors
    /// Returns an error if there is no such module ([`ErrorKind::Option`]), and the errors of [`modules`](Self::modules).
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

    /// Returns what the writer of the dump wants its reader to know
    /// ([`CoreDump::notes`](crate::CoreDump::notes)).
    ///
    /// # Errors
    /// An item is an error as in [`modules`](Self::modules).
    pub fn notes(&self) -> impl ExactSizeIterator<Item = Result<String>> {
        List::<item::Note>::new(self.source(), &self.opened.items.notes)
    }

    /// Returns the instances. An index in one may be that of something that the dump does not list.
    ///
    /// # Errors
    /// An item is an error as in [`modules`](Self::modules), and if its index spaces are longer than those of any engine
    /// ([`ErrorKind::Unsupported`]).
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
    /// An item is an error as in [`modules`](Self::modules).
    pub fn threads(&self) -> impl ExactSizeIterator<Item = Result<ThreadView<'_>>> {
        let threads = self.opened.items.threads.iter();
        let decode = |at: &_| Ok(ThreadView::decode(self.source(), *at, self.frame_layout())?);
        UntilError::new(threads.map(decode))
    }

    /// Returns a thread, by its position from 0.
    ///
    /// # Errors
    /// Returns an error if there is no such thread ([`ErrorKind::Option`]), and the errors of [`threads`](Self::threads).
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
    /// assert_eq!(error.to_string(), "there is no thread 1, the dump has 1");
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
    /// An item is an error as in [`modules`](Self::modules).
    pub fn globals(&self) -> impl ExactSizeIterator<Item = Result<Global>> {
        List::<Global>::new(self.source(), &self.opened.items.globals)
    }

    /// Returns a global.
    ///
    /// # Errors
    /// Returns an error if there is no such global ([`ErrorKind::Option`]), and the errors of [`globals`](Self::globals).
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

pub(super) fn no_such(what: &str, index: impl fmt::Display, count: usize) -> Error {
    let message = format!("there is no {what} {index}, the dump has {count}");
    Error::new(ErrorKind::Option, message)
}

/// The source has changed since the dump was opened.
fn changed() -> Error {
    Error::new(ErrorKind::Input, "the dump has changed while it was read")
}
