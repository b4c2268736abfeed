//! Peers of `dump --to`, which answer or not, reply, and end the connection in many ways. Exit code 0 means that the
//! peer has kept the dump.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::tool::{corestream, ok, signal, stderr, write_image};
use crate::waiting;

const PAGE: usize = 65_536;

/// Returns a directory with an image of dense pages.
fn directory(pages: usize) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    write_image(directory.path().join("guest.mem"), vec![1; pages * PAGE]);
    directory
}

fn dump(directory: &Path, args: &[&str]) -> Command {
    let mut command = corestream(directory, ["dump", "--memory", "guest.mem"]);
    command.args(args).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Waits for a dump that is expected to end.
fn end(mut child: Child) -> Output {
    waiting::exit(&mut child);
    child.wait_with_output().unwrap()
}

/// The peer's end of a connection.
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn shutdown_write(&self) {
        match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Write).unwrap(),
            Self::Unix(socket) => socket.shutdown(Shutdown::Write).unwrap(),
        }
    }

    /// Waits until the sender has closed its half, without reading anything.
    fn wait_for_end(&self) {
        let mut fd = [PollFd::from_borrowed_fd(self.as_fd(), PollFlags::RDHUP)];
        assert_eq!(poll(&mut fd, None), Ok(1));
    }

    fn read_all(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = match self {
            Self::Tcp(socket) => socket.read_to_end(&mut bytes),
            Self::Unix(socket) => socket.read_to_end(&mut bytes),
        };
        read.unwrap();
        bytes
    }

    /// Writes bytes. The sender may have gone.
    fn write(&mut self, bytes: &[u8]) {
        let _ = match self {
            Self::Tcp(socket) => socket.write_all(bytes),
            Self::Unix(socket) => socket.write_all(bytes),
        };
    }

    /// Closes the connection with a reset.
    fn reset(self) {
        set_socket_linger(&self, Some(Duration::ZERO)).unwrap();
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

/// Dumps to a peer. A connection that `peer` returns is closed only when the dump has ended. Returns the address, the
/// exit code and standard error.
fn dump_to(
    kind: &str,
    pages: usize,
    args: &[&str],
    peer: impl FnOnce(Socket) -> Option<Socket> + Send + 'static,
) -> (String, Option<i32>, String) {
    let directory = directory(pages);
    let (to, accept): (String, Box<dyn FnOnce() -> Socket + Send>) = if kind == "tcp" {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = format!("tcp:{}", listener.local_addr().unwrap());
        (to, Box::new(move || Socket::Tcp(listener.accept().unwrap().0)))
    } else {
        let listener = UnixListener::bind(directory.path().join("peer")).unwrap();
        ("unix:peer".into(), Box::new(move || Socket::Unix(listener.accept().unwrap().0)))
    };
    let (done, is_done) = mpsc::channel::<()>();
    let peer = thread::spawn(move || {
        let kept_open = peer(accept());
        // Until `done` is dropped.
        let _ = is_done.recv();
        drop(kept_open);
    });
    let child = dump(directory.path(), &["--to", &to]).args(args).spawn().unwrap();
    let output = end(child);
    drop(done);
    peer.join().unwrap();
    (to, output.status.code(), stderr(&output))
}

#[test]
fn the_reply_decides() {
    let long = "x".repeat(100_000);
    let cut = format!("did not keep the dump: {}", "x".repeat(512));
    for kind in ["tcp", "unix"] {
        for (reply, code, message) in [
            ("ok\n", 0, ""),
            ("ok\nand more", 0, ""),
            ("disk full\n", 1, "did not keep the dump: disk full"),
            ("OK\n", 1, "did not keep the dump: OK"),
            ("\n", 1, "did not keep the dump: it gave no reason"),
            (
                "\u{1b}]0;owned\u{7}\u{202e}\t\n",
                1,
                "did not keep the dump: \\u{1b}]0;owned\\u{7}\\u{202e}\\t",
            ),
            (long.as_str(), 1, cut.as_str()),
        ] {
            let bytes = reply.to_string();
            // The peer does not close the connection.
            let (to, found, line) = dump_to(kind, 1, &[], move |mut socket| {
                assert!(socket.read_all().len() > PAGE);
                socket.write(bytes.as_bytes());
                Some(socket)
            });
            let message = match message {
                "" => String::new(),
                message => format!("corestream: {to}: {message}\n"),
            };
            assert_eq!((found, line), (Some(code), message), "{kind}: {reply:?}");
        }
    }
}

/// Without a reply, the end of the connection decides. An ordinary end after the whole dump means that it was kept.
#[test]
fn the_end_of_a_connection_decides_without_a_reply() {
    for kind in ["tcp", "unix"] {
        let (_, code, message) = dump_to(kind, 1, &[], |mut socket| {
            socket.read_all();
            None
        });
        assert_eq!((code, message), (Some(0), String::new()), "{kind}");
        let timeout = ["--write-timeout", "0.1"];
        let (to, code, message) = dump_to(kind, 1, &timeout, |mut socket| {
            socket.read_all();
            Some(socket)
        });
        let expected = format!(
            "corestream: {to}: everything was sent, but the receiver neither replied nor closed the \
             connection for 100ms; it is unknown whether it kept the dump\n"
        );
        assert_eq!((code, message), (Some(1), expected));
        let (to, code, message) = dump_to(kind, 1, &timeout, |mut socket| {
            socket.read_all();
            socket.write(b"disk fu");
            Some(socket)
        });
        let expected = format!(
            "corestream: {to}: everything was sent, but the rest of the receiver's reply did not arrive for \
             100ms; it is unknown whether it kept the dump\n"
        );
        assert_eq!((code, message), (Some(1), expected));
        // A peer that closes the connection with unread bytes has not taken the dump.
        let (to, code, message) = dump_to(kind, 1, &[], |socket| {
            socket.wait_for_end();
            None
        });
        let broken =
            "stopped reading before the end of the dump: Connection reset by peer (os error 104)";
        assert_eq!((code, message), (Some(1), format!("corestream: {to}: {broken}\n")), "{kind}");
    }
    let (to, code, message) = dump_to("tcp", 1, &[], |mut socket| {
        socket.read_all();
        socket.reset();
        None
    });
    let broken =
        "stopped reading before the end of the dump: Connection reset by peer (os error 104)";
    assert_eq!((code, message), (Some(1), format!("corestream: {to}: {broken}\n")));
}

/// A connection that breaks after the whole dump is an error, whether the sender has closed its half by then or not.
#[test]
fn a_reset_after_everything_is_an_error() {
    let directory = directory(1);
    assert!(dump(directory.path(), &["-o", "expected"]).status().unwrap().success());
    let len = usize::try_from(directory.path().join("expected").metadata().unwrap().len()).unwrap();
    for kind in ["tcp", "unix"] {
        for delay in [0, 1, 2, 4, 10, 30] {
            let (to, code, message) = dump_to(kind, 1, &[], move |mut socket| {
                match &mut socket {
                    Socket::Tcp(socket) => socket.read_exact(&mut vec![0; len]).unwrap(),
                    // The unread byte breaks the connection.
                    Socket::Unix(socket) => socket.read_exact(&mut vec![0; len - 1]).unwrap(),
                }
                thread::sleep(Duration::from_millis(delay));
                socket.reset();
                None
            });
            let broken = format!("corestream: {to}: stopped reading before the end of the dump: ");
            assert!(
                code == Some(1) && message.starts_with(&broken),
                "{kind} {delay}: {code:?} {message}"
            );
        }
    }
}

/// A peer that closes its half before it has the whole dump may not have kept it, whatever it does afterwards.
#[test]
fn an_early_end_is_an_error() {
    let early = "closed its half of the connection without a reply before it had the whole dump; it is unknown \
                 whether it kept the dump";
    for kind in ["tcp", "unix"] {
        let (to, code, message) = dump_to(kind, 320, &[], |mut socket| {
            socket.shutdown_write();
            socket.read_all();
            None
        });
        assert_eq!((code, message), (Some(1), format!("corestream: {to}: {early}\n")), "{kind}");
    }
    // A small dump is then in the buffer of the socket, and so is the end of the sender's half.
    let (to, code, message) = dump_to("unix", 1, &[], |socket| {
        socket.wait_for_end();
        socket.shutdown_write();
        Some(socket)
    });
    assert_eq!((code, message), (Some(1), format!("corestream: {to}: {early}\n")));
}

/// The reason reaches the user even if the connection breaks in the middle of the dump.
#[test]
fn shows_a_refusal_in_the_middle() {
    for kind in ["tcp", "unix"] {
        let (to, code, message) = dump_to(kind, 640, &[], |mut socket| {
            match &mut socket {
                Socket::Tcp(socket) => socket.read_exact(&mut [0; 1000]).unwrap(),
                Socket::Unix(socket) => socket.read_exact(&mut [0; 1000]).unwrap(),
            }
            socket.write(b"too large\n");
            socket.reset();
            None
        });
        let expected = format!("corestream: {to}: did not keep the dump: too large\n");
        assert_eq!((code, message), (Some(1), expected));
    }
}

/// A peer that has replied need not read the rest or close the connection, however it sends its line.
#[test]
fn a_reply_in_the_middle_ends_the_dump() {
    let long = "x".repeat(100_000);
    let cut = "x".repeat(512);
    for kind in ["tcp", "unix"] {
        for (pieces, message) in [
            (vec!["disk full\n"], "disk full"),
            (vec!["disk ", "full\n"], "disk full"),
            (vec![long.as_str()], cut.as_str()),
            (vec!["ok\n"], "replied `ok` before the end of the dump"),
        ] {
            let pieces: Vec<String> = pieces.into_iter().map(Into::into).collect();
            let (to, code, line) = dump_to(kind, 640, &[], move |mut socket| {
                match &mut socket {
                    Socket::Tcp(socket) => socket.read_exact(&mut [0; 1000]).unwrap(),
                    Socket::Unix(socket) => socket.read_exact(&mut [0; 1000]).unwrap(),
                }
                for piece in pieces {
                    thread::sleep(Duration::from_millis(20));
                    socket.write(piece.as_bytes());
                }
                Some(socket)
            });
            let expected = format!("corestream: {to}: did not keep the dump: {message}\n");
            assert_eq!((code, line), (Some(1), expected), "{kind}");
        }
    }
}

#[test]
fn a_signal_during_the_wait_for_a_reply_claims_nothing() {
    let directory = directory(1);
    let listener = UnixListener::bind(directory.path().join("peer")).unwrap();
    let child = dump(directory.path(), &["--to", "unix:peer"]).spawn().unwrap();
    let mut peer = listener.accept().unwrap().0;
    peer.read_to_end(&mut Vec::new()).unwrap();
    signal(&child, Signal::TERM);
    let output = end(child);
    let message = "corestream: stopped by SIGTERM, everything was sent, but it is unknown whether the receiver kept the dump\n";
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(143), message));
}

/// A listener whose queue is full of connections that it does not accept.
struct Full {
    to: String,
    _listener: OwnedFd,
    _connected: Vec<OwnedFd>,
}

impl Full {
    fn unix(directory: &Path) -> Self {
        let address = SocketAddrUnix::new(directory.join("peer")).unwrap();
        let socket = |flags| socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let listener = socket(SocketFlags::CLOEXEC).unwrap();
        bind(&listener, &address).unwrap();
        listen(&listener, 0).unwrap();
        let mut connected = Vec::new();
        loop {
            let one = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).unwrap();
            let is_full = connect(&one, &address).is_err();
            connected.push(one);
            if is_full {
                return Self { to: "unix:peer".into(), _listener: listener, _connected: connected };
            }
        }
    }

    fn tcp() -> Self {
        let socket = |flags| socket_with(AddressFamily::INET, SocketType::STREAM, flags, None);
        let listener = socket(SocketFlags::CLOEXEC).unwrap();
        bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listen(&listener, 0).unwrap();
        let address: SocketAddr = rustix::net::getsockname(&listener).unwrap().try_into().unwrap();
        let mut connected = Vec::new();
        loop {
            let one = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).unwrap();
            let _ = connect(&one, &address);
            let mut fd = [PollFd::from_borrowed_fd(one.as_fd(), PollFlags::OUT)];
            let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let is_full = poll(&mut fd, Some(&wait)) == Ok(0);
            connected.push(one);
            if is_full {
                let to = format!("tcp:{address}");
                return Self { to, _listener: listener, _connected: connected };
            }
        }
    }
}

#[test]
fn the_timeout_covers_connecting() {
    let directory = directory(1);
    let (unix, tcp) = (Full::unix(directory.path()), Full::tcp());
    mknodat(CWD, directory.path().join("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .unwrap();
    let port = tcp.to.rsplit(':').next().unwrap();
    let host = format!("tcp:localhost:{port}");
    for (args, message) in [
        (
            ["--to", &unix.to],
            "unix:peer: cannot connect: the peer did not accept the connection for 100ms"
                .to_string(),
        ),
        (
            ["-o", "peer"],
            "peer: cannot connect: the peer did not accept the connection for 100ms".into(),
        ),
        (["--to", &tcp.to], format!("{}: cannot connect: no answer for 100ms", tcp.to)),
        (["--to", &host], format!("{host}: cannot connect: ")),
        (["-o", "fifo"], "fifo: cannot open: no reader opened it for 100ms".into()),
    ] {
        let child = dump(directory.path(), &args).args(["--write-timeout", "0.1"]).spawn().unwrap();
        let output = end(child);
        let found = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{found}");
        assert!(found.starts_with(&format!("corestream: {message}")), "{found}");
        assert_eq!(found.lines().count(), 1);
    }
    // Without a timeout, only a signal ends the wait.
    for args in [["--to", &unix.to], ["--to", &tcp.to], ["-o", "fifo"]] {
        let mut child = dump(directory.path(), &args).spawn().unwrap();
        waiting::wait_until(|| waiting::catches(&child, Signal::INT));
        thread::sleep(Duration::from_millis(100));
        assert!(child.try_wait().unwrap().is_none());
        signal(&child, Signal::INT);
        let output = end(child);
        assert_eq!(output.status.code(), Some(130));
        let message = "corestream: stopped by SIGINT, the output is incomplete\n";
        assert_eq!(stderr(&output), message);
    }
}

/// A late reader gets the whole dump.
#[test]
fn waits_for_a_late_reader() {
    let directory = directory(40);
    ok(directory.path(), ["dump", "--memory", "guest.mem", "-o", "expected"]);
    let expected = fs::read(directory.path().join("expected")).unwrap();
    let fifo = directory.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let child = dump(directory.path(), &["-o", "fifo", "--write-timeout", "60"]).spawn().unwrap();
    thread::sleep(Duration::from_millis(100));
    assert!(fs::read(&fifo).unwrap() == expected);
    assert!(end(child).status.success());

    let full = Full::unix(directory.path());
    let args = ["--to", &full.to, "--write-timeout", "60"];
    let child = dump(directory.path(), &args).spawn().unwrap();
    thread::sleep(Duration::from_millis(100));
    let listener = UnixListener::from(full._listener);
    let mut longest = Vec::new();
    drop(full._connected);
    while longest.is_empty() {
        listener.accept().unwrap().0.read_to_end(&mut longest).unwrap();
    }
    assert!(longest == expected);
    assert!(end(child).status.success());
}
