//! SIGHUP, SIGINT and SIGTERM in a server. Every thread that waits for a socket sees them.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::SIGINT;
use signal_hook::{flag, low_level::pipe};

use crate::report::Failure;
use crate::stop_signals;

/// Watches for the signals that stop a server.
pub struct Stop {
    /// The subcommand, for messages.
    command: &'static str,
    /// The number of the signal, or 0 if none has arrived.
    signal: Arc<AtomicUsize>,
    /// A pipe that becomes readable when a signal arrives. Its bytes are never read, so all waiting threads see it.
    wake: PipeReader,
    /// What a signal writes to.
    #[cfg(test)]
    waker: io::PipeWriter,
}

/// The result of a wait.
#[derive(Debug, PartialEq, Eq)]
pub enum Ready {
    /// The descriptor is readable, or reading reports an error.
    Readable,
    /// A signal arrived.
    Stopped,
    /// The time is over.
    TimedOut,
}

impl Stop {
    /// Starts watching. Messages begin with `command`.
    ///
    /// # Errors
    /// Returns an error if the process has no free descriptors, or if it cannot handle the signals.
    pub fn watch(command: &'static str) -> io::Result<Self> {
        Self::watch_for(command, stop_signals::to_watch())
    }

    /// Starts watching, and ignores SIGINT. A program that is started afterwards does not ignore it.
    ///
    /// # Errors
    /// Returns an error as [`watch`](Self::watch) does.
    pub fn watch_without_interrupt(command: &'static str) -> io::Result<Self> {
        flag::register(SIGINT, Arc::default())?;
        Self::watch_for(command, stop_signals::to_watch().filter(|number| *number != SIGINT))
    }

    fn watch_for(command: &'static str, signals: impl Iterator<Item = i32>) -> io::Result<Self> {
        let (wake, writer) = io::pipe()?;
        let signal = Arc::<AtomicUsize>::default();
        for number in signals {
            let value = usize::try_from(number).map_err(io::Error::other)?;
            // Sets the number first, so that a woken thread finds it.
            flag::register_usize(number, signal.clone(), value)?;
            pipe::register(number, writer.try_clone()?)?;
        }
        Ok(Self {
            command,
            signal,
            wake,
            #[cfg(test)]
            waker: writer,
        })
    }

    /// Returns whether a signal has arrived.
    pub fn is_requested(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }

    /// Returns the failure to report at the end if a signal has arrived.
    pub fn failure(&self) -> Option<Failure> {
        let signal = i32::try_from(self.signal.load(Ordering::Relaxed)).ok().filter(|n| *n != 0)?;
        let message = format!("{}: stopped by {}", self.command, stop_signals::name(signal));
        Some(Failure::with_code(message, stop_signals::exit_code(signal)))
    }

    /// Waits until the descriptor is readable, a signal arrives, or the time is over.
    pub fn wait(&self, fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<Ready> {
        self.wait_for(PollFlags::IN, fd, timeout)
    }

    /// Waits like [`wait`](Self::wait), for other events than readability.
    pub fn wait_for(
        &self,
        what: PollFlags,
        fd: BorrowedFd<'_>,
        timeout: Option<Duration>,
    ) -> io::Result<Ready> {
        self.poll(&[(fd, what)], timeout)
    }

    /// Waits like [`wait`](Self::wait). It stops also when `end` is readable.
    pub fn wait_for_any(
        &self,
        fd: BorrowedFd<'_>,
        end: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> io::Result<Ready> {
        let Some(end) = end else { return self.wait(fd, timeout) };
        let ready = self.poll(&[(fd, PollFlags::IN), (end, PollFlags::IN)], timeout)?;
        let mut look = [PollFd::from_borrowed_fd(end, PollFlags::IN)];
        let is_over = poll(&mut look, Some(&Timespec::default())).is_ok_and(|n| n > 0);
        Ok(if is_over { Ready::Stopped } else { ready })
    }

    /// Waits until the time is over or a signal arrives.
    pub fn pause(&self, time: Duration) -> io::Result<Ready> {
        self.poll(&[], Some(time))
    }

    /// Waits for any of these events, a signal, or the end of the time.
    fn poll(
        &self,
        events: &[(BorrowedFd<'_>, PollFlags)],
        timeout: Option<Duration>,
    ) -> io::Result<Ready> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut fds = vec![PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)];
        fds.extend(events.iter().map(|(fd, what)| PollFd::from_borrowed_fd(*fd, *what)));
        loop {
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            // A time that the kernel cannot represent counts as unlimited.
            let timespec = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut fds, timespec.as_ref()) {
                Ok(0) if left.is_some() => return Ok(Ready::TimedOut),
                Ok(_) if !fds[0].revents().is_empty() => return Ok(Ready::Stopped),
                Ok(_) if fds[1..].iter().any(|fd| !fd.revents().is_empty()) => {
                    return Ok(Ready::Readable);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// For tests, in whose process no signal is to be handled.
#[cfg(test)]
impl Stop {
    /// Watches for no signal.
    pub fn without_signal() -> Self {
        let (wake, waker) = io::pipe().unwrap();
        Self { command: "receive", signal: Arc::default(), wake, waker }
    }

    /// Returns what [`watch`](Self::watch) does after a signal.
    pub fn with_signal(signal: usize) -> Self {
        let this = Self::without_signal();
        this.request(signal);
        this
    }

    /// Does what a signal does.
    pub fn request(&self, signal: usize) {
        use std::io::Write as _;

        self.signal.store(signal, Ordering::Relaxed);
        (&self.waker).write_all(&[0]).unwrap();
    }
}

#[cfg(test)]
mod tests;
