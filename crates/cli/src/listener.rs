//! A listening socket: TCP, or a Unix socket in the file system.

mod socket_file;

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use corestream::Visible;

use self::socket_file::SocketFile;
use crate::peer::Peer;
use crate::report::{self, Failure};

/// The time limit for writing the line with the address to standard output.
const ANNOUNCEMENT: Duration = Duration::from_secs(1);

/// A listening socket.
pub struct Listener {
    socket: Socket,
    /// The address for clients.
    name: String,
}

enum Socket {
    Tcp(TcpListener),
    Unix(SocketFile),
}

/// A client that was accepted.
pub struct Accepted {
    /// The socket, which is non-blocking.
    pub socket: OwnedFd,
    /// The client's address, for messages.
    pub peer: String,
    /// Whether the socket is a Unix socket.
    pub is_unix: bool,
}

impl Listener {
    /// Listens on `address`, which must be a loopback address unless `any_host` is set. Messages begin with `command`.
    ///
    /// # Errors
    /// Returns an error if the address is not a loopback address, or if nothing can listen on it.
    pub fn bind(command: &str, address: &Peer, any_host: bool) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            Failure::new(format!("{command}: {address}: cannot listen: {error}"))
        };
        match address {
            Peer::Tcp(host) => {
                let addresses: Vec<_> = host.to_socket_addrs().map_err(failed)?.collect();
                if !any_host {
                    check_loopback(command, address, &addresses)?;
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

    /// Returns the address for clients, with the assigned port if port 0 was requested.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Prints the address to standard output. Messages begin with `command`.
    ///
    /// If standard output is not read, a thread keeps trying, so that the server can serve clients and react to signals.
    ///
    /// # Errors
    /// Returns an error if standard output cannot be written, or if no thread can be started.
    pub fn announce(&self, command: &str) -> Result<(), Failure> {
        let line = format!("listening on {}\n", Visible(self.name()));
        let (done, is_done) = mpsc::channel();
        thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(move || {
                // Fails if the receiver has stopped waiting.
                let _ = done.send(report::result(&line));
            })
            .map_err(|e| Failure::new(format!("{command}: cannot start a thread: {e}")))?;
        match is_done.recv_timeout(ANNOUNCEMENT) {
            Ok(announced) => announced,
            Err(_) => {
                report::line(&format!(
                    "warning: {command}: standard output is not read; listening on {} anyway",
                    self.name()
                ));
                Ok(())
            }
        }
    }

    /// Accepts the next waiting client.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::WouldBlock`] if there is none, or the error of the system.
    pub fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (socket, from) = listener.accept()?;
                socket.set_nonblocking(true)?;
                let peer = format!("tcp:{from}");
                Ok(Accepted { socket: socket.into(), peer, is_unix: false })
            }
            Socket::Unix(file) => {
                let (socket, _) = file.listener().accept()?;
                socket.set_nonblocking(true)?;
                Ok(Accepted { socket: socket.into(), peer: self.name.clone(), is_unix: true })
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

fn check_loopback(command: &str, address: &Peer, addresses: &[SocketAddr]) -> Result<(), Failure> {
    match addresses.iter().find(|address| !address.ip().to_canonical().is_loopback()) {
        None => Ok(()),
        Some(other) => Err(Failure::usage(format!(
            "{command}: {address}: {} is not a loopback address, so other machines can reach it; use \
             --any-host to allow that",
            other.ip()
        ))),
    }
}

#[cfg(test)]
mod tests;
