//! How much of a source the reader reads: little to open a dump, and exactly the requested bytes after that.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

use corestream::read::{Content, ReadAt};
use corestream::{CoreDumpFile, Dumper, FileSink, Memory, MemoryImage, MemoryType};
use tempfile::NamedTempFile;

use super::open;
use crate::common::Random;
use crate::common::own;
use crate::common::reading::{guest, images};
use crate::counting::Counting;
use crate::questions::QUESTIONS;
use crate::{foreign, sparse};

/// The most bytes that opening a dump may read in addition to its index.
const BESIDES_INDEX: u64 = 64 << 10;

/// The most bytes of contents that reading a header may include, because a reader does not know the length of a header.
const READ_AHEAD: u64 = 4 << 10;

/// Returns the number of bytes in both lists of ranges. The second one must be in order.
fn overlap(reads: &[Range<u64>], ranges: &[Range<u64>]) -> u64 {
    let overlap = |read: &Range<u64>| {
        let from = ranges.partition_point(|range| range.end <= read.start);
        let ranges = ranges[from..].iter().take_while(|range| range.start < read.end);
        ranges.map(|range| range.end.min(read.end) - range.start.max(read.start)).sum::<u64>()
    };
    reads.iter().map(overlap).sum()
}

/// Returns the ranges of a dump that hold contents of memories, in order.
fn payload(dump: &CoreDumpFile<'_>) -> Vec<Range<u64>> {
    let segments = dump.memories().flat_map(|memory| memory.segments());
    let payload = segments.map(|segment| {
        let (first, last) = segment.addresses.into_inner();
        segment.offset..segment.offset + (last - first) + 1
    });
    let mut payload: Vec<_> = payload.collect();
    payload.sort_by_key(|range| range.start);
    payload
}

/// Checks that no read begins in the contents of memories, or reaches more than [`READ_AHEAD`] into them.
fn assert_outside(reads: &[Range<u64>], payload: &[Range<u64>], what: &str) {
    for read in reads {
        let after = payload.partition_point(|range| range.end <= read.start);
        let is_inside = payload.get(after).is_some_and(|range| range.contains(&read.start));
        assert!(!is_inside, "{what}: read {read:x?}");
    }
    let (beyond, calls) = (overlap(reads, payload), reads.len() as u64);
    assert!(beyond <= READ_AHEAD * calls, "{what}: {beyond} bytes of contents by {calls} calls");
}

/// A dump in a file, and the length of its index.
struct InFile {
    file: NamedTempFile,
    index: u64,
}

/// Returns dumps in files: a small one, one with segments in gigabytes of memory, and one with many segments in a
/// sparse file. All have the same lists.
fn files() -> Vec<(&'static str, InFile)> {
    let images = images();
    let dense = NamedTempFile::new().unwrap();
    dense.as_file().set_len(3 << 30).unwrap();
    for at in (0..3 << 30).step_by(64 << 20) {
        dense.as_file().write_all_at(&[7; 5000], at).unwrap();
    }
    let mut large = guest(&images);
    let image = MemoryImage::open(dense.path()).unwrap();
    large.add_memory(Memory::new(MemoryType::wasm32(3 << 14), image));
    let written = [guest(&images), large].map(|guest| {
        let file = NamedTempFile::new().unwrap();
        let plan = Dumper::new().plan(&guest).unwrap();
        plan.write_to(&mut FileSink::new(file.as_file())).unwrap();
        let mut head = vec![0; 4096.min(usize::try_from(plan.len()).unwrap())];
        ReadAt::read_exact_at(file.as_file(), &mut head, 0).unwrap();
        InFile { index: plan.len() - own::index_of(&head) as u64, file }
    });
    let sparse = sparse::sparse(guest(&[]), 20_000, 50_000);
    let sparse = InFile { file: sparse.file, index: sparse.index };
    let [small, large] = written;
    vec![("small", small), ("large", large), ("20,000 segments", sparse)]
}

#[test]
fn opens_and_lists_without_reading_contents() {
    for (name, InFile { file, index }) in files() {
        let metadata = file.as_file().metadata().unwrap();
        assert!(metadata.blocks() * 512 < 1 << 30, "{name} is not sparse");
        let source = Counting::new(File::open(file.path()).unwrap());
        let dump = open(&source, false).unwrap();
        let reads = source.take_reads();
        let payload = payload(&dump);
        let index = metadata.len() - index..metadata.len();
        let bytes: u64 = reads.iter().map(|read| read.end - read.start).sum();
        let of_index = overlap(&reads, std::slice::from_ref(&index));
        assert!(of_index <= index.end - index.start, "{name}: {of_index} bytes of the index");
        assert!(bytes - of_index <= BESIDES_INDEX, "{name}: {} bytes", bytes - of_index);
        assert_outside(&reads, &payload, name);
        assert_eq!(source.lengths(), 1);

        let lists = &QUESTIONS[..13];
        assert_eq!((lists[0].0, lists[12].0), ("modules", "a thread"));
        for (about, ask) in lists {
            let answers = ask(&dump);
            assert!(answers.error.is_none());
            let reads = source.take_reads();
            assert_outside(&reads, &payload, about);
        }
        // The reader knows where contents are without reading them.
        let memory = dump.memories().last().unwrap();
        let (coverage, contents) = (memory.coverage(), memory.contents().count());
        assert!(
            contents as u64 >= coverage.segments
                && coverage.segments == memory.segments().len() as u64
        );
        assert!(source.take_reads().is_empty(), "{name}");
    }
}

/// Without an index, opening reads the header of each segment, and few bytes after it.
#[test]
fn opens_without_an_index_in_one_call_per_segment() {
    let (count, len) = (500, 50_000);
    let mut data = wasm_encoder::DataSection::new();
    for i in 0..count {
        data.active(0, &foreign::address(i * 2 * len, false), std::iter::repeat_n(7, 50_000));
    }
    let bytes = foreign::foreign(&[(1 << 10, false)], &data);
    let source = Counting::new(&bytes[..]);
    let dump = open(&source, false).unwrap();
    let (reads, payload) = (source.take_reads(), payload(&dump));
    assert_eq!(payload.len() as u64, count);
    // The other calls read the sections before and after the segments.
    assert!(reads.len() as u64 <= count + 2, "{} calls", reads.len());
    assert_outside(&reads, &payload, "foreign");
}

#[test]
fn reads_in_one_call_per_segment() {
    let mut random = Random(3);
    for (name, InFile { file, .. }) in files() {
        let source = Counting::new(File::open(file.path()).unwrap());
        let dump = open(&source, false).unwrap();
        source.take_reads();
        for memory in dump.memories() {
            let segments: Vec<_> = memory.segments().collect();
            for _ in 0..200 {
                let Some(last) = segments.len().checked_sub(1) else { continue };
                let i = random.below(segments.len() as u64);
                let (first, end) = segments[i].addresses.clone().into_inner();
                if end - first >= 15 {
                    let address = first + random.below(end - first - 14) as u64;
                    memory.read(address, &mut [0; 16]).unwrap();
                    let offset = segments[i].offset + (address - first);
                    let (reads, expected) = (source.take_reads(), offset..offset + 16);
                    assert_eq!(reads, std::slice::from_ref(&expected), "{name}: {address:#x}");
                }
                // Reading up to the end of a later segment takes one call for each, and reads nothing else.
                let to = last.min(i + random.below(10));
                let len = segments[to].addresses.end() - first + 1;
                if len > 1 << 20 {
                    continue;
                }
                memory.read(first, &mut vec![0; usize::try_from(len).unwrap()]).unwrap();
                let expected: Vec<_> = segments[i..=to]
                    .iter()
                    .map(|segment| {
                        let len = segment.addresses.end() - segment.addresses.start() + 1;
                        segment.offset..segment.offset + len
                    })
                    .collect();
                assert_eq!(source.take_reads(), expected, "{name}: {first:#x}");
            }
            // Reading zeros between segments takes no call.
            let zero = memory.contents().find(|content| matches!(content, Content::Zero(_)));
            if let Some(zero) = zero {
                memory.read(*zero.addresses().start(), &mut [1]).unwrap();
                assert!(source.take_reads().is_empty(), "{name}");
            }
        }
    }
}
