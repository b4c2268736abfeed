//! Pipes and sockets: lending and copying give the same bytes, whatever the descriptor and its reader do, and the
//! memory of a live guest is never lent.

use crate::{common, ends, mapped, still};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use corestream::{
    Cancel, CoreDump, Dumper, ErrorKind, FileSink, Memory, MemoryImage, MemoryType, Piece,
    PipeSink, Plan, Result, Sink, SocketSink,
};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{SpliceFlags, fcntl_getpipe_size, splice};

const MIB: usize = 1 << 20;

/// The two ends of a pipe or a socket.
struct Ends {
    kind: &'static str,
    reader: File,
    writer: File,
}

impl Ends {
    fn new(kind: &'static str) -> Self {
        let (reader, writer) = ends::ends(kind);
        Self { kind, reader: reader.into(), writer: writer.into() }
    }

    fn all() -> [Self; 3] {
        ["pipe", "unix", "tcp"].map(Self::new)
    }

    fn non_blocking(self) -> Self {
        let flags = fcntl_getfl(&self.writer).unwrap();
        fcntl_setfl(&self.writer, flags | OFlags::NONBLOCK).unwrap();
        self
    }

    /// Returns the sink for this kind.
    fn sink(&self, how: How) -> Box<dyn Sink + '_> {
        match self.kind {
            "pipe" => Box::new(PipeSink::new(&self.writer).lend(how.lend)),
            _ => Box::new(SocketSink::new(&self.writer).lend(how.lend)),
        }
    }

    /// Writes a dump to the writer's end.
    fn write(&self, plan: &Plan<'_>, how: How) -> Result<()> {
        plan.writer().stall_timeout(how.timeout).write_to(&mut *self.sink(how))
    }
}

/// The options of a sink.
#[derive(Clone, Copy, Debug)]
struct How {
    timeout: Option<Duration>,
    lend: bool,
}

const PLAIN: How = How { timeout: None, lend: false };
const FAST: How = How { timeout: None, lend: true };
const TIMED: How = How { timeout: Some(Duration::from_secs(30)), lend: true };

/// Returns bytes with a few gaps, so that there are segments of all lengths.
fn image(len: usize, seed: u64) -> Vec<u8> {
    let mut random = common::Random(seed);
    let mut bytes: Vec<u8> = (0..len).map(|_| (random.next() | 1).to_le_bytes()[0]).collect();
    let mut at = 0;
    while at < len {
        let run = [40, 3000, 20_000, 300_000, 2_000_000][random.below(5)];
        at += random.below(run);
        let gap = 40 + random.below(5000);
        bytes[at.min(len)..(at + gap).min(len)].fill(0);
        at += gap;
    }
    bytes
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all_at(bytes, 0).unwrap();
    file
}

/// Returns an image that cannot change: a sealed memfd.
fn sealed(bytes: &[u8]) -> MemoryImage<'static> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

    let memfd = File::from(memfd_create("guest", MemfdFlags::ALLOW_SEALING).unwrap());
    memfd.write_all_at(bytes, 0).unwrap();
    fcntl_add_seals(&memfd, SealFlags::WRITE | SealFlags::SHRINK).unwrap();
    mapped::from_file(memfd)
}

/// A guest with memories of every kind: mapped files, one of which has only tiny segments, a slice, a file that is
/// read, one that cannot change, and a shared memory.
struct Guest {
    bytes: Vec<Vec<u8>>,
    files: Vec<tempfile::NamedTempFile>,
}

impl Guest {
    fn new() -> Self {
        let mut tiny = vec![0; 3 * MIB];
        tiny.chunks_mut(100).for_each(|object| object[7..20].fill(3));
        let bytes = vec![image(9 * MIB + 77, 1), tiny, image(5 * MIB, 2), image(3 * MIB + 5, 3)];
        let files = bytes.iter().map(|bytes| file(bytes)).collect();
        Self { bytes, files }
    }

    fn dump(&self) -> CoreDump<'_> {
        let mut dump = CoreDump::new("guest");
        let images = [
            mapped::open(self.files[0].path()),
            MemoryImage::from_slice(&self.bytes[2]),
            mapped::open(self.files[1].path()),
            MemoryImage::open(self.files[3].path()).unwrap(),
            sealed(&self.bytes[2]),
        ];
        for image in images {
            let ty = MemoryType::wasm32(image.len().div_ceil(65_536));
            dump.add_memory(Memory::new(ty, image));
        }
        let image = still::image(&self.bytes[3]);
        let ty = MemoryType::wasm32(image.len().div_ceil(65_536));
        let ty = ty.with_maximum(1000).with_shared();
        dump.add_memory(Memory::new(ty, image));
        dump
    }
}

/// Reads to the end, at most `step` bytes at once.
fn read_all(mut reader: File, step: usize) -> Vec<u8> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; step]);
    loop {
        match reader.read(&mut buffer).unwrap() {
            0 => return bytes,
            n => bytes.extend(&buffer[..n]),
        }
    }
}

/// Sends a dump to a reader that reads at most `step` bytes at once. Returns what it gets.
fn sent(plan: &Plan<'_>, ends: Ends, how: How, step: usize) -> Vec<u8> {
    let reader = ends.reader.try_clone().unwrap();
    let reading = thread::spawn(move || read_all(reader, step));
    ends.write(plan, how).unwrap();
    drop(ends);
    reading.join().unwrap()
}

#[test]
fn writes_the_same_bytes_in_every_way() {
    let guest = Guest::new();
    let dump = guest.dump();
    let plan = Dumper::new().threads(2).plan(&dump).unwrap();
    let expected = plan.to_vec().unwrap();
    let decoded = common::decode(&expected);
    assert!(decoded.contents(0, guest.bytes[0].len()) == guest.bytes[0]);
    assert!(plan.segments().len() > 30_000);
    for how in [PLAIN, FAST, TIMED] {
        for ends in Ends::all() {
            let kind = ends.kind;
            assert!(sent(&plan, ends, how, 1 << 20) == expected, "{kind}, {how:?}");
        }
        for ends in Ends::all() {
            let kind = ends.kind;
            // An odd step and a non-blocking descriptor make writes short.
            let ends = ends.non_blocking();
            assert!(sent(&plan, ends, how, 4999) == expected, "{kind}, {how:?}, non-blocking");
        }
    }
    let mut output = tempfile::tempfile().unwrap();
    plan.write_to(&mut FileSink::new(&output)).unwrap();
    let mut bytes = Vec::new();
    io::Seek::rewind(&mut output).unwrap();
    output.read_to_end(&mut bytes).unwrap();
    assert!(bytes == expected, "file");
}

/// A file that was opened to append has its position at its end, and a pipe has none.
#[test]
fn the_sink_for_files_appends_and_takes_pipes() {
    let bytes = vec![7; MIB];
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm32(16), MemoryImage::from_slice(&bytes)));
    let plan = Dumper::new().plan(&dump).unwrap();
    let expected = plan.to_vec().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    std::fs::write(&path, b"before").unwrap();
    let file = File::options().append(true).open(&path).unwrap();
    plan.write_to(&mut FileSink::new(&file)).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.strip_prefix(b"before") == Some(&expected[..]));

    let (mut reader, writer) = io::pipe().unwrap();
    let received = thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes)
    });
    plan.write_to(&mut FileSink::new(&writer)).unwrap();
    drop(writer);
    assert!(received.join().unwrap().unwrap() == expected);
}

#[test]
fn the_sink_for_sockets_refuses_datagrams() {
    let (peer, socket) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let dump = CoreDump::new("guest");
    let plan = Dumper::new().plan(&dump).unwrap();
    let error = plan.write_to(&mut SocketSink::new(&socket)).unwrap_err();
    assert!(error.to_string().contains("not a stream socket"), "{error}");
    peer.set_nonblocking(true).unwrap();
    assert!(peer.recv(&mut [0; 16]).is_err());
}

/// The sink for a pipe also takes files and sockets.
#[test]
fn writes_to_files_and_sockets_by_the_sink_for_pipes() {
    let guest = Guest::new();
    let dump = guest.dump();
    let plan = Dumper::new().plan(&dump).unwrap();
    let expected = plan.to_vec().unwrap();
    for how in [FAST, TIMED] {
        let output = tempfile::NamedTempFile::new().unwrap();
        plan.writer().stall_timeout(how.timeout).write_to(&mut PipeSink::new(&output)).unwrap();
        assert!(std::fs::read(output.path()).unwrap() == expected);
        for kind in ["unix", "tcp"] {
            let ends = Ends { kind: "pipe", ..Ends::new(kind) };
            assert!(sent(&plan, ends, how, 1 << 20) == expected, "{kind}");
        }
    }
}

/// The reader moves its pipe to another one with `splice(2)`.
#[test]
fn writes_the_same_bytes_to_a_reader_that_splices() {
    let guest = Guest::new();
    let dump = guest.dump();
    let plan = Dumper::new().plan(&dump).unwrap();
    let expected = plan.to_vec().unwrap();
    for how in [PLAIN, FAST] {
        let (ends, second) = (Ends::new("pipe"), Ends::new("pipe"));
        let reader = ends.reader.try_clone().unwrap();
        let moving = thread::spawn(move || {
            let move_on = || splice(&reader, None, &second.writer, None, MIB, SpliceFlags::MOVE);
            while move_on().unwrap() > 0 {}
        });
        let reading = {
            let reader = second.reader.try_clone().unwrap();
            thread::spawn(move || read_all(reader, MIB))
        };
        ends.write(&plan, how).unwrap();
        drop(ends);
        moving.join().unwrap();
        assert!(reading.join().unwrap() == expected, "{how:?}");
    }
}

/// Reads exactly `len` bytes.
fn read_some(mut reader: &File, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    reader.read_exact(&mut bytes).unwrap();
    bytes
}

/// Returns a dump of one memory with these bytes, which is a mapped file if there is one.
fn dense_dump<'b>(file: Option<&tempfile::NamedTempFile>, bytes: &'b [u8]) -> CoreDump<'b> {
    let image = match file {
        Some(file) => mapped::open(file.path()),
        None => MemoryImage::from_slice(bytes),
    };
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm32(512), image));
    dump
}

/// Waits until the writer of a pipe or socket makes no progress.
fn wait_until_stuck(reader: &File) {
    let (mut before, mut same) = (0, 0);
    for _ in 0..10_000 {
        let ready = rustix::io::ioctl_fionread(reader).unwrap();
        same = if ready > 0 && ready == before { same + 1 } else { 0 };
        if same == 20 {
            return;
        }
        before = ready;
        thread::sleep(Duration::from_millis(1));
    }
    panic!("the writer is not stuck after 10 seconds");
}

/// Puts an image file into a sink as pieces of a file that cannot change. The test then changes the file, which shows
/// the pages that the sink has lent.
fn put_file(ends: &Ends, how: How, file: &File, bytes: &[u8]) {
    use rustix::event::{PollFd, PollFlags, poll};

    let mut sink = ends.sink(how);
    sink.begin(bytes.len() as u64, how.timeout.is_none()).unwrap();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let part = &rest[..rest.len().min(256 << 10)];
        let offset = at as u64;
        match sink.put(&[Piece::new(offset, part).with_file(file, offset)]) {
            Ok(taken) => at += taken,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
                let fd = sink.waits_on().unwrap();
                poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], None).unwrap();
            }
        }
    }
    sink.finish().unwrap();
}

/// When a dump is finished, its slow reader may still read. By then, the pipe or socket holds no page of the image
/// file.
#[test]
fn leaves_no_page_of_the_image_in_a_pipe_or_socket() {
    let bytes = image(6 * MIB, 9);
    for kind in ["pipe", "unix", "tcp"] {
        let file = file(&bytes);
        let ends = Ends::new(kind);
        let mut got = Vec::new();
        thread::scope(|scope| {
            let writing = scope.spawn(|| put_file(&ends, FAST, file.as_file(), &bytes));
            // Reads only when the writer makes no progress.
            let mut before = 0;
            while !writing.is_finished() {
                let ready = rustix::io::ioctl_fionread(&ends.reader).unwrap();
                if ready > 0 && ready == before {
                    let len = ready.min(64 << 10);
                    got.extend(read_some(&ends.reader, usize::try_from(len).unwrap()));
                }
                before = ready;
                thread::sleep(Duration::from_micros(200));
            }
        });
        let late = bytes.len() - got.len();
        assert!(late > 20_000, "{kind}: only {late} bytes are left to read");
        file.as_file().write_all_at(&vec![0xff; bytes.len()], 0).unwrap();
        let reader = ends.reader.try_clone().unwrap();
        drop(ends);
        got.extend(read_all(reader, MIB));
        assert!(got == bytes, "{kind}");
    }
}

/// The memory of a live guest may change as soon as the dump is written, even if the reader has only moved its pipe to
/// another one.
#[test]
fn copies_live_memory() {
    let mut bytes = image(5 * MIB, 4);
    let (ends, second) = (Ends::new("pipe"), Ends::new("pipe"));
    rustix::pipe::fcntl_setpipe_size(&second.writer, MIB).unwrap();
    let (mut got, expected) = {
        let mut dump = CoreDump::new("guest");
        let image = MemoryImage::from_slice(&bytes);
        dump.add_memory(Memory::new(MemoryType::wasm32(80), image));
        let plan = Dumper::new().plan(&dump).unwrap();
        let expected = plan.to_vec().unwrap();
        let got = thread::scope(|scope| {
            scope.spawn(|| ends.write(&plan, FAST).unwrap());
            let got = read_some(&ends.reader, expected.len() - MIB / 2);
            let moved =
                splice(&ends.reader, None, &second.writer, None, MIB / 4, SpliceFlags::MOVE);
            assert!(moved.unwrap() > 0);
            got
        });
        (got, expected)
    };
    bytes.fill(0xff);
    let Ends { reader, writer, .. } = ends;
    drop(writer);
    let Ends { reader: moved, writer, .. } = second;
    drop(writer);
    got.extend(read_all(moved, MIB));
    got.extend(read_all(reader, MIB));
    assert!(got == expected);
    assert!(bytes.iter().all(|b| *b == 0xff));
}

/// Changes the file while a part of it is in the pipe or socket. The change is visible where the sink has lent it.
#[test]
fn lends_image_files_to_pipes_and_unix_sockets() {
    for (kind, how, lent) in [
        ("pipe", FAST, true),
        ("unix", FAST, true),
        ("pipe", PLAIN, false),
        ("unix", PLAIN, false),
        ("tcp", FAST, false),
        ("pipe", TIMED, true),
        // The call that lends to a socket could block.
        ("unix", TIMED, false),
    ] {
        let ones = vec![1; 16 * MIB];
        let file = file(&ones);
        let ends = Ends::new(kind);
        let reader = ends.reader.try_clone().unwrap();
        let bytes = thread::scope(|scope| {
            scope.spawn(|| put_file(&ends, how, file.as_file(), &ones));
            let mut bytes = read_some(&reader, MIB);
            wait_until_stuck(&reader);
            file.as_file().write_all_at(&vec![2; 16 * MIB], 0).unwrap();
            bytes.extend(read_some(&reader, 15 * MIB));
            bytes
        });
        let start = bytes[MIB..][..4096].iter().filter(|b| **b == 2).count();
        assert_eq!(start == 4096, lent, "{kind}, {how:?}: {start}");
    }
}

#[test]
fn enlarges_a_pipe() {
    let ends = Ends::new("pipe");
    let dump = CoreDump::new("guest");
    let plan = Dumper::new().plan(&dump).unwrap();
    plan.write_to(&mut PipeSink::new(&ends.writer)).unwrap();
    // The system may not allow more, which is not an error.
    assert!(fcntl_getpipe_size(&ends.writer).unwrap() >= 65_536);
}

/// The reader reads a little and then stops. The error says how much was written.
#[test]
fn reports_a_reader_that_stalls() {
    let bytes = vec![1; 32 * MIB];
    let file = file(&bytes);
    for mapped in [false, true] {
        for non_blocking in [false, true] {
            for ends in Ends::all() {
                let ends = if non_blocking { ends.non_blocking() } else { ends };
                let dump = dense_dump(mapped.then_some(&file), &bytes);
                let plan = Dumper::new().plan(&dump).unwrap();
                let reader = ends.reader.try_clone().unwrap();
                let reading = thread::spawn(move || (read_some(&reader, 99_999).len(), reader));
                let timeout = Duration::from_millis(30);
                let start = Instant::now();
                let how = How { timeout: Some(timeout), lend: true };
                let error = ends.write(&plan, how).unwrap_err();
                assert!(start.elapsed() >= timeout);
                assert!(start.elapsed() < Duration::from_secs(10));
                assert_eq!(error.kind(), ErrorKind::Output);
                assert_eq!(error.io_error().unwrap().kind(), io::ErrorKind::TimedOut);
                let text = error.to_string();
                let (written, rest) = text.split_once(' ').unwrap();
                let message =
                    format!("of {} bytes written: the reader took no bytes for 30ms", plan.len());
                assert_eq!(rest, message);
                // The reader can read exactly that much.
                let (read, reader) = reading.join().unwrap();
                let kind = ends.kind;
                drop(ends);
                let left = read_all(reader, MIB).len();
                assert_eq!(written.parse(), Ok(read + left), "{kind}");
            }
        }
    }
}

/// Cancels a dump that waits for its reader, with and without a timeout.
#[test]
fn cancels_a_dump_to_a_reader_that_stalls() {
    let bytes = vec![1; 32 * MIB];
    let file = file(&bytes);
    let cases = [(false, false), (false, true), (true, false), (true, true)];
    for (mapped, non_blocking) in cases {
        for timeout in [None, Some(Duration::from_secs(600))] {
            for ends in Ends::all() {
                let ends = if non_blocking { ends.non_blocking() } else { ends };
                let dump = dense_dump(mapped.then_some(&file), &bytes);
                let flag = Arc::new(AtomicBool::new(false));
                let plan = Dumper::new().cancel(flag.clone()).plan(&dump).unwrap();
                let Ends { kind, reader, writer } = ends;
                let left = Ends { kind, reader: File::open("/dev/null").unwrap(), writer };
                let (told, result) = mpsc::channel();
                let (early, late) = thread::scope(|scope| {
                    let write = || left.write(&plan, How { timeout, lend: true });
                    scope.spawn(move || told.send(write()).unwrap());
                    wait_until_stuck(&reader);
                    let early = result.try_recv();
                    flag.store(true, Ordering::Relaxed);
                    let late = result.recv_timeout(Duration::from_secs(5));
                    // Ends the writer, even if it is stuck.
                    drop(reader);
                    (early, late)
                });
                assert!(early.is_err(), "{kind}");
                let error = late.expect(kind).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Cancelled, "{kind}: {error}");
            }
        }
    }
}

/// The sink fails because it is cancelled. The result is the cancellation, not that failure.
#[test]
fn reports_the_cancellation_of_a_sink() {
    struct Stopped(Cancel);

    impl Sink for Stopped {
        fn put(&mut self, _: &[Piece<'_>]) -> io::Result<usize> {
            // Another thread could do this meanwhile.
            self.0.cancel("the host shuts down");
            Err(io::ErrorKind::TimedOut.into())
        }
    }

    let dump = CoreDump::new("guest");
    let plan = Dumper::new().plan(&dump).unwrap();
    let cancel = Cancel::new();
    let writer = plan.writer().cancel(Some(cancel.clone()));
    let error = writer.write_to(&mut Stopped(cancel)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(error.to_string(), "cancelled: the host shuts down");
    // Another writer of the same plan is not cancelled.
    plan.write_to(&mut io::sink()).unwrap();
}

/// The sink takes nothing, or reports more bytes than it was given.
#[test]
fn rejects_wrong_counts_of_a_sink() {
    struct Counts(usize);

    impl Sink for Counts {
        fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
            assert!(pieces.iter().all(|piece| !piece.bytes.is_empty()));
            Ok(self.0)
        }
    }

    let dump = CoreDump::new("guest");
    let plan = Dumper::new().checksums(false).plan(&dump).unwrap();
    for (taken, message) in [
        (0, "0 of 150 bytes written: write zero"),
        (100_000, "the sink returned 100000 as the number of bytes taken, more than it was given"),
        (usize::MAX, "more than it was given"),
    ] {
        let error = plan.write_to(&mut Counts(taken)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Output);
        assert!(error.to_string().ends_with(message), "{error}");
    }
    // One byte at a time is slow, but works.
    plan.write_to(&mut Counts(1)).unwrap();
}

/// The reader is slow, or reads nothing.
#[test]
fn ends_a_dump_at_its_deadline() {
    let bytes = vec![1; 32 * MIB];
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm32(512), MemoryImage::from_slice(&bytes)));
    let plan = Dumper::new().plan(&dump).unwrap();
    for ends in Ends::all() {
        for slow in [false, true] {
            let reader = ends.reader.try_clone().unwrap();
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut buffer = [0; 4096];
                    while slow && !done.load(Ordering::Relaxed) {
                        (&reader).read_exact(&mut buffer).unwrap();
                        thread::sleep(Duration::from_millis(5));
                    }
                });
                let deadline = Instant::now() + Duration::from_millis(60);
                let writer = plan.writer().deadline(Some(deadline));
                let error = writer.write_to(&mut *ends.sink(FAST)).unwrap_err();
                assert!(deadline <= Instant::now());
                assert_eq!(error.io_error().unwrap().kind(), io::ErrorKind::TimedOut);
                assert!(error.to_string().ends_with("the deadline has passed"), "{error}");
                done.store(true, Ordering::Relaxed);
            });
        }
    }
}

/// Pulling pieces or reading gives the bytes that a sink gets.
#[test]
fn pulls_the_bytes_that_are_written() {
    let guest = Guest::new();
    let dump = guest.dump();
    for checksums in [true, false] {
        let plan = Dumper::new().checksums(checksums).plan(&dump).unwrap();
        let expected = plan.to_vec().unwrap();
        let mut pieces = plan.pieces().unwrap();
        let (mut bytes, mut files) = (Vec::new(), 0);
        while let Some(batch) = pieces.next_batch().unwrap() {
            assert!((1..=512).contains(&batch.len()));
            assert!(batch.iter().map(Piece::len).sum::<u64>() <= 8 << 20);
            for piece in batch {
                assert_eq!(piece.offset, bytes.len() as u64);
                if let Some((file, at)) = piece.file {
                    let mut there = vec![0; piece.bytes.len()];
                    file.read_exact_at(&mut there, at).unwrap();
                    assert!(there == piece.bytes);
                    files += 1;
                }
                bytes.extend_from_slice(piece.bytes);
            }
        }
        assert!(bytes == expected && files > 0, "{files}");
        assert!(pieces.next_batch().unwrap().is_none());
        for step in [1 << 20, 4999] {
            let mut reader = plan.reader().unwrap();
            let (mut bytes, mut buffer) = (Vec::new(), vec![0; step]);
            loop {
                match reader.read(&mut buffer).unwrap() {
                    0 => break,
                    n => bytes.extend_from_slice(&buffer[..n]),
                }
            }
            assert!(bytes == expected, "{step}");
            assert_eq!(reader.read(&mut buffer).unwrap(), 0);
        }
    }
}

/// Pulling reports an image that was shortened, and gives nothing after that.
#[test]
fn reports_a_shortened_image_when_pulling() {
    for left in [0, 3 * MIB] {
        let file = file(&vec![1; 4 * MIB]);
        let mut dump = CoreDump::new("guest");
        let image = MemoryImage::open(file.path()).unwrap();
        dump.add_memory(Memory::new(MemoryType::wasm32(64), image));
        let plan = Dumper::new().plan(&dump).unwrap();
        file.as_file().set_len(left as u64).unwrap();
        let mut reader = plan.reader().unwrap();
        let mut bytes = Vec::new();
        let error = reader.read_to_end(&mut bytes).unwrap_err();
        let error = error.downcast::<corestream::Error>().unwrap();
        assert_eq!(error.kind(), ErrorKind::Image, "{error}");
        assert!(reader.read(&mut [0; 10]).is_err());
        assert!(bytes.len() <= left);
        let mut pieces = plan.pieces().unwrap();
        while pieces.next_batch().is_ok() {}
        assert!(pieces.next_batch().is_err());
    }
}

/// Cancelling ends a dump to a sink that may block, but not a reader that has given all bytes.
#[test]
fn cancels_a_dump_to_a_sink_that_may_block() {
    struct Sets(Cancel, usize);

    impl Sink for Sets {
        fn begin(&mut self, _: u64, may_block: bool) -> io::Result<()> {
            assert!(may_block);
            Ok(())
        }

        fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
            self.0.cancel("an image could not be read");
            self.1 += 1;
            Ok(pieces[0].bytes.len().min(4096))
        }
    }

    let bytes = vec![1; 4 * MIB];
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm32(64), MemoryImage::from_slice(&bytes)));
    let cancel = Cancel::new();
    let plan = Dumper::new().cancel(cancel.clone()).plan(&dump).unwrap();
    let mut reader = plan.reader().unwrap();
    let mut all = vec![0; usize::try_from(plan.len()).unwrap()];
    reader.read_exact(&mut all).unwrap();
    let mut sink = Sets(cancel, 0);
    let error = plan.writer().may_block(true).write_to(&mut sink).unwrap_err();
    assert_eq!(error.to_string(), "cancelled: an image could not be read");
    assert_eq!(sink.1, 1, "the writer checks the flag after each part");
    assert_eq!(reader.read(&mut [0; 10]).unwrap(), 0);
}

#[test]
fn sends_plans_and_readers_to_other_threads() {
    fn is_send<T: Send>(_: &T) {}
    let dump = CoreDump::new("guest");
    let plan = Dumper::new().plan(&dump).unwrap();
    let (pieces, reader) = (plan.pieces().unwrap(), plan.reader().unwrap());
    is_send(&&plan);
    is_send(&pieces);
    is_send(&reader);
    is_send(&plan.writer());
}

/// Each byte that is taken restarts the timeout.
#[test]
fn sends_everything_to_a_slow_reader() {
    let guest = image(3 * MIB, 8);
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm32(48), MemoryImage::from_slice(&guest)));
    let plan = Dumper::new().plan(&dump).unwrap();
    let expected = plan.to_vec().unwrap();
    for ends in Ends::all() {
        let ends = ends.non_blocking();
        let mut reader = ends.reader.try_clone().unwrap();
        let reading = thread::spawn(move || {
            let (mut bytes, mut buffer) = (Vec::<u8>::new(), vec![0_u8; 256 << 10]);
            loop {
                thread::sleep(Duration::from_millis(20));
                match reader.read(&mut buffer).unwrap() {
                    0 => return bytes,
                    n => bytes.extend(&buffer[..n]),
                }
            }
        });
        let how = How { timeout: Some(Duration::from_millis(250)), lend: true };
        ends.write(&plan, how).unwrap();
        drop(ends);
        assert!(reading.join().unwrap() == expected);
    }
}

#[test]
fn reports_a_reader_that_goes_away() {
    let bytes = vec![1; 32 * MIB];
    let file = file(&bytes);
    for mapped in [false, true] {
        for how in [PLAIN, FAST, TIMED] {
            for ends in Ends::all() {
                let dump = dense_dump(mapped.then_some(&file), &bytes);
                let plan = Dumper::new().plan(&dump).unwrap();
                let Ends { kind, reader, writer } = ends;
                let reading = thread::spawn(move || drop(read_some(&reader, 99_999)));
                let left = Ends { kind, reader: File::open("/dev/null").unwrap(), writer };
                let error = left.write(&plan, how).unwrap_err();
                reading.join().unwrap();
                let source = error.io_error().unwrap().kind();
                let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
                assert!(gone.contains(&source), "{kind}: {error}");
            }
        }
    }
}

/// The image file is shortened after planning.
#[test]
fn reports_a_shortened_image() {
    for ends in Ends::all() {
        let file = file(&vec![1; 16 * MIB]);
        let mut dump = CoreDump::new("guest");
        let image = mapped::open(file.path());
        dump.add_memory(Memory::new(MemoryType::wasm32(256), image));
        // Writing reads the file instead of its mapping, which would raise SIGBUS.
        let plan = Dumper::new().plan(&dump).unwrap();
        file.as_file().set_len(5 * MIB as u64 + 7).unwrap();
        let reader = ends.reader.try_clone().unwrap();
        let reading = thread::spawn(move || read_all(reader, MIB));
        let error = ends.write(&plan, FAST).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Image);
        assert!(error.to_string().contains("was truncated to 5242887 bytes"), "{error}");
        drop(ends);
        assert!(reading.join().unwrap().len() < 16 * MIB);
    }
}

/// A sink that was not begun lends nothing, but takes pieces.
#[test]
fn takes_pieces_without_begin() {
    let ends = Ends::new("pipe");
    let file = file(&vec![7; MIB]);
    let bytes = vec![7; MIB];
    let piece = Piece::new(0, &bytes[..40_000]).with_file(file.as_file(), 100);
    assert_eq!(PipeSink::new(&ends.writer).put(&[piece]).unwrap(), 40_000);
    (&ends.writer).write_all(b"end").unwrap();
    assert_eq!(read_some(&ends.reader, 40_003)[40_000..], *b"end");
}

/// A reader that takes some bytes now and then has not stalled, even if the dump takes longer than the limit.
#[test]
fn bytes_taken_restart_the_stall_timeout() {
    /// Takes 4 KiB at every second call.
    struct Slow {
        descriptor: File,
        is_ready: bool,
        taken: usize,
    }

    impl Sink for Slow {
        fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
            self.is_ready = !self.is_ready;
            if !self.is_ready {
                thread::sleep(Duration::from_millis(10));
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let len: u64 = pieces.iter().map(Piece::len).sum();
            let taken = usize::try_from(len.min(4096)).unwrap();
            self.taken += taken;
            Ok(taken)
        }

        fn waits_on(&self) -> Option<BorrowedFd<'_>> {
            Some(self.descriptor.as_fd())
        }
    }

    let image = vec![7; 256 << 10];
    let mut guest = CoreDump::new("guest");
    guest.add_memory(Memory::new(MemoryType::wasm32(4), MemoryImage::from_slice(&image)));
    let plan = Dumper::new().plan(&guest).unwrap();
    // A pipe that nothing is written to is always ready.
    let pipe = Ends::new("pipe");
    let mut sink = Slow { descriptor: pipe.writer, is_ready: false, taken: 0 };
    let limit = Duration::from_millis(300);
    let start = Instant::now();
    plan.writer().stall_timeout(Some(limit)).write_to(&mut sink).unwrap();
    assert_eq!(sink.taken as u64, plan.len());
    assert!(start.elapsed() > limit, "the dump must take longer than the limit");
}
