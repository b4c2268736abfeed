//! Shows progress on standard error: as a bar at the bottom of a terminal, otherwise as plain lines.
//!
//! # Problem
//!
//! The library calls a progress callback between batches, on the thread that does the work. The callback must be cheap
//! and must never block, but a terminal can block a write forever. The display must also show that the work waits, for
//! example for a reader, and then the library calls no callback.
//!
//! # Solution
//!
//! The callback only stores the latest [`Step`] in [`Status`], under a mutex that is held for a moment. A thread
//! ([`Renderer`]) looks at the status every [`TICK`] and draws it. Steps in between are lost, which does no harm: only
//! the latest one matters. Work shorter than [`SHOW_AFTER`] shows nothing.
//!
//! Messages of other threads must not garble the bar. They go through the log thread, which suspends the bar while it
//! writes ([`bar::write_above`]). Plain lines are printed at most once per [`LINE_INTERVAL`]. If there were any, a last
//! line summarizes the work.
//!
//! When the work is done, the main thread waits at most [`JOIN_TIMEOUT`] for the thread. If a terminal blocks it, the
//! tool exits without it.

use std::io::{IsTerminal, stderr};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use corestream::{Progress, Stage};
use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::termios::tcgetwinsize;

use crate::{bar, report};

/// How long work must take before its progress is shown.
const SHOW_AFTER: Duration = Duration::from_secs(1);
/// The interval between two updates of the bar and of the speed.
const TICK: Duration = Duration::from_millis(100);
/// The minimum interval between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// The longest remaining time that is shown. A longer estimate is useless.
const MAX_SHOWN_ETA: Duration = Duration::from_secs(100 * 3600);
/// The shortest remaining time that is shown. A shorter one would be shown as 0 seconds.
const MIN_SHOWN_ETA: Duration = Duration::from_millis(500);
/// How long finished work waits for the thread, which a terminal can block.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);
/// The number of columns that a bar and the text next to it need.
const MIN_BAR_COLUMNS: u16 = 72;
/// The stack size of the thread in bytes.
const STACK_BYTES: usize = 256 << 10;

/// When to show progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// If standard error is a terminal
    Auto,
    /// Always; if standard error is not a terminal, as one line per second
    Always,
    /// Never
    Never,
}

/// The thread that shows progress.
struct Thread {
    /// Stops the thread. The message is the duration of the work if it succeeded.
    stop: Sender<Option<Duration>>,
    /// Disconnected when the thread has ended.
    done: Receiver<()>,
    handle: JoinHandle<()>,
}

/// The progress within a stage, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub stage: Stage,
    pub done: u64,
    pub total: u64,
}

impl From<Progress> for Step {
    fn from(progress: Progress) -> Self {
        let Progress { stage, done, total, .. } = progress;
        Self { stage, done, total }
    }
}

/// The latest status of the work, which the thread shows.
#[derive(Clone, Copy, Default)]
struct Status {
    step: Option<Step>,
    /// The other side that the work waits for, in words.
    waits_for: Option<&'static str>,
}

/// A display of the progress of some work, until it is finished or dropped.
pub struct ProgressDisplay {
    status: Arc<Mutex<Status>>,
    thread: Option<Thread>,
    start: Instant,
}

impl ProgressDisplay {
    /// Starts to show the progress of the work on `name`. Shows nothing if the thread cannot be started.
    pub fn start(mode: ProgressMode, name: &str) -> Self {
        let (status, start) = (Arc::default(), Instant::now());
        let is_bar = stderr().is_terminal() && !report::is_dumb_terminal();
        let thread = match mode {
            ProgressMode::Never => None,
            ProgressMode::Auto if !is_bar => None,
            ProgressMode::Auto | ProgressMode::Always => {
                let (stop, stopped) = mpsc::channel();
                let (running, done) = mpsc::channel();
                let status = Arc::clone(&status);
                let name = name.to_string();
                let show = move || {
                    let _running: Sender<()> = running;
                    Renderer::new(is_bar, name).run(&status, &stopped);
                };
                let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(show);
                thread.ok().map(|handle| Thread { stop, done, handle })
            }
        };
        Self { status, thread, start }
    }

    /// Returns a progress callback for the library.
    pub fn callback(&self) -> impl Fn(Progress) + Send + Sync + use<> {
        let show = self.step_callback();
        move |progress| show(progress.into())
    }

    /// Returns a callback that shows a step, for work that counts its own progress.
    pub fn step_callback(&self) -> impl Fn(Step) + Send + Sync + use<> {
        let status = self.status.clone();
        move |step| lock(&status).step = Some(step)
    }

    /// Runs `work`, and shows in the meantime that it waits for `waits_for`.
    pub fn while_waiting_for<T>(&self, waits_for: &'static str, work: impl FnOnce() -> T) -> T {
        lock(&self.status).waits_for = Some(waits_for);
        let result = work();
        lock(&self.status).waits_for = None;
        result
    }

    /// Stops the display after successful work. If plain lines were printed, prints a last one.
    pub fn finish(mut self) {
        self.stop(Some(self.start.elapsed()));
    }

    fn stop(&mut self, duration: Option<Duration>) {
        let Some(Thread { stop, done, handle }) = self.thread.take() else { return };
        let _ = stop.send(duration);
        // The thread ends at once, unless the terminal blocks it. Do not wait for the terminal.
        if done.recv_timeout(JOIN_TIMEOUT) == Err(RecvTimeoutError::Disconnected) {
            let _ = handle.join();
        }
    }
}

/// Locks the status. A thread that panics cannot leave it inconsistent, so poisoning is ignored.
fn lock(status: &Mutex<Status>) -> MutexGuard<'_, Status> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        self.stop(None);
    }
}

/// Draws the bar or prints the lines.
struct Renderer {
    /// Hidden if lines are printed. It then only computes the speed.
    bar: ProgressBar,
    is_bar: bool,
    name: String,
    stage: Option<Stage>,
    /// When the last line was printed.
    last_line: Option<Instant>,
}

impl Renderer {
    fn new(is_bar: bool, name: String) -> Self {
        Self { bar: ProgressBar::hidden(), is_bar, name, stage: None, last_line: None }
    }

    /// Shows the status until `stop` receives a message or is disconnected.
    fn run(&mut self, status: &Mutex<Status>, stop: &Receiver<Option<Duration>>) {
        let (start, mut is_shown) = (Instant::now(), false);
        let duration = loop {
            match stop.recv_timeout(TICK) {
                Ok(duration) => break duration,
                Err(RecvTimeoutError::Disconnected) => break None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let Status { step, waits_for } = *lock(status);
            let Some(step) = step else { continue };
            match waits_for {
                None => self.update(step),
                Some(other_side) => self.show_waiting(other_side),
            }
            if !is_shown && start.elapsed() >= SHOW_AFTER {
                is_shown = true;
                if self.is_bar {
                    self.begin_bar();
                }
            }
            if is_shown && !self.is_bar {
                let text = match waits_for {
                    None => format!("{} {}", stage_label(step.stage), self.describe(step)),
                    Some(other_side) => format!("waiting for {other_side}"),
                };
                self.print_line(&text);
            }
        };
        bar::end();
        let step = lock(status).step;
        if let (Some(duration), Some(_), Some(step)) = (duration, self.last_line, step) {
            report::line(&summary(&self.name, step, duration));
        }
    }

    fn begin_bar(&self) {
        let columns = tcgetwinsize(stderr()).map(|size| size.ws_col);
        let narrow = columns.is_ok_and(|columns| (1..MIN_BAR_COLUMNS).contains(&columns));
        // `wide_msg` cuts off text that does not fit into the line of a narrow terminal.
        let template = if narrow { "{prefix} {wide_msg}" } else { "{prefix} [{wide_bar}] {msg}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("=> "));
        }
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
        bar::begin(&self.bar);
    }

    /// Updates the bar with a step.
    fn update(&mut self, step: Step) {
        if self.stage != Some(step.stage) {
            self.stage = Some(step.stage);
            self.bar.reset();
            self.bar.set_length(step.total);
            self.bar.set_prefix(stage_label(step.stage));
        }
        self.bar.set_position(step.done);
        self.bar.set_message(self.describe(step));
        self.bar.tick();
    }

    /// Shows that the work waits.
    fn show_waiting(&mut self, other_side: &str) {
        // The next step starts its stage again, so that the time of waiting does not count for the speed.
        self.stage = None;
        self.bar.set_position(0);
        self.bar.set_prefix(format!("waiting for {other_side}"));
        self.bar.set_message("");
        self.bar.tick();
    }

    /// Prints a line, unless the last line is less than [`LINE_INTERVAL`] ago.
    fn print_line(&mut self, text: &str) {
        if self.last_line.is_none_or(|line| line.elapsed() >= LINE_INTERVAL) {
            self.last_line = Some(Instant::now());
            report::line(&format!("{}: {text}", self.name));
        }
    }

    /// Describes a step: bytes done and in total, speed, and remaining time.
    fn describe(&self, step: Step) -> String {
        let Step { stage, done, total } = step;
        let total = BinaryBytes(total);
        if stage == Stage::Sync {
            // The kernel does not report the progress of a sync.
            return total.to_string();
        }
        let speed = format_bytes(self.bar.per_sec());
        let mut text = format!("{} of {total}, {speed}/s", BinaryBytes(done));
        let eta = self.bar.eta();
        if eta >= MIN_SHOWN_ETA && eta < MAX_SHOWN_ETA {
            text.push_str(&format!(", {} left", format_time(eta)));
        }
        text
    }
}

/// Returns the label of a stage, which precedes the bytes.
fn stage_label(stage: Stage) -> &'static str {
    match stage {
        Stage::Scan => "scanning",
        Stage::Write => "writing",
        Stage::Sync => "waiting for the disk:",
        Stage::Verify => "checking",
        Stage::Open => "reading",
        Stage::Restore => "extracting",
        _ => "working",
    }
}

/// Returns the line after the last stage, which summarizes the work on `name`.
fn summary(name: &str, step: Step, duration: Duration) -> String {
    let done = match step.stage {
        Stage::Scan => "scanned",
        Stage::Verify => "checked",
        Stage::Open => "read",
        Stage::Restore => "extracted",
        _ => "written",
    };
    format!("{name}: {done}, {} in {:.1} s", BinaryBytes(step.total), duration.as_secs_f64())
}

/// Formats a number of bytes that may have a fraction.
fn format_bytes(mut bytes: f64) -> String {
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if bytes < 1024.0 {
            break;
        }
        bytes /= 1024.0;
        unit = larger;
    }
    format!("{bytes:.1} {unit}")
}

/// Formats a time with its two largest units.
fn format_time(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_millis() >= 500);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_the_last_stage() {
        let line = |stage| {
            let step = Step { stage, done: 1, total: 3 << 20 };
            summary("guest.core", step, Duration::from_millis(1250))
        };
        assert_eq!(line(Stage::Verify), "guest.core: checked, 3.00 MiB in 1.2 s");
        assert_eq!(line(Stage::Restore), "guest.core: extracted, 3.00 MiB in 1.2 s");
        assert_eq!(line(Stage::Write), "guest.core: written, 3.00 MiB in 1.2 s");
    }

    #[test]
    fn formats_sizes_and_times() {
        assert_eq!(format_bytes(0.0), "0.0 B");
        assert_eq!(format_bytes(1023.0), "1023.0 B");
        assert_eq!(format_bytes(1.5 * 1024.0 * 1024.0), "1.5 MiB");
        assert_eq!(format_bytes(2_f64.powi(50)), "1024.0 TiB");
        assert_eq!(format_time(Duration::from_millis(59_400)), "59 s");
        assert_eq!(format_time(Duration::from_millis(59_600)), "1 min 0 s");
        assert_eq!(format_time(Duration::from_secs(7265)), "2 h 1 min");
    }
}
