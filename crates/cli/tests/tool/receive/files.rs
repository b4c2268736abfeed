//! Files that a receiver makes: a complete dump gets a name, and nothing else does.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use corestream::CoreDumpFile;

use crate::common::{self, own};
use crate::process_memory::peak_anon;
use crate::receiver::{MIB, Receiver, dump_of, read, without_port};
use crate::tool::{corestream, names, run, stderr, succeed, write_image};

#[test]
fn receives_a_dump_over_tcp_and_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let image: Vec<u8> = (0..3 * MIB).map(|i| (i / 7 % 251).to_le_bytes()[0]).collect();
    write_image(directory.path().join("guest.mem"), &image);
    fs::create_dir(directory.path().join("dumps")).unwrap();
    let dump = |args: &[&str]| {
        succeed(directory.path(), [&["dump", "--memory", "guest.mem"], args].concat()).stdout
    };
    let expected = dump(&["-o", "-"]);
    for (address, name, from) in [
        ("tcp:127.0.0.1:0", "guest.mem.tcp", "PEER"),
        ("tcp:localhost:0", "guest.mem.host", "PEER"),
        ("unix:socket", "guest.mem.unix", "unix:socket"),
    ] {
        let end = name.rsplit('.').next().unwrap();
        let pattern = format!("dumps/%n.{end}");
        let mut receiver = Receiver::start(directory.path(), address, &["-o", &pattern, "--sync"]);
        assert_eq!(directory.path().join("socket").exists(), from == "unix:socket");
        dump(&["--to", &receiver.address.clone()]);
        let len = expected.len();
        let line = receiver.line().replace("tcp:[::1]:", "tcp:127.0.0.1:");
        assert_eq!(
            without_port(&line),
            format!("dumps/{name}: {len} bytes from {from}, intact, all checksums match")
        );
        let path = directory.path().join("dumps").join(name);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read(path).unwrap() == expected, "{name}");
        receiver.stop();
    }
    assert_eq!(names(&directory.path().join("dumps")).len(), 3);
    assert_eq!(names(directory.path()), ["dumps", "guest.mem"]);
}

/// Sixteen senders at once, a third of them hostile or broken, twice.
#[test]
fn keeps_every_complete_dump_whatever_other_senders_do() {
    let directory = tempfile::tempdir().unwrap();
    let args = ["-o", "%n.core", "--timeout", "0.5", "--min-rate", "100", "--max-size", "6000000"];
    let mut receiver = Receiver::tcp(directory.path(), &args);
    let before = receiver.memory("VmHWM");
    let good: Vec<_> = (1..9).map(|i| dump_of(&format!("good{i}"), 60 + i, i)).collect();
    let slow = dump_of("slow", 0, 1);
    let evil = dump_of("../../-\u{1b}[31m\n\u{202e}", 3, 1);
    let mut flipped = dump_of("flipped", 32, 5);
    flipped[MIB + 7] ^= 1;
    let bad = dump_of("bad", 64, 7);
    let oversized = dump_of("oversized", 100, 8);
    let foreign = own::without(&bad);
    // A dump without a length, and a section that never ends.
    let endless =
        [&b"\0asm\x01\0\0\0\0\x0e\x04core\0\x07endless"[..], b"\0\xff\xff\xff\xff\x0f\0"].concat();
    let cut = &bad[..bad.len() / 2];
    let longer = [&bad[..], b"more"].concat();
    // The bytes, the sender's behaviour after them, and the receiver's reason for this sender.
    let checksum = "is damaged: checksum mismatch (bytes 0x100000..0x200000";
    let rounds: [[(&[u8], Then, &str); 6]; 2] = [
        [
            (cut, Then::Close, "truncated: "),
            (&[b'x'; 100_000], Then::Close, "not a core dump: it is not a WebAssembly module"),
            (&flipped, Then::Close, checksum),
            (cut, Then::Silence, "no bytes arrived for 500ms"),
            (&oversized, Then::Close, "which exceeds --max-size (6000000 bytes)"),
            (&endless, Then::Zeros, "exceeds --max-size (6000000 bytes)"),
        ],
        [
            (&[], Then::Zeros, "not a core dump: it is not a WebAssembly module"),
            (&[], Then::Silence, "truncated: 0 bytes: no bytes arrived for 500ms"),
            (&[], Then::Close, "has sent nothing"),
            (&longer, Then::Close, "has data past its end"),
            (&foreign, Then::Close, "comes from another tool"),
            (&bad, Then::Zeros, "has data past its end"),
        ],
    ];
    let mut expected = Vec::new();
    for (round, senders) in rounds.iter().enumerate() {
        let suffix = if round == 0 { "" } else { ".1" };
        // Of these, the last value is the name of the file.
        let mut kept: Vec<_> = (good.iter().enumerate())
            .map(|(i, bytes)| (&bytes[..], Then::Close, format!("good{}.core{suffix}", i + 1)))
            .collect();
        kept.push((&evil, Then::Close, format!("_._.._-_[31m__.core{suffix}")));
        kept.push((&slow, Then::Slow, format!("slow.core{suffix}")));
        assert_eq!(kept.len() + senders.len(), 16);
        let start = Barrier::new(16);
        let (of_kept, of_others, lines) = thread::scope(|scope| {
            // Returns the sender's address, by which the receiver's line is found.
            let spawn = |bytes, then: Then| -> SocketAddr {
                let (socket, start) = (receiver.connect(), &start);
                let address = socket.local_addr().unwrap();
                scope.spawn(move || {
                    start.wait();
                    // The receiver may close the connection at any time.
                    let _ = then.send(socket, bytes);
                });
                address
            };
            let of_kept: Vec<_> = kept.iter().map(|(bytes, then, _)| spawn(bytes, *then)).collect();
            let of_others = senders.map(|(bytes, then, _)| spawn(bytes, then));
            let lines: Vec<_> = (0..16).map(|_| receiver.line_with_port()).collect();
            (of_kept, of_others, lines)
        });
        for ((bytes, _, name), address) in kept.iter().zip(of_kept) {
            let len = bytes.len();
            let line =
                format!("{name}: {len} bytes from tcp:{address}, intact, all checksums match");
            assert!(lines.contains(&line), "{line}\n{lines:#?}");
            assert!(read(directory.path(), name) == *bytes, "{name}");
            expected.push(name.clone());
        }
        for ((_, _, reason), address) in senders.iter().zip(of_others) {
            let start = format!("tcp:{address}: ");
            let of_sender: Vec<_> =
                lines.iter().filter_map(|line| line.strip_prefix(&start)).collect();
            assert!(
                matches!(of_sender[..], [line] if line.contains(reason)),
                "{start}{reason}\n{lines:#?}"
            );
        }
    }
    expected.sort();
    assert_eq!(names(directory.path()), expected);
    let more = receiver.memory("VmHWM") - before;
    assert!(more < 16 * MIB, "{more} bytes for 16 senders");
    receiver.stop();
}

/// The behaviour of a sender.
#[derive(Clone, Copy)]
enum Then {
    Close,
    /// Waits until the receiver closes the connection.
    Silence,
    /// Sends zeros until the receiver closes the connection.
    Zeros,
    /// Sends them one by one, and closes.
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

#[test]
fn numbers_a_name_that_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("guest.core"), "kept").unwrap();
    fs::write(path("target"), "kept too").unwrap();
    symlink("target", path("guest.core.1")).unwrap();
    symlink("nothing", path("guest.core.2")).unwrap();
    fs::create_dir(path("guest.core.3")).unwrap();
    let mut receiver = Receiver::tcp(directory.path(), &["-o", "guest.core"]);
    let bytes = dump_of("any", 1, 1);
    for i in 4..6 {
        receiver.send(&bytes);
        let line = receiver.line();
        assert!(line.starts_with(&format!("guest.core.{i}: ")), "{line}");
        assert!(read(directory.path(), &format!("guest.core.{i}")) == bytes);
    }
    receiver.stop();
    assert_eq!(read(directory.path(), "guest.core"), b"kept");
    assert_eq!(read(directory.path(), "target"), b"kept too");
    assert!(path("guest.core.2").is_symlink() && !path("nothing").exists());
}

#[test]
fn reports_usage_errors_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    fs::write(dir.join("file"), "kept").unwrap();
    fs::create_dir(dir.join("dumps")).unwrap();
    let _listener = UnixListener::bind(dir.join("taken")).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = format!("tcp:{}", tcp.local_addr().unwrap());
    let in_use_said =
        format!("receive: {in_use}: cannot listen: Address already in use (os error 98)");
    for (address, output, code, message) in [
        (
            "tcp:0.0.0.0:0",
            "%n",
            2,
            "receive: tcp:0.0.0.0:0: 0.0.0.0 is not a loopback address, so other machines can \
             reach it; use --any-host to allow that",
        ),
        (&in_use, "%n", 1, &in_use_said),
        ("unix:file", "%n", 1, "receive: unix:file: cannot listen: not a socket"),
        (
            "unix:taken",
            "%n",
            1,
            "receive: unix:taken: cannot listen: another process listens there already",
        ),
        (
            "unix:new",
            "dumps",
            2,
            "-o dumps: is a directory; name files in it, such as dumps/%n.%t.core",
        ),
        ("unix:new", "none/%n", 2, "-o none/%n: no such directory: none; create it first"),
        (
            "unix:new",
            "%n/core",
            2,
            "-o %n/core: %n and %t are allowed in the file name only, not in its directory",
        ),
        (
            "udp:a:1",
            "%n",
            2,
            "invalid value 'udp:a:1' for '<ADDRESS>': must be tcp:HOST:PORT or unix:PATH; see --help",
        ),
    ] {
        let output = run(dir, ["receive", address, "-o", output]);
        assert_eq!(stderr(&output), format!("corestream: {message}\n"));
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{message}");
    }
    assert_eq!(names(dir), ["dumps", "file", "taken"]);
    // An address that other machines reach, with the option for it, and a socket that nothing listens on.
    let any_host = ["-o", "%n", "--any-host", "--max-size", "1MB"];
    let output = run(dir, [&["receive", "tcp:0.0.0.0:0"], &any_host[..3]].concat());
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (
            Some(2),
            "corestream: receive: with --any-host one sender from anywhere could fill the disk: say how \
             large a dump may be with --max-size, such as 8GiB\n"
        )
    );
    let receiver = Receiver::start(dir, "tcp:0.0.0.0:0", &any_host);
    receiver.stop();
    drop(UnixListener::bind(dir.join("deserted")).unwrap());
    let receiver = Receiver::start(dir, "unix:deserted", &["-o", "%n"]);
    // Another file that has this path by now is not removed.
    fs::rename(dir.join("deserted"), dir.join("moved")).unwrap();
    fs::write(dir.join("deserted"), "new").unwrap();
    receiver.stop();
    assert_eq!(read(dir, "deserted"), b"new");
}

/// An image, eight times. Neither the sender nor the receiver holds the dump in memory.
fn check_memory_for(image_len: usize) {
    let directory = tempfile::tempdir().unwrap();
    let mut random = common::Random(9);
    let image: Vec<u8> =
        (0..image_len / 8).flat_map(|_| (random.next() | 1).to_le_bytes()).collect();
    write_image(directory.path().join("guest.mem"), &image);
    let mut receiver = Receiver::tcp(directory.path(), &["-o", "large.core"]);
    let before = receiver.memory("VmHWM");
    let mut command = corestream(directory.path(), ["dump"]);
    command.args(["--memory", "guest.mem"].repeat(8));
    command.args(["--stats", "json", "--to", &receiver.address]);
    let (output, peak) = peak_anon(&mut command);
    assert!(output.status.success(), "{}", stderr(&output));
    let stats: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!((1..16 << 20).contains(&peak), "{peak} bytes of the sender");
    let line = receiver.line();
    assert!(line.ends_with(" bytes from PEER, intact, all checksums match"), "{line}");
    let more = receiver.memory("VmHWM") - before;
    assert!(more < 16 * MIB, "{more} bytes of the receiver");
    receiver.stop();

    let path: PathBuf = directory.path().join("large.core");
    assert_eq!(
        File::open(&path).unwrap().metadata().unwrap().len(),
        stats["dump_bytes"].as_u64().unwrap()
    );
    let dump = CoreDumpFile::open(path).unwrap();
    assert_eq!(dump.memories().len(), 8);
    let mut buffer = vec![0; MIB];
    for memory in dump.memories() {
        for (i, expected) in image.chunks(MIB).enumerate() {
            memory.read((i * MIB) as u64, &mut buffer).unwrap();
            assert!(buffer == expected, "memory {}, MiB {i}", memory.index());
        }
    }
}

#[test]
fn a_dump_passes_in_little_memory() {
    check_memory_for(16 * MIB);
}

#[test]
#[ignore = "slow: 3 s, 4 GiB of files"]
fn two_gib_pass_in_little_memory() {
    check_memory_for(256 * MIB);
}
