//! Merging of several descriptions of one process, such as one description for each thread.
//!
//! # The problem
//! An engine describes one store at a time, but the threads of a process may each have a store of their own, with
//! instances of the same module over the same shared memory. The reader wants one dump, with that module and that memory
//! once.
//!
//! # The idea
//! All items of the other description are appended, with new indices. A module or a memory that is already there is not
//! appended. Its index is that of the first one.
//!
//! # The invariant
//! Two different memories or modules never become one. Two memories are the same if both images borrow the same bytes
//! of this process: both are alive, so different memories cannot have the same address. The exception is an empty
//! memory, which has no bytes, so its address says nothing. Two modules are the same if the engine says so by a
//! [`ModuleKey`](super::ModuleKey), or if their bytes have the same SHA-256. Without that they stay two, because a name
//! identifies nothing.

use std::ops::Range;

use super::core_dump::CoreDump;
use super::identity::ModuleIdentity;
use super::index::{GlobalIndex, InstanceIndex, MemoryIndex, ModuleIndex};
use super::instance::{Instance, Module};
use super::memory::Memory;
use super::thread::Thread;
use crate::error::{Error, Result};

/// The new indices of the items of a description that was merged into another. [`CoreDump::merge`] returns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergedIndices {
    /// For each module of the merged description, in its order, the index in the result.
    pub modules: Vec<ModuleIndex>,
    /// For each instance of the merged description, the index in the result.
    pub instances: Vec<InstanceIndex>,
    /// For each memory of the merged description, the index in the result.
    pub memories: Vec<MemoryIndex>,
    /// For each global of the merged description, the index in the result.
    pub globals: Vec<GlobalIndex>,
    /// The positions of the threads of the merged description in [`CoreDump::threads`] of the result.
    pub threads: Range<usize>,
}

impl<'a> CoreDump<'a> {
    /// Merges `other`, another part of the same process, into this description.
    ///
    /// The instances, globals and threads of `other` follow those of this description, in their order. So do its modules
    /// and memories, except for those that are already there:
    /// - Two memories are the same if the images of both borrow the same bytes ([`MemoryImage::from_shared`] with the same
    ///   address, [`MemoryImage::from_slice`] with the same address and length). The larger size counts, because a
    ///   shared memory may have grown between two captures. A range that either description excludes is excluded.
    /// - Two modules are the same if they have the same name and the same [`key`](Module::key) or SHA-256. If only one of them
    ///   has an identity, the result has it.
    ///
    /// Different items stay apart. When in doubt, the same item is there twice: an empty memory, or a module without key
    /// and SHA-256.
    ///
    /// The name of the process stays, and so do its trap and its time if they are known. Otherwise they become those of
    /// `other`. If both have a trap, that of `other` becomes a note. Debuggers select the first thread, so begin with
    /// the description of the thread that failed.
    ///
    /// Notes of `other` are added if they are not there yet. Their text stays the same, even if it contains an index.
    ///
    /// ```
    /// use corestream::*;
    ///
    /// /// The part of a worker: its instance, and a memory that all workers use.
    /// fn part(memory: &[u8], worker: usize) -> CoreDump<'_> {
    ///     let mut dump = CoreDump::new("pool.wasm");
    ///     let ty = MemoryType::wasm32(1).with_maximum(1).with_shared();
    ///     let memory = dump.add_memory(Memory::new(ty, MemoryImage::from_slice(memory)));
    ///     let sha256 = [7; 32]; // of the module
    ///     let identity = ModuleIdentity::new().with_sha256(sha256);
    ///     let module = dump.add_module(Module::new("worker.wasm").with_identity(identity));
    ///     let instance = dump.add_instance(Instance::new(module).with_memories([memory]));
    ///     dump.add_thread(Thread::new(format!("worker {worker}")).with_frames([Frame::new(instance, 3, 17)]));
    ///     dump
    /// }
    ///
    /// let memory = vec![1; 65_536];
    /// let mut dump = part(&memory, 0);
    /// let merged = dump.merge(part(&memory, 1))?;
    /// assert_eq!((dump.memories.len(), dump.modules.len()), (1, 1));
    /// assert_eq!((dump.instances.len(), dump.threads.len()), (2, 2));
    /// assert_eq!(dump.threads[1].frames[0].instance, Some(InstanceIndex(1)));
    /// assert_eq!((merged.memories, merged.threads), (vec![MemoryIndex(0)], 1..2));
    ///
    /// dump.add_missing_thread("worker 2", "it did not stop within 1 s");
    /// let bytes = Dumper::new().plan(&dump)?.to_vec()?;
    /// assert_eq!(CoreDumpFile::from_slice(&bytes)?.threads().len(), 3);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// [`MemoryImage::from_shared`]: crate::MemoryImage::from_shared
    /// [`MemoryImage::from_slice`]: crate::MemoryImage::from_slice
    ///
    /// # Errors
    /// Returns an error if `other` is not consistent ([`validate`](Self::validate)), if an excluded range extends past
    /// the end of a memory of both, or if the result has too many items for 32-bit indices. This description is then as
    /// before.
    pub fn merge(&mut self, other: CoreDump<'a>) -> Result<MergedIndices> {
        other.resolve()?;
        // Plans every index before the first change, so that an error changes nothing.
        let modules = places(&self.modules, &other.modules, "modules", |a, b| a.is_same_module(b))?;
        let memories =
            places(&self.memories, &other.memories, "memories", |a, b| a.is_same_memory(b))?;
        let instances = places(&self.instances, &other.instances, "instances", |_, _| false)?;
        let globals = places(&self.globals, &other.globals, "globals", |_, _| false)?;
        for (memory, place) in other.memories.iter().zip(&memories) {
            if let Some(same) = self.memories.get(place.0 as usize) {
                let at = |error: Error| error.at(format_args!("memory {}", place.0));
                same.check_union(memory).map_err(at)?;
            }
        }
        let mut merged = MergedIndices {
            modules: modules.iter().map(|place| ModuleIndex(place.0)).collect(),
            instances: instances.iter().map(|place| InstanceIndex(place.0)).collect(),
            memories: memories.iter().map(|place| MemoryIndex(place.0)).collect(),
            globals: globals.iter().map(|place| GlobalIndex(place.0)).collect(),
            threads: 0..0,
        };

        put(&mut self.modules, other.modules, &modules, Module::unite);
        put(&mut self.memories, other.memories, &memories, Memory::unite);
        self.globals.extend(other.globals);
        let renumbered = other.instances.into_iter().map(|instance| merged.instance(instance));
        self.instances.extend(renumbered);
        self.merge_reasons(other.trap, other.notes, &other.threads);
        self.captured_at = self.captured_at.or(other.captured_at);
        let first = self.threads.len();
        self.threads.extend(other.threads.into_iter().map(|thread| merged.thread(thread)));
        merged.threads = first..self.threads.len();
        Ok(merged)
    }

    /// Adds a thread whose frames could not be captured, and a note that says why.
    ///
    /// [`merge`](Self::merge) has an example.
    pub fn add_missing_thread(&mut self, name: impl Into<String>, why: &str) {
        let name = name.into();
        self.notes.push(format!("thread `{name}` was not captured: {why}"));
        self.add_thread(Thread::new(name));
    }

    /// Takes the trap and the notes of a description whose `threads` are going to follow those of this one.
    fn merge_reasons(&mut self, trap: Option<String>, notes: Vec<String>, threads: &[Thread]) {
        // An empty message means that there was no trap.
        let trap = trap.filter(|trap| !trap.is_empty());
        match (self.trap.as_deref(), trap) {
            (None | Some(""), trap) => self.trap = trap,
            (Some(_), None) => {}
            (Some(_), Some(trap)) => {
                let of = threads.first().map_or_else(
                    || "another part of the process".to_string(),
                    |thread| format!("thread `{}`", thread.name),
                );
                self.notes.push(format!("{of} stopped by: {trap}"));
            }
        }
        for note in notes {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
    }
}

/// The index of an item in the result.
struct Place(u32);

/// Returns the index of each item of `other` in the result: that of the same item in `list`, or a new one.
fn places<T>(
    list: &[T],
    other: &[T],
    what: &str,
    is_same: impl Fn(&T, &T) -> bool,
) -> Result<Vec<Place>> {
    let mut new = list.len()..=usize::MAX;
    let place = |item: &T| {
        let known = list.iter().position(|known| is_same(known, item));
        let index = known.or_else(|| new.next()).and_then(|index| u32::try_from(index).ok());
        // `u32::MAX` means "unknown".
        index.filter(|index| *index != u32::MAX).map(Place).ok_or_else(|| {
            Error::model(format!("the merged dump has too many {what}; at most {}", u32::MAX))
        })
    };
    other.iter().map(place).collect()
}

/// Puts each item at its place: appends it, or unites it with the item that is there.
fn put<T>(list: &mut Vec<T>, other: Vec<T>, places: &[Place], unite: impl Fn(&mut T, T)) {
    for (item, place) in other.into_iter().zip(places) {
        match list.get_mut(place.0 as usize) {
            Some(same) => unite(same, item),
            None => list.push(item),
        }
    }
}

impl MergedIndices {
    /// Renumbers an instance of the merged description.
    fn instance(&self, instance: Instance) -> Instance {
        let memories = instance.memories.into_iter().map(|item| at(&self.memories, item?.0));
        let globals = instance.globals.into_iter().map(|item| at(&self.globals, item?.0));
        Instance {
            module: instance.module.and_then(|module| at(&self.modules, module.0)),
            memories: memories.collect(),
            globals: globals.collect(),
        }
    }

    /// Renumbers the frames of a thread of the merged description.
    fn thread(&self, mut thread: Thread) -> Thread {
        for frame in &mut thread.frames {
            frame.instance = frame.instance.and_then(|instance| at(&self.instances, instance.0));
        }
        thread
    }
}

/// Returns the new index of an item, given its old one.
fn at<T: Copy>(indices: &[T], index: u32) -> Option<T> {
    indices.get(index as usize).copied()
}

impl Module {
    /// Returns whether both are certainly the same module.
    fn is_same_module(&self, other: &Self) -> bool {
        let same_key = self.key.is_some() && self.key == other.key;
        let (one, two) = (&self.identity, &other.identity);
        let same_bytes = one.sha256.is_some() && one.sha256 == two.sha256;
        // The core instances of a component have modules of their own, which have the same key and different names.
        self.name == other.name && (same_key || same_bytes) && agree(one, two)
    }

    /// Adds the facts of the same module in another description.
    fn unite(&mut self, other: Self) {
        self.key = self.key.or(other.key);
        self.identity.build_id = self.identity.build_id.take().or(other.identity.build_id);
        self.identity.sha256 = self.identity.sha256.or(other.identity.sha256);
    }
}

/// Returns whether two identities do not contradict each other.
fn agree(one: &ModuleIdentity, two: &ModuleIdentity) -> bool {
    fn agree<T: PartialEq>(one: Option<&T>, two: Option<&T>) -> bool {
        one.zip(two).is_none_or(|(one, two)| one == two)
    }
    agree(one.sha256.as_ref(), two.sha256.as_ref())
        && agree(one.build_id.as_ref(), two.build_id.as_ref())
}

impl<'a> Memory<'a> {
    /// Returns whether both are certainly the same memory.
    fn is_same_memory(&self, other: &Self) -> bool {
        let of_any_size = |memory: &Self| super::MemoryType { minimum: 0, ..memory.ty };
        self.image.is_same_memory(&other.image)
            && of_any_size(self) == of_any_size(other)
            && (self.ty.shared || self.ty.minimum == other.ty.minimum)
    }

    /// Checks that [`unite`](Self::unite) makes no memory whose excluded ranges are invalid.
    fn check_union(&self, other: &Self) -> Result<()> {
        let size = self.ty.size().max(other.ty.size());
        self.exclusions
            .excluded(size)
            .and(other.exclusions.excluded(size))
            .map_err(Error::model)?;
        Ok(())
    }

    /// Adds the facts of the same memory in another description: its size if it is larger, and its excluded ranges.
    fn unite(&mut self, other: Self) {
        let size = self.ty.size().max(other.ty.size());
        // `check_union` has checked them.
        let excluded = other.exclusions.excluded(size).unwrap_or_default();
        for range in excluded.iter() {
            self.exclude(range.clone());
        }
        let is_changing = self.image.is_changing() || other.image.is_changing();
        if other.ty.minimum > self.ty.minimum {
            (self.ty, self.image) = (other.ty, other.image);
        }
        if is_changing && !self.image.is_changing() {
            self.image.set_changing();
        }
    }
}
