//! How far a dump has come, on standard error: a bar at the bottom of a terminal, else plain lines.

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

/// A dump that takes no longer has no progress to show.
const SHORT: Duration = Duration::from_secs(1);
/// How often a bar is drawn, and the speed looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long there is no other line after one.
const LINE: Duration = Duration::from_secs(1);
/// Who wants to know that more than this is left?
const LONG: Duration = Duration::from_secs(100 * 3600);
/// Less left would be shown as 0 seconds.
const LEAST: Duration = Duration::from_millis(500);
/// How long a dump that is done waits for what shows it, which a terminal may hold up.
const GRACE: Duration = Duration::from_secs(1);
/// Columns that a bar and what stands beside it need.
const WIDE: u16 = 72;
/// Bytes of the stack of the thread that shows.
const STACK: usize = 256 << 10;

/// When progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// Where standard error is a terminal
    Auto,
    /// Everywhere: where it is no terminal as a line a second
    Always,
    /// Nowhere
    Never,
}

/// The thread that shows.
struct Thread {
    /// Takes in which time the dump was written, which is the end.
    end: Sender<Option<Duration>>,
    /// Has no other end any more when the thread is done.
    done: Receiver<()>,
    handle: JoinHandle<()>,
}

/// How far the work has come in a stage, in bytes.
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

/// The latest state of the dump, for the thread that shows it.
#[derive(Clone, Copy, Default)]
struct Told {
    step: Option<Step>,
    /// What the dump waits for, in words.
    waits_for: Option<&'static str>,
}

/// Shows how far a dump has come, in a thread of its own, until it is dropped.
pub struct Display {
    told: Arc<Mutex<Told>>,
    thread: Option<Thread>,
    start: Instant,
}

impl Display {
    /// Begins to show the progress of a dump that goes to `name`; without a thread there is nothing to see.
    pub fn start(when: When, name: &str) -> Self {
        let (told, start) = (Arc::default(), Instant::now());
        let bar = stderr().is_terminal() && !report::is_dumb_terminal();
        let thread = match when {
            When::Never => None,
            When::Auto if !bar => None,
            When::Auto | When::Always => {
                let (end, ended) = mpsc::channel();
                let (running, done) = mpsc::channel();
                let told = Arc::clone(&told);
                let name = name.to_string();
                let show = move || {
                    let _running: Sender<()> = running;
                    Shown::new(bar, name).follow(&told, &ended);
                };
                let thread = thread::Builder::new().stack_size(STACK).spawn(show);
                thread.ok().map(|handle| Thread { end, done, handle })
            }
        };
        Self { told, thread, start }
    }

    /// Returns the function that the library tells how far it has come.
    pub fn watcher(&self) -> impl Fn(Progress) + Send + Sync + use<> {
        let show = self.show();
        move |progress| show(progress.into())
    }

    /// Returns the function that shows a step, for work that counts its own progress.
    pub fn show(&self) -> impl Fn(Step) + Send + Sync + use<> {
        let told = self.told.clone();
        move |step| lock(&told).step = Some(step)
    }

    /// Runs `work` and shows meanwhile that the dump waits for `waits_for`.
    pub fn while_waiting_for<T>(&self, waits_for: &'static str, work: impl FnOnce() -> T) -> T {
        lock(&self.told).waits_for = Some(waits_for);
        let done = work();
        lock(&self.told).waits_for = None;
        done
    }

    /// The dump is written: if there were lines, there is a last one.
    pub fn finish(mut self) {
        self.end(Some(self.start.elapsed()));
    }

    fn end(&mut self, written_in: Option<Duration>) {
        let Some(Thread { end, done, handle }) = self.thread.take() else { return };
        let _ = end.send(written_in);
        // It waits for nothing else, and ends at once, unless the terminal takes nothing: no dump waits
        // for that.
        if done.recv_timeout(GRACE) == Err(RecvTimeoutError::Disconnected) {
            let _ = handle.join();
        }
    }
}

/// A thread that panicked leaves nothing half done in it.
fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Display {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// What is shown.
struct Shown {
    /// Hidden where lines are printed: then it only knows how fast it goes.
    bar: ProgressBar,
    is_bar: bool,
    name: String,
    stage: Option<Stage>,
    /// When the last line was printed.
    line: Option<Instant>,
}

impl Shown {
    fn new(is_bar: bool, name: String) -> Self {
        Self { bar: ProgressBar::hidden(), is_bar, name, stage: None, line: None }
    }

    /// Shows what is told until the other end says in which time the dump was written, or is gone.
    fn follow(&mut self, told: &Mutex<Told>, end: &Receiver<Option<Duration>>) {
        let (start, mut is_shown) = (Instant::now(), false);
        let written_in = loop {
            match end.recv_timeout(TICK) {
                Ok(written_in) => break written_in,
                Err(RecvTimeoutError::Disconnected) => break None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let Told { step, waits_for } = *lock(told);
            let Some(step) = step else { continue };
            match waits_for {
                None => self.update(step),
                Some(what) => self.wait(what),
            }
            if !is_shown && start.elapsed() >= SHORT {
                is_shown = true;
                if self.is_bar {
                    self.begin_bar();
                }
            }
            if is_shown && !self.is_bar {
                let text = match waits_for {
                    None => format!("{} {}", doing(step.stage), self.text(step)),
                    Some(what) => format!("waiting for {what}"),
                };
                self.line(&text);
            }
        };
        bar::end();
        let last = lock(told).step;
        if let (Some(time), Some(_), Some(step)) = (written_in, self.line, last) {
            report::line(&last_line(&self.name, step, time));
        }
    }

    fn begin_bar(&self) {
        let narrow = tcgetwinsize(stderr()).is_ok_and(|size| (1..WIDE).contains(&size.ws_col));
        // What does not fit into the line of a narrow terminal is cut off.
        let template = if narrow { "{prefix} {wide_msg}" } else { "{prefix} [{wide_bar}] {msg}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("=> "));
        }
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
        bar::begin(&self.bar);
    }

    /// Takes in what was told.
    fn update(&mut self, step: Step) {
        if self.stage != Some(step.stage) {
            self.stage = Some(step.stage);
            self.bar.reset();
            self.bar.set_length(step.total);
            self.bar.set_prefix(doing(step.stage));
        }
        self.bar.set_position(step.done);
        self.bar.set_message(self.text(step));
        self.bar.tick();
    }

    /// Shows that nothing goes on.
    fn wait(&mut self, what: &str) {
        // What goes on next begins anew.
        self.stage = None;
        self.bar.set_position(0);
        self.bar.set_prefix(format!("waiting for {what}"));
        self.bar.set_message("");
        self.bar.tick();
    }

    /// Prints a line, unless there has been one a moment ago.
    fn line(&mut self, text: &str) {
        if self.line.is_none_or(|line| line.elapsed() >= LINE) {
            self.line = Some(Instant::now());
            report::line(&format!("{}: {text}", self.name));
        }
    }

    /// How much of how much, how fast, and how long it takes.
    fn text(&self, step: Step) -> String {
        let Step { stage, done, total } = step;
        let total = BinaryBytes(total);
        if stage == Stage::Sync {
            // The kernel does not say how far it is.
            return total.to_string();
        }
        let mut text = format!("{} of {total}, {}/s", BinaryBytes(done), size(self.bar.per_sec()));
        let left = self.bar.eta();
        if left >= LEAST && left < LONG {
            text.push_str(&format!(", {} left", time(left)));
        }
        text
    }
}

/// What goes on, as a word before the bytes.
fn doing(stage: Stage) -> &'static str {
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

/// The line after the last stage: what was done with `name`.
fn last_line(name: &str, step: Step, time: Duration) -> String {
    let done = match step.stage {
        Stage::Scan => "scanned",
        Stage::Verify => "checked",
        Stage::Open => "read",
        Stage::Restore => "extracted",
        _ => "written",
    };
    format!("{name}: {done}, {} in {:.1} s", BinaryBytes(step.total), time.as_secs_f64())
}

/// Bytes that need not be whole.
fn size(mut bytes: f64) -> String {
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

/// A time, as exact as it matters.
fn time(time: Duration) -> String {
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
    fn the_last_line_says_what_was_done() {
        let line = |stage| {
            let step = Step { stage, done: 1, total: 3 << 20 };
            last_line("guest.core", step, Duration::from_millis(1250))
        };
        assert_eq!(line(Stage::Verify), "guest.core: checked, 3.00 MiB in 1.2 s");
        assert_eq!(line(Stage::Restore), "guest.core: extracted, 3.00 MiB in 1.2 s");
        assert_eq!(line(Stage::Write), "guest.core: written, 3.00 MiB in 1.2 s");
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!(size(0.0), "0.0 B");
        assert_eq!(size(1023.0), "1023.0 B");
        assert_eq!(size(1.5 * 1024.0 * 1024.0), "1.5 MiB");
        assert_eq!(size(2_f64.powi(50)), "1024.0 TiB");
        assert_eq!(time(Duration::from_millis(59_400)), "59 s");
        assert_eq!(time(Duration::from_millis(59_600)), "1 min 0 s");
        assert_eq!(time(Duration::from_secs(7265)), "2 h 1 min");
    }
}
