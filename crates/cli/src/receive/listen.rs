//! The connections of senders.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{SendFlags, send};

use crate::listener::{Accepted, Listener};
use crate::peer::reply;
use crate::platform::unsent;
use crate::stop::{Ready, Stop};

/// The time limit for delivering the reason of a refusal to the sender's kernel.
const DELIVERY: Duration = Duration::from_secs(1);
/// The interval between checks of the delivery.
const LOOK: Duration = Duration::from_millis(5);

/// The connection of a sender.
pub struct Connection {
    /// The socket, which is non-blocking.
    pub socket: OwnedFd,
    /// The sender's address, for messages.
    pub peer: String,
    /// Whether the socket is a Unix socket, which needs [`LastByte`](super::last_byte::LastByte).
    pub is_unix: bool,
}

impl Connection {
    /// Accepts the next waiting sender.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::WouldBlock`] if there is none, or the error of the system.
    pub fn accept(listener: &Listener) -> io::Result<Self> {
        let Accepted { socket, peer, is_unix } = listener.accept()?;
        if !is_unix {
            // The sender gets a reset no matter how this process ends. After an ordinary close it would assume that its
            // dump was kept. Before this call, closing the socket with unread bytes has the same effect.
            set_socket_linger(&socket, Some(Duration::ZERO))?;
        }
        Ok(Self { socket, peer, is_unix })
    }

    /// Replies that the dump was kept. After this, the connection is closed without a reset.
    pub fn confirm(&self) {
        if self.is_unix {
            // Reads the last byte of the dump, which would otherwise break the connection.
            let _ = rustix::io::read(&self.socket, &mut [0; 1]);
        } else {
            // Before the reply, because the dump is kept even if this process ends before it replies.
            let _ = set_socket_linger(&self.socket, None);
        }
        self.reply(reply::OK);
    }

    /// Replies with the reason why the dump is not kept.
    ///
    /// If a connection is dropped without [`confirm`](Self::confirm), a sender that does not read replies gets an
    /// error: a reset on TCP, and the error for unread bytes on a Unix socket.
    pub fn refuse(&self, reason: &str, stop: &Stop) {
        self.reply(&reply::refusal(reason));
        if self.is_unix {
            return;
        }
        // A reset discards bytes that the sender's kernel does not have yet.
        let deadline = Instant::now() + DELIVERY;
        while unsent(self.socket.as_fd()).is_some_and(|bytes| bytes > 0) {
            let left = deadline.saturating_duration_since(Instant::now());
            // `poll` reports an error if the sender has gone. It takes no more bytes then.
            let gone = stop.wait_for(PollFlags::empty(), self.socket.as_fd(), Some(LOOK.min(left)));
            if left.is_zero() || !gone.is_ok_and(|ready| ready == Ready::TimedOut) {
                break;
            }
        }
    }

    /// Sends a line. The buffer of a socket that was never written to has room for it. Ignores errors: the sender may
    /// have gone.
    fn reply(&self, line: &[u8]) {
        let _ = send(&self.socket, line, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

#[cfg(test)]
mod tests;
