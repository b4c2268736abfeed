//! Snapshots of memory that threads of this process write to.
//!
//! These tests need a process of their own: they install a handler for SIGBUS, and an open userfaultfd changes how other
//! tests find untouched pages.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "protects and writes memory by address")]

#[path = "../common/environment.rs"]
mod environment;
#[allow(dead_code, reason = "each test uses its part")]
#[path = "../common/huge_pages.rs"]
mod huge_pages;

#[path = "../common/strace.rs"]
mod strace;

#[path = "../common/sigbus.rs"]
mod sigbus;

mod area;
mod cases;
mod failures;
mod guest;
mod inject;
mod torture;
mod ways;

use std::sync::{Mutex, MutexGuard, PoisonError};

use corestream::snapshot::SnapshotOptions;

/// Waits until no other test runs: tests measure the memory of the process, fork it, and send it signals. Installs the
/// handler for SIGBUS.
///
/// # Errors
/// Returns an error if memory cannot be protected here.
fn alone() -> Result<MutexGuard<'static, ()>, String> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    sigbus::install();
    let area = area::Area::new(area::PAGE);
    // SAFETY: the area outlives the preparation.
    let prepared = unsafe { SnapshotOptions::new().prepare(&[area.live()]) };
    prepared.map(|_| guard).map_err(|error| error.to_string())
}
