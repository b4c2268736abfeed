//! Serves senders, many at once: each one's dump is taken, and gets its name or is dropped.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use corestream::UnnamedFile;
use rustix::io::Errno;

use super::intake::{self, Fault, Terms};
use super::keep::Keeper;
use super::listen::{Connection, Listener};
use super::stop::{Ready, Stop};
use crate::report::{self, Failure};
use crate::verify;

/// Bytes of the stack of a thread: what it reads into is not on it.
const STACK: usize = 512 << 10;

/// How long to wait when a sender can't be taken, since there are too many open files.
const BREATH: Duration = Duration::from_millis(200);

/// Descriptors that a dump must find free beside its file before it is taken: what gives the file its name
/// opens as many, and would fail after all of the dump has come.
const SPARE: usize = 2;

/// What all threads share.
pub struct Receiver {
    pub terms: Terms,
    pub keeper: Keeper,
    pub listener: Listener,
    pub stop: Stop,
    /// Whether there were no free descriptors for the last sender, which was reported.
    pub is_short: AtomicBool,
}

/// What came of a sender.
enum Served {
    /// Its dump has its name; the line that says so.
    Named(String),
    /// Its dump has none.
    Dropped(Failure),
    /// It has gone without a word, as who looks whether anybody listens does.
    Nothing(Failure),
}

impl Receiver {
    /// Serves senders until a signal comes: a thread for each of the `places`.
    pub fn serve(&self, places: u16) -> Result<bool, Failure> {
        thread::scope(|scope| {
            for i in 1..places {
                let builder = thread::Builder::new().stack_size(STACK);
                // The other threads go on: a receiver with fewer places is better than none.
                let serve = || {
                    if let Err(failure) = self.serve_in_turn() {
                        report::line(&failure.message);
                    }
                };
                if let Err(error) = builder.spawn_scoped(scope, serve) {
                    report::line(&format!(
                        "warning: receive: no more than {i} senders at once: {error}"
                    ));
                    break;
                }
            }
            self.serve_in_turn()
        })
    }

    /// Serves one sender after the other until a signal comes.
    fn serve_in_turn(&self) -> Result<bool, Failure> {
        while let Some(connection) = self.accept()? {
            match self.take(connection) {
                Served::Named(line) => report::line(&line),
                Served::Dropped(failure) | Served::Nothing(failure) => {
                    report::line(&failure.message);
                }
            }
        }
        Ok(false)
    }

    /// Serves the first sender that sends anything, whose dump must be whole; `false` if a signal comes
    /// before.
    pub fn once(&self) -> Result<bool, Failure> {
        while let Some(connection) = self.accept()? {
            match self.take(connection) {
                Served::Named(line) => {
                    report::line(&line);
                    return Ok(true);
                }
                Served::Dropped(failure) => return Err(failure),
                Served::Nothing(failure) => report::line(&failure.message),
            }
        }
        Ok(false)
    }

    /// Waits for the next sender; `None` if a signal comes.
    fn accept(&self) -> Result<Option<Connection>, Failure> {
        let failed = |what: &str, error: io::Error| {
            Failure::new(format!("receive: {}: {what}: {error}", self.listener.name()))
        };
        loop {
            match self.stop.wait(self.listener.as_fd(), None) {
                Ok(Ready::Readable) => {}
                Ok(Ready::Stopped | Ready::TimedOut) => return Ok(None),
                Err(error) => return Err(failed("cannot wait", error)),
            }
            match self.listener.accept() {
                Ok(connection) => return Ok(Some(connection)),
                Err(error) if is_of_no_matter(&error) => {}
                // An error of the pause is one of the wait above too.
                Err(error) => self.pause(&error),
            }
        }
    }

    /// Waits a moment, since there is no free descriptor, and reports that if it was not so before. Senders
    /// wait meanwhile, in the queue of the socket or with their connection.
    fn pause(&self, error: &dyn Display) {
        if !self.is_short.swap(true, Ordering::Relaxed) {
            let name = self.listener.name();
            report::line(&format!(
                "receive: {name}: cannot take a sender: {error}; senders wait until that changes"
            ));
        }
        let _ = self.stop.pause(BREATH);
    }

    /// Begins the file of a dump, as soon as there are free descriptors; `None` if a signal comes first.
    fn begin(&self) -> Result<Option<(UnnamedFile, Spare)>, Failure> {
        while !self.stop.is_requested() {
            let error = match self.keeper.begin() {
                Ok(file) => match Spare::take(&self.listener) {
                    Ok(spare) => {
                        if self.is_short.swap(false, Ordering::Relaxed) {
                            let name = self.listener.name();
                            report::line(&format!("receive: {name}: takes senders again"));
                        }
                        return Ok(Some((file, spare)));
                    }
                    Err(error) => error.to_string(),
                },
                Err(error) if error.io_error().is_some_and(is_shortage) => error.to_string(),
                Err(error) => return Err(error.into()),
            };
            self.pause(&error);
        }
        Ok(None)
    }

    /// Takes a sender's dump, and replies what came of it.
    fn take(&self, connection: Connection) -> Served {
        let peer = &connection.peer;
        let dropped = |failure: Failure| {
            connection.refuse(&failure.message, &self.stop);
            Served::Dropped(failure.at(format_args!("receive: {peer}")))
        };
        let (file, spare) = match self.begin() {
            Ok(Some(begun)) => begun,
            Ok(None) => return dropped(Failure::new("dropped after 0 bytes")),
            Err(failure) => return dropped(failure),
        };
        let received = intake::take(&connection, file.file(), &self.terms, &self.stop);
        let name = received.name.as_deref();
        drop(spare);
        let fault = match &received.outcome {
            Ok(whole) => {
                let path = match self.keeper.keep(file, name.unwrap_or_default()) {
                    Ok(path) => path,
                    Err(failure) => return dropped(failure),
                };
                connection.confirm();
                let (path, bytes, notes) = (path.display(), whole.bytes, verify::notes(whole));
                let line = format!("receive: {path}: {bytes} bytes from {peer}, whole{notes}");
                return Served::Named(line);
            }
            Err(fault) => fault,
        };
        let mut failure = match fault {
            Fault::Broken(why) => Failure::damaged(why),
            Fault::Refused(why) => Failure::new(why),
            Fault::Stopped => Failure::new(format!("dropped after {} bytes", received.bytes)),
        };
        match (fault, name) {
            (Fault::Broken(_), _) if received.bytes == 0 => {
                return Served::Nothing(failure.at(format_args!("receive: {peer}")));
            }
            // Its room is free before the sender knows.
            (Fault::Refused(_), _) | (_, None) => drop(file),
            (_, Some(name)) => {
                let kept = self.keeper.keep_partial(file, name, received.bytes);
                failure.message.push_str(&kept);
            }
        }
        dropped(failure)
    }
}

/// Descriptors that are held until they are needed.
struct Spare(#[expect(dead_code, reason = "held, not used")] [OwnedFd; SPARE]);

impl Spare {
    fn take(any: &impl AsFd) -> io::Result<Self> {
        let spare = || any.as_fd().try_clone_to_owned();
        Ok(Self([spare()?, spare()?]))
    }
}

/// Whether there are too many open files, in this process or in the system.
fn is_shortage(error: &io::Error) -> bool {
    let short = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    short.contains(&error.raw_os_error())
}

/// Whether another thread has taken the sender, or it has gone.
fn is_of_no_matter(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted)
}
