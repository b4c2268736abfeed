//! Snapshots whose faults are signals: the list of them, and the function that a handler for SIGBUS calls.
//!
//! # The problem
//! A signal handler finds only an address. It may run on any thread, at any time, also while a snapshot ends: the fault
//! was raised while a page was protected, and when the handler looks, the snapshot is gone. Such a fault must be
//! retried and not reported, but a real SIGBUS at the same address must not be retried forever.
//!
//! # The idea
//! The list has a fixed number of places, each with its own lock-free count of handlers that use it. A snapshot leaves
//! its place only after its protection has ended, and frees its state only when no handler uses it. The addresses of
//! snapshots that have ended are remembered for [`RETRY_TIME`]. A fault there is retried until then. A thread that the
//! scheduler has stopped between its fault and its handler for longer than that would be reported as crashed.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use rustix::time::{ClockId, clock_gettime};

use super::engine::Engine;
use crate::held_signal::ErrorNumber;

/// The maximum number of snapshots with signals at the same time.
const PLACES: usize = 64;
/// The number of ranges of ended snapshots that are remembered.
const MAX_ENDED: usize = 256;
/// How long a fault in memory of an ended snapshot is retried, in nanoseconds.
const RETRY_TIME: u64 = 10_000_000_000;

/// A place for a snapshot.
struct Place {
    engine: AtomicPtr<Engine>,
    /// The number of handlers that may use the engine.
    users: AtomicUsize,
}

static ACTIVE: [Place; PLACES] =
    [const { Place { engine: AtomicPtr::new(ptr::null_mut()), users: AtomicUsize::new(0) } };
        PLACES];

/// The addresses of a memory of an ended snapshot.
struct Ended {
    start: AtomicU64,
    end: AtomicU64,
    /// The time until which faults are retried.
    until: AtomicU64,
}

static ENDED: [Ended; MAX_ENDED] = [const {
    Ended { start: AtomicU64::new(0), end: AtomicU64::new(0), until: AtomicU64::new(0) }
}; MAX_ENDED];
static NEXT_ENDED: AtomicUsize = AtomicUsize::new(0);

/// Adds a snapshot to the list. Returns `false` if there is no place.
pub(super) fn register(engine: &Arc<Engine>) -> bool {
    let pointer = Arc::as_ptr(engine).cast_mut();
    ACTIVE.iter().any(|place| {
        let (success, failure) = (Ordering::SeqCst, Ordering::Relaxed);
        place.engine.compare_exchange(ptr::null_mut(), pointer, success, failure).is_ok()
    })
}

/// Removes a snapshot, whose protection has ended, and waits until no handler uses it.
pub(super) fn unregister(engine: &Arc<Engine>) {
    let pointer = Arc::as_ptr(engine).cast_mut();
    let until = now().saturating_add(RETRY_TIME);
    for pages in engine.state().memories.iter().map(|memory| memory.pages.clone()) {
        let addresses = engine.addresses(&pages);
        let at = NEXT_ENDED.fetch_add(1, Ordering::Relaxed) % MAX_ENDED;
        if let Some(ended) = ENDED.get(at) {
            // A handler that reads a mixture retries a little longer, or reports the fault of another mapping.
            ended.start.store(addresses.start, Ordering::SeqCst);
            ended.end.store(addresses.end, Ordering::SeqCst);
            ended.until.store(until, Ordering::SeqCst);
        }
    }
    for place in &ACTIVE {
        if place.engine.load(Ordering::SeqCst) == pointer {
            place.engine.store(ptr::null_mut(), Ordering::SeqCst);
            while place.users.load(Ordering::SeqCst) > 0 {
                std::thread::yield_now();
            }
        }
    }
}

/// Handles a SIGBUS at `address` if it is a write to a page of a snapshot with [`Faults::Signal`](super::Faults::Signal).
/// Returns whether the instruction must run again.
///
/// Call it in the process's handler for SIGBUS, with the address of the fault (`si_addr`), and return from the handler
/// if it returns `true`. It may be called in a signal handler: it does not allocate, and it locks only a mutex that no
/// thread holds while it writes to the memory of a guest. It preserves `errno`.
///
/// ```
/// assert!(!corestream::snapshot::handle_sigbus(0x1000));
/// ```
pub fn handle_sigbus(address: usize) -> bool {
    let error_number = ErrorNumber::save();
    let address = address as u64;
    let handled = ACTIVE.iter().any(|place| {
        if place.engine.load(Ordering::SeqCst).is_null() {
            return false;
        }
        place.users.fetch_add(1, Ordering::SeqCst);
        let engine = place.engine.load(Ordering::SeqCst);
        // SAFETY: the pointer comes from an `Arc` that its snapshot keeps until `unregister` has returned. That function
        // clears the pointer before it waits for the users, and this thread became a user before it read the pointer:
        // all of these operations are in one order (`SeqCst`).
        let handled =
            unsafe { engine.as_ref() }.is_some_and(|engine| engine.handle_signal(address));
        place.users.fetch_sub(1, Ordering::SeqCst);
        handled
    });
    let handled = handled || is_of_ended_snapshot(address);
    error_number.restore();
    handled
}

/// Returns whether a snapshot of this address has just ended.
fn is_of_ended_snapshot(address: u64) -> bool {
    ENDED.iter().any(|ended| {
        (ended.start.load(Ordering::SeqCst)..ended.end.load(Ordering::SeqCst)).contains(&address)
            && now() < ended.until.load(Ordering::SeqCst)
    })
}

/// Returns the time of the monotonic clock in nanoseconds.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    // The clock starts at 0 when the system starts.
    seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanoseconds.unwrap_or(0))
}
