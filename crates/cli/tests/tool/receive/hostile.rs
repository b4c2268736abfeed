//! Senders that want what is not theirs: the places, the disk, the memory, the socket of
//! `corestream receive`.

use crate::{common, receiver, tool, waiting};
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

use common::own::{self, Own};
use corestream::limits::{MAX_DATA_SECTIONS, MAX_PARTIAL_SEGMENTS};
use receiver::{MIB, Receiver, dump_of, read};
use tool::names;
use waiting::wait_until;

/// An index can make a verifier keep the most that there may be; sixteen do so at once.
#[test]
fn hostile_tables_cost_bounded_memory() {
    let directory = tempfile::tempdir().unwrap();
    // Who keeps what is damaged reads the index of all.
    let args = ["-o", "%n", "--keep-partial", "--max-partials", "0"];
    let mut receiver = Receiver::tcp(directory.path(), &args);
    let before = receiver.memory("VmHWM");
    let (many, listed) = (many_sections(), many_segments());
    for (bytes, said) in
        [(&many, "is damaged: "), (&listed, "is damaged: checksum mismatch in 0x0..0x2")]
    {
        receiver.send(bytes);
        let line = receiver.line();
        assert!(line.contains(said), "{line}");
        let more = receiver.memory("VmHWM") - before;
        assert!(more < 16 * MIB, "{more} bytes for a sender");
    }
    thread::scope(|scope| {
        for i in 0..16 {
            let (mut socket, bytes) =
                (receiver.connect(), if i % 2 == 0 { &many } else { &listed });
            scope.spawn(move || {
                // It may be closed at any time.
                let _ = socket.write_all(bytes);
            });
        }
        for line in receiver.lines(16) {
            assert!(line.contains("is damaged: "), "{line}");
        }
    });
    let more = receiver.memory("VmHWM") - before;
    assert!(more < 16 * 8 * MIB, "{more} bytes for 16 senders");
    assert!(names(directory.path()).is_empty());
    receiver.stop();
}

/// More sections with segments than are kept track of.
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

/// An index with as many segments as a dump with ranges may have, and blocks of two bytes.
fn many_segments() -> Vec<u8> {
    let dump = own::without(&dump_of("listed", 1, 1));
    let core = own::end_of_core(&dump);
    let index = (dump.len() + own::HEADER) as u64;
    // The first lies in all blocks of the data, the others nowhere.
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

/// A dump says its length first, so that one for which there is no room is refused at once, and so is
/// one that says more than there is.
#[test]
fn there_must_be_room() {
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
    assert!(line.contains("has 36028797018963968 bytes, and there is room for "), "{line}");
    receiver.stop();
    assert!(names(directory.path()).is_empty());
}

/// The beginning of a dump that says it has so many bytes.
fn claim(length: u64) -> Vec<u8> {
    let bytes = dump_of("claims", 1, 1);
    let core = own::end_of_core(&bytes);
    let mut lie = bytes[..core].to_vec();
    Own { block_log2: 30, ..Own::default() }.add_header(&mut lie, length, length - 100);
    lie.extend(&bytes[core + own::HEADER..bytes.len() - 1000]);
    lie
}

/// What a dump says of its length takes no room from others.
#[test]
fn a_claim_reserves_little() {
    let directory = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::tcp(directory.path(), &["-o", "%n"]);
    let free = rustix::fs::statvfs(directory.path()).unwrap();
    let length = (free.f_bavail * free.f_frsize / 2).min(4 << 30);
    let mut read = receiver.has_read();
    let lie = claim(length);
    let mut socket = receiver.connect();
    // Whoever reads a part has made room for the one before it.
    for part in lie.chunks(lie.len() / 3) {
        socket.write_all(part).unwrap();
        read += part.len();
        wait_until(|| receiver.has_read() >= read);
    }
    let fds = fs::read_dir(format!("/proc/{}/fd", receiver.child.id())).unwrap();
    let files = fds.filter_map(|fd| fs::metadata(fd.unwrap().path()).ok());
    let reserved: Vec<_> = files.filter(|of| of.is_file()).map(|of| of.blocks() * 512).collect();
    assert!(reserved.iter().sum::<u64>() < 65 << 20, "{reserved:?}");
    drop(socket);
    let line = receiver.line();
    let said = format!("PEER: truncated: {} of {length} bytes", lie.len());
    assert!(line.starts_with(&said), "{line}");
    receiver.stop();
    assert!(names(directory.path()).is_empty());
}

/// Sends a byte now and then until that is an error.
fn dribble(mut socket: TcpStream, bytes: &[u8]) {
    for byte in bytes {
        if socket.write_all(&[*byte]).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Who sends just enough not to be silent does not keep the place.
#[test]
fn a_sender_that_dribbles_is_dropped() {
    let bytes = dump_of("guest", 1, 1);
    for (args, said) in [
        (
            ["--timeout", "0.4", "--min-rate", "10000"],
            ", fewer than the 10000 a second of --min-rate",
        ),
        (["--max-time", "0.4", "--min-rate", "0"], "it took longer than the 400ms of --max-time"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let args = [&["-o", "%n", "--max-senders", "1"], &args[..]].concat();
        let mut receiver = Receiver::tcp(directory.path(), &args);
        thread::scope(|scope| {
            let socket = receiver.connect();
            scope.spawn(|| dribble(socket, &bytes));
            let line = receiver.line();
            assert!(line.starts_with("PEER: is cut off: ") && line.ends_with(said), "{line}");
        });
        receiver.send(&bytes);
        assert!(receiver.line().contains(", intact"));
        assert!(read(directory.path(), "guest") == bytes);
        receiver.stop();
    }
    // One that is only silent has no more time than that either.
    let directory = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::tcp(directory.path(), &["-o", "%n", "--max-time", "0.2"]);
    let mut socket = receiver.connect();
    socket.write_all(&bytes[..10]).unwrap();
    let said = "PEER: is cut off: 10 bytes: it took longer than the 200ms of --max-time";
    assert_eq!(receiver.line(), said);
    receiver.stop();
}
