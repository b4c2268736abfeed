//! SIGHUP, SIGINT and SIGTERM: the work ends at once and leaves nothing behind.

use std::process;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use signal_hook::consts::SIGXFSZ;
use signal_hook::iterator::Signals;

use crate::report::{self, Failure};
use crate::{bar, log, stop_signals};

/// How long the process waits at its end for standard error, which may be a terminal that takes nothing.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Makes a file that may not grow further (`RLIMIT_FSIZE`) an error of the write, and not the end of the process.
pub fn ignore_file_size_limit() {
    // Where that fails, the library still holds the signal back in its own writes.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
}

/// Watches for the signals that end the work.
pub struct Interrupt {
    /// Tells the library to stop.
    cancel: Arc<AtomicBool>,
    /// The signal that came, or 0.
    received: Arc<AtomicI32>,
}

impl Interrupt {
    /// Watches from now on, in a thread of its own. If the thread cannot be started, signals keep their default
    /// action, which leaves nothing behind either on file systems that have `O_TMPFILE`.
    pub fn watch() -> Self {
        let this = Self { cancel: Arc::default(), received: Arc::default() };
        let (cancel, received) = (this.cancel.clone(), this.received.clone());
        let (ready, is_ready) = mpsc::channel();
        let watch = move || {
            // Only now: with a handler, and without a thread, signals would do nothing at all.
            let signals = Signals::new(stop_signals::to_watch());
            drop(ready);
            let Ok(mut signals) = signals else { return };
            for signal in signals.forever() {
                // A write may be blocked for ever. A second signal ends the process at once.
                let again = received.swap(signal, Ordering::Relaxed) != 0;
                if STATE.change(WORKING, ENDING).is_ok()
                    || again && STATE.change(CLEANING, ENDING).is_ok()
                {
                    end(signal);
                }
                cancel.store(true, Ordering::Relaxed);
                if STATE.is(ENDING) {
                    // All is done but for the last words, and standard error may not take them.
                    thread::sleep(LAST_WORDS);
                    exit(signal);
                }
            }
        };
        if thread::Builder::new().stack_size(64 << 10).spawn(watch).is_ok() {
            // An error is what it waits for: the other end was dropped.
            let _: Result<(), _> = is_ready.recv();
        }
        this
    }

    /// Watches while the dump of a guest that has stopped is written. A signal stops the dump, and not the guest: the
    /// exit code stays that of the guest's end.
    #[cfg(feature = "run")]
    pub fn watch_dump_of_guest(code: u8) -> Self {
        STOPPED_GUEST.store(code, Ordering::Relaxed);
        Self::watch()
    }

    /// The flag that stops the library.
    pub fn cancel(&self) -> Arc<AtomicBool> {
        self.cancel.clone()
    }

    /// From now on there is something to remove when the work is stopped: a signal waits for that.
    pub fn begin_clean_up(&self) {
        if STATE.change(WORKING, CLEANING) == Err(ENDING) {
            wait_for_end();
        }
    }

    /// From now on only the receiver knows whether the dump is complete: a signal that ends the wait for its
    /// reply does not say that it is not.
    pub fn mark_sent(&self) {
        OUTPUT.store(SENT, Ordering::Relaxed);
    }

    /// The receiver has kept the dump, which a signal that comes now does not deny.
    pub fn mark_kept(&self) {
        OUTPUT.store(KEPT, Ordering::Relaxed);
    }

    /// What to say if a signal stopped the work.
    pub fn failure(&self) -> Option<Failure> {
        match self.received.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(failure(signal)),
        }
    }
}

fn failure(signal: i32) -> Failure {
    let (name, code) = (stop_signals::name(signal), stop_signals::exit_code(signal));
    let output = match OUTPUT.load(Ordering::Relaxed) {
        SENT => "everything was sent, but whether the receiver kept it is not known",
        KEPT => "after the receiver kept the dump",
        _ => "the output is not complete",
    };
    Failure::with_code(format!("stopped by {name}, {output}"), code)
}

/// The exit code for a guest that has stopped, whose dump is written; 0 without one.
static STOPPED_GUEST: AtomicU8 = AtomicU8::new(0);

/// What a signal may say of the output.
static OUTPUT: AtomicU8 = AtomicU8::new(INCOMPLETE);

/// It is not complete.
const INCOMPLETE: u8 = 0;
/// A receiver has it, and has not said yet whether it keeps it.
const SENT: u8 = 1;
/// A receiver has kept it.
const KEPT: u8 = 2;

/// What the process is about, which decides who may end it.
struct State(AtomicU8);

/// A signal ends the process at once.
const WORKING: u8 = 0;
/// There is something that must be removed when the work is stopped.
const CLEANING: u8 = 1;
/// The process ends: by the main thread, which is done, or by a signal.
const ENDING: u8 = 2;

static STATE: State = State(AtomicU8::new(WORKING));

impl State {
    fn is(&self, state: u8) -> bool {
        self.0.load(Ordering::Relaxed) == state
    }

    /// Changes from one state to another.
    ///
    /// # Errors
    /// It is in this state, and stays in it.
    fn change(&self, from: u8, to: u8) -> Result<u8, u8> {
        self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed)
    }
}

/// The main thread is done: its message is printed, unless a signal came first.
pub fn end_of_work() {
    if STATE.0.swap(ENDING, Ordering::Relaxed) == ENDING {
        wait_for_end();
    }
}

/// Nothing is done or said any more: a signal ends the process.
fn wait_for_end() -> ! {
    loop {
        thread::park();
    }
}

fn end(signal: i32) -> ! {
    let (saying, said) = mpsc::channel::<()>();
    let say = move || {
        bar::end();
        let message = failure(signal).message;
        report::line(&match STOPPED_GUEST.load(Ordering::Relaxed) {
            0 => message,
            _ => format!("no core dump: {message}"),
        });
        log::flush(LAST_WORDS);
        drop(saying);
    };
    if thread::Builder::new().stack_size(64 << 10).spawn(say).is_ok() {
        let _ = said.recv_timeout(LAST_WORDS);
    }
    exit(signal)
}

#[allow(clippy::exit, reason = "the main thread may be stuck in a system call")]
fn exit(signal: i32) -> ! {
    let code = match STOPPED_GUEST.load(Ordering::Relaxed) {
        0 => failure(signal).code,
        code => code,
    };
    process::exit(code.into())
}
