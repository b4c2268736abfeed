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
    /// Dropped after the snapshot has ended.
    _owners: Vec<Arc<dyn Any + Send + Sync>>,
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
        let (thread, failure) = match started {
            Ok(thread) => (Some(thread), None),
            Err(error) => (None, Some(error)),
        };
        let releases = options.releases;
        let (thread, owners) = (Mutex::new(thread), options.owners.clone());
        let this = Arc::new(Self { engine, thread, faults, releases, _owners: owners });
        match failure {
            // Dropping the guard ends the registration.
            Some(error) => {
                let message = "cannot start the thread of a snapshot";
                Err(Error::io(ErrorKind::Image, message, error))
            }
            None => Ok(this),
        }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns whether pages are released when a dump has read them.
    pub(super) fn releases(&self) -> bool {
        self.releases
    }

    /// Ends the snapshot. When this returns, no part of it changes memory or its protection any more, so the next
    /// snapshot of the same memory may begin.
    pub(super) fn end(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        self.engine.end();
        if self.faults == Faults::Signal {
            signal::unregister(&self.engine);
        }
        // A panic of the thread has ended the snapshot with an error.
        let _ = thread.join();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end();
    }
}
