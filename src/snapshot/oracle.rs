//! Compares the protection that the kernel reports with the state of a snapshot.
//!
//! If the guest is stopped, a page must be writable if and only if it is open: dirty, copied or sent. A page that is
//! writable and not open is one whose next write would reach the dump.

use rustix::io::Errno;

#[cfg(feature = "internals")]
use super::Snapshot;
use super::engine::Engine;
use super::state::State;
use crate::image::TrackedPages;

/// Returns the number of the first page of a snapshot whose protection differs from its state, if any. The guest must be
/// stopped.
///
/// # Errors
/// Returns an error if the kernel cannot be queried.
#[cfg(feature = "internals")]
pub fn find_mismatch(snapshot: &Snapshot) -> std::io::Result<Option<u64>> {
    let engine = snapshot.guard.engine();
    let tracked = TrackedPages::open()?;
    Ok(compare(engine, &tracked, &engine.state())?)
}

/// Returns the number of the first page whose protection differs from the state. Pages that are not part of the
/// snapshot are not compared. The guest must be stopped, and `state` locked.
///
/// # Errors
/// Returns an error if the kernel cannot be queried.
pub(super) fn compare(
    engine: &Engine,
    tracked: &TrackedPages,
    state: &State,
) -> Result<Option<u64>, Errno> {
    for memory in &state.memories {
        let mut mismatch = None;
        // Pages that are no longer reported, because they were discarded, are not found.
        tracked.scan(engine.addresses(&memory.pages), |found, is_written| {
            let pages = engine.pages(&found);
            let differs = |page: &u64| {
                let index = memory.index(*page);
                memory.present.contains(index) && memory.open.contains(index) != is_written
            };
            mismatch = mismatch.or_else(|| pages.clone().find(differs));
        })?;
        if mismatch.is_some() {
            return Ok(mismatch);
        }
    }
    Ok(None)
}
