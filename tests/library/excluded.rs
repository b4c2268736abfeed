//! Excluded ranges: no byte of them is read or gets into a dump of any image, and the dump lists them.
#![allow(clippy::single_range_in_vec_init, reason = "these are lists of ranges")]
#![allow(
    unsafe_code,
    reason = "maps memory that cannot be read, and implements a handle of shared memory"
)]

use crate::{common, environment, mapped};
use std::cell::UnsafeCell;
use std::io::{Read, Write};
use std::ops::{Range, RangeInclusive};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;

use common::own::{self, Own};
use common::reading::{contents, verdict};
use common::{cost, decode, gaps};
use corestream::internals::SEGMENT_COST;
use corestream::read::{Content, Verdict};
use corestream::{
    Change, CoreDump, CoreDumpFile, Dumper, ErrorKind, ExtentMethod, Memory, MemoryImage,
    MemoryIndex, MemoryType, PipeSink, Plan, SharedBytes, SocketSink, limits,
};
use proptest::prelude::*;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use tempfile::NamedTempFile;

const PAGE: usize = 65_536;
const FIRST: MemoryIndex = MemoryIndex(0);
/// The byte in excluded ranges, and nowhere else.
const SECRET: u8 = 0xa5;

/// A shared memory of words.
struct Words(Arc<[AtomicU64]>, usize);

impl Words {
    fn new(bytes: &[u8]) -> Self {
        let word = |part: &[u8]| {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            AtomicU64::new(u64::from_ne_bytes(word))
        };
        Self(bytes.chunks(8).map(word).collect(), bytes.len())
    }
}

// SAFETY: the words live as long as the handle and do not move, and there are no writes to them.
unsafe impl SharedBytes for Words {
    fn bytes(&self) -> &[UnsafeCell<u8>] {
        let start = self.0.as_ptr().cast::<UnsafeCell<u8>>();
        // SAFETY: the words have at least this many bytes.
        unsafe { std::slice::from_raw_parts(start, self.1) }
    }
}

/// The kinds of images.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Slice,
    Mapped,
    Read,
    Shared,
}

const KINDS: [Kind; 4] = [Kind::Slice, Kind::Mapped, Kind::Read, Kind::Shared];

/// A memory of a test.
#[derive(Clone, Debug)]
struct Made {
    kind: Kind,
    bytes: Vec<u8>,
    file: Option<Arc<NamedTempFile>>,
    memory64: bool,
    /// The excluded ranges, in any order.
    without: Vec<Range<u64>>,
    only: Option<Vec<Range<u64>>>,
}

impl Made {
    fn new(kind: Kind, bytes: Vec<u8>, without: &[Range<u64>]) -> Self {
        Self::with(kind, bytes, without.to_vec(), None)
    }

    fn with(
        kind: Kind,
        bytes: Vec<u8>,
        without: Vec<Range<u64>>,
        only: Option<Vec<Range<u64>>>,
    ) -> Self {
        let mut made = Self { kind, bytes, file: None, memory64: false, without, only };
        // Excluded ranges hold nothing but secrets.
        for (at, excluded) in made.map().into_iter().enumerate() {
            if let Some(byte) = made.bytes.get_mut(at).filter(|_| excluded) {
                *byte = SECRET;
            }
        }
        if matches!(kind, Kind::Mapped | Kind::Read) {
            let mut file = NamedTempFile::new().unwrap();
            file.write_all(&made.bytes).unwrap();
            made.file = Some(Arc::new(file));
        }
        made
    }

    fn len(&self) -> usize {
        self.bytes.len().next_multiple_of(PAGE)
    }

    /// Returns for each byte of the memory whether it is excluded.
    fn map(&self) -> Vec<bool> {
        let inside = |ranges: &[Range<u64>]| {
            let mut inside = vec![false; self.len()];
            for range in ranges {
                let index = |at: u64| usize::try_from(at).unwrap();
                inside[index(range.start)..index(range.end)].fill(true);
            }
            inside
        };
        let mut map = inside(&self.without);
        if let Some(only) = &self.only {
            map.iter_mut().zip(inside(only)).for_each(|(out, kept)| *out |= !kept);
        }
        map
    }

    fn memory(&self) -> Memory<'_> {
        let image = match (self.kind, &self.file) {
            (Kind::Mapped, Some(file)) => mapped::open(file.path()),
            (Kind::Read, Some(file)) => MemoryImage::open(file.path()).unwrap(),
            (Kind::Shared, _) => MemoryImage::from_shared(Words::new(&self.bytes)),
            _ => MemoryImage::from_slice(&self.bytes),
        };
        let pages = (self.len() / PAGE) as u64;
        let mut ty = MemoryType::wasm32(pages);
        ty.memory64 = self.memory64;
        let memory = Memory::new(ty, image);
        let memory =
            self.without.iter().fold(memory, |memory, range| memory.without(range.clone()));
        self.only.iter().flatten().fold(memory, |memory, range| memory.only(range.clone()))
    }
}

fn guest(all: &[Made]) -> CoreDump<'_> {
    let mut guest = CoreDump::new("partial");
    guest.memories.extend(all.iter().map(Made::memory));
    guest
}

/// Returns the ranges of `map` that are true.
fn ranges(map: &[bool]) -> Vec<RangeInclusive<u64>> {
    let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
    for (at, _) in map.iter().enumerate().filter(|(_, excluded)| **excluded) {
        let at = at as u64;
        match ranges.last_mut() {
            Some(last) if *last.end() + 1 == at => *last = *last.start()..=at,
            _ => ranges.push(at..=at),
        }
    }
    ranges
}

/// Returns the lowest cost of a plan, by trying every set of gaps that includes those with excluded bytes. Returns
/// `None` if there are too many gaps.
fn least_cost(images: &[(Vec<u8>, Vec<bool>)], budget: u64) -> Option<u64> {
    let mut free = Vec::new();
    let (mut data_len, mut segments) = (0, 0);
    for (image, map) in images {
        let Some((lengths, len)) = gaps(image) else { continue };
        data_len += len;
        segments += 1;
        let mut lengths = lengths.into_iter();
        let mut at = image.iter().position(|b| *b != 0).unwrap();
        let end = image.iter().rposition(|b| *b != 0).unwrap();
        while at < end {
            if image[at] != 0 {
                at += 1;
                continue;
            }
            let len = lengths.next().unwrap();
            let next = at + usize::try_from(len).unwrap();
            if map[at..next].contains(&true) {
                (data_len, segments) = (data_len - len, segments + 1);
            } else {
                free.push(len);
            }
            at = next;
        }
    }
    if free.len() > 12 {
        return None;
    }
    let choices = (0_u32..1 << free.len()).map(|set| {
        let kept = free.iter().enumerate().filter(|(i, _)| set & (1 << i) != 0);
        kept.fold((0, segments), |(saved, segments), (_, gap)| (saved + gap, segments + 1))
    });
    let possible = choices.filter(|(_, n)| *n <= budget.max(segments));
    possible.map(|(saved, segments)| data_len - saved + segments * SEGMENT_COST).min()
}

/// Dumps these memories, and compares the dump with an oracle that checks every byte.
fn check(all: &[Made], dumper: &Dumper, budget: u32) -> Vec<u8> {
    let guest = guest(all);
    let plan = dumper.plan(&guest).unwrap();
    let bytes = plan.to_vec().unwrap();
    assert_eq!(bytes.len() as u64, plan.len());
    let expected: Vec<_> = all
        .iter()
        .map(|made| {
            let mut image = made.bytes.clone();
            image.resize(made.len(), 0);
            let map = made.map();
            image.iter_mut().zip(&map).filter(|(_, out)| **out).for_each(|(byte, _)| *byte = 0);
            (image, map)
        })
        .collect();

    let decoded = decode(&bytes);
    for (i, (image, map)) in expected.iter().enumerate() {
        assert!(decoded.contents(i, image.len()) == *image, "memory {i}");
        for segment in decoded.segments.iter().filter(|s| s.memory as usize == i) {
            let start = usize::try_from(segment.address).unwrap();
            assert!(!map[start..start + segment.data.len()].contains(&true), "{segment:?}");
            assert!(!segment.data.contains(&SECRET));
        }
    }
    if plan.segments().len() == decoded.in_data_section
        && let Some(least) = least_cost(&expected, budget.into())
    {
        assert_eq!(cost(&plan), least);
    }

    check_index(&bytes, &plan, all, &expected);
    bytes
}

/// Checks the excluded ranges in the index, the reader and the plan.
fn check_index(bytes: &[u8], plan: &Plan<'_>, all: &[Made], expected: &[(Vec<u8>, Vec<bool>)]) {
    let dump = CoreDumpFile::from_slice(bytes).unwrap();
    let mut own = Own::default();
    let (mut sum, mut count) = (0, 0);
    for ((i, (image, map)), made) in (0..).zip(expected).zip(all) {
        let memory = MemoryIndex(i);
        let excluded = ranges(map);
        let view = dump.memory(memory).unwrap();
        assert!(view.unknown().eq(excluded.iter().cloned()), "memory {i}");
        let bytes = map.iter().filter(|out| **out).count() as u64;
        let coverage = view.coverage();
        assert_eq!((coverage.excluded_bytes, coverage.lost_bytes), (bytes.into(), 0));
        let of_plan = plan.excluded().find(|(of, _)| *of == memory);
        assert_eq!(of_plan.map_or(&[][..], |(_, ranges)| ranges.as_slice()), excluded);
        let mut seen = image.clone();
        seen.iter_mut().zip(map).filter(|(_, out)| **out).for_each(|(byte, _)| *byte = 0xee);
        assert!(contents(&dump, memory) == seen, "memory {i}");
        (sum, count) = (sum + bytes, count + excluded.len());
        own.excluded.extend(excluded.into_iter().map(|r| (i, *r.start(), *r.end())));
        // Image files that the test has open for writing count as changing.
        let change = plan.changes().find(|(of, _)| *of == memory).map(|(_, change)| change);
        assert!(made.kind != Kind::Shared || change == Some(Change::Assumed));
        own.changing.extend(change.map(|_| i));
    }
    let stats = plan.stats();
    assert_eq!((stats.excluded_bytes, stats.excluded_ranges), (sum.into(), count as u64));
    assert_eq!(dump.is_partial(), count > 0);
    own.flags = u32::from(count > 0);
    assert!(own.dump(&own::without(bytes)) == *bytes, "not as in docs/format.md");
    let Verdict::Intact(intact) = verdict(bytes).unwrap() else {
        panic!("expected an intact dump")
    };
    assert_eq!(intact.partial, count > 0);
}

/// Returns an image with runs and gaps around excluded ranges.
fn image() -> Vec<u8> {
    let mut image = vec![0; 3 * PAGE - 777];
    image[100..5000].fill(1);
    image[2 * PAGE - 10..2 * PAGE + 10].fill(2);
    image[3 * PAGE - 1000..].fill(3);
    image
}

#[test]
fn dumps_no_excluded_byte_of_any_image() {
    let page = PAGE as u64;
    let excluded = [2000..2001, 3000..3100, 4990..5010, page..2 * page, 2 * page + 5..2 * page + 7];
    for kind in KINDS {
        let made = Made::new(kind, image(), &excluded);
        for trust in [true, false] {
            for threads in [1, 3] {
                for budget in [1, 2, 7, 100_000] {
                    let dumper =
                        Dumper::new().trust_holes(trust).threads(threads).max_segments(budget);
                    check(std::slice::from_ref(&made), &dumper, budget);
                    // A dump with many sections.
                    check(std::slice::from_ref(&made), &dumper.max_section_bytes(256), budget);
                }
            }
        }
    }
}

/// With a budget of one segment, each excluded range with data on both sides adds a segment.
#[test]
fn splits_at_excluded_ranges_with_any_budget() {
    let segments = |excluded: &[Range<u64>]| {
        let made = [Made::new(Kind::Slice, image(), excluded)];
        let guest = guest(&made);
        let plan = Dumper::new().max_segments(1).plan(&guest).unwrap();
        plan.segments().iter().map(|s| (s.address, s.len)).collect::<Vec<_>>()
    };
    let end = 3 * 65_536 - 777;
    assert_eq!(segments(&[]), [(100, end - 100)]);
    assert_eq!(segments(&[200..201]), [(100, 100), (201, end - 201)]);
    // Two ranges in one gap are one split, with the zeros around them.
    let last = 3 * 65_536 - 1000_u64;
    let behind = 2 * 65_536 + 10;
    let two = segments(&[140_000..140_001, 150_000..150_001]);
    assert_eq!(two, [(100, behind - 100), (last, 223)]);
    assert_eq!(segments(&[0..100]), [(100, end - 100)]);
    assert_eq!(segments(&[0..3 * 65_536]), []);
}

/// A part of this live memory cannot be read.
#[test]
fn does_not_read_excluded_ranges() {
    struct Map(*mut u8, usize);
    impl Drop for Map {
        fn drop(&mut self) {
            // SAFETY: the mapping from below, which is no longer borrowed.
            unsafe { rustix::mm::munmap(self.0.cast(), self.1).unwrap() };
        }
    }

    let len = 64 * PAGE;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: maps a new range of addresses.
    let start = unsafe {
        rustix::mm::mmap_anonymous(ptr::null_mut(), len, protection, MapFlags::PRIVATE).unwrap()
    };
    let map = Map(start.cast(), len);
    let (first, last) = (10 * PAGE, 50 * PAGE);
    // SAFETY: within the mapping, and not borrowed yet.
    unsafe {
        map.0.write_bytes(7, len);
        let hidden = map.0.add(first).cast();
        rustix::mm::mprotect(hidden, last - first, MprotectFlags::empty()).unwrap();
    }
    // SAFETY: mapped while the slice lives, with no writes. Reading a part of it would raise a signal, which is what
    // this test checks.
    let bytes = unsafe { std::slice::from_raw_parts(map.0, len) };
    for method in [None, Some(ExtentMethod::Pagemap), Some(ExtentMethod::Whole)] {
        for threads in [1, 4] {
            let hidden = first as u64..last as u64;
            let memory = Memory::new(MemoryType::wasm32(64), MemoryImage::from_slice(bytes));
            let mut guest = CoreDump::new("hidden");
            guest.add_memory(memory.without(hidden));
            let dumper = Dumper::new().threads(threads).extent_method(method);
            let plan = match dumper.plan(&guest) {
                Ok(plan) => plan,
                Err(error) => {
                    environment::report_missing("pagemap", error);
                    continue;
                }
            };
            assert_eq!(plan.stats().extent_bytes, (24 * PAGE) as u64);
            let dump = plan.to_vec().unwrap();
            let decoded = decode(&dump);
            assert_eq!(decoded.segments.len(), 2);
            let seen = decoded.contents(0, len);
            assert!(seen[..first].iter().chain(&seen[last..]).all(|b| *b == 7));
            assert!(seen[first..last].iter().all(|b| *b == 0));
        }
    }
}

/// Only the remaining ranges are scanned.
#[test]
fn scans_only_the_remaining_ranges() {
    for kind in KINDS {
        let only = vec![5..1005, 30 * PAGE as u64 + 1..31 * PAGE as u64];
        let without = std::iter::once(15..20).collect();
        let all = [Made::with(kind, vec![9; 40 * PAGE], without, Some(only))];
        let guest = guest(&all);
        let plan = Dumper::new().trust_holes(false).plan(&guest).unwrap();
        let kept = 1000 - 5 + PAGE as u64 - 1;
        assert_eq!(plan.stats().extent_bytes, kept, "{kind:?}");
        assert_eq!((plan.stats().data_bytes, plan.stats().segments), (kept, 3));
    }
}

/// The ranges are longer than the parts of a file that the library asks about at once, and cover touched and untouched
/// pages.
#[test]
fn excludes_ranges_of_many_extents() {
    let len = 100 * PAGE;
    let end = len as u64;
    for range in [100..end, 5000..end - 100, 3 << 20..(4 << 20) + 1] {
        for kind in KINDS {
            let made = Made::new(kind, vec![9; len], &[range.clone(), 10..20]);
            for threads in [1, 3] {
                check(std::slice::from_ref(&made), &Dumper::new().threads(threads), 100_000);
            }
        }
        let mut bytes = vec![0; len];
        bytes.chunks_mut(PAGE).step_by(2).for_each(|page| page[..5000].fill(9));
        let mut guest = CoreDump::new("guest.wasm");
        let memory = Memory::new(MemoryType::wasm32(100), MemoryImage::from_slice(&bytes));
        guest.add_memory(memory.without(range.clone()));
        let dump = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
        let inside = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let seen = decode(&dump).contents(0, len);
        bytes[inside.clone()].fill(0);
        assert!(seen == bytes);
        let Verdict::Intact(intact) = verdict(&dump).unwrap() else {
            panic!("expected an intact dump")
        };
        assert_eq!(intact.excluded[0].bytes, inside.len() as u128);
    }
}

/// A lent page must not make an excluded byte visible.
#[test]
fn writes_the_same_bytes_to_streams() {
    let made = [Made::new(Kind::Mapped, vec![1; 20 * PAGE], &[100..4097, 300_000..300_001])];
    let guest = guest(&made);
    let plan = Dumper::new().plan(&guest).unwrap();
    let expected = plan.to_vec().unwrap();
    assert!(!expected.contains(&SECRET));
    let (mut reader, writer) = std::io::pipe().unwrap();
    let reading = thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes)
    });
    plan.write_to(&mut PipeSink::new(&writer)).unwrap();
    drop(writer);
    assert!(reading.join().unwrap().unwrap() == expected);
    let (mut reader, writer) = UnixStream::pair().unwrap();
    let reading = thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes)
    });
    plan.write_to(&mut SocketSink::new(&writer)).unwrap();
    drop(writer);
    assert!(reading.join().unwrap().unwrap() == expected);
}

/// Addresses past the end of the image are zero, unless they are excluded.
#[test]
fn excludes_ranges_past_the_end_of_the_image() {
    let bytes = [1, 0, 2];
    let all = 1 << 48;
    for (ty, range, count) in [
        (MemoryType::wasm64(all), 1 << 40..=u64::MAX, (1 << 64) - (1 << 40)),
        (MemoryType::wasm64(all), u64::MAX..=u64::MAX, 1),
        (MemoryType::wasm64(all), 0..=u64::MAX, 1 << 64),
        (MemoryType::wasm32(1), 2..=60_000, 59_999),
    ] {
        let expected = range.clone();
        let mut guest = CoreDump::new("large");
        let memory = Memory::new(ty, MemoryImage::from_slice(&bytes));
        guest.add_memory(memory.without(range));
        let bytes = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
        let dump = CoreDumpFile::from_slice(&bytes).unwrap();
        let memory = dump.memory(FIRST).unwrap();
        assert!(memory.unknown().eq([expected.clone()]));
        assert!(memory.contents().any(|c| c == Content::Excluded(expected.clone())));
        assert_eq!((memory.coverage().excluded_bytes, memory.coverage().lost_bytes), (count, 0));
        let Ok(Verdict::Intact(intact)) = verdict(&bytes) else {
            panic!("expected an intact dump")
        };
        assert!(intact.partial && intact.excluded[0].bytes == count);
        let error = memory.read(*expected.start(), &mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Excluded);
    }
    let mut guest = CoreDump::new("empty");
    let empty = || Memory::new(MemoryType::wasm32(0), MemoryImage::from_slice(&[]));
    guest.add_memory(empty().without(..));
    guest.add_memory(empty().only(..));
    let plan = Dumper::new().plan(&guest).unwrap();
    assert_eq!((plan.stats().excluded_ranges, plan.excluded().count()), (0, 0));
    let bytes = plan.to_vec().unwrap();
    assert!(!CoreDumpFile::from_slice(&bytes).unwrap().is_partial());
}

/// There is a byte of data on each side of each range.
#[test]
fn lists_the_most_ranges() {
    let most = limits::MAX_EXCLUDED_RANGES;
    let mut image = vec![1; 2 * most + 1];
    image.iter_mut().skip(1).step_by(2).for_each(|byte| *byte = SECRET);
    let mut guest = CoreDump::new("many");
    let memory = |secrets: usize| {
        let memory = Memory::new(MemoryType::wasm32(3), MemoryImage::from_slice(&image));
        (0..secrets as u64).fold(memory, |memory, i| memory.without(2 * i + 1..2 * i + 2))
    };
    guest.add_memory(memory(most));
    let plan = Dumper::new().max_segments(1).plan(&guest).unwrap();
    assert_eq!(plan.segments().len(), most + 1);
    let bytes = plan.to_vec().unwrap();
    let decoded = decode(&bytes);
    assert!(decoded.segments.iter().all(|s| s.address % 2 == 0 && s.data == [1]));
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let listed = dump.memory(FIRST).unwrap().unknown();
    assert!(listed.eq((0..most as u64).map(|i| 2 * i + 1..=2 * i + 1)));

    // One more, of another memory.
    guest.add_memory(memory(1));
    let error = Dumper::new().plan(&guest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Model);
    let message = "65537 excluded ranges exceed the maximum of 65536; merge some of them";
    assert_eq!(error.to_string(), message);
}

#[test]
fn rejects_an_index_with_too_many_ranges() {
    let mut guest = CoreDump::new("many");
    guest.add_memory(Memory::new(MemoryType::wasm32(3), MemoryImage::from_slice(&[])));
    let without = own::without(&Dumper::new().plan(&guest).unwrap().to_vec().unwrap());
    let most = limits::MAX_EXCLUDED_RANGES as u64;
    let listing = |count: u64| {
        let excluded = (0..count).map(|i| (0, 2 * i, 2 * i)).collect();
        Own { flags: 1, excluded, ..Own::default() }.dump(&without)
    };
    let bytes = listing(most);
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    assert_eq!(dump.memory(FIRST).unwrap().unknown().count() as u64, most);

    let bytes = listing(most + 1);
    let message = "65537 ranges are over the limit of 65536";
    for error in [CoreDumpFile::from_slice(&bytes).err(), verdict(&bytes).err()] {
        let error = error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().ends_with(message), "{error}");
    }
}

/// Verifying a stream would not be possible in bounded memory.
#[test]
fn rejects_too_many_segments_with_excluded_ranges() {
    let image = vec![1; 256 * limits::MAX_PARTIAL_SEGMENTS];
    let memory = Memory::new(MemoryType::wasm32(1024), MemoryImage::from_slice(&image));
    let mut guest = CoreDump::new("sections");
    guest.add_memory(memory.without(0..1));
    let dumper = Dumper::new().max_section_bytes(corestream::internals::MIN_SECTION_BYTES);
    let error = dumper.plan(&guest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Option);
    assert!(error.to_string().starts_with("max_section_bytes: "), "{error}");
}

#[test]
fn rejects_a_range_past_the_end_of_the_memory() {
    let bytes = [1; 100];
    let mut guest = CoreDump::new("mistakes");
    let ty = MemoryType::wasm32(1);
    guest.add_memory(Memory::new(ty, MemoryImage::from_slice(&bytes)));
    guest.add_memory(Memory::new(ty, MemoryImage::from_slice(&bytes)).without(0..65_537));
    let message = "memory 1: excluded range 0x0..0x10001 extends past the end of the memory \
                   (0x10000 bytes)";
    for error in [guest.validate().unwrap_err(), Dumper::new().plan(&guest).unwrap_err()] {
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Model, message));
    }
    // The range is within a larger memory.
    guest.memories[1].ty.minimum = 2;
    guest.validate().unwrap();
    assert!(guest.to_string().contains("1: 2 pages, an image of 100 bytes, 1 range excluded\n"));
    let mut memory = Memory::new(ty, MemoryImage::from_slice(&bytes));
    memory.keep_only(10..20);
    memory.keep_only(20..30);
    memory.exclude(25..);
    assert_eq!(memory.excluded().unwrap().as_slice(), [0..=9, 25..=65_535]);
}

/// Generates ranges of a memory of `len` bytes, many of them small.
fn some_ranges(len: usize, count: Range<usize>) -> impl Strategy<Value = Vec<Range<u64>>> {
    let range = (0..len, prop_oneof![1..4_usize, 1..200_usize, 1..70_000_usize]);
    let range = range.prop_map(move |(start, more)| start as u64..(start + more).min(len) as u64);
    prop::collection::vec(range, count)
}

fn made() -> impl Strategy<Value = Made> {
    let gap = prop_oneof![0..40_usize, 0..300_usize, 4090..4100_usize, 0..60_000_usize];
    let run = prop_oneof![1..4_usize, 1..300_usize, 4090..9000_usize];
    let bytes = (prop::collection::vec((gap, run), 1..9), 0..70_usize).prop_map(|(runs, tail)| {
        let mut image = Vec::new();
        for (i, (gap, run)) in runs.into_iter().enumerate() {
            image.resize(image.len() + gap, 0);
            image.resize(image.len() + run, u8::try_from(i % 99).unwrap() + 1);
        }
        image.resize(image.len() + tail, 0);
        image
    });
    let with_ranges = bytes.prop_flat_map(|bytes| {
        let len = bytes.len().next_multiple_of(PAGE);
        let only = prop::option::weighted(0.3, some_ranges(len, 1..4));
        (Just(bytes), some_ranges(len, 0..6), only)
    });
    (0..KINDS.len(), any::<bool>(), with_ranges).prop_map(
        |(kind, memory64, (bytes, without, only))| Made {
            memory64,
            ..Made::with(KINDS[kind], bytes, without, only)
        },
    )
}

/// Dumps random memories with random excluded ranges.
fn check_random_ranges(cases: u32) {
    let config = ProptestConfig { cases, failure_persistence: None, ..Default::default() };
    proptest!(config, |(
        all in prop::collection::vec(made(), 1..4),
        budget in prop_oneof![1..12_u32, Just(100_000)],
        section in prop_oneof![256..1000_u32, Just(u32::MAX)],
        threads in 1..4_usize,
        checksums: bool,
    )| {
        let dumper = Dumper::new().max_segments(budget).threads(threads);
        let bytes = check(&all, &dumper, budget);
        prop_assert!(bytes.len() > 100);
        let without = dumper.checksums(checksums).max_section_bytes(section);
        let guest = guest(&all);
        let plan = without.plan(&guest).unwrap();
        let bytes = plan.to_vec().unwrap();
        prop_assert!(matches!(verdict(&bytes), Ok(Verdict::Intact(_))));
        let found = decode(&bytes);
        prop_assert!(found.segments.iter().all(|s| !s.data.contains(&SECRET)));
    });
}

#[test]
fn excludes_random_ranges() {
    check_random_ranges(24);
}

#[test]
#[ignore = "slow: 2 s"]
fn excludes_more_random_ranges() {
    check_random_ranges(96);
}

/// An open dump keeps its own copy of the ranges.
#[test]
fn survives_a_change_of_the_ranges_of_an_open_dump() {
    let mut guest = CoreDump::new("guest");
    let bytes = vec![1; 2 * PAGE];
    let memory = Memory::new(MemoryType::wasm32(2), MemoryImage::from_slice(&bytes));
    guest.add_memory(memory.without(4096..8192));
    let file = NamedTempFile::new().unwrap();
    let intact = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
    let entry = [4096_u64.to_le_bytes(), 8191_u64.to_le_bytes()].concat();
    let at = intact.windows(16).position(|part| part == entry).unwrap();
    for (first, last) in [(4096, 0), (0, 0), (u64::MAX, 0), (0, u64::MAX), (9000, 8999)] {
        file.as_file().set_len(0).unwrap();
        file.as_file().write_all_at(&intact, 0).unwrap();
        let dump = CoreDumpFile::open(file.path()).unwrap();
        file.as_file()
            .write_all_at(&[u64::to_le_bytes(first), u64::to_le_bytes(last)].concat(), at as u64)
            .unwrap();
        // The reader read the ranges when it opened the dump.
        let memory = dump.memory(FIRST).unwrap();
        assert!(memory.unknown().eq([4096..=8191]));
        assert_eq!(memory.coverage().excluded_bytes, 4096);
        let error = memory.read(0, &mut vec![0; 2 * PAGE]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Excluded);
        let restored = memory.write_to(std::io::sink()).unwrap();
        assert_eq!((restored.len, restored.unknown), (2 * PAGE as u64, 4096));
    }
}
