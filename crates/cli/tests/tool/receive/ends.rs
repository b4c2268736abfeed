//! How a connection to a receiver ends: with all of a dump, with a part of it, with nothing, or by a signal.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use crate::common::own;
use crate::receiver::{MIB, Receiver, dump_of, read};
use crate::tool::{NO_ARGS, names, run, shell, stderr, write_image};
use crate::waiting::{self, wait_until};

/// Returns what a receiver replies, and how it ends the connection. Senders that do not read replies, such as those of
/// older versions, take an ordinary end for "kept", and an error for "not kept".
fn reply(socket: &mut impl Read) -> (String, Result<(), ErrorKind>) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 100]);
    let end = loop {
        match socket.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(n) => bytes.extend(&buffer[..n]),
            Err(error) => break Err(error.kind()),
        }
    };
    (String::from_utf8(bytes).unwrap(), end)
}

/// A sender may stay connected after all of its dump. The receiver does not wait for it, and loses nothing.
#[test]
fn names_a_complete_dump_whose_sender_stays() {
    let directory = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::tcp(directory.path(), &["-o", "%n", "--timeout", "3600"]);
    let bytes = dump_of("stays", 3, 1);
    let mut socket = receiver.connect();
    socket.write_all(&bytes).unwrap();
    wait_until(|| directory.path().join("stays").exists());
    assert!(receiver.line().starts_with("stays: "));
    assert!(read(directory.path(), "stays") == bytes);
    // When the receiver closes the connection, the dump has its name.
    let mut socket = receiver.connect();
    socket.write_all(&bytes).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(reply(&mut socket), ("ok\n".into(), Ok(())));
    assert!(read(directory.path(), "stays.1") == bytes);
    assert!(receiver.line().starts_with("stays.1: "));
    receiver.stop();
}

#[test]
fn keeps_partial_dumps_only_with_the_option() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = dump_of("guest", 64, 1);
    let half = &bytes[..bytes.len() / 2];
    let mut flipped = bytes.clone();
    flipped[MIB * 3] ^= 1;
    let mut receiver = Receiver::tcp(directory.path(), &["-o", "%n.core", "--keep-partial"]);
    for (sent, kept) in [(half, "guest.core.partial"), (&flipped, "guest.core.1.partial")] {
        receiver.send(sent);
        let line = receiver.line();
        assert!(line.ends_with(&format!("; kept as {kept}")), "{line}");
        assert!(read(directory.path(), kept) == sent);
        let metadata = directory.path().join(kept).metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        // The room that was reserved for the rest is free again.
        assert!(metadata.blocks() * 512 <= sent.len() as u64 + 65_536, "{metadata:?}");
    }
    // Bytes that are not a dump are not kept, and neither is a dump that is refused.
    receiver.send(b"nothing of the kind");
    assert!(receiver.line().starts_with("PEER: not a core dump"));
    receiver.send(&own::without(&bytes));
    assert!(receiver.line().contains("comes from another tool"));
    // The partial dump of a sender that a signal interrupts may be kept or not.
    let mut socket = receiver.connect();
    socket.write_all(half).unwrap();
    receiver.wait_for_connections(1);
    receiver.signal(Signal::INT);
    let (code, message) = receiver.end();
    assert_eq!(code, Some(130));
    assert!(message.contains("PEER: dropped after "), "{message}");
    let all = names(directory.path());
    assert!(all.len() <= 3 && all.iter().all(|name| name.ends_with(".partial")), "{all:?}");
}

#[test]
fn accepts_a_dump_of_exactly_the_maximum_size() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = dump_of("guest", 1, 1);
    for (max, code) in [(bytes.len(), 0), (bytes.len() - 1, 1)] {
        let max = max.to_string();
        let receiver = Receiver::tcp(directory.path(), &["-o", "%n", "--once", "--max-size", &max]);
        receiver.send(&bytes);
        let (found, line) = receiver.end();
        assert_eq!(found, Some(code), "{line}");
    }
    assert!(read(directory.path(), "guest") == bytes);
    assert_eq!(names(directory.path()), ["guest"]);
}

#[test]
fn once_exits_by_the_verdict_on_the_dump() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = dump_of("guest", 32, 1);
    let foreign = own::without(&bytes);
    for (sent, args, code, message) in [
        (&bytes[..], &[][..], 0, "guest: 2101377 bytes from PEER, intact, all checksums match"),
        (&bytes[..MIB], &[], 3, "PEER: truncated: 1048576 of 2101377 bytes"),
        (b"guest", &[], 3, "PEER: not a core dump: it is not a WebAssembly module"),
        (
            &bytes,
            &["--max-size", "2000000"],
            1,
            "PEER: has 2101377 bytes, which exceeds --max-size (2000000 bytes)",
        ),
        (
            &foreign,
            &[],
            1,
            "PEER: comes from another tool, so a truncated dump could look intact; --any-tool accepts \
             such dumps",
        ),
        (
            &foreign,
            &["--any-tool"],
            0,
            "guest.1: 2097210 bytes from PEER, intact, by another tool: only its structure can be checked",
        ),
    ] {
        let args = [&["-o", "%n", "--once"], args].concat();
        let receiver = Receiver::tcp(directory.path(), &args);
        receiver.send(sent);
        let (found, line) = receiver.end();
        let line = line.strip_prefix("corestream: receive: ").expect(&line).trim_end();
        let message = message.replace("2101377", &bytes.len().to_string());
        let message = message.replace("2097210", &foreign.len().to_string());
        assert_eq!((found, line), (Some(code), message.as_str()), "{args:?}");
    }
    assert_eq!(names(directory.path()), ["guest", "guest.1"]);
    let receiver = Receiver::tcp(directory.path(), &["-o", "%n", "--once"]);
    receiver.stop();
}

#[test]
fn a_signal_drops_incomplete_dumps_and_leaves_nothing() {
    let bytes = dump_of("guest", 64, 1);
    let half = &bytes[..bytes.len() / 2];
    for (signal, name, code) in waiting::stop_signals() {
        let directory = tempfile::tempdir().unwrap();
        let args = ["-o", "%n.core", "--max-senders", "2"];
        let mut receiver = Receiver::start(directory.path(), "unix:socket", &args);
        let connect = || UnixStream::connect(directory.path().join("socket")).unwrap();
        let mut sockets = [connect(), connect(), connect()];
        // The third sender waits for a place.
        for socket in &mut sockets[..2] {
            socket.write_all(half).unwrap();
        }
        receiver.wait_for_connections(2);
        receiver.signal(signal);
        for line in receiver.lines(2) {
            assert!(line.starts_with("unix:socket: dropped after "), "{line}");
        }
        let message = format!("corestream: receive: stopped by {name}\n");
        assert_eq!(receiver.end(), (Some(code), message));
        assert!(names(directory.path()).is_empty(), "{:?}", names(directory.path()));
    }
}

/// The kernel ends the connections of a killed process. That must not look as if the dump were kept, even if the
/// receiver has read all of the dump and only the end of the sender's half is missing.
#[test]
fn a_killed_receiver_breaks_the_connection() {
    let bytes = dump_of("guest", 2, 1);
    let part = &bytes[..bytes.len() - 1];
    let directory = tempfile::tempdir().unwrap();
    let kill = |receiver: Receiver, before: usize, end: &dyn Fn()| {
        wait_until(|| receiver.bytes_read() >= before + part.len());
        receiver.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", receiver.child.id());
        wait_until(|| fs::read_to_string(&stat).unwrap().contains(") T "));
        end();
        receiver.signal(Signal::KILL);
        assert_eq!(receiver.end(), (None, String::new()));
        assert!(!directory.path().join("guest").exists());
    };
    let receiver = Receiver::tcp(directory.path(), &["-o", "%n"]);
    let before = receiver.bytes_read();
    let mut socket = receiver.connect();
    socket.write_all(part).unwrap();
    kill(receiver, before, &|| socket.shutdown(Shutdown::Write).unwrap());
    assert_eq!(reply(&mut socket), (String::new(), Err(ErrorKind::ConnectionReset)));

    // From a Unix socket, the receiver reads the last byte only when the dump has its name.
    let receiver = Receiver::start(directory.path(), "unix:socket", &["-o", "%n"]);
    let before = receiver.bytes_read();
    let mut socket = UnixStream::connect(directory.path().join("socket")).unwrap();
    socket.write_all(&bytes).unwrap();
    kill(receiver, before, &|| {});
    assert_eq!(reply(&mut socket), (String::new(), Err(ErrorKind::ConnectionReset)));
}

#[test]
fn a_signal_does_not_drop_a_complete_dump() {
    let directory = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::tcp(directory.path(), &["-o", "%n"]);
    let bytes = dump_of("stays", 3, 1);
    let before = receiver.bytes_read();
    let mut socket = receiver.connect();
    socket.write_all(&bytes).unwrap();
    wait_until(|| receiver.bytes_read() >= before + bytes.len());
    receiver.signal(Signal::TERM);
    assert!(receiver.line().starts_with("stays: "));
    assert_eq!(receiver.end().0, Some(143));
    assert!(read(directory.path(), "stays") == bytes);
}

/// With `--once`, a port check does not count as the one sender.
#[test]
fn once_waits_for_a_sender_that_sends() {
    let directory = tempfile::tempdir().unwrap();
    let args = ["-o", "%n", "--once", "--timeout", "0.2"];
    let mut receiver = Receiver::tcp(directory.path(), &args);
    drop(receiver.connect());
    assert_eq!(receiver.line(), "PEER: has sent nothing");
    let mut silent = receiver.connect();
    assert_eq!(receiver.line(), "PEER: truncated: 0 bytes: no bytes arrived for 200ms");
    let reason = "truncated: 0 bytes: no bytes arrived for 200ms\n".to_string();
    assert_eq!(reply(&mut silent), (reason, Err(ErrorKind::ConnectionReset)));
    let bytes = dump_of("guest", 1, 1);
    receiver.send(&bytes);
    let (code, message) = receiver.end();
    assert_eq!(code, Some(0), "{message}");
    assert!(read(directory.path(), "guest") == bytes);
    // A signal ends the wait.
    let mut receiver = Receiver::tcp(directory.path(), &args);
    drop(receiver.connect());
    assert_eq!(receiver.line(), "PEER: has sent nothing");
    receiver.stop();
}

/// A dump with a damaged section can only be dropped, so the receiver does not wait for the rest.
#[test]
fn drops_a_damaged_dump_before_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = dump_of("guest", 64, 1);
    let at = own::end_of_core(&bytes) + own::HEADER;
    bytes[at] = 99;
    let message = format!("PEER: is damaged: at {at:#x}: unknown section id 99 ");
    for keep in [false, true] {
        let args = ["-o", "%n", "--timeout", "2", "--keep-partial"];
        let mut receiver = Receiver::tcp(directory.path(), &args[..if keep { 5 } else { 4 }]);
        let mut socket = receiver.connect();
        socket.write_all(&bytes[..MIB]).unwrap();
        if keep {
            socket.write_all(&bytes[MIB..]).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
        }
        let line = receiver.line();
        if keep {
            // The index tells which block is damaged.
            let reason = "PEER: is damaged: checksum mismatch; at ";
            assert!(line.starts_with(reason) && line.contains(" (bytes 0x0..0x100000)"), "{line}");
            assert!(line.ends_with("; kept as guest.partial"), "{line}");
            assert!(read(directory.path(), "guest.partial") == bytes);
        } else {
            assert!(line.starts_with(&message), "{line}");
            assert!(names(directory.path()).is_empty());
        }
        let (reply, end) = reply(&mut socket);
        assert!(reply.starts_with("is damaged: ") && reply.ends_with('\n'), "{reply}");
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
        receiver.stop();
    }
    // A dump of another tool has no index, but all of it is kept.
    let mut foreign = own::without(&dump_of("foreign", 64, 1));
    let at = own::end_of_core(&foreign);
    foreign[at] = 99;
    let args = ["-o", "%n", "--keep-partial", "--any-tool"];
    let mut receiver = Receiver::tcp(directory.path(), &args);
    receiver.send(&foreign);
    let line = receiver.line();
    assert!(line.ends_with("; kept as foreign.partial"), "{line}");
    assert!(read(directory.path(), "foreign.partial") == foreign);
    receiver.stop();
}

#[test]
fn limits_the_number_of_partial_dumps() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = dump_of("guest", 1, 1);
    let args = ["-o", "%n", "--keep-partial", "--max-partials", "2"];
    let mut receiver = Receiver::tcp(directory.path(), &args);
    let mut send = || {
        receiver.send(&bytes[..bytes.len() / 2]);
        receiver.line()
    };
    for kept in ["guest.partial", "guest.1.partial"] {
        let line = send();
        assert!(line.ends_with(&format!("; kept as {kept}")), "{line}");
    }
    let line = send();
    let message = "; not kept: the directory already has 2 .partial files (--max-partials)";
    assert!(line.ends_with(message), "{line}");
    fs::remove_file(directory.path().join("guest.partial")).unwrap();
    let line = send();
    assert!(line.ends_with("; kept as guest.partial"), "{line}");
    receiver.send(&bytes);
    assert!(receiver.line().starts_with("guest: "));
    receiver.stop();
    assert_eq!(names(directory.path()), ["guest", "guest.1.partial", "guest.partial"]);
}

/// All of a small dump is sent before the receiver looks at it.
#[test]
fn a_sender_learns_that_its_dump_is_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    write_image(directory.path().join("guest.mem"), [1; 65_536]);
    let dump = |to: &str| {
        let output = run(directory.path(), ["dump", "--memory", "guest.mem", "--to", to]);
        (output.status.code(), stderr(&output))
    };
    let dumps = directory.path().join("dumps");
    fs::create_dir(&dumps).unwrap();
    let mut receiver = Receiver::tcp(directory.path(), &["-o", "dumps/%n"]);
    assert_eq!(dump(&receiver.address), (Some(0), String::new()));
    assert!(receiver.line().starts_with("dumps/guest.mem: "));
    // The receiver cannot begin a file.
    let file = dumps.join("guest.mem");
    fs::remove_file(&file).unwrap();
    fs::remove_dir(&dumps).unwrap();
    let (code, message) = dump(&receiver.address);
    let line = receiver.line();
    assert!(line.starts_with("PEER: dumps: cannot create a file in it: "), "{line}");
    let reason = line.strip_prefix("PEER: ").unwrap();
    let expected = format!("corestream: {}: did not keep the dump: {reason}\n", receiver.address);
    assert_eq!((code, message), (Some(1), expected));
    receiver.stop();

    for address in ["tcp:127.0.0.1:0", "unix:socket"] {
        let args = ["-o", "%n", "--max-size", "1000"];
        let mut receiver = Receiver::start(directory.path(), address, &args);
        let (code, message) = dump(&receiver.address);
        let line = receiver.line();
        let start = ["has ", "exceeds "].iter().find_map(|word| line.find(word)).unwrap();
        let reason = &line[start..];
        assert!(reason.ends_with("--max-size (1000 bytes)"), "{line}");
        let to = &receiver.address;
        let expected = format!("corestream: {to}: did not keep the dump: {reason}\n");
        assert_eq!((code, message), (Some(1), expected));
        receiver.stop();
    }
}

/// A sender that does not read replies also learns whether its dump was kept. Over a Unix socket, the end of the
/// connection is an error only if bytes are left unread, whatever the pieces that the sender sends.
#[test]
fn a_unix_sender_learns_whether_its_dump_was_kept() {
    let directory = tempfile::tempdir().unwrap();
    let dumps = directory.path().join("dumps");
    fs::create_dir(&dumps).unwrap();
    let mut receiver = Receiver::start(directory.path(), "unix:socket", &["-o", "dumps/%n"]);
    let bytes = dump_of("guest", 1, 1);
    let len = bytes.len();
    let mut send = |pieces: &[&[u8]], before_the_last: &dyn Fn()| {
        let mut socket = UnixStream::connect(directory.path().join("socket")).unwrap();
        let (last, first) = pieces.split_last().unwrap();
        for piece in first {
            socket.write_all(piece).unwrap();
            // The receiver gets the pieces one by one.
            thread::sleep(Duration::from_millis(5));
        }
        before_the_last();
        socket.write_all(last).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        (reply(&mut socket), receiver.line())
    };
    let small = dump_of("small", 0, 1);
    let dribbled: Vec<&[u8]> = small.chunks(7).collect();
    for pieces in [&[&bytes[..]][..], &[&bytes[..len - 1], &bytes[len - 1..]], &[&small], &dribbled]
    {
        let (learned, line) = send(pieces, &|| {});
        assert_eq!(learned, ("ok\n".into(), Ok(())), "{line}");
        assert!(line.contains(" bytes from unix:socket, intact"), "{line}");
    }
    let reset = |line: &str| {
        let reason = line.strip_prefix("unix:socket: ").unwrap();
        (format!("{reason}\n"), Err(ErrorKind::ConnectionReset))
    };
    let longer = [&bytes[..], b"more"].concat();
    for pieces in [&[&longer[..]][..], &[&bytes, b"x"]] {
        let (learned, line) = send(pieces, &|| {});
        assert!(line.contains("has data past its end"), "{line}");
        assert_eq!(learned, reset(&line));
    }
    let mut damaged = bytes.clone();
    damaged[len / 2] ^= 1;
    let (learned, line) = send(&[&damaged], &|| {});
    assert!(line.contains("is damaged: "), "{line}");
    assert_eq!(learned, reset(&line));
    let gone = || fs::rename(&dumps, directory.path().join("gone")).unwrap();
    let (learned, line) = send(&[&bytes[..len - 1], &bytes[len - 1..]], &gone);
    assert!(line.contains("its directory was moved while it was written"), "{line}");
    assert_eq!(learned, reset(&line));
    receiver.stop();
}

/// Returns how many descriptors below `limit` the receiver does not have open.
fn free_below(receiver: &Receiver, limit: u64) -> u64 {
    let fds = fs::read_dir(format!("/proc/{}/fd", receiver.child.id())).unwrap();
    let open = fds.filter_map(|fd| fd.unwrap().file_name().to_str()?.parse::<u64>().ok());
    limit - open.filter(|fd| *fd < limit).count() as u64
}

/// Silent senders use up the free descriptors. The senders that wait are served when the silent ones are dropped.
#[test]
fn silent_senders_do_not_block_others_for_ever() {
    let bytes = dump_of("guest", 1, 1);
    let directory = tempfile::tempdir().unwrap();
    let args = ["-o", "%n", "--max-senders", "40", "--timeout", "0.1"];
    let mut receiver = Receiver::tcp(directory.path(), &args);
    let pid = Pid::from_raw(receiver.child.id().cast_signed());
    let before = getrlimit(Resource::Nofile);
    let limit = (1..).find(|limit| free_below(&receiver, *limit) > 20).unwrap();
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), ..before }).unwrap();
    let mut silent: Vec<_> = (0..40).map(|_| receiver.connect()).collect();
    for socket in &mut silent {
        socket.write_all(b"\0asm\x01").unwrap();
    }
    let mut socket = receiver.connect();
    socket.write_all(&bytes).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(reply(&mut socket), ("ok\n".into(), Ok(())));
    // The number of silent senders that were dropped by now is not known, so their lines are not read.
    receiver.child.kill().unwrap();
    receiver.child.wait().unwrap();
}

/// A receiver that could never take a sender fails at the start.
#[test]
fn rejects_a_limit_that_is_too_low_for_one_sender() {
    let directory = tempfile::tempdir().unwrap();
    let line = "ulimit -n 5; exec \"$0\" receive unix:socket -o %n";
    let output = shell(directory.path(), line, NO_ARGS);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let message = stderr(&output);
    assert!(message.contains("Too many open files"), "{message}");
}

/// Without free descriptors, senders wait for their connection, and none is dropped.
#[test]
fn senders_wait_for_free_descriptors() {
    let bytes = &dump_of("guest", 1, 1);
    // At the same time, because they mostly wait.
    thread::scope(|scope| {
        for free in 0..4 {
            scope.spawn(move || wait_for_descriptors(free, bytes));
        }
    });
}

fn wait_for_descriptors(free: u64, bytes: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::tcp(directory.path(), &["-o", "%n", "--max-senders", "3"]);
    let pid = Pid::from_raw(receiver.child.id().cast_signed());
    let before = getrlimit(Resource::Nofile);
    let limit = (1..).find(|limit| free_below(&receiver, *limit) > free).unwrap() - 1;
    let low = Rlimit { current: Some(limit), ..before };
    prlimit(pid, Resource::Nofile, low).unwrap();
    let mut sockets: Vec<_> = (0..3).map(|_| receiver.connect()).collect();
    for socket in &mut sockets {
        socket.write_all(bytes).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
    }
    let line = receiver.line();
    let short = "Too many open files (os error 24); senders wait until descriptors are free";
    assert!(line.contains(": cannot accept a sender: ") && line.ends_with(short), "{line}");
    // Several attempts fail meanwhile, and only the first is reported.
    thread::sleep(Duration::from_secs(1));
    assert!(names(directory.path()).is_empty());
    prlimit(pid, Resource::Nofile, before).unwrap();
    for mut socket in sockets {
        assert_eq!(reply(&mut socket), ("ok\n".into(), Ok(())), "{free} free");
    }
    let mut lines = receiver.lines(4);
    lines.sort();
    let [again, first, second, guest] = &lines[..] else { panic!("{lines:?}") };
    for (name, line) in [("guest", guest), ("guest.1", first), ("guest.2", second)] {
        assert!(
            line.starts_with(&format!("{name}: {} bytes from PEER, intact", bytes.len())),
            "{line}"
        );
    }
    assert_eq!(again, "PEER: accepting senders again");
    receiver.stop();
}
