//! Hostile senders, which try to exhaust a receiver's places, disk and memory.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

use corestream::limits::{MAX_DATA_SECTIONS, MAX_PARTIAL_SEGMENTS};

use crate::common::own::{self, Own};
use crate::receiver::{MIB, Receiver, dump_of, read};
use crate::tool::names;
use crate::waiting::wait_until;

/// An index can make a verifier hold as much as its limits allow. Sixteen senders do so at once.
#[test]
fn bounds_the_memory_for_hostile_tables() {
    let directory = tempfile::tempdir().unwrap();
    // A receiver that keeps damaged dumps reads the index of each.
    let args = ["-o", "%n", "--keep-partial", "--max-partials", "0"];
    let mut receiver = Receiver::tcp(directory.path(), &args);
    let before = receiver.memory("VmHWM");
    let (many, listed) = (many_sections(), many_segments());
    for (bytes, message) in
        [(&many, "is damaged: "), (&listed, "is damaged: checksum mismatch (bytes 0x0..0x2")]
    {
        receiver.send(bytes);
        let line = receiver.line();
        assert!(line.contains(message), "{line}");
        let more = receiver.memory("VmHWM") - before;
        assert!(more < 16 * MIB, "{more} bytes for a sender");
    }
    thread::scope(|scope| {
        let senders: Vec<(SocketAddr, &str)> = (0..16)
            .map(|i| {
                let (bytes, reason) = if i % 2 == 0 {
                    (&many, "is damaged: ")
                } else {
                    (&listed, "is damaged: checksum mismatch (bytes 0x0..0x2")
                };
                let mut socket = receiver.connect();
                let address = socket.local_addr().unwrap();
                scope.spawn(move || {
                    // The receiver may close the connection at any time.
                    let _ = socket.write_all(bytes);
                });
                (address, reason)
            })
            .collect();
        let lines: Vec<_> = (0..16).map(|_| receiver.line_with_port()).collect();
        for (address, reason) in senders {
            let start = format!("tcp:{address}: {reason}");
            let count = lines.iter().filter(|line| line.starts_with(&start)).count();
            assert_eq!(count, 1, "{start}\n{lines:#?}");
        }
    });
    let more = receiver.memory("VmHWM") - before;
    assert!(more < 16 * 8 * MIB, "{more} bytes for 16 senders");
    assert!(names(directory.path()).is_empty());
    receiver.stop();
}

/// Returns a dump with more data sections than a reader keeps track of.
fn many_sections() -> Vec<u8> {
    let dump = own::without(&dump_of("many", 1, 1));
    let core = own::end_of_core(&dump);
    let one = b"\0\x16\x0fcorestream.data\x01\0\x41\0\x0b\0";
    let more = one.repeat(MAX_DATA_SECTIONS + 1);
    let index = (dump.len() + own::HEADER + more.len()) as u64;
    let mut bytes = dump[..core].to_vec();
    Own::default().add_header(&mut bytes, index + 100, index);
    bytes.extend([&dump[core..], &more, &[0; 100]].concat());
    bytes
}

/// Returns a dump with an index of as many segments as a dump with excluded ranges may have, and with blocks of two
/// bytes.
fn many_segments() -> Vec<u8> {
    let dump = own::without(&dump_of("listed", 1, 1));
    let core = own::end_of_core(&dump);
    let index = (dump.len() + own::HEADER) as u64;
    // The first segment is in all blocks of the data, the others are in none.
    let others =
        (0..MAX_PARTIAL_SEGMENTS as u64 - 1).map(|i| (0, 65_536 + 2 * i, index + 2 * i, 1));
    let segments: Vec<_> = [(0, 0, index - 65_536, 65_536)].into_iter().chain(others).collect();
    let own =
        Own { flags: 1, block_log2: 1, excluded: vec![(0, 1 << 40, 1 << 40)], changing: vec![] };
    let tables = own.index(1, &segments, &vec![0; usize::try_from(index.div_ceil(2)).unwrap()]);
    let mut bytes = dump[..core].to_vec();
    own.add_header(&mut bytes, index + tables.len() as u64, index);
    bytes.extend([&dump[core..], &tables].concat());
    bytes
}

/// A dump begins with its length, so a dump for which there is no room is refused at once.
#[test]
fn refuses_a_dump_without_room_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::tcp(directory.path(), &["-o", "%n"]);
    let bytes = dump_of("guest", 1, 1);
    let core = own::end_of_core(&bytes);
    let mut lie = bytes[..core].to_vec();
    let own = Own { block_log2: 40, ..Own::default() };
    own.add_header(&mut lie, 1 << 55, (1 << 55) - 100);
    let mut socket = receiver.connect();
    socket.write_all(&lie).unwrap();
    let line = receiver.line();
    assert!(line.contains("needs 36028797018963968 bytes, but only "), "{line}");
    receiver.stop();
    assert!(names(directory.path()).is_empty());
}

/// Returns the beginning of a dump that claims a length.
fn claim(length: u64) -> Vec<u8> {
    let bytes = dump_of("claims", 1, 1);
    let core = own::end_of_core(&bytes);
    let mut lie = bytes[..core].to_vec();
    Own { block_log2: 30, ..Own::default() }.add_header(&mut lie, length, length - 100);
    lie.extend(&bytes[core + own::HEADER..bytes.len() - 1000]);
    lie
}

/// The claimed length of a dump takes no room from other dumps.
#[test]
fn reserves_little_for_a_claimed_length() {
    let directory = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::tcp(directory.path(), &["-o", "%n"]);
    let free = rustix::fs::statvfs(directory.path()).unwrap();
    let length = (free.f_bavail * free.f_frsize / 2).min(4 << 30);
    let mut read = receiver.bytes_read();
    let lie = claim(length);
    let mut socket = receiver.connect();
    // When the receiver reads a part, it has reserved room for the part before it.
    for part in lie.chunks(lie.len() / 3) {
        socket.write_all(part).unwrap();
        read += part.len();
        wait_until(|| receiver.bytes_read() >= read);
    }
    let fds = fs::read_dir(format!("/proc/{}/fd", receiver.child.id())).unwrap();
    let files = fds.filter_map(|fd| fs::metadata(fd.unwrap().path()).ok());
    let reserved: Vec<_> = files.filter(|of| of.is_file()).map(|of| of.blocks() * 512).collect();
    assert!(reserved.iter().sum::<u64>() < 65 << 20, "{reserved:?}");
    drop(socket);
    let line = receiver.line();
    let message = format!("PEER: truncated: {} of {length} bytes", lie.len());
    assert!(line.starts_with(&message), "{line}");
    receiver.stop();
    assert!(names(directory.path()).is_empty());
}

/// Sends a byte every 10 ms until the receiver closes the connection.
fn dribble(mut socket: TcpStream, bytes: &[u8]) {
    for byte in bytes {
        if socket.write_all(&[*byte]).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A sender that sends just enough not to be silent does not keep its place.
#[test]
fn drops_a_sender_that_dribbles() {
    let bytes = dump_of("guest", 1, 1);
    for (args, message) in [
        (
            ["--timeout", "0.2", "--min-rate", "10000"],
            ", below the 10000 bytes per second of --min-rate",
        ),
        (["--max-time", "0.2", "--min-rate", "0"], "it took longer than the 200ms of --max-time"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let args = [&["-o", "%n", "--max-senders", "1"], &args[..]].concat();
        let mut receiver = Receiver::tcp(directory.path(), &args);
        thread::scope(|scope| {
            let socket = receiver.connect();
            scope.spawn(|| dribble(socket, &bytes));
            let line = receiver.line();
            assert!(line.starts_with("PEER: truncated: ") && line.ends_with(message), "{line}");
        });
        receiver.send(&bytes);
        assert!(receiver.line().starts_with("guest: "));
        assert!(read(directory.path(), "guest") == bytes);
        receiver.stop();
    }
    // A silent sender has no more time either.
    let directory = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::tcp(directory.path(), &["-o", "%n", "--max-time", "0.2"]);
    let mut socket = receiver.connect();
    socket.write_all(&bytes[..10]).unwrap();
    let message = "PEER: truncated: 10 bytes: it took longer than the 200ms of --max-time";
    assert_eq!(receiver.line(), message);
    receiver.stop();
}
