//! Guests of many gigabytes, made of little memory: one memfd mapped many times, and sparse files.
//! Each dump is complete, valid in its structure, made without copying the guest, and needs less
//! than 16 MiB beside it.
#![allow(unsafe_code, reason = "an allocator that counts, and mappings of one memfd")]
#![allow(clippy::print_stdout, reason = "a test says what it measured")]

mod common;
#[path = "common/mapped.rs"]
mod mapped;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use corestream::read::Verdict;
use corestream::{
    CoreDump, CoreDumpFile, Dumper, ErrorKind, FileOptions, Memory, MemoryImage, MemoryIndex,
    MemoryType, Piece, PipeSink, Plan, Sink, SocketSink, limits,
};
use rustix::mm::{MapFlags, ProtFlags};

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's duties are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's duties are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The tests of this file run one after the other: they measure what the process allocates.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The peak of what is allocated while `work` runs, over what was before, in bytes.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = work();
    (result, PEAK.load(Ordering::Relaxed) - before)
}

/// A memory of `len` bytes that repeats the bytes of one memfd.
struct Repeated {
    start: *mut std::ffi::c_void,
    len: usize,
}

impl Repeated {
    fn new(part: &[u8], len: usize) -> Self {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let mut memfd = File::from(rustix::fs::memfd_create("repeated", flags).unwrap());
        memfd.write_all(part).unwrap();
        let (none, private) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new range of addresses that nobody else uses.
        let start =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, none, private) }.unwrap();
        for offset in (0..len).step_by(part.len()) {
            let part_len = part.len().min(len - offset);
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            // SAFETY: the range lies in the one that was reserved above.
            let mapped = unsafe {
                let at = start.cast::<u8>().add(offset).cast();
                rustix::mm::mmap(at, part_len, ProtFlags::READ, flags, &memfd, 0)
            };
            mapped.unwrap();
        }
        Self { start, len }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` are mapped for reading as long as `self` lives, and
        // nobody has a descriptor to write to them any more.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }
}

impl Drop for Repeated {
    fn drop(&mut self) {
        // SAFETY: the range is `self`'s own, and no borrow of it outlives `self`.
        unsafe { rustix::mm::munmap(self.start, self.len) }.unwrap();
    }
}

/// Bytes that are never zero.
fn dense(len: usize) -> Vec<u8> {
    let mut random = common::Random(99);
    (0..len / 8).flat_map(|_| (random.next() | 0x0101_0101_0101_0101).to_le_bytes()).collect()
}

/// A reader of a stream, written for this test: follows the sections byte by byte and compares the
/// payload of each segment with the image, and the image outside of segments with zero.
struct Checker<'i> {
    images: Vec<&'i [u8]>,
    /// For each memory where the next segment may begin.
    next: Vec<usize>,
    state: State,
    /// Bytes of a header that is not complete.
    pending: Vec<u8>,
    /// Bytes that are left of the section in hand.
    section: u64,
    /// Segments that are left of the section in hand.
    segments: u32,
    all_segments: Vec<u32>,
    written: u64,
}

#[derive(Clone, Copy)]
enum State {
    Start,
    Section,
    Skip,
    Segment,
    Payload { memory: usize, len: usize },
}

impl<'i> Checker<'i> {
    fn new(images: Vec<&'i [u8]>) -> Self {
        let next = vec![0; images.len()];
        let (state, pending, all_segments) = (State::Start, Vec::new(), Vec::new());
        Self { images, next, state, pending, section: 0, segments: 0, all_segments, written: 0 }
    }

    /// Takes what it can of `bytes`; `None` if it needs more than there are.
    fn step(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = Cursor { bytes, at: 0 };
        match self.state {
            State::Start => {
                assert_eq!(at.take(8)?, b"\0asm\x01\0\0\0");
                self.state = State::Section;
            }
            State::Section => {
                assert_eq!((self.section, self.segments), (0, 0), "the section before is complete");
                let id = at.take(1)?[0];
                let section = at.leb()?;
                let body = at.at;
                let mut holds_segments = id == 11;
                if id == 0 {
                    let len = usize::try_from(at.leb()?).unwrap();
                    holds_segments = at.take(len)? == common::CONTINUATION.as_bytes();
                }
                if holds_segments {
                    self.segments = u32::try_from(at.leb()?).unwrap();
                    self.all_segments.push(self.segments);
                    self.state = State::Segment;
                } else {
                    self.state = State::Skip;
                }
                self.section = section - (at.at - body) as u64;
            }
            State::Skip => {
                let len = bytes.len().min(usize::try_from(self.section).unwrap());
                at.take(len)?;
                self.section -= len as u64;
            }
            State::Segment => {
                let memory = match at.take(1)?[0] {
                    0 => 0,
                    2 => usize::try_from(at.leb()?).unwrap(),
                    flag => panic!("flag {flag}"),
                };
                let address = match at.take(1)?[0] {
                    0x41 => at.sleb()? & 0xffff_ffff,
                    0x42 => at.sleb()?,
                    opcode => panic!("opcode {opcode:#x}"),
                };
                assert_eq!(at.take(1)?, [0x0b]);
                let len = usize::try_from(at.leb()?).unwrap();
                self.section -= at.at as u64;
                self.segments -= 1;
                let address = usize::try_from(address).unwrap();
                let between = &self.images[memory][self.next[memory]..address];
                assert!(between.iter().all(|b| *b == 0), "data before {address:#x} is left out");
                self.next[memory] = address;
                self.state = State::Payload { memory, len };
            }
            State::Payload { memory, len } => {
                let part = bytes.len().min(len);
                let from = self.next[memory];
                let expected = &self.images[memory][from..from + part];
                assert!(bytes[..part] == *expected, "memory {memory} at {from:#x}");
                at.take(part)?;
                self.next[memory] += part;
                self.section -= part as u64;
                self.state = State::Payload { memory, len: len - part };
            }
        }
        self.state = match self.state {
            State::Skip if self.section == 0 => State::Section,
            State::Payload { len: 0, .. } if self.segments == 0 => State::Section,
            State::Payload { len: 0, .. } => State::Segment,
            same => same,
        };
        Some(at.at)
    }

    /// The number of segments of each section that has any.
    fn finish(self, plan: &Plan<'_>) -> Vec<u32> {
        assert!(matches!(self.state, State::Section) && self.pending.is_empty(), "cut off");
        assert_eq!(self.written, plan.len());
        for (image, next) in self.images.iter().zip(&self.next) {
            assert!(image[*next..].iter().all(|b| *b == 0), "data from {next:#x} on is left out");
        }
        self.all_segments
    }
}

struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    fn take(&mut self, len: usize) -> Option<&'b [u8]> {
        let taken = self.bytes.get(self.at..self.at + len)?;
        self.at += len;
        Some(taken)
    }

    /// An unsigned LEB128.
    fn leb(&mut self) -> Option<u64> {
        self.leb_bits().map(|(value, ..)| value)
    }

    /// A signed LEB128, as the address that it stands for.
    fn sleb(&mut self) -> Option<u64> {
        let (value, bits, last) = self.leb_bits()?;
        Some(if last & 0x40 != 0 && bits < 64 { value | u64::MAX << bits } else { value })
    }

    /// The value, how many bits it was written with, and the last byte.
    fn leb_bits(&mut self) -> Option<(u64, u32, u8)> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some((value, shift + 7, byte));
            }
        }
        panic!("a LEB128 of more than ten bytes");
    }
}

impl Write for Checker<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            let in_payload = matches!(self.state, State::Payload { .. } | State::Skip);
            if in_payload && self.pending.is_empty() {
                let taken = self.step(rest).unwrap();
                rest = &rest[taken..];
            } else {
                self.pending.push(rest[0]);
                rest = &rest[1..];
                let pending = std::mem::take(&mut self.pending);
                match self.step(&pending) {
                    Some(taken) => assert_eq!(taken, pending.len()),
                    None => self.pending = pending,
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Plans and streams a dump of `images` and checks all of it; gives the segments of each section.
fn check(images: &[&[u8]], ty: impl Fn(u64) -> MemoryType, max_segments: u32) -> Vec<u32> {
    let mut dump = CoreDump::new("large");
    for image in images {
        let ty = ty((image.len() as u64).div_ceil(65_536));
        dump.add_memory(Memory::new(ty, MemoryImage::from_slice(image)));
    }
    let mut checker = Checker::new(images.to_vec());
    let (plan, peak) = peak_of(|| {
        let plan = Dumper::new().max_segments(max_segments).threads(2).plan(&dump).unwrap();
        plan.write_to(&mut checker).unwrap();
        plan
    });
    assert!(peak < 16 * MIB, "{peak} bytes beside the guest");
    println!("{} bytes, {} segments, {peak} bytes beside", plan.len(), plan.segments().len());
    checker.finish(&plan)
}

#[test]
fn dense_1_gib_is_a_handful_of_segments() {
    let _alone = alone();
    let guest = Repeated::new(&dense(64 * MIB), GIB);
    assert_eq!(check(&[guest.bytes()], MemoryType::wasm32, 100_000), [1]);
}

#[test]
fn dense_4_gib_of_memory32_goes_on_after_the_data_section() {
    let _alone = alone();
    let guest = Repeated::new(&dense(64 * MIB), 4 * GIB);
    assert_eq!(check(&[guest.bytes()], MemoryType::wasm32, 100_000), [1, 1]);
}

#[test]
fn dense_5_gib_of_memory64_goes_on_after_the_data_section() {
    let _alone = alone();
    let guest = Repeated::new(&dense(64 * MIB), 5 * GIB);
    assert_eq!(check(&[guest.bytes()], MemoryType::wasm64, 100_000), [1, 1]);
}

/// Compares what is written to it with an image.
struct Compare<'i> {
    rest: &'i [u8],
}

impl Write for Compare<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (now, later) = self.rest.split_at(bytes.len());
        assert!(bytes == now, "{} bytes before the end", self.rest.len());
        self.rest = later;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A dump of 5 GiB on disk: read back it is the image, with little memory, and verified.
#[test]
fn dense_5_gib_come_back_from_disk() {
    let _alone = alone();
    let guest = Repeated::new(&dense(64 * MIB), 5 * GIB);
    let mut dump = CoreDump::new("large");
    let image = MemoryImage::from_slice(guest.bytes());
    dump.add_memory(Memory::new(MemoryType::wasm64(5 << 14), image));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guest.core");
    Dumper::new().plan(&dump).unwrap().write_file(&path).unwrap();
    let ((), peak) = peak_of(|| {
        let read = CoreDumpFile::open(&path).unwrap();
        let memory = read.memory(MemoryIndex(0)).unwrap();
        let coverage = memory.coverage();
        assert_eq!((coverage.segments, coverage.data_bytes), (2, 5 << 30));
        let mut compare = Compare { rest: guest.bytes() };
        memory.write_to(&mut compare).unwrap();
        assert!(compare.rest.is_empty());
        let Verdict::Intact(whole) = read.verify().unwrap() else { panic!("it is whole") };
        assert!(whole.checksums && whole.segments == 2);
    });
    println!("{peak} bytes to read 5 GiB back");
    assert!(peak < 16 * MIB, "{peak} bytes");
}

/// Sums up what is written to it.
#[derive(Default)]
struct Sum(crc32fast::Hasher);

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// 2 GiB of live memory, and 256 MiB of a sparse file, to the other end of sockets and a pipe.
#[test]
fn dense_2_gib_over_sockets_and_a_pipe() {
    let _alone = alone();
    let guest = Repeated::new(&dense(64 * MIB), 2 * GIB);
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&guest.bytes()[..256 * MIB], 0).unwrap();
    file.set_len(2 << 30).unwrap();
    let live = MemoryImage::from_slice(guest.bytes());
    for image in [live, mapped::from_file(file)] {
        let mut dump = CoreDump::new("large");
        dump.add_memory(Memory::new(MemoryType::wasm32(2 << 14), image));
        let plan = Dumper::new().plan(&dump).unwrap();
        let mut expected = Sum::default();
        plan.write_to(&mut expected).unwrap();
        let expected = expected.0.finalize();

        let (pipe_reader, pipe) = io::pipe().unwrap();
        let (unix_reader, unix) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let tcp_reader = listener.accept().unwrap().0;
        let ends: [(&str, OwnedFd, OwnedFd); 3] = [
            ("pipe", pipe_reader.into(), pipe.into()),
            ("Unix", unix_reader.into(), unix.into()),
            ("TCP", tcp_reader.into(), tcp.into()),
        ];
        for (kind, reader, writer) in ends {
            let (sum, peak) = peak_of(|| {
                let reading = thread::spawn(move || {
                    let (mut reader, mut sum) = (File::from(reader), Sum::default());
                    let mut buffer = vec![0; MIB];
                    loop {
                        match io::Read::read(&mut reader, &mut buffer).unwrap() {
                            0 => return sum.0.finalize(),
                            n => sum.write_all(&buffer[..n]).unwrap(),
                        }
                    }
                });
                match kind {
                    "pipe" => plan.write_to(&mut PipeSink::new(&writer)).unwrap(),
                    _ => plan.write_to(&mut SocketSink::new(&writer)).unwrap(),
                }
                drop(writer);
                reading.join().unwrap()
            });
            assert_eq!(sum, expected, "{kind}");
            assert!(peak < 16 * MIB, "{kind}: {peak} bytes");
        }
    }
}

/// Far more gaps than the budget, all of one length: the list of gaps stays bounded.
#[test]
fn millions_of_gaps_need_no_more_memory() {
    let _alone = alone();
    let mut part = dense(64 * MIB);
    for object in part.chunks_mut(128) {
        object[80..].fill(0);
    }
    let guest = Repeated::new(&part, GIB);
    assert_eq!(check(&[guest.bytes()], MemoryType::wasm32, 100_000), [100_000]);
    assert_eq!(check(&[guest.bytes(), &part], MemoryType::wasm64, 7), [7]);
    assert_eq!(check(&[guest.bytes(), &part], MemoryType::wasm64, 1), [2]);
}

/// Records where payload lies, which is what lies in the guest; keeps nothing.
struct Addresses {
    guest: std::ops::Range<usize>,
    payload: Vec<std::ops::Range<usize>>,
    other: u64,
}

impl Sink for Addresses {
    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        for piece in pieces {
            let range = piece.bytes.as_ptr_range();
            if !self.guest.contains(&range.start.addr()) {
                self.other += piece.len();
                continue;
            }
            // A piece of many megabytes comes in parts.
            match self.payload.last_mut() {
                Some(last) if last.end == range.start.addr() => last.end = range.end.addr(),
                _ => self.payload.push(range.start.addr()..range.end.addr()),
            }
        }
        Ok(pieces.iter().map(|piece| piece.bytes.len()).sum())
    }
}

/// Everything of the guest reaches the sink where it lies.
#[test]
fn no_payload_is_copied() {
    let _alone = alone();
    let mut part = vec![0; 16 * MIB];
    let mut random = common::Random(5);
    for object in part.chunks_mut(5000) {
        let len = object.len();
        object[..1 + random.below(len as u64)].fill(7);
    }
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm32(256), MemoryImage::from_slice(&part)));
    let plan = Dumper::new().plan(&dump).unwrap();
    let guest = part.as_ptr_range();
    let guest = guest.start.addr()..guest.end.addr();
    let mut sink = Addresses { guest, payload: Vec::new(), other: 0 };
    plan.write_to(&mut sink).unwrap();
    let start = part.as_ptr().addr();
    assert_eq!(sink.payload.len(), plan.segments().len());
    for (range, segment) in sink.payload.iter().zip(plan.segments()) {
        let address = start + usize::try_from(segment.address).unwrap();
        assert_eq!(*range, address..address + segment.len as usize);
    }
    assert_eq!(sink.other + plan.stats().data_bytes, plan.len());
}

/// 1 TiB of which 64 MiB are data: the rest is neither read nor costs anything.
#[test]
fn sparse_1_tib_costs_its_data() {
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let len = 1 << 40;
    file.as_file().set_len(len).unwrap();
    let part = dense(MIB);
    let at = |i: u64| i * (len / 64) + 12_288 * i;
    for i in 0..64 {
        file.as_file().write_all_at(&part, at(i)).unwrap();
    }
    // Nobody has it open for writing.
    let file = file.into_temp_path();
    let mut dumps = Vec::new();
    for image in [mapped::open(&file), MemoryImage::open(&file).unwrap()] {
        let mut dump = CoreDump::new("sparse");
        dump.add_memory(Memory::new(MemoryType::wasm64(len / 65_536), image));
        let ((), peak) = peak_of(|| {
            let plan = Dumper::new().plan(&dump).unwrap();
            // Room to round to blocks of the file system.
            assert!(plan.stats().extent_bytes <= 65 * MIB as u64, "{:?}", plan.stats());
            assert_eq!(plan.segments().len(), 64);
            for (i, segment) in (0..).zip(plan.segments()) {
                assert_eq!((segment.address, segment.len as usize), (at(i), part.len()));
            }
            let mut output = tempfile::tempfile().unwrap();
            plan.write_to(&mut output).unwrap();
            dumps.push(output);
        });
        assert!(peak < 16 * MIB, "{peak} bytes");
    }
    let mut bytes = [Vec::new(), Vec::new()];
    for (dump, bytes) in dumps.iter_mut().zip(&mut bytes) {
        dump.seek(SeekFrom::Start(0)).unwrap();
        io::Read::read_to_end(dump, bytes).unwrap();
    }
    assert!(bytes[0] == bytes[1], "a mapped image and one that is read give the same dump");
    let decoded = common::decode(&bytes[0]);
    assert!(decoded.segments.iter().all(|s| s.data == part));

    // And back to a sparse file of 1 TiB.
    let read = CoreDumpFile::from_slice(&bytes[0]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("memory");
    let memory = read.memory(MemoryIndex(0)).unwrap();
    let restored = memory.restore(&path, FileOptions::new()).unwrap();
    assert_eq!((restored.len, restored.data), (len, 64 << 20));
    let image = MemoryImage::open(&path).unwrap();
    assert_eq!(image.len(), len);
    let mut again = CoreDump::new("sparse");
    again.add_memory(Memory::new(MemoryType::wasm64(len / 65_536), image));
    let plan = Dumper::new().plan(&again).unwrap();
    assert!(plan.stats().extent_bytes <= 66 * MIB as u64, "{:?}", plan.stats());
    assert!(plan.to_vec().unwrap() == bytes[0]);
}

/// Holes are read where they are not trusted, with the same result.
#[test]
fn holes_that_are_not_trusted_are_read() {
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(64 * MIB as u64 + 5).unwrap();
    file.as_file().write_all_at(b"here", 40 * MIB as u64).unwrap();
    for image in [mapped::open(file.path()), MemoryImage::open(file.path()).unwrap()] {
        let mut dump = CoreDump::new("sparse");
        dump.add_memory(Memory::new(MemoryType::wasm32(1025), image));
        let trusting = Dumper::new().plan(&dump).unwrap();
        let reading = Dumper::new().trust_holes(false).plan(&dump).unwrap();
        assert_eq!(reading.stats().extent_bytes, 64 * MIB as u64 + 5);
        assert!(trusting.stats().extent_bytes < MIB as u64);
        assert_eq!(trusting.to_vec().unwrap(), reading.to_vec().unwrap());
        assert_eq!(trusting.segments().len(), 1);
    }
}

/// An image file that was cut since it was opened is an error, for a hole at its end too.
#[test]
fn a_cut_image_is_an_error() {
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all_at(&dense(MIB), 0).unwrap();
    let mut dump = CoreDump::new("cut");
    let image = MemoryImage::open(file.path()).unwrap();
    dump.add_memory(Memory::new(MemoryType::wasm32(16), image));
    let plan = Dumper::new().plan(&dump).unwrap();
    file.as_file().set_len(4096 * 3).unwrap();
    for trust in [false, true] {
        let error = Dumper::new().trust_holes(trust).plan(&dump).unwrap_err();
        assert_eq!(error.kind(), corestream::ErrorKind::Image);
        assert!(error.to_string().contains("was truncated to 12288 bytes"), "{error}");
    }
    let error = plan.write_to(&mut io::sink()).unwrap_err();
    assert!(error.to_string().contains("was truncated to 12288 bytes"), "{error}");
}

/// A custom section with a list of `count` items after the bytes `before`, and `after` them.
fn list(name: &str, before: &[u8], item: &[u8], count: usize, after: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    common::own::leb(&mut body, name.len());
    body.extend(name.bytes());
    body.extend(before);
    common::own::leb(&mut body, count);
    body.extend(item.repeat(count));
    body.extend(after);
    let mut section = vec![0];
    common::own::leb(&mut section, body.len());
    section.extend(body);
    section
}

/// A section of 16 MiB of frames is decoded when it is asked for, and not before; no item of a list costs more than its
/// limit allows, and one that is over its limit costs nothing.
#[test]
fn lists_of_a_hostile_dump_cost_no_memory() {
    let _alone = alone();
    let of = |sections: &[Vec<u8>]| {
        let mut bytes = b"\0asm\x01\0\0\0\0\x07\x04core\0\0\0\x0d\x0bcoremodules\0".to_vec();
        bytes.extend(sections.concat());
        bytes
    };
    let instance = |count| list("coreinstances", &[1, 0, 0], &[7], count, &[0]);
    let frame = |count| list("corestack", &[0, 0, 1, 0, 0, 2, 3, 0], &[1], count, &[]);
    let many = 16 * MIB;
    let frames = list("corestack", &[0, 0], &[0, 0, 2, 3, 0, 0], many / 6, &[]);
    let bytes = of(&[instance(limits::MAX_GLOBALS), frames, frame(limits::MAX_FRAME_VALUES)]);
    let (dump, peak) = peak_of(|| CoreDumpFile::from_slice(&bytes).unwrap());
    assert!(peak < MIB, "{peak} bytes to open");
    let frames = |thread: usize| dump.thread(thread).unwrap().frames();
    let (read, peak) = peak_of(|| frames(0).filter(|frame| frame.is_ok()).count());
    assert_eq!(read, many / 6);
    assert!(peak < MIB, "{peak} bytes to read frames");
    let (memories, peak) = peak_of(|| dump.instances().next().unwrap().unwrap().memories.len());
    assert_eq!(memories, limits::MAX_GLOBALS);
    assert!(peak < 16 * MIB, "{peak} bytes to read an instance");
    let (values, peak) = peak_of(|| frames(1).next().unwrap().unwrap().stack.len());
    assert_eq!(values, limits::MAX_FRAME_VALUES);
    assert!(peak < 8 * MIB, "{peak} bytes to read a frame");
    let (verdict, peak) =
        peak_of(|| corestream::read::Verifier::new().verify_stream(&bytes[..]).unwrap());
    assert!(verdict.is_intact(), "{verdict:?}");
    assert!(peak < MIB, "{peak} bytes to verify");

    for (sections, message) in [
        (vec![instance(many)], "16777216 indices are over the limit"),
        (vec![instance(0), frame(many)], "more than the limit of 262144 locals or operands"),
    ] {
        let bytes = of(&sections);
        let (error, peak) = peak_of(|| CoreDumpFile::from_slice(&bytes).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(message), "{error}");
        assert!(peak < MIB, "{peak} bytes to refuse an item");
    }
}

/// A stream of 4 GiB is verified in the memory of its buffer.
#[test]
fn a_stream_is_verified_in_bounded_memory() {
    use std::io::Read;

    let _alone = alone();
    let mut guest = CoreDump::new("guest");
    let ty = MemoryType::wasm32(65_536);
    guest.add_memory(Memory::new(ty, MemoryImage::from_slice(&[])));
    let mut head = common::own::without(&Dumper::new().plan(&guest).unwrap().to_vec().unwrap());
    let len = (4_usize << 30) - 16;
    let mut body = vec![1, 0, 0x41, 0, 0x0b];
    common::own::leb(&mut body, len);
    head.push(11);
    common::own::leb(&mut head, body.len() + len);
    head.extend(body);
    for missing in [0, 1] {
        let stream = head.chain(io::repeat(7).take(len as u64 - missing));
        let (verdict, peak) =
            peak_of(|| corestream::read::Verifier::new().verify_stream(stream).unwrap());
        assert!(peak < MIB, "{peak} bytes");
        match verdict {
            Verdict::Intact(whole) => {
                assert_eq!((missing, whole.bytes), (0, (head.len() + len) as u64));
            }
            Verdict::Damaged(damage) => assert!(missing == 1 && damage.truncated, "{damage}"),
        }
    }
}

/// Images that have more bytes together than 64 bits can count.
#[test]
fn more_bytes_than_64_bits_can_count() {
    let _alone = alone();
    let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(file);
    let len = 1 << 62;
    file.set_len(len).unwrap();
    file.write_all_at(b"last", len - 4).unwrap();
    let mut dump = CoreDump::new("large");
    for _ in 0..5 {
        let image = MemoryImage::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        dump.add_memory(Memory::new(MemoryType::wasm64(len / 65_536), image.unwrap()));
    }
    let plan = Dumper::new().plan(&dump).unwrap();
    let bytes = u128::from(len) * 5;
    assert_eq!((plan.stats().image_bytes, plan.stats().memory_bytes), (bytes, bytes));
    let bytes = plan.to_vec().unwrap();
    let read = CoreDumpFile::from_slice(&bytes).unwrap();
    for memory in read.memories() {
        let mut end = [1; 8];
        memory.read(len - 8, &mut end).unwrap();
        assert_eq!(end, *b"\0\0\0\0last");
        assert_eq!(memory.coverage().segments, 1);
    }
}
