//! Snapshots of stores.

use std::fmt;

use wasmtime::AsContextMut;

use super::capture::{Capture, Captured};
use super::note::Note;
use corestream::Result;
use corestream::snapshot::{Preparation, Snapshot};

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
        let Captured { dump, notes } = self.live(store);
        Ok(Frozen { snapshot: prepared.freeze(dump)?, notes })
    }
}
