//! Reading intact dumps by corestream, with and without an index, and by other writers.

use crate::{common, foreign, sparse};
use std::os::unix::fs::FileExt;

use common::Random;
use common::own::{self, Own};
use common::reading::{
    FIRST, PAGE, all, contents, guest, images, intact, read_all, read_consistently, small, threads,
    types, verdict,
};
use corestream::read::{Content, MappedFile, Producer, Verdict, Verifier};
use corestream::*;
use foreign::{CORE, address, foreign, module};
use proptest::prelude::*;
use sparse::sparse;
use wasm_encoder::DataSection;

/// Checks everything in a dump of the small guest.
pub fn check_small(dump: &CoreDumpFile<'_>) {
    let images = images();
    let guest = guest(&images);
    assert_eq!(dump.name(), guest.name);
    assert_eq!(all(dump.modules()), ["guest.wasm", "<anonymous-module-1>"]);
    assert_eq!(dump.module(ModuleIndex(0)).unwrap(), "guest.wasm");
    let error = dump.module(ModuleIndex(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Option);
    assert_eq!(error.to_string(), "there is no module 2; the dump has 2");
    assert_eq!(all(dump.instances()), guest.instances);
    assert_eq!(dump.instance(InstanceIndex(1)).unwrap().module, None);
    assert_eq!(dump.instance(InstanceIndex(2)).unwrap_err().kind(), ErrorKind::Option);
    for (thread, expected) in dump.threads().zip(&guest.threads) {
        let (thread, frames) = (thread.unwrap(), expected.frames.len());
        let shown = format!("{thread:?}");
        let expected = format!("ThreadView {{ name: {:?}, frames: {frames}, ", expected.name);
        assert!(shown.starts_with(&expected), "{shown}");
    }
    assert_eq!(threads(dump), guest.threads);
    assert_eq!(dump.threads().next().unwrap().unwrap().frames().len(), 2);
    assert_eq!(all(dump.globals()), guest.globals);
    assert!(types(dump).into_iter().eq(images.iter().map(|(ty, _)| *ty)));
    for (i, (ty, image)) in (0..).zip(&images) {
        let index = MemoryIndex(i);
        assert!(contents(dump, index) == *image, "memory {i}");
        let memory = dump.memory(index).unwrap();
        assert_eq!((memory.index(), memory.declared_pages()), (index, None));
        let coverage = memory.coverage();
        let data = memory.contents().filter_map(|content| match content {
            Content::Data { addresses, offset } => Some((addresses, offset)),
            _ => None,
        });
        let segments = memory.segments().map(|segment| (segment.addresses, segment.offset));
        assert!(segments.eq(data.clone()));
        let data = data.map(|(addresses, _)| addresses.end() - addresses.start() + 1);
        let (segments, bytes) = data.fold((0, 0), |(n, sum), len| (n + 1, sum + len));
        assert_eq!((coverage.segments, coverage.data_bytes), (segments, bytes));
        assert_eq!((coverage.excluded_bytes, coverage.lost_bytes), (0, 0));
        assert_eq!((coverage.unknown_bytes(), memory.unknown().next()), (0, None));
        let mut random = Random(i.into());
        random.0 += 7;
        for _ in 0..200 {
            let start = random.below(image.len() as u64 + 1);
            let end = start + random.below((image.len() - start) as u64 + 1);
            let mut buffer = vec![0xaa; end - start];
            memory.read(start as u64, &mut buffer).unwrap();
            assert!(buffer == image[start..end], "memory {i}, {start}..{end}");
        }
        let len = ty.byte_len().unwrap();
        let error = memory.read(len, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Option);
        assert_eq!(memory.contents_from(len).next(), None);
        let mut restored = Vec::new();
        let result = memory.write_to(&mut restored).unwrap();
        assert!(restored == *image);
        assert_eq!((result.len, result.data, result.unknown), (len, bytes, 0));
    }
    for index in [4, u32::MAX] {
        let error = dump.memory(MemoryIndex(index)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Option);
        assert_eq!(error.to_string(), format!("there is no memory {index}; the dump has 4"));
    }
}

#[test]
fn reads_a_small_dump_with_and_without_an_index() {
    let foreign = small();
    let own = Own::default().dump(&foreign);
    let unchecked = Own { block_log2: 0, flags: 2, ..Own::default() }.dump(&foreign);

    let dump = CoreDumpFile::from_slice(&foreign).unwrap();
    assert_eq!((dump.producer(), dump.has_index()), (Producer::Other, false));
    assert_eq!(
        (dump.has_checksums(), dump.is_partial(), dump.is_degraded()),
        (false, false, false)
    );
    check_small(&dump);
    let dump = CoreDumpFile::from_slice(&own).unwrap();
    assert_eq!((dump.producer(), dump.has_index()), (Producer::Corestream, true));
    assert_eq!((dump.has_checksums(), dump.is_partial(), dump.is_degraded()), (true, false, false));
    check_small(&dump);
    let dump = CoreDumpFile::from_slice(&unchecked).unwrap();
    assert_eq!((dump.has_checksums(), dump.is_partial(), dump.is_degraded()), (false, false, true));
    check_small(&dump);

    let found = intact(&own);
    assert_eq!((found.bytes, found.producer), (own.len() as u64, Producer::Corestream));
    assert_eq!(found.segments, common::decode(&foreign).segments.len() as u64);
    assert!(found.checksums && !found.partial && !found.degraded);
    let found = intact(&unchecked);
    assert!(!found.checksums && found.degraded);

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dump");
    std::fs::write(&path, &own).unwrap();
    check_small(&CoreDumpFile::open(&path).unwrap());
    assert_eq!(
        Verifier::new().threads(2).verify_file(&path).unwrap(),
        Verdict::Intact(intact(&own))
    );
    assert_eq!(CoreDumpFile::open(directory.path()).unwrap_err().kind(), ErrorKind::Input);
    assert_eq!(CoreDumpFile::open("").unwrap_err().kind(), ErrorKind::Input);
}

#[test]
fn reports_excluded_ranges() {
    let foreign = small();
    let excluded = vec![(0, 0, 99), (0, 5000, 5999), (1, 1000, PAGE as u64 - 1)];
    let own = Own { flags: 1, excluded, changing: vec![1], ..Own::default() };
    let own = own.dump(&foreign);
    let found = intact(&own);
    assert!(found.partial);
    let excluded: Vec<_> =
        found.excluded.iter().map(|of| (of.memory.0, of.ranges, of.bytes)).collect();
    assert_eq!(excluded, [(0, 2, 1100), (1, 1, PAGE as u128 - 1000)]);
    let dump = CoreDumpFile::from_slice(&own).unwrap();
    assert!(dump.is_partial());
    let memory = dump.memory(FIRST).unwrap();
    let unknown: Vec<_> = memory.unknown().collect();
    assert_eq!(unknown, [0..=99, 5000..=5999]);
    let excluded = |content: Content| matches!(content, Content::Excluded(_));
    assert_eq!(memory.contents().filter(|content| excluded(content.clone())).count(), 2);
    let coverage = memory.coverage();
    assert_eq!((coverage.excluded_bytes, coverage.lost_bytes), (1100, 0));
    assert_eq!((coverage.unknown_bytes(), coverage.changing), (1100, false));
    assert!(dump.memory(MemoryIndex(1)).unwrap().coverage().changing);

    let mut expected = images().swap_remove(0).1;
    expected[..100].fill(0xee);
    expected[5000..6000].fill(0xee);
    assert!(contents(&dump, FIRST) == expected);
    memory.read(100, &mut [0; 4900]).unwrap();
    let error = memory.read(100, &mut [0; 4901]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Excluded);
    assert_eq!(error.to_string(), "0x1388..=0x176f of memory 0 was excluded");
    assert!(memory.read(5500, &mut [0]).is_err());
    memory.read(5500, &mut []).unwrap();
    let restored = memory.write_to(std::io::sink()).unwrap();
    assert_eq!((restored.len, restored.unknown), (PAGE as u64, 1100));
    read_consistently(&own);
}

/// Reads a dump with one segment for each page of 4 KiB, as Wasmtime writes it.
fn check_a_dump_like_those_of_wasmtime(pages: u64) {
    let mut image = vec![0; usize::try_from(pages).unwrap() * 4096];
    for (i, page) in (0_u64..).zip(image.chunks_mut(4096)) {
        page[..8].copy_from_slice(&(i * 3 + 1).to_le_bytes());
    }
    let mut data = DataSection::new();
    for (i, page) in (0_u64..).zip(image.chunks(4096)) {
        data.active(0, &address(i * 4096, false), page.iter().copied());
    }
    data.passive([1, 2, 3]);
    let bytes = foreign(&[(image.len().div_ceil(PAGE) as u64, false)], &data);
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    assert_eq!(dump.name(), "foreign");
    let memory = dump.memory(FIRST).unwrap();
    let coverage = memory.coverage();
    assert_eq!((coverage.segments, coverage.data_bytes), (pages, image.len() as u64));
    assert!(contents(&dump, FIRST) == image);
    let mut buffer = [0; 8];
    for i in (0..pages).step_by(997) {
        memory.read(i * 4096, &mut buffer).unwrap();
        assert_eq!(u64::from_le_bytes(buffer), i * 3 + 1);
    }
    let found = intact(&bytes);
    assert_eq!(
        (found.producer, found.checksums, found.segments),
        (Producer::Other, false, pages + 1)
    );
}

#[test]
fn reads_a_dump_like_those_of_wasmtime() {
    check_a_dump_like_those_of_wasmtime(10_000);
}

/// An engine accepts at most 100,000 segments.
#[test]
#[ignore = "slow: 2 s"]
fn reads_more_segments_than_an_engine_accepts() {
    check_a_dump_like_those_of_wasmtime(120_000);
}

/// Opening a dump at the limit works, in order or not. With one more segment, only verifying works.
#[test]
#[ignore = "slow: 2 s"]
fn rejects_more_segments_than_the_limit() {
    let count = limits::MAX_LISTED_SEGMENTS as u64;
    let pages = (count * 16).div_ceil(PAGE as u64);
    let memories = [(1, false), (pages, true), (1, false)];
    let memory = MemoryIndex(1);
    for is_ordered in [true, false] {
        let mut data = DataSection::new();
        for i in 0..count {
            let place = if is_ordered { i } else { count - 1 - i };
            data.active(1, &address(place * 16 + 3, true), place.to_le_bytes());
        }
        let bytes = foreign(&memories, &data);
        let dump = CoreDumpFile::from_slice(&bytes).unwrap();
        let view = dump.memory(memory).unwrap();
        assert_eq!(view.coverage().segments, count);
        let mut random = Random(8);
        for i in (0..2000).map(|_| random.below(count) as u64).chain([0, count - 1]) {
            let mut buffer = [0xaa; 13];
            view.read(i * 16, &mut buffer).unwrap();
            assert_eq!(buffer[..3], [0; 3]);
            assert_eq!(u64::from_le_bytes(buffer[3..11].try_into().unwrap()), i);
            assert_eq!(buffer[11..], [0; 2]);
        }
        for memory in [0, 2].map(MemoryIndex) {
            let all: Vec<_> = dump.memory(memory).unwrap().contents().collect();
            assert_eq!(all, [Content::Zero(0..=65_535)]);
        }

        data.active(0, &address(0, false), [1]);
        let bytes = foreign(&memories, &data);
        let error = CoreDumpFile::from_slice(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("over the limit of 1048576 segments"), "{error}");
        assert_eq!(intact(&bytes).segments, count + 1);
    }
}

proptest! {
    /// Overlapping segments in any order, applied one after the other.
    #[test]
    fn gives_the_bytes_of_the_last_segment(
        segments in prop::collection::vec((0..2_u32, 0..700_u64, 0..120_usize), 0..60),
    ) {
        let mut images = [vec![0; PAGE], vec![0; PAGE]];
        let mut data = DataSection::new();
        for (i, (memory, start, len)) in (1..).zip(segments) {
            data.active(memory, &address(start, memory == 1), vec![i; len]);
            let start = usize::try_from(start).unwrap();
            images[memory as usize][start..start + len].fill(i);
        }
        let bytes = foreign(&[(1, false), (1, true)], &data);
        let dump = CoreDumpFile::from_slice(&bytes).unwrap();
        for (i, image) in (0..).zip(&images) {
            let memory = dump.memory(MemoryIndex(i)).unwrap();
            prop_assert!(contents(&dump, MemoryIndex(i)) == *image);
            let data = image.iter().filter(|byte| **byte != 0).count() as u64;
            prop_assert_eq!(memory.coverage().data_bytes, data);
            for start in (0..850).step_by(13) {
                let mut buffer = [0; 40];
                memory.read(start as u64, &mut buffer).unwrap();
                prop_assert_eq!(&buffer[..], &image[start..start + 40]);
            }
        }
        prop_assert!(matches!(verdict(&bytes), Ok(Verdict::Intact(_))));
        read_all(&bytes);
    }
}

#[test]
fn rejects_impossible_counts() {
    let most = [0xff, 0xff, 0xff, 0xff, 0x0f];
    let custom = |name: &str, before: &[u8]| {
        let mut body = vec![u8::try_from(name.len()).unwrap()];
        body.extend(name.bytes());
        body.extend(before);
        body.extend(most);
        body
    };
    let memory = [1, 0, 1];
    for (id, body) in [
        (0, custom("coremodules", &[])),
        (0, custom("coremodules", &[1, 0])),
        (0, custom("coreinstances", &[])),
        (0, custom("coreinstances", &[1, 0, 0])),
        (0, custom("corestack", &[0])),
        (0, custom("corestack", &[0, 1, b't'])),
        (0, custom("corestack", &[0, 1, b't', 1, 0, 0, 0, 0])),
        (0, custom("corestream.data", &[])),
        (0, custom("core", &[0])),
        (6, most.to_vec()),
        (11, most.to_vec()),
        (11, [&[1, 0, 0x41, 0, 0x0b][..], &most].concat()),
    ] {
        let bytes = module(&[CORE, (5, &memory), (id, &body)]);
        let error = CoreDumpFile::from_slice(&bytes).unwrap_err();
        let kinds = [ErrorKind::Damaged, ErrorKind::Unsupported];
        assert!(kinds.contains(&error.kind()), "{body:x?}: {error}");
        assert!(error.to_string().starts_with("at 0x"), "{error}");
        read_all(&bytes);
        assert!(!matches!(verdict(&bytes), Ok(Verdict::Intact(_))));
    }
    // Sections with a size of 4 GiB.
    for id in 0..14 {
        let mut bytes = module(&[CORE]);
        bytes.push(id);
        bytes.extend(most);
        bytes.extend([0; 20]);
        let error = CoreDumpFile::from_slice(&bytes).unwrap_err();
        assert!(
            [ErrorKind::Truncated, ErrorKind::Unsupported, ErrorKind::Damaged]
                .contains(&error.kind())
        );
        read_all(&bytes);
        assert!(!matches!(verdict(&bytes), Ok(Verdict::Intact(_))));
    }
    let many = module(&[CORE, (5, &[&[101][..], &[0; 202]].concat())]);
    let error = CoreDumpFile::from_slice(&many).unwrap_err();
    assert!(error.to_string().contains("limit of 100 memories"), "{error}");
}

/// The limit is a million modules.
#[test]
fn rejects_a_list_over_its_limit() {
    let list = |count: usize| {
        let mut body = b"\x0bcoremodules".to_vec();
        own::leb(&mut body, count);
        body.resize(body.len() + 2 * count, 0);
        module(&[CORE, (0, &body)])
    };
    let bytes = list(limits::MAX_LISTED);
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    assert_eq!(dump.modules().len(), limits::MAX_LISTED);
    assert_eq!(all(dump.modules()), vec![""; limits::MAX_LISTED]);
    let error = CoreDumpFile::from_slice(&list(limits::MAX_LISTED + 1)).unwrap_err();
    assert!(error.to_string().contains("more than the limit of 1000000 modules"), "{error}");
}

/// The memory has data at its end.
#[test]
fn reads_a_memory_of_2_to_the_64_bytes() {
    let mut data = DataSection::new();
    data.active(0, &address(u64::MAX - 1, true), [1, 2]);
    let bytes = foreign(&[(1 << 48, true)], &data);
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let memory = dump.memory(FIRST).unwrap();
    let all: Vec<_> = memory.contents().collect();
    let offset = bytes.windows(3).position(|bytes| bytes == [2, 1, 2]).unwrap() as u64 + 1;
    let data = Content::Data { addresses: u64::MAX - 1..=u64::MAX, offset };
    assert_eq!(all, [Content::Zero(0..=u64::MAX - 2), data]);
    let mut buffer = [9; 3];
    memory.read(u64::MAX - 2, &mut buffer).unwrap();
    assert_eq!(buffer, [0, 1, 2]);
    assert!(memory.read(u64::MAX, &mut [0; 2]).is_err());
    let error = memory.restore("never", FileOptions::new()).unwrap_err();
    assert!(error.to_string().contains("2^64"), "{error}");
    read_consistently(&bytes);
}

/// Opens and reads a sparse dump with segments of 50,000 bytes. That must not touch the contents of other segments.
fn check_untouched_contents(count: u64) {
    let len = 50_000;
    let dump = sparse(guest(&[]), count, len);
    let (_, last_address, last_offset, _) = *dump.segments.last().unwrap();
    dump.file.as_file().write_all_at(b"here", last_offset).unwrap();

    let before = mapped_pages();
    // SAFETY: there are no writes to the file from here on, and only this test knows it.
    #[allow(unsafe_code, reason = "maps a file of its own")]
    let mapped = unsafe { MappedFile::new(dump.file.as_file()) };
    let mapped = CoreDumpFile::from_source(mapped.unwrap()).unwrap();
    let file = CoreDumpFile::open(dump.file.path()).unwrap();
    for dump in [&mapped, &file] {
        assert!(dump.has_index() && dump.len() > count * u64::from(len));
        assert_eq!((all(dump.modules()).len(), all(dump.instances()).len()), (2, 2));
        assert_eq!((all(dump.globals()).len(), threads(dump).len()), (3, 2));
        let memory = dump.memory(FIRST).unwrap();
        let mut buffer = [0; 5];
        memory.read(last_address, &mut buffer).unwrap();
        assert_eq!(buffer, *b"here\0");
        let coverage = memory.coverage();
        assert_eq!((coverage.segments, coverage.data_bytes), (count, count * u64::from(len)));
    }
    // The index has 20 bytes for each segment. The kernel maps some pages around each that is touched.
    let touched = mapped_pages().saturating_sub(before) * 4096;
    assert!(touched < 8 << 20, "{touched} bytes");
    for dump in [&mapped, &file] {
        let Verdict::Intact(intact) = dump.verify().unwrap() else {
            panic!("expected an intact dump")
        };
        assert_eq!((intact.segments, intact.checksums), (count, false));
    }
}

#[test]
fn opens_a_large_dump_without_touching_its_contents() {
    check_untouched_contents(10_000);
}

#[test]
#[ignore = "slow: 2 s"]
fn opens_a_dump_of_5_gib_without_touching_its_contents() {
    check_untouched_contents(100_000);
}

/// Returns the number of file pages that this process has mapped.
fn mapped_pages() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 4
}
