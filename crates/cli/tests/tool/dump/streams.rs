//! Dumps to sockets and inherited descriptors, whose readers are slow, stall or go away.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::{self, decode};
use crate::terminal::Terminal;
use crate::tool::{self, signal, stderr, tool_path, write_image};

const MIB: usize = 1 << 20;

/// Returns a directory with `guest.mem` of 12 MiB, and the bytes of its dump.
fn directory() -> (TempDir, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let mut random = common::Random(7);
    let mut image: Vec<u8> =
        (0..12 * MIB / 8).flat_map(|_| (random.next() | 1).to_le_bytes()).collect();
    image.chunks_mut(70_000).for_each(|part| part[..300].fill(0));
    write_image(directory.path().join("guest.mem"), &image);
    let output = corestream(directory.path(), &["-o", "expected"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let expected = fs::read(directory.path().join("expected")).unwrap();
    assert!(decode(&expected).contents(0, image.len()) == image);
    (directory, expected)
}

fn corestream(directory: &Path, args: &[&str]) -> Command {
    let mut command = tool::corestream(directory, ["dump", "--memory", "guest.mem"]);
    command.args(args).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Returns the command for a dump to descriptor 7, which is `fd`.
fn with_descriptor_7(directory: &Path, fd: impl Into<Stdio>, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.current_dir(directory).args(["-c", "exec 7>&1; exec >&2; exec \"$@\"", "sh"]);
    command.arg(tool_path());
    command.args(["dump", "--memory", "guest.mem", "--fd", "7"]).args(args);
    command.stdin(Stdio::null()).stdout(fd).stderr(Stdio::piped());
    command
}

fn reading(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

fn set_non_blocking(fd: &OwnedFd) {
    fcntl_setfl(fd, fcntl_getfl(fd).unwrap() | OFlags::NONBLOCK).unwrap();
}

#[track_caller]
fn check_success(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn dumps_to_a_tcp_peer() {
    let (directory, expected) = directory();
    for host in ["127.0.0.1", "localhost"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = format!("tcp:{host}:{}", listener.local_addr().unwrap().port());
        let peer = thread::spawn(move || reading(listener.accept().unwrap().0).join().unwrap());
        check_success(corestream(directory.path(), &["--to", &to, "--write-timeout", "60"]));
        assert!(peer.join().unwrap() == expected);
    }
}

#[test]
fn dumps_to_a_unix_peer() {
    let (directory, expected) = directory();
    let listener = UnixListener::bind(directory.path().join("peer")).unwrap();
    for args in [&["--to", "unix:peer"][..], &["-o", "peer"], &["--to=unix:./peer", "--sync"]] {
        let listener = listener.try_clone().unwrap();
        let peer = thread::spawn(move || reading(listener.accept().unwrap().0).join().unwrap());
        check_success(corestream(directory.path(), args));
        assert!(peer.join().unwrap() == expected, "{args:?}");
    }
}

#[test]
fn dumps_to_an_inherited_descriptor() {
    let (directory, expected) = directory();
    for wait in [true, false] {
        let (reader, writer) = std::io::pipe().unwrap();
        let (end, socket) = UnixStream::pair().unwrap();
        let ends: [(Box<dyn Read + Send>, OwnedFd); 2] =
            [(Box::new(reader), writer.into()), (Box::new(end), socket.into())];
        for (reader, writer) in ends {
            if !wait {
                set_non_blocking(&writer);
            }
            let reader = reading(reader);
            check_success(with_descriptor_7(directory.path(), writer, &[]));
            assert!(reader.join().unwrap() == expected, "blocking: {wait}");
        }
    }
    // A file is written from its position on.
    let path = directory.path().join("out");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"kept").unwrap();
    check_success(with_descriptor_7(directory.path(), file, &["--sync"]));
    let bytes = fs::read(&path).unwrap();
    assert!(bytes[..4] == *b"kept" && bytes[4..] == expected);
}

/// A parent process can leave standard output in non-blocking mode. The reader is slow.
#[test]
fn dumps_to_non_blocking_standard_output() {
    let (directory, expected) = directory();
    for args in [&["-o", "-"][..], &["-o", "/dev/stdout"], &["--fd", "1"]] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        set_non_blocking(&writer);
        let slow = thread::spawn(move || {
            let (mut bytes, mut buffer) = (Vec::<u8>::new(), vec![0; MIB]);
            loop {
                thread::sleep(Duration::from_millis(2));
                match reader.read(&mut buffer).unwrap() {
                    0 => return bytes,
                    n => bytes.extend(&buffer[..n]),
                }
            }
        });
        let mut command = corestream(directory.path(), args);
        command.stdout(writer);
        check_success(command);
        assert!(slow.join().unwrap() == expected);
    }
}

/// Returns both ends of a pipe or a socket.
fn stalling(kind: &str) -> (Box<dyn Read>, OwnedFd) {
    if kind == "pipe" {
        let (reader, writer) = std::io::pipe().unwrap();
        (Box::new(reader), writer.into())
    } else {
        let (reader, writer) = UnixStream::pair().unwrap();
        (Box::new(reader), writer.into())
    }
}

/// Returns the number of written bytes from a message.
fn written(line: &str, name: &str, planned: usize) -> usize {
    let rest = line.strip_prefix(&format!("corestream: {name}: ")).expect(line);
    let message = format!(" of {planned} bytes written: the reader took no bytes for 100ms\n");
    rest.strip_suffix(&message).expect(line).parse().unwrap()
}

#[test]
fn reports_a_reader_that_stalls() {
    let (directory, expected) = directory();
    for kind in ["pipe", "unix"] {
        for wait in [true, false] {
            let (mut reader, writer) = stalling(kind);
            if !wait {
                set_non_blocking(&writer);
            }
            let mut command =
                with_descriptor_7(directory.path(), writer, &["--write-timeout", "0.1"]);
            let output = command.output().unwrap();
            drop(command);
            assert_eq!(output.status.code(), Some(1));
            let written = written(&stderr(&output), "descriptor 7", expected.len());
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            assert!(written < expected.len() && bytes == expected[..written], "{kind}, {wait}");
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // A dump that is larger than the buffers of both ends.
    let image = File::create(directory.path().join("large.mem")).unwrap();
    image.write_all_at(b"x", 0).unwrap();
    image.write_all_at(b"x", (64 * MIB - 1) as u64).unwrap();
    let to = format!("tcp:{}", listener.local_addr().unwrap());
    let args = ["--memory", "large.mem", "--max-segments", "1", "--to", &to];
    let mut command = corestream(directory.path(), &args);
    let output = command.args(["--write-timeout", "0.1"]).output().unwrap();
    let message = stderr(&output);
    assert_eq!((output.status.code(), message.lines().count()), (Some(1), 1), "{message}");
    assert!(message.starts_with(&format!("corestream: {to}: ")), "{message}");
    assert!(message.ends_with(" bytes written: the reader took no bytes for 100ms\n"), "{message}");
}

#[test]
fn reports_a_reader_that_goes_away() {
    let (directory, expected) = directory();
    for kind in ["pipe", "unix"] {
        let (mut reader, writer) = stalling(kind);
        let mut command = with_descriptor_7(directory.path(), writer, &[]);
        let child = command.spawn().unwrap();
        drop(command);
        reader.read_exact(&mut [0; 70_000]).unwrap();
        drop(reader);
        let output = child.wait_with_output().unwrap();
        let message = stderr(&output);
        assert_eq!((output.status.code(), message.lines().count()), (Some(1), 1), "{message}");
        let end = format!(" of {} bytes written: ", expected.len());
        assert!(
            message.starts_with("corestream: descriptor 7: ") && message.contains(&end),
            "{message}"
        );
    }
}

/// Stops a dump, which must print one line.
fn check_stop(child: Child, number: Signal, code: i32) {
    signal(&child, number);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).lines().count()), (Some(code), 1));
}

/// The write blocks in the kernel, or the tool waits for a non-blocking descriptor.
#[test]
fn a_signal_ends_a_dump_to_a_reader_that_stalls() {
    let (directory, _) = directory();
    for wait in [true, false] {
        for kind in ["pipe", "unix"] {
            for (number, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
                let (mut reader, writer) = stalling(kind);
                if !wait {
                    set_non_blocking(&writer);
                }
                let mut command =
                    corestream(directory.path(), &["-o", "-", "--write-timeout", "600"]);
                let child = command.stdout(writer).spawn().unwrap();
                reader.read_exact(&mut [0]).unwrap();
                check_stop(child, number, code);
            }
        }
    }
    let listener = UnixListener::bind(directory.path().join("peer")).unwrap();
    let child = corestream(directory.path(), &["--to", "unix:peer"]).spawn().unwrap();
    let mut peer = listener.accept().unwrap().0;
    peer.read_exact(&mut [0]).unwrap();
    check_stop(child, Signal::TERM, 143);
}

#[test]
fn reports_usage_errors_in_one_line() {
    let (directory, _) = directory();
    let dir = directory.path();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let to_nobody = format!("tcp:{nobody}");
    let refused = format!("{to_nobody}: cannot connect: Connection refused (os error 111)");
    let see = "; see --help";
    for (args, code, expected) in [
        (vec!["--to", &to_nobody], 1, refused.as_str()),
        (
            vec!["--to", "unix:none"],
            1,
            "unix:none: cannot connect: No such file or directory (os error 2)",
        ),
        (vec!["--fd", "99"], 1, "descriptor 99: is not open: Bad file descriptor (os error 9)"),
        (vec!["--fd", "0"], 1, "descriptor 0: is not open for writing"),
        (
            vec!["--to", "udp:a:1"],
            2,
            "invalid value 'udp:a:1' for '--to <PEER>': must be tcp:HOST:PORT or unix:PATH",
        ),
        (
            vec!["--to", "tcp:localhost"],
            2,
            "invalid value 'tcp:localhost' for '--to <PEER>': expected a host and a port, such as \
             tcp:127.0.0.1:4000",
        ),
        (
            vec!["-o", "new", "--write-timeout", "0"],
            2,
            "invalid value '0' for '--write-timeout <S>': expected a number of seconds from 1e-9 to 1.8e19",
        ),
        (
            vec!["-o", "new", "--fd", "1"],
            2,
            "the argument '--output <PATH>' cannot be used with '--fd <N>'",
        ),
        (
            vec!["-o", "new", "--to", "unix:new"],
            2,
            "the argument '--output <PATH>' cannot be used with '--to <PEER>'",
        ),
        (
            vec!["--fd", "1", "--to", "unix:new"],
            2,
            "the argument '--fd <N>' cannot be used with '--to <PEER>'",
        ),
    ] {
        let output = corestream(dir, &args).output().unwrap();
        let see = if code == 2 { see } else { "" };
        assert_eq!(stderr(&output), format!("corestream: {expected}{see}\n"), "{args:?}");
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(!dir.join("new").exists());
    }
    // A dry run does not connect to the peer.
    check_success(corestream(dir, &["--to", &to_nobody, "--dry-run"]));
}

#[test]
fn writes_to_a_terminal_as_a_descriptor_only_with_force() {
    let (directory, _) = directory();
    write_image(directory.path().join("guest.mem"), vec![1; 65_536]);
    let terminal = Terminal::new();
    let output = with_descriptor_7(directory.path(), terminal.open(), &[]).output().unwrap();
    let message = "corestream: descriptor 7: is a terminal, and the output is binary; redirect it, name a \
                file with -o, or use --force\n";
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(2), message));
    // Otherwise the terminal ends when the first dump closes it.
    let _open = terminal.open();
    let mut reader = terminal.screen.try_clone().unwrap();
    thread::spawn(move || while reader.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {});
    for args in [&["--force"][..], &["--force", "--write-timeout", "60"]] {
        check_success(with_descriptor_7(directory.path(), terminal.open(), args));
    }
}
