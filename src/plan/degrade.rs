//! What of a guest fits into the limits of the format, and what has to be left out.
//!
//! A crashed guest is never refused for its shape: frames are kept first, then the memories and
//! globals of the youngest frames, then the others in their order.

use std::{fmt, iter};

use crate::error::{Error, Result};
use crate::limits;
use crate::model::{CoreDump, GlobalIndex, Instance, MemoryIndex, Thread, Value};

/// Something that a dump had to leave out, because the format has no room for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shortfall {
    /// A memory over [`limits::MAX_MEMORIES`] is left out; instances refer to it as not known.
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
    /// So many threads over [`limits::MAX_LISTED`] are left out.
    Threads(usize),
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
                let most = limits::MAX_LISTED;
                write!(f, "the last {n} threads are left out: a dump has at most {most} threads")
            }
        }
    }
}

/// What is kept of a guest.
#[derive(Debug)]
pub(crate) struct Kept {
    /// For each memory of the dump its index in the model.
    pub(crate) memories: Vec<usize>,
    /// For each memory of the model its index in the dump.
    pub(crate) memory_indices: Vec<Option<u32>>,
    /// For each global of the dump its index in the model.
    pub(crate) globals: Vec<usize>,
    /// For each global of the model its index in the dump.
    pub(crate) global_indices: Vec<Option<u32>>,
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
    /// Its tables can't be had.
    pub(crate) fn of(dump: &CoreDump<'_>) -> Result<Self> {
        let mut shortfalls = Vec::new();
        let memory_indices = choose(dump.memories.len(), limits::MAX_MEMORIES, || {
            let of_frames = instances_by_age(dump).flat_map(|instance| &instance.memories);
            of_frames.filter_map(|m| m.map(|m| m.0 as usize))
        })?;
        let global_indices = choose(dump.globals.len(), limits::MAX_GLOBALS, || {
            let of_frames = instances_by_age(dump).flat_map(|instance| &instance.globals);
            of_frames.filter_map(|g| g.map(|g: GlobalIndex| g.0 as usize))
        })?;
        for (i, kept) in (0..).zip(&memory_indices) {
            if kept.is_none() {
                shortfalls.push(Shortfall::Memory(MemoryIndex(i)));
            }
        }
        let globals = global_indices.iter().filter(|kept| kept.is_none()).count();
        if globals > 0 {
            shortfalls.push(Shortfall::Globals(globals));
        }
        note_names(dump, &mut shortfalls);

        let modules = fitting(
            dump.modules
                .iter()
                .enumerate()
                .take(limits::MAX_LISTED)
                .map(|(i, m)| name_bytes(&m.name_or_anonymous(i))),
        );
        if modules < dump.modules.len() {
            shortfalls.push(Shortfall::Modules(dump.modules.len().saturating_sub(modules)));
        }
        let instances = fitting(
            dump.instances
                .iter()
                .take(limits::MAX_LISTED)
                .map(|i| [4, i.memories.len(), i.globals.len()].map(leb_bytes))
                .map(|parts| parts.into_iter().fold(0, u64::saturating_add)),
        );
        if instances < dump.instances.len() {
            shortfalls.push(Shortfall::Instances(dump.instances.len().saturating_sub(instances)));
        }
        let threads = dump.threads.iter().take(limits::MAX_LISTED);
        let frames = table(threads.len(), threads.map(frames_that_fit))?;
        if frames.len() < dump.threads.len() {
            shortfalls.push(Shortfall::Threads(dump.threads.len().saturating_sub(frames.len())));
        }
        for (thread, (kept, all)) in frames.iter().copied().zip(&dump.threads).enumerate() {
            let of = all.frames.len();
            if kept < of {
                shortfalls.push(Shortfall::Frames { thread, kept, of });
            }
        }
        Ok(Self {
            memories: positions(&memory_indices)?,
            memory_indices,
            globals: positions(&global_indices)?,
            global_indices,
            modules,
            instances,
            frames,
            shortfalls,
        })
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
    let mut left = most;
    for item in first().chain(0..count) {
        if left == 0 {
            break;
        }
        if let Some(chosen) = chosen.get_mut(item).filter(|chosen| !**chosen) {
            *chosen = true;
            left = left.saturating_sub(1);
        }
    }
    let mut next = 0..;
    table(count, chosen.into_iter().map(|chosen| if chosen { next.next() } else { None }))
}

/// The indices of those that have one.
fn positions(indices: &[Option<u32>]) -> Result<Vec<usize>> {
    let count = indices.iter().flatten().count();
    table(count, indices.iter().enumerate().filter_map(|(i, kept)| kept.map(|_| i)))
}

/// The instances of all frames, the youngest frame of every thread first.
fn instances_by_age<'d>(dump: &'d CoreDump<'_>) -> impl Iterator<Item = &'d Instance> + 'd {
    let deepest = dump.threads.iter().map(|t| t.frames.len()).max().unwrap_or(0);
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

/// An upper bound for so many LEB128 of 32 bits.
fn leb_bytes(count: usize) -> u64 {
    (count as u64).saturating_mul(limits::MAX_LEB_U32_BYTES.into())
}

/// An upper bound for a name and the flag before it.
fn name_bytes(name: &str) -> u64 {
    leb_bytes(2).saturating_add(cut(name).len() as u64)
}

/// How many items of these lengths fit into the body of a section.
fn fitting(lengths: impl Iterator<Item = u64>) -> usize {
    // What precedes the items: names of the section and of a thread, and a count.
    const ROOM: u64 = limits::MAX_SECTION_BYTES as u64 - limits::MAX_NAME_BYTES as u64 - 64;
    let mut left = ROOM;
    lengths
        .take_while(|len| {
            let fits = *len <= left;
            left = left.saturating_sub(*len);
            fits
        })
        .count()
}

fn frames_that_fit(thread: &Thread) -> usize {
    // The type and the longest encoding of a value, `i64`.
    const VALUE: u64 = 11;
    let values = |list: &[Value]| (list.len() as u64).saturating_mul(VALUE);
    fitting(
        thread.frames.iter().map(|f| {
            leb_bytes(6).saturating_add(values(&f.locals)).saturating_add(values(&f.stack))
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_is_chosen_and_order_is_kept() {
        let chosen = choose(6, 3, || [4, 4, 1].into_iter()).unwrap();
        assert_eq!(chosen, [Some(0), Some(1), None, None, Some(2), None]);
        assert_eq!(choose(2, 3, || [].into_iter()).unwrap(), [Some(0), Some(1)]);
    }

    #[test]
    fn as_many_as_fit() {
        let most = u64::from(limits::MAX_SECTION_BYTES);
        assert_eq!(fitting([most / 2, most / 3, most / 4, 1].into_iter()), 2);
        assert_eq!(fitting([1, 2].into_iter()), 2);
    }
}
