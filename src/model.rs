//! The stopped guest in the words of the format: process, modules, instances, memories, globals,
//! threads, frames and values. No I/O happens here.
//!
//! Source: the tool-conventions'
//! [Coredump format](https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md).

mod display;
mod left_out;
mod values;

use std::fmt;
use std::ops::{RangeBounds, RangeInclusive};

use left_out::Selection;
pub use values::{Global, GlobalValue, NumberType, RefType, Value};

use crate::error::{Error, Result};
use crate::image::MemoryImage;
use crate::limits;

macro_rules! index {
    ($(#[$doc:meta] $name:ident)*) => {$(
        #[$doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<u32> for $name {
            fn from(index: u32) -> Self {
                Self(index)
            }
        }

        impl From<$name> for u32 {
            fn from(index: $name) -> Self {
                index.0
            }
        }
    )*};
}

index! {
    /// The position of a module in a [`CoreDump`], from 0.
    ModuleIndex
    /// The position of an instance in a [`CoreDump`], from 0.
    InstanceIndex
    /// The position of a memory in a [`CoreDump`], from 0.
    MemoryIndex
    /// The position of a global in a [`CoreDump`], from 0.
    GlobalIndex
}

/// A module that took part in the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name; `None` is written as `<anonymous-module-N>`, N being its index.
    pub name: Option<String>,
}

impl Module {
    /// The name as it is written: the module's own, or `<anonymous-module-N>`.
    pub fn name_or_anonymous(&self, index: usize) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => format!("<anonymous-module-{index}>"),
        }
    }
}

/// An instance of a module. What is `None` is not known, and `u32::MAX` in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Instance {
    /// The module that it is an instance of.
    pub module: Option<ModuleIndex>,
    /// Its memories in the order of its index space: shared and imported ones count.
    pub memories: Vec<Option<MemoryIndex>>,
    /// Its globals in the order of its index space.
    pub globals: Vec<Option<GlobalIndex>>,
}

impl Instance {
    /// An instance of `module` without memories and globals.
    pub fn of(module: ModuleIndex) -> Self {
        Self { module: Some(module), ..Self::default() }
    }

    /// The same with these memories, in the order of the instance's index space.
    ///
    /// Takes indices that are known, `[first, second]`, or may not be, `[Some(first), None]`.
    pub fn with_memories<I>(mut self, memories: impl IntoIterator<Item = I>) -> Self
    where
        I: Into<Option<MemoryIndex>>,
    {
        self.memories = memories.into_iter().map(Into::into).collect();
        self
    }

    /// The same with these globals, in the order of the instance's index space.
    pub fn with_globals<I>(mut self, globals: impl IntoIterator<Item = I>) -> Self
    where
        I: Into<Option<GlobalIndex>>,
    {
        self.globals = globals.into_iter().map(Into::into).collect();
        self
    }
}

/// The type of a memory at the time of the dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct MemoryType {
    /// The size that it has now, in pages.
    pub minimum: u64,
    /// The size that it may grow to, in pages.
    pub maximum: Option<u64>,
    /// Whether its addresses have 64 bits.
    pub memory64: bool,
    /// Whether threads share it; then it needs a maximum.
    pub shared: bool,
    /// The size of a page in bytes: 65,536, or 1 (custom-page-sizes proposal).
    pub page_size: u32,
}

impl MemoryType {
    /// A memory of `pages` pages of 64 KiB with 32-bit addresses.
    pub fn wasm32(pages: u64) -> Self {
        Self { minimum: pages, maximum: None, memory64: false, shared: false, page_size: 65_536 }
    }

    /// A memory of `pages` pages of 64 KiB with 64-bit addresses.
    pub fn wasm64(pages: u64) -> Self {
        Self { memory64: true, ..Self::wasm32(pages) }
    }

    /// The same with a maximum, in pages.
    pub fn with_maximum(self, pages: u64) -> Self {
        Self { maximum: Some(pages), ..self }
    }

    /// The same, shared between threads.
    pub fn with_shared(self) -> Self {
        Self { shared: true, ..self }
    }

    /// The same with pages of `bytes` bytes: 1 or 65,536.
    pub fn with_page_size(self, bytes: u32) -> Self {
        Self { page_size: bytes, ..self }
    }

    /// The size in bytes, `None` if it has more than 64 bits.
    pub fn byte_len(&self) -> Option<u64> {
        self.minimum.checked_mul(u64::from(self.page_size))
    }

    /// What contradicts itself in this type with an image of `image_len` bytes.
    pub(crate) fn check(&self, image_len: u64) -> Result<(), String> {
        if !matches!(self.page_size, 1 | 65_536) {
            return Err(format!("a page has 1 or 65536 bytes, not {}", self.page_size));
        }
        let most = limits::max_pages(self.memory64, self.page_size);
        let bits = if self.memory64 { 64 } else { 32 };
        if self.minimum > most {
            let pages = self.minimum;
            return Err(format!("{pages} pages are more than the {most} of a {bits}-bit memory"));
        }
        match self.maximum {
            Some(maximum) if maximum > most => {
                return Err(format!(
                    "a maximum of {maximum} pages is more than the {most} of a {bits}-bit memory"
                ));
            }
            Some(maximum) if maximum < self.minimum => {
                let pages = self.minimum;
                return Err(format!("{pages} pages are more than its maximum of {maximum}"));
            }
            None if self.shared => return Err("a shared memory needs a maximum".into()),
            _ => {}
        }
        // Only a 64-bit memory of all 2^48 pages overflows, and no image is larger than that.
        let bytes = self.byte_len().unwrap_or(u64::MAX);
        if image_len > bytes {
            let pages = image_len.div_ceil(u64::from(self.page_size));
            return Err(format!(
                "its image of {image_len} bytes is larger than its {bytes} bytes, it needs a \
                 minimum of {pages} pages"
            ));
        }
        Ok(())
    }
}

/// A memory: its type, and the image of its contents.
///
/// An image that is shorter than the memory is followed by zeros.
#[derive(Debug)]
#[must_use]
pub struct Memory<'a> {
    /// The type, with the present size.
    pub ty: MemoryType,
    /// The contents.
    pub image: MemoryImage<'a>,
    /// What of it is dumped.
    selection: Selection,
}

impl<'a> Memory<'a> {
    /// A memory of this type with these contents.
    pub fn new(ty: MemoryType, image: MemoryImage<'a>) -> Self {
        Self { ty, image, selection: Selection::default() }
    }

    /// The same without a range of addresses, in bytes: what stands there is neither read nor dumped, and
    /// the dump says that it was left out on purpose. Several add up; they may come in any order and
    /// overlap.
    ///
    /// ```
    /// use corestream::*;
    ///
    /// let mut bytes = vec![7; 65_536];
    /// bytes[1000..1032].copy_from_slice(b"a key that nobody else may have.");
    /// let image = MemoryImage::from_slice(&bytes);
    /// let memory = Memory::new(MemoryType::wasm32(1), image).without(1000..1032);
    /// assert_eq!(memory.left_out()?, [1000..=1031]);
    ///
    /// let mut dump = CoreDump::new("guest.wasm");
    /// dump.add_memory(memory);
    /// let bytes = Dumper::new().plan(&dump)?.to_vec()?;
    /// let dump = CoreDumpFile::from_slice(&bytes)?;
    /// assert!(dump.is_partial());
    /// let error = dump.read(MemoryIndex(0), 1000, &mut [0; 32]).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::LeftOut);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn without(mut self, range: impl RangeBounds<u64>) -> Self {
        self.leave_out(range);
        self
    }

    /// The same without all but a range of addresses, in bytes. Several add up, and of what they are
    /// [`without`](Self::without) leaves out still more.
    ///
    /// ```
    /// # use corestream::*;
    /// # let bytes = vec![7; 65_536];
    /// # let image = MemoryImage::from_slice(&bytes);
    /// let memory = Memory::new(MemoryType::wasm32(1), image).only(..4096).without(16..32);
    /// assert_eq!(memory.left_out()?, [16..=31, 4096..=65_535]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn only(mut self, range: impl RangeBounds<u64>) -> Self {
        self.keep_only(range);
        self
    }

    /// Leaves a range out, as [`without`](Self::without) does.
    pub fn leave_out(&mut self, range: impl RangeBounds<u64>) {
        self.selection.leave_out(&range);
    }

    /// Leaves out all but a range and those of other such calls, as [`only`](Self::only) does.
    pub fn keep_only(&mut self, range: impl RangeBounds<u64>) {
        self.selection.keep_only(&range);
    }

    /// The addresses that are left out on purpose: in order, and no range touches another.
    ///
    /// # Errors
    /// A range is empty, or past the end of the memory.
    pub fn left_out(&self) -> Result<Vec<RangeInclusive<u64>>> {
        self.selection.left_out(&self.ty).map_err(Error::model)
    }

    /// Checks that type, image, and what is left out do not contradict each other.
    ///
    /// # Errors
    /// A shared memory without a maximum, more pages than the type can have, a page that has
    /// neither 1 nor 65,536 bytes, an image that is larger than the memory, a range to leave out or to
    /// keep that is empty or past the end of the memory.
    pub fn validate(&self) -> Result<()> {
        self.checked_left_out().map(drop)
    }

    /// Does so, and gives what is left out.
    fn checked_left_out(&self) -> Result<Vec<RangeInclusive<u64>>> {
        self.check_type()?;
        self.left_out()
    }

    fn check_type(&self) -> Result<()> {
        self.ty.check(self.image.len()).map_err(|why| {
            let too_large = !self.ty.memory64 && self.ty.byte_len() > Some(limits::MEMORY32_BYTES);
            let way_out = if too_large { ", it must be a memory64" } else { "" };
            Error::model(why + way_out)
        })
    }
}

/// An activation of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Frame {
    /// The instance whose function it is, if known.
    pub instance: Option<InstanceIndex>,
    /// The index of the function in its module's index space, imported functions included.
    pub function: u32,
    /// Bytes from the start of the function's body, after its size field; 0 if unknown.
    pub offset: u32,
    /// Parameters and locals; empty if not known.
    pub locals: Vec<Value>,
    /// The operand stack, its bottom first; empty if not known.
    pub stack: Vec<Value>,
}

impl Frame {
    /// A frame of function index `function` of `instance` at code offset `offset`.
    pub fn new(instance: impl Into<Option<InstanceIndex>>, function: u32, offset: u32) -> Self {
        let instance = instance.into();
        Self { instance, function, offset, locals: Vec::new(), stack: Vec::new() }
    }

    /// The same with these locals.
    pub fn with_locals(mut self, locals: impl IntoIterator<Item = Value>) -> Self {
        self.locals = locals.into_iter().collect();
        self
    }

    /// The same with this operand stack, its bottom first.
    pub fn with_stack(mut self, stack: impl IntoIterator<Item = Value>) -> Self {
        self.stack = stack.into_iter().collect();
        self
    }
}

/// A thread of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// Its frames, from youngest to oldest.
    pub frames: Vec<Frame>,
}

impl Thread {
    /// A thread without frames.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), frames: Vec::new() }
    }

    /// The same with these frames, from youngest to oldest.
    pub fn with_frames(mut self, frames: impl IntoIterator<Item = Frame>) -> Self {
        self.frames = frames.into_iter().collect();
        self
    }
}

/// A stopped guest: all that a core dump says, with its memories borrowed and not copied. The format has
/// no tables, so those of a guest are in no dump.
///
/// [`fmt::Display`] prints it for people, [`fmt::Debug`] only counts what it holds.
///
/// ```
/// use corestream::*;
///
/// let bytes = vec![7; 65_536];
/// let mut dump = CoreDump::new("guest.wasm");
/// let memory = dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
/// let global = dump.add_global(Global::mutable(GlobalValue::I32(1_048_576)));
/// let module = dump.add_module("guest.wasm");
/// let instance =
///     dump.add_instance(Instance::of(module).with_memories([memory]).with_globals([global]));
/// dump.add_thread(Thread::new("main").with_frames([
///     Frame::new(instance, 3, 17).with_locals([Value::I32(-1), Value::Missing]),
/// ]));
/// dump.validate()?;
/// assert!(dump.to_string().contains("0: guest.wasm function 3 at 0x11 (locals: i32:-1, missing)"));
/// # Ok::<(), Error>(())
/// ```
pub struct CoreDump<'a> {
    /// The name of the process.
    pub name: String,
    /// Its modules.
    pub modules: Vec<Module>,
    /// Its instances.
    pub instances: Vec<Instance>,
    /// Its memories.
    pub memories: Vec<Memory<'a>>,
    /// Its globals.
    pub globals: Vec<Global>,
    /// Its threads.
    pub threads: Vec<Thread>,
    /// What a reader of the dump should know, a line each: what is missing and why, or how it was found.
    ///
    /// A plan adds its own ([`Stats::extent_notes`](crate::Stats::extent_notes)). A dump holds the first
    /// [`MAX_NOTES`](crate::limits::MAX_NOTES), each cut to
    /// [`MAX_NOTE_BYTES`](crate::limits::MAX_NOTE_BYTES).
    ///
    /// ```
    /// use corestream::{CoreDump, CoreDumpFile, Dumper};
    ///
    /// let mut dump = CoreDump::new("guest.wasm");
    /// dump.notes.push("stopped by the time limit".into());
    /// let bytes = Dumper::new().plan(&dump)?.to_vec()?;
    /// let dump = CoreDumpFile::from_slice(&bytes)?;
    /// assert_eq!(dump.notes().collect::<Vec<_>>(), ["stopped by the time limit"]);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub notes: Vec<String>,
}

/// Adds an item and gives its index back. More than 2^32 items do not fit into a process.
fn push<T>(list: &mut Vec<T>, item: T) -> u32 {
    let index = u32::try_from(list.len()).unwrap_or(u32::MAX);
    list.push(item);
    index
}

impl<'a> CoreDump<'a> {
    /// A process of this name with nothing in it yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            modules: Vec::new(),
            instances: Vec::new(),
            memories: Vec::new(),
            globals: Vec::new(),
            threads: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a module of this name.
    pub fn add_module(&mut self, name: impl Into<String>) -> ModuleIndex {
        ModuleIndex(push(&mut self.modules, Module { name: Some(name.into()) }))
    }

    /// Adds a module that has no name.
    pub fn add_anonymous_module(&mut self) -> ModuleIndex {
        ModuleIndex(push(&mut self.modules, Module { name: None }))
    }

    /// Adds an instance.
    pub fn add_instance(&mut self, instance: Instance) -> InstanceIndex {
        InstanceIndex(push(&mut self.instances, instance))
    }

    /// Adds a memory.
    pub fn add_memory(&mut self, memory: Memory<'a>) -> MemoryIndex {
        MemoryIndex(push(&mut self.memories, memory))
    }

    /// Adds a global.
    pub fn add_global(&mut self, global: Global) -> GlobalIndex {
        GlobalIndex(push(&mut self.globals, global))
    }

    /// Adds a thread.
    pub fn add_thread(&mut self, thread: Thread) {
        self.threads.push(thread);
    }

    /// Checks that the description does not contradict itself.
    ///
    /// # Errors
    /// The first item that does: an index out of range, a global whose value is not known
    /// ([`GlobalValue::Missing`]), a shared memory without a maximum,
    /// more pages than the type can have, an image that is larger than its memory, a range to leave
    /// out that is past the end of its memory, over [`limits::MAX_LEFT_OUT_RANGES`] of those.
    pub fn validate(&self) -> Result<()> {
        let mut left_out = 0_usize;
        for (i, memory) in self.memories.iter().enumerate() {
            let ranges = memory.checked_left_out();
            let ranges = ranges.map_err(|error| error.at(format_args!("memory {i}")))?;
            left_out = left_out.saturating_add(ranges.len());
        }
        if left_out > limits::MAX_LEFT_OUT_RANGES {
            let most = limits::MAX_LEFT_OUT_RANGES;
            return Err(Error::model(format!(
                "{left_out} ranges of memories are left out, a dump can list {most}: join some"
            )));
        }
        for (i, global) in self.globals.iter().enumerate() {
            if let GlobalValue::Missing(ty) = global.value {
                let ty = ty.name();
                let message =
                    format!("global {i}: its value is not known, give it one of type {ty}");
                return Err(Error::model(message));
            }
        }
        for (i, instance) in self.instances.iter().enumerate() {
            let at = || format!("instance {i}");
            in_range(at, "module", instance.module.map(|x| x.0), self.modules.len())?;
            for memory in &instance.memories {
                in_range(at, "memory", memory.map(|x| x.0), self.memories.len())?;
            }
            for global in &instance.globals {
                in_range(at, "global", global.map(|x| x.0), self.globals.len())?;
            }
        }
        for (t, thread) in self.threads.iter().enumerate() {
            for (f, frame) in thread.frames.iter().enumerate() {
                let at = || format!("thread {t}, frame {f}");
                let instance = frame.instance.map(|x| x.0);
                in_range(at, "instance", instance, self.instances.len())?;
            }
        }
        Ok(())
    }
}

/// Every index here fits: only 64-bit targets are supported.
fn usize_of(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn in_range(at: impl Fn() -> String, what: &str, index: Option<u32>, count: usize) -> Result<()> {
    match index {
        Some(index) if usize_of(index) >= count => {
            let s = if count == 1 { "" } else { "s" };
            let there = match (what, count) {
                ("memory", 1) => "is 1 memory".to_string(),
                ("memory", n) => format!("are {n} memories"),
                (what, n) => format!("{} {n} {what}{s}", if n == 1 { "is" } else { "are" }),
            };
            let at = at();
            Err(Error::model(format!("{at}: {what} index {index} is out of range, there {there}")))
        }
        _ => Ok(()),
    }
}
