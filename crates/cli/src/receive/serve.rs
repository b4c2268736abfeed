//! Serves senders, many at once: each one's dump is taken, and gets its name or is dropped.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
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
    /// Held while a sender is accepted or a dump is named: only one thread at a time takes descriptors.
    pub turn: Mutex<()>,
    /// Whether there were no free descriptors for the last sender, which was reported.
    pub is_short: AtomicBool,
}

/// What came of a sender.
enum Served {
    /// Its dump has its name; the line that says so.
    Named(String),
    /// Its dump has none.
    Dropped(Failure),
    /// It sent nothing, as a port check does.
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
        while let Some((connection, begun)) = self.accept()? {
            match self.take(connection, begun) {
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
        while let Some((connection, begun)) = self.accept()? {
            match self.take(connection, begun) {
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

    /// Waits for the next sender and begins the file of its dump; `None` if a signal comes.
    ///
    /// The file comes first, with the descriptors that it needs later, so a sender is accepted only if its
    /// dump can be taken. Otherwise senders could use up all descriptors without one of them being served.
    fn accept(&self) -> Result<Option<Accepted>, Failure> {
        let failed = |what: &str, error: io::Error| {
            Failure::new(format!("receive: {}: {what}: {error}", self.listener.name()))
        };
        loop {
            match self.stop.wait(self.listener.as_fd(), None) {
                Ok(Ready::Readable) => {}
                Ok(Ready::Stopped | Ready::TimedOut) => return Ok(None),
                Err(error) => return Err(failed("cannot wait", error)),
            }
            let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have taken the sender: no file is begun for nothing.
            match self.stop.wait(self.listener.as_fd(), Some(Duration::ZERO)) {
                Ok(Ready::Readable) => {}
                Ok(Ready::Stopped) => return Ok(None),
                Ok(Ready::TimedOut) => continue,
                Err(error) => return Err(failed("cannot wait", error)),
            }
            let shortage = match self.begin() {
                Err(NotBegun::Shortage(error)) => error,
                begun => match self.listener.accept() {
                    Ok(connection) => {
                        if self.is_short.swap(false, Ordering::Relaxed) {
                            let name = self.listener.name();
                            report::line(&format!("receive: {name}: takes senders again"));
                        }
                        let begun = begun.map_err(NotBegun::into_failure);
                        return Ok(Some((connection, begun)));
                    }
                    Err(error) if is_transient(&error) => continue,
                    // An error of the pause is one of the wait above too.
                    Err(error) => error.to_string(),
                },
            };
            drop(turn);
            self.pause(&shortage);
        }
    }

    /// Waits a moment, since there is no free descriptor, and reports that if it was not so before. Senders
    /// wait in the queue of the socket meanwhile.
    fn pause(&self, error: &dyn Display) {
        if !self.is_short.swap(true, Ordering::Relaxed) {
            let name = self.listener.name();
            report::line(&format!(
                "receive: {name}: cannot take a sender: {error}; senders wait until that changes"
            ));
        }
        let _ = self.stop.pause(BREATH);
    }

    /// Begins the file of a dump, and holds the descriptors that naming it will need.
    fn begin(&self) -> Result<Begun, NotBegun> {
        let file = self.keeper.begin().map_err(|error| {
            if error.io_error().is_some_and(is_shortage) {
                NotBegun::Shortage(error.to_string())
            } else {
                NotBegun::Failed(error.into())
            }
        })?;
        let spare = Spare::take(&self.listener);
        let spare = spare.map_err(|error| NotBegun::Shortage(error.to_string()))?;
        Ok(Begun { file, spare })
    }

    /// Fails if the limit on open files is too low for a single sender.
    pub fn check_descriptors(&self) -> Result<(), Failure> {
        let begun = self.begin().and_then(|begun| {
            let connection = self.listener.as_fd().try_clone_to_owned();
            connection.map(|_| drop(begun)).map_err(|error| NotBegun::Shortage(error.to_string()))
        });
        match begun {
            Err(NotBegun::Shortage(error)) => Err(Failure::new(format!(
                "receive: {}: cannot take any sender: {error}; raise the limit (ulimit -n)",
                self.listener.name()
            ))),
            // A directory that cannot be written to may be repaired, and each sender gets the reason.
            Ok(()) | Err(NotBegun::Failed(_)) => Ok(()),
        }
    }

    /// Takes a sender's dump, and replies what came of it.
    fn take(&self, connection: Connection, begun: Result<Begun, Failure>) -> Served {
        let peer = &connection.peer;
        let dropped = |failure: Failure| {
            connection.refuse(&failure.message, &self.stop);
            Served::Dropped(failure.at(format_args!("receive: {peer}")))
        };
        let Begun { file, spare } = match begun {
            Ok(begun) => begun,
            Err(failure) => return dropped(failure),
        };
        let received = intake::take(&connection, file.file(), &self.terms, &self.stop);
        let name = received.name.as_deref();
        let fault = match &received.outcome {
            Ok(whole) => {
                // Until the file has its name, no other thread takes the free descriptors for a sender.
                let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
                drop(spare);
                let kept = self.keeper.keep(file, name.unwrap_or_default());
                drop(turn);
                let path = match kept {
                    Ok(path) => path,
                    Err(failure) => return dropped(failure),
                };
                connection.confirm();
                let (path, bytes, notes) = (path.display(), whole.bytes, verify::notes(whole));
                let what = verify::verdict_word(whole);
                let line = format!("receive: {path}: {bytes} bytes from {peer}, {what}{notes}");
                return Served::Named(line);
            }
            Err(fault) => fault,
        };
        drop(spare);
        let mut failure = match fault {
            Fault::Broken(why) => Failure::damaged(why),
            Fault::Refused(why) => Failure::new(why),
            Fault::Stopped => Failure::new(format!("dropped after {} bytes", received.bytes)),
        };
        match (fault, name) {
            (Fault::Broken(_), _) if received.bytes == 0 => {
                connection.refuse(&failure.message, &self.stop);
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

/// A sender, and the file of its dump, or why there is none.
type Accepted = (Connection, Result<Begun, Failure>);

/// The file of a dump, and the descriptors that naming it will need.
struct Begun {
    file: UnnamedFile,
    spare: Spare,
}

/// Why the file of a dump could not be begun.
enum NotBegun {
    /// There is no free descriptor.
    Shortage(String),
    Failed(Failure),
}

impl NotBegun {
    fn into_failure(self) -> Failure {
        match self {
            Self::Shortage(error) => Failure::new(error),
            Self::Failed(failure) => failure,
        }
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

/// Whether `accept` failed only because another thread took the sender, or the sender closed the connection.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted)
}

#[cfg(test)]
mod tests;
