//! The last byte of a dump that arrives on a Unix socket. The receiver only peeks at it until the dump has its name.
//!
//! Closing a Unix socket with unread bytes is the only way to break the connection for the other side. Senders that do
//! not read replies (see [`reply`](crate::peer::reply)), such as those of older versions, learn from it that the
//! receiver did not keep a completely sent dump. They would otherwise take the end of the connection for success.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, Timespec, poll};
use rustix::io::{Errno, Result};
use rustix::net::{RecvFlags, recv};

use crate::platform;

/// Reads a dump from a socket, except for its last byte.
pub struct LastByte {
    state: LastByteState,
}

#[derive(PartialEq, Eq)]
enum LastByteState {
    /// There is no byte to leave in the socket.
    None,
    /// The last byte has not arrived yet.
    ToCome,
    /// The last byte was peeked at.
    Held,
}

impl LastByte {
    pub fn new(is_unix: bool) -> Self {
        let known = is_unix && platform::KEEPS_LAST_BYTE;
        Self { state: if known { LastByteState::ToCome } else { LastByteState::None } }
    }

    /// The dump does not state its length.
    pub fn forget(&mut self) {
        self.state = LastByteState::None;
    }

    /// Returns whether the last byte was peeked at. From then on the socket is always readable.
    pub fn is_held(&self) -> bool {
        self.state == LastByteState::Held
    }

    /// Returns whether data follows the last byte.
    pub fn has_more(&self, socket: &OwnedFd) -> bool {
        self.is_held() && peek(socket, &mut [0; 2]) == Ok(2)
    }

    /// Reads from a non-blocking socket. `left` is the number of bytes still to come, if known. Returns 0 at the end.
    pub fn read(
        &mut self,
        socket: &OwnedFd,
        left: Option<u64>,
        buffer: &mut [u8],
    ) -> Result<usize> {
        match (&self.state, left) {
            (LastByteState::None, _) => rustix::io::read(socket, buffer),
            (LastByteState::Held, _) => {
                // Checks for the end first, so that bytes before the end are not missed.
                let ended = has_ended(socket)?;
                let mut bytes = [0; 2];
                match (peek(socket, &mut bytes)?, ended) {
                    (2, _) => {
                        buffer[0] = bytes[1];
                        Ok(1)
                    }
                    (_, true) => Ok(0),
                    (_, false) => Err(Errno::AGAIN),
                }
            }
            (LastByteState::ToCome, Some(1)) => {
                let n = peek(socket, buffer)?;
                if n > 0 {
                    self.state = LastByteState::Held;
                }
                Ok(n)
            }
            (LastByteState::ToCome, Some(left)) => {
                let most = match left.checked_sub(1).map(usize::try_from) {
                    Some(Ok(most)) => most.min(buffer.len()),
                    // Nothing is left if the byte was read before it was known to be the last.
                    None | Some(Err(_)) => buffer.len(),
                };
                rustix::io::read(socket, &mut buffer[..most])
            }
            // The last available byte may be the dump's last. A single byte is not, because data follows the section
            // with the length.
            (LastByteState::ToCome, None) => {
                let there = peek(socket, buffer)?;
                let most = if there > 1 { there - 1 } else { 1 };
                rustix::io::read(socket, &mut buffer[..most])
            }
        }
    }
}

/// Peeks at the available bytes.
fn peek(socket: &OwnedFd, buffer: &mut [u8]) -> Result<usize> {
    recv(socket, buffer, RecvFlags::PEEK).map(|(_, n)| n)
}

/// Returns whether the sender has shut down its half.
fn has_ended(socket: &OwnedFd) -> Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), platform::PEER_END)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(!fds[0].revents().is_empty())
}

#[cfg(test)]
mod tests;
