//! Opens destinations that may require waiting: connections, and FIFOs without a reader.
//!
//! A timeout covers the whole operation. Without one the wait is unlimited, and a signal ends the process.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::platform;

/// The interval between attempts to open a FIFO. There is no event for a new reader.
const RETRY: Duration = Duration::from_millis(10);

/// The substitute for a timeout that the system cannot represent.
const ENOUGH: Duration = Duration::from_secs(u32::MAX as u64);

/// Connects over TCP to the first address of `HOST:PORT` that answers.
pub fn tcp(address: &str, timeout: Option<Duration>) -> io::Result<OwnedFd> {
    // A numeric address needs no lookup.
    if let Ok(address) = address.parse() {
        return first(&[address], timeout);
    }
    let Some(timeout) = timeout else {
        return first(&address.to_socket_addrs()?.collect::<Vec<_>>(), None);
    };
    let start = Instant::now();
    let addresses = resolve(address, timeout)?;
    first(&addresses, Some(timeout.saturating_sub(start.elapsed())))
}

/// Connects to the first address that answers. Each address gets an equal share of the remaining time, so that one that
/// does not answer leaves time for the next.
fn first(addresses: &[SocketAddr], timeout: Option<Duration>) -> io::Result<OwnedFd> {
    let start = Instant::now();
    if let ([address], Some(timeout)) = (addresses, timeout) {
        return connect_within(address, timeout);
    }
    let several = addresses.len() > 1;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (address, sharing) in addresses.iter().zip((1..=addresses.len()).rev()) {
        let connected = match timeout {
            None => TcpStream::connect(address).map(OwnedFd::from),
            Some(timeout) => {
                let left = timeout.saturating_sub(start.elapsed());
                // With over 2^32 addresses, no time remains for any of them.
                let share = u32::try_from(sharing).map_or(Duration::ZERO, |sharing| left / sharing);
                connect_within(address, share)
            }
        };
        match connected {
            Ok(socket) => return Ok(socket),
            Err(error) if several => {
                last = io::Error::new(error.kind(), format!("{address}: {error}"));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_within(address: &SocketAddr, time: Duration) -> io::Result<OwnedFd> {
    // Rounds to whole milliseconds for the message.
    let time = time.as_millis().try_into().map_or(ENOUGH, Duration::from_millis);
    let time = time.clamp(Duration::from_millis(1), ENOUGH);
    match TcpStream::connect_timeout(address, time) {
        Ok(stream) => Ok(stream.into()),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(timed_out("no answer", time)),
        Err(error) => Err(error),
    }
}

/// Looks up the addresses of a host in a thread, because the system's resolver has no timeout.
fn resolve(address: &str, timeout: Duration) -> io::Result<Vec<SocketAddr>> {
    let (found, result) = mpsc::channel();
    let host = address.to_string();
    thread::Builder::new().spawn(move || {
        let addresses = host.to_socket_addrs().map(Iterator::collect);
        // Fails if the wait has timed out.
        let _ = found.send(addresses);
    })?;
    match result.recv_timeout(timeout) {
        Ok(addresses) => addresses,
        Err(RecvTimeoutError::Timeout) => Err(timed_out("no address found for the host", timeout)),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the lookup failed")),
    }
}

/// Connects to a Unix socket. Its queue may be full.
pub fn unix(path: &Path, timeout: Option<Duration>) -> io::Result<OwnedFd> {
    let Some(timeout) = timeout else { return Ok(UnixStream::connect(path)?.into()) };
    match platform::connect_unix(path, timeout, ENOUGH) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(timed_out("the peer did not accept the connection", timeout))
        }
        connected => connected,
    }
}

/// Opens a FIFO for writing, and waits for a reader.
pub fn fifo(path: &Path, timeout: Option<Duration>) -> io::Result<File> {
    let Some(timeout) = timeout else { return File::options().write(true).open(path) };
    let start = Instant::now();
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    loop {
        match File::options().write(true).custom_flags(flags).open(path) {
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {}
            result => return result,
        }
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(timed_out("no reader opened it", timeout));
        }
        thread::sleep(left.min(RETRY));
    }
}

fn timed_out(what: &str, time: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} for {time:?}"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, listen, socket_with};

    use super::*;

    /// Returns an address that does not answer, and the socket that keeps it so.
    fn deaf() -> (SocketAddr, Vec<OwnedFd>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listen(&listener, 0).unwrap();
        let mut held = vec![OwnedFd::from(listener)];
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
            let _ = connect(&socket, &address);
            let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let is_deaf = poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&wait)) == Ok(0);
            held.push(socket);
            if is_deaf {
                return (address, held);
            }
        }
    }

    #[test]
    fn leaves_time_for_the_next_address() {
        let (deaf, _held) = deaf();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let live = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let timeout = Some(Duration::from_millis(300));
        for addresses in [&[live][..], &[closed, live], &[deaf, live], &[closed, deaf, live]] {
            assert!(first(addresses, timeout).is_ok(), "{addresses:?}");
        }
        assert!(first(&[closed, live], None).is_ok());
        let error = first(&[closed, deaf], Some(Duration::from_millis(200))).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(message.starts_with(&format!("{deaf}: no answer for ")), "{message}");
        let message = first(&[deaf, closed], timeout).unwrap_err().to_string();
        assert_eq!(message, format!("{closed}: Connection refused (os error 111)"));
        assert!(first(&[], timeout).is_err() && first(&[], None).is_err());
    }
}
