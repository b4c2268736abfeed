//! The threads and frames of the dump, and the instances in the order of their ids.
//!
//! Ids are those of instances, in the order of the dump, but the instance of the chosen thread's youngest frame has id
//! 0, or that of its first caller with a memory.

use std::collections::{HashMap, HashSet};

use corestream::read::ThreadView;
use corestream::{CoreDumpFile, ErrorKind, Frame, InstanceIndex, MemoryIndex, ModuleIndex, Result};

use super::limits::{MAX_ALL_FRAMES, MAX_FRAMES, MAX_INSTANCES, MAX_NAME_CHARS, MAX_THREADS};
use super::memory_map::UNKNOWN_ID;
use super::target::Options;

/// An instance with an id.
#[derive(Debug)]
pub(crate) struct Slot {
    /// `None` for frames whose instance is not known in a dump with one module.
    pub(crate) instance: Option<InstanceIndex>,
    pub(crate) module: Option<ModuleIndex>,
    pub(crate) memory: Option<MemoryIndex>,
    pub(crate) id: u32,
}

/// A frame without its values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    pub(crate) slot: Option<usize>,
    pub(crate) function: u32,
    pub(crate) offset: u32,
}

/// A thread of the dump before its program counters are known.
pub(crate) struct Stack {
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) sites: Vec<Site>,
    /// The number of frames in the dump.
    pub(crate) all: usize,
    /// Whether a frame has values.
    pub(crate) has_values: bool,
}

/// Returns the value, or `None` if the dump does not have it.
///
/// # Errors
/// Returns an error that does not concern the dump's contents, such as one of its source.
pub(crate) fn known<T>(result: Result<T>) -> Result<Option<T>> {
    use ErrorKind::{Damaged, Excluded, Format, Option, Truncated, Unsupported};

    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.kind() {
            Format | Damaged | Truncated | Unsupported | Excluded | Option => Ok(None),
            _ => Err(error),
        },
    }
}

/// Returns the index of the thread whose values are served, or `None` if there are no threads.
pub(crate) fn choose_thread(dump: &CoreDumpFile<'_>, options: &Options) -> Result<Option<usize>> {
    if let Some(index) = options.thread {
        dump.thread(index)?;
        return Ok(Some(index));
    }
    for (index, thread) in dump.threads().enumerate() {
        let Some(thread) = known(thread)? else { break };
        if thread.frames().len() > 0 {
            return Ok(Some(index));
        }
    }
    Ok((dump.threads().len() > 0).then_some(0))
}

pub(crate) fn youngest_frame(
    dump: &CoreDumpFile<'_>,
    chosen: Option<usize>,
) -> Result<Option<Frame>> {
    let Some(thread) = chosen.map(|chosen| dump.thread(chosen)) else { return Ok(None) };
    let Some(thread) = known(thread)? else { return Ok(None) };
    let frame = thread.frames().next().map(known).transpose()?;
    Ok(frame.flatten())
}

/// Returns the key of the instance of the youngest frame whose instance has a memory.
///
/// An adapter between two modules can trap, and has no memory. LLDB reads the pointers of all frames in the memory of
/// the instance with id 0, so the first caller with a memory determines that instance.
pub(crate) fn first_with_memory(
    dump: &CoreDumpFile<'_>,
    chosen: Option<usize>,
) -> Result<Option<Option<InstanceIndex>>> {
    let Some(thread) = chosen.map(|chosen| dump.thread(chosen)) else { return Ok(None) };
    let Some(thread) = known(thread)? else { return Ok(None) };
    let mut without = HashSet::new();
    for frame in thread.frames().take(MAX_FRAMES) {
        let Some(frame) = known(frame)? else { break };
        let Some(key) = slot_key(dump, &frame) else { continue };
        let Some(instance) = key else { return Ok(Some(key)) };
        if !without.contains(&instance) {
            let found = known(dump.instance(instance))?;
            if found.is_some_and(|found| matches!(found.memories.first(), Some(Some(_)))) {
                return Ok(Some(key));
            }
            without.insert(instance);
        }
    }
    Ok(None)
}

/// Returns the key of a frame's instance, or `None` if it is not known. The key is `None` if the dump has one module,
/// and not exactly one instance.
pub(crate) fn slot_key(dump: &CoreDumpFile<'_>, frame: &Frame) -> Option<Option<InstanceIndex>> {
    match frame.instance {
        Some(instance) => Some(Some(instance)),
        None if dump.modules().len() != 1 => None,
        None if dump.instances().len() == 1 => Some(Some(InstanceIndex(0))),
        None => Some(None),
    }
}

/// The instances in the order of their ids.
pub(crate) struct Slots {
    pub(crate) slots: Vec<Slot>,
    pub(crate) slot_of: HashMap<Option<InstanceIndex>, usize>,
}

impl Slots {
    /// Lists the instances. `first` is the key of the one that gets id 0.
    pub(crate) fn new(
        dump: &CoreDumpFile<'_>,
        first: Option<Option<InstanceIndex>>,
    ) -> Result<Self> {
        let mut slots = Self { slots: Vec::new(), slot_of: HashMap::new() };
        match first {
            Some(Some(instance)) => {
                if let Some(found) = known(dump.instance(instance))? {
                    slots.push(Some(instance), found.module, found.memories.first());
                }
            }
            Some(None) => slots.push_unknown_instance(dump),
            None => {}
        }
        for (index, instance) in (0..).map(InstanceIndex).zip(dump.instances()) {
            let Some(found) = known(instance)? else { break };
            if slots.slots.len() >= MAX_INSTANCES {
                break;
            }
            slots.push(Some(index), found.module, found.memories.first());
        }
        if slots.slots.is_empty() && dump.modules().len() == 1 {
            slots.push_unknown_instance(dump);
        }
        Ok(slots)
    }

    fn push(
        &mut self,
        instance: Option<InstanceIndex>,
        module: Option<ModuleIndex>,
        memory: Option<&Option<MemoryIndex>>,
    ) {
        if !self.slot_of.contains_key(&instance) {
            self.slot_of.insert(instance, self.slots.len());
            let memory = memory.copied().flatten();
            self.slots.push(Slot { instance, module, memory, id: UNKNOWN_ID });
        }
    }

    /// Adds an instance of the only module. If the dump has only one memory, the instance has that one.
    fn push_unknown_instance(&mut self, dump: &CoreDumpFile<'_>) {
        let memory = (dump.memories().len() == 1).then_some(MemoryIndex(0));
        self.push(None, Some(ModuleIndex(0)), Some(&memory));
    }
}

/// Reads the frames of all threads, beginning with the chosen one.
pub(crate) fn read_stacks(
    dump: &CoreDumpFile<'_>,
    chosen: Option<usize>,
    slots: &mut Slots,
    warnings: &mut Vec<String>,
) -> Result<Vec<Stack>> {
    let mut left = MAX_ALL_FRAMES;
    let mut stacks = Vec::new();
    if let Some(index) = chosen
        && let Some(thread) = known(dump.thread(index))?
    {
        stacks.push(read_stack(dump, index, &thread, slots, &mut left)?);
    }
    let all = dump.threads().len();
    for (index, thread) in dump.threads().enumerate() {
        let Some(thread) = known(thread)? else { break };
        if stacks.len() >= MAX_THREADS {
            break;
        }
        if Some(index) != chosen {
            stacks.push(read_stack(dump, index, &thread, slots, &mut left)?);
        }
    }
    stacks.sort_by_key(|stack| stack.index);
    if stacks.len() < all {
        warnings.push(format!("only {} of {all} threads are served", stacks.len()));
    }
    let cut = stacks.iter().filter(|stack| stack.sites.len() < stack.all);
    for stack in cut.take(8) {
        let Stack { index, sites, all, .. } = stack;
        let n = sites.len();
        warnings
            .push(format!("thread {index} has {all} frames, and only the youngest {n} are served"));
    }
    Ok(stacks)
}

pub(crate) fn read_stack(
    dump: &CoreDumpFile<'_>,
    index: usize,
    thread: &ThreadView<'_>,
    slots: &mut Slots,
    left: &mut usize,
) -> Result<Stack> {
    let name = thread.name().chars().take(MAX_NAME_CHARS).collect();
    let frames = thread.frames();
    let all = frames.len();
    let (mut sites, mut has_values) = (Vec::new(), false);
    for frame in frames.take(MAX_FRAMES.min(*left)) {
        let Some(frame) = known(frame)? else { break };
        has_values |= !frame.locals.is_empty() || !frame.stack.is_empty();
        let key = slot_key(dump, &frame);
        if key == Some(None) {
            slots.push_unknown_instance(dump);
        }
        let slot = key.and_then(|key| slots.slot_of.get(&key).copied());
        sites.push(Site { slot, function: frame.function, offset: frame.offset });
    }
    *left -= sites.len();
    Ok(Stack { index, name, sites, all, has_values })
}

pub(crate) fn youngest_site(stacks: &[Stack], chosen: Option<usize>) -> Option<Site> {
    let stack = stacks.iter().find(|stack| Some(stack.index) == chosen)?;
    stack.sites.first().copied()
}
