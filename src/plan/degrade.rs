//! Chooses the parts of a guest that fit into the limits of the format.
//!
//! # The problem
//! A module has limits on its numbers of memories and globals, on the length of a name and on the size of a section
//! ([`limits`]). A crashed guest may exceed all of them: an endless recursion leaves millions of frames. Such a guest
//! is the one to explain, so corestream never rejects a guest for its shape. It omits or shortens parts, and reports
//! each of them as a [`Shortfall`].
//!
//! # The idea
//! The parts that explain the crash come first:
//!
//! - Of each thread, as many frames as fit into its section, the youngest first.
//! - If there are too many memories or globals, those of the instances of the youngest frames, one frame of every
//!   thread at a time, then the others in the order of the description.
//! - Modules, instances and threads, as many as fit, in the order of the description.
//!
//! Kept items stay in the order of the description but get new indices, so the dump and the description have two index
//! spaces. [`KeptItems`] maps one to the other. References to an omitted memory or global become
//! [`limits::UNKNOWN_INDEX`].
//!
//! # The cost
//! One table with an entry for each item. The search stops once the dump is full, so millions of frames that refer to
//! the same few items cost at most one look each. Lengths are upper bounds, which need no second encoder. So a section
//! may be called full before it reaches 4 GiB.

use std::{fmt, iter};

use crate::error::{Error, Result};
use crate::format::{IDENTITIES, IdentitiesHead, IdentityHead, SHA256_BYTES, name_bytes};
use crate::limits;
use crate::model::{
    CoreDump, GlobalIndex, Instance, MemoryIndex, ModuleIdentity, ModuleIndex, Thread, Value,
};

/// A part of the guest that the dump omits or shortens, because the format has no room for it.
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
/// assert_eq!(plan.shortfalls()[0].to_string(), "memory 100 is omitted: a dump has at most 100 memories");
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Shortfall {
    /// A memory beyond [`limits::MAX_MEMORIES`] is omitted. The index is the one in the description. Instances refer to
    /// the memory as unknown.
    Memory(MemoryIndex),
    /// This number of globals beyond [`limits::MAX_GLOBALS`] is omitted.
    Globals(usize),
    /// A name longer than [`limits::MAX_NAME_BYTES`] is shortened.
    Name {
        /// The owner of the name, such as `module 0`.
        of: String,
        /// Its length in bytes.
        len: usize,
    },
    /// The oldest frames of a thread are omitted, because they do not fit into its section.
    Frames {
        /// The index of the thread.
        thread: usize,
        /// The number of its frames in the dump.
        kept: usize,
        /// The number of its frames.
        of: usize,
    },
    /// This number of instances is omitted, because they do not fit into the section. Frames refer to them by an index
    /// that is not listed.
    Instances(usize),
    /// This number of modules is omitted, because they do not fit into the section.
    Modules(usize),
    /// This number of threads beyond [`limits::MAX_LISTED_THREADS`] is omitted.
    Threads(usize),
    /// The message of the trap has this many bytes, more than [`limits::MAX_TRAP_BYTES`], and is shortened.
    Trap(usize),
    /// A build id longer than [`limits::MAX_BUILD_ID_BYTES`] is omitted: a part of it would identify nothing.
    BuildId {
        /// The module.
        module: ModuleIndex,
        /// Its length in bytes.
        len: usize,
    },
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: &usize| if *n == 1 { "" } else { "s" };
        let are = |n: &usize| if *n == 1 { "is" } else { "are" };
        match self {
            Self::Memory(index) => {
                let max = limits::MAX_MEMORIES;
                write!(f, "memory {index} is omitted: a dump has at most {max} memories")
            }
            Self::Globals(n) => {
                let max = limits::MAX_GLOBALS;
                let (s, are) = (plural(n), are(n));
                write!(f, "{n} global{s} {are} omitted: a dump has at most {max} globals")
            }
            Self::Name { of, len } => {
                let max = limits::MAX_NAME_BYTES;
                write!(
                    f,
                    "the name of {of} has {len} bytes and is shortened: a dump can hold {max}"
                )
            }
            Self::Frames { thread, kept, of } => {
                let (fits, s) = if *kept == 1 { ("fits", "") } else { ("fit", "s") };
                write!(
                    f,
                    "thread {thread} has {of} frames: only the youngest {kept} frame{s} {fits} in the dump"
                )
            }
            Self::Instances(n) => {
                let (s, are) = (plural(n), are(n));
                write!(f, "the last {n} instance{s} {are} omitted: a section cannot hold all")
            }
            Self::Modules(n) => {
                let (s, are) = (plural(n), are(n));
                write!(f, "the last {n} module{s} {are} omitted: a section cannot hold all")
            }
            Self::Threads(n) => {
                let max = limits::MAX_LISTED_THREADS;
                let (s, are) = (plural(n), are(n));
                write!(f, "the last {n} thread{s} {are} omitted: a dump has at most {max} threads")
            }
            Self::Trap(len) => {
                let max = limits::MAX_TRAP_BYTES;
                write!(
                    f,
                    "the message of the trap has {len} bytes and is shortened: a dump can hold {max}"
                )
            }
            Self::BuildId { module, len } => {
                let max = limits::MAX_BUILD_ID_BYTES;
                write!(
                    f,
                    "the build id of module {module} has {len} bytes and is omitted: a dump can hold {max}"
                )
            }
        }
    }
}

/// The items of one kind that a dump keeps, with the indices of the description and of the dump.
#[derive(Debug)]
pub(crate) struct KeptItems<I> {
    /// The description's index of each item of the dump, in the dump's order.
    pub(crate) items: Vec<I>,
    /// The dump's index of each item of the description, in the description's order.
    dump_indices: Vec<Option<u32>>,
}

impl<I: From<u32> + Into<u32> + Copy> KeptItems<I> {
    /// Keeps at most `max` of `count` items: those in `first`, then the others in their order.
    ///
    /// # Errors
    /// Returns an error if its tables cannot be allocated.
    fn choose<F: Iterator<Item = I>>(
        count: usize,
        max: usize,
        first: impl FnOnce() -> F,
    ) -> Result<Self> {
        let dump_indices = choose(count, max, || first().map(|index| index.into() as usize))?;
        let kept = dump_indices.iter().flatten().count();
        let items = (0..).zip(&dump_indices).filter_map(|(i, kept)| kept.map(|_| I::from(i)));
        Ok(Self { items: collect(kept, items)?, dump_indices })
    }

    /// Returns the description's indices of the items that are not in the dump.
    fn missing(&self) -> impl Iterator<Item = I> {
        (0..).zip(&self.dump_indices).filter(|(_, kept)| kept.is_none()).map(|(i, _)| I::from(i))
    }

    /// Returns the dump's index of an item, or [`limits::UNKNOWN_INDEX`] if the item is unknown or not in the dump.
    pub(crate) fn dump_index(&self, index: Option<I>) -> u32 {
        let kept = index.and_then(|index| self.dump_indices.get(index.into() as usize));
        kept.copied().flatten().unwrap_or(limits::UNKNOWN_INDEX)
    }
}

/// The parts of a guest that a dump keeps.
#[derive(Debug)]
pub(crate) struct KeptParts {
    pub(crate) memories: KeptItems<MemoryIndex>,
    pub(crate) globals: KeptItems<GlobalIndex>,
    /// The number of modules in the dump.
    pub(crate) modules: usize,
    /// The number of instances in the dump.
    pub(crate) instances: usize,
    /// The number of frames in the dump for each of its threads.
    pub(crate) frames: Vec<usize>,
    /// The parts that the dump omits or shortens.
    pub(crate) shortfalls: Vec<Shortfall>,
}

impl KeptParts {
    /// Chooses the parts of `dump` that fit.
    ///
    /// # Errors
    /// Returns an error if a table cannot be allocated.
    pub(crate) fn choose(dump: &CoreDump<'_>) -> Result<Self> {
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
        report_long_names(dump, &mut shortfalls);

        let modules = dump.modules.iter().enumerate().take(limits::MAX_LISTED);
        let modules = count_fitting(modules.map(|(i, m)| max_name_len(&m.name_or_anonymous(i))));
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
        let instances = count_fitting(instances.map(max_instance_len));
        let missing_instances = dump.instances.iter().skip(instances).len();
        if missing_instances > 0 {
            shortfalls.push(Shortfall::Instances(missing_instances));
        }
        let threads = dump.threads.iter().take(limits::MAX_LISTED_THREADS);
        let frames = collect(threads.len(), threads.map(count_fitting_frames))?;
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

/// Collects at most `count` items.
///
/// # Errors
/// Returns an error if the table cannot be allocated.
fn collect<T>(count: usize, items: impl Iterator<Item = T>) -> Result<Vec<T>> {
    let mut table = Vec::new();
    let out_of_memory = |_| Error::out_of_memory("the table of the parts of the guest to dump");
    table.try_reserve_exact(count).map_err(out_of_memory)?;
    table.extend(items.take(count));
    Ok(table)
}

/// Returns as many characters of `name` as a dump can hold.
pub(crate) fn truncate_name(name: &str) -> &str {
    name.split_at(name.floor_char_boundary(limits::MAX_NAME_BYTES)).0
}

/// Returns as many characters of a trap's message as a dump can hold.
pub(crate) fn truncate_trap(message: &str) -> &str {
    message.split_at(message.floor_char_boundary(limits::MAX_TRAP_BYTES)).0
}

/// Returns the build id of a module for a dump: empty if there is none, or if it is too long.
pub(crate) fn kept_build_id(identity: &ModuleIdentity) -> &[u8] {
    let build_id = identity.build_id.as_deref();
    build_id.filter(|build_id| build_id.len() <= limits::MAX_BUILD_ID_BYTES).unwrap_or_default()
}

// The identities of all modules of a dump fit into one section.
const _: () = {
    let longest = size_of::<IdentityHead>() + SHA256_BYTES + limits::MAX_BUILD_ID_BYTES;
    let head = name_bytes(IDENTITIES) + size_of::<u32>() + size_of::<IdentitiesHead>();
    assert!(limits::MAX_LISTED * longest + head <= limits::MAX_SECTION_BYTES as usize);
};

/// Returns the new index of each of `count` items if at most `max` of them are kept: those in `first`, then the others
/// in their order.
fn choose<I: Iterator<Item = usize>>(
    count: usize,
    max: usize,
    first: impl FnOnce() -> I,
) -> Result<Vec<Option<u32>>> {
    if count <= max {
        return collect(count, (0..).map(Some));
    }
    let mut chosen = collect(count, iter::repeat(false))?;
    let mut room = 0..max;
    for item in first().chain(0..count) {
        // The frames of a crashed guest may refer to the same few items a million times.
        if room.is_empty() {
            break;
        }
        if let Some(chosen) = chosen.get_mut(item).filter(|chosen| !**chosen) {
            *chosen = true;
            room.next();
        }
    }
    let mut next = 0..;
    collect(count, chosen.into_iter().map(|chosen| if chosen { next.next() } else { None }))
}

/// Returns the instances of all frames, the youngest frame of every thread first.
fn instances_by_age<'d>(dump: &'d CoreDump<'_>) -> impl Iterator<Item = &'d Instance> + 'd {
    let deepest = dump.threads.iter().map(|t| t.frames.len()).fold(0, usize::max);
    (0..deepest)
        .flat_map(|depth| dump.threads.iter().filter_map(move |t| t.frames.get(depth)))
        .filter_map(|frame| dump.instances.get(frame.instance?.0 as usize))
}

/// Reports the names that are too long for a dump.
fn report_long_names(dump: &CoreDump<'_>, shortfalls: &mut Vec<Shortfall>) {
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

/// Returns the maximum length in bytes of `count` 32-bit LEB128 numbers, or `None` if it exceeds 64 bits.
fn max_leb_len(count: usize) -> Option<u64> {
    (count as u64).checked_mul(limits::MAX_LEB_U32_BYTES.into())
}

/// Returns the maximum length in bytes of a name and the flag before it.
fn max_name_len(name: &str) -> Option<u64> {
    max_leb_len(2)?.checked_add(truncate_name(name).len() as u64)
}

/// Returns the maximum length in bytes of an instance, or `None` if its index spaces exceed the limits of engines and
/// readers.
fn max_instance_len(instance: &Instance) -> Option<u64> {
    if instance.memories.len().max(instance.globals.len()) > limits::MAX_GLOBALS {
        return None;
    }
    let lists =
        max_leb_len(instance.memories.len())?.checked_add(max_leb_len(instance.globals.len())?)?;
    lists.checked_add(max_leb_len(4)?)
}

/// Returns how many items of these maximum lengths fit into the body of a section, in order. An item without a length
/// exceeds a limit of readers and never fits.
fn count_fitting(lengths: impl Iterator<Item = Option<u64>>) -> usize {
    // The names of the section and of a thread, and a count, precede the items.
    const ROOM: u64 = limits::MAX_SECTION_BYTES as u64 - limits::MAX_NAME_BYTES as u64 - 64;
    let mut room = ROOM;
    let fits = |len: Option<u64>| {
        room = room.checked_sub(len?)?;
        Some(())
    };
    lengths.map_while(fits).count()
}

/// Returns how many frames of `thread` fit into its section, the youngest first.
fn count_fitting_frames(thread: &Thread) -> usize {
    // The type of a value and its longest encoding, that of an `i64`.
    const MAX_VALUE_LEN: u64 = 11;
    let values = |list: &[Value]| {
        let len = Some(list.len()).filter(|len| *len <= limits::MAX_FRAME_VALUES)?;
        (len as u64).checked_mul(MAX_VALUE_LEN)
    };
    count_fitting(thread.frames.iter().map(|frame| {
        let values = values(&frame.locals)?.checked_add(values(&frame.stack)?)?;
        values.checked_add(max_leb_len(6)?)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_kept_items_in_both_directions() {
        let indices = |list: &[u32]| list.iter().copied().map(MemoryIndex).collect::<Vec<_>>();
        let first = indices(&[4, 9, 4, 1]);
        let kept = KeptItems::choose(6, 3, || first.into_iter()).unwrap();
        assert_eq!(kept.items, indices(&[0, 1, 4]));
        assert_eq!(kept.missing().collect::<Vec<_>>(), indices(&[2, 3, 5]));
        let dump_index = |index| kept.dump_index(Some(MemoryIndex(index)));
        assert_eq!([0, 1, 4].map(dump_index), [0, 1, 2]);
        assert_eq!([2, 3, 5, 6].map(dump_index), [limits::UNKNOWN_INDEX; 4]);
        assert_eq!(kept.dump_index(None), limits::UNKNOWN_INDEX);
    }

    #[test]
    fn says_what_is_omitted_in_words() {
        let module = ModuleIndex(7);
        let said = |shortfall: Shortfall| shortfall.to_string();
        assert!(said(Shortfall::Memory(MemoryIndex(9))).starts_with("memory 9 is omitted: "));
        for (one, more) in [
            (Shortfall::Globals(1), Shortfall::Globals(2)),
            (Shortfall::Instances(1), Shortfall::Instances(2)),
            (Shortfall::Modules(1), Shortfall::Modules(2)),
            (Shortfall::Threads(1), Shortfall::Threads(2)),
        ] {
            let (one, more) = (said(one), said(more));
            assert!(
                one.contains(" is omitted: ") && more.contains("s are omitted: "),
                "{one} {more}"
            );
        }
        let kept = |kept| said(Shortfall::Frames { thread: 3, kept, of: 40 });
        assert_eq!(kept(1), "thread 3 has 40 frames: only the youngest 1 frame fits in the dump");
        assert_eq!(kept(2), "thread 3 has 40 frames: only the youngest 2 frames fit in the dump");
        let name = said(Shortfall::Name { of: "module 0".into(), len: 99 });
        assert!(name.starts_with("the name of module 0 has 99 bytes and is shortened"), "{name}");
        assert!(said(Shortfall::Trap(5)).contains("5 bytes"));
        assert!(said(Shortfall::BuildId { module, len: 300 }).contains("300 bytes"));
    }

    #[test]
    fn chooses_the_first_items_and_keeps_the_order() {
        let chosen = choose(6, 3, || [4, 4, 1].into_iter()).unwrap();
        assert_eq!(chosen, [Some(0), Some(1), None, None, Some(2), None]);
        assert_eq!(choose(2, 3, || [].into_iter()).unwrap(), [Some(0), Some(1)]);
    }

    #[test]
    fn counts_the_items_that_fit_into_a_section() {
        let max = u64::from(limits::MAX_SECTION_BYTES);
        assert_eq!(count_fitting([max / 2, max / 3, max / 4, 1].into_iter().map(Some)), 2);
        assert_eq!(count_fitting([1, 2].into_iter().map(Some)), 2);
        assert_eq!(count_fitting([Some(1), None, Some(1)].into_iter()), 1);
    }
}
