//! Peers, given as `tcp:HOST:PORT` or `unix:PATH`: the receiver of a dump, or the address on which a receiver listens.

pub mod answer;
pub mod connect;
pub mod reply;

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::ops::RangeFrom;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::limits::MAX_SOCKET_PATH_BYTES;

/// The address of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// `HOST:PORT`. An IPv6 address is in brackets.
    Tcp(String),
    /// The path of a socket.
    Unix(PathBuf),
}

impl Peer {
    /// Parses an address to listen on. Port 0 means any free port.
    pub fn to_listen_on(text: impl AsRef<OsStr>) -> Result<Self, String> {
        Self::parse(text.as_ref(), 0..)
    }

    /// Parses an address to connect to.
    pub fn to_connect_to(text: impl AsRef<OsStr>) -> Result<Self, String> {
        Self::parse(text.as_ref(), 1..)
    }

    fn parse(text: &OsStr, ports: RangeFrom<u16>) -> Result<Self, String> {
        // A path need not be valid UTF-8.
        if let Some(path) = text.as_bytes().strip_prefix(b"unix:") {
            return match path.len() {
                0 => Err("expected a path, such as unix:/run/dumps".into()),
                1..=MAX_SOCKET_PATH_BYTES => Ok(Self::Unix(OsStr::from_bytes(path).into())),
                _ => Err(format!(
                    "the path of a Unix socket has at most {MAX_SOCKET_PATH_BYTES} bytes"
                )),
            };
        }
        match text.to_str().and_then(|text| text.split_once(':')) {
            Some(("tcp", rest)) => {
                let (host, port) = rest.rsplit_once(':').unwrap_or_default();
                if host.is_empty() || !port.parse().is_ok_and(|port| ports.contains(&port)) {
                    return Err("expected a host and a port, such as tcp:127.0.0.1:4000".into());
                }
                Ok(Self::Tcp(rest.into()))
            }
            _ => Err("must be tcp:HOST:PORT or unix:PATH".into()),
        }
    }

    /// Connects to the peer within `timeout`, which covers all of its addresses together.
    ///
    /// # Errors
    /// Returns an error if the peer refuses the connection or does not accept it in time.
    pub fn connect(&self, timeout: Option<Duration>) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(address) => connect::tcp(address, timeout),
            Self::Unix(path) => connect::unix(path, timeout),
        }
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
    fn parses_addresses() {
        for address in ["127.0.0.1:80", "localhost:65535", "[::1]:4000"] {
            let text = format!("tcp:{address}");
            assert_eq!(Peer::to_connect_to(text), Ok(Peer::Tcp(address.into())));
        }
        assert_eq!(Peer::to_connect_to("unix:a:b"), Ok(Peer::Unix("a:b".into())));
        let path = OsStr::from_bytes(b"\xff");
        let text = OsStr::from_bytes(b"unix:\xff");
        assert_eq!(Peer::to_connect_to(text), Ok(Peer::Unix(path.into())));
        assert!(Peer::to_connect_to(OsStr::from_bytes(b"tcp:\xff:80")).is_err());
        let bad = ["", "tcp", "tcp:", "tcp:80", "tcp::80", "tcp:a:", "tcp:a:0", "tcp:a:65536"];
        let long = format!("unix:/{}", "x".repeat(MAX_SOCKET_PATH_BYTES));
        assert!(Peer::to_connect_to(&long[..long.len() - 1]).is_ok());
        for bad in bad.iter().chain(&["unix:", "udp:a:80", "/run/dumps", &long]) {
            assert!(Peer::to_connect_to(bad).is_err(), "{bad}");
        }
        assert_eq!(Peer::to_listen_on("tcp:a:0"), Ok(Peer::Tcp("a:0".into())));
        assert!(Peer::to_listen_on("tcp:a:65536").is_err());
    }
}
