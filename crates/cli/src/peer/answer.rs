//! The wait for a peer's answer to a dump: its reply, or the way in which it ends the connection.
//!
//! # The problem
//! The exit code of `dump --to` must be the truth: 0 only if the peer kept the dump. [`reply`](super::reply) defines
//! the protocol. This module has to find out, from a socket, whether the peer replied, closed the connection in the
//! ordinary way after reading everything, broke it, or hangs.
//!
//! # What makes it hard
//! - The kernel reports the error of a connection once, to the first call that meets it. After that, a broken
//!   connection looks like an ordinary close. So every call that can get the error records it.
//! - A peer may refuse a dump while it is still being sent. `send` blocks in its writes, which is faster than polling,
//!   so another thread watches for an early reply and shuts the connection down.
//! - An ordinary close by the peer counts as success only after it has taken every byte, which `SIOCOUTQ` tells.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_error;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};

use super::reply::{Answer, EARLY_OK, Reply};
use crate::limits::MAX_REASON_BYTES;
use crate::platform::{is_unix, unsent};

/// The time to wait on TCP for an early end of the peer's half before the sender shuts down its own. After that, an
/// early end cannot be distinguished from an ordinary one, because both ends can cross on the way.
const GRACE: Duration = Duration::from_millis(20);

/// The time limit for the rest of a reply whose first byte has arrived.
const REST_OF_REPLY: Duration = Duration::from_secs(30);

/// The time to wait before telling the user.
const SILENCE: Duration = Duration::from_secs(30);

/// The interval between checks whether the peer still reads.
const LOOK: Duration = Duration::from_millis(200);

/// The transfer of a dump to a peer, and the peer's answer.
pub struct Exchange<'s> {
    socket: BorrowedFd<'s>,
    /// The number of the error that broke the connection, or 0.
    error: AtomicI32,
}

/// The outcome of the wait.
#[derive(Debug)]
pub enum Outcome {
    Answered(Answer),
    /// The connection broke, as when a receiver drops a dump or exits.
    Broken(io::Error),
    /// No answer arrived within this time.
    TimedOut(Duration),
    /// A reply started but was not completed within this time.
    Unfinished(Duration),
}

impl<'s> Exchange<'s> {
    pub fn new(socket: BorrowedFd<'s>) -> Self {
        Self { socket, error: AtomicI32::new(0) }
    }

    /// Runs `send` to send a dump, and shuts the connection down as soon as the peer replies, because it refuses the
    /// rest. [`reason_of_refusal`](Self::reason_of_refusal) returns the reply.
    ///
    /// Another thread watches the peer, because `send` blocks in its writes, which is faster. If that thread cannot be
    /// started, the reply is read when the connection breaks or a timeout ends the dump.
    pub fn send_until_reply<T>(&self, send: impl FnOnce() -> T) -> T {
        let Ok((done, is_done)) = UnixStream::pair() else { return send() };
        thread::scope(|scope| {
            let listen = move || self.break_off_at_reply(is_done.as_fd());
            // Continues without the thread, see above.
            let _ = thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, listen);
            let sent = send();
            drop(done);
            sent
        })
    }

    /// Shuts down the sender's half once a complete reply has arrived, unless `is_done` is at its end.
    fn break_off_at_reply(&self, is_done: BorrowedFd<'_>) {
        let mut line = [0; MAX_REASON_BYTES + 1];
        // Whether the socket is readable without a complete reply. No event reports further bytes then.
        let mut is_partial = false;
        loop {
            let mut fds = [
                PollFd::from_borrowed_fd(is_done, PollFlags::IN),
                PollFd::from_borrowed_fd(self.socket, PollFlags::IN),
            ];
            let (fds, timeout) = if is_partial {
                (&mut fds[..1], Timespec::try_from(LOOK).ok())
            } else {
                (&mut fds[..], None)
            };
            match poll(fds, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            if !fds[0].revents().is_empty() {
                return;
            }
            match self.receive(&mut line, RecvFlags::PEEK) {
                Ok(n) if n == line.len() || line[..n].contains(&b'\n') => {
                    let _ = shutdown(self.socket, Shutdown::Write);
                    return;
                }
                // A partial line, or the end of the peer's half.
                Ok(_) => is_partial = true,
                Err(Errno::INTR | Errno::AGAIN) => {}
                // The failing write or the wait for the answer reports this error.
                Err(_) => return,
            }
        }
    }

    /// Shuts down the sender's half and waits for the peer's answer.
    ///
    /// The wait ends `timeout` after the peer last took bytes out of the buffers, or is unlimited. Calls `waiting` once
    /// if it takes long. A reply that has started must be complete within [`REST_OF_REPLY`], so a peer cannot delay the
    /// sender by sending single bytes.
    pub fn wait_for_answer(
        &self,
        timeout: Option<Duration>,
        waiting: impl FnOnce(),
    ) -> io::Result<Outcome> {
        let socket = self.socket;
        let mut reply = Reply::default();
        let grace = if is_unix(socket) { Duration::ZERO } else { GRACE };
        if is_readable(socket, grace)? {
            match self.receive(&mut [0], RecvFlags::PEEK) {
                Ok(0) => reply.end_early(),
                Ok(_) => reply.begin_early(),
                // Records an error of the connection.
                Err(_) => {}
            }
        }
        match shutdown(socket, Shutdown::Write) {
            Ok(()) => {}
            // Only a broken connection is not connected.
            Err(errno @ (Errno::NOTCONN | Errno::PIPE)) => self.note(errno),
            Err(errno) => return Err(errno.into()),
        }
        let mut waiting = Some(waiting);
        // The time at which the first byte of the reply arrived.
        let mut begun = None;
        // The time at which the peer last took bytes out of the buffers, and the number of remaining bytes.
        let mut since = Instant::now();
        let mut left_over = unsent(socket);
        loop {
            let limit = match begun {
                None => timeout,
                Some(_) => {
                    Some(timeout.map_or(REST_OF_REPLY, |timeout| timeout.min(REST_OF_REPLY)))
                }
            };
            let waited = begun.unwrap_or(since).elapsed();
            if let Some(limit) = limit
                && waited >= limit
            {
                return Ok(match begun {
                    None => Outcome::TimedOut(limit),
                    Some(_) => Outcome::Unfinished(limit),
                });
            }
            let slice = limit.map_or(LOOK, |limit| limit.saturating_sub(waited).min(LOOK));
            if !is_readable(socket, slice)? {
                let left = unsent(socket);
                if left < left_over {
                    // The peer is still reading.
                    (left_over, since) = (left, Instant::now());
                }
                if since.elapsed() >= SILENCE
                    && let Some(waiting) = waiting.take()
                {
                    waiting();
                }
                continue;
            }
            let mut buffer = [0; MAX_REASON_BYTES];
            match self.receive(&mut buffer, RecvFlags::empty()) {
                Ok(0) => return Ok(self.outcome_at_end(&mut reply)),
                Ok(n) => {
                    if let Some(answer) = reply.take(&buffer[..n]) {
                        return Ok(Outcome::Answered(answer));
                    }
                    begun = begun.or(Some(Instant::now()));
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Ok(outcome_of_broken(&mut reply, errno)),
            }
        }
    }

    /// Returns the reason that a peer gave while the dump was sent, if any. Does not wait.
    pub fn reason_of_refusal(&self) -> Option<String> {
        let mut reply = Reply::default();
        let mut buffer = [0; MAX_REASON_BYTES];
        loop {
            match self.receive(&mut buffer, RecvFlags::empty()) {
                Ok(0) => return reply.reason(),
                Ok(n) => match reply.take(&buffer[..n]) {
                    Some(Answer::Refused(reason)) => return Some(reason),
                    // The peer cannot have kept a dump that was not sent completely.
                    Some(_) => return Some(EARLY_OK.into()),
                    None => {}
                },
                Err(Errno::INTR) => {}
                Err(_) => return reply.reason(),
            }
        }
    }

    /// Handles the end of the peer's half.
    fn outcome_at_end(&self, reply: &mut Reply) -> Outcome {
        // Checks for the error first: a peer that leaves with unread bytes sets the error before it drops them.
        let everything_taken = unsent(self.socket).is_none_or(|bytes| bytes == 0);
        if let Ok(Err(errno)) | Err(errno) = socket_error(self.socket) {
            self.note(errno);
        }
        match self.error.load(Ordering::Relaxed) {
            0 => Outcome::Answered(reply.end(everything_taken)),
            errno => outcome_of_broken(reply, Errno::from_raw_os_error(errno)),
        }
    }

    /// Receives the available bytes, and records an error of the connection.
    fn receive(&self, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
        let received = recv(self.socket, buffer, flags | RecvFlags::DONTWAIT).map(|(_, n)| n);
        if let Err(errno) = received
            && !matches!(errno, Errno::INTR | Errno::AGAIN)
        {
            self.note(errno);
        }
        received
    }

    /// Records the error that broke the connection. The first error is the cause.
    fn note(&self, errno: Errno) {
        let (new, relaxed) = (errno.raw_os_error(), Ordering::Relaxed);
        let _ = self.error.compare_exchange(0, new, relaxed, relaxed);
    }
}

/// Returns the outcome of a broken connection, with the peer's reason if it gave one.
fn outcome_of_broken(reply: &mut Reply, errno: Errno) -> Outcome {
    match reply.reason() {
        Some(reason) => Outcome::Answered(Answer::Refused(reason)),
        None => Outcome::Broken(errno.into()),
    }
}

/// Waits until the socket is readable, ended or has an error.
fn is_readable(socket: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut fd = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    match poll(&mut fd, Timespec::try_from(timeout).ok().as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    use super::*;

    /// An `ok` from before the sender shut down its half may not be about the complete dump.
    #[test]
    fn ignores_an_early_ok() {
        for (reply, expected) in
            [("ok\n", Answer::EarlyOk), ("disk full\n", Answer::Refused("disk full".into()))]
        {
            let (socket, mut peer) = UnixStream::pair().unwrap();
            peer.write_all(reply.as_bytes()).unwrap();
            let outcome = Exchange::new(socket.as_fd()).wait_for_answer(None, || {}).unwrap();
            assert!(matches!(outcome, Outcome::Answered(answer) if answer == expected), "{reply}");
        }
    }
    /// A broken connection is distinguished from an ordinary close, no matter which thread sees the error first.
    #[test]
    fn reports_a_broken_connection_as_not_kept() {
        // Leaves a byte of the dump unread, like a receiver that is killed.
        let unix = || {
            let (socket, peer) = UnixStream::pair().unwrap();
            (OwnedFd::from(socket), OwnedFd::from(peer))
        };
        let tcp = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (OwnedFd::from(socket), OwnedFd::from(listener.accept().unwrap().0))
        };
        let pairs: [&dyn Fn() -> (OwnedFd, OwnedFd); 2] = [&unix, &tcp];
        for pair in pairs {
            for early_end in [false, true] {
                let (socket, peer) = pair();
                rustix::io::write(&socket, b"dump").unwrap();
                if early_end {
                    shutdown(&peer, Shutdown::Write).unwrap();
                }
                let exchange = Exchange::new(socket.as_fd());
                let outcome = thread::scope(|scope| {
                    scope.spawn(move || {
                        thread::sleep(Duration::from_millis(5));
                        drop(peer);
                    });
                    exchange.send_until_reply(|| thread::sleep(Duration::from_millis(50)));
                    exchange.wait_for_answer(None, || {}).unwrap()
                });
                assert!(matches!(outcome, Outcome::Broken(_)), "{outcome:?}");
            }
        }
    }
}
