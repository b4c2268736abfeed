//! A dump that is open: what is in it, and the bytes of its memories.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use super::contents::{Content, Contents};
use super::items::{self, InstanceView, ThreadView};
use super::layout::FrameLayout;
use super::open::{Kept, Opened};
use super::{types, wide};
use crate::arithmetic::at_most;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{DEGRADED, PARTIAL};
use crate::image::map::{self, Map};
use crate::model::{Global, GlobalIndex, InstanceIndex, MemoryIndex, MemoryType, ModuleIndex};
use crate::ranges::range_len;

/// A core dump that is open for reading, of this tool or of another writer. The frame layouts of Wasmtime,
/// wasm-coredump-builder, wasm-coredump-rewriter and WasmEdge are known ([`FrameLayout`]).
///
/// Nothing of the memories is copied, and with an index nothing of them is touched to open it. A dump
/// of another tool is walked once, by the headers of its segments. Its segments may overlap and come
/// in any order: the last one of the file wins. Custom sections that are not known are passed over.
///
/// What is checked when it is opened is everything but the contents of memories, their checksums, and whether an
/// index lists the segments that the sections hold: [`verify`](Self::verify) does that. So lists can be read without
/// an error. Indices in instances and frames may be those of things that the dump does not list.
///
/// # Files that change
/// The file must not change while it is open. The contents of one that is written to are a mixture of
/// old and new; the process that reads one that is made shorter past its new end is killed by SIGBUS.
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
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("guest.core");
/// # Dumper::new().plan(&guest)?.write_file(&path)?;
/// let dump = CoreDumpFile::open(&path)?;
/// assert_eq!(dump.name(), "guest.wasm");
/// for thread in dump.threads() {
///     for frame in thread.frames() {
///         assert_eq!((frame.function, frame.offset), (3, 17));
///     }
/// }
///
/// let mut buffer = [1; 5];
/// dump.read(MemoryIndex(0), 4099, &mut buffer)?;
/// assert_eq!(buffer, [7, 0, 0, 0, 0]);
/// # Ok::<(), Error>(())
/// ```
pub struct CoreDumpFile<'b> {
    source: Source<'b>,
    opened: Opened,
    damage: Option<Error>,
    stop: Option<Box<dyn Fn() -> bool + Send + Sync + 'b>>,
}

enum Source<'b> {
    Slice(&'b [u8]),
    Map(Map),
}

impl Source<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Slice(bytes) => bytes,
            Self::Map(map) => map.bytes(),
        }
    }
}

/// Who wrote a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Producer {
    /// This project: the dump has a section `corestream`.
    Corestream,
    /// Anybody else.
    Other,
}

/// What a dump holds of a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Coverage {
    /// Segments with bytes of it.
    pub segments: u64,
    /// Bytes in those, each address counted once.
    pub data_bytes: u64,
    /// Bytes of it that were left out, or are lost in a damaged dump: up to all 2^64.
    pub left_out_bytes: u128,
    /// It may have been written to while it was read: it may hold old and new bytes.
    pub changing: bool,
}

impl CoreDumpFile<'static> {
    /// Opens the dump at `path`, which is mapped.
    ///
    /// # Errors
    /// It can't be opened or mapped, or is no regular file ([`ErrorKind::Input`]); it is no core dump
    /// ([`ErrorKind::Format`]); it is damaged or cut off; it has something that is not known here or
    /// over a limit ([`ErrorKind::Unsupported`]).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::strict(Source::Map(mapped(path)?)).map_err(|error| error.at(path.display()))
    }

    /// Opens the readable parts of the dump at `path`; see [`salvage_slice`](CoreDumpFile::salvage_slice).
    ///
    /// # Errors
    /// Returns those of [`salvage_slice`](CoreDumpFile::salvage_slice), and what keeps the file from being mapped.
    pub fn salvage(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::lenient(Source::Map(mapped(path)?)).map_err(|error| error.at(path.display()))
    }
}

impl<'b> CoreDumpFile<'b> {
    /// Opens a dump in memory.
    ///
    /// # Errors
    /// Those of [`open`](CoreDumpFile::open), but for files.
    ///
    /// ```
    /// use corestream::{CoreDumpFile, ErrorKind};
    ///
    /// let error = CoreDumpFile::from_slice(b"\0asm\x01\0\0\0").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Format);
    /// assert_eq!(error.to_string(), "not a core dump: it has no section `core`");
    /// ```
    pub fn from_slice(bytes: &'b [u8]) -> Result<Self> {
        Self::strict(Source::Slice(bytes))
    }

    /// Opens the readable parts of a dump in memory that may be damaged or cut off. [`damage`](Self::damage)
    /// says what opening has found wrong.
    ///
    /// Where the index of a dump of this project's is sound, all that is known of its memories comes from there,
    /// wherever else the dump is damaged, and lists have what is in sections that are sound. The pages of a memory
    /// whose type is lost are as many as its segments need ([`declared_pages`](Self::declared_pages) says so), and the
    /// name of a process that is lost is empty. Bytes may be wrong all the same: [`verify`](Self::verify) says which.
    ///
    /// Without an index it is the sections that are sound, as long as their sizes can be believed, otherwise those
    /// before the first fault; where the file ends within a segment, the part of that which is there. What may be lost
    /// of memories counts as left out.
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
    /// assert_eq!(dump.damage().unwrap().kind(), ErrorKind::CutOff);
    /// assert_eq!(dump.threads().next().unwrap().name(), "main");
    /// assert!(dump.coverage(MemoryIndex(0))?.data_bytes > 800);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn salvage_slice(bytes: &'b [u8]) -> Result<Self> {
        Self::lenient(Source::Slice(bytes))
    }

    fn strict(source: Source<'b>) -> Result<Self> {
        let opened = Opened::strict(source.bytes())?;
        Ok(Self { source, opened, damage: None, stop: None })
    }

    fn lenient(source: Source<'b>) -> Result<Self> {
        let (opened, damage) = match Opened::strict(source.bytes()) {
            Ok(opened) => (opened, None),
            Err(fault) => {
                let (opened, fault) = Opened::lenient(source.bytes(), fault)?;
                (opened, Some(fault.into()))
            }
        };
        Ok(Self { source, opened, damage, stop: None })
    }

    /// Stops [`restore`](Self::restore) and [`write_memory`](Self::write_memory) when `stop` says so:
    /// they then fail with [`ErrorKind::Cancelled`], and an image leaves nothing behind. It is asked
    /// every few megabytes, and before an image gets its name.
    #[must_use]
    pub fn stop_if(mut self, stop: impl Fn() -> bool + Send + Sync + 'b) -> Self {
        self.stop = Some(Box::new(stop));
        self
    }

    /// # Errors
    /// The work is to stop.
    pub(super) fn check_stop(&self) -> Result<()> {
        match self.stop.as_ref().is_some_and(|stop| stop()) {
            true => Err(Error::cancelled(None)),
            false => Ok(()),
        }
    }

    /// The dump.
    pub(super) fn bytes(&self) -> &[u8] {
        self.source.bytes()
    }

    /// Its length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a dump is never empty")]
    pub fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// What is wrong with a dump that was opened nevertheless ([`salvage`](CoreDumpFile::salvage)).
    pub fn damage(&self) -> Option<&Error> {
        self.damage.as_ref()
    }

    /// Who wrote it.
    pub fn producer(&self) -> Producer {
        match self.opened.walk.own() {
            Some(_) => Producer::Corestream,
            None => Producer::Other,
        }
    }

    /// Whether another tool has moved or changed sections of a dump of this project's. Then its checksums
    /// are of other bytes; everything is read from the sections, and of the index only which ranges of
    /// memories were left out, and which memories were changing.
    pub fn is_rewritten(&self) -> bool {
        self.opened.walk.moved.is_some()
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
        self.opened.walk.layout
    }

    /// Returns the pages that the dump declares of a memory whose segments reach beyond them. Some writers
    /// declare none: such a memory is as long as its segments need. So is one whose type a damaged dump has lost
    /// ([`salvage`](CoreDumpFile::salvage)): 0 pages.
    pub fn declared_pages(&self, memory: MemoryIndex) -> Option<u64> {
        let grown = self.opened.walk.grown.iter();
        grown.copied().find_map(|(grown, pages)| (grown == memory.0).then_some(pages))
    }

    /// Whether it has an index that is used; of a dump that was rewritten ([`is_rewritten`](Self::is_rewritten))
    /// only for what was left out and what was changing.
    pub fn has_index(&self) -> bool {
        self.opened.index.is_some()
    }

    /// Whether it has checksums over its blocks.
    pub fn has_checksums(&self) -> bool {
        self.opened.walk.header.as_ref().is_some_and(|header| header.block_log2 != 0)
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
        self.opened.walk.own().is_some_and(|header| header.flags & flag != 0)
    }

    /// The name of the process; empty where a damaged dump has lost it.
    pub fn name(&self) -> &str {
        self.opened.items.process.map_or("", |at| items::name(self.bytes(), at))
    }

    /// The names of the modules.
    pub fn modules(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.opened.items.modules.iter().map(|at| self.module_name(*at))
    }

    /// The name of the module at an offset.
    fn module_name(&self, at: u64) -> &str {
        match self.opened.items.bare_module {
            Some(len) => items::bare_name(self.bytes(), at, len),
            None => items::name(self.bytes(), at),
        }
    }

    /// Returns what the writer of the dump wants its reader to know
    /// ([`CoreDump::notes`](crate::CoreDump::notes)).
    pub fn notes(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.opened.items.notes.iter().map(|at| items::name(self.bytes(), *at))
    }

    /// The name of a module.
    pub fn module(&self, index: ModuleIndex) -> Option<&str> {
        let at = self.opened.items.modules.get(index.0 as usize)?;
        Some(self.module_name(*at))
    }

    /// The instances.
    pub fn instances(&self) -> impl ExactSizeIterator<Item = InstanceView<'_>> + Clone {
        self.opened.items.instances.iter().map(|at| InstanceView::at(self.bytes(), *at))
    }

    /// An instance.
    pub fn instance(&self, index: InstanceIndex) -> Option<InstanceView<'_>> {
        let at = self.opened.items.instances.get(index.0 as usize)?;
        Some(InstanceView::at(self.bytes(), *at))
    }

    /// The threads.
    pub fn threads(&self) -> impl ExactSizeIterator<Item = ThreadView<'_>> + Clone {
        let layout = self.frame_layout();
        self.opened.items.threads.iter().map(move |at| ThreadView::at(self.bytes(), *at, layout))
    }

    /// A thread, by its position from 0.
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
    /// assert_eq!(dump.thread(0).unwrap().name(), "main");
    /// assert_eq!(dump.global(GlobalIndex(0)).unwrap().value, GlobalValue::I32(7));
    /// assert_eq!(dump.memory(MemoryIndex(0)), Some(MemoryType::wasm32(1)));
    /// assert!(dump.thread(1).is_none() && dump.memory(1.into()).is_none());
    /// # Ok::<(), Error>(())
    /// ```
    pub fn thread(&self, index: usize) -> Option<ThreadView<'_>> {
        let at = self.opened.items.threads.get(index)?;
        Some(ThreadView::at(self.bytes(), *at, self.frame_layout()))
    }

    /// The globals.
    pub fn globals(&self) -> &[Global] {
        &self.opened.items.globals
    }

    /// A global.
    pub fn global(&self, index: GlobalIndex) -> Option<Global> {
        self.globals().get(index.0 as usize).copied()
    }

    /// The types of the memories, with the sizes that they had.
    pub fn memories(&self) -> &[MemoryType] {
        &self.opened.walk.memories
    }

    /// The type of a memory, with the size that it had.
    pub fn memory(&self, index: MemoryIndex) -> Option<MemoryType> {
        self.memories().get(index.0 as usize).copied()
    }

    /// What the dump holds of a memory.
    ///
    /// # Errors
    /// There is no such memory.
    pub fn coverage(&self, memory: MemoryIndex) -> Result<Coverage> {
        let (index, _) = self.checked(memory)?;
        let Kept { segments, bytes } = self.opened.kept.get(index).copied().unwrap_or_default();
        let of_index = self.opened.index.as_ref().and_then(|all| all.memories.get(index));
        let left_out_bytes = self.left_out(memory)?.map(|range| range_len(&range)).sum();
        let changing = of_index.is_some_and(|memory| memory.changing);
        Ok(Coverage { segments, data_bytes: bytes, left_out_bytes, changing })
    }

    /// The addresses of a memory that were left out, or are lost in a damaged dump, in order.
    ///
    /// # Errors
    /// There is no such memory.
    pub fn left_out(
        &self,
        memory: MemoryIndex,
    ) -> Result<impl Iterator<Item = RangeInclusive<u64>> + Clone> {
        let contents = self.contents(memory)?;
        Ok(contents.filter_map(|content| match content {
            Content::LeftOut(range) => Some(range),
            _ => None,
        }))
    }

    /// What is in a memory, from address 0 to its end.
    ///
    /// # Errors
    /// There is no such memory.
    ///
    /// ```
    /// use corestream::read::Content;
    /// use corestream::*;
    ///
    /// # let mut bytes = vec![0; 65_536];
    /// # bytes[4096..4100].fill(7);
    /// # let mut guest = CoreDump::new("guest.wasm");
    /// # guest.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    /// # let bytes = Dumper::new().plan(&guest)?.to_vec()?;
    /// let dump = CoreDumpFile::from_slice(&bytes)?;
    /// let mut contents = dump.contents(MemoryIndex(0))?;
    /// assert_eq!(contents.next(), Some(Content::Zero(0..=4095)));
    /// assert_eq!(contents.next(), Some(Content::Data { address: 4096, bytes: &[7; 4] }));
    /// assert_eq!(contents.next(), Some(Content::Zero(4100..=65_535)));
    /// assert_eq!(contents.next(), None);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn contents(&self, memory: MemoryIndex) -> Result<Contents<'_>> {
        self.contents_from(memory, 0)
    }

    /// What is in a memory, from `address` to its end; nothing from an address behind it.
    ///
    /// # Errors
    /// There is no such memory.
    pub fn contents_from(&self, memory: MemoryIndex, address: u64) -> Result<Contents<'_>> {
        let (index, ty) = self.checked(memory)?;
        let last = types::last_address(ty);
        let rest = last.filter(|last| address <= *last).map(|last| address..=last);
        let segments = self.opened.table.from(memory.0, address);
        let of_index = self.opened.index.as_ref().and_then(|all| all.memories.get(index));
        let left_out = of_index.map_or(&[][..], |memory| memory.left_out.from(address));
        Ok(Contents::new(self.bytes(), segments, left_out, self.lost(memory), rest))
    }

    /// The address from which on what is in no segment of a memory is lost.
    fn lost(&self, memory: MemoryIndex) -> Option<u64> {
        self.opened.lost.and_then(|(of, from)| match of.cmp(&memory.0) {
            std::cmp::Ordering::Less => Some(0),
            std::cmp::Ordering::Equal => Some(from),
            std::cmp::Ordering::Greater => None,
        })
    }

    /// Bytes of a memory that are asked for are not there.
    fn missing(&self, memory: MemoryIndex, range: RangeInclusive<u64>) -> Error {
        let (first, last) = range.into_inner();
        let range = format!("{first:#x}..={last:#x} of memory {memory}");
        match (&self.damage, self.lost(memory)) {
            // What was left out on purpose is in the index, and where one is had nothing is lost.
            (Some(damage), Some(_)) => {
                Error::new(damage.kind(), format!("{range} is lost in a damaged dump: {damage}"))
            }
            _ => Error::new(ErrorKind::LeftOut, format!("{range} was left out")),
        }
    }

    /// Fills `buffer` from `address` of a memory on, with zeros where the dump says that it was zero.
    ///
    /// Takes time that is logarithmic in the number of segments, and linear in the bytes.
    ///
    /// # Errors
    /// There is no such memory, it ends before ([`ErrorKind::Option`]), or a byte was left out on purpose
    /// ([`ErrorKind::LeftOut`]) or is lost in a damaged dump (the kind of its [`damage`](Self::damage)).
    /// What is before that byte has been filled.
    pub fn read(&self, memory: MemoryIndex, address: u64, buffer: &mut [u8]) -> Result<()> {
        let size = self.checked(memory)?.1.size();
        if wide::sum(address, buffer.len() as u64) > size {
            let len = buffer.len();
            let message = format!(
                "{len} bytes at address {address:#x} are past the end of memory {memory} \
                 ({size:#x} bytes)"
            );
            return Err(Error::new(ErrorKind::Option, message));
        }
        let mut contents = self.contents_from(memory, address)?;
        let mut left = buffer;
        while !left.is_empty() {
            // The parts go on to the end of the memory, unless the file has changed.
            let part = contents.next().ok_or_else(|| changed(memory))?;
            let len = at_most(range_len(&part.addresses()), left.len());
            let (now, later) = left.split_at_mut(len);
            match part {
                Content::Data { bytes, .. } => {
                    now.copy_from_slice(bytes.get(..len).ok_or_else(|| changed(memory))?);
                }
                Content::Zero(_) => now.fill(0),
                Content::LeftOut(range) => return Err(self.missing(memory, range)),
            }
            left = later;
        }
        Ok(())
    }

    /// The position and the type of a memory that the dump has.
    pub(super) fn checked(&self, memory: MemoryIndex) -> Result<(usize, &MemoryType)> {
        let (index, all) = (memory.0 as usize, self.memories());
        all.get(index).map(|ty| (index, ty)).ok_or_else(|| {
            let message = format!("there is no memory {memory}, the dump has {}", all.len());
            Error::new(ErrorKind::Option, message)
        })
    }
}

impl fmt::Debug for CoreDumpFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoreDumpFile")
            .field("name", &self.name())
            .field("len", &self.len())
            .field("producer", &self.producer())
            .field("memories", &self.memories())
            .field("threads", &self.opened.items.threads.len())
            .finish_non_exhaustive()
    }
}

/// The file was written to since it was opened.
pub(super) fn changed(memory: MemoryIndex) -> Error {
    Error::new(ErrorKind::Input, format!("memory {memory}: the dump has changed while it was read"))
}

/// Maps a regular file.
pub(super) fn mapped(path: &Path) -> Result<Map> {
    let fail = |what: &str, source| {
        Error::io(ErrorKind::Input, format!("{}: {what}", path.display()), source)
    };
    let file = map::open(path).map_err(|source| fail("cannot open", source))?;
    let metadata = file.metadata().map_err(|source| fail("cannot read", source))?;
    if !metadata.is_file() {
        let message = format!("{}: not a regular file", path.display());
        return Err(Error::new(ErrorKind::Input, message));
    }
    Map::new(&file).map_err(|source| fail("cannot map", source))
}
