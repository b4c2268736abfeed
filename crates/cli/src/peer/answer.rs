//! Waits for a peer's answer to a dump that was sent: its reply, or how it ends the connection.

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

/// How long a peer may take by TCP to show that it has ended its half before the sender ends its own.
/// Afterwards an early end looks like an ordinary one: both sides' ends cross on the way.
const GRACE: Duration = Duration::from_millis(20);

/// How long the rest of a reply may take whose first byte has come.
const REST_OF_REPLY: Duration = Duration::from_secs(30);

/// How long to wait without a word to the user.
const SILENCE: Duration = Duration::from_secs(30);

/// How often to look whether the peer still takes bytes out of the buffers.
const LOOK: Duration = Duration::from_millis(200);

/// A dump on its way to a peer, and the peer's answer.
///
/// The kernel reports an error of a connection once, to the first call that asks. After that, a broken connection
/// looks like one that the peer closed in the ordinary way. So each call that gets the error notes it here.
pub struct Exchange<'s> {
    socket: BorrowedFd<'s>,
    /// The error that broke the connection; 0 for none so far.
    error: AtomicI32,
}

/// What came of the wait.
#[derive(Debug)]
pub enum Outcome {
    Answered(Answer),
    /// The connection broke, as it does when a receiver drops a dump or ends.
    Broken(io::Error),
    /// Nothing came for this long.
    TimedOut(Duration),
    /// A reply began to come, and its end did not for this long.
    Unfinished(Duration),
}

impl<'s> Exchange<'s> {
    pub fn new(socket: BorrowedFd<'s>) -> Self {
        Self { socket, error: AtomicI32::new(0) }
    }

    /// Sends a dump by `send`, and breaks the connection off as soon as the peer has replied: it does not want the
    /// rest, and need not take it. The reply stays, for [`reason_of_refusal`](Self::reason_of_refusal).
    ///
    /// Another thread listens to the peer, because `send` blocks in its writes, which is faster.
    /// If the thread cannot be started, the reply is read when the connection breaks or a timeout ends the dump.
    pub fn send_until_reply<T>(&self, send: impl FnOnce() -> T) -> T {
        let Ok((done, is_done)) = UnixStream::pair() else { return send() };
        thread::scope(|scope| {
            let listen = move || self.break_off_at_reply(is_done.as_fd());
            // Without the thread, see above.
            let _ = thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, listen);
            let sent = send();
            drop(done);
            sent
        })
    }

    /// Shuts the sender's half down once a whole reply has come, but not after `is_done` is at its end.
    fn break_off_at_reply(&self, is_done: BorrowedFd<'_>) {
        let mut line = [0; MAX_REASON_BYTES + 1];
        // Whether the socket has something to read already that is no whole reply: no event tells of more.
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
                // A part of a line, or the end of the peer's half.
                Ok(_) => is_partial = true,
                Err(Errno::INTR | Errno::AGAIN) => {}
                // The write that fails reports it, or the wait for the answer.
                Err(_) => return,
            }
        }
    }

    /// Tells the peer that everything was sent, and waits for its answer: for at most `timeout` after it took
    /// the last byte out of the buffers, or without a limit. Calls `waiting` once if that takes long.
    ///
    /// A reply that has begun must be complete within [`REST_OF_REPLY`], so a peer cannot hold the sender up by
    /// sending a byte now and then.
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
                // If it is one of the connection, it is noted.
                Err(_) => {}
            }
        }
        match shutdown(socket, Shutdown::Write) {
            Ok(()) => {}
            // Only a connection that broke is not connected.
            Err(errno @ (Errno::NOTCONN | Errno::PIPE)) => self.note(errno),
            Err(errno) => return Err(errno.into()),
        }
        let mut waiting = Some(waiting);
        // When the first byte of the reply came.
        let mut begun = None;
        // When the peer last took bytes out of the buffers, and what it left there.
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
                Ok(0) => return Ok(self.ended(&mut reply)),
                Ok(n) => {
                    if let Some(answer) = reply.take(&buffer[..n]) {
                        return Ok(Outcome::Answered(answer));
                    }
                    begun = begun.or(Some(Instant::now()));
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Ok(broken(&mut reply, errno)),
            }
        }
    }

    /// Returns the reason of a peer that replied, or broke the connection, while the dump was sent, if it gave one.
    /// Does not wait.
    pub fn reason_of_refusal(&self) -> Option<String> {
        let mut reply = Reply::default();
        let mut buffer = [0; MAX_REASON_BYTES];
        loop {
            match self.receive(&mut buffer, RecvFlags::empty()) {
                Ok(0) => return reply.reason(),
                Ok(n) => match reply.take(&buffer[..n]) {
                    Some(Answer::Refused(reason)) => return Some(reason),
                    // It cannot have kept what was not sent.
                    Some(_) => return Some(EARLY_OK.into()),
                    None => {}
                },
                Err(Errno::INTR) => {}
                Err(_) => return reply.reason(),
            }
        }
    }

    /// The peer ended its half.
    fn ended(&self, reply: &mut Reply) -> Outcome {
        // In this order: a peer that goes with bytes unread sets the error before it drops them.
        let everything_taken = unsent(self.socket).is_none_or(|bytes| bytes == 0);
        if let Ok(Err(errno)) | Err(errno) = socket_error(self.socket) {
            self.note(errno);
        }
        match self.error.load(Ordering::Relaxed) {
            0 => Outcome::Answered(reply.end(everything_taken)),
            errno => broken(reply, Errno::from_raw_os_error(errno)),
        }
    }

    /// Receives what there is, and notes an error of the connection.
    fn receive(&self, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
        let received = recv(self.socket, buffer, flags | RecvFlags::DONTWAIT).map(|(_, n)| n);
        if let Err(errno) = received
            && !matches!(errno, Errno::INTR | Errno::AGAIN)
        {
            self.note(errno);
        }
        received
    }

    /// Notes what broke the connection: the first error is the cause.
    fn note(&self, errno: Errno) {
        let (new, relaxed) = (errno.raw_os_error(), Ordering::Relaxed);
        let _ = self.error.compare_exchange(0, new, relaxed, relaxed);
    }
}

/// The connection broke, and the peer may have said why.
fn broken(reply: &mut Reply, errno: Errno) -> Outcome {
    match reply.reason() {
        Some(reason) => Outcome::Answered(Answer::Refused(reason)),
        None => Outcome::Broken(errno.into()),
    }
}

/// Waits for something to read, an end or an error.
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

    /// An `ok` that is there before the sender has shut down its half need not be about the whole dump.
    #[test]
    fn an_early_ok_is_not_taken_for_kept() {
        for (reply, expected) in
            [("ok\n", Answer::EarlyOk), ("disk full\n", Answer::Refused("disk full".into()))]
        {
            let (socket, mut peer) = UnixStream::pair().unwrap();
            peer.write_all(reply.as_bytes()).unwrap();
            let outcome = Exchange::new(socket.as_fd()).wait_for_answer(None, || {}).unwrap();
            assert!(matches!(outcome, Outcome::Answered(answer) if answer == expected), "{reply}");
        }
    }
    /// A broken connection is not taken for an ordinary close, whichever thread sees the error first.
    #[test]
    fn a_broken_connection_is_not_taken_for_kept() {
        // With a byte of the dump unread, as a receiver leaves it that is killed.
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
