//! The socket that senders connect to, by TCP or in the file system.

use std::fs::Metadata;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use crate::peer::Peer;
use crate::report::Failure;

/// A socket that listens. The path of one in the file system is removed when it is dropped.
pub struct Listener {
    socket: Socket,
    /// As senders have to call it.
    name: String,
    _path: Option<OwnPath>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A sender.
pub struct Connection {
    /// Does not block.
    pub socket: OwnedFd,
    /// Who it is, for people.
    pub peer: String,
}

impl Listener {
    /// Listens; to who is not on this machine only if `any_host` says so.
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
                Ok(Self { socket: Socket::Tcp(listener), name, _path: None })
            }
            Peer::Unix(path) => {
                let listener = bind_path(path).map_err(failed)?;
                let own = Some(OwnPath::new(path).map_err(failed)?);
                listener.set_nonblocking(true).map_err(failed)?;
                let name = address.to_string();
                Ok(Self { socket: Socket::Unix(listener), name, _path: own })
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
                Ok(Connection { socket: socket.into(), peer: format!("tcp:{from}") })
            }
            Socket::Unix(listener) => {
                let (socket, _) = listener.accept()?;
                socket.set_nonblocking(true)?;
                Ok(Connection { socket: socket.into(), peer: self.name.clone() })
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener) => listener.as_fd(),
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

/// Makes a socket at `path`; one that is there is replaced if nobody listens on it any more.
fn bind_path(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let there = path.symlink_metadata()?;
            if !there.file_type().is_socket() {
                let what = "something that is no socket has this name";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
            }
            if !is_deserted(path)? {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "somebody listens there already",
                ));
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        result => result,
    }
}

/// Whether nobody has the socket at `path` open. One of another kind asks, which nobody who listens
/// takes for a sender.
fn is_deserted(path: &Path) -> io::Result<bool> {
    let asked = UnixDatagram::unbound()?.connect(path);
    Ok(asked.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

/// A path that is removed in the end, unless something else has it by then.
struct OwnPath {
    path: PathBuf,
    identity: (u64, u64),
}

impl OwnPath {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.into(), identity: identity(&path.symlink_metadata()?) })
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        if self.path.symlink_metadata().is_ok_and(|there| identity(&there) == self.identity) {
            // There is nobody to tell, and nothing else to do.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
