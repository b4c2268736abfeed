//! Stops the work on SIGHUP, SIGINT or SIGTERM, and removes unfinished output.
//!
//! # Problem
//!
//! The main thread may block in a system call forever, for example in a write to a full pipe. A flag alone cannot stop
//! it. But it must not be killed while it has something to clean up, or after its result is final.
//!
//! # Solution
//!
//! A thread waits for the signals, and one atomic [`Phase`] decides between it and the main thread:
//!
//! - `WORKING`: there is nothing to clean up. The signal thread prints the message and exits.
//! - `CLEANING`: output exists that must be removed. The first signal only sets the flag that cancels the library; the
//!   main thread then removes the output and reports. Because the main thread may be blocked in a write, a second
//!   signal exits at once.
//! - `EXITING`: the process is about to exit, by the main thread or by a signal.
//!
//! Both threads enter `EXITING` by an atomic change, and the thread that comes second prints nothing. So there is
//! exactly one final message, and a signal that comes after the last step of the work cannot contradict its result.
//!
//! Printing the final message can block, because standard error can be a terminal that accepts nothing. After a signal,
//! the process exits after [`EXIT_TIMEOUT`] even if the message is not printed.

use std::process;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use signal_hook::consts::SIGXFSZ;
use signal_hook::iterator::Signals;

use crate::report::{self, Failure};
use crate::{bar, log, stop_signals};

/// How long the process waits for standard error when a signal stops it.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes a write beyond the file size limit (`RLIMIT_FSIZE`) fail with an error instead of killing the process.
pub fn ignore_file_size_limit() {
    // If this fails, the library still blocks the signal during its own writes.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
}

/// A watch for the signals that stop the work.
pub struct Interrupt {
    /// Cancels the library.
    cancel: Arc<AtomicBool>,
    /// The signal received last, or 0.
    received: Arc<AtomicI32>,
}

impl Interrupt {
    /// Starts a thread that handles the signals from now on.
    ///
    /// If the thread cannot be started, signals keep their default action. It kills the process, which also leaves no
    /// file behind on file systems with `O_TMPFILE`.
    pub fn watch() -> Self {
        let this = Self { cancel: Arc::default(), received: Arc::default() };
        let (cancel, received) = (this.cancel.clone(), this.received.clone());
        let (ready, is_ready) = mpsc::channel();
        let watch = move || {
            // Install the handlers in the thread: with handlers but without the thread, signals would have no effect.
            let signals = Signals::new(stop_signals::to_watch());
            drop(ready);
            let Ok(mut signals) = signals else { return };
            for signal in signals.forever() {
                let again = received.swap(signal, Ordering::Relaxed) != 0;
                if PHASE.change(WORKING, EXITING).is_ok()
                    || again && PHASE.change(CLEANING, EXITING).is_ok()
                {
                    report_and_exit(signal);
                }
                cancel.store(true, Ordering::Relaxed);
                if PHASE.is(EXITING) {
                    // The main thread is printing its last message, and standard error may block it.
                    thread::sleep(EXIT_TIMEOUT);
                    exit(signal);
                }
            }
        };
        if thread::Builder::new().stack_size(64 << 10).spawn(watch).is_ok() {
            // Wait until the thread drops its end, which makes `recv` return an error.
            let _: Result<(), _> = is_ready.recv();
        }
        this
    }

    /// Handles the signals while the dump of a stopped guest is written. A signal stops the dump, but the exit code
    /// stays `code`, which describes how the guest ended.
    #[cfg(feature = "run")]
    pub fn watch_dump_of_guest(code: u8) -> Self {
        STOPPED_GUEST.store(code, Ordering::Relaxed);
        Self::watch()
    }

    /// Handles the signals while a guest runs of which snapshots are dumped. Between two dumps, a signal ends the process
    /// and its message mentions no output.
    #[cfg(feature = "run")]
    pub fn watch_running_guest() -> Self {
        OUTPUT.store(ABSENT, Ordering::Relaxed);
        Self::watch()
    }

    /// Declares that the guest has stopped, as [`watch_dump_of_guest`](Self::watch_dump_of_guest) does.
    #[cfg(feature = "run")]
    pub fn expect_dump_of_guest(&self, code: u8) {
        OUTPUT.store(INCOMPLETE, Ordering::Relaxed);
        STOPPED_GUEST.store(code, Ordering::Relaxed);
    }

    /// Declares that the guest has ended, while a snapshot of it may still be written. A signal then ends the process with
    /// the exit code of the guest, unless that is 0.
    #[cfg(feature = "run")]
    pub fn expect_end_of_guest(&self, code: u8) {
        STOPPED_GUEST.store(code, Ordering::Relaxed);
    }

    /// Returns the exit code of the guest if it has ended and the code is not 0.
    #[cfg(feature = "run")]
    pub fn code_of_guest(&self) -> Option<u8> {
        Some(STOPPED_GUEST.load(Ordering::Relaxed)).filter(|code| *code != 0)
    }

    /// Leaves the phase in which there is output to remove. `result` is the result of the work.
    ///
    /// # Errors
    /// Returns the failure of the work, or the one to report if a signal was received in the meantime.
    #[cfg(feature = "run")]
    pub fn end_clean_up<T>(&self, result: Result<T, Failure>) -> Result<T, Failure> {
        // If another phase has begun, the process exits.
        let _ = PHASE.change(CLEANING, WORKING);
        let failure = self.failure();
        OUTPUT.store(ABSENT, Ordering::Relaxed);
        failure.map_or(result, Err)
    }

    /// Returns the flag that cancels the library.
    pub fn cancel(&self) -> Arc<AtomicBool> {
        self.cancel.clone()
    }

    /// Enters the phase in which there is output to remove. From now on, a signal lets the main thread clean up.
    pub fn begin_clean_up(&self) {
        if PHASE.change(WORKING, CLEANING) == Err(EXITING) {
            park_until_exit();
        }
        if OUTPUT.load(Ordering::Relaxed) == ABSENT {
            OUTPUT.store(INCOMPLETE, Ordering::Relaxed);
        }
    }

    /// Marks the dump as sent. From now on, only the receiver knows whether it is kept, and the message of a signal
    /// does not claim that it is incomplete.
    pub fn mark_sent(&self) {
        OUTPUT.store(SENT, Ordering::Relaxed);
    }

    /// Marks the dump as kept by the receiver. From now on, the message of a signal says so.
    pub fn mark_kept(&self) {
        OUTPUT.store(KEPT, Ordering::Relaxed);
    }

    /// Returns the failure to report if a signal was received.
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
        SENT => ", everything was sent, but it is unknown whether the receiver kept the dump",
        KEPT => ", after the receiver kept the dump",
        ABSENT => "",
        _ => ", the output is incomplete",
    };
    Failure::with_code(format!("stopped by {name}{output}"), code)
}

/// The exit code while the dump of a stopped guest is written, or 0 otherwise.
static STOPPED_GUEST: AtomicU8 = AtomicU8::new(0);

/// The state of the output, for the message of a signal.
static OUTPUT: AtomicU8 = AtomicU8::new(INCOMPLETE);

/// The output is incomplete.
const INCOMPLETE: u8 = 0;
/// The receiver has the whole dump, but has not replied yet.
const SENT: u8 = 1;
/// The receiver has kept the dump.
const KEPT: u8 = 2;
/// There is no output.
const ABSENT: u8 = 3;

/// The phase of the process. It decides which thread may end the process.
struct Phase(AtomicU8);

/// There is nothing to clean up: a signal ends the process at once.
const WORKING: u8 = 0;
/// There is output to remove if the work is stopped.
const CLEANING: u8 = 1;
/// The process exits, by its main thread or by a signal.
const EXITING: u8 = 2;

static PHASE: Phase = Phase(AtomicU8::new(WORKING));

impl Phase {
    fn is(&self, phase: u8) -> bool {
        self.0.load(Ordering::Relaxed) == phase
    }

    /// Changes the phase if it is `from`.
    ///
    /// # Errors
    /// Returns the phase unchanged if it is another one.
    fn change(&self, from: u8, to: u8) -> Result<u8, u8> {
        self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed)
    }
}

/// Ends the work of the main thread, which may print its message after that. Does not return if a signal came first.
pub fn finish_work() {
    if PHASE.0.swap(EXITING, Ordering::Relaxed) == EXITING {
        park_until_exit();
    }
}

/// Blocks the main thread until the signal thread exits the process.
fn park_until_exit() -> ! {
    loop {
        thread::park();
    }
}

/// Reports that a signal stopped the work, and exits.
fn report_and_exit(signal: i32) -> ! {
    let (reporting, reported) = mpsc::channel::<()>();
    let report = move || {
        bar::end();
        let message = failure(signal).message;
        report::line(&match STOPPED_GUEST.load(Ordering::Relaxed) {
            0 => message,
            _ => format!("no core dump: {message}"),
        });
        log::flush(EXIT_TIMEOUT);
        drop(reporting);
    };
    if thread::Builder::new().stack_size(64 << 10).spawn(report).is_ok() {
        let _ = reported.recv_timeout(EXIT_TIMEOUT);
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
