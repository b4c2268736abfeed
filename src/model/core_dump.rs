//! The description of a stopped guest, and the validation of its indices.

use super::index::{GlobalIndex, InstanceIndex, MemoryIndex, ModuleIndex};
use super::instance::{Instance, Module};
use super::memory::Memory;
use super::thread::Thread;
use super::time::UnixTime;
use super::values::{Global, GlobalValue};
use crate::arithmetic::sum;
use crate::error::{Error, Result};
use crate::image::MemoryImage;
use crate::limits;
use crate::ranges::AddressRanges;

/// The description of a stopped guest, the input of a dump.
///
/// It borrows the guest's memories. The dump format has no tables, so a description has none.
///
/// [`Display`](std::fmt::Display) prints everything except memory contents. [`Debug`](std::fmt::Debug) prints counts.
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
///     dump.add_instance(Instance::new(module).with_memories([memory]).with_globals([global]));
/// dump.add_thread(Thread::new("main").with_frames([
///     Frame::new(instance, 3, 17).with_locals([Value::I32(-1), Value::Missing]),
/// ]));
/// dump.validate()?;
/// assert!(dump.to_string().contains("0: guest.wasm function 3 at 0x11 (locals: i32:-1, missing)"));
/// # Ok::<(), Error>(())
/// ```
#[derive(Default)]
#[non_exhaustive]
pub struct CoreDump<'a> {
    /// The name of the process.
    pub name: String,
    /// The modules of the process.
    pub modules: Vec<Module>,
    /// The instances of the modules.
    pub instances: Vec<Instance>,
    /// The memories of all instances.
    pub memories: Vec<Memory<'a>>,
    /// The globals of all instances.
    pub globals: Vec<Global>,
    /// The threads of the process.
    pub threads: Vec<Thread>,
    /// Notes for the people who read the dump, one line each, such as which parts are missing and why.
    ///
    /// The plan adds notes of its own ([`Stats::extent_notes`](crate::Stats::extent_notes)). A dump has at most
    /// [`MAX_NOTES`](crate::limits::MAX_NOTES) notes, the first ones. Each is truncated to
    /// [`MAX_NOTE_BYTES`](crate::limits::MAX_NOTE_BYTES).
    ///
    /// ```
    /// use corestream::{CoreDump, CoreDumpFile, Dumper};
    ///
    /// let mut dump = CoreDump::new("guest.wasm");
    /// dump.notes.push("stopped by the time limit".into());
    /// let bytes = Dumper::new().plan(&dump)?.to_vec()?;
    /// let dump = CoreDumpFile::from_slice(&bytes)?;
    /// assert_eq!(dump.notes().next().unwrap()?, "stopped by the time limit");
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub notes: Vec<String>,
    /// The message of the trap that stopped the guest, or the host's reason for stopping it, such as a time limit.
    ///
    /// `None` if the guest was not stopped. An empty message means the same. A dump has the first
    /// [`MAX_TRAP_BYTES`](crate::limits::MAX_TRAP_BYTES) bytes.
    ///
    /// ```
    /// use corestream::{CoreDump, CoreDumpFile, Dumper, UnixTime};
    ///
    /// let mut dump = CoreDump::new("guest.wasm");
    /// dump.trap = Some("wasm trap: integer divide by zero".into());
    /// dump.captured_at = UnixTime::now();
    /// let bytes = Dumper::new().plan(&dump)?.to_vec()?;
    /// let read = CoreDumpFile::from_slice(&bytes)?;
    /// assert_eq!(read.trap(), dump.trap.as_deref());
    /// assert_eq!(read.captured_at(), dump.captured_at);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub trap: Option<String>,
    /// The time of the capture, or `None` if it is unknown.
    pub captured_at: Option<UnixTime>,
}

/// Appends an item and returns its index.
///
/// Returns `u32::MAX`, which means "unknown", if there are too many items for a 32-bit index. [`CoreDump::validate`]
/// rejects such a list.
fn push<T>(list: &mut Vec<T>, item: T) -> u32 {
    let index = u32::try_from(list.len()).unwrap_or(u32::MAX);
    list.push(item);
    index
}

/// Checks that every item of a list has a 32-bit index. The index `u32::MAX` means "unknown".
///
/// # Errors
/// Returns an error if the list is too long.
fn check_count<T>(list: &[T], what: &str) -> Result<()> {
    if u32::try_from(list.len()).is_ok() {
        return Ok(());
    }
    let count = list.len();
    Err(Error::model(format!("{count} {what} exceed the maximum of {}", u32::MAX)))
}

impl<'a> CoreDump<'a> {
    /// Returns an empty description of a process called `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Adds a module, given as a [`Module`] or by its name, and returns its index.
    ///
    /// ```
    /// use corestream::{CoreDump, Module, ModuleIndex};
    ///
    /// let mut dump = CoreDump::new("guest.wasm");
    /// assert_eq!(dump.add_module("guest.wasm"), ModuleIndex(0));
    /// assert_eq!(dump.add_module(Module::anonymous()), ModuleIndex(1));
    /// ```
    pub fn add_module(&mut self, module: impl Into<Module>) -> ModuleIndex {
        ModuleIndex(push(&mut self.modules, module.into()))
    }

    /// Adds an instance and returns its index.
    pub fn add_instance(&mut self, instance: Instance) -> InstanceIndex {
        InstanceIndex(push(&mut self.instances, instance))
    }

    /// Adds a memory and returns its index.
    pub fn add_memory(&mut self, memory: Memory<'a>) -> MemoryIndex {
        MemoryIndex(push(&mut self.memories, memory))
    }

    /// Adds a global and returns its index.
    pub fn add_global(&mut self, global: Global) -> GlobalIndex {
        GlobalIndex(push(&mut self.globals, global))
    }

    /// Adds a thread.
    pub fn add_thread(&mut self, thread: Thread) {
        self.threads.push(thread);
    }

    /// Replaces the image of each memory by the result of `map`, which gets the position of the memory.
    ///
    /// # Errors
    /// Returns the first error of `map`, with the memory.
    pub(crate) fn try_map_images<'b>(
        self,
        mut map: impl FnMut(usize, MemoryImage<'a>) -> Result<MemoryImage<'b>>,
    ) -> Result<CoreDump<'b>> {
        let memories = self.memories.into_iter().enumerate().map(|(i, memory)| {
            memory
                .try_map_image(|image| map(i, image))
                .map_err(|error| error.at(format_args!("memory {i}")))
        });
        Ok(CoreDump {
            memories: memories.collect::<Result<_>>()?,
            name: self.name,
            modules: self.modules,
            instances: self.instances,
            globals: self.globals,
            threads: self.threads,
            notes: self.notes,
            trap: self.trap,
            captured_at: self.captured_at,
        })
    }

    /// Checks that the description is consistent.
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Model`](crate::ErrorKind::Model) that names the first invalid item:
    /// - an index that is out of range,
    /// - a global without a value ([`GlobalValue::Missing`]),
    /// - an invalid memory ([`Memory::validate`]),
    /// - more than [`limits::MAX_EXCLUDED_RANGES`] excluded ranges.
    pub fn validate(&self) -> Result<()> {
        self.resolve().map(drop)
    }

    /// Validates the description and returns the excluded ranges of each memory.
    pub(crate) fn resolve(&self) -> Result<Vec<AddressRanges>> {
        check_count(&self.modules, "modules")?;
        check_count(&self.instances, "instances")?;
        check_count(&self.memories, "memories")?;
        check_count(&self.globals, "globals")?;
        let ranges = self.memories.iter().enumerate().map(|(i, memory)| {
            memory.checked_exclusions().map_err(|error| error.at(format_args!("memory {i}")))
        });
        let excluded = ranges.collect::<Result<Vec<_>>>()?;
        let count = sum(excluded.iter().map(AddressRanges::len))?;
        if count > limits::MAX_EXCLUDED_RANGES {
            let most = limits::MAX_EXCLUDED_RANGES;
            return Err(Error::model(format!(
                "{count} excluded ranges exceed the maximum of {most}; merge some of them"
            )));
        }
        for (i, global) in self.globals.iter().enumerate() {
            if let GlobalValue::Missing(ty) = global.value {
                let ty = ty.name();
                let message =
                    format!("global {i}: its value is unknown; give it a value of type {ty}");
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
        Ok(excluded)
    }
}

fn in_range(at: impl Fn() -> String, what: &str, index: Option<u32>, count: usize) -> Result<()> {
    match index {
        Some(index) if index as usize >= count => {
            let s = if count == 1 { "" } else { "s" };
            let there = match (what, count) {
                ("memory", 1) => "is 1 memory".to_string(),
                ("memory", n) => format!("are {n} memories"),
                (what, n) => format!("{} {n} {what}{s}", if n == 1 { "is" } else { "are" }),
            };
            let at = at();
            Err(Error::model(format!("{at}: {what} index {index} is out of range; there {there}")))
        }
        _ => Ok(()),
    }
}
