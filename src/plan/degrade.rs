//! What of a guest fits into the limits of the format, and what has to be left out.
//!
//! A crashed guest is never refused for its shape: frames are kept first, then the memories and
//! globals of the youngest frames, then the others in their order.

use std::{fmt, iter};

use crate::error::{Error, Result};
use crate::format::{
    IDENTITIES, IdentitiesHead, IdentityHead, SHA256_BYTES, name_bytes as name_bytes_of,
};
use crate::limits;
use crate::model::{
    CoreDump, GlobalIndex, Instance, MemoryIndex, ModuleIdentity, ModuleIndex, Thread, Value,
};

/// Something that a dump had to leave out, because the format has no room for it.
///
/// ```
/// use corestream::limits::MAX_MEMORIES;
/// use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryIndex, MemoryType, Shortfall};
///
/// let mut dump = CoreDump::new("guest.wasm");
/// for _ in 0..=MAX_MEMORIES {
///     dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&[7])));
/// }
/// let plan = Dumper::new().plan(&dump)?;
/// assert_eq!(plan.shortfalls(), [Shortfall::Memory(MemoryIndex(100))]);
/// assert_eq!(plan.shortfalls()[0].to_string(), "memory 100 is left out: a dump has at most 100 memories");
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Shortfall {
    /// A memory over [`limits::MAX_MEMORIES`] is left out; instances refer to it as not known. The index is that of
    /// the description.
    Memory(MemoryIndex),
    /// So many globals over [`limits::MAX_GLOBALS`] are left out.
    Globals(usize),
    /// A name over [`limits::MAX_NAME_BYTES`] is cut off.
    Name {
        /// Whose name.
        of: String,
        /// Its length in bytes.
        len: usize,
    },
    /// The oldest frames of a thread do not fit into a section.
    Frames {
        /// The index of the thread.
        thread: usize,
        /// How many of its frames are in the dump.
        kept: usize,
        /// How many it has.
        of: usize,
    },
    /// Instances do not fit into a section; frames refer to them by an index that is not listed.
    Instances(usize),
    /// Modules do not fit into a section.
    Modules(usize),
    /// So many threads over [`limits::MAX_LISTED_THREADS`] are left out.
    Threads(usize),
    /// The message of the trap, of so many bytes, is over [`limits::MAX_TRAP_BYTES`] and cut off.
    Trap(usize),
    /// A build id over [`limits::MAX_BUILD_ID_BYTES`] is left out: a part of one identifies nothing.
    BuildId {
        /// Whose build id.
        module: ModuleIndex,
        /// Its length in bytes.
        len: usize,
    },
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memories = limits::MAX_MEMORIES;
        let globals = limits::MAX_GLOBALS;
        let name = limits::MAX_NAME_BYTES;
        match self {
            Self::Memory(index) => {
                write!(f, "memory {index} is left out: a dump has at most {memories} memories")
            }
            Self::Globals(n) => {
                write!(f, "{n} globals are left out: a dump has at most {globals} globals")
            }
            Self::Name { of, len } => {
                write!(
                    f,
                    "the name of {of} is cut from {len} bytes to the {name} that a dump can hold"
                )
            }
            Self::Frames { thread, kept, of } => {
                write!(f, "thread {thread} has {of} frames, the oldest are left out after {kept}")
            }
            Self::Instances(n) => write!(f, "the last {n} instances do not fit into a section"),
            Self::Modules(n) => write!(f, "the last {n} modules do not fit into a section"),
            Self::Threads(n) => {
                let most = limits::MAX_LISTED_THREADS;
                write!(f, "the last {n} threads are left out: a dump has at most {most} threads")
            }
            Self::Trap(len) => {
                let most = limits::MAX_TRAP_BYTES;
                write!(
                    f,
                    "the message of the trap is cut from {len} bytes to the {most} that a dump can hold"
                )
            }
            Self::BuildId { module, len } => {
                let most = limits::MAX_BUILD_ID_BYTES;
                write!(
                    f,
                    "the build id of module {module} is left out: it has {len} bytes, a dump can hold {most}"
                )
            }
        }
    }
}

/// The items of one kind that a dump keeps, and the two index spaces: the model's and the dump's.
#[derive(Debug)]
pub(crate) struct KeptItems<I> {
    /// The model's index of each item of the dump, in the dump's order.
    pub(crate) items: Vec<I>,
    /// The dump's index of each item of the model, in the model's order.
    places: Vec<Option<u32>>,
}

impl<I: From<u32> + Into<u32> + Copy> KeptItems<I> {
    /// Keeps at most `most` of `count` items: those in `first` first, then the others in their order.
    ///
    /// # Errors
    /// Returns an error if its tables cannot be allocated.
    fn choose<F: Iterator<Item = I>>(
        count: usize,
        most: usize,
        first: impl FnOnce() -> F,
    ) -> Result<Self> {
        let places = choose(count, most, || first().map(|index| index.into() as usize))?;
        let kept = places.iter().flatten().count();
        let items = (0..).zip(&places).filter_map(|(i, place)| place.map(|_| I::from(i)));
        Ok(Self { items: table(kept, items)?, places })
    }

    /// Returns the model's indices of the items that are not in the dump.
    fn missing(&self) -> impl Iterator<Item = I> {
        (0..).zip(&self.places).filter(|(_, place)| place.is_none()).map(|(i, _)| I::from(i))
    }

    /// Returns the index that the dump has for an item: [`limits::UNKNOWN_INDEX`] if it is unknown or not in the dump.
    pub(crate) fn in_dump(&self, index: Option<I>) -> u32 {
        let place = index.and_then(|index| self.places.get(index.into() as usize));
        place.copied().flatten().unwrap_or(limits::UNKNOWN_INDEX)
    }
}

/// What a dump keeps of a guest.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) memories: KeptItems<MemoryIndex>,
    pub(crate) globals: KeptItems<GlobalIndex>,
    /// How many modules are listed.
    pub(crate) modules: usize,
    /// How many instances are listed.
    pub(crate) instances: usize,
    /// For each thread of the dump how many of its frames are written.
    pub(crate) frames: Vec<usize>,
    /// What is missing.
    pub(crate) shortfalls: Vec<Shortfall>,
}

impl Kept {
    /// # Errors
    /// Returns an error if a table cannot be allocated.
    pub(crate) fn of(dump: &CoreDump<'_>) -> Result<Self> {
        let mut shortfalls = Vec::new();
        let memories = KeptItems::choose(dump.memories.len(), limits::MAX_MEMORIES, || {
            instances_by_age(dump).flat_map(|instance| instance.memories.iter().copied().flatten())
        })?;
        let globals = KeptItems::choose(dump.globals.len(), limits::MAX_GLOBALS, || {
            instances_by_age(dump).flat_map(|instance| instance.globals.iter().copied().flatten())
        })?;
        shortfalls.extend(memories.missing().map(Shortfall::Memory));
        let missing_globals = globals.missing().count();
        if missing_globals > 0 {
            shortfalls.push(Shortfall::Globals(missing_globals));
        }
        note_names(dump, &mut shortfalls);

        let modules = dump.modules.iter().enumerate().take(limits::MAX_LISTED);
        let modules = fitting(modules.map(|(i, m)| name_bytes(&m.name_or_anonymous(i))));
        let missing_modules = dump.modules.iter().skip(modules).len();
        if missing_modules > 0 {
            shortfalls.push(Shortfall::Modules(missing_modules));
        }
        for (index, module) in (0..).zip(&dump.modules).take(modules) {
            let len = module.identity.build_id.as_ref().map_or(0, Vec::len);
            if len > limits::MAX_BUILD_ID_BYTES {
                shortfalls.push(Shortfall::BuildId { module: ModuleIndex(index), len });
            }
        }
        let trap = dump.trap.as_ref().map_or(0, String::len);
        if trap > limits::MAX_TRAP_BYTES {
            shortfalls.push(Shortfall::Trap(trap));
        }
        let instances = dump.instances.iter().take(limits::MAX_LISTED);
        let instances = fitting(instances.map(instance_bytes));
        let missing_instances = dump.instances.iter().skip(instances).len();
        if missing_instances > 0 {
            shortfalls.push(Shortfall::Instances(missing_instances));
        }
        let threads = dump.threads.iter().take(limits::MAX_LISTED_THREADS);
        let frames = table(threads.len(), threads.map(frames_that_fit))?;
        let missing_threads = dump.threads.iter().skip(frames.len()).len();
        if missing_threads > 0 {
            shortfalls.push(Shortfall::Threads(missing_threads));
        }
        for (thread, (kept, all)) in frames.iter().copied().zip(&dump.threads).enumerate() {
            let of = all.frames.len();
            if kept < of {
                shortfalls.push(Shortfall::Frames { thread, kept, of });
            }
        }
        Ok(Self { memories, globals, modules, instances, frames, shortfalls })
    }
}

/// All of at most `count` items.
fn table<T>(count: usize, items: impl Iterator<Item = T>) -> Result<Vec<T>> {
    let mut table = Vec::new();
    let no_room = |_| Error::out_of_memory("the table of what is kept of the guest");
    table.try_reserve_exact(count).map_err(no_room)?;
    table.extend(items.take(count));
    Ok(table)
}

/// `name`, or as many characters of it as a dump can hold.
pub(crate) fn cut(name: &str) -> &str {
    name.split_at(name.floor_char_boundary(limits::MAX_NAME_BYTES)).0
}

/// Returns the message of a trap, or as many characters of it as a dump can hold.
pub(crate) fn cut_trap(message: &str) -> &str {
    message.split_at(message.floor_char_boundary(limits::MAX_TRAP_BYTES)).0
}

/// Returns the build id that a dump holds of a module; it is empty without one.
pub(crate) fn kept_build_id(identity: &ModuleIdentity) -> &[u8] {
    let build_id = identity.build_id.as_deref();
    build_id.filter(|build_id| build_id.len() <= limits::MAX_BUILD_ID_BYTES).unwrap_or_default()
}

// The identities of all modules that a dump lists fit into a section.
const _: () = {
    let longest = size_of::<IdentityHead>() + SHA256_BYTES + limits::MAX_BUILD_ID_BYTES;
    let head = name_bytes_of(IDENTITIES) + size_of::<u32>() + size_of::<IdentitiesHead>();
    assert!(limits::MAX_LISTED * longest + head <= limits::MAX_SECTION_BYTES as usize);
};

/// For each of `count` items its new index if at most `most` are kept: those in `first` first.
fn choose<I: Iterator<Item = usize>>(
    count: usize,
    most: usize,
    first: impl FnOnce() -> I,
) -> Result<Vec<Option<u32>>> {
    if count <= most {
        return table(count, (0..).map(Some));
    }
    let mut chosen = table(count, iter::repeat(false))?;
    let mut places = 0..most;
    for item in first().chain(0..count) {
        // The frames of a crashed guest may name the same few items a million times.
        if places.is_empty() {
            break;
        }
        if let Some(chosen) = chosen.get_mut(item).filter(|chosen| !**chosen) {
            *chosen = true;
            places.next();
        }
    }
    let mut next = 0..;
    table(count, chosen.into_iter().map(|chosen| if chosen { next.next() } else { None }))
}

/// The instances of all frames, the youngest frame of every thread first.
fn instances_by_age<'d>(dump: &'d CoreDump<'_>) -> impl Iterator<Item = &'d Instance> + 'd {
    let deepest = dump.threads.iter().map(|t| t.frames.len()).fold(0, usize::max);
    (0..deepest)
        .flat_map(|depth| dump.threads.iter().filter_map(move |t| t.frames.get(depth)))
        .filter_map(|frame| dump.instances.get(frame.instance?.0 as usize))
}

fn note_names(dump: &CoreDump<'_>, shortfalls: &mut Vec<Shortfall>) {
    let mut note = |name: &str, of: String| {
        if name.len() > limits::MAX_NAME_BYTES {
            shortfalls.push(Shortfall::Name { of, len: name.len() });
        }
    };
    note(&dump.name, "the process".into());
    for (i, module) in dump.modules.iter().enumerate() {
        note(module.name.as_deref().unwrap_or_default(), format!("module {i}"));
    }
    for (i, thread) in dump.threads.iter().enumerate() {
        note(&thread.name, format!("thread {i}"));
    }
}

/// Returns an upper bound for `count` LEB128 of 32 bits, in bytes; `None` if it has more than 64 bits.
fn leb_bytes(count: usize) -> Option<u64> {
    (count as u64).checked_mul(limits::MAX_LEB_U32_BYTES.into())
}

/// Returns an upper bound for a name and the flag before it.
fn name_bytes(name: &str) -> Option<u64> {
    leb_bytes(2)?.checked_add(cut(name).len() as u64)
}

/// Returns an upper bound for an instance; `None` if its index spaces are longer than any engine's, and a reader's.
fn instance_bytes(instance: &Instance) -> Option<u64> {
    if instance.memories.len().max(instance.globals.len()) > limits::MAX_GLOBALS {
        return None;
    }
    let lists =
        leb_bytes(instance.memories.len())?.checked_add(leb_bytes(instance.globals.len())?)?;
    lists.checked_add(leb_bytes(4)?)
}

/// Returns how many items of these lengths fit into the body of a section, in order. An item whose length is `None`
/// is too long for a reader does not fit.
fn fitting(lengths: impl Iterator<Item = Option<u64>>) -> usize {
    // The names of the section and of a thread, and a count, precede the items.
    const ROOM: u64 = limits::MAX_SECTION_BYTES as u64 - limits::MAX_NAME_BYTES as u64 - 64;
    let mut left = ROOM;
    let fits = |len: Option<u64>| {
        left = left.checked_sub(len?)?;
        Some(())
    };
    lengths.map_while(fits).count()
}

fn frames_that_fit(thread: &Thread) -> usize {
    // The type and the longest encoding of a value, `i64`.
    const VALUE: u64 = 11;
    let values = |list: &[Value]| {
        let len = Some(list.len()).filter(|len| *len <= limits::MAX_FRAME_VALUES)?;
        (len as u64).checked_mul(VALUE)
    };
    fitting(thread.frames.iter().map(|frame| {
        let values = values(&frame.locals)?.checked_add(values(&frame.stack)?)?;
        values.checked_add(leb_bytes(6)?)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_index_spaces_agree() {
        let indices = |list: &[u32]| list.iter().copied().map(MemoryIndex).collect::<Vec<_>>();
        let first = indices(&[4, 9, 4, 1]);
        let kept = KeptItems::choose(6, 3, || first.into_iter()).unwrap();
        assert_eq!(kept.items, indices(&[0, 1, 4]));
        assert_eq!(kept.missing().collect::<Vec<_>>(), indices(&[2, 3, 5]));
        let in_dump = |index| kept.in_dump(Some(MemoryIndex(index)));
        assert_eq!([0, 1, 4].map(in_dump), [0, 1, 2]);
        assert_eq!([2, 3, 5, 6].map(in_dump), [limits::UNKNOWN_INDEX; 4]);
        assert_eq!(kept.in_dump(None), limits::UNKNOWN_INDEX);
    }

    #[test]
    fn what_comes_first_is_chosen_and_order_is_kept() {
        let chosen = choose(6, 3, || [4, 4, 1].into_iter()).unwrap();
        assert_eq!(chosen, [Some(0), Some(1), None, None, Some(2), None]);
        assert_eq!(choose(2, 3, || [].into_iter()).unwrap(), [Some(0), Some(1)]);
    }

    #[test]
    fn as_many_as_fit() {
        let most = u64::from(limits::MAX_SECTION_BYTES);
        assert_eq!(fitting([most / 2, most / 3, most / 4, 1].into_iter().map(Some)), 2);
        assert_eq!(fitting([1, 2].into_iter().map(Some)), 2);
        assert_eq!(fitting([Some(1), None, Some(1)].into_iter()), 1);
    }
}
