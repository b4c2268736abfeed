//! The progress bar at the bottom of the terminal, and output above it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;

/// The current bar.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn bar() -> MutexGuard<'static, Option<ProgressBar>> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows a bar. The caller has already set it up and draws it; from now on, [`write_above`] makes room for it.
pub fn begin(shown: &ProgressBar) {
    *bar() = Some(shown.clone());
}

/// Removes the bar, if one is shown.
pub fn end() {
    if let Some(bar) = bar().take() {
        bar.finish_and_clear();
    }
}

/// Runs `write`, which writes to the terminal, so that its output appears above the bar if one is shown.
pub fn write_above(write: impl FnOnce()) {
    // Release the lock first: a terminal that accepts no output must not block other threads here.
    let bar = bar().clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}
