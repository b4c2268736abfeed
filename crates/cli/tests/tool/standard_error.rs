//! Standard error that is not read: no command waits for it for ever, and `receive` does not wait at all.

use std::fs;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use corestream::CoreDumpFile;
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::Signal;

use crate::receiver::dump_of;
use crate::tool::{corestream, signal, write_image};
use crate::waiting;

/// Returns a pipe of one page, which may be full.
fn pipe(is_full: bool) -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let size = fcntl_setpipe_size(&writer, 4096).unwrap();
    if is_full {
        writer.write_all(&vec![b'-'; size]).unwrap();
    }
    (reader, writer)
}

/// Sends a dump, and checks that the receiver replies that it has kept it.
fn send(address: &str, bytes: &[u8]) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket.write_all(bytes).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "ok\n");
}

/// The lines fill a queue of 256 KiB and the pipe before any is dropped.
#[test]
fn a_receiver_serves_on_and_reports_how_many_lines_were_dropped() {
    const SENDERS: usize = 450;
    let directory = tempfile::tempdir().unwrap();
    let (message, writer) = pipe(false);
    let flags = fcntl_getfl(&writer).unwrap();
    let shared = writer.try_clone().unwrap();
    // A long path makes long lines.
    let part = "x".repeat(200);
    let long = [&part[..]; 4].join("/");
    let dumps = directory.path().join([&part[..]; 3].join("/"));
    fs::create_dir_all(&dumps).unwrap();
    let mut command = corestream(directory.path(), ["receive", "tcp:127.0.0.1:0", "-o", &long]);
    let mut child = command.stdout(Stdio::piped()).stderr(writer).spawn().unwrap();
    drop(command);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening on tcp:").unwrap().to_string();
    let bytes = dump_of("guest", 0, 1);
    for _ in 0..SENDERS {
        send(&address, &bytes);
    }
    // Other processes share this end of the pipe, so its flags must not change.
    assert_eq!(fcntl_getfl(&shared).unwrap(), flags);
    assert!(!flags.contains(OFlags::NONBLOCK));
    drop(shared);
    assert_eq!(fs::read_dir(dumps).unwrap().count(), SENDERS);

    let mut lines = BufReader::new(message).lines().map(Result::unwrap);
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
    assert!(whole > 100 && dropped > 0 && whole + dropped == SENDERS, "{whole} {dropped}");
    // From now on no line is missing.
    send(&address, &bytes);
    assert!(lines.next().unwrap().ends_with(", intact, all checksums match"));
    signal(&child, Signal::TERM);
    assert_eq!(lines.next().unwrap(), "corestream: receive: stopped by SIGTERM");
    assert_eq!(waiting::exit(&mut child).code(), Some(143));
}

/// Neither of its streams takes anything. It serves all the same, and a signal ends it.
#[test]
fn a_signal_ends_a_receiver_whose_streams_are_not_read() {
    let bytes = dump_of("guest", 0, 1);
    let check = |number, code| {
        let directory = tempfile::tempdir().unwrap();
        let ((_out, stdout), (_err, stderr)) = (pipe(true), pipe(true));
        let args = ["receive", "unix:socket", "-o", "%n", "--max-senders", "2"];
        let mut command = corestream(directory.path(), args);
        let mut child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
        let socket = directory.path().join("socket");
        for _ in 0..10 {
            // The socket has its name before it accepts connections.
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
    };
    // At the same time, because they mostly wait.
    thread::scope(|scope| {
        for (number, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
            scope.spawn(move || check(number, code));
        }
    });
}

/// It waits for standard error at its end, for some seconds.
#[test]
#[ignore = "slow: 6 s"]
fn a_dump_ends_although_standard_error_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    write_image(directory.path().join("guest.mem"), vec![1; 3 << 16]);
    let (mut message, writer) = pipe(true);
    let args = ["dump", "--memory", "guest.mem", "-o", "core", "--exclude", "0:0..65536"];
    let mut command = corestream(directory.path(), args);
    command.args(["--progress", "always", "--stats", "text"]);
    let mut child = command.stderr(writer).spawn().unwrap();
    drop(command);
    assert_eq!(waiting::exit(&mut child).code(), Some(0));
    assert!(CoreDumpFile::open(directory.path().join("core")).is_ok());
    let mut rest = String::new();
    message.read_to_string(&mut rest).unwrap();
    assert!(rest.bytes().all(|byte| byte == b'-'), "{rest}");
}

/// A failed dump waits for a late reader of its message.
#[test]
fn a_late_reader_gets_the_message_of_a_failed_dump() {
    let directory = tempfile::tempdir().unwrap();
    write_image(directory.path().join("guest.mem"), vec![1; 3 << 16]);
    fs::write(directory.path().join("core"), "old").unwrap();
    let (mut message, writer) = pipe(true);
    let args = ["dump", "--memory", "guest.mem", "-o", "core"];
    let mut command = corestream(directory.path(), args);
    let mut child = command.stderr(writer).spawn().unwrap();
    drop(command);
    thread::sleep(Duration::from_millis(300));
    let mut rest = String::new();
    message.read_to_string(&mut rest).unwrap();
    let expected = "corestream: core: exists; use --force to overwrite it\n";
    assert_eq!(rest.trim_start_matches('-'), expected);
    assert_eq!(waiting::exit(&mut child).code(), Some(1));
}
