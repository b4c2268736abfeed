//! Standard error that nobody reads: no command waits for it for ever, and `receive` not at all.

use crate::{receiver, waiting};
use std::fs;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use receiver::{corestream, dump_of};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Pid, Signal, kill_process};

/// A pipe of one page, which is full if it is to be.
fn pipe(is_full: bool) -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let size = fcntl_setpipe_size(&writer, 4096).unwrap();
    if is_full {
        writer.write_all(&vec![b'-'; size]).unwrap();
    }
    (reader, writer)
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
}

/// Sends a dump, and checks that the receiver says that it has kept it.
fn send(address: &str, bytes: &[u8]) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket.write_all(bytes).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "ok\n");
}

#[test]
fn a_receiver_serves_on_and_says_how_many_lines_were_dropped() {
    const SENDERS: usize = 1500;
    let directory = tempfile::tempdir().unwrap();
    let (said, writer) = pipe(false);
    let flags = fcntl_getfl(&writer).unwrap();
    let shared = writer.try_clone().unwrap();
    // Long names, for long lines.
    let long = "x".repeat(200);
    let mut command = corestream(directory.path());
    command.args(["receive", "tcp:127.0.0.1:0", "-o", &long]);
    let mut child = command.stdout(Stdio::piped()).stderr(writer).spawn().unwrap();
    drop(command);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening on tcp:").unwrap().to_string();
    let bytes = dump_of("guest", 0, 1);
    for _ in 0..SENDERS {
        send(&address, &bytes);
    }
    // Others have this end of the pipe too.
    assert_eq!(fcntl_getfl(&shared).unwrap(), flags);
    assert!(!flags.contains(OFlags::NONBLOCK));
    drop(shared);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), SENDERS);

    let mut lines = BufReader::new(said).lines().map(Result::unwrap);
    let (mut whole, mut dropped) = (0, 0);
    while whole + dropped < SENDERS {
        let line = lines.next().unwrap();
        if line.ends_with(", intact, all checksums match") {
            whole += 1;
            continue;
        }
        let rest = line.strip_prefix("corestream: ").expect(&line);
        let end = " dropped here because standard error was not read";
        let count = rest.strip_suffix(end).expect(&line).split(' ').next().unwrap();
        dropped += count.parse::<usize>().unwrap();
    }
    assert!(whole > 100 && dropped > 100 && whole + dropped == SENDERS, "{whole} {dropped}");
    // From now on no line is missing.
    send(&address, &bytes);
    assert!(lines.next().unwrap().contains(", intact"));
    signal(&child, Signal::TERM);
    assert_eq!(lines.next().unwrap(), "corestream: receive: stopped by SIGTERM");
    assert_eq!(waiting::exit(&mut child).code(), Some(143));
}

/// Also one whose standard output takes nothing serves, and both end by a signal.
#[test]
fn a_receiver_ends_by_a_signal_though_its_streams_are_not_read() {
    let bytes = dump_of("guest", 0, 1);
    for (number, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let directory = tempfile::tempdir().unwrap();
        let ((_out, stdout), (_err, stderr)) = (pipe(true), pipe(true));
        let mut command = corestream(directory.path());
        command.args(["receive", "unix:socket", "-o", "%n", "--max-senders", "2"]);
        let mut child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
        let socket = directory.path().join("socket");
        for _ in 0..10 {
            // The socket has its name before it listens.
            let mut connected = None;
            waiting::wait_until(|| {
                connected = UnixStream::connect(&socket).ok();
                connected.is_some()
            });
            let mut socket = connected.unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            socket.write_all(&bytes).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            let mut reply = String::new();
            socket.read_to_string(&mut reply).unwrap();
            assert_eq!(reply, "ok\n");
        }
        signal(&child, number);
        assert_eq!(waiting::exit(&mut child).code(), Some(code));
        assert!(!socket.exists());
    }
}

/// What a dump has to say does not keep it from its end.
#[test]
fn a_dump_ends_though_standard_error_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("guest.mem"), vec![1; 3 << 16]).unwrap();
    let (mut said, writer) = pipe(true);
    let mut command = corestream(directory.path());
    command.args(["dump", "--memory", "guest.mem", "-o", "core", "--exclude", "0:0..65536"]);
    command.args(["--progress", "always", "--stats", "text"]);
    let mut child = command.stderr(writer).spawn().unwrap();
    drop(command);
    assert_eq!(waiting::exit(&mut child).code(), Some(0));
    assert!(corestream::CoreDumpFile::open(directory.path().join("core")).is_ok());
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(rest.bytes().all(|byte| byte == b'-'), "{rest}");

    // A failure has its exit code, and a reader that comes late its message.
    let (mut said, writer) = pipe(true);
    let mut command = corestream(directory.path());
    command.args(["dump", "--memory", "guest.mem", "-o", "core"]);
    let mut child = command.stderr(writer).spawn().unwrap();
    drop(command);
    thread::sleep(Duration::from_millis(300));
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    let expected = "corestream: core: exists; use --force to overwrite it\n";
    assert_eq!(rest.trim_start_matches('-'), expected);
    assert_eq!(waiting::exit(&mut child).code(), Some(1));
}
