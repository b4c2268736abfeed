//! What a client is served: threads with program counters, images of modules, and memories.
//!
//! **Problem.** LLDB finds a variable by the program counter of its frame, and reads it with too little information. It
//! does not say which thread's locals it asks for. It reads all pointers in the memory with id 0. LLDB 22 takes all
//! frames of a recursive function for one. In each case it shows a wrong value as if it were right.
//!
//! **Idea.** A program counter names an image of a module, and there can be several images of a module. A frame whose
//! values LLDB would get wrong is on an image without debugging information: it has a function name, and no values. The
//! frames of a recursive function are on copies of the module, for LLDB 22.
//!
//! **Invariant.** A frame is on an image with debugging information only if
//! - it is in the chosen thread,
//! - its instance's memory is the one with id 0,
//! - for LLDB 22, no younger frame of its function is on the same image,
//! - the youngest frame is in another function, in another image, or in a function without location lists. LLDB up to
//!   23.1 picks from the location lists of all frames by the program counter of the youngest.
//!
//! Ids are those of instances, in the order of the dump, but the instance of the chosen thread's youngest frame has id
//! 0, or that of its first caller with a memory. Then come memories that are no instance's first, and then the other images.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use corestream::read::ThreadView;
use corestream::{
    CoreDumpFile, Error, ErrorKind, Frame, GlobalIndex, InstanceIndex, MemoryIndex, ModuleIndex,
    Result,
};
use corestream_symbols::{SymbolFile, Verdict, match_modules};

use super::code::Code;
use super::image::{ImageBytes, has_location_lists, refers_to_companion};
use super::limits::{
    MAX_ALL_FRAMES, MAX_COPIES, MAX_FRAMES, MAX_IMAGES, MAX_INSTANCES, MAX_NAME_CHARS, MAX_THREADS,
};
use super::memory_map::{Client, IMAGES, Image, Memories, MemoryMap, UNKNOWN_ID, base};
use super::stop;

/// Options of a [`Target`].
///
/// ```
/// use corestream_debug::Options;
///
/// let options = Options::new().with_thread(2);
/// assert_ne!(options, Options::default());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Options {
    thread: Option<usize>,
    remote: bool,
}

impl Options {
    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses the thread whose values are served, by its index in the dump. The default is the first thread with
    /// frames, which is the one that trapped.
    pub fn with_thread(self, index: usize) -> Self {
        Self { thread: Some(index), ..self }
    }

    /// Says whether the client may run on another machine. The default is that it does not.
    ///
    /// A module has the absolute path of its file as its name, and LLDB reads a file with that name instead of asking for
    /// the module. On another machine it could be another build. With this option, no name is that of a file.
    pub fn with_remote_clients(self, remote: bool) -> Self {
        Self { remote, ..self }
    }
}

/// A dump with the modules of its guest, as served to a debugger. Any number of [sessions](crate::Session) can share it.
///
/// It keeps 16 bytes for each frame and the places of sections, and reads everything else from the dump and the files
/// when a client asks for it. The [crate] documentation has an example.
pub struct Target<'b> {
    dump: &'b CoreDumpFile<'b>,
    threads: Vec<TargetThread>,
    /// The position in `threads` of the thread whose values are served.
    chosen: usize,
    stop: String,
    slots: Vec<Slot>,
    slot_of: HashMap<Option<InstanceIndex>, usize>,
    memories: Memories,
    images: Vec<Image<'b>>,
    entry: bool,
    warnings: Vec<String>,
}

/// A thread that is served.
#[derive(Debug)]
struct TargetThread {
    /// The index in the dump. The client's number is greater by 1.
    index: usize,
    name: String,
    pcs: Vec<Pcs>,
}

/// The program counters of a frame.
#[derive(Clone, Copy, Debug)]
struct Pcs {
    for_22: u64,
    for_newer: u64,
}

/// An instance with an id.
#[derive(Debug)]
struct Slot {
    /// `None` for frames whose instance is not known in a dump with one module.
    instance: Option<InstanceIndex>,
    module: Option<ModuleIndex>,
    memory: Option<MemoryIndex>,
    id: u32,
}

/// A frame without its values.
#[derive(Clone, Copy, Debug)]
struct Site {
    slot: Option<usize>,
    function: u32,
    offset: u32,
}

/// A thread of the dump before its program counters are known.
struct Stack {
    index: usize,
    name: String,
    sites: Vec<Site>,
    /// The number of frames in the dump.
    all: usize,
    /// Whether a frame has values.
    has_values: bool,
}

/// The files of a module.
struct GuestModule<'b> {
    name: String,
    file: &'b [u8],
    full: Arc<ImageBytes<'b>>,
    bare: Arc<ImageBytes<'b>>,
    has_location_lists: bool,
    code: Code<'b>,
}

/// A kind of image of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// The image with the id of the instance.
    Primary,
    Copy(u8),
    NoDebug,
}

impl<'b> Target<'b> {
    /// Prepares a dump for debuggers. The files are matched with its modules, as
    /// [`match_modules`] does. Modules without a file are allowed: their frames have addresses only.
    ///
    /// # Errors
    /// Returns an error if
    /// - a file matches no module, or is from another build than the one that ran ([`ErrorKind::Option`]; the message
    ///   names the frame that does not fit),
    /// - the chosen thread does not exist ([`ErrorKind::Option`]),
    /// - the dump cannot be read.
    pub fn new(
        dump: &'b CoreDumpFile<'b>,
        files: &[SymbolFile<'b>],
        options: &Options,
    ) -> Result<Self> {
        let mut warnings = Vec::new();
        let mut modules = read_modules(dump, files, options, &mut warnings)?;
        let chosen = choose_thread(dump, options)?;
        let youngest = youngest_frame(dump, chosen)?;

        let of_youngest = youngest.as_ref().and_then(|frame| slot_key(dump, frame));
        let mut slots = Slots::new(dump, first_with_memory(dump, chosen)?.or(of_youngest))?;
        let stacks = read_stacks(dump, chosen, &mut slots, &mut warnings)?;
        let Slots { mut slots, slot_of } = slots;

        let mut memories = Memories::default();
        for slot in &mut slots {
            slot.id = memories.place(dump, slot.memory).unwrap_or(UNKNOWN_ID);
        }
        for memory in dump.memories() {
            if !memories.has(memory.index()) {
                memories.place(dump, Some(memory.index()));
            }
        }
        find_code(&mut modules, &slots, &stacks);

        let entry = youngest_site(&stacks, chosen)
            .and_then(|site| Some((site, module_of(&modules, &slots, site.slot)?)))
            .is_some_and(|(site, module)| module.code.is_at_entry(site.function, site.offset));
        let stop = describe_stop(dump, &modules, &slots, &stacks, chosen, youngest.as_ref(), entry);

        let mut placing = Placing {
            modules: &modules,
            slots: &slots,
            memories: &mut memories,
            images: Vec::new(),
            ids: HashMap::new(),
            names: HashSet::new(),
            counts: Counts::default(),
        };
        let threads = placing.place_threads(&stacks, chosen);
        placing.add_unused_images();
        placing.count_copies();
        let Placing { mut images, counts, .. } = placing;
        images.sort_by_key(|image| image.id);
        let position = threads.iter().position(|thread| Some(thread.index) == chosen);

        let mut target = Self {
            dump,
            threads,
            chosen: position.unwrap_or(0),
            stop,
            slots,
            slot_of,
            memories,
            images,
            entry,
            warnings,
        };
        target.add_warnings(&modules, &counts);
        Ok(target)
    }

    /// Returns warnings, one line each: what is not served, and what LLDB cannot show.
    ///
    /// ```
    /// use corestream::{CoreDump, CoreDumpFile, Dumper};
    /// use corestream_debug::{Options, Target};
    ///
    /// # let bytes = Dumper::new().plan(&CoreDump::new("guest.wasm"))?.to_vec()?;
    /// let dump = CoreDumpFile::from_slice(&bytes)?;
    /// let target = Target::new(&dump, &[], &Options::new())?;
    /// assert_eq!(target.warnings().collect::<Vec<_>>(), ["the dump has no threads"]);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn warnings(&self) -> impl ExactSizeIterator<Item = &str> {
        self.warnings.iter().map(String::as_str)
    }

    /// Returns why the guest stopped, as the client shows it: the recorded message of the trap, or what the instruction
    /// of the youngest frame tells.
    ///
    /// ```
    /// use corestream::{CoreDump, CoreDumpFile, Dumper};
    /// use corestream_debug::{Options, Target};
    ///
    /// # let mut guest = CoreDump::new("guest.wasm");
    /// # guest.trap = Some("wasm trap: integer divide by zero".into());
    /// # let bytes = Dumper::new().plan(&guest)?.to_vec()?;
    /// let dump = CoreDumpFile::from_slice(&bytes)?;
    /// let target = Target::new(&dump, &[], &Options::new())?;
    /// assert_eq!(target.stop_reason(), "wasm trap: integer divide by zero");
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn stop_reason(&self) -> &str {
        &self.stop
    }

    /// Returns the dump.
    pub(crate) fn dump(&self) -> &'b CoreDumpFile<'b> {
        self.dump
    }

    /// Returns the number of threads that are served, which is at least 1: LLDB needs a thread.
    pub(crate) fn thread_count(&self) -> usize {
        self.threads.len().max(1)
    }

    /// Returns the position of the thread whose values are served.
    pub(crate) fn chosen(&self) -> usize {
        self.chosen
    }

    /// Returns the client's number of a thread.
    pub(crate) fn thread_number(&self, position: usize) -> u64 {
        self.threads.get(position).map_or(0, |thread| thread.index as u64) + 1
    }

    /// Returns the position of the thread with a client's number.
    pub(crate) fn thread_position(&self, number: u64) -> Option<usize> {
        (0..self.thread_count()).find(|position| self.thread_number(*position) == number)
    }

    /// Returns the index in the dump of the thread whose values are served.
    pub(crate) fn chosen_index(&self) -> Option<usize> {
        self.threads.get(self.chosen).map(|thread| thread.index)
    }

    /// Returns the name of a thread.
    pub(crate) fn thread_name(&self, position: usize) -> &str {
        self.threads.get(position).map_or("no threads", |thread| &thread.name)
    }

    /// Returns the program counters of a thread's frames, from youngest to oldest.
    pub(crate) fn pcs(&self, position: usize, client: Client) -> impl Iterator<Item = u64> {
        let pcs = self.threads.get(position).map_or(&[][..], |thread| &thread.pcs);
        pcs.iter().map(move |pcs| match client {
            Client::Lldb22 => pcs.for_22,
            Client::Newer => pcs.for_newer,
        })
    }

    /// Returns the program counter of a thread.
    pub(crate) fn pc(&self, position: usize, client: Client) -> u64 {
        self.pcs(position, client).next().unwrap_or(IMAGES | base(UNKNOWN_ID))
    }

    /// Returns the number of frames of the chosen thread that are served.
    pub(crate) fn frame_count(&self) -> usize {
        self.threads.get(self.chosen).map_or(0, |thread| thread.pcs.len())
    }

    /// Returns the images that a client sees.
    pub(crate) fn images(&self, client: Client) -> impl Iterator<Item = &Image<'b>> {
        self.images.iter().filter(move |image| image.is_for(client))
    }

    /// Returns the address space that a client sees.
    pub(crate) fn memory_map(&self, client: Client) -> MemoryMap<'_, 'b> {
        let Self { dump, memories, images, .. } = self;
        MemoryMap { dump, memories, images, client }
    }

    /// Returns the index in the dump of a global of a frame's instance, if it is known.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read.
    pub(crate) fn global_of(&self, frame: &Frame, index: usize) -> Result<Option<GlobalIndex>> {
        let slot = slot_key(self.dump, frame).and_then(|key| self.slot_of.get(&key));
        let instance = slot.and_then(|slot| self.slots.get(*slot)?.instance);
        let Some(instance) = instance else { return Ok(None) };
        let instance = known(self.dump.instance(instance))?;
        Ok(instance.and_then(|instance| instance.globals.get(index).copied().flatten()))
    }

    /// Returns whether the value of a local is the one that the debugging information means.
    ///
    /// `index` is the position of the frame. If the guest stopped when it entered a function, its locals do not have
    /// their values yet.
    pub(crate) fn is_trusted_local(&self, _frame: &Frame, index: usize, _local: usize) -> bool {
        !(self.entry && index == 0)
    }

    /// Returns whether the value of an operand is the one that the debugging information means.
    pub(crate) fn is_trusted_operand(&self, _frame: &Frame, index: usize, _operand: usize) -> bool {
        !(self.entry && index == 0)
    }

    fn add_warnings(&mut self, modules: &BTreeMap<ModuleIndex, GuestModule<'b>>, counts: &Counts) {
        let mut add = |warning: String| self.warnings.push(warning);
        let Some(chosen) = self.threads.get(self.chosen) else {
            add("the dump has no threads".into());
            return;
        };
        let (index, name) = (chosen.index, &chosen.name);
        if counts.other_threads > 0 {
            add(format!(
                "only thread {index} ({name}) has values, because LLDB cannot tell the locals of threads \
                 apart; choose another one with --thread N"
            ));
        }
        if counts.other_memories > 0 {
            let n = counts.other_memories;
            let s = if n == 1 { " has" } else { "s have" };
            add(format!(
                "{n} frame{s} no values, because LLDB reads pointers only in the memory of the youngest \
                 frame's instance, and the instance has another one"
            ));
        }
        if counts.copies_for_22 > 0 {
            let (old, newer) = (copies(counts.copies_for_22), copies(counts.copies_for_newer));
            add(format!(
                "functions are recursive: LLDB 22 reads {old} of modules, and lists static variables once per \
                 copy; newer versions read {newer}"
            ));
        }
        if counts.capped > 0 {
            let n = counts.capped;
            let s = if n == 1 { " has" } else { "s have" };
            add(format!(
                "{n} frame{s} no values in LLDB 22, because functions recurse too often; use LLDB 23.1"
            ));
        }
        if counts.unplaced > 0 {
            let n = counts.unplaced;
            let s = if n == 1 { " shows an address" } else { "s show addresses" };
            add(format!(
                "{n} frame{s} only, because the instance or the code is not known, or there are too many \
                 instances"
            ));
        }
        for index in &counts.without_file {
            let name = self.dump.module(*index).unwrap_or_default();
            add(format!(
                "module {index} ({name}) has no file, so its frames show addresses only; pass \
                 --symbols {index}=FILE"
            ));
        }
        for module in modules.values().filter(|module| module.has_location_lists) {
            let name = &module.name;
            add(format!(
                "{name} has optimized code: LLDB does not find all variables of callers; `corestream inspect \
                 --symbols` shows them"
            ));
        }
        let first = self.slots.first().and_then(|slot| slot.memory);
        let first = first.and_then(|memory| self.dump.memory(memory).ok());
        if let Some(memory) = first.filter(|memory| memory.ty().memory64) {
            let index = memory.index();
            add(format!(
                "memory {index} has 64-bit addresses: LLDB truncates pointers to 32 bits and does not find \
                 static variables; lines, numbers and `memory read` are right"
            ));
        }
        if self.memories.has_unknown() {
            add("parts of the memory are not in the dump: LLDB shows text there as cut or empty, and values up to 511 \
                 bytes after such a part as errors; `settings set target.process.disable-memory-cache true` \
                 brings those values back"
                .into());
        }
        for memory in self.memories.cut.iter().take(8) {
            add(format!("memory {memory} is not served as a whole: too large"));
        }
        if !chosen.pcs.is_empty() && !modules.is_empty() && !counts.has_values {
            add("the dump has no locals, so LLDB shows only static variables; dump with --locals"
                .into());
        }
    }
}

impl fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("threads", &self.threads.len())
            .field("images", &self.images)
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

fn copies(count: usize) -> String {
    match count {
        0 => "none".into(),
        1 => "1 copy".into(),
        n => format!("{n} copies"),
    }
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

/// Reads the modules that have files.
fn read_modules<'b>(
    dump: &CoreDumpFile<'_>,
    files: &[SymbolFile<'b>],
    options: &Options,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<ModuleIndex, GuestModule<'b>>> {
    let matches =
        match_modules(files, dump).map_err(|error| Error::new(error.kind(), error.to_string()))?;
    let mut modules = BTreeMap::new();
    let mut used = HashSet::new();
    for found in matches {
        let index = found.module;
        used.extend(found.code);
        used.extend(found.debug);
        let file = |i: Option<usize>| i.and_then(|i| files.get(i));
        let named = file(found.code.or(found.debug)).map_or(Path::new(""), |file| file.path());
        let name = named.display();
        if let Verdict::Mismatch(mismatch) = &found.verdict {
            let message = format!("{name} is not module {index} of the dump: {mismatch}");
            return Err(Error::new(ErrorKind::Option, message));
        }
        let Some(code) = file(found.code) else {
            warnings.push(format!("{name}: has no code; also pass the module that ran"));
            continue;
        };
        let bytes = code.bytes();
        let companion = file(found.debug.filter(|debug| Some(*debug) != found.code));
        let full = match companion {
            Some(companion) => ImageBytes::with_companion(bytes, companion.bytes()),
            None => ImageBytes::whole(bytes),
        };
        if u32::try_from(full.len()).is_err() {
            let message = format!("{name}: the module and its debugging information exceed 4 GiB");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if companion.is_none() && found.debug.is_none() && refers_to_companion(bytes) {
            let what = "its debugging information is in another file; also pass that file";
            warnings.push(format!("{name}: {what}"));
        }
        // LLDB looks for a file with the name of the module, from its own working directory.
        let is_file = companion.is_none() && code.path().is_absolute() && !options.remote;
        let tag = if is_file { "" } else { "@dump" };
        let debug = companion.unwrap_or(code).bytes();
        let module = GuestModule {
            name: format!("{name}{tag}"),
            file: bytes,
            full: Arc::new(full),
            bare: Arc::new(ImageBytes::without_debug(bytes)),
            has_location_lists: has_location_lists(debug),
            code: Code::default(),
        };
        modules.insert(index, module);
    }
    for (i, file) in files.iter().enumerate() {
        if !used.contains(&i) {
            let name = file.path().display();
            warnings.push(format!("{name} is not served: LLDB looks for split DWARF files itself"));
        }
    }
    Ok(modules)
}

/// Returns the index of the thread whose values are served, or `None` if there are no threads.
fn choose_thread(dump: &CoreDumpFile<'_>, options: &Options) -> Result<Option<usize>> {
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

fn youngest_frame(dump: &CoreDumpFile<'_>, chosen: Option<usize>) -> Result<Option<Frame>> {
    let Some(thread) = chosen.map(|chosen| dump.thread(chosen)) else { return Ok(None) };
    let Some(thread) = known(thread)? else { return Ok(None) };
    let frame = thread.frames().next().map(known).transpose()?;
    Ok(frame.flatten())
}

/// Returns the key of the instance of the youngest frame whose instance has a memory.
///
/// An adapter between two modules can trap, and has no memory. LLDB reads the pointers of all frames in the memory of
/// the instance with id 0, so it must be that of the first caller that has one.
fn first_with_memory(
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
fn slot_key(dump: &CoreDumpFile<'_>, frame: &Frame) -> Option<Option<InstanceIndex>> {
    match frame.instance {
        Some(instance) => Some(Some(instance)),
        None if dump.modules().len() != 1 => None,
        None if dump.instances().len() == 1 => Some(Some(InstanceIndex(0))),
        None => Some(None),
    }
}

/// The instances in the order of their ids.
struct Slots {
    slots: Vec<Slot>,
    slot_of: HashMap<Option<InstanceIndex>, usize>,
}

impl Slots {
    /// Lists the instances. `first` is the key of the one that gets id 0.
    fn new(dump: &CoreDumpFile<'_>, first: Option<Option<InstanceIndex>>) -> Result<Self> {
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

/// Reads the frames of all threads, those of the chosen one first.
fn read_stacks(
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

fn read_stack(
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

/// Finds the functions of all frames in their modules.
fn find_code(
    modules: &mut BTreeMap<ModuleIndex, GuestModule<'_>>,
    slots: &[Slot],
    stacks: &[Stack],
) {
    let mut needed: BTreeMap<ModuleIndex, HashSet<u32>> = BTreeMap::new();
    for site in stacks.iter().flat_map(|stack| &stack.sites) {
        let slot = site.slot.and_then(|slot| slots.get(slot));
        if let Some(module) = slot.and_then(|slot| slot.module) {
            needed.entry(module).or_default().insert(site.function);
        }
    }
    for (index, functions) in needed {
        if let Some(module) = modules.get_mut(&index) {
            module.code = Code::find(module.file, &functions);
        }
    }
}

fn youngest_site(stacks: &[Stack], chosen: Option<usize>) -> Option<Site> {
    let stack = stacks.iter().find(|stack| Some(stack.index) == chosen)?;
    stack.sites.first().copied()
}

fn module_of<'m, 'b>(
    modules: &'m BTreeMap<ModuleIndex, GuestModule<'b>>,
    slots: &[Slot],
    slot: Option<usize>,
) -> Option<&'m GuestModule<'b>> {
    modules.get(&slots.get(slot?)?.module?)
}

fn describe_stop(
    dump: &CoreDumpFile<'_>,
    modules: &BTreeMap<ModuleIndex, GuestModule<'_>>,
    slots: &[Slot],
    stacks: &[Stack],
    chosen: Option<usize>,
    youngest: Option<&Frame>,
    entry: bool,
) -> String {
    let operator = youngest_site(stacks, chosen).and_then(|site| {
        module_of(modules, slots, site.slot)?.code.operator(site.function, site.offset)
    });
    let stack = youngest.map_or(&[][..], |frame| &frame.stack);
    stop::describe(dump.trap(), operator.as_ref(), stack, entry)
}

/// What the warnings count.
#[derive(Debug, Default)]
struct Counts {
    other_threads: usize,
    other_memories: usize,
    copies_for_22: usize,
    copies_for_newer: usize,
    capped: usize,
    unplaced: usize,
    without_file: std::collections::BTreeSet<ModuleIndex>,
    has_values: bool,
}

/// Gives frames their images and program counters.
struct Placing<'p, 'b> {
    modules: &'p BTreeMap<ModuleIndex, GuestModule<'b>>,
    slots: &'p [Slot],
    memories: &'p mut Memories,
    images: Vec<Image<'b>>,
    /// The positions in `images`.
    ids: HashMap<(usize, Kind), usize>,
    names: HashSet<String>,
    counts: Counts,
}

impl<'b> Placing<'_, 'b> {
    fn place_threads(&mut self, stacks: &[Stack], chosen: Option<usize>) -> Vec<TargetThread> {
        // The images of the chosen thread come first, because their number is limited.
        let (first, others): (Vec<_>, Vec<_>) =
            stacks.iter().partition(|stack| Some(stack.index) == chosen);
        let mut threads: Vec<_> = first
            .into_iter()
            .map(|stack| (stack, true))
            .chain(others.into_iter().map(|stack| (stack, false)))
            .map(|(stack, is_chosen)| {
                let pcs = self.place_stack(stack, is_chosen);
                TargetThread { index: stack.index, name: stack.name.clone(), pcs }
            })
            .collect();
        threads.sort_by_key(|thread| thread.index);
        threads
    }

    fn place_stack(&mut self, stack: &Stack, is_chosen: bool) -> Vec<Pcs> {
        let mut repeats: HashMap<(Option<usize>, u32), u8> = HashMap::new();
        let youngest = stack.sites.first().map(|site| (site.slot, site.function));
        let mut pcs = Vec::with_capacity(stack.sites.len());
        self.counts.has_values |= is_chosen && stack.has_values;
        for (depth, site) in stack.sites.iter().enumerate() {
            let function = (site.slot, site.function);
            let repeat =
                repeats.entry(function).and_modify(|n| *n = n.saturating_add(1)).or_insert(0);
            let repeat = *repeat;
            let is_repeat_of_youngest = depth > 0 && Some(function) == youngest;
            pcs.push(match self.position(*site, depth > 0) {
                Ok((slot, position)) => {
                    let (for_22, for_newer) =
                        self.kinds(slot, is_chosen, repeat, is_repeat_of_youngest);
                    let for_22 = self.pc(slot, for_22, Client::Lldb22, position);
                    let for_newer = self.pc(slot, for_newer, Client::Newer, position);
                    let outside = IMAGES | base(UNKNOWN_ID);
                    self.counts.unplaced += usize::from([for_22, for_newer].contains(&outside));
                    Pcs { for_22, for_newer }
                }
                Err(pc) => Pcs { for_22: pc, for_newer: pc },
            });
        }
        pcs
    }

    /// Returns the slot of a frame with the position of its program counter in the file. If that is not known, returns a
    /// program counter outside of all images.
    fn position(&mut self, site: Site, caller: bool) -> std::result::Result<(usize, u64), u64> {
        let outside = |id: u32| IMAGES | base(id) | u64::from(site.offset);
        let found = site.slot.and_then(|slot| Some((slot, self.slots.get(slot)?)));
        let Some((index, slot)) = found else {
            self.counts.unplaced += 1;
            return Err(outside(UNKNOWN_ID));
        };
        let Some(module) = slot.module.and_then(|module| self.modules.get(&module)) else {
            match slot.module {
                Some(module) if self.counts.without_file.len() < 8 => {
                    self.counts.without_file.insert(module);
                }
                Some(_) => {}
                None => self.counts.unplaced += 1,
            }
            return Err(outside(slot.id));
        };
        match module.code.position(site.function, site.offset, caller) {
            Some(position) if slot.id != UNKNOWN_ID => Ok((index, position)),
            _ => {
                self.counts.unplaced += 1;
                Err(outside(UNKNOWN_ID))
            }
        }
    }

    /// Returns the kinds of image of a frame, for LLDB 22 and for newer versions.
    fn kinds(
        &mut self,
        slot: usize,
        is_chosen: bool,
        repeat: u8,
        is_repeat_of_youngest: bool,
    ) -> (Kind, Kind) {
        if !is_chosen {
            self.counts.other_threads += 1;
            return (Kind::NoDebug, Kind::NoDebug);
        }
        if !self.has_first_memory(slot) {
            self.counts.other_memories += 1;
            return (Kind::Primary, Kind::Primary);
        }
        let module = module_of(self.modules, self.slots, Some(slot));
        let has_lists = module.is_some_and(|module| module.has_location_lists);
        let for_newer =
            if is_repeat_of_youngest && has_lists { Kind::Copy(1) } else { Kind::Primary };
        let for_22 = match repeat {
            0 => Kind::Primary,
            1..=MAX_COPIES => Kind::Copy(repeat),
            _ => {
                self.counts.capped += 1;
                Kind::NoDebug
            }
        };
        (for_22, for_newer)
    }

    /// Returns whether LLDB reads the pointers of an instance in the right memory.
    fn has_first_memory(&self, slot: usize) -> bool {
        let memory = |slot: usize| self.slots.get(slot).and_then(|slot| slot.memory);
        memory(slot) == memory(0)
    }

    fn pc(&mut self, slot: usize, kind: Kind, client: Client, position: u64) -> u64 {
        let image = self.image(slot, kind);
        let Some(image) = image.and_then(|image| self.images.get_mut(image)) else {
            return IMAGES | base(UNKNOWN_ID);
        };
        match client {
            Client::Lldb22 => image.for_22 = true,
            Client::Newer => image.for_newer = true,
        }
        // LLDB looks up callers at the byte before their program counter, which may be the end of a part.
        let offset = image.bytes.offset_of(position);
        let before = || Some(image.bytes.offset_of(position.checked_sub(1)?)? + 1);
        let offset = offset.or_else(before).unwrap_or(0);
        IMAGES | base(image.id) | offset
    }

    /// Returns the position of an image, which is added if it does not exist yet. Returns `None` if there are too many.
    fn image(&mut self, slot: usize, kind: Kind) -> Option<usize> {
        if let Some(found) = self.ids.get(&(slot, kind)) {
            return Some(*found);
        }
        if self.images.len() >= MAX_IMAGES {
            return None;
        }
        let of = self.slots.get(slot)?;
        let module = self.modules.get(&of.module?)?;
        let is_bare = kind == Kind::NoDebug || !self.has_first_memory(slot);
        let id = match kind {
            Kind::Primary => of.id,
            Kind::Copy(_) | Kind::NoDebug => self.memories.take_id(),
        };
        let mut name = module.name.clone();
        // Another instance of the module may have the name already.
        if self.names.contains(&name)
            && kind == Kind::Primary
            && let Some(instance) = of.instance
        {
            name += &format!("@instance{instance}");
        }
        match kind {
            Kind::Copy(copy) => {
                name += &format!("@{copy}");
            }
            _ if is_bare => name += "@no-debug",
            _ => {}
        }
        // With the same name twice, LLDB loses the first image.
        if !self.names.insert(name.clone()) {
            name += &format!("@id{id}");
            self.names.insert(name.clone());
        }
        let bytes = if is_bare { &module.bare } else { &module.full };
        let both = kind == Kind::Primary;
        self.images.push(Image { id, name, bytes: bytes.clone(), for_22: both, for_newer: both });
        let position = self.images.len() - 1;
        self.ids.insert((slot, kind), position);
        Some(position)
    }

    fn count_copies(&mut self) {
        for ((_, kind), position) in &self.ids {
            let Some(image) = self.images.get(*position) else { continue };
            if matches!(kind, Kind::Copy(_)) {
                self.counts.copies_for_22 += usize::from(image.for_22);
                self.counts.copies_for_newer += usize::from(image.for_newer);
            }
        }
    }

    /// Adds images of instances without frames, whose static variables LLDB can show.
    fn add_unused_images(&mut self) {
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.id != UNKNOWN_ID && self.image(index, Kind::Primary).is_none() {
                // The instance has no file, or there are too many images.
                continue;
            }
        }
    }
}
