//! SIGHUP, SIGINT and SIGTERM while dumps are received: each thread that waits for a socket sees them.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::{flag, low_level::pipe};

use crate::report::Failure;
use crate::stop_signals;

/// Watches for the signals that end the work.
pub struct Stop {
    /// The number of the one that came; 0 for none.
    signal: Arc<AtomicUsize>,
    /// Has bytes when one came, which nobody reads, so that all who wait see them.
    wake: PipeReader,
    /// What a signal writes to.
    #[cfg(test)]
    waker: io::PipeWriter,
}

/// What a wait has ended with.
#[derive(Debug, PartialEq, Eq)]
pub enum Ready {
    /// There is something to read, or an error to be had by reading.
    Readable,
    /// A signal came.
    Stopped,
    /// Nothing came for as long as was to be waited.
    TimedOut,
}

impl Stop {
    /// Watches from now on.
    pub fn watch() -> io::Result<Self> {
        let (wake, writer) = io::pipe()?;
        let signal = Arc::<AtomicUsize>::default();
        for number in stop_signals::to_watch() {
            let value = usize::try_from(number).map_err(io::Error::other)?;
            // In this order: who wakes up finds the signal.
            flag::register_usize(number, signal.clone(), value)?;
            pipe::register(number, writer.try_clone()?)?;
        }
        Ok(Self {
            signal,
            wake,
            #[cfg(test)]
            waker: writer,
        })
    }

    /// Whether a signal came.
    pub fn is_requested(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }

    /// What to say at the end if a signal came.
    pub fn failure(&self) -> Option<Failure> {
        let signal = i32::try_from(self.signal.load(Ordering::Relaxed)).ok().filter(|n| *n != 0)?;
        let message = format!("receive: stopped by {}", stop_signals::name(signal));
        Some(Failure::with_code(message, stop_signals::exit_code(signal)))
    }

    /// Waits until there is something to read, a signal has come, or the time is over.
    pub fn wait(&self, fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<Ready> {
        self.wait_for(PollFlags::IN, fd, timeout)
    }

    /// The same for something else than to read.
    pub fn wait_for(
        &self,
        what: PollFlags,
        fd: BorrowedFd<'_>,
        timeout: Option<Duration>,
    ) -> io::Result<Ready> {
        self.poll(Some((fd, what)), timeout)
    }

    /// Waits until the time is over, or a signal has come.
    pub fn pause(&self, time: Duration) -> io::Result<Ready> {
        self.poll(None, Some(time))
    }

    fn poll(
        &self,
        fd: Option<(BorrowedFd<'_>, PollFlags)>,
        timeout: Option<Duration>,
    ) -> io::Result<Ready> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let wake = PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN);
        // The same one twice where there is only one.
        let (fd, what) = fd.unwrap_or((self.wake.as_fd(), PollFlags::IN));
        let mut fds = [wake, PollFd::from_borrowed_fd(fd, what)];
        loop {
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            // A time too long for the kernel is for ever.
            let timespec = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut fds, timespec.as_ref()) {
                Ok(0) if left.is_some() => return Ok(Ready::TimedOut),
                Ok(_) if !fds[0].revents().is_empty() => return Ok(Ready::Stopped),
                Ok(_) if !fds[1].revents().is_empty() => return Ok(Ready::Readable),
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
        Self { signal: Arc::default(), wake, waker }
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
