//! What the unit tests of the receiver share: dumps, and the receiver's end of a connection.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType};

use super::intake::Terms;
use super::listen::Connection;
use super::pace::Limits;

/// Returns a dump of a guest called `name` with one dense page.
pub fn dump_of(name: &str) -> Vec<u8> {
    let image = [7; 65_536];
    let mut dump = CoreDump::new(name);
    dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&image)));
    Dumper::new().plan(&dump).unwrap().to_vec().unwrap()
}

/// Returns the start of a dump by a tool that does not write the length of its dumps.
pub fn foreign() -> Vec<u8> {
    b"\0asm\x01\0\0\0\0\x0d\x04core\0\x06others\0\x0d\x0bcoremodules\0".to_vec()
}

/// Returns both ends of a connection by Unix socket, the receiver's first.
pub fn connect() -> (Connection, UnixStream) {
    let (socket, sender) = UnixStream::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    (Connection { socket: socket.into(), peer: "unix:test".into(), is_unix: true }, sender)
}

/// Returns the receiver's end of a connection whose sender has sent `bytes` and closed its half. The bytes must fit
/// into the buffer of a socket. The second value keeps the connection open.
pub fn sent(bytes: &[u8]) -> (Connection, UnixStream) {
    let (connection, mut sender) = connect();
    sender.write_all(bytes).unwrap();
    sender.shutdown(std::net::Shutdown::Write).unwrap();
    (connection, sender)
}

/// Returns the terms of a receiver without options, but with a timeout of 100 ms.
pub fn terms() -> Terms {
    let pace = Limits { timeout: Duration::from_millis(100), min_rate: 0, max_time: None };
    Terms { max_size: None, pace, any_tool: false, keep_damaged: false }
}
