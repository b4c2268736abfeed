//! The exchange between the snapshot thread and the guest's thread: an offer, and the frozen guest in return.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use corestream::CoreDump;
use corestream::snapshot::{self, Preparation};
use corestream_wasmtime::{Capture, Captured, Note};
use wasmtime::{AsContextMut, Engine};

use crate::report::Failure;
use crate::run::shared;

/// The interval at which the guest's thread is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The data of a store whose guest can be frozen.
pub trait GuestState: Send + Sized + 'static {
    /// Returns the exchange with the snapshot thread, if there can be snapshots.
    fn snapshots(&self) -> Option<&SnapshotPoint<Self>>;
}

/// The data that the guest's thread needs to freeze the guest.
pub struct SnapshotPoint<T: 'static> {
    pub exchange: Arc<Exchange>,
    /// How to capture the guest, once it is instantiated.
    pub capture: Option<Arc<Capture<'static, T>>>,
}

impl<T> SnapshotPoint<T> {
    pub fn new(exchange: Arc<Exchange>) -> Self {
        Self { exchange, capture: None }
    }
}

/// A way to freeze the guest.
pub enum Offer {
    /// Its memory is protected.
    Protected(Preparation),
    /// Its memory is copied, at most this many bytes.
    Copy(u64),
    /// It stands still until this function has dumped it. The function gets notes on what is unknown and the host call in
    /// which the guest waits, and returns the length of the dump.
    Stop(Box<DumpFunction>),
}

type DumpFunction =
    dyn FnOnce(CoreDump<'_>, Vec<Note>, Option<&'static str>) -> Result<u64, Failure> + Send;

/// The frozen guest.
pub enum Frozen {
    Protected(corestream_wasmtime::Frozen),
    Copied(CoreDump<'static>, Vec<Note>),
    /// It was dumped on its own thread. The length of the dump.
    Written(Result<u64, Failure>),
}

/// The response of the guest's thread to an offer.
pub struct Taken {
    pub frozen: corestream::Result<Frozen>,
    /// How long the guest stood still.
    pub pause: Duration,
    /// The host call in which the guest was waiting.
    pub host_call: Option<&'static str>,
}

/// The result of [`Exchange::wait`].
#[allow(clippy::large_enum_variant, reason = "one value per snapshot")]
pub enum Wait {
    Taken(Taken),
    /// The guest has ended before it took the offer.
    Ended,
    TimedOut,
}

/// The exchange. Both threads share it.
pub struct Exchange {
    engine: Engine,
    /// The shared memories of the guest, once it is instantiated.
    shared: OnceLock<shared::Memories>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    offer: Option<Offer>,
    /// Whether the guest's thread is working on the offer.
    is_freezing: bool,
    taken: Option<Taken>,
    has_ended: bool,
    /// Wakes the guest's thread in a host call.
    waker: Option<Waker>,
}

impl Exchange {
    pub fn new(engine: Engine) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Self { engine, shared: OnceLock::new(), state, changed }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers a way to freeze the guest. The guest's thread takes it at its next epoch check, or in a host call that
    /// waits.
    pub fn offer(&self, offer: Offer) {
        let mut state = self.state();
        state.offer = Some(offer);
        let waker = state.waker.take();
        drop(state);
        self.engine.increment_epoch();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits until the guest's thread has taken the offer, at most for `timeout`.
    pub fn wait(&self, timeout: Option<Duration>) -> Wait {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.state();
        loop {
            if let Some(taken) = state.taken.take() {
                return Wait::Taken(taken);
            }
            if state.has_ended && !state.is_freezing {
                state.offer = None;
                return Wait::Ended;
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Wait::TimedOut;
            }
            let waited = self.changed.wait_timeout(state, RETRY_INTERVAL);
            let timed_out;
            (state, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
            if timed_out.timed_out() {
                // The guest may have been in its start function, in which it takes no offer.
                self.engine.increment_epoch();
            }
        }
    }

    /// Sets how to wake the guest's thread, which waits in a host call.
    pub fn wake_by(&self, waker: &Waker) {
        self.state().waker = Some(waker.clone());
    }

    /// Freezes the guest if there is an offer. Called on the guest's thread, `host_call` is the call in which it waits.
    pub fn freeze<T: GuestState>(
        &self,
        mut store: impl AsContextMut<Data = T>,
        host_call: Option<&'static str>,
    ) {
        // A host call that waits comes here often, and mostly without an offer.
        if self.state().offer.is_none() {
            return;
        }
        let point = store.as_context();
        let capture = point.data().snapshots().and_then(|point| point.capture.clone());
        // During the start function, the instances are not known yet.
        let Some(capture) = capture else { return };
        let Some(offer) = ({
            let mut state = self.state();
            let offer = state.offer.take();
            state.is_freezing = offer.is_some();
            offer
        }) else {
            return;
        };
        let start = Instant::now();
        let frozen = match offer {
            Offer::Protected(preparation) => {
                capture.freeze(&mut store, preparation).map(Frozen::Protected)
            }
            Offer::Copy(limit) => {
                let Captured { dump, notes, .. } = capture.live(&mut store);
                snapshot::copy(dump, limit).map(|dump| Frozen::Copied(dump, notes))
            }
            Offer::Stop(dump) => {
                let Captured { dump: live, notes, .. } = capture.live(&mut store);
                Ok(Frozen::Written(dump(live, notes, host_call)))
            }
        };
        let pause = start.elapsed();
        let mut state = self.state();
        state.is_freezing = false;
        state.taken = Some(Taken { frozen, pause, host_call });
        self.changed.notify_all();
    }

    /// Sets the shared memories of the guest. Only the first call has an effect.
    pub fn set_shared(&self, shared: shared::Memories) {
        let _ = self.shared.set(shared);
    }

    /// Sets the memory indices in a dump that the library could not determine.
    pub fn place_shared(&self, dump: &mut CoreDump<'_>, notes: &mut Vec<Note>) {
        if let Some(shared) = self.shared.get() {
            shared.place(dump, notes);
        }
    }

    /// Declares that the guest has ended.
    pub fn end(&self) {
        self.state().has_ended = true;
        self.changed.notify_all();
    }
}
