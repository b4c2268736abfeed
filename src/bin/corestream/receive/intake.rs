//! One sender's dump: verified while it goes from the socket into a file.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use corestream::read::{Early, Verdict, Whole, verify_stream_with};
use corestream::{ErrorKind, FileSink, Sink};
use rustix::io::Errno;

use super::listen::Connection;
use super::stop::{Ready, Stop};
use crate::verify;

/// What a sender may do.
pub struct Terms {
    /// Bytes of a dump.
    pub max_size: Option<u64>,
    /// How long it may be silent.
    pub timeout: Duration,
    /// Whether dumps that do not say how long they are, are taken.
    pub any_tool: bool,
}

/// What came of a sender.
pub struct Received {
    /// What the process calls itself; `None` if what came is no dump.
    pub name: Option<String>,
    /// How many bytes are in the file.
    pub bytes: u64,
    /// Whether it is a dump, and whole.
    pub outcome: Result<Whole, Fault>,
}

/// Why a dump gets no name.
#[derive(Debug)]
pub enum Fault {
    /// It is cut off or damaged.
    Broken(String),
    /// It is not wanted, or can't be kept.
    Refused(String),
    /// A signal ended the work.
    Stopped,
}

/// Takes a dump into `file`, which is empty.
pub fn take(connection: &Connection, file: &File, terms: &Terms, stop: &Stop) -> Received {
    let intake = Intake { connection, file, terms, stop, state: RefCell::default() };
    let verdict = verify_stream_with(&intake, |early| {
        let mut state = intake.state.borrow_mut();
        intake.early(&mut state, early).map_err(|fault| state.fail(fault))
    });
    let State { received, name, fault, .. } = intake.state.into_inner();
    let outcome = match (fault, verdict) {
        (Some(fault), _) => Err(fault),
        (None, _) if received == 0 => Err(Fault::Broken("has sent nothing".into())),
        (None, Ok(Verdict::Whole(whole))) => Ok(whole),
        (None, Ok(Verdict::Damaged(damage))) => Err(Fault::Broken(verify::fault(&damage))),
        (None, Err(error)) => Err(match error.kind() {
            ErrorKind::Damaged | ErrorKind::CutOff | ErrorKind::Format => {
                Fault::Broken(error.to_string())
            }
            _ => Fault::Refused(error.to_string()),
        }),
    };
    Received { name, bytes: received, outcome }
}

/// Between the socket and the verifier.
struct Intake<'i> {
    connection: &'i Connection,
    file: &'i File,
    terms: &'i Terms,
    stop: &'i Stop,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    received: u64,
    name: Option<String>,
    /// The bytes that the dump says it has.
    length: Option<u64>,
    /// Why no more is read.
    fault: Option<Fault>,
}

impl State {
    /// Ends the work; the verifier only needs to know that it has ended.
    fn fail(&mut self, fault: Fault) -> io::Error {
        self.fault = Some(fault);
        io::ErrorKind::ConnectionAborted.into()
    }

    /// Whether all has come that the dump says it has.
    fn is_complete(&self) -> bool {
        self.length == Some(self.received)
    }

    /// How much has come, in words.
    fn so_far(&self) -> String {
        match self.length {
            Some(length) => format!("{} of {length} bytes", self.received),
            None => format!("{} bytes", self.received),
        }
    }
}

impl Read for &Intake<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        if state.fault.is_some() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.step(&mut state, buffer).map_err(|fault| state.fail(fault))
    }
}

impl Intake<'_> {
    /// Takes the next bytes into `buffer` and the file.
    fn step(&self, state: &mut State, buffer: &mut [u8]) -> Result<usize, Fault> {
        // One byte more than there may be tells a dump that ends there from one that does not.
        let end = state.length.or(self.terms.max_size).unwrap_or(u64::MAX);
        let room = end.saturating_sub(state.received).saturating_add(1);
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.next(state, &mut buffer[..room])?;
        let received = state.received.saturating_add(n as u64);
        if n > 0 && received > end {
            return Err(match state.length {
                Some(_) => Fault::Broken(format!("goes on behind its end, which is at {end:#x}")),
                None => Fault::Refused(format!("has more than the {end} bytes of --max-size")),
            });
        }
        let mut file = self.file;
        let written = file.write_all(&buffer[..n]);
        written.map_err(|error| {
            Fault::Refused(format!("cannot write, after {}: {error}", state.so_far()))
        })?;
        state.received = received;
        Ok(n)
    }

    /// Reads what comes next; nothing at the end.
    fn next(&self, state: &State, buffer: &mut [u8]) -> Result<usize, Fault> {
        let socket = &self.connection.socket;
        loop {
            if self.stop.is_requested() {
                return self.stopped(state);
            }
            let error = match rustix::io::read(socket, &mut *buffer) {
                Ok(n) => return Ok(n),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => match self.stop.wait(socket.as_fd(), Some(self.terms.timeout))
                {
                    Ok(Ready::Readable) => continue,
                    Ok(Ready::Stopped) => return self.stopped(state),
                    Ok(Ready::TimedOut) => format!("nothing came for {:?}", self.terms.timeout),
                    Err(error) => error.to_string(),
                },
                Err(errno) => io::Error::from(errno).to_string(),
            };
            // How the sender takes leave is of no matter when all is there.
            return match state.is_complete() {
                true => Ok(0),
                false => Err(Fault::Broken(format!("is cut off: {}: {error}", state.so_far()))),
            };
        }
    }

    /// A signal came: what is all there is only to be named, and nothing is waited for.
    fn stopped(&self, state: &State) -> Result<usize, Fault> {
        if state.is_complete() { Ok(0) } else { Err(Fault::Stopped) }
    }

    /// Looks at what is known before the rest has come.
    fn early(&self, state: &mut State, early: Early<'_>) -> Result<(), Fault> {
        match early {
            Early::Name(name) => state.name = Some(name.into()),
            Early::Length(length) => {
                self.make_room(length, length.saturating_sub(state.received))?;
                state.length = Some(length);
            }
            Early::NoLength if !self.terms.any_tool => {
                return Err(Fault::Refused(
                    "is by another tool, and one that is cut off may look whole: --any-tool takes \
                     such dumps"
                        .into(),
                ));
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks the length of a dump, and reserves what is still to come.
    fn make_room(&self, length: u64, left: u64) -> Result<(), Fault> {
        if let Some(max) = self.terms.max_size.filter(|max| length > *max) {
            let message = format!("has {length} bytes, more than the {max} of --max-size");
            return Err(Fault::Refused(message));
        }
        // To reserve what is not there can take long, and takes it from others meanwhile.
        let free = rustix::fs::fstatvfs(self.file);
        let free = free.map_or(u64::MAX, |free| free.f_bavail.saturating_mul(free.f_frsize));
        if left > free {
            let message = format!("has {length} bytes, and there is room for {free}");
            return Err(Fault::Refused(message));
        }
        // A small dump is all there already, and nothing can't be reserved.
        let reserved = if left > 0 { FileSink::new(self.file).begin(left) } else { Ok(()) };
        reserved.map_err(|error| Fault::Refused(format!("no room for {length} bytes: {error}")))
    }
}
