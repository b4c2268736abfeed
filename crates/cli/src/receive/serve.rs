//! Serves several senders at once: receives the dump of each, and names or drops it.
//!
//! # The problem
//! A sender that is accepted must be served: once it has sent its dump, the guest may be gone. But naming a dump needs
//! file descriptors, and under load there may be none left. Hostile senders can also hold connections open to use them
//! up.
//!
//! # The idea
//! There is one thread for each place. A thread first creates the file of the next dump, together with spare
//! descriptors that it holds for naming, and only then accepts a sender. So a sender is accepted only if its dump can
//! be named. One lock protects the two moments at which descriptors are taken: accepting with creating, and naming.
//! Without it, another thread could take the descriptors that a thread has just released for naming.
//!
//! If descriptors run out, senders wait in the queue of the socket, and the receiver reports that once.

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
use super::listen::Connection;
use crate::listener::Listener;
use crate::report::{self, Failure};
use crate::stop::{Ready, Stop};
use crate::verify;

/// The stack size of a thread in bytes. Its read buffers are not on the stack.
const STACK: usize = 512 << 10;

/// The pause when no sender can be accepted because there are too many open files.
const BREATH: Duration = Duration::from_millis(200);

/// The number of spare descriptors that a dump needs before it is accepted, in addition to its file. Naming the file
/// opens this many, and would otherwise fail after the whole dump has arrived.
const SPARE: usize = 2;

/// The state that all threads share.
pub struct Receiver {
    pub terms: Terms,
    pub keeper: Keeper,
    pub listener: Listener,
    pub stop: Stop,
    /// Held while a sender is accepted or a dump is named, so that only one thread takes descriptors.
    pub turn: Mutex<()>,
    /// Whether a shortage of descriptors has been reported and has not ended.
    pub is_short: AtomicBool,
}

/// The outcome for one sender.
enum Served {
    /// The dump has its name. Contains the line to report.
    Named(String),
    /// The dump was not kept.
    Dropped(Failure),
    /// The sender sent nothing, like a port check.
    Nothing(Failure),
}

impl Receiver {
    /// Serves senders until a signal arrives, with one thread for each of the `places`.
    pub fn serve(&self, places: u16) -> Result<bool, Failure> {
        thread::scope(|scope| {
            for i in 1..places {
                let builder = thread::Builder::new().stack_size(STACK);
                // Continues with the other threads: fewer places are better than none.
                let serve = || {
                    if let Err(failure) = self.serve_in_turn() {
                        report::line(&failure.message);
                    }
                };
                if let Err(error) = builder.spawn_scoped(scope, serve) {
                    report::line(&format!(
                        "warning: receive: limited to {i} senders at once: {error}"
                    ));
                    break;
                }
            }
            self.serve_in_turn()
        })
    }

    /// Serves one sender after the other until a signal arrives.
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

    /// Serves the first sender that sends any bytes. Returns `false` if a signal arrives first.
    ///
    /// # Errors
    /// Returns an error if the dump of that sender is not kept.
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

    /// Waits for the next sender and creates the file of its dump. Returns `None` if a signal arrives first.
    ///
    /// Creates the file first, with the descriptors that naming needs later, so that a sender is accepted only if its
    /// dump can be kept. Otherwise senders could use up all descriptors without any of them being served.
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
            // Another thread may have accepted the sender. Checks before creating a file.
            match self.stop.wait(self.listener.as_fd(), Some(Duration::ZERO)) {
                Ok(Ready::Readable) => {}
                Ok(Ready::Stopped) => return Ok(None),
                Ok(Ready::TimedOut) => continue,
                Err(error) => return Err(failed("cannot wait", error)),
            }
            let shortage = match self.begin() {
                Err(NotBegun::Shortage(error)) => error,
                begun => match Connection::accept(&self.listener) {
                    Ok(connection) => {
                        if self.is_short.swap(false, Ordering::Relaxed) {
                            let name = self.listener.name();
                            report::line(&format!("receive: {name}: accepting senders again"));
                        }
                        let begun = begun.map_err(NotBegun::into_failure);
                        return Ok(Some((connection, begun)));
                    }
                    Err(error) if is_transient(&error) => continue,
                    // An error of the pause would also occur in the wait above.
                    Err(error) => error.to_string(),
                },
            };
            drop(turn);
            self.pause(&shortage);
        }
    }

    /// Waits a moment for free descriptors, and reports the shortage once. Senders wait in the queue of the socket.
    fn pause(&self, error: &dyn Display) {
        if !self.is_short.swap(true, Ordering::Relaxed) {
            let name = self.listener.name();
            report::line(&format!(
                "receive: {name}: cannot accept a sender: {error}; senders wait until descriptors are free"
            ));
        }
        let _ = self.stop.pause(BREATH);
    }

    /// Creates the file of a dump, and reserves the descriptors that naming it will need.
    fn begin(&self) -> Result<Begun, NotBegun> {
        let file = self.keeper.begin().map_err(|error| {
            if error.io_error().is_some_and(is_shortage) {
                NotBegun::Shortage(error.to_string())
            } else {
                NotBegun::Failed(error.into())
            }
        })?;
        let spare = ReservedDescriptors::take(&self.listener);
        let spare = spare.map_err(|error| NotBegun::Shortage(error.to_string()))?;
        Ok(Begun { file, spare })
    }

    /// Checks that the limit on open files allows at least one sender.
    ///
    /// # Errors
    /// Returns an error if the limit is too low.
    pub fn check_descriptors(&self) -> Result<(), Failure> {
        let begun = self.begin().and_then(|begun| {
            let connection = self.listener.as_fd().try_clone_to_owned();
            connection.map(|_| drop(begun)).map_err(|error| NotBegun::Shortage(error.to_string()))
        });
        match begun {
            Err(NotBegun::Shortage(error)) => Err(Failure::new(format!(
                "receive: {}: cannot accept any sender: {error}; raise the limit (ulimit -n)",
                self.listener.name()
            ))),
            // An unwritable directory may be repaired later, and each sender gets the reason.
            Ok(()) | Err(NotBegun::Failed(_)) => Ok(()),
        }
    }

    /// Receives a sender's dump, and replies with the outcome.
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
                // Until the file has its name, no other thread may take the released descriptors.
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
        let mut failure = match fault {
            Fault::Broken(why) => Failure::damaged(why),
            Fault::Refused(why) => Failure::new(why),
            Fault::Stopped => Failure::new(format!("dropped after {} bytes", received.bytes)),
        };
        match (fault, name) {
            (Fault::Broken(_), _) if received.bytes == 0 => {
                drop(spare);
                connection.refuse(&failure.message, &self.stop);
                return Served::Nothing(failure.at(format_args!("receive: {peer}")));
            }
            // Releases the disk space before the sender gets the reply.
            (Fault::Refused(_), _) | (_, None) => drop((file, spare)),
            (_, Some(name)) => {
                // As for an intact dump, no other thread may take the released descriptors.
                let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
                drop(spare);
                let kept = self.keeper.keep_partial(file, name, received.bytes);
                drop(turn);
                failure.message.push_str(&kept);
            }
        }
        dropped(failure)
    }
}

/// An accepted sender, and the file of its dump or the error.
type Accepted = (Connection, Result<Begun, Failure>);

/// The file of a dump, and the descriptors reserved for naming it.
struct Begun {
    file: UnnamedFile,
    spare: ReservedDescriptors,
}

/// The reason why the file of a dump could not be created.
enum NotBegun {
    /// There are no free descriptors.
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

/// Descriptors that are reserved until naming needs them.
struct ReservedDescriptors(#[expect(dead_code, reason = "held, not used")] [OwnedFd; SPARE]);

impl ReservedDescriptors {
    fn take(any: &impl AsFd) -> io::Result<Self> {
        let spare = || any.as_fd().try_clone_to_owned();
        Ok(Self([spare()?, spare()?]))
    }
}

/// Returns whether the error is a shortage of descriptors, in this process or in the system.
fn is_shortage(error: &io::Error) -> bool {
    let short = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    short.contains(&error.raw_os_error())
}

/// Returns whether `accept` failed only because another thread accepted the sender, or because the sender closed the
/// connection.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted)
}

#[cfg(test)]
mod tests;
