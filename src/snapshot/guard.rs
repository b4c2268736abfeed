//! The lifetime of a snapshot: from the start of its thread until the memory is as it was before.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::engine::Engine;
use super::options::{Faults, SnapshotOptions};
use super::signal;
use crate::error::{Error, ErrorKind, Result};

/// The stack in bytes of the thread that handles faults.
const STACK_BYTES: usize = 128 << 10;

/// Ends the snapshot when the last part of it is dropped.
pub(super) struct Guard {
    engine: Arc<Engine>,
    thread: Mutex<Option<JoinHandle<()>>>,
    faults: Faults,
    releases: bool,
    /// Kept until the snapshot has ended.
    owners: Mutex<Vec<Arc<dyn Any + Send + Sync>>>,
}

impl Guard {
    /// Starts the thread that handles faults, or only messages about removed memory if faults are signals.
    ///
    /// # Errors
    /// Returns an error if the thread cannot be started, or if too many snapshots use signals.
    pub(super) fn start(engine: Engine, options: &SnapshotOptions) -> Result<Arc<Self>> {
        let (engine, faults) = (Arc::new(engine), options.faults);
        if faults == Faults::Signal && !signal::register(&engine) {
            let message = "too many snapshots with Faults::Signal at the same time";
            return Err(Error::new(ErrorKind::Option, message));
        }
        let run = {
            let engine = engine.clone();
            move || engine.run_thread()
        };
        let name = "corestream-snap".to_string();
        let started = thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(run);
        let thread = started.map_err(|error| {
            if faults == Faults::Signal {
                signal::unregister(&engine);
            }
            Error::io(ErrorKind::Image, "cannot start the thread of a snapshot", error)
        })?;
        let owners = Mutex::new(options.owners.clone());
        let (thread, releases) = (Mutex::new(Some(thread)), options.releases);
        Ok(Arc::new(Self { engine, thread, faults, releases, owners }))
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns whether pages are released when a dump has read them.
    pub(super) fn releases(&self) -> bool {
        self.releases
    }

    /// Ends the snapshot. When this returns, no part of it reads memory or changes its protection any more, so the memory
    /// may be unmapped, and the next snapshot of it may begin.
    pub(super) fn end(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        self.engine.end();
        if self.faults == Faults::Signal {
            signal::unregister(&self.engine);
        }
        // A panic of the thread has ended the snapshot with an error.
        let _ = thread.join();
        let owners =
            std::mem::take(&mut *self.owners.lock().unwrap_or_else(PoisonError::into_inner));
        drop(owners);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end();
    }
}
