//! The memory that a reader allocates to open a dump: at most [`MAX_METADATA_BYTES`], whatever the dump contains.
//!
//! The dumps here need the most: each list at its limit, alone and all together, and segments that overlap. A
//! reallocation counts twice while it may be moving, and memory that is never written to counts as well, because an
//! allocator may work like that. These tests are a crate of their own because they replace the allocator.

mod common;
#[path = "fuzz/count.rs"]
mod count;
#[path = "common/foreign.rs"]
mod foreign;

use common::own::{self, Entry, HEADER, Own};
use common::reading::{Unlent, all};
use corestream::limits::{
    MAX_DATA_SECTIONS, MAX_EXCLUDED_RANGES, MAX_FRAME_VALUES, MAX_GLOBALS, MAX_LISTED,
    MAX_LISTED_SEGMENTS, MAX_LISTED_THREADS, MAX_METADATA_BYTES, MAX_NAME_BYTES,
    MAX_OVERLAPPING_SEGMENTS, MAX_PARTIAL_SEGMENTS, MAX_TRAP_BYTES,
};
use corestream::read::{OpenOptions, ReadAt, Verifier};
use corestream::{CoreDumpFile, ErrorKind, Result};
use foreign::{CORE, module};

#[global_allocator]
static ALLOCATOR: count::Counting = count::Counting;

/// A section: id and body.
type Section = (u8, Vec<u8>);

/// Returns a custom section with a list of `count` items.
fn list(name: &str, count: usize, item: &[u8]) -> Section {
    (0, foreign::list(name, &[], count, item))
}

/// Returns the body of a custom section.
fn custom(name: &str, after: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    own::leb(&mut body, name.len());
    body.extend(name.bytes());
    body.extend(after);
    body
}

/// Returns the module with these sections.
fn of(sections: &[Section]) -> Vec<u8> {
    module(&sections.iter().map(|(id, body)| (*id, &body[..])).collect::<Vec<_>>())
}

fn core() -> Section {
    (CORE.0, CORE.1.to_vec())
}

/// Returns a memory section with one memory of 2^32 pages.
fn memory() -> Section {
    (5, vec![1, 4, 0x80, 0x80, 0x80, 0x80, 0x10])
}

fn modules() -> Section {
    list("coremodules", MAX_LISTED, &[0, 0])
}

fn instances() -> Section {
    list("coreinstances", MAX_LISTED, &[0, 0, 0, 0])
}

fn globals() -> Section {
    let (_, body) = list("", MAX_GLOBALS, &[0x7f, 0, 0x41, 0, 0x0b]);
    (6, body[1..].to_vec())
}

fn identities() -> Section {
    let mut after = 1_u32.to_le_bytes().to_vec();
    after.extend(u32::try_from(MAX_LISTED).unwrap().to_le_bytes());
    after.extend([0; 8].repeat(MAX_LISTED));
    (0, custom("corestream.modules", &after))
}

/// Returns the longest trap message.
fn trap() -> Section {
    let mut after = 1_u32.to_le_bytes().to_vec();
    after.extend(0_u64.to_le_bytes()); // no time
    after.extend(u32::try_from(MAX_TRAP_BYTES).unwrap().to_le_bytes());
    after.extend(vec![b'x'; MAX_TRAP_BYTES]);
    (0, custom("corestream.trap", &after))
}

fn threads() -> Vec<Section> {
    vec![(0, custom("corestack", &[0, 0, 0])); MAX_LISTED_THREADS]
}

/// Returns threads with one frame each.
fn framed_threads() -> Vec<Section> {
    let frame = [0, 1, b't', 1, 0, 0, 2, 3, 1, 0x7f, 4, 1, 0x7f, 5];
    vec![(0, custom("corestack", &frame)); MAX_LISTED_THREADS]
}

/// Segments, spread over a number of sections.
struct Segments {
    sections: usize,
    /// Address and length of each segment.
    all: Vec<(u64, usize)>,
}

impl Segments {
    /// Returns as many segments as a dump may have, in order.
    fn most(sections: usize) -> Self {
        Self { sections, all: (0..MAX_LISTED_SEGMENTS as u64).map(|i| (i * 2, 1)).collect() }
    }

    fn reversed(mut self) -> Self {
        self.all.reverse();
        self
    }

    /// Returns the sections and their index entries, whose offsets count from the start of the first section.
    fn sections(&self) -> (Vec<Section>, Vec<Entry>) {
        let (mut sections, mut entries, mut at) = (Vec::new(), Vec::new(), 0);
        for (i, segments) in self.all.chunks(self.all.len().div_ceil(self.sections)).enumerate() {
            let mut body = if i == 0 { Vec::new() } else { custom("corestream.data", &[]) };
            own::leb(&mut body, segments.len());
            let first = entries.len();
            for (address, len) in segments {
                body.extend([0, 0x42]);
                own::signed(&mut body, address.cast_signed());
                body.push(0x0b);
                own::leb(&mut body, *len);
                entries.push((0, *address, body.len() as u64, u32::try_from(*len).unwrap()));
                body.resize(body.len() + len, 7);
            }
            let mut size = Vec::new();
            own::leb(&mut size, body.len());
            let start = at + 1 + size.len() as u64;
            entries[first..].iter_mut().for_each(|entry: &mut Entry| entry.2 += start);
            at = start + body.len() as u64;
            sections.push((if i == 0 { 11 } else { 0 }, body));
        }
        (sections, entries)
    }
}

/// Returns a dump by corestream with these sections between its header and its segments.
fn own(options: &Own, process: Section, sections: &[Section], segments: &Segments) -> Vec<u8> {
    let (data, mut entries) = segments.sections();
    let mut bytes = of(&[process]);
    let (before, data) = (of(sections), of(&data));
    let start = (bytes.len() + HEADER + before.len() - 8) as u64;
    entries.iter_mut().for_each(|entry| entry.2 += start);
    let index = options.index(1, &entries, &[]);
    let index_at = start + data.len() as u64 - 8;
    options.add_header(&mut bytes, index_at + index.len() as u64, index_at);
    bytes.extend(&before[8..]);
    bytes.extend(&data[8..]);
    assert_eq!(bytes.len() as u64, index_at);
    bytes.extend(index);
    bytes
}

/// Returns an [`Own`] without checksums.
fn unchecked() -> Own {
    Own { block_log2: 0, ..Own::default() }
}

/// Returns every list of a dump, except for its segments, at its limit.
fn everything() -> Vec<Section> {
    let mut sections = vec![modules(), identities(), trap(), instances()];
    sections.extend(threads());
    sections.extend([memory(), globals()]);
    sections
}

fn long_process() -> Section {
    let mut body = custom("core", &[0]);
    own::leb(&mut body, MAX_NAME_BYTES);
    body.extend(vec![b'p'; MAX_NAME_BYTES]);
    (0, body)
}

/// Opens a source. Returns the result and the peak of the allocated bytes.
fn opened<'b>(source: impl ReadAt + 'b, salvage: bool) -> (Result<CoreDumpFile<'b>>, u64) {
    count::peak(|| OpenOptions::new().salvage(salvage).threads(1).open_source(source))
}

/// Checks the memory that a reader holds at most.
fn assert_held(what: &str, how: &str, held: u64) {
    assert!(held <= MAX_METADATA_BYTES as u64, "{what}: {held} bytes to {how}");
}

/// Opens a dump in a source that lends nothing, as it is and salvaged without its last byte.
fn assert_open_is_bounded(what: &str, bytes: &[u8]) {
    let (dump, held) = opened(Unlent(bytes), false);
    assert!(dump.is_ok(), "{what}: {dump:?}");
    assert_held(what, "open", held);
    drop(dump);
    let (salvaged, held) = opened(Unlent(&bytes[..bytes.len() - 1]), true);
    drop(salvaged);
    assert_held(what, "salvage it without an end", held);
}

/// Opens a dump in a slice and in a source that lends nothing, verifies it, and salvages it without its last byte and
/// with a wrong first byte. Opening it as it is fails with an error of the kind `expected`, or succeeds if that is
/// `None`.
fn assert_bounded(what: &str, mut bytes: Vec<u8>, expected: Option<ErrorKind>) {
    let cut = bytes.len() - 1;
    let assert_held = |held: u64, how: &str| assert_held(what, how, held);
    for (dump, held) in [opened(&bytes[..], false), opened(Unlent(&bytes), false)] {
        assert_eq!(dump.err().map(|error| error.kind()), expected, "{what}");
        assert_held(held, "open");
    }
    let verifier = Verifier::new().threads(1);
    for (verdict, held) in [
        count::peak(|| verifier.verify(Unlent(&bytes))),
        count::peak(|| verifier.verify_stream(&bytes[..])),
    ] {
        let _ = verdict.unwrap();
        assert_held(held, "verify");
    }
    for (salvaged, held) in [opened(&bytes[..cut], true), opened(Unlent(&bytes[..cut]), true)] {
        drop(salvaged);
        assert_held(held, "salvage it without an end");
    }
    bytes[0] ^= 1;
    for (salvaged, held) in [opened(&bytes[..], true), opened(Unlent(&bytes), true)] {
        drop(salvaged);
        assert_held(held, "salvage it without a start");
    }
}

#[test]
#[ignore = "slow: 5 s"]
fn bounds_the_memory_of_segments() {
    for sections in [1, MAX_DATA_SECTIONS] {
        let segments = Segments::most(sections);
        let indexed = own(&unchecked(), core(), &[memory()], &segments);
        assert_bounded(&format!("{sections} sections, indexed"), indexed, None);
    }
    for (what, segments) in
        [("in order", Segments::most(1)), ("reversed", Segments::most(1).reversed())]
    {
        let (data, _) = segments.sections();
        let bytes = of(&[&[core(), memory()][..], &data].concat());
        assert_bounded(what, bytes, None);
    }
}

/// Returns as many overlapping segments as a dump may have: one that the others cut into as many parts as possible, and
/// segments that each cover a part of the one before or after it.
fn overlapping() -> Vec<(&'static str, Segments)> {
    let count = MAX_OVERLAPPING_SEGMENTS as u64;
    let below = [(0, 2 * MAX_OVERLAPPING_SEGMENTS)].into_iter();
    let below = below.chain((1..count).map(|i| (i * 2, 1))).collect();
    let staggered = (0..count).map(|i| (i * 3, 5)).collect();
    let nested = (0..count).rev().map(|i| (i, 4)).collect();
    let of = |all| Segments { sections: 1, all };
    vec![("below", of(below)), ("staggered", of(staggered)), ("nested", of(nested))]
}

#[test]
fn bounds_the_memory_of_overlapping_segments() {
    let many = (0..MAX_LISTED_SEGMENTS as u64).map(|i| (i, 2)).collect();
    let too_many = ("too many", Segments { sections: 1, all: many });
    for (what, segments) in overlapping().into_iter().chain([too_many]) {
        let bytes = of(&[&[core(), memory()][..], &segments.sections().0].concat());
        let expected = (what == "too many").then_some(ErrorKind::Unsupported);
        assert_bounded(what, bytes, expected);
    }
}

/// Returns dumps with one list at its limit, and the name of that list.
fn dumps_of_one_list() -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let lists = [
        ("modules", vec![modules()]),
        ("instances", vec![instances()]),
        ("globals", vec![globals()]),
        ("threads", threads()),
        ("threads with frames", framed_threads()),
    ];
    lists.into_iter().map(|(what, sections)| (what, of(&[&[core()][..], &sections].concat())))
}

#[test]
fn bounds_the_memory_to_open_each_list() {
    for (what, bytes) in dumps_of_one_list() {
        assert_open_is_bounded(what, &bytes);
    }
}

#[test]
#[ignore = "slow: 2 s"]
fn bounds_the_memory_of_each_list() {
    for (what, bytes) in dumps_of_one_list() {
        assert_bounded(what, bytes, None);
    }
}

/// Returns a dump with everything at its limit, and an index.
fn everything_indexed() -> Vec<u8> {
    let segments = Segments::most(MAX_DATA_SECTIONS);
    own(&unchecked(), long_process(), &everything(), &segments)
}

#[test]
fn bounds_the_memory_to_open_everything_at_once() {
    assert_open_is_bounded("everything, indexed", &everything_indexed());
}

#[test]
#[ignore = "slow: 10 s"]
fn bounds_the_memory_of_everything_at_once() {
    assert_bounded("everything, indexed", everything_indexed(), None);
    // A dump of another writer, whose segments come before the lists or after them.
    for is_first in [false, true] {
        let mut sections = everything();
        sections.retain(|(id, _)| *id != 5);
        let at = if is_first { 0 } else { sections.len() };
        let data = Segments::most(1).reversed().sections().0;
        sections.splice(at..at, [&[memory()][..], &data].concat());
        sections.insert(0, long_process());
        assert_bounded("everything, another writer", of(&sections), None);
    }
}

/// Returns a dump with as many excluded ranges as possible, and as many segments as a dump with excluded ranges may
/// have.
fn partial(sections: &[Section]) -> Vec<u8> {
    let all = (0..MAX_PARTIAL_SEGMENTS as u64).map(|i| (i * 2, 1)).collect();
    let range = |i| (0, (1 << 30) + i * 2, (1 << 30) + i * 2);
    let excluded = (0..MAX_EXCLUDED_RANGES as u64).map(range).collect();
    let options = Own { flags: 1, excluded, ..unchecked() };
    own(&options, core(), sections, &Segments { sections: 1, all })
}

/// The table has room for all segments that a dump may have. The index also keeps the segments that it lists, to
/// compare the excluded ranges with them.
#[test]
#[ignore = "slow: 3 s"]
fn bounds_the_memory_of_a_partial_dump() {
    assert_bounded("partial", partial(&[memory()]), None);
    assert_bounded("partial, everything", partial(&everything()), None);
}

#[test]
fn bounds_the_memory_to_open_a_partial_dump() {
    assert_open_is_bounded("partial, everything", &partial(&everything()));
}

/// The table has room for all segments that a dump may have until it is moved to one of the right size. The positions
/// of the lists are allocated as well.
#[test]
#[ignore = "slow: 2 s"]
fn bounds_the_memory_of_overlapping_segments_with_everything() {
    let (what, segments) = overlapping().remove(0);
    let bytes = of(&[&[core()][..], &everything(), &segments.sections().0].concat());
    assert_bounded(what, bytes, None);
}

/// Salvaging keeps no more threads with a damaged first frame than intact threads.
#[test]
fn bounds_the_memory_of_damaged_threads() {
    let mut sections = vec![(0, custom("corestack", &[0, 0, 1, 0x77])); 4 * MAX_LISTED_THREADS];
    sections.push(memory());
    let segments = Segments { sections: 1, all: vec![(0, 1)] };
    let bytes = own(&unchecked(), core(), &sections, &segments);
    assert_bounded("damaged threads", bytes.clone(), Some(ErrorKind::Damaged));
    let cut = &bytes[..bytes.len() - 1];
    let dump = CoreDumpFile::salvage_slice(cut).unwrap();
    assert_eq!(dump.threads().len(), MAX_LISTED_THREADS);
}

/// Another tool has moved the header: the segments come from the sections, and the excluded ranges from the index.
#[test]
#[ignore = "slow: 4 s"]
fn bounds_the_memory_of_a_rewritten_dump() {
    let listed = partial(&[memory()]);
    let (header_at, index_at) = (own::end_of_core(&listed), own::index_of(&listed));
    let data = Segments::most(MAX_DATA_SECTIONS).reversed().sections().0;
    let mut bytes = of(&[&[long_process()][..], &everything(), &data].concat());
    bytes.extend(&listed[header_at..header_at + HEADER]);
    bytes.extend(&listed[index_at..]);
    assert_bounded("rewritten", bytes, None);
}

#[test]
fn bounds_the_memory_of_a_frame_with_the_most_values() {
    let mut frame = vec![0, 0, 1, 0, 0, 2, 3];
    for value in [&[0x7f, 1][..], &[0x7c, 1, 2, 3, 4, 5, 6, 7, 8]] {
        own::leb(&mut frame, MAX_FRAME_VALUES);
        frame.extend(value.repeat(MAX_FRAME_VALUES));
    }
    let sections = [core(), (0, custom("coremodules", &[0])), (0, custom("corestack", &frame))];
    let bytes = of(&sections);
    assert_bounded("a frame", bytes.clone(), None);
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let (frame, held) = count::peak(|| all(dump.thread(0).unwrap().frames()).remove(0));
    assert_eq!((frame.locals.len(), frame.stack.len()), (MAX_FRAME_VALUES, MAX_FRAME_VALUES));
    assert!(held <= MAX_METADATA_BYTES as u64, "{held} bytes to list a frame");
}
