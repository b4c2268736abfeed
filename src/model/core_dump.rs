//! The stopped guest as a whole, and whether its parts fit together.

use super::index::{GlobalIndex, InstanceIndex, MemoryIndex, ModuleIndex};
use super::instance::{Instance, Module};
use super::memory::Memory;
use super::thread::Thread;
use super::time::UnixTime;
use super::values::{Global, GlobalValue};
use crate::arithmetic::sum;
use crate::error::{Error, Result};
use crate::limits;
use crate::ranges::AddressRanges;

/// A stopped guest: all that a core dump says, with its memories borrowed and not copied. The format has
/// no tables, so those of a guest are in no dump.
///
/// [`Display`](std::fmt::Display) prints it for people, [`Debug`](std::fmt::Debug) only counts what it holds.
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
    /// assert_eq!(dump.notes().next().unwrap()?, "stopped by the time limit");
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub notes: Vec<String>,
    /// Why the guest stopped: the message of its trap, or the reason why its host stopped it, such as a time limit. A guest
    /// that did not stop has none, and an empty message counts as none.
    ///
    /// A dump holds the first [`MAX_TRAP_BYTES`](crate::limits::MAX_TRAP_BYTES).
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
    /// When the guest was captured; `None` if it is not known.
    pub captured_at: Option<UnixTime>,
}

/// Adds an item and returns its index, or `u32::MAX` for every item that has none: [`CoreDump::validate`] refuses a
/// list with one.
fn push<T>(list: &mut Vec<T>, item: T) -> u32 {
    let index = u32::try_from(list.len()).unwrap_or(u32::MAX);
    list.push(item);
    index
}

/// # Errors
/// Returns an error if a list has items without an index: `u32::MAX` stands for an unknown one.
fn check_count<T>(list: &[T], what: &str) -> Result<()> {
    if u32::try_from(list.len()).is_ok() {
        return Ok(());
    }
    let count = list.len();
    Err(Error::model(format!("{count} {what} are more than the {} that have an index", u32::MAX)))
}

impl<'a> CoreDump<'a> {
    /// Returns a process of this name with nothing in it yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Adds a module, or one of this name, and returns its index.
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

    /// Checks that the description does not contradict itself.
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Model`](crate::ErrorKind::Model) for the first item that does: an index out of range, a global whose value is not known
    /// ([`GlobalValue::Missing`]), a shared memory without a maximum,
    /// more pages than the type can have, an image that is larger than its memory, a range to leave
    /// out that is past the end of its memory, over [`limits::MAX_EXCLUDED_RANGES`] of those.
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
                "{count} ranges of memories are left out, a dump can list {most}: join some"
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
            Err(Error::model(format!("{at}: {what} index {index} is out of range, there {there}")))
        }
        _ => Ok(()),
    }
}
