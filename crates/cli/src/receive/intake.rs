//! Receives one dump: verifies it while it streams from the socket to a file.
//!
//! # The problem
//! Senders are untrusted. They can send anything, stop at any time, send slowly, state a wrong length, or never end.
//! The receiver must keep an intact dump whatever else happens to its connection, and never keep anything else as
//! intact.
//!
//! # The idea
//! The verifier pulls: it reads a stream, and every read takes bytes from the socket and writes them to the file
//! first. So the verifier checks the very bytes that are in the file, in one pass, and memory stays bounded. All limits
//! are checked in that read: the pace, the stated length, the free space, `--max-size`. The first problem that a read
//! meets is recorded as the fault, and ends the stream. Afterwards the recorded fault and the verdict decide together.
//!
//! # The invariant
//! A dump is kept only if the verifier found it intact and nothing followed it. Once every byte that the header
//! announces has arrived, an error of the connection no longer matters. The last byte of a Unix socket stays unread
//! until the dump has its name ([`last_byte`](super::last_byte)).

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
use crate::stop::{Ready, Stop};
use crate::{platform, verify};

/// The time to wait, after the whole dump has arrived, for the sender to close the connection or to send more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The time to wait after a signal, once the whole dump has arrived, for the sender to shut down its half.
const LAST_GRACE: Duration = Duration::from_millis(100);

/// The limits on senders.
pub struct Terms {
    /// The maximum size of a dump in bytes.
    pub max_size: Option<u64>,
    /// The limits on slow senders.
    pub pace: Limits,
    /// Whether to accept dumps that do not state their length.
    pub any_tool: bool,
    /// Whether to receive the rest of a dump that is known to be damaged.
    pub keep_damaged: bool,
}

/// The result of one connection.
pub struct Received {
    /// The name of the process, or `None` if the bytes are not a dump.
    pub name: Option<String>,
    /// The number of bytes in the file.
    pub bytes: u64,
    /// The verdict for an intact dump, or the fault.
    pub outcome: Result<IntactDump, Fault>,
}

/// The reason why a dump is not kept.
#[derive(Debug)]
pub enum Fault {
    /// The dump is truncated or damaged.
    Broken(String),
    /// The dump is refused, or cannot be kept.
    Refused(String),
    /// A signal stopped the receiver.
    Stopped,
}

/// Receives a dump into the empty `file`.
pub fn take(connection: &Connection, file: &File, terms: &Terms, stop: &Stop) -> Received {
    let state = RefCell::new(IntakeState::new(&terms.pace, LastByte::new(connection.is_unix)));
    let intake = Intake { connection, file, terms, stop, state };
    let verdict =
        Verifier::new().verify_stream_with(&intake, |early| intake.handle_early_fact(early));
    let fault = intake.state.borrow_mut().fault.take();
    if let (true, None, Ok(Verdict::Damaged(_))) = (terms.keep_damaged, &fault, &verdict) {
        // The verifier stops at the first fault, but `--keep-partial` keeps the rest too. Ignores later errors.
        let _ = io::copy(&mut &intake, &mut io::sink());
    }
    let IntakeState { received, name, .. } = intake.state.into_inner();
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

/// Returns the number of bytes to read if `left` more are permitted: `left` plus one, and at most `most`. The extra
/// byte detects a dump that does not end there.
fn one_more(left: u64, most: usize) -> usize {
    usize::try_from(left).map_or(most, |left| if left < most { left + 1 } else { most })
}

/// The stream that the verifier reads: from the socket, through the file.
struct Intake<'i> {
    connection: &'i Connection,
    file: &'i File,
    terms: &'i Terms,
    stop: &'i Stop,
    state: RefCell<IntakeState<'i>>,
}

struct IntakeState<'i> {
    received: u64,
    name: Option<String>,
    /// The stated length of the dump, and the disk space for it.
    length: Option<u64>,
    room: Option<Room>,
    pace: Pace<'i>,
    last_byte: LastByte,
    /// The fault that ended the stream.
    fault: Option<Fault>,
    /// Whether the stream ended because everything has arrived.
    has_ended: bool,
}

impl<'i> IntakeState<'i> {
    fn new(limits: &'i Limits, last_byte: LastByte) -> Self {
        let pace = Pace::new(limits);
        let (received, name, length, room, fault, has_ended) = Default::default();
        Self { received, name, length, room, pace, last_byte, fault, has_ended }
    }

    /// Records a fault and ends the stream. The verifier only needs to see an end.
    fn fail(&mut self, fault: Fault) -> io::Error {
        self.fault = Some(fault);
        io::ErrorKind::ConnectionAborted.into()
    }

    /// Returns the fault for data after `end`.
    fn excess_data_fault(&self, end: u64) -> Fault {
        match self.length {
            Some(_) => Fault::Broken(format!("has data past its end at {end:#x}")),
            None => Fault::Refused(format!("exceeds --max-size ({end} bytes)")),
        }
    }

    /// Returns whether all bytes that the dump announced have arrived.
    fn is_complete(&self) -> bool {
        self.length == Some(self.received)
    }

    /// Describes how many bytes have arrived.
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
            // Does not wait for the sender again.
            return Ok(0);
        }
        let n = self.step(&mut state, buffer).map_err(|fault| state.fail(fault))?;
        state.has_ended = n == 0 && !buffer.is_empty();
        Ok(n)
    }
}

impl Intake<'_> {
    /// Reads the next bytes into `buffer` and writes them to the file.
    fn step(&self, state: &mut IntakeState<'_>, buffer: &mut [u8]) -> Result<usize, Fault> {
        let end = state.length.or(self.terms.max_size);
        let room = match end {
            // More bytes than the dump has may have arrived before its length was known.
            Some(end) => match end.checked_sub(state.received) {
                Some(left) => one_more(left, buffer.len()),
                None => return Err(state.excess_data_fault(end)),
            },
            None => buffer.len(),
        };
        let n = if room > 0 { self.next(state, &mut buffer[..room])? } else { 0 };
        let received = state.received.checked_add(n as u64);
        let received = received.ok_or_else(|| Fault::Refused("its length overflows".into()))?;
        if let Some(end) = end
            && received > end
        {
            return Err(state.excess_data_fault(end));
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

    /// Reads the next bytes. Returns 0 at the end.
    fn next(&self, state: &mut IntakeState<'_>, buffer: &mut [u8]) -> Result<usize, Fault> {
        loop {
            if self.stop.is_requested() {
                return self.handle_signal(state);
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
                    Ok(Ready::Stopped) => return self.handle_signal(state),
                    Ok(Ready::TimedOut) if state.last_byte.has_more(&self.connection.socket) => {
                        continue;
                    }
                    Ok(Ready::TimedOut) => {
                        format!("no bytes arrived for {:?}", self.terms.pace.timeout)
                    }
                    Err(why) => why,
                },
                Err(errno) => io::Error::from(errno).to_string(),
            };
            // A complete dump is kept no matter how the connection ends.
            return match state.is_complete() {
                true => Ok(0),
                false => Err(Fault::Broken(format!("truncated: {}: {why}", state.so_far()))),
            };
        }
    }

    /// Waits for more bytes from the sender.
    fn wait(&self, state: &mut IntakeState<'_>) -> Result<Ready, String> {
        let patience = match state.is_complete() {
            true => CLOSE_TIMEOUT.min(self.terms.pace.timeout),
            false => state.pace.patience(state.received)?,
        };
        let start = Instant::now();
        let what = if state.last_byte.is_held() { platform::PEER_END } else { PollFlags::IN };
        let ready = self.stop.wait_for(what, self.connection.socket.as_fd(), Some(patience));
        state.pace.add(start.elapsed());
        match ready.map_err(|error| error.to_string())? {
            // The limit for the whole dump may be exceeded instead.
            Ready::TimedOut if !state.is_complete() => state.pace.left().map(|_| Ready::TimedOut),
            ready => Ok(ready),
        }
    }

    /// Handles a signal: a complete dump still gets its name, an incomplete one is dropped.
    fn handle_signal(&self, state: &IntakeState<'_>) -> Result<usize, Fault> {
        if !state.is_complete() {
            return Err(Fault::Stopped);
        }
        // The sender ignores an `ok` that arrives before it has shut down its half.
        let mut fd = [PollFd::from_borrowed_fd(self.connection.socket.as_fd(), platform::PEER_END)];
        let _ = poll(&mut fd, Timespec::try_from(LAST_GRACE).ok().as_ref());
        Ok(0)
    }

    /// Reacts to facts that the verifier knows before the rest has arrived.
    fn handle_early_fact(&self, early: EarlyFact<'_>) -> io::Result<()> {
        let state = &mut *self.state.borrow_mut();
        match early {
            EarlyFact::Name(name) => state.name = Some(name.into()),
            EarlyFact::Length(length) => {
                let room = self.room(length, state.received).map_err(|fault| state.fail(fault))?;
                (state.length, state.room) = (Some(length), Some(room));
            }
            EarlyFact::NoLength if !self.terms.any_tool => {
                let why = "comes from another tool, so a truncated dump could look intact; --any-tool accepts \
                           such dumps";
                return Err(state.fail(Fault::Refused(why.into())));
            }
            EarlyFact::NoLength => {
                // The stated length of a dump that another tool has rewritten is wrong.
                (state.length, state.room) = (None, None);
                state.last_byte.forget();
            }
            // The dump can only be dropped. Stops reading, and uses the verdict so far.
            EarlyFact::Fault if !self.terms.keep_damaged => {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks the stated length of a dump of which `received` bytes have arrived.
    fn room(&self, length: u64, received: u64) -> Result<Room, Fault> {
        if let Some(max) = self.terms.max_size.filter(|max| length > *max) {
            let message = format!("has {length} bytes, which exceeds --max-size ({max} bytes)");
            return Err(Fault::Refused(message));
        }
        Room::look_for(self.file, length, received).map_err(Fault::Refused)
    }
}

#[cfg(test)]
mod tests;
