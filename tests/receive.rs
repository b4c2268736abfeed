//! `corestream receive` with real sockets: what arrives whole gets a name, and nothing else does.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod common;
#[path = "common/tool.rs"]
mod tool;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use common::own::{self, Own};
use corestream::limits::{MAX_DATA_SECTIONS, MAX_PARTIAL_SEGMENTS};
use corestream::{CoreDump, CoreDumpFile, Dumper, Memory, MemoryImage, MemoryIndex, MemoryType};
use rustix::process::{Pid, Signal, kill_process};
use tool::{names, stderr};

const MIB: usize = 1 << 20;

fn corestream(folder: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("corestream"));
    command.current_dir(folder);
    command
}

/// A receiver that listens.
struct Receiver {
    child: Child,
    /// Where, as it says.
    address: String,
    said: BufReader<ChildStderr>,
}

impl Receiver {
    /// One in `folder`, which listens on `address`.
    fn start(folder: &Path, address: &str, args: &[&str]) -> Self {
        let mut command = corestream(folder);
        command.args(["receive", address]).args(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let Some(address) = line.trim_end().strip_prefix("listening on ") else {
            let mut why = String::new();
            said.read_to_string(&mut why).unwrap();
            panic!("{line:?}, {why}");
        };
        Self { address: address.into(), child, said }
    }

    fn tcp(folder: &Path, args: &[&str]) -> Self {
        Self::start(folder, "tcp:127.0.0.1:0", args)
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address.strip_prefix("tcp:").unwrap()).unwrap()
    }

    /// Sends bytes and closes the connection, which the receiver may do before.
    fn send(&self, bytes: &[u8]) {
        let _ = self.connect().write_all(bytes);
    }

    /// The next lines that it says.
    fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    /// The next line that it says, without what is before all of them.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        without_port(line.strip_prefix("corestream: receive: ").expect(&line).trim_end())
    }

    /// Waits until it has so many connections.
    fn wait_for_connections(&self, count: usize) {
        let fds = format!("/proc/{}/fd", self.child.id());
        let is_socket = |fd: &fs::DirEntry| {
            fd.path().read_link().is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
        };
        // And the one that it listens on.
        while fs::read_dir(&fds).unwrap().filter(|fd| is_socket(fd.as_ref().unwrap())).count()
            < count + 1
        {
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Bytes of a kind in `/proc/PID/status`.
    fn memory(&self, kind: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(kind)).unwrap();
        let kib = line.trim_start_matches(':').trim().strip_suffix(" kB").unwrap();
        kib.parse::<usize>().unwrap() << 10
    }

    /// The bytes that it has read, of whatever.
    fn has_read(&self) -> usize {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
        line.parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Its exit code and what it has said since the last line.
    fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        (code, without_port(&rest))
    }

    /// Stops it while nothing is under way.
    fn stop(self) {
        self.signal(Signal::TERM);
        let said = "corestream: receive: stopped by SIGTERM\n";
        assert_eq!(self.end(), (Some(143), said.into()));
    }
}

/// `text` with `PEER` for each address of a sender.
fn without_port(text: &str) -> String {
    let mut parts = text.split("tcp:127.0.0.1:");
    let first = parts.next().unwrap().to_string();
    parts.fold(first, |text, part| {
        text + "PEER" + part.trim_start_matches(|c: char| c.is_ascii_digit())
    })
}

/// A dump with a dense memory of so many pages.
fn dump_of(name: &str, pages: u64, seed: u64) -> Vec<u8> {
    let mut random = common::Random(seed);
    let image: Vec<u8> =
        (0..pages * 65_536 / 8).flat_map(|_| (random.next() | 1).to_le_bytes()).collect();
    let mut dump = CoreDump::new(name);
    dump.add_memory(Memory::new(MemoryType::wasm32(pages), MemoryImage::from_slice(&image)));
    Dumper::new().plan(&dump).unwrap().to_vec().unwrap()
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn a_dump_arrives_by_tcp_and_in_the_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let image: Vec<u8> = (0..3 * MIB).map(|i| (i / 7 % 251).to_le_bytes()[0]).collect();
    fs::write(folder.path().join("guest.mem"), &image).unwrap();
    fs::create_dir(folder.path().join("dumps")).unwrap();
    let dump = |args: &[&str]| {
        let mut command = corestream(folder.path());
        let output = command.args(["dump", "--memory", "guest.mem"]).args(args).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        output.stdout
    };
    let expected = dump(&["-o", "-"]);
    for (address, name, from) in [
        ("tcp:127.0.0.1:0", "guest.mem.tcp", "PEER"),
        ("tcp:localhost:0", "guest.mem.host", "PEER"),
        ("unix:socket", "guest.mem.unix", "unix:socket"),
    ] {
        let end = name.rsplit('.').next().unwrap();
        let pattern = format!("dumps/%n.{end}");
        let mut receiver = Receiver::start(folder.path(), address, &["-o", &pattern, "--sync"]);
        assert_eq!(folder.path().join("socket").exists(), from == "unix:socket");
        dump(&["--to", &receiver.address.clone()]);
        let len = expected.len();
        let line = receiver.line().replace("tcp:[::1]:", "tcp:127.0.0.1:");
        assert_eq!(
            without_port(&line),
            format!("dumps/{name}: {len} bytes from {from}, whole, all checksums hold")
        );
        let path = folder.path().join("dumps").join(name);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read(path).unwrap() == expected, "{name}");
        receiver.stop();
    }
    assert_eq!(names(&folder.path().join("dumps")).len(), 3);
    assert_eq!(names(folder.path()), ["dumps", "guest.mem"]);
}

/// Sixteen senders at once, a third of them up to no good, twice over.
#[test]
fn what_is_good_arrives_whole_whoever_else_sends() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["-o", "%n.core", "--timeout", "1", "--max-size", "6000000"];
    let mut receiver = Receiver::tcp(folder.path(), &args);
    let before = receiver.memory("VmHWM");
    let good: Vec<_> = (1..9).map(|i| dump_of(&format!("good{i}"), 60 + i, i)).collect();
    let slow = dump_of("slow", 0, 1);
    let evil = dump_of("../../-\u{1b}[31m\n\u{202e}", 3, 1);
    let mut flipped = dump_of("flipped", 32, 5);
    flipped[MIB + 7] ^= 1;
    let bad = dump_of("bad", 64, 7);
    let oversized = dump_of("oversized", 100, 8);
    let foreign = own::without(&bad);
    // A dump without a length, and a section of no interest that goes on and on.
    let endless =
        [&b"\0asm\x01\0\0\0\0\x0e\x04core\0\x07endless"[..], b"\0\xff\xff\xff\xff\x0f\0"].concat();
    let cut = &bad[..bad.len() / 2];
    let behind = [&bad[..], b"more"].concat();
    // What comes, what goes on for ever after it, and what is said.
    let whole = "bytes from PEER, whole";
    let checksum = "is damaged: the checksum of 0x100000..0x200000 does not hold";
    let rounds: [[(&[u8], Then, &str); 6]; 2] = [
        [
            (cut, Then::Close, "is cut off: "),
            (&[b'x'; 100_000], Then::Close, "not a core dump: it does not begin as"),
            (&flipped, Then::Close, checksum),
            (cut, Then::Silence, "nothing came for 1s"),
            (&oversized, Then::Close, "more than the 6000000 of --max-size"),
            (&endless, Then::Zeros, "has more than the 6000000 bytes of --max-size"),
        ],
        [
            (&[], Then::Zeros, "not a core dump: it does not begin as"),
            (&[], Then::Silence, "is cut off: 0 bytes: nothing came for 1s"),
            (&[], Then::Close, "has sent nothing"),
            (&behind, Then::Close, "goes on behind its end"),
            (&foreign, Then::Close, "is by another tool"),
            (&bad, Then::Zeros, "goes on behind its end"),
        ],
    ];
    let mut expected = Vec::new();
    for (round, senders) in rounds.iter().enumerate() {
        let all = good.iter().map(|bytes| (&bytes[..], Then::Close, whole));
        let all = all.chain([(&evil[..], Then::Close, whole), (&slow, Then::Slow, whole)]);
        let all: Vec<_> = all.chain(senders.iter().copied()).collect();
        assert_eq!(all.len(), 16);
        let start = Barrier::new(all.len());
        let lines = thread::scope(|scope| {
            for (bytes, then, _) in &all {
                let (socket, start) = (receiver.connect(), &start);
                scope.spawn(move || {
                    start.wait();
                    // It may be closed at any time.
                    let _ = then.send(socket, bytes);
                });
            }
            receiver.lines(all.len())
        });
        for (_, _, said) in &all {
            let wanted = all.iter().filter(|(.., other)| other == said).count();
            let found = lines.iter().filter(|line| line.contains(said)).count();
            assert!(found >= wanted, "{said}: {lines:#?}");
        }
        let suffix = if round == 0 { "" } else { ".1" };
        for (i, bytes) in good.iter().enumerate() {
            let name = format!("good{}.core{suffix}", i + 1);
            assert!(read(folder.path(), &name) == *bytes, "{name}");
            expected.push(name);
        }
        for (name, bytes) in [("_._.._-_[31m__.core", &evil), ("slow.core", &slow)] {
            let name = format!("{name}{suffix}");
            assert!(read(folder.path(), &name) == *bytes, "{name}");
            expected.push(name);
        }
    }
    expected.sort();
    assert_eq!(names(folder.path()), expected);
    let more = receiver.memory("VmHWM") - before;
    assert!(more < 16 * MIB, "{more} bytes for 16 senders");
    receiver.stop();
}

/// What a sender does when it has sent its bytes.
#[derive(Clone, Copy)]
enum Then {
    Close,
    /// Waits until the other end is closed.
    Silence,
    /// Sends zeros until the other end is closed.
    Zeros,
    /// Has sent them one by one.
    Slow,
}

impl Then {
    fn send(self, mut socket: TcpStream, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Slow => {
                socket.set_nodelay(true)?;
                for byte in bytes {
                    socket.write_all(&[*byte])?;
                    thread::sleep(Duration::from_micros(500));
                }
                return Ok(());
            }
            _ => socket.write_all(bytes)?,
        }
        match self {
            Self::Close | Self::Slow => Ok(()),
            Self::Silence => socket.read(&mut [0]).map(|_| ()),
            Self::Zeros => loop {
                socket.write_all(&[0; 65_536])?;
            },
        }
    }
}

/// A sender that has sent all may stay connected: that ends with the timeout, and nothing is lost.
#[test]
fn a_dump_is_whole_though_its_sender_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::tcp(folder.path(), &["-o", "%n", "--timeout", "0.2"]);
    let bytes = dump_of("stays", 3, 1);
    let mut socket = receiver.connect();
    socket.write_all(&bytes).unwrap();
    assert!(receiver.line().contains(", whole"));
    assert!(read(folder.path(), "stays") == bytes);
    // A sender that wants to know waits until the other end is closed: the dump has its name then.
    let mut socket = receiver.connect();
    socket.write_all(&bytes).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    socket.read_to_end(&mut Vec::new()).unwrap();
    assert!(read(folder.path(), "stays.1") == bytes);
    receiver.line();
    receiver.stop();
}

/// An index can make a verifier keep the most that there may be; sixteen do so at once.
#[test]
fn hostile_tables_cost_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::tcp(folder.path(), &["-o", "%n"]);
    let before = receiver.memory("VmHWM");
    let (many, listed) = (many_sections(), many_segments());
    for (bytes, said) in
        [(&many, "is damaged: "), (&listed, "is damaged: the checksum of 0x0..0x2 ")]
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
    assert!(more < 16 * 16 * MIB, "{more} bytes for 16 senders");
    assert!(names(folder.path()).is_empty());
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
        Own { flags: 1, block_log2: 1, left_out: vec![(0, 1 << 40, 1 << 40)], changing: vec![] };
    let tables = own.index(1, &segments, &vec![0; usize::try_from(index.div_ceil(2)).unwrap()]);
    let mut bytes = dump[..core].to_vec();
    own.add_header(&mut bytes, index + tables.len() as u64, index);
    bytes.extend([&dump[core..], &tables].concat());
    bytes
}

#[test]
fn what_is_cut_off_is_kept_only_if_that_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = dump_of("guest", 64, 1);
    let half = &bytes[..bytes.len() / 2];
    let mut flipped = bytes.clone();
    flipped[MIB * 3] ^= 1;
    let mut receiver = Receiver::tcp(folder.path(), &["-o", "%n.core", "--keep-partial"]);
    for (sent, kept) in [(half, "guest.core.partial"), (&flipped, "guest.core.1.partial")] {
        receiver.send(sent);
        let line = receiver.line();
        assert!(line.ends_with(&format!("; kept as {kept}")), "{line}");
        assert!(read(folder.path(), kept) == sent);
        let metadata = folder.path().join(kept).metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        // What was reserved for the rest is free again.
        assert!(metadata.blocks() * 512 <= sent.len() as u64 + 65_536, "{metadata:?}");
    }
    // What is no dump has nothing to keep, and what is not wanted is not kept.
    receiver.send(b"nothing of the kind");
    assert!(receiver.line().starts_with("PEER: not a core dump"));
    receiver.send(&own::without(&bytes));
    assert!(receiver.line().contains("is by another tool"));
    // Nor is there a reason why the receiver's own end should lose anything.
    let mut socket = receiver.connect();
    socket.write_all(half).unwrap();
    receiver.wait_for_connections(1);
    receiver.signal(Signal::INT);
    let (code, said) = receiver.end();
    assert_eq!(code, Some(130));
    assert!(said.contains("PEER: dropped after "), "{said}");
    let all = names(folder.path());
    assert!(all.len() <= 3 && all.iter().all(|name| name.ends_with(".partial")), "{all:?}");
}

#[test]
fn once_says_whether_the_dump_was_whole() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = dump_of("guest", 32, 1);
    let foreign = own::without(&bytes);
    for (sent, args, code, said) in [
        (&bytes[..], &[][..], 0, "guest: 2101377 bytes from PEER, whole, all checksums hold"),
        (
            &bytes[..MIB],
            &[],
            3,
            "PEER: is cut off: 1048576 of 2101377 bytes (bytes 0x100000..0x201081)",
        ),
        (b"", &[], 3, "PEER: has sent nothing"),
        (b"guest", &[], 3, "PEER: not a core dump: it does not begin as a WebAssembly module does"),
        (
            &bytes,
            &["--max-size", "2000000"],
            1,
            "PEER: has 2101377 bytes, more than the 2000000 of --max-size",
        ),
        (
            &foreign,
            &[],
            1,
            "PEER: is by another tool, and one that is cut off may look whole: --any-tool takes such \
             dumps",
        ),
        (
            &foreign,
            &["--any-tool"],
            0,
            "guest.1: 2097210 bytes from PEER, whole, by another tool: only its structure can be checked",
        ),
    ] {
        let args = [&["-o", "%n", "--once"], args].concat();
        let receiver = Receiver::tcp(folder.path(), &args);
        receiver.send(sent);
        let (found, line) = receiver.end();
        let line = line.strip_prefix("corestream: receive: ").expect(&line).trim_end();
        let said = said.replace("2101377", &bytes.len().to_string());
        let said = said.replace("0x201081", &format!("{:#x}", bytes.len()));
        let said = said.replace("2097210", &foreign.len().to_string());
        assert_eq!((found, line), (Some(code), said.as_str()), "{args:?}");
    }
    assert_eq!(names(folder.path()), ["guest", "guest.1"]);
    let receiver = Receiver::tcp(folder.path(), &["-o", "%n", "--once"]);
    receiver.stop();
}

#[test]
fn a_signal_drops_what_is_under_way_and_leaves_nothing() {
    let bytes = dump_of("guest", 64, 1);
    let half = &bytes[..bytes.len() / 2];
    for (signal, code, name) in [(Signal::TERM, 143, "SIGTERM"), (Signal::INT, 130, "SIGINT")] {
        let folder = tempfile::tempdir().unwrap();
        let args = ["-o", "%n.core", "--max-senders", "2"];
        let mut receiver = Receiver::start(folder.path(), "unix:socket", &args);
        let connect = || UnixStream::connect(folder.path().join("socket")).unwrap();
        let mut sockets = [connect(), connect(), connect()];
        // The third one waits: it is not read from.
        for socket in &mut sockets[..2] {
            socket.write_all(half).unwrap();
        }
        receiver.wait_for_connections(2);
        receiver.signal(signal);
        for line in receiver.lines(2) {
            assert!(line.starts_with("unix:socket: dropped after "), "{line}");
        }
        let said = format!("corestream: receive: stopped by {name}\n");
        assert_eq!(receiver.end(), (Some(code), said));
        assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
    }
}

#[test]
fn a_signal_does_not_drop_what_is_all_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::tcp(folder.path(), &["-o", "%n"]);
    let bytes = dump_of("stays", 3, 1);
    let before = receiver.has_read();
    let mut socket = receiver.connect();
    socket.write_all(&bytes).unwrap();
    while receiver.has_read() < before + bytes.len() {
        thread::sleep(Duration::from_millis(2));
    }
    receiver.signal(Signal::TERM);
    assert!(receiver.line().contains(", whole"));
    assert_eq!(receiver.end().0, Some(143));
    assert!(read(folder.path(), "stays") == bytes);
}

#[test]
fn a_name_that_is_taken_gets_a_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("guest.core"), "kept").unwrap();
    fs::write(path("target"), "kept too").unwrap();
    symlink("target", path("guest.core.1")).unwrap();
    symlink("nothing", path("guest.core.2")).unwrap();
    fs::create_dir(path("guest.core.3")).unwrap();
    let mut receiver = Receiver::tcp(folder.path(), &["-o", "guest.core"]);
    let bytes = dump_of("any", 1, 1);
    for i in 4..6 {
        receiver.send(&bytes);
        let line = receiver.line();
        assert!(line.starts_with(&format!("guest.core.{i}: ")), "{line}");
        assert!(read(folder.path(), &format!("guest.core.{i}")) == bytes);
    }
    receiver.stop();
    assert_eq!(read(folder.path(), "guest.core"), b"kept");
    assert_eq!(read(folder.path(), "target"), b"kept too");
    assert!(path("guest.core.2").is_symlink() && !path("nothing").exists());
}

/// A dump says its length first, so that one for which there is no room is refused at once, and so is
/// one that says more than there is.
#[test]
fn there_must_be_room() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::tcp(folder.path(), &["-o", "%n"]);
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
    assert!(names(folder.path()).is_empty());
}

#[test]
fn mistakes_are_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    fs::write(dir.join("file"), "kept").unwrap();
    fs::create_dir(dir.join("dumps")).unwrap();
    let _listener = UnixListener::bind(dir.join("taken")).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = format!("tcp:{}", tcp.local_addr().unwrap());
    let in_use_said =
        format!("receive: {in_use}: cannot listen there: Address already in use (os error 98)");
    for (address, output, code, said) in [
        (
            "tcp:0.0.0.0:0",
            "%n",
            2,
            "receive: tcp:0.0.0.0:0: 0.0.0.0 is not a loopback address, and other machines may send to \
             it: --any-host allows that",
        ),
        (&in_use, "%n", 1, &in_use_said),
        (
            "unix:file",
            "%n",
            1,
            "receive: unix:file: cannot listen there: something that is no socket has this name",
        ),
        (
            "unix:taken",
            "%n",
            1,
            "receive: unix:taken: cannot listen there: somebody listens there already",
        ),
        (
            "unix:new",
            "dumps",
            2,
            "-o dumps: is a folder, name files in it, such as dumps/%n.%t.core",
        ),
        ("unix:new", "none/%n", 2, "-o none/%n: there is no folder none, make it first"),
        (
            "unix:new",
            "%n/core",
            2,
            "-o %n/core: %n and %t can only be in the name of the file, not in its folder",
        ),
        (
            "udp:a:1",
            "%n",
            2,
            "invalid value 'udp:a:1' for '<ADDRESS>': must be tcp:HOST:PORT or unix:PATH; --help shows \
             what there is",
        ),
    ] {
        let output = corestream(dir).args(["receive", address, "-o", output]).output().unwrap();
        assert_eq!(stderr(&output), format!("corestream: {said}\n"));
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{said}");
    }
    assert_eq!(names(dir), ["dumps", "file", "taken"]);
    // An open address, if it is asked for, and a socket that nobody listens on any more.
    let receiver = Receiver::start(dir, "tcp:0.0.0.0:0", &["-o", "%n", "--any-host"]);
    receiver.stop();
    drop(UnixListener::bind(dir.join("deserted")).unwrap());
    let receiver = Receiver::start(dir, "unix:deserted", &["-o", "%n"]);
    // One that has this path now is not removed.
    fs::rename(dir.join("deserted"), dir.join("moved")).unwrap();
    fs::write(dir.join("deserted"), "new").unwrap();
    receiver.stop();
    assert_eq!(read(dir, "deserted"), b"new");
}

/// An image of 256 MiB, eight times: 2 GiB that nobody keeps in memory, neither here nor there.
#[test]
fn two_gib_arrive_whole_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = common::Random(9);
    let image: Vec<u8> =
        (0..256 * MIB / 8).flat_map(|_| (random.next() | 1).to_le_bytes()).collect();
    fs::write(folder.path().join("guest.mem"), &image).unwrap();
    let mut receiver = Receiver::tcp(folder.path(), &["-o", "large.core"]);
    let before = receiver.memory("VmHWM");
    let mut command = corestream(folder.path());
    command.arg("dump").args(["--memory", "guest.mem"].repeat(8));
    let output = command.args(["--stats", "json", "--to", &receiver.address]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let stats: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    let peak = stats["peak_anon_bytes"].as_u64().unwrap();
    assert!((1..16 << 20).contains(&peak), "{peak} bytes of the sender");
    let line = receiver.line();
    assert!(line.ends_with(" bytes from PEER, whole, all checksums hold"), "{line}");
    let more = receiver.memory("VmHWM") - before;
    assert!(more < 16 * MIB, "{more} bytes of the receiver");
    receiver.stop();

    let path: PathBuf = folder.path().join("large.core");
    assert_eq!(
        File::open(&path).unwrap().metadata().unwrap().len(),
        stats["dump_bytes"].as_u64().unwrap()
    );
    let dump = CoreDumpFile::open(path).unwrap();
    let mut buffer = vec![0; MIB];
    for memory in 0..8 {
        for (i, expected) in image.chunks(MIB).enumerate() {
            dump.read(MemoryIndex(memory), (i * MIB) as u64, &mut buffer).unwrap();
            assert!(buffer == expected, "memory {memory}, MiB {i}");
        }
    }
}
