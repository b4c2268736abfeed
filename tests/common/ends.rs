//! The two ends of pipes and sockets.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// Returns the reader's and the writer's end of a `pipe`, a `unix` socket, or a `tcp` connection on loopback.
pub fn ends(kind: &str) -> (OwnedFd, OwnedFd) {
    match kind {
        "pipe" => {
            let (reader, writer) = io::pipe().unwrap();
            (reader.into(), writer.into())
        }
        "unix" => {
            let (reader, writer) = UnixStream::pair().unwrap();
            (reader.into(), writer.into())
        }
        "tcp" => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (listener.accept().unwrap().0.into(), writer.into())
        }
        other => panic!("unknown kind {other}"),
    }
}
