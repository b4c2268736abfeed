//! Serves senders, many at once: each one's dump is taken, and gets its name or is dropped.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::intake::{self, Fault, Terms};
use super::keep::Keeper;
use super::listen::{Connection, Listener};
use super::stop::{Ready, Stop};
use crate::report::{self, Failure};
use crate::verify;

/// Bytes of the stack of a thread: what it reads into is not on it.
const STACK: usize = 512 << 10;

/// How long to wait when a sender can't be taken, since there are too many open files.
const BREATH: Duration = Duration::from_secs(1);

/// What all threads share.
pub struct Receiver {
    pub terms: Terms,
    pub keeper: Keeper,
    pub listener: Listener,
    pub stop: Stop,
    /// Whether it has been said that no sender can be taken, since one was.
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
                Ok(connection) => {
                    self.is_short.store(false, Ordering::Relaxed);
                    return Ok(Some(connection));
                }
                Err(error) if is_of_no_matter(&error) => {}
                Err(error) => {
                    if !self.is_short.swap(true, Ordering::Relaxed) {
                        report::line(&failed("cannot take a sender", error).message);
                    }
                    // An error here is one of the wait above too.
                    let _ = self.stop.pause(BREATH);
                }
            }
        }
    }

    /// Takes a sender's dump. The connection is closed when it is known what came of it, and before anybody
    /// is told: who reads that may be slow.
    fn take(&self, connection: Connection) -> Served {
        let peer = &connection.peer;
        let dropped = |failure: Failure| {
            connection.reset();
            Served::Dropped(failure.at(format_args!("receive: {peer}")))
        };
        let file = match self.keeper.begin() {
            Ok(file) => file,
            Err(failure) => return dropped(failure),
        };
        let received = intake::take(&connection, file.file(), &self.terms, &self.stop);
        let name = received.name.as_deref();
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
            (Fault::Refused(_), _) | (_, None) => {}
            (_, Some(name)) => {
                let kept = self.keeper.keep_partial(file, name, received.bytes);
                failure.message.push_str(&kept);
            }
        }
        dropped(failure)
    }
}

/// Whether another thread has taken the sender, or it has gone.
fn is_of_no_matter(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted)
}
