//! Matches the shared memories of a dump with the memory indices of the guest.
//!
//! Without guest debugging, the library only finds exported shared memories, and an export does not reveal the index.
//! [`expose`](super::expose) adds an export for each shared memory, in the order of the indices. The dump lists the
//! shared memories in the order of the exports, each once, which determines the indices.

use corestream::{CoreDump, MemoryIndex};
use corestream_wasmtime::Note;
use wasmtime::{AsContextMut, Extern, Instance};

use super::expose::memory_export;

/// The shared memories of the guest.
#[derive(Default)]
pub struct Memories {
    /// The address of the first byte of each memory, in the order of the exports.
    listed: Vec<usize>,
    /// For each memory index of the guest, the position in that list.
    indices: Vec<(u32, usize)>,
}

impl Memories {
    /// Finds the shared memories of `instance`.
    pub fn of(store: &mut impl AsContextMut, instance: Instance) -> Self {
        let mut this = Self::default();
        for export in instance.exports(&mut *store) {
            if let Some(address) = address(export.into_extern())
                && !this.listed.contains(&address)
            {
                this.listed.push(address);
            }
        }
        let count = instance.module(&mut *store).resources_required().num_memories;
        for index in 0..count {
            let export = instance.get_export(&mut *store, &memory_export(index));
            if let Some(address) = export.and_then(address)
                && let Some(listed) = this.listed.iter().position(|other| *other == address)
            {
                this.indices.push((index, listed));
            }
        }
        this
    }

    /// Sets the memory indices in the dump that the library could not determine.
    pub fn place(&self, dump: &mut CoreDump<'_>, notes: &mut Vec<Note>) {
        let memories = dump.memories.iter().enumerate();
        let shared = memories.filter(|(_, memory)| memory.ty.shared);
        let shared: Vec<_> = shared.filter_map(|(item, _)| u32::try_from(item).ok()).collect();
        let [instance] = &mut dump.instances[..] else { return };
        if shared.len() != self.listed.len() {
            return;
        }
        for (index, listed) in &self.indices {
            let slot = usize::try_from(*index).ok().and_then(|i| instance.memories.get_mut(i));
            if let (Some(slot @ None), Some(item)) = (slot, shared.get(*listed)) {
                *slot = Some(MemoryIndex(*item));
                notes.retain(
                    |note| !matches!(note, Note::Memory { index: known, .. } if known == index),
                );
            }
        }
    }
}

fn address(item: Extern) -> Option<usize> {
    item.into_shared_memory().map(|memory| memory.data().as_ptr().addr())
}
