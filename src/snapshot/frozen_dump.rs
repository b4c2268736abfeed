//! The frozen guest, and the copy of a guest without userfaultfd.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::guard::Guard;
use super::preparation::live_extents;
use crate::error::Result;
use crate::model::CoreDump;

/// A frozen guest. [`Preparation::freeze`](super::Preparation::freeze) returns it.
///
/// It can be sent to another thread, and dumped there while the guest runs. It ends when it and its dump are dropped,
/// or by [`finish`](Self::finish).
#[must_use = "the snapshot ends when this is dropped"]
#[non_exhaustive]
pub struct Snapshot {
    /// The guest at the moment of the freeze.
    pub dump: CoreDump<'static>,
    pub(super) guard: Arc<Guard>,
    pub(super) stats: SnapshotStats,
}

/// The cost of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotStats {
    /// How long [`freeze`](super::Preparation::freeze) took until the memories were fixed.
    pub freeze_time: Duration,
    /// The number of dirty pages that were copied aside at the freeze.
    pub copied_at_freeze: u64,
    /// The number of dirty pages that were protected again at the freeze, because many of them are adjacent.
    pub protected_at_freeze: u64,
    /// The number of pages that were copied aside, at the freeze and since.
    pub copied_pages: u64,
    /// The maximum number of bytes in copies at one time.
    pub peak_copy_bytes: u64,
}

impl Snapshot {
    /// Returns the cost so far.
    pub fn stats(&self) -> SnapshotStats {
        let engine = self.guard.engine();
        let state = engine.state();
        SnapshotStats {
            copied_pages: self.stats.copied_at_freeze.saturating_add(state.copied_by_faults),
            peak_copy_bytes: (state.copies.peak() as u64).saturating_mul(engine.page_size()),
            ..self.stats
        }
    }

    /// Checks that the snapshot has not failed so far.
    ///
    /// Writing a dump does this after it has read the last byte, so a dump that was written is consistent.
    ///
    /// # Errors
    /// Returns the reason if it has failed.
    pub fn check(&self) -> Result<()> {
        self.guard.engine().check()
    }

    /// Ends the snapshot, and returns its cost. The guest then runs as before. Images that are left return errors.
    ///
    /// # Errors
    /// Returns the reason if the snapshot has failed.
    pub fn finish(self) -> Result<SnapshotStats> {
        let result = self.check();
        let stats = self.stats();
        self.guard.end();
        result.map(|()| stats)
    }
}

/// Makes the thread that handles the writes of the guest panic.
#[cfg(feature = "internals")]
pub fn kill_thread(snapshot: &Snapshot) {
    snapshot.guard.engine().kill_thread();
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("dump", &self.dump).field("stats", &self.stats()).finish()
    }
}

/// Copies the borrowed live memories of a stopped guest, at most `limit` bytes of data, so that the guest can continue
/// while the copy is dumped.
///
/// This is the way without userfaultfd. It takes 100 to 500 ms and 1 GiB of memory for each GiB of data. Pages that the
/// guest has never touched are not copied. Images that borrow nothing stay as they are.
///
/// ```
/// use corestream::{CoreDump, Dumper, ErrorKind, Memory, MemoryImage, MemoryType, snapshot};
///
/// let mut bytes = vec![1; 65_536];
/// let describe = |bytes| {
///     let mut dump = CoreDump::new("guest.wasm");
///     dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(bytes)));
///     dump
/// };
/// let copy = snapshot::copy(describe(&bytes), 1 << 20)?;
/// let expected = Dumper::new().plan(&describe(&bytes))?.to_vec()?;
///
/// let error = snapshot::copy(describe(&bytes), 1000).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Guest);
///
/// bytes[1000] = 2; // the guest continues
/// assert_eq!(Dumper::new().plan(&copy)?.to_vec()?, expected);
/// # Ok::<(), corestream::Error>(())
/// ```
///
/// # Errors
/// Returns an error of [`ErrorKind::Guest`](crate::ErrorKind::Guest) if the guest has more than `limit` bytes of data,
/// and of [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) if no memory for the copy is available.
pub fn copy(dump: CoreDump<'_>, limit: u64) -> Result<CoreDump<'static>> {
    let finder = live_extents()?;
    let mut budget = limit;
    dump.try_map_images(|_, image| image.into_owned(&finder, &mut budget))
}
