//! Lines for standard error. A dedicated thread writes them, so that other threads never block on standard error.
//!
//! # Problem
//!
//! Standard error can be a pipe whose reader hangs, or a terminal whose output is suspended. A `write(2)` to it then
//! blocks forever, and with it every thread that reports something, even a thread that a signal has told to stop.
//! `O_NONBLOCK` is not a solution: the flag belongs to the open file description, which the shell and other processes
//! share.
//!
//! # Solution
//!
//! One thread does all the writes, and only this thread can block. Other threads add text to a queue of at most
//! [`MAX_QUEUED_BYTES`] bytes. If a text does not fit, it is dropped, and the queue counts its lines at their position.
//! Once standard error accepts bytes again, a line at this position says how many lines were dropped. So memory is
//! bounded, the order of lines is kept, and no line is dropped silently.
//!
//! # Waiting
//!
//! - Most commands wait until each line is written. This keeps the order of lines on standard error and standard
//!   output, and a process that is killed has already written its lines. A command waits while standard error makes
//!   progress, and at most [`STALL_TIMEOUT`] without progress. After such a timeout, it does not wait again until
//!   standard error accepts bytes again.
//! - `receive` never waits ([`never_wait`]): no reader of its standard error may delay its senders.
//! - At exit, [`flush`] waits one last time.
//!
//! If the thread cannot be started, lines are written directly. That may block, but no line is lost.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::bar;

/// The maximum number of bytes of text in the queue.
const MAX_QUEUED_BYTES: usize = 256 << 10;

/// How long a caller waits for standard error without progress.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a command waits for standard error without progress when it exits. Longer than [`STALL_TIMEOUT`], because
/// standard error can be piped into a pager.
const EXIT_STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The stack size of the thread in bytes. It is enough to redraw a progress bar.
const STACK_BYTES: usize = 256 << 10;

/// Writes text to standard error, after all text that is queued already.
pub fn write(text: &str) {
    let mut state = LOG.state();
    if !state.is_running && start(&mut state).is_err() {
        drop(state);
        write_to_stderr(text.as_bytes(), || {});
        return;
    }
    let Some(ticket) = state.queue.push(text) else { return };
    LOG.changed.notify_all();
    if !state.never_wait && !state.stuck {
        wait(state, ticket, STALL_TIMEOUT);
    }
}

/// Makes [`write()`] return without waiting from now on.
///
/// # Errors
/// Returns an error if the thread that writes cannot be started.
pub fn never_wait() -> io::Result<()> {
    let mut state = LOG.state();
    state.never_wait = true;
    if !state.is_running { start(&mut state) } else { Ok(()) }
}

/// Waits until all queued text is written. Gives up after `timeout` without progress.
pub fn flush(timeout: Duration) {
    let state = LOG.state();
    let last = state.queue.pushed;
    wait(state, last, timeout);
}

/// Returns the timeout for [`flush`] at exit. It is short for `receive`, which does not depend on its lines.
pub fn exit_timeout() -> Duration {
    if LOG.state().never_wait { STALL_TIMEOUT } else { EXIT_STALL_TIMEOUT }
}

/// The state that the threads share, and its condition variable.
struct Log {
    state: Mutex<LogState>,
    /// Signals that text was queued, that standard error made progress, or that a text was written.
    changed: Condvar,
}

struct LogState {
    queue: Queue,
    /// Whether the thread was started.
    is_running: bool,
    never_wait: bool,
    /// Whether a wait has timed out and standard error has accepted nothing since.
    stuck: bool,
    /// The number of writes in which standard error accepted bytes.
    progress: u64,
}

static LOG: Log = Log {
    state: Mutex::new(LogState {
        queue: Queue::new(),
        is_running: false,
        never_wait: false,
        stuck: false,
        progress: 0,
    }),
    changed: Condvar::new(),
};

impl Log {
    fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the text with this ticket is written. Gives up after `timeout` without progress.
fn wait(mut state: MutexGuard<'_, LogState>, ticket: u64, timeout: Duration) {
    while state.queue.written < ticket {
        let before = state.progress;
        let waited = LOG.changed.wait_timeout_while(state, timeout, |state| {
            state.queue.written < ticket && state.progress == before
        });
        let (after, result) = waited.unwrap_or_else(PoisonError::into_inner);
        state = after;
        if result.timed_out() {
            state.stuck = true;
            return;
        }
    }
}

fn start(state: &mut LogState) -> io::Result<()> {
    thread::Builder::new().name("log".into()).stack_size(STACK_BYTES).spawn(write_queued)?;
    state.is_running = true;
    Ok(())
}

/// Writes queued text forever.
fn write_queued() {
    loop {
        let mut state = LOG.state();
        let text = loop {
            match state.queue.pop() {
                Some(text) => break text,
                None => {
                    state = LOG.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        drop(state);
        bar::write_above(|| {
            write_to_stderr(text.as_bytes(), || {
                let mut state = LOG.state();
                state.progress += 1;
                state.stuck = false;
                LOG.changed.notify_all();
            });
        });
        LOG.state().queue.mark_written();
        LOG.changed.notify_all();
    }
}

/// Writes bytes to standard error and calls `on_progress` after each successful write.
///
/// Retries once after an error, which may be temporary (for example, a full disk). After a second error, the rest of
/// the bytes is lost: there is no other place to report it.
fn write_to_stderr(mut bytes: &[u8], on_progress: impl Fn()) {
    let stderr = io::stderr();
    let mut has_failed = false;
    while !bytes.is_empty() {
        match rustix::io::write(&stderr, bytes) {
            Ok(0) => return,
            Ok(n) => {
                bytes = bytes.get(n..).unwrap_or_default();
                on_progress();
            }
            Err(Errno::INTR) => {}
            // A parent process may have made standard error non-blocking.
            Err(Errno::AGAIN) => {
                let mut fd = [PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::OUT)];
                match poll(&mut fd, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(_) => return,
                }
            }
            Err(Errno::PIPE) => return,
            Err(_) if has_failed => return,
            Err(_) => has_failed = true,
        }
    }
}

/// A bounded queue of texts, with the number of lines dropped at each position.
struct Queue {
    entries: VecDeque<Entry>,
    /// The bytes of all queued texts.
    bytes: usize,
    /// The number of entries pushed so far.
    pushed: u64,
    /// The number of entries written so far.
    written: u64,
}

enum Entry {
    Text(String),
    /// The number of lines dropped at this position.
    Dropped(u64),
}

impl Queue {
    const fn new() -> Self {
        Self { entries: VecDeque::new(), bytes: 0, pushed: 0, written: 0 }
    }

    /// Adds a text and returns its ticket: the value that [`written`](Self::written) reaches when the text is written.
    /// Returns `None` if the text does not fit. An empty queue accepts a text of any length.
    fn push(&mut self, text: &str) -> Option<u64> {
        let room = MAX_QUEUED_BYTES.checked_sub(self.bytes);
        if self.bytes > 0 && room.is_none_or(|room| text.len() > room) {
            let lines = text.lines().count() as u64;
            match self.entries.back_mut() {
                Some(Entry::Dropped(count)) => *count += lines,
                _ => self.add(Entry::Dropped(lines)),
            }
            return None;
        }
        self.bytes += text.len();
        self.add(Entry::Text(text.into()));
        Some(self.pushed)
    }

    fn add(&mut self, entry: Entry) {
        self.entries.push_back(entry);
        self.pushed += 1;
    }

    /// Removes and returns the next text to write.
    fn pop(&mut self) -> Option<String> {
        Some(match self.entries.pop_front()? {
            Entry::Text(text) => {
                // `push` added this length.
                self.bytes -= text.len();
                text
            }
            Entry::Dropped(1) => {
                "corestream: 1 line was dropped here because standard error was not read\n".into()
            }
            Entry::Dropped(count) => format!(
                "corestream: {count} lines were dropped here because standard error was not read\n"
            ),
        })
    }

    /// Marks the text that was popped last as written.
    fn mark_written(&mut self) {
        self.written += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pop_all(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn counts_dropped_lines_at_their_position() {
        let mut queue = Queue::new();
        let large = format!("{}\n", "x".repeat(MAX_QUEUED_BYTES / 2 - 1));
        assert_eq!(queue.push(&large), Some(1));
        assert_eq!(queue.push(&large), Some(2));
        assert_eq!(queue.push("one\n"), None);
        assert_eq!(queue.pop().as_deref(), Some(&*large));
        queue.mark_written();
        assert_eq!(queue.push("after\n"), Some(4));
        for _ in 0..3 {
            assert_eq!(queue.push(&format!("two\n{large}")), None);
        }
        let dropped = |what: &str| {
            format!("corestream: {what} dropped here because standard error was not read\n")
        };
        let rest = pop_all(&mut queue);
        let expected = [large, dropped("1 line was"), "after\n".into(), dropped("6 lines were")];
        assert_eq!(rest, expected);
        assert_eq!((queue.bytes, queue.push("again\n")), (0, Some(6)));
    }

    #[test]
    fn an_empty_queue_accepts_a_text_of_any_length() {
        let mut queue = Queue::new();
        assert_eq!(queue.push(&"x".repeat(3 * MAX_QUEUED_BYTES)), Some(1));
        assert_eq!(queue.push("y"), None);
    }

    /// Memory is bounded, however many texts are dropped in whatever order.
    #[test]
    fn the_queue_is_bounded() {
        let mut queue = Queue::new();
        let (small, large) = ("x".repeat(100), "y".repeat(MAX_QUEUED_BYTES / 2));
        for i in 0..100_000 {
            queue.push(if i % 3 == 0 { &large } else { &small });
        }
        let max_entries = 2 * (MAX_QUEUED_BYTES / small.len()) + 3;
        assert!(queue.bytes <= MAX_QUEUED_BYTES && queue.entries.len() <= max_entries);
    }
}
