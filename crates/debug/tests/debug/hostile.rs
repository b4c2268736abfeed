//! Clients that do not follow the protocol.

use corestream::CoreDumpFile;
use corestream_debug::limits::{MAX_PACKET_BYTES, MAX_REPLY_BYTES};
use corestream_debug::{Options, Session, Status, Target};
use corestream_symbols::SymbolFile;

use super::count::peak;
use super::support::*;

/// A deterministic source of bytes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

const PACKETS: &[&str] = &[
    "qSupported:",
    "qSupported:qXfer:libraries:read+",
    "?",
    "c",
    "vCont;c",
    "Hg",
    "p",
    "g",
    "T",
    "x",
    "m",
    "qWasmCallStack:",
    "qWasmLocal:",
    "qWasmGlobal:",
    "qWasmStackValue:",
    "qXfer:libraries:read::",
    "qMemoryRegionInfo:",
    "qThreadStopInfo",
    "qRegisterInfo",
    "qfThreadInfo",
    "QStartNoAckMode",
    "Z0,",
    "z",
    "qHostInfo",
    "jThreadsInfo",
    "vFile:open:",
    "QEnableErrorStrings",
];

/// Sends all bytes, in pieces, and checks the limits. Returns the last status.
fn send(session: &mut Session<'_, '_>, bytes: &[u8], random: &mut Random) -> Status {
    let mut rest = bytes;
    let mut output = Vec::with_capacity(MAX_REPLY_BYTES);
    while !rest.is_empty() {
        let (mut piece, later) = rest.split_at(random.below(rest.len()) + 1);
        rest = later;
        loop {
            output.clear();
            let before = piece.len();
            let status = session.receive(&mut piece, &mut output);
            assert!(output.len() <= MAX_REPLY_BYTES);
            match status {
                Status::Replied => assert!(piece.len() < before && !output.is_empty()),
                Status::NeedsInput => {
                    assert!(piece.is_empty() && output.is_empty());
                    break;
                }
                Status::Closed => return status,
            }
        }
    }
    Status::NeedsInput
}

fn with_target(test: impl FnOnce(&Target<'_>)) {
    let (bytes, wasm) = (small_dump(), module());
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let files = [SymbolFile::new(PATH, &wasm)];
    test(&Target::new(&dump, &files, &Options::new()).unwrap());
}

fn still_works(target: &Target<'_>) {
    let mut client = Client::new(target);
    assert_eq!(client.ask("QStartNoAckMode"), "OK");
    assert_eq!(client.call_stack(1).len(), 2);
}

#[test]
fn random_packets_and_garbage_never_panic() {
    with_target(|target| {
        let mut random = Random(0x5eed);
        let ((), peak) = peak(|| {
            let mut session = Session::new(target);
            for round in 0..10_000 {
                let mut packet = PACKETS[random.below(PACKETS.len())].as_bytes().to_vec();
                for _ in 0..random.below(4) {
                    match random.below(6) {
                        0 => packet.extend(format!("{:x}", random.next()).bytes()),
                        1 => packet.extend(format!("{:x}", random.below(0x2_0000)).bytes()),
                        2 => packet.extend(format!("{}", random.below(4)).bytes()),
                        3 => packet.push(b",;:.-+x\0\xff}#$*"[random.below(13)]),
                        4 => packet.push(b','),
                        _ => packet.push(b';'),
                    }
                }
                let mut bytes = frame(&packet);
                if random.below(8) == 0 {
                    let at = random.below(bytes.len());
                    bytes[at] = random.next().to_le_bytes()[0];
                }
                if send(&mut session, &bytes, &mut random) == Status::Closed || round % 100 == 0 {
                    session = Session::new(target);
                }
            }
            for _ in 0..200 {
                let bytes: Vec<u8> =
                    (0..random.below(4000)).map(|_| random.next().to_le_bytes()[0]).collect();
                let _ = send(&mut Session::new(target), &bytes, &mut random);
            }
        });
        // The output of the test counts as well.
        assert!(peak < (1 << 20) + MAX_REPLY_BYTES as u64, "{peak} bytes");
        still_works(target);
    });
}

#[test]
fn packets_that_are_too_long_end_the_session_with_bounded_memory() {
    with_target(|target| {
        let mut random = Random(7);
        let mut long = b"$x".to_vec();
        long.resize(MAX_PACKET_BYTES * 4, b'0');
        let (status, peak) = peak(|| send(&mut Session::new(target), &long, &mut random));
        assert_eq!(status, Status::Closed);
        assert!(peak < 1 << 20, "{peak} bytes");
        // The longest packet, unknown.
        let longest = frame(&vec![b'q'; MAX_PACKET_BYTES]);
        let mut output = Vec::new();
        let mut session = Session::new(target);
        assert_eq!(session.receive(&mut &longest[..], &mut output), Status::Replied);
        assert_eq!(output, b"+$#00");
        still_works(target);
    });
}

#[test]
fn bad_checksums_are_refused_and_later_end_the_session() {
    with_target(|target| {
        let mut session = Session::new(target);
        let mut output = Vec::new();
        assert_eq!(session.receive(&mut &b"$?#00"[..], &mut output), Status::Replied);
        assert_eq!(output, b"-");
        output.clear();
        let ack = frame(b"QStartNoAckMode");
        assert_eq!(session.receive(&mut &ack[..], &mut output), Status::Replied);
        assert_eq!(output, b"+$OK#9a");
        output.clear();
        assert_eq!(session.receive(&mut &b"$?#00"[..], &mut output), Status::Closed);
        assert!(output.is_empty());
        still_works(target);
    });
}

/// A dialogue that is cut at each byte gets the same replies as one that is not.
#[test]
fn packets_can_be_cut_at_every_byte() {
    with_target(|target| {
        let packets = ["QStartNoAckMode", "qSupported:", "?", "qWasmCallStack:1", "x0,10", "D"];
        let stream: Vec<u8> = packets.iter().flat_map(|packet| frame(packet.as_bytes())).collect();
        let run = |pieces: &[&[u8]]| {
            let mut session = Session::new(target);
            let mut output = Vec::new();
            for mut piece in pieces.iter().copied() {
                while session.receive(&mut piece, &mut output) == Status::Replied {}
            }
            output
        };
        let whole = run(&[&stream]);
        assert!(whole.ends_with(b"$OK#9a"));
        for at in 0..stream.len() {
            let (first, second) = stream.split_at(at);
            assert_eq!(run(&[first, second]), whole, "cut at {at}");
        }
        let bytes: Vec<_> = stream.chunks(1).collect();
        assert_eq!(run(&bytes), whole);
    });
}

/// The values of a frame are decoded for the client, and nothing else is kept.
#[test]
fn a_target_of_a_long_stack_takes_little_memory() {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    let frames = std::iter::repeat_n(call(instance, RECURSES), 300_000);
    guest.add_thread(corestream::Thread::new("main").with_frames(frames));
    let bytes = to_vec(&guest);
    let wasm = module();
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let ((), peak) = peak(|| {
        let target = Target::new(&dump, &[], &Options::new()).unwrap();
        let mut client = Client::new(&target);
        assert!(client.call_stack(1).len() < 300_000);
        assert_eq!(client.ask("qWasmStackValue:9999;0"), "07000000");
        assert_eq!(client.ask("qWasmStackValue:0;0"), "07000000");
        let _ = &wasm;
    });
    assert!(peak < 4 << 20, "{peak} bytes");
}
