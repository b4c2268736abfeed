//! Requests for snapshots: by signals, and at intervals.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::iterator::{Handle, Signals};

use super::signals::SignalName;
use crate::report;

/// The maximum number of signals that wait for their snapshots.
const MAX_WAITING: usize = 64;

/// A request for one snapshot.
pub struct Request;

/// The sources of requests.
pub struct Requests {
    queue: Arc<Shared>,
    signals: Option<Handle>,
}

/// The requests that wait.
pub struct Queue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    interval: Option<Duration>,
}

struct State {
    waiting: usize,
    /// The time of the next request of the interval.
    next: Option<Instant>,
    must_stop: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Requests {
    /// Handles these signals from now on. The interval begins with [`begin`](Self::begin).
    ///
    /// # Errors
    /// Returns an error if the signals cannot be handled, or a thread cannot be started.
    pub fn start(signals: &[SignalName], interval: Option<Duration>) -> io::Result<Self> {
        let state = Mutex::new(State { waiting: 0, next: None, must_stop: false });
        let queue = Arc::new(Shared { state, changed: Condvar::new(), interval });
        if signals.is_empty() {
            return Ok(Self { queue, signals: None });
        }
        let mut received = Signals::new(signals.iter().map(|signal| signal.number))?;
        let handle = received.handle();
        let shared = queue.clone();
        let watch = move || {
            for _ in received.forever() {
                let mut state = shared.state();
                if state.waiting < MAX_WAITING {
                    state.waiting += 1;
                    shared.changed.notify_all();
                } else {
                    drop(state);
                    report::line(&format!("no snapshot: {MAX_WAITING} others are waiting"));
                }
            }
        };
        thread::Builder::new().stack_size(64 << 10).spawn(watch)?;
        Ok(Self { queue, signals: Some(handle) })
    }

    /// Begins the interval, because the guest runs now.
    pub fn begin(&self) {
        let interval = self.queue.interval;
        self.queue.state().next = interval.and_then(|time| Instant::now().checked_add(time));
    }

    /// Returns the queue, for the snapshot thread.
    pub fn queue(&self) -> Queue {
        Queue(self.queue.clone())
    }

    /// Ends the queue. Drops the requests that wait, and returns their number.
    pub fn stop(&self) -> usize {
        let dropped = {
            let mut state = self.queue.state();
            state.must_stop = true;
            std::mem::take(&mut state.waiting)
        };
        self.queue.changed.notify_all();
        if let Some(signals) = &self.signals {
            signals.close();
        }
        dropped
    }
}

impl Queue {
    /// Waits for the next request. Returns `None` at the end.
    pub fn next(&self) -> Option<Request> {
        let mut state = self.0.state();
        loop {
            if state.must_stop {
                return None;
            }
            if state.waiting > 0 {
                state.waiting -= 1;
                return Some(Request);
            }
            let now = Instant::now();
            state = match state.next {
                Some(next) if next <= now => {
                    // A snapshot that takes longer than the interval delays the next one.
                    state.next = self.0.interval.and_then(|interval| now.checked_add(interval));
                    return Some(Request);
                }
                Some(next) => {
                    let left = next.saturating_duration_since(now);
                    let waited = self.0.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}
