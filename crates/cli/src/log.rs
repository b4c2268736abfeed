//! Lines for standard error, written by a thread of their own: other threads never block because standard
//! error is not read.
//!
//! The problem: standard error may be a pipe whose reader hangs, or a terminal that was stopped. A `write(2)`
//! to it blocks for ever, and every thread that has something to say gets stuck, even one that was told by a
//! signal to end. `O_NONBLOCK` is no way out: it belongs to the open file description, which is shared with
//! the shell and with every other process that has it.
//!
//! The idea: one thread does all the writes, and may get stuck. Everybody else hands it text in a queue of
//! [`ROOM`] bytes. A text that does not fit is dropped and counted, and the queue keeps the place where it is
//! missing: when standard error takes bytes again, a line there says how many lines were dropped.
//!
//! Who waits: a command that works for one user waits until its line is written, so that its lines keep their
//! order with standard output, and a process that is killed has said what it said. It waits as long as
//! standard error takes bytes, and at most [`PATIENCE`] while it takes none; after that only once it takes
//! bytes again. `receive` never waits ([`never_wait`]). At the end of the process [`flush`] waits a last time.
//!
//! If the thread cannot be started, the line is written directly, and may block: better than no line.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::bar;

/// Bytes of text that wait at most.
const ROOM: usize = 256 << 10;

/// How long a line waits for standard error while that takes nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the end of a command waits for standard error while that takes nothing: it may be
/// piped into a pager.
pub const AT_THE_END: Duration = Duration::from_secs(5);

/// Bytes of the stack of the thread, which may have to draw a progress bar anew.
const STACK: usize = 256 << 10;

/// Writes text to standard error, in its turn.
pub fn write(text: &str) {
    let mut state = LOG.state();
    if !state.is_running && start(&mut state).is_err() {
        drop(state);
        put(text.as_bytes(), || {});
        return;
    }
    let Some(ticket) = state.queue.push(text) else { return };
    LOG.changed.notify_all();
    if !state.never_wait && !state.stuck {
        wait(state, ticket, PATIENCE);
    }
}

/// From now on no line waits for standard error.
///
/// # Errors
/// Returns an error if there can be no thread that writes.
pub fn never_wait() -> io::Result<()> {
    let mut state = LOG.state();
    state.never_wait = true;
    if !state.is_running { start(&mut state) } else { Ok(()) }
}

/// Waits until everything is written, as long as standard error takes bytes, and for `patience` while it
/// takes none.
pub fn flush(patience: Duration) {
    let state = LOG.state();
    let last = state.queue.pushed;
    wait(state, last, patience);
}

/// How long the end of the process waits: for `receive`, which goes on without its lines, not long.
pub fn patience_at_the_end() -> Duration {
    if LOG.state().never_wait { PATIENCE } else { AT_THE_END }
}

/// What the threads share.
struct Log {
    state: Mutex<State>,
    /// Something was pushed, or written.
    changed: Condvar,
}

struct State {
    queue: Queue,
    /// Whether the thread was started.
    is_running: bool,
    never_wait: bool,
    /// Somebody has waited for standard error in vain, and it has taken nothing since.
    stuck: bool,
    /// Changes whenever standard error has taken bytes.
    progress: u64,
}

static LOG: Log = Log {
    state: Mutex::new(State {
        queue: Queue::new(),
        is_running: false,
        never_wait: false,
        stuck: false,
        progress: 0,
    }),
    changed: Condvar::new(),
};

impl Log {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the text with this ticket is written, or for `patience` in which nothing is.
fn wait(mut state: MutexGuard<'_, State>, ticket: u64, patience: Duration) {
    while state.queue.written < ticket {
        let before = state.progress;
        let waited = LOG.changed.wait_timeout_while(state, patience, |state| {
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

fn start(state: &mut State) -> io::Result<()> {
    thread::Builder::new().name("log".into()).stack_size(STACK).spawn(run)?;
    state.is_running = true;
    Ok(())
}

/// Writes what is queued, for ever.
fn run() {
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
            put(text.as_bytes(), || {
                let mut state = LOG.state();
                state.progress += 1;
                state.stuck = false;
                LOG.changed.notify_all();
            });
        });
        LOG.state().queue.has_written();
        LOG.changed.notify_all();
    }
}

/// Writes bytes to standard error, and tells `took` whenever it has taken some. An error may be one of the
/// moment, such as a disk that is full: the write is tried once more. Then the text is lost, and there is
/// nobody left to tell.
fn put(mut bytes: &[u8], took: impl Fn()) {
    let stderr = io::stderr();
    let mut has_failed = false;
    while !bytes.is_empty() {
        match rustix::io::write(&stderr, bytes) {
            Ok(0) => return,
            Ok(n) => {
                bytes = bytes.get(n..).unwrap_or_default();
                took();
            }
            Err(Errno::INTR) => {}
            // A parent may have made it so that it does not block.
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

/// Texts in order, of bounded size, with the places where others are missing.
struct Queue {
    entries: VecDeque<Entry>,
    /// Bytes of the texts.
    bytes: usize,
    /// Entries that were ever pushed.
    pushed: u64,
    /// Those of them that were written.
    written: u64,
}

enum Entry {
    Text(String),
    /// So many lines are missing here.
    Dropped(u64),
}

impl Queue {
    const fn new() -> Self {
        Self { entries: VecDeque::new(), bytes: 0, pushed: 0, written: 0 }
    }

    /// Adds a text, and returns the number of entries that are written when it is; `None` if there is no room
    /// for it. One that is larger than all the room is taken if it is alone.
    fn push(&mut self, text: &str) -> Option<u64> {
        let room = ROOM.checked_sub(self.bytes);
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

    /// Takes out the next text to write.
    fn pop(&mut self) -> Option<String> {
        Some(match self.entries.pop_front()? {
            Entry::Text(text) => {
                // `push` added this length.
                self.bytes -= text.len();
                text
            }
            Entry::Dropped(1) => {
                "corestream: 1 line was dropped here, standard error was not read\n".into()
            }
            Entry::Dropped(count) => format!(
                "corestream: {count} lines were dropped here, standard error was not read\n"
            ),
        })
    }

    /// What was popped last is written.
    fn has_written(&mut self) {
        self.written += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn says_where_how_many_lines_are_missing() {
        let mut queue = Queue::new();
        let large = format!("{}\n", "x".repeat(ROOM / 2 - 1));
        assert_eq!(queue.push(&large), Some(1));
        assert_eq!(queue.push(&large), Some(2));
        assert_eq!(queue.push("one\n"), None);
        assert_eq!(queue.pop().as_deref(), Some(&*large));
        queue.has_written();
        assert_eq!(queue.push("after\n"), Some(4));
        for _ in 0..3 {
            assert_eq!(queue.push(&format!("two\n{large}")), None);
        }
        let dropped =
            |what: &str| format!("corestream: {what} dropped here, standard error was not read\n");
        let rest = all(&mut queue);
        let expected = [large, dropped("1 line was"), "after\n".into(), dropped("6 lines were")];
        assert_eq!(rest, expected);
        assert_eq!((queue.bytes, queue.push("again\n")), (0, Some(6)));
    }

    #[test]
    fn a_text_of_any_size_is_taken_alone() {
        let mut queue = Queue::new();
        assert_eq!(queue.push(&"x".repeat(3 * ROOM)), Some(1));
        assert_eq!(queue.push("y"), None);
    }

    /// However many are dropped, in whatever order, the memory is bounded.
    #[test]
    fn the_queue_is_bounded() {
        let mut queue = Queue::new();
        let (small, large) = ("x".repeat(100), "y".repeat(ROOM / 2));
        for i in 0..100_000 {
            queue.push(if i % 3 == 0 { &large } else { &small });
        }
        assert!(queue.bytes <= ROOM && queue.entries.len() <= 2 * (ROOM / small.len()) + 3);
    }
}
