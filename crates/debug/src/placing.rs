//! The images that frames are on, and their program counters.
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
//! The ids of images that are not those of an instance come after all instances and memories.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use corestream::ModuleIndex;

use super::limits::{MAX_COPIES, MAX_IMAGES};
use super::memory_map::{Client, IMAGES, Image, Memories, UNKNOWN_ID, base};
use super::modules::{GuestModule, module_of};
use super::stacks::{Site, Slot, Stack};

/// A thread that is served.
#[derive(Debug)]
pub(crate) struct TargetThread {
    /// The index in the dump. The client's number is greater by 1.
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) pcs: Vec<Pcs>,
}

/// The program counters of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pcs {
    pub(crate) for_22: u64,
    pub(crate) for_newer: u64,
}

/// A kind of image of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// The image with the id of the instance.
    Primary,
    Copy(u8),
    NoDebug,
}

/// What the warnings count.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) other_threads: usize,
    pub(crate) other_memories: usize,
    pub(crate) copies_for_22: usize,
    pub(crate) copies_for_newer: usize,
    pub(crate) capped: usize,
    pub(crate) unplaced: usize,
    pub(crate) without_file: BTreeSet<ModuleIndex>,
    pub(crate) has_values: bool,
}

/// Gives frames their images and program counters.
pub(crate) struct Placing<'p, 'b> {
    pub(crate) modules: &'p BTreeMap<ModuleIndex, GuestModule<'b>>,
    pub(crate) slots: &'p [Slot],
    pub(crate) memories: &'p mut Memories,
    pub(crate) images: Vec<Image<'b>>,
    /// The positions in `images`.
    pub(crate) ids: HashMap<(usize, Kind), usize>,
    pub(crate) names: HashSet<String>,
    pub(crate) counts: Counts,
}

impl<'b> Placing<'_, 'b> {
    pub(crate) fn place_threads(
        &mut self,
        stacks: &[Stack],
        chosen: Option<usize>,
    ) -> Vec<TargetThread> {
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
        let has_debug = !is_bare && module.has_debug;
        let bytes = bytes.clone();
        self.images.push(Image { id, name, bytes, has_debug, for_22: both, for_newer: both });
        let position = self.images.len() - 1;
        self.ids.insert((slot, kind), position);
        Some(position)
    }

    pub(crate) fn count_copies(&mut self) {
        for ((_, kind), position) in &self.ids {
            let Some(image) = self.images.get(*position) else { continue };
            if matches!(kind, Kind::Copy(_)) {
                self.counts.copies_for_22 += usize::from(image.for_22);
                self.counts.copies_for_newer += usize::from(image.for_newer);
            }
        }
    }

    /// Adds images of instances without frames, whose static variables LLDB can show.
    pub(crate) fn add_unused_images(&mut self) {
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.id != UNKNOWN_ID {
                // Does nothing if the instance has no file, or if there are too many images.
                let _ = self.image(index, Kind::Primary);
            }
        }
    }
}
