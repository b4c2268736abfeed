//! The last byte of a dump that comes by a Unix socket: it is looked at, and stays there until the dump has
//! its name.
//!
//! Closing a Unix socket with unread bytes in it breaks the connection for the other side, and nothing else
//! does. Senders that do not read replies (see [`reply`](crate::peer::reply)), such as those of older
//! versions, learn by it that a dump which they have sent completely is not kept. Without it they would take an
//! ordinary end for "kept".

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, Timespec, poll};
use rustix::io::{Errno, Result};
use rustix::net::{RecvFlags, recv};

use crate::platform;

/// Reads a dump from a socket, but for its last byte.
pub struct LastByte {
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    /// There is none that would have to stay.
    None,
    /// It is still to come.
    ToCome,
    /// It was looked at.
    Held,
}

impl LastByte {
    pub fn new(is_unix: bool) -> Self {
        let known = is_unix && platform::KEEPS_LAST_BYTE;
        Self { state: if known { State::ToCome } else { State::None } }
    }

    /// The dump does not say where it ends.
    pub fn forget(&mut self) {
        self.state = State::None;
    }

    /// Whether it was looked at: from now on the socket always has something to read.
    pub fn is_held(&self) -> bool {
        self.state == State::Held
    }

    /// Whether there is something behind it.
    pub fn has_more(&self, socket: &OwnedFd) -> bool {
        self.is_held() && peek(socket, &mut [0; 2]) == Ok(2)
    }

    /// Reads from a socket that does not block, of which `left` bytes are to come, if that is known;
    /// nothing at its end.
    pub fn read(
        &mut self,
        socket: &OwnedFd,
        left: Option<u64>,
        buffer: &mut [u8],
    ) -> Result<usize> {
        match (&self.state, left) {
            (State::None, _) => rustix::io::read(socket, buffer),
            (State::Held, _) => {
                // In this order: what comes before the end is seen.
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
            (State::ToCome, Some(1)) => {
                let n = peek(socket, buffer)?;
                if n > 0 {
                    self.state = State::Held;
                }
                Ok(n)
            }
            (State::ToCome, Some(left)) => {
                let most = match left.checked_sub(1).map(usize::try_from) {
                    Some(Ok(most)) => most.min(buffer.len()),
                    // None are left where it came before it was known to be the last.
                    None | Some(Err(_)) => buffer.len(),
                };
                rustix::io::read(socket, &mut buffer[..most])
            }
            // The last available byte may be the dump's last. A single byte is not: data follows the section
            // that gives the length.
            (State::ToCome, None) => {
                let there = peek(socket, buffer)?;
                let most = if there > 1 { there - 1 } else { 1 };
                rustix::io::read(socket, &mut buffer[..most])
            }
        }
    }
}

/// Looks at what there is.
fn peek(socket: &OwnedFd, buffer: &mut [u8]) -> Result<usize> {
    recv(socket, buffer, RecvFlags::PEEK).map(|(_, n)| n)
}

/// Whether the sender will send no more.
fn has_ended(socket: &OwnedFd) -> Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), platform::PEER_END)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(!fds[0].revents().is_empty())
}

#[cfg(test)]
mod tests;
