//! Peers that a dump goes to, and what they listen on: `tcp:HOST:PORT` and `unix:PATH`.

use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::RangeFrom;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

/// A peer that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// `HOST:PORT`; an IPv6 address stands in brackets.
    Tcp(String),
    /// The path of a socket.
    Unix(PathBuf),
}

impl Peer {
    /// Parses what is listened on: port 0 is any that is free.
    pub fn to_listen_on(text: &str) -> Result<Self, String> {
        Self::parse(text, 0..)
    }

    fn parse(text: &str, ports: RangeFrom<u16>) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').unwrap_or_default();
        match kind {
            "tcp" => {
                let (host, port) = rest.rsplit_once(':').unwrap_or_default();
                if host.is_empty() || !port.parse().is_ok_and(|port| ports.contains(&port)) {
                    return Err("a host and a port are needed, as in tcp:127.0.0.1:4000".into());
                }
                Ok(Self::Tcp(rest.into()))
            }
            "unix" if rest.is_empty() => Err("a path is needed, as in unix:/run/dumps".into()),
            "unix" => Ok(Self::Unix(rest.into())),
            _ => Err("must be tcp:HOST:PORT or unix:PATH".into()),
        }
    }

    /// Connects to it. `timeout` is for one that does not answer, for each of its addresses.
    pub fn connect(&self, timeout: Option<Duration>) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(address) => Ok(connect(address, timeout)?.into()),
            Self::Unix(path) => Ok(UnixStream::connect(path)?.into()),
        }
    }
}

/// Tells the peer that all was sent, and waits until it closes the connection: `false` if it does not for
/// as long as `timeout`. What it sends meanwhile is of no interest.
///
/// # Errors
/// It has broken the connection, as who drops a dump does, or who ends before all was read.
pub fn take_leave(socket: impl AsFd, timeout: Duration) -> io::Result<bool> {
    let socket = socket.as_fd();
    match shutdown(socket, Shutdown::Write) {
        // What has broken the connection is what the read says.
        Ok(()) | Err(Errno::NOTCONN | Errno::PIPE) => {}
        Err(errno) => return Err(errno.into()),
    }
    let start = Instant::now();
    let mut buffer = [0; 4096];
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        let mut fd = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
        // A time too long for the kernel is for ever.
        match poll(&mut fd, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        match rustix::io::read(socket, &mut buffer) {
            Ok(0) => return Ok(true),
            Ok(_) if left.is_zero() => return Ok(false),
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Connects to the first address that takes it.
fn connect(address: &str, timeout: Option<Duration>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in address.to_socket_addrs()? {
        let connected = match timeout {
            Some(timeout) => TcpStream::connect_timeout(&address, timeout),
            None => TcpStream::connect(address),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, 1..)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_parsed() {
        for address in ["127.0.0.1:80", "localhost:65535", "[::1]:4000"] {
            assert_eq!(format!("tcp:{address}").parse(), Ok(Peer::Tcp(address.into())));
        }
        assert_eq!("unix:a:b".parse(), Ok(Peer::Unix("a:b".into())));
        let bad = ["", "tcp", "tcp:", "tcp:80", "tcp::80", "tcp:a:", "tcp:a:0", "tcp:a:65536"];
        for bad in bad.iter().chain(&["unix:", "udp:a:80", "/run/dumps"]) {
            assert!(bad.parse::<Peer>().is_err(), "{bad}");
        }
        assert_eq!(Peer::to_listen_on("tcp:a:0"), Ok(Peer::Tcp("a:0".into())));
        assert!(Peer::to_listen_on("tcp:a:65536").is_err());
    }
}
