//! The progress bar at the bottom of the terminal, and what is written above it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;

/// The bar that is shown.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn bar() -> MutexGuard<'static, Option<ProgressBar>> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes this the bar that is shown.
pub fn begin(shown: &ProgressBar) {
    *bar() = Some(shown.clone());
}

/// Removes the bar, if one is shown.
pub fn end() {
    if let Some(bar) = bar().take() {
        bar.finish_and_clear();
    }
}

/// Runs `write`, which writes to the terminal, above the bar if one is shown.
pub fn write_above(write: impl FnOnce()) {
    // Releases the lock first, so that a terminal that accepts no output blocks no other thread here.
    let bar = bar().clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}
