//! What a client is served: threads with program counters, images of modules, and memories.
//!
//! The modules [`modules`](super::modules), [`stacks`](super::stacks) and [`placing`](super::placing) prepare it, in this
//! order. After that, a target does not change.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use corestream::{
    CoreDumpFile, Frame, GlobalIndex, InstanceIndex, ModuleIdentity, ModuleIndex, Result,
};
use corestream_symbols::{FramePlace, SymbolFile, expand_components};

use super::memory_map::{Client, IMAGES, Image, Memories, MemoryMap, UNKNOWN_ID, base};
use super::modules::{GuestModule, find_code, module_of, read_modules, symbol_error};
use super::placing::{Counts, Placing, TargetThread};
use super::reliability::Reliability;
use super::stacks::{
    Slot, Slots, Stack, choose_thread, first_with_memory, known, read_stacks, slot_key,
    youngest_frame, youngest_site,
};
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
    pub(crate) thread: Option<usize>,
}

impl Options {
    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses the thread whose values are served, by its index in the dump. The default is the first thread with
    /// frames, which is the one that trapped.
    pub fn with_thread(self, index: usize) -> Self {
        Self { thread: Some(index) }
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
    reliability: Reliability<'b>,
    warnings: Vec<String>,
}

impl<'b> Target<'b> {
    /// Prepares a dump for debuggers. The files are matched with its modules, as
    /// [`match_modules`](corestream_symbols::match_modules) does. Modules without a file are allowed: their frames have addresses only.
    /// Of a component, a client is served the core modules, each as a module of its own with the name that it has in the
    /// dump.
    ///
    /// # Errors
    /// Returns an error if
    /// - a file matches no module, or is from another build than the one that ran ([`ErrorKind::Option`](corestream::ErrorKind::Option); the message
    ///   names the frame that does not fit),
    /// - the chosen thread does not exist ([`ErrorKind::Option`](corestream::ErrorKind::Option)),
    /// - the dump cannot be read.
    pub fn new(
        dump: &'b CoreDumpFile<'b>,
        files: &[SymbolFile<'b>],
        options: &Options,
    ) -> Result<Self> {
        let expanded = expand_components(files).map_err(|error| symbol_error(&error))?;
        let files = expanded.files();
        let mut warnings = expanded.warnings().to_vec();
        let mut modules = read_modules(dump, files, &mut warnings)?;
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

        let is_at_entry = |thread| {
            youngest_site(&stacks, thread)
                .and_then(|site| Some((site, module_of(&modules, &slots, site.slot)?)))
                .is_some_and(|(site, module)| module.code.is_at_entry(site.function, site.offset))
        };
        let entry = is_at_entry(chosen);
        let trapped = choose_thread(dump, &Options::new())?;
        let frame = if trapped == chosen { youngest } else { youngest_frame(dump, trapped)? };
        let (frame, at_entry) = (frame.as_ref(), is_at_entry(trapped));
        let mut stop = describe_stop(dump, &modules, &slots, &stacks, trapped, frame, at_entry);
        if let Some(trapped) = trapped.filter(|_| trapped != chosen) {
            // LLDB shows the reason at the chosen thread.
            let thread = known(dump.thread(trapped))?;
            let name = thread.map_or_else(String::new, |thread| format!(" ({})", thread.name()));
            stop = format!("thread {trapped}{name} stopped: {stop}");
        }

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
            reliability: Reliability::new(dump, files),
            warnings,
        };
        target.add_warnings(&modules, &counts);
        Ok(target)
    }

    /// Returns warnings, one line each, about parts of the dump that are not served or that LLDB cannot show.
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

    /// Returns the settings that LLDB needs for this dump, as commands to run before it connects.
    ///
    /// ```
    /// use corestream::{CoreDump, CoreDumpFile, Dumper};
    /// use corestream_debug::{Options, Target};
    ///
    /// # let bytes = Dumper::new().plan(&CoreDump::new("guest.wasm"))?.to_vec()?;
    /// let dump = CoreDumpFile::from_slice(&bytes)?;
    /// let target = Target::new(&dump, &[], &Options::new())?;
    /// assert_eq!(target.lldb_settings(), ["settings set target.language c99"]);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn lldb_settings(&self) -> Vec<&'static str> {
        let mut settings = Vec::new();
        if self.memories.has_unknown() {
            // LLDB reads whole lines of 512 bytes, so it loses the bytes after a part that is missing.
            settings.push("settings set target.process.disable-memory-cache true");
        }
        let has_bare_frames =
            self.images.is_empty() || self.images.iter().any(|image| !image.has_debug);
        if has_bare_frames || self.frame_count() == 0 {
            // Without debugging information, LLDB 22 takes an expression for Objective-C, and aborts.
            settings.push("settings set target.language c99");
        }
        settings
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

    /// Returns whether a local or an operand of a frame of the chosen thread holds what the debugging information says.
    ///
    /// `index` is the position of the frame. If the guest stopped when it entered a function, its locals do not have
    /// their values yet.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read.
    pub(crate) fn is_reliable(
        &self,
        frame: &Frame,
        index: usize,
        place: FramePlace,
    ) -> Result<bool> {
        Ok(!(self.entry && index == 0) && self.reliability.is_reliable(frame, index, place)?)
    }

    fn add_warnings(&mut self, modules: &BTreeMap<ModuleIndex, GuestModule<'b>>, counts: &Counts) {
        let mut add = |warning: String| self.warnings.push(warning);
        match self.threads.get(self.chosen) {
            None => add("the dump has no threads".into()),
            Some(TargetThread { pcs, .. })
                if !pcs.is_empty() && !modules.is_empty() && !counts.has_values =>
            {
                add("the dump has no locals, so LLDB shows only static variables; dump with --locals"
                    .into());
            }
            Some(_) => {}
        }
        if let Some(TargetThread { index, name, .. }) =
            self.threads.get(self.chosen).filter(|_| counts.other_threads > 0)
        {
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
                "functions are recursive: LLDB 22 lists static variables again for each of {old} of \
                 modules, and newer versions for {newer}"
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
        let has_identity = |index: ModuleIndex| {
            let identity = self.dump.module_identity(index).unwrap_or_default();
            identity != ModuleIdentity::default()
        };
        let one_has_identity = modules.keys().any(|of| has_identity(*of));
        for index in &counts.without_file {
            let name = self.dump.module(*index).unwrap_or_default();
            let line =
                format!("module {index} ({name}) has no file, so its frames show addresses only");
            // The engine makes adapters, which have neither an identity nor a file.
            let may_be_adapter = one_has_identity && !has_identity(*index);
            let unless =
                if may_be_adapter { ", unless it is an adapter of a component" } else { "" };
            add(format!("{line}; pass --symbols {index}=FILE{unless}"));
        }
        for module in modules.values().filter(|module| module.has_location_lists) {
            let name = &module.path;
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
            add("parts of the memory are not in the dump: LLDB shows text there as cut or empty"
                .into());
        }
        for memory in self.memories.cut.iter().take(8) {
            add(format!("memory {memory} is not served as a whole: too large"));
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

fn describe_stop(
    dump: &CoreDumpFile<'_>,
    modules: &BTreeMap<ModuleIndex, GuestModule<'_>>,
    slots: &[Slot],
    stacks: &[Stack],
    trapped: Option<usize>,
    youngest: Option<&Frame>,
    entry: bool,
) -> String {
    let operator = youngest_site(stacks, trapped).and_then(|site| {
        module_of(modules, slots, site.slot)?.code.operator(site.function, site.offset)
    });
    let stack = youngest.map_or(&[][..], |frame| &frame.stack);
    stop::describe(dump.trap(), operator.as_ref(), stack, entry)
}
