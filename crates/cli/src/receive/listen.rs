//! The socket that senders connect to, by TCP or in the file system.

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

/// How long the reason of a refusal may take to the sender's kernel.
const DELIVERY: Duration = Duration::from_secs(1);
/// How often to look whether it is there.
const LOOK: Duration = Duration::from_millis(5);

/// A socket that listens.
pub struct Listener {
    socket: Socket,
    /// As senders have to call it.
    name: String,
}

enum Socket {
    Tcp(TcpListener),
    Unix(SocketFile),
}

/// A sender.
pub struct Connection {
    /// Does not block.
    pub socket: OwnedFd,
    /// Who it is, for people.
    pub peer: String,
    /// Whether it is a Unix socket, of which [`LastByte`](super::last_byte::LastByte) is to be thought.
    pub is_unix: bool,
}

impl Connection {
    /// Replies that the dump has its name. From now on the connection ends in the ordinary way.
    pub fn confirm(&self) {
        if self.is_unix {
            // The last byte of the dump, which would break the connection.
            let _ = rustix::io::read(&self.socket, &mut [0; 1]);
        } else {
            // Before the reply: the dump is kept even if this process ends before it sends one.
            let _ = set_socket_linger(&self.socket, None);
        }
        self.reply(reply::OK);
    }

    /// Replies why the dump is not kept. When a connection without [`confirm`](Self::confirm) is dropped, a sender
    /// that does not read replies gets an error: a reset by TCP, and by a Unix socket the error for unread bytes.
    pub fn refuse(&self, reason: &str, stop: &Stop) {
        self.reply(&reply::refusal(reason));
        if self.is_unix {
            return;
        }
        // A reset discards what the sender's kernel does not have yet.
        let deadline = Instant::now() + DELIVERY;
        while unsent(self.socket.as_fd()).is_some_and(|bytes| bytes > 0) {
            let left = deadline.saturating_duration_since(Instant::now());
            // `poll` reports an error if the sender has gone, which then takes no more.
            let gone = stop.wait_for(PollFlags::empty(), self.socket.as_fd(), Some(LOOK.min(left)));
            if left.is_zero() || !gone.is_ok_and(|ready| ready == Ready::TimedOut) {
                break;
            }
        }
    }

    /// Sends a line, for which a socket that was never written to has room. The sender may have gone, or
    /// not care.
    fn reply(&self, line: &[u8]) {
        let _ = send(&self.socket, line, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

impl Listener {
    /// Listens on `address`, which must be a loopback address unless `any_host` is set.
    pub fn bind(address: &Peer, any_host: bool) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            Failure::new(format!("receive: {address}: cannot listen there: {error}"))
        };
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

    /// As senders have to call it; with the port that it has got where any would do.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next sender that waits; where there is none, [`io::ErrorKind::WouldBlock`].
    pub fn accept(&self) -> io::Result<Connection> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (socket, from) = listener.accept()?;
                socket.set_nonblocking(true)?;
                // However this process ends, the sender gets a reset. After an ordinary end it would assume that
                // its dump was kept. Until this call, closing the socket with unread bytes has the same effect.
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
