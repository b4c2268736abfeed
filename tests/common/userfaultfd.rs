//! Whether memory can be protected for a snapshot.
#![allow(unsafe_code, reason = "protects a page to find out whether that is possible")]

use corestream::snapshot::{Faults, LiveMemory, SnapshotOptions};
use memmap2::MmapMut;

/// Returns the reason for which no page can be protected here.
pub fn probe() -> Result<(), String> {
    let map = MmapMut::map_anon(4096).unwrap();
    let memory = LiveMemory::new(map.as_ptr(), map.len());
    let options = SnapshotOptions::new().faults(Faults::Signal);
    // SAFETY: the mapping outlives the preparation, and no thread writes to it.
    let prepared = unsafe { options.prepare(&[memory]) };
    prepared.map(drop).map_err(|error| error.to_string())
}
