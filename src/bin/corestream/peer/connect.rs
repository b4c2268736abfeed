//! Opens what a dump goes to and may have to be waited for: connections, and FIFOs without a reader. A
//! timeout covers all of it; without one the wait has no limit, and a signal ends the process.

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

/// How often to try again to open a FIFO: no event says that a reader has come.
const RETRY: Duration = Duration::from_millis(10);

/// The longest that a first address may hold up the others where nothing else limits it.
const ENOUGH: Duration = Duration::from_secs(u32::MAX as u64);

/// Connects by TCP to the first address of `HOST:PORT` that answers. Each address may take an equal share of
/// the time that is left, so that one that does not answer leaves some for the next.
pub fn tcp(address: &str, timeout: Option<Duration>) -> io::Result<OwnedFd> {
    let start = Instant::now();
    let addresses = resolve(address, timeout)?;
    let several = addresses.len() > 1;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (i, address) in addresses.iter().enumerate() {
        let connected = match timeout {
            None => TcpStream::connect(address),
            Some(timeout) => {
                let left = timeout.saturating_sub(start.elapsed()).min(ENOUGH);
                let share = u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
                let share = (left / share).max(Duration::from_millis(1));
                TcpStream::connect_timeout(address, share).map_err(|error| match error.kind() {
                    io::ErrorKind::TimedOut => timed_out("no answer", share),
                    _ => error,
                })
            }
        };
        match connected {
            Ok(stream) => return Ok(stream.into()),
            Err(error) if several => {
                last = io::Error::new(error.kind(), format!("{address}: {error}"));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Looks up the addresses of a host, in a thread where there is a limit: the system's resolver has none.
fn resolve(address: &str, timeout: Option<Duration>) -> io::Result<Vec<SocketAddr>> {
    let Some(timeout) = timeout else { return Ok(address.to_socket_addrs()?.collect()) };
    // Nothing is asked for an address in numbers.
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let (found, result) = mpsc::channel();
    let host = address.to_string();
    thread::Builder::new().spawn(move || {
        let addresses = host.to_socket_addrs().map(Iterator::collect);
        // Nobody waits any more when it took too long.
        let _ = found.send(addresses);
    })?;
    match result.recv_timeout(timeout) {
        Ok(addresses) => addresses,
        Err(RecvTimeoutError::Timeout) => {
            Err(timed_out("the host's address was not found", timeout))
        }
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the look-up has failed")),
    }
}

/// Connects to a Unix socket, whose queue may be full.
#[cfg(target_os = "linux")]
pub fn unix(path: &Path, timeout: Option<Duration>) -> io::Result<OwnedFd> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    };

    let Some(timeout) = timeout else { return Ok(UnixStream::connect(path)?.into()) };
    let start = Instant::now();
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    loop {
        // A connect waits as long as this, see unix(7); one that does not block would not wait at all.
        let left = timeout.saturating_sub(start.elapsed()).min(ENOUGH);
        let left = left.max(Duration::from_millis(1));
        set_socket_timeout(&socket, Timeout::Send, Some(left))?;
        match connect(&socket, &address) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if start.elapsed() < timeout => {}
            Err(Errno::AGAIN) => return Err(timed_out("it took no connection", timeout)),
            Err(errno) => return Err(errno.into()),
        }
    }
    // The writes have their own way to wait.
    set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(socket)
}

#[cfg(not(target_os = "linux"))]
pub fn unix(path: &Path, _: Option<Duration>) -> io::Result<OwnedFd> {
    Ok(UnixStream::connect(path)?.into())
}

/// Opens a FIFO for writing, which waits for a reader.
pub fn fifo(path: &Path, timeout: Option<Duration>) -> io::Result<File> {
    let Some(timeout) = timeout else { return File::options().write(true).open(path) };
    let start = Instant::now();
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    loop {
        match File::options().write(true).custom_flags(flags).open(path) {
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {}
            result => return result,
        }
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(timed_out("nobody opened it for reading", timeout));
        }
        thread::sleep(left.min(RETRY));
    }
}

fn timed_out(what: &str, time: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} for {time:?}"))
}
