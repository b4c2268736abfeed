//! One sender's dump: verified while it goes from the socket into a file.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use corestream::ErrorKind;
use corestream::read::{EarlyFact, IntactDump, Verdict, Verifier};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::last_byte::LastByte;
use super::listen::Connection;
use super::pace::{Limits, Pace};
use super::room::Room;
use super::stop::{Ready, Stop};
use crate::{platform, verify};

/// How long to wait, after the whole dump has arrived, for the sender to close the connection or to send more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait for a sender to end its half when a signal has come and the whole dump has arrived.
const LAST_GRACE: Duration = Duration::from_millis(100);

/// What a sender may do.
pub struct Terms {
    /// Bytes of a dump.
    pub max_size: Option<u64>,
    /// How slow it may be.
    pub pace: Limits,
    /// Whether dumps that do not say how long they are, are taken.
    pub any_tool: bool,
    /// Whether all is taken of a dump that is known to be damaged.
    pub keep_damaged: bool,
}

/// The result of one connection.
pub struct Received {
    /// What the process calls itself; `None` if what came is no dump.
    pub name: Option<String>,
    /// How many bytes are in the file.
    pub bytes: u64,
    /// Whether it is a dump, and whole.
    pub outcome: Result<IntactDump, Fault>,
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
    let state = RefCell::new(State::new(&terms.pace, LastByte::new(connection.is_unix)));
    let intake = Intake { connection, file, terms, stop, state };
    let verdict = Verifier::new().verify_stream_with(&intake, |early| intake.early(early));
    let fault = intake.state.borrow_mut().fault.take();
    if let (true, None, Ok(Verdict::Damaged(_))) = (terms.keep_damaged, &fault, &verdict) {
        // The verifier stops at the first fault, but `--keep-partial` keeps the rest too. Later errors are ignored.
        let _ = io::copy(&mut &intake, &mut io::sink());
    }
    let State { received, name, .. } = intake.state.into_inner();
    let outcome = match (fault, verdict) {
        (Some(fault), _) => Err(fault),
        (None, _) if received == 0 => Err(Fault::Broken("has sent nothing".into())),
        (None, Ok(Verdict::Intact(whole))) => Ok(whole),
        (None, Ok(Verdict::Damaged(damage))) => {
            Err(Fault::Broken(verify::describe_damage(&damage)))
        }
        (None, Err(error)) => Err(match error.kind() {
            ErrorKind::Damaged | ErrorKind::Truncated | ErrorKind::Format => {
                Fault::Broken(error.to_string())
            }
            _ => Fault::Refused(error.to_string()),
        }),
    };
    Received { name, bytes: received, outcome }
}

/// Returns how many bytes to ask for where `left` may come, at most `most`. One byte more than that tells a dump that ends
/// there from one that does not.
fn one_more(left: u64, most: usize) -> usize {
    usize::try_from(left).map_or(most, |left| if left < most { left + 1 } else { most })
}

/// Between the socket and the verifier.
struct Intake<'i> {
    connection: &'i Connection,
    file: &'i File,
    terms: &'i Terms,
    stop: &'i Stop,
    state: RefCell<State<'i>>,
}

struct State<'i> {
    received: u64,
    name: Option<String>,
    /// The bytes that the dump says it has, and the room for them.
    length: Option<u64>,
    room: Option<Room>,
    pace: Pace<'i>,
    last_byte: LastByte,
    /// Why no more is read.
    fault: Option<Fault>,
    /// Whether nothing more is read because everything has come.
    has_ended: bool,
}

impl<'i> State<'i> {
    fn new(limits: &'i Limits, last_byte: LastByte) -> Self {
        let pace = Pace::new(limits);
        let (received, name, length, room, fault, has_ended) = Default::default();
        Self { received, name, length, room, pace, last_byte, fault, has_ended }
    }

    /// Ends the work; the verifier only needs to know that it has ended.
    fn fail(&mut self, fault: Fault) -> io::Error {
        self.fault = Some(fault);
        io::ErrorKind::ConnectionAborted.into()
    }

    /// The fault of a dump that goes on after `end`.
    fn past(&self, end: u64) -> Fault {
        match self.length {
            Some(_) => Fault::Broken(format!("has data past its end at {end:#x}")),
            None => Fault::Refused(format!("has more than the {end} bytes of --max-size")),
        }
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
        if state.has_ended {
            // Once is enough to wait for the sender.
            return Ok(0);
        }
        let n = self.step(&mut state, buffer).map_err(|fault| state.fail(fault))?;
        state.has_ended = n == 0 && !buffer.is_empty();
        Ok(n)
    }
}

impl Intake<'_> {
    /// Takes the next bytes into `buffer` and the file.
    fn step(&self, state: &mut State<'_>, buffer: &mut [u8]) -> Result<usize, Fault> {
        let end = state.length.or(self.terms.max_size);
        let room = match end {
            // Before its length was known there may have come more than it has.
            Some(end) => match end.checked_sub(state.received) {
                Some(left) => one_more(left, buffer.len()),
                None => return Err(state.past(end)),
            },
            None => buffer.len(),
        };
        let n = if room > 0 { self.next(state, &mut buffer[..room])? } else { 0 };
        let received = state.received.checked_add(n as u64);
        let received =
            received.ok_or_else(|| Fault::Refused("has more bytes than can be counted".into()))?;
        if let Some(end) = end
            && received > end
        {
            return Err(state.past(end));
        }
        if let Some(room) = &mut state.room {
            room.reserve(self.file, state.received, n as u64).map_err(Fault::Refused)?;
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
    fn next(&self, state: &mut State<'_>, buffer: &mut [u8]) -> Result<usize, Fault> {
        loop {
            if self.stop.is_requested() {
                return self.stopped(state);
            }
            let left = state.length.and_then(|length| length.checked_sub(state.received));
            let why = match state.last_byte.read(&self.connection.socket, left, buffer) {
                Ok(n) => match state.pace.left() {
                    Ok(_) => return Ok(n),
                    Err(why) => why,
                },
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => match self.wait(state) {
                    Ok(Ready::Readable) => continue,
                    Ok(Ready::Stopped) => return self.stopped(state),
                    Ok(Ready::TimedOut) if state.last_byte.has_more(&self.connection.socket) => {
                        continue;
                    }
                    Ok(Ready::TimedOut) => {
                        format!("nothing came for {:?}", self.terms.pace.timeout)
                    }
                    Err(why) => why,
                },
                Err(errno) => io::Error::from(errno).to_string(),
            };
            // A complete dump is kept however the connection ends.
            return match state.is_complete() {
                true => Ok(0),
                false => Err(Fault::Broken(format!("is cut off: {}: {why}", state.so_far()))),
            };
        }
    }

    /// Waits for the sender.
    fn wait(&self, state: &mut State<'_>) -> Result<Ready, String> {
        let patience = match state.is_complete() {
            true => CLOSE_TIMEOUT.min(self.terms.pace.timeout),
            false => state.pace.patience(state.received)?,
        };
        let start = Instant::now();
        let what = if state.last_byte.is_held() { platform::PEER_END } else { PollFlags::IN };
        let ready = self.stop.wait_for(what, self.connection.socket.as_fd(), Some(patience));
        state.pace.add(start.elapsed());
        match ready.map_err(|error| error.to_string())? {
            // It may be the time for all of the dump that is over.
            Ready::TimedOut if !state.is_complete() => state.pace.left().map(|_| Ready::TimedOut),
            ready => Ok(ready),
        }
    }

    /// After a signal, a complete dump is still named; an incomplete one is dropped.
    fn stopped(&self, state: &State<'_>) -> Result<usize, Fault> {
        if !state.is_complete() {
            return Err(Fault::Stopped);
        }
        // An `ok` does not count before the sender has ended its half.
        let mut fd = [PollFd::from_borrowed_fd(self.connection.socket.as_fd(), platform::PEER_END)];
        let _ = poll(&mut fd, Timespec::try_from(LAST_GRACE).ok().as_ref());
        Ok(0)
    }

    /// Looks at what is known before the rest has come.
    fn early(&self, early: EarlyFact<'_>) -> io::Result<()> {
        let state = &mut *self.state.borrow_mut();
        match early {
            EarlyFact::Name(name) => state.name = Some(name.into()),
            EarlyFact::Length(length) => {
                let room = self.room(length, state.received).map_err(|fault| state.fail(fault))?;
                (state.length, state.room) = (Some(length), Some(room));
            }
            EarlyFact::NoLength if !self.terms.any_tool => {
                let why = "is by another tool, and one that is cut off may look whole: --any-tool takes \
                           such dumps";
                return Err(state.fail(Fault::Refused(why.into())));
            }
            EarlyFact::NoLength => {
                // Of a dump that another tool has rewritten the length is not what it says.
                (state.length, state.room) = (None, None);
                state.last_byte.forget();
            }
            // It can only be dropped: no more of it is read, and the verdict is what is known.
            EarlyFact::Fault if !self.terms.keep_damaged => {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks the length of a dump, of which `received` bytes have come.
    fn room(&self, length: u64, received: u64) -> Result<Room, Fault> {
        if let Some(max) = self.terms.max_size.filter(|max| length > *max) {
            let message = format!("has {length} bytes, more than the {max} of --max-size");
            return Err(Fault::Refused(message));
        }
        Room::look_for(self.file, length, received).map_err(Fault::Refused)
    }
}

#[cfg(test)]
mod tests;
