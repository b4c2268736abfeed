//! Guests of many gigabytes: dumping one needs less than 16 MiB in addition to the guest, and copies nothing of it.
//!
//! The guests themselves need little memory: they are one memfd that is mapped many times, or sparse files. These tests
//! are a crate of their own because they count what the process allocates.
#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::print_stdout, reason = "a test prints what it measured")]

mod common;
#[path = "common/ends.rs"]
mod ends;
#[path = "common/mapped.rs"]
mod mapped;
#[path = "common/repeated.rs"]
mod repeated;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use corestream::read::Verdict;
use corestream::{
    CoreDump, CoreDumpFile, Dumper, ErrorKind, FileOptions, Memory, MemoryImage, MemoryIndex,
    MemoryType, Piece, PipeSink, Plan, Sink, SocketSink, limits,
};
use ends::ends;
use repeated::Repeated;

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes every call on to the system allocator unchanged, and only counts sizes.
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

/// Makes the tests of this file run one after the other, because they measure what the process allocates.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work`, and returns its result with the peak of the bytes that it had allocated.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = work();
    (result, PEAK.load(Ordering::Relaxed) - before)
}

/// Returns `len` bytes, none of which is zero.
fn dense(len: usize) -> Vec<u8> {
    let mut random = common::Random(99);
    (0..len / 8).flat_map(|_| (random.next() | 0x0101_0101_0101_0101).to_le_bytes()).collect()
}

/// A second implementation of the format, for streams: follows the sections, compares the payload of each segment with
/// the image, and checks that the image is zero outside of segments.
struct Checker<'i> {
    images: Vec<&'i [u8]>,
    /// For each memory, the lowest address at which the next segment may begin.
    next: Vec<usize>,
    state: State,
    /// The bytes so far of an incomplete header.
    pending: Vec<u8>,
    /// Bytes left of the current section.
    section: u64,
    /// Segments left of the current section.
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

    /// Consumes bytes from the start of `bytes` and returns their number. Returns `None` if a header is incomplete.
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
                assert!(between.iter().all(|b| *b == 0), "data before {address:#x} is missing");
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

    /// Checks that the dump is complete. Returns the number of segments of each section that has any.
    fn finish(self, plan: &Plan<'_>) -> Vec<u32> {
        assert!(matches!(self.state, State::Section) && self.pending.is_empty(), "truncated");
        assert_eq!(self.written, plan.len());
        for (image, next) in self.images.iter().zip(&self.next) {
            assert!(image[*next..].iter().all(|b| *b == 0), "data from {next:#x} on is missing");
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

    /// Reads an unsigned LEB128.
    fn leb(&mut self) -> Option<u64> {
        self.leb_bits().map(|(value, ..)| value)
    }

    /// Reads a signed LEB128 as an address.
    fn sleb(&mut self) -> Option<u64> {
        let (value, bits, last) = self.leb_bits()?;
        Some(if last & 0x40 != 0 && bits < 64 { value | u64::MAX << bits } else { value })
    }

    /// Returns the value, the number of bits that encode it, and the last byte.
    fn leb_bits(&mut self) -> Option<(u64, u32, u8)> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some((value, shift + 7, byte));
            }
        }
        panic!("a LEB128 has more than ten bytes");
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

/// Streams a dump of `images` through a [`Checker`]. Returns the number of segments of each section that has any.
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
    assert!(peak < 16 * MIB, "{peak} bytes in addition to the guest");
    println!("{} bytes, {} segments, {peak} bytes allocated", plan.len(), plan.segments().len());
    checker.finish(&plan)
}

#[test]
fn a_dense_gib_is_one_segment() {
    let _alone = alone();
    let guest = Repeated::new(&dense(64 * MIB), GIB);
    assert_eq!(check(&[guest.bytes()], MemoryType::wasm32, 100_000), [1]);
}

#[test]
#[ignore = "slow: 3 s"]
fn a_dense_memory32_of_4_gib_continues_after_the_data_section() {
    let _alone = alone();
    let guest = Repeated::new(&dense(64 * MIB), 4 * GIB);
    assert_eq!(check(&[guest.bytes()], MemoryType::wasm32, 100_000), [1, 1]);
}

#[test]
#[ignore = "slow: 4 s"]
fn a_dense_memory64_of_5_gib_continues_after_the_data_section() {
    let _alone = alone();
    let guest = Repeated::new(&dense(64 * MIB), 5 * GIB);
    assert_eq!(check(&[guest.bytes()], MemoryType::wasm64, 100_000), [1, 1]);
}

/// A writer that compares its input with an image.
struct Compare<'i> {
    rest: &'i [u8],
}

impl Write for Compare<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (now, later) = self.rest.split_at(bytes.len());
        assert!(bytes == now, "a difference in the last {} bytes", self.rest.len());
        self.rest = later;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a dense guest of `len` bytes to a file, reads it back in little memory, and verifies it.
fn restores_from_a_file(len: usize, segments: u64) {
    let _alone = alone();
    let guest = Repeated::new(&dense(64 * MIB), len);
    let mut dump = CoreDump::new("large");
    let image = MemoryImage::from_slice(guest.bytes());
    dump.add_memory(Memory::new(MemoryType::wasm64(len as u64 / 65_536), image));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guest.core");
    Dumper::new().plan(&dump).unwrap().write_file(&path).unwrap();
    let ((), peak) = peak_of(|| {
        let read = CoreDumpFile::open(&path).unwrap();
        let memory = read.memory(MemoryIndex(0)).unwrap();
        let coverage = memory.coverage();
        assert_eq!((coverage.segments, coverage.data_bytes), (segments, len as u64));
        let mut compare = Compare { rest: guest.bytes() };
        memory.write_to(&mut compare).unwrap();
        assert!(compare.rest.is_empty());
        let Verdict::Intact(intact) = read.verify().unwrap() else {
            panic!("expected an intact dump")
        };
        assert!(intact.checksums && intact.segments == segments);
    });
    println!("{peak} bytes allocated to read {len} bytes");
    assert!(peak < 16 * MIB, "{peak} bytes");
}

#[test]
fn restores_256_mib_from_a_file() {
    restores_from_a_file(256 * MIB, 1);
}

#[test]
#[ignore = "slow: 8 s, 5 GiB on disk"]
fn restores_5_gib_from_a_file() {
    restores_from_a_file(5 * GIB, 2);
}

/// A writer that computes the checksum of its input.
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

/// Sends `len` bytes of live memory, and a sparse file with an eighth of them, through a pipe and through sockets.
fn sends_through_a_pipe_and_sockets(len: usize) {
    let _alone = alone();
    let guest = Repeated::new(&dense(64 * MIB), len);
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&guest.bytes()[..len / 8], 0).unwrap();
    file.set_len(len as u64).unwrap();
    let live = MemoryImage::from_slice(guest.bytes());
    for image in [live, mapped::from_file(file)] {
        let mut dump = CoreDump::new("large");
        dump.add_memory(Memory::new(MemoryType::wasm32(len as u64 / 65_536), image));
        let plan = Dumper::new().plan(&dump).unwrap();
        let mut expected = Sum::default();
        plan.write_to(&mut expected).unwrap();
        let expected = expected.0.finalize();

        for kind in ["pipe", "unix", "tcp"] {
            let (reader, writer) = ends(kind);
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

#[test]
fn sends_256_mib_through_a_pipe_and_sockets() {
    sends_through_a_pipe_and_sockets(256 * MIB);
}

#[test]
#[ignore = "slow: 4 s"]
fn sends_2_gib_through_a_pipe_and_sockets() {
    sends_through_a_pipe_and_sockets(2 * GIB);
}

/// Plans a guest of `len` bytes with a gap in each 128 bytes, far more gaps than the budget, all of one length.
fn plans_many_gaps_in_bounded_memory(len: usize) {
    let _alone = alone();
    let mut part = dense(64 * MIB);
    for object in part.chunks_mut(128) {
        object[80..].fill(0);
    }
    let guest = Repeated::new(&part, len);
    assert_eq!(check(&[guest.bytes()], MemoryType::wasm32, 100_000), [100_000]);
    assert_eq!(check(&[guest.bytes(), &part], MemoryType::wasm64, 7), [7]);
    assert_eq!(check(&[guest.bytes(), &part], MemoryType::wasm64, 1), [2]);
}

#[test]
fn two_million_gaps_need_no_more_memory() {
    plans_many_gaps_in_bounded_memory(256 * MIB);
}

#[test]
#[ignore = "slow: 2 s"]
fn eight_million_gaps_need_no_more_memory() {
    plans_many_gaps_in_bounded_memory(GIB);
}

/// A sink that records the addresses of pieces that lie in the guest, and keeps no bytes.
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
            // The writer splits a piece of many megabytes.
            match self.payload.last_mut() {
                Some(last) if last.end == range.start.addr() => last.end = range.end.addr(),
                _ => self.payload.push(range.start.addr()..range.end.addr()),
            }
        }
        Ok(pieces.iter().map(|piece| piece.bytes.len()).sum())
    }
}

/// The sink gets references into the guest.
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

/// A sparse file of 1 TiB with 64 MiB of data costs as much as its data.
#[test]
fn dumps_and_restores_a_sparse_tib() {
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let len = 1 << 40;
    file.as_file().set_len(len).unwrap();
    let part = dense(MIB);
    let at = |i: u64| i * (len / 64) + 12_288 * i;
    for i in 0..64 {
        file.as_file().write_all_at(&part, at(i)).unwrap();
    }
    // Closes it: an image that is open for writing counts as changing.
    let file = file.into_temp_path();
    let mut dumps = Vec::new();
    for image in [mapped::open(&file), MemoryImage::open(&file).unwrap()] {
        let mut dump = CoreDump::new("sparse");
        dump.add_memory(Memory::new(MemoryType::wasm64(len / 65_536), image));
        let ((), peak) = peak_of(|| {
            let plan = Dumper::new().plan(&dump).unwrap();
            // The file system rounds extents to its blocks.
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
    assert!(bytes[0] == bytes[1], "mapping and reading the image give different dumps");
    let decoded = common::decode(&bytes[0]);
    assert!(decoded.segments.iter().all(|s| s.data == part));

    // Back to a sparse file of 1 TiB.
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

#[test]
fn reads_holes_that_are_not_trusted() {
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

/// Shortens an image file after it was opened. That matters even if only a hole is missing.
#[test]
fn rejects_an_image_that_was_shortened() {
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

/// Returns a custom section: the bytes `before`, a list of `count` items, the bytes `after`.
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

/// Opening a dump does not decode its 16 MiB of frames. Decoding an item costs no more than its limit allows, and an
/// item over its limit costs nothing.
#[test]
fn lists_of_a_hostile_dump_need_bounded_memory() {
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

/// Verifies a stream with `len` bytes of data in the memory of its buffer.
fn verifies_a_stream_in_bounded_memory(len: usize) {
    use std::io::Read;

    let _alone = alone();
    let mut guest = CoreDump::new("guest");
    let ty = MemoryType::wasm32(65_536);
    guest.add_memory(Memory::new(ty, MemoryImage::from_slice(&[])));
    let mut head = common::own::without(&Dumper::new().plan(&guest).unwrap().to_vec().unwrap());
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
            Verdict::Intact(intact) => {
                assert_eq!((missing, intact.bytes), (0, (head.len() + len) as u64));
            }
            Verdict::Damaged(damage) => assert!(missing == 1 && damage.truncated, "{damage}"),
        }
    }
}

#[test]
fn verifies_a_stream_of_512_mib_in_bounded_memory() {
    verifies_a_stream_in_bounded_memory(512 * MIB);
}

#[test]
#[ignore = "slow: 2 s"]
fn verifies_a_stream_of_4_gib_in_bounded_memory() {
    verifies_a_stream_in_bounded_memory(4 * GIB - 16);
}

/// Five images of 4 EiB each.
#[test]
fn counts_more_bytes_than_64_bits_can() {
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
