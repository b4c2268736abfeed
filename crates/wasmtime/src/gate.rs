//! Lets the growth of memories, and the end of a store, wait for snapshots.
//!
//! # The problem
//! A snapshot reads the engine's own memories where they are. A memory that grows beyond the addresses that are reserved
//! for it moves, and the store that ends unmaps its memories, or lets another store reuse them.
//!
//! # The idea
//! Both begin on the thread of the guest in code of the embedder: the engine asks the store's limiter before a memory
//! grows, and drops the store's data, to which the limiter belongs, before it frees the memories. So a limiter can wait.
//!
//! Waiting for a prepared snapshot would deadlock, because the guest itself must freeze it. So growth
//! ends a preparation, and waits only for a freeze.
//!
//! Source: `src/runtime/vm/memory/mmap.rs` and `Drop for Store` in `src/runtime/store.rs` of Wasmtime 48.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use corestream::Result;
use corestream::snapshot::{LiveMemory, Preparation, SnapshotOptions};
use wasmtime::ResourceLimiter;

/// Excludes snapshots while memories of one store may move or are freed.
///
/// It is only needed for memories of the engine that may move or are pooled. The memories of
/// [`HostMemories`](crate::HostMemories) never move and outlive their store.
///
/// 1. The store's [limiter](wasmtime::Store::limiter) is a [`GatedLimiter`] of this gate.
/// 2. The guest's thread, in a host function, [closes](Self::close) the gate, lists the memories with
///    [`Capture::live_memories`](crate::Capture::live_memories), and passes both to another thread.
/// 3. That thread [prepares](ClosedGate::prepare) them while the guest runs.
/// 4. The guest's thread, in a later host function or at an epoch deadline, [takes](Self::take) the preparation and
///    [freezes](crate::Capture::freeze) it.
///
/// A memory that grows ends the preparation, and `take` then returns `None`. From the freeze on, a memory that grows or is
/// created, and a store that is dropped, wait until the snapshot has ended. So the thread that dumps must not need the
/// guest's thread, and a thread that drops the store must not own the snapshot.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use corestream::Dumper;
/// use corestream::snapshot::SnapshotOptions;
/// use corestream_wasmtime::{Capture, GatedLimiter, SnapshotGate};
/// use wasmtime::{Engine, Instance, Module, Store, StoreLimits};
///
/// let engine = Engine::default();
/// let module = Module::new(&engine, r#"(module (memory (export "memory") i64 1))"#)?;
/// let gate = SnapshotGate::new();
/// let mut store = Store::new(&engine, gate.limiter(StoreLimits::default()));
/// store.limiter(|limiter| limiter);
/// let instance = Instance::new(&mut store, &module, &[])?;
/// let capture = Capture::new("guest.wat").instances([instance]);
///
/// // On the guest's thread:
/// let closed = gate.close();
/// let memories = capture.live_memories(&mut store);
/// // On another thread, while the guest runs:
/// // SAFETY: the gate was closed when the memories were listed, and no system call writes to them.
/// if let Err(error) = unsafe { closed.prepare(&SnapshotOptions::new(), &memories) } {
///     eprintln!("no snapshots on this machine: {error}");
/// }
/// // On the guest's thread:
/// if let Some(prepared) = gate.take() {
///     let frozen = capture.freeze(&mut store, prepared)?;
///     // On another thread, while the guest runs:
///     Dumper::new().plan(&frozen.snapshot.dump)?.write_to(&mut std::io::sink())?;
///     frozen.snapshot.finish()?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct SnapshotGate {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Signals that a snapshot was prepared or has ended.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The number of closed gates, preparations and snapshots.
    holds: usize,
    /// A preparation that was not taken yet.
    prepared: Option<Preparation>,
}

/// Keeps the gate closed.
struct Hold(Weak<Shared>);

/// A gate that is closed until it is dropped: memories do not move, and their store does not end.
/// [`SnapshotGate::close`] returns it.
#[must_use = "the gate opens when this is dropped"]
pub struct ClosedGate {
    hold: Hold,
}

/// A limiter that waits for snapshots before a memory grows and before it is dropped, and delegates the limits to another
/// limiter. [`SnapshotGate::limiter`] returns it.
///
/// The data of the store must own it. [`Store::into_data`](wasmtime::Store::into_data) frees the memories without
/// dropping the data, so call [`SnapshotGate::wait`] before.
///
/// It blocks the thread. An embedder with a [`ResourceLimiterAsync`](wasmtime::ResourceLimiterAsync) can call
/// [`SnapshotGate::wait`] on a thread that may block, and await that in `memory_growing`.
#[derive(Debug)]
pub struct GatedLimiter<L> {
    gate: SnapshotGate,
    limiter: L,
}

impl SnapshotGate {
    /// Returns an open gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a limiter for the store, which delegates the limits to `limiter`.
    pub fn limiter<L>(&self, limiter: L) -> GatedLimiter<L> {
        GatedLimiter { gate: self.clone(), limiter }
    }

    /// Closes the gate. Growing a memory on the calling thread deadlocks, unless another thread prepares or drops the
    /// result.
    pub fn close(&self) -> ClosedGate {
        self.shared.state().holds += 1;
        ClosedGate { hold: Hold(Arc::downgrade(&self.shared)) }
    }

    /// Takes the snapshot that was prepared, to freeze it on the guest's thread. Returns `None` if none is ready, or if a
    /// memory has grown since.
    pub fn take(&self) -> Option<Preparation> {
        self.shared.state().prepared.take()
    }

    /// Returns whether [`take`](Self::take) would return a preparation.
    pub fn is_prepared(&self) -> bool {
        self.shared.state().prepared.is_some()
    }

    /// Ends a preparation that was not taken, and waits until all snapshots have ended.
    ///
    /// Call it on the guest's thread before memories may move or are freed other than by the growth and the drop of a
    /// store with a [`GatedLimiter`].
    pub fn wait(&self) {
        let mut state = self.shared.state();
        loop {
            if let Some(prepared) = state.prepared.take() {
                // This opens the gate, so the state must not be locked.
                drop(state);
                drop(prepared);
                state = self.shared.state();
            } else if state.holds == 0 {
                return;
            } else {
                let changed = &self.shared.changed;
                state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.state().holds -= 1;
            shared.changed.notify_all();
        }
    }
}

impl ClosedGate {
    /// Protects memories, and leaves the result for [`SnapshotGate::take`]. Growth no longer waits then, but ends the
    /// preparation. A second preparation replaces one that was not taken.
    ///
    /// # Errors
    /// Returns the errors of [`SnapshotOptions::prepare`].
    ///
    /// # Safety
    /// `memories` were listed on the guest's thread after the gate was closed. They belong to a store whose data owns a
    /// [`GatedLimiter`] of this gate until the store is dropped, and whose limiter
    /// ([`Store::limiter`](wasmtime::Store::limiter)) is that value, or one that calls [`SnapshotGate::wait`] before each
    /// growth. [`SnapshotGate::wait`] is also called before [`Store::into_data`](wasmtime::Store::into_data). The rest of the contract of [`SnapshotOptions::prepare`] concerns
    /// the host's own code, as for [`HostMemories::prepare`](crate::HostMemories::prepare).
    pub unsafe fn prepare(self, options: &SnapshotOptions, memories: &[LiveMemory]) -> Result<()> {
        let shared = self.hold.0.clone();
        let options = options.clone().keep_alive(Arc::new(self.hold));
        // SAFETY: the hold keeps the memories mapped at their addresses until the snapshot has ended: growth and the end of
        // the store wait for it. The caller guarantees the rest.
        let prepared = unsafe { options.prepare(memories) }?;
        // The options own the hold as well.
        drop(options);
        let Some(shared) = shared.upgrade() else { return Ok(()) };
        let replaced = shared.state().prepared.replace(prepared);
        drop(replaced);
        shared.changed.notify_all();
        Ok(())
    }
}

impl fmt::Debug for ClosedGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClosedGate").finish_non_exhaustive()
    }
}

impl<L> GatedLimiter<L> {
    /// Returns the limiter with the limits.
    pub fn get_ref(&self) -> &L {
        &self.limiter
    }

    /// Returns the limiter with the limits.
    pub fn get_mut(&mut self) -> &mut L {
        &mut self.limiter
    }
}

impl<L> Drop for GatedLimiter<L> {
    fn drop(&mut self) {
        self.gate.wait();
    }
}

impl<L: ResourceLimiter> ResourceLimiter for GatedLimiter<L> {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let may_grow = self.limiter.memory_growing(current, desired, maximum)?;
        if may_grow {
            self.gate.wait();
        }
        Ok(may_grow)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.limiter.memory_grow_failed(error)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.limiter.table_growing(current, desired, maximum)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.limiter.table_grow_failed(error)
    }

    fn instances(&self) -> usize {
        self.limiter.instances()
    }

    fn tables(&self) -> usize {
        self.limiter.tables()
    }

    fn memories(&self) -> usize {
        self.limiter.memories()
    }
}
