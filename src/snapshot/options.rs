//! The options of a snapshot.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// The default limit in bytes for pages that are copied aside: 256 MiB.
const DEFAULT_COPY_LIMIT: u64 = 256 << 20;

/// What happens when the guest writes to more pages than the limit for copies allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AtLimit {
    /// The snapshot fails with an error, and the guest continues at full speed.
    #[default]
    Fail,
    /// The next write of the guest waits until the dump has released some pages. If the dump never does, because its
    /// destination takes nothing, the guest waits forever: use a
    /// [time limit](crate::Writer::stall_timeout).
    Wait,
}

/// How a write of the guest to a page of the snapshot is handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Faults {
    /// By a thread of the snapshot, which takes 16 to 60 microseconds per write. Everything that can write to memory
    /// works, including system calls.
    #[default]
    Thread,
    /// By a SIGBUS in the writing thread, which takes 6 to 7 microseconds per write. The process must have a handler
    /// for SIGBUS that calls [`handle_sigbus`](super::handle_sigbus).
    ///
    /// A *system call* that writes to a page of the snapshot fails with `EFAULT`, and a datagram that it received is
    /// lost. Use this only if the host makes no such system call: if it reads files and sockets into buffers of its
    /// own, and copies from there to the guest. Wasmtime's WASI does so, unless
    /// `WasiCtxBuilder::allow_blocking_current_thread` is on.
    ///
    /// It works without privileges.
    Signal,
}

/// The options of a snapshot.
///
/// [`prepare`](Self::prepare) has an example.
#[derive(Clone)]
#[must_use]
pub struct SnapshotOptions {
    pub(super) copy_limit: u64,
    pub(super) at_limit: AtLimit,
    pub(super) faults: Faults,
    pub(super) releases: bool,
    pub(super) owners: Vec<Arc<dyn Any + Send + Sync>>,
}

impl SnapshotOptions {
    /// Returns the default options.
    pub fn new() -> Self {
        Self {
            copy_limit: DEFAULT_COPY_LIMIT,
            at_limit: AtLimit::default(),
            faults: Faults::default(),
            releases: true,
            owners: Vec::new(),
        }
    }

    /// Sets the limit for copies of pages to which the guest writes before the dump has read them, in bytes. The default
    /// is 256 MiB. `prepare` allocates the room in advance, but not more than the guest has data.
    pub fn copy_limit(mut self, bytes: u64) -> Self {
        self.copy_limit = bytes;
        self
    }

    /// Sets what happens at the limit for copies. By default the snapshot fails.
    pub fn at_limit(mut self, at_limit: AtLimit) -> Self {
        self.at_limit = at_limit;
        self
    }

    /// Sets how writes of the guest are handled. The default works with every host.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Sets whether a page is released when a dump has read it, so that the guest writes to it at full speed from then
    /// on. This is the default. Then only one dump can be written: a second one fails.
    ///
    /// Without it, the snapshot can be dumped repeatedly until it ends.
    pub fn release_when_read(mut self, releases: bool) -> Self {
        self.releases = releases;
        self
    }
}

impl SnapshotOptions {
    /// Keeps `owner` until the snapshot has ended. It can be a handle of the memory, which then stays mapped.
    pub fn keep_alive(mut self, owner: Arc<dyn Any + Send + Sync>) -> Self {
        self.owners.push(owner);
        self
    }
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SnapshotOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotOptions")
            .field("copy_limit", &self.copy_limit)
            .field("at_limit", &self.at_limit)
            .field("faults", &self.faults)
            .field("releases", &self.releases)
            .finish_non_exhaustive()
    }
}
