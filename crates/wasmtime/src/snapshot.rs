//! Snapshots of stores.

use std::fmt;

use wasmtime::{AsContext, AsContextMut};

use super::capture::{Capture, Captured};
use super::inventory::AnyMemory;
use super::note::Note;
use corestream::Result;
use corestream::snapshot::{LiveMemory, Preparation, Snapshot};

/// A frozen guest, and notes on what is unknown. [`Capture::freeze`] returns it.
#[must_use = "the snapshot ends when this is dropped"]
#[non_exhaustive]
pub struct Frozen {
    /// The guest at the moment of the freeze. It borrows nothing, and can be dumped on another thread.
    pub snapshot: Snapshot,
    /// Notes on what is unknown. Usually empty.
    pub notes: Vec<Note>,
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frozen")
            .field("snapshot", &self.snapshot)
            .field("notes", &self.notes)
            .finish()
    }
}

impl<T: 'static> Capture<'_, T> {
    /// Returns the address and the current length of each unshared memory that [`live`](Self::live) would dump, for
    /// [`SnapshotOptions::prepare`](corestream::snapshot::SnapshotOptions::prepare).
    ///
    /// Embedders that use [`HostMemories`](crate::HostMemories) do not need this. Others make sure that the memories do
    /// not move, with a [`SnapshotGate`](crate::SnapshotGate) for example. Shared memories are not listed: a
    /// snapshot does not freeze them. It contains them as *changing*, with contents that other threads may have written
    /// after the freeze.
    ///
    /// ```
    /// use corestream_wasmtime::Capture;
    /// use wasmtime::{Engine, Instance, Module, Store};
    ///
    /// let engine = Engine::default();
    /// let module = Module::new(&engine, r#"(module (memory (export "memory") 2))"#)?;
    /// let mut store = Store::new(&engine, ());
    /// let instance = Instance::new(&mut store, &module, &[])?;
    /// let memories = Capture::new("guest.wat").instances([instance]).live_memories(&mut store);
    /// assert_eq!(memories.len(), 1);
    /// assert_eq!(memories[0].len(), 131_072);
    /// # Ok::<(), wasmtime::Error>(())
    /// ```
    ///
    /// # Panics
    /// Panics if an instance or an item comes from another store.
    pub fn live_memories(&self, store: &mut impl AsContextMut<Data = T>) -> Vec<LiveMemory> {
        let mut inventory = self.reachable(&mut store.as_context_mut());
        // Finding the imports adds the memories that the instances import.
        inventory.spaces(&mut store.as_context_mut(), &self.hints, &mut Vec::new());
        let store = store.as_context();
        let unshared = inventory.memories.iter().filter_map(|item| match item {
            AnyMemory::Unshared(memory) => Some(memory),
            AnyMemory::Shared(_) => None,
        });
        unshared
            .map(|memory| LiveMemory::new(memory.data_ptr(&store), memory.data_size(&store)))
            .collect()
    }

    /// Captures a guest as [`live`](Self::live) does, and freezes its memories. The guest may continue when this returns.
    ///
    /// # Errors
    /// Returns the errors of [`Preparation::freeze`].
    ///
    /// # Panics
    /// Panics if an instance or an item comes from another store.
    pub fn freeze(
        &self,
        store: &mut impl AsContextMut<Data = T>,
        prepared: Preparation,
    ) -> Result<Frozen> {
        let Captured { dump, notes, .. } = self.live(store);
        Ok(Frozen { snapshot: prepared.freeze(dump)?, notes })
    }
}
