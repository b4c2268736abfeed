//! The guest: a core module or a component.

use std::sync::Arc;

use corestream_wasmtime::HostMemories;
use wasmtime::Error;

use super::arguments::Run;
use super::check::Source;
use super::component_guest::ComponentGuest;
use super::host::{Outcome, Stopped};
use super::module_guest::ModuleGuest;
use super::snapshot::Exchange;
use crate::report::Failure;

/// A loaded guest, which may have been started.
pub enum Guest {
    Module(Box<ModuleGuest>),
    Component(Box<ComponentGuest>),
}

impl Guest {
    /// Compiles the guest and prepares its store.
    pub fn load(run: &Run) -> Result<Self, Failure> {
        let source = Source::read(&run.guest)?;
        if source.is_component() {
            ComponentGuest::load(run, source).map(Box::new).map(Self::Component)
        } else {
            ModuleGuest::load(run, source).map(Box::new).map(Self::Module)
        }
    }

    /// Instantiates the guest and calls its function.
    pub fn run(&mut self, run: &Run) -> Result<Outcome, Failure> {
        match self {
            Self::Module(guest) => guest.run(run),
            Self::Component(guest) => guest.run(run),
        }
    }

    /// Captures the guest after a failed call.
    pub fn stopped(&mut self, run: &Run, error: &Error) -> Stopped<'_> {
        match self {
            Self::Module(guest) => guest.stopped(run, error),
            Self::Component(guest) => guest.stopped(run, error),
        }
    }

    /// Returns the memories and the exchange with the guest's thread, if snapshots can be requested.
    pub fn snapshot_parts(&self) -> Option<(Arc<HostMemories>, Arc<Exchange>)> {
        match self {
            Self::Module(guest) => guest.snapshot_parts(),
            Self::Component(guest) => guest.snapshot_parts(),
        }
    }

    /// Returns the guest if it is a core module.
    pub fn module(&self) -> Option<&ModuleGuest> {
        match self {
            Self::Module(guest) => Some(guest),
            Self::Component(_) => None,
        }
    }
}
