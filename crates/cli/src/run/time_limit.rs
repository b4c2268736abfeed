//! The end of `--time-limit`: an epoch that stops the guest, and a thread that ends a guest that does not stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use wasmtime::Store;

use super::arguments::{Run, deadline};
use super::exit_code::TIME_LIMIT;
use super::host_call;
use super::thread_activity::ThreadActivity;
use crate::report::{self, Failure};

/// The maximum time for which the guest's thread may use no CPU after the time limit.
const GRACE: Duration = Duration::from_secs(2);

/// The running time limit of a guest.
pub struct TimeLimit {
    /// Whether the guest or the watch thread has ended first.
    over: Arc<AtomicBool>,
}

impl TimeLimit {
    /// Starts the time limit, if there is one.
    ///
    /// # Errors
    /// Returns an error if the watch thread cannot be started.
    pub fn start<T>(run: &Run, store: &mut Store<T>) -> Result<Self, Failure> {
        let over = Arc::new(AtomicBool::new(false));
        if let Some(limit) = run.time_limit {
            let engine = store.engine().clone();
            store.set_epoch_deadline(1);
            if let Some(at) = deadline(limit) {
                host_call::set_limit(at);
            }
            let (line, over) = (run.blocked_message(), over.clone());
            let activity = ThreadActivity::this_thread();
            let watch = move || {
                thread::sleep(limit);
                engine.increment_epoch();
                // `memory.fill`, `memory.copy` and `memory.grow` of gigabytes take longer without checking the epoch.
                while activity.worked_during(GRACE) {}
                // The thread that sets `over` first decides, so the process never exits while it writes a dump.
                if !over.swap(true, Ordering::AcqRel) {
                    report::line(&line);
                    std::process::exit(TIME_LIMIT.into());
                }
            };
            let started = thread::Builder::new().stack_size(64 << 10).spawn(watch);
            started.map_err(|e| Failure::new(format!("cannot watch the time limit: {e}")))?;
        }
        Ok(Self { over })
    }

    /// Ends the time limit, because the guest has ended. Does not return if the limit was first.
    pub fn end(self) {
        if self.over.swap(true, Ordering::AcqRel) {
            // The watch thread is about to exit the process.
            loop {
                thread::park();
            }
        }
    }
}
