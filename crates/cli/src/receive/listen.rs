//! The listening socket: TCP, or a Unix socket in the file system.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{SendFlags, send};

use super::socket_file::SocketFile;
use super::stop::{Ready, Stop};
use crate::peer::Peer;
use crate::peer::reply;
use crate::platform::unsent;
use crate::report::Failure;

/// The time limit for delivering the reason of a refusal to the sender's kernel.
const DELIVERY: Duration = Duration::from_secs(1);
/// The interval between checks of the delivery.
const LOOK: Duration = Duration::from_millis(5);

/// A listening socket.
pub struct Listener {
    socket: Socket,
    /// The address for senders.
    name: String,
}

enum Socket {
    Tcp(TcpListener),
    Unix(SocketFile),
}

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

impl Listener {
    /// Listens on `address`, which must be a loopback address unless `any_host` is set.
    pub fn bind(address: &Peer, any_host: bool) -> Result<Self, Failure> {
        let failed =
            |error: io::Error| Failure::new(format!("receive: {address}: cannot listen: {error}"));
        match address {
            Peer::Tcp(host) => {
                let addresses: Vec<_> = host.to_socket_addrs().map_err(failed)?.collect();
                if !any_host {
                    check_loopback(address, &addresses)?;
                }
                let listener = TcpListener::bind(&addresses[..]).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let name = format!("tcp:{}", listener.local_addr().map_err(failed)?);
                Ok(Self { socket: Socket::Tcp(listener), name })
            }
            Peer::Unix(path) => {
                let file = SocketFile::bind(path).map_err(failed)?;
                file.listener().set_nonblocking(true).map_err(failed)?;
                Ok(Self { socket: Socket::Unix(file), name: address.to_string() })
            }
        }
    }

    /// Returns the address for senders, with the assigned port if port 0 was requested.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Accepts the next waiting sender. Returns [`io::ErrorKind::WouldBlock`] if there is none.
    pub fn accept(&self) -> io::Result<Connection> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (socket, from) = listener.accept()?;
                socket.set_nonblocking(true)?;
                // The sender gets a reset no matter how this process ends. After an ordinary close it would assume that
                // its dump was kept. Before this call, closing the socket with unread bytes has the same effect.
                set_socket_linger(&socket, Some(Duration::ZERO))?;
                Ok(Connection {
                    socket: socket.into(),
                    peer: format!("tcp:{from}"),
                    is_unix: false,
                })
            }
            Socket::Unix(file) => {
                let (socket, _) = file.listener().accept()?;
                socket.set_nonblocking(true)?;
                Ok(Connection { socket: socket.into(), peer: self.name.clone(), is_unix: true })
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(file) => file.listener().as_fd(),
        }
    }
}

fn check_loopback(address: &Peer, addresses: &[SocketAddr]) -> Result<(), Failure> {
    match addresses.iter().find(|address| !address.ip().to_canonical().is_loopback()) {
        None => Ok(()),
        Some(other) => Err(Failure::usage(format!(
            "receive: {address}: {} is not a loopback address, and other machines may send to it: \
             --any-host allows that",
            other.ip()
        ))),
    }
}

#[cfg(test)]
mod tests;
