//! Dumps of this tool, with and without an index, and dumps of others are read back.

use crate::{common, foreign, sparse};
use std::os::unix::fs::FileExt;

use common::Random;
use common::own::{self, Own};
use common::reading::{
    PAGE, all, contents, guest, images, read_all, read_consistently, small, threads, types, verdict,
};
use corestream::read::{Content, IntactDump, MappedFile, Producer, Verdict, Verifier};
use corestream::*;
use foreign::{CORE, address, foreign, module};
use proptest::prelude::*;
use sparse::sparse;
use wasm_encoder::DataSection;

const FIRST: MemoryIndex = MemoryIndex(0);

fn whole(bytes: &[u8]) -> IntactDump {
    match verdict(bytes).unwrap() {
        Verdict::Intact(whole) => whole,
        Verdict::Damaged(damage) => panic!("{damage}"),
    }
}

/// What is in a small dump, however it was written.
fn check_small(dump: &CoreDumpFile<'_>) {
    let images = images();
    let guest = guest(&images);
    assert_eq!(dump.name(), guest.name);
    assert_eq!(all(dump.modules()), ["guest.wasm", "<anonymous-module-1>"]);
    assert_eq!(dump.module(ModuleIndex(0)).unwrap(), "guest.wasm");
    let error = dump.module(ModuleIndex(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Option);
    assert_eq!(error.to_string(), "there is no module 2, the dump has 2");
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
        assert_eq!(error.to_string(), format!("there is no memory {index}, the dump has 4"));
    }
}

#[test]
fn a_small_dump_is_read_with_and_without_an_index() {
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

    let found = whole(&own);
    assert_eq!((found.bytes, found.producer), (own.len() as u64, Producer::Corestream));
    assert_eq!(found.segments, common::decode(&foreign).segments.len() as u64);
    assert!(found.checksums && !found.partial && !found.degraded);
    let found = whole(&unchecked);
    assert!(!found.checksums && found.degraded);

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dump");
    std::fs::write(&path, &own).unwrap();
    check_small(&CoreDumpFile::open(&path).unwrap());
    assert_eq!(
        Verifier::new().threads(2).verify_file(&path).unwrap(),
        Verdict::Intact(whole(&own))
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
    let found = whole(&own);
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

/// One segment a page of 4 KiB, more than any engine takes.
#[test]
fn a_dump_like_those_of_wasmtime() {
    let mut image = vec![0; 120_000 * 4096];
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
    assert_eq!((coverage.segments, coverage.data_bytes), (120_000, image.len() as u64));
    assert!(contents(&dump, FIRST) == image);
    let mut buffer = [0; 8];
    for i in (0..120_000_u64).step_by(997) {
        memory.read(i * 4096, &mut buffer).unwrap();
        assert_eq!(u64::from_le_bytes(buffer), i * 3 + 1);
    }
    let found = whole(&bytes);
    assert_eq!(
        (found.producer, found.checksums, found.segments),
        (Producer::Other, false, 120_001)
    );
}

/// As many segments as a reader keeps, in order or not; one more is refused, but verified.
#[test]
fn segments_over_the_limit_are_unsupported() {
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
        assert_eq!(whole(&bytes).segments, count + 1);
    }
}

proptest! {
    /// Segments that overlap, in any order: as if they were written one after the other.
    #[test]
    fn the_last_segment_wins(
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
fn counts_that_lie_are_errors() {
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
    // Sections that say that they have four gigabytes.
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

/// A million modules are listed, one more is not.
#[test]
fn lists_have_a_limit() {
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

/// A memory of all 2^64 bytes, with data at its end.
#[test]
fn a_memory_of_2_to_the_64_bytes() {
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

/// What comes before the damage is readable, and what may be lost is reported.
#[test]
fn a_damaged_dump_is_salvaged() {
    let foreign = small();
    let own = Own::default().dump(&foreign);
    let whole = CoreDumpFile::salvage_slice(&own).unwrap();
    assert!(whole.damage().is_none());
    check_small(&whole);

    let second =
        common::decode(&foreign).segments[1].data.as_ptr().addr() - foreign.as_ptr().addr();
    let cut = &own[..second + own::HEADER + 10];
    let dump = CoreDumpFile::salvage_slice(cut).unwrap();
    assert_eq!(dump.damage().unwrap().kind(), ErrorKind::Truncated);
    assert_eq!(dump.threads().count(), 2);
    let (mut expected, first) = (images().swap_remove(0).1, &images()[0].1);
    // Ten bytes of the second segment are there.
    let end = first.iter().position(|byte| *byte == 2).unwrap() + 10;
    expected[end..].fill(0xee);
    assert!(contents(&dump, FIRST) == expected);
    let coverage = dump.memory(FIRST).unwrap().coverage();
    assert_eq!((coverage.segments, coverage.data_bytes), (2, 90));
    assert_eq!((coverage.excluded_bytes, coverage.lost_bytes), (0, (PAGE - end) as u128));
    assert!(contents(&dump, MemoryIndex(2)) == [0xee; 13]);
    let coverage = dump.memory(MemoryIndex(2)).unwrap().coverage();
    assert_eq!((coverage.excluded_bytes, coverage.lost_bytes), (0, 13));
    // Nobody left them out.
    for (memory, from) in [(FIRST, end), (MemoryIndex(2), 0)] {
        let error = dump.memory(memory).unwrap().read(from as u64, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Truncated);
        let (what, why) =
            (format!(" of memory {memory} is lost in a damaged dump: "), "truncated: ");
        assert!(error.to_string().contains(&(what + why)), "{error}");
    }

    // A section that is not known any more, by the index and without it.
    let name = own.windows(15).position(|name| name == b"corestream.data").unwrap();
    let mut renamed = own.clone();
    renamed[name] ^= 1;
    let dump = CoreDumpFile::salvage_slice(&renamed).unwrap();
    assert_eq!(dump.damage().unwrap().kind(), ErrorKind::Damaged);
    check_small_memories(&dump);
    drop(dump);
    *renamed.last_mut().unwrap() ^= 1;
    let dump = CoreDumpFile::salvage_slice(&renamed).unwrap();
    assert_eq!(dump.damage().unwrap().kind(), ErrorKind::Damaged);
    let found = contents(&dump, FIRST);
    assert!(found.iter().zip(first).all(|(found, byte)| *found == *byte || *found == 0xee));
    assert!(found.contains(&1));

    // Nothing is lost with the index alone, nor with what is behind it.
    for bad in [&own[..own.len() - 1], &[&own[..], b"more"].concat()] {
        let dump = CoreDumpFile::salvage_slice(bad).unwrap();
        assert!(dump.damage().is_some());
        check_small_memories(&dump);
    }
    // But what was left out on purpose is not known any more.
    let partial = Own { flags: 1, excluded: vec![(0, 0, 99)], ..Own::default() }.dump(&foreign);
    let dump = CoreDumpFile::salvage_slice(&partial[..partial.len() - 1]).unwrap();
    let memory = dump.memory(FIRST).unwrap();
    assert!(memory.read(200, &mut [0]).is_err());
    memory.read(100, &mut [0]).unwrap();
    let coverage = memory.coverage();
    assert_eq!((coverage.excluded_bytes, coverage.lost_bytes > 0), (0, true));
    read_consistently(&partial[..partial.len() - 1]);
}

/// Whatever is wrong before the data, or between it, a sound index says where the bytes of memories are.
#[test]
fn memories_are_had_by_the_index_whatever_is_wrong_before_it() {
    let foreign = small();
    for own in [Own::default(), Own { block_log2: 0, ..Own::default() }] {
        let whole = own.dump(&foreign);
        let expected = CoreDumpFile::from_slice(&whole).unwrap();
        let decoded = common::decode(&whole);
        let payload = |at: usize| {
            decoded.segments.iter().any(|segment| {
                let start = segment.data.as_ptr().addr() - whole.as_ptr().addr();
                (start..start + segment.data.len()).contains(&at)
            })
        };
        let index = whole.windows(16).position(|name| name == b"corestream.index").unwrap() - 4;
        let check = |dump: &CoreDumpFile<'_>, what: &str| {
            assert!(dump.damage().is_some(), "{what}");
            assert_eq!(dump.memories().len(), expected.memories().len(), "{what}");
            for i in (0..).map(MemoryIndex).take(dump.memories().len()) {
                // A size that is lost is that of the segments, one that is damaged may be too large.
                let len =
                    |dump: &CoreDumpFile<'_>| dump.memory(i).unwrap().ty().byte_len().unwrap();
                let (mut found, mut image) = (contents(dump, i), contents(&expected, i));
                let zeros = |from: &[u8]| from.iter().all(|byte| *byte == 0);
                let both = len(dump).min(len(&expected));
                let both = usize::try_from(both).unwrap().min(found.len()).min(image.len());
                let (more, rest) = (found.split_off(both), image.split_off(both));
                assert!(found == image && zeros(&more) && zeros(&rest), "{what}: memory {i}");
            }
        };
        for at in (0..index).filter(|at| !payload(*at)) {
            for mask in [0x01, 0x40, 0x80, 0xff] {
                let mut bad = whole.clone();
                bad[at] ^= mask;
                if CoreDumpFile::from_slice(&bad).is_err() {
                    let what = format!("{at:#x} with {mask:#x}");
                    let dump = CoreDumpFile::salvage_slice(&bad);
                    check(&dump.unwrap_or_else(|error| panic!("{what}: {error}")), &what);
                }
                read_all(&bad);
            }
        }
        // Nothing at all is left of the first sections.
        let first = decoded.segments[0].data.as_ptr().addr() - whole.as_ptr().addr();
        let mut bad = whole.clone();
        bad[..first].fill(0);
        let dump = CoreDumpFile::salvage_slice(&bad).unwrap();
        check(&dump, "zeros");
        assert_eq!((dump.name(), dump.threads().count()), ("", 0));
        assert_eq!(dump.memory(FIRST).unwrap().declared_pages(), Some(0));
        let error = dump.damage().unwrap();
        assert_eq!(error.to_string(), "at 0x0: does not begin as a WebAssembly module does");
        let verdict = Verifier::new().threads(1).verify(&bad).unwrap();
        let Verdict::Damaged(damage) = verdict else { panic!("zeros are no sections") };
        assert_eq!(damage.bad_blocks, usize::from(own.block_log2 != 0));
        // The same with what another tool has added behind it, and with a byte behind it that nobody knows.
        let added = [&bad[..], b"\0\x05\x04noteX"].concat();
        for added in [&added[..added.len() - 1], &added] {
            check(&CoreDumpFile::salvage_slice(added).unwrap(), "added");
        }
        drop(dump);
        // An index of other places is none: a byte was taken out.
        bad.remove(3);
        assert!(CoreDumpFile::salvage_slice(&bad).is_err());
    }
}

/// The index of a dump in the guest's memory is not taken for that of a dump that has lost its own.
#[test]
fn an_index_in_the_memory_of_the_guest_is_none() {
    for inner in [
        Own::default().dump(&small()),
        Dumper::new().plan(&CoreDump::new("x")).unwrap().to_vec().unwrap(),
    ] {
        let mut memory = vec![7; 65_536];
        memory[4096..4096 + inner.len()].copy_from_slice(&inner);
        let mut guest = CoreDump::new("guest.wasm");
        guest.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&memory)));
        let mut outer = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
        outer.truncate(50_000);
        let dump = CoreDumpFile::salvage_slice(&outer).unwrap();
        assert_eq!((dump.name(), dump.has_index()), ("guest.wasm", false));
        drop(dump);
        outer[..100].fill(0);
        assert!(CoreDumpFile::salvage_slice(&outer).is_err());
    }
}

/// Without an index, no segment that is lost counts as zeros, whatever hides it.
#[test]
fn lost_segments_are_no_zeros() {
    let mut memory = vec![0; 2 * 65_536];
    memory[5000..9000].fill(1);
    memory[70_000..80_000].fill(2);
    let mut guest = CoreDump::new("guest.wasm");
    guest.add_memory(Memory::new(MemoryType::wasm32(2), MemoryImage::from_slice(&memory)));
    let whole = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
    let index = own::index_of(&whole);
    let first = whole.windows(4000).position(|bytes| bytes == [1; 4000]).unwrap();
    // The section data: id, size of two bytes, count; then the head of the first segment.
    let data = (0..first).rfind(|at| whole[*at] == 11 && whole[at + 3] == 2).unwrap();
    // The section memory: id, size, count, flags, minimum.
    let types = whole.windows(5).position(|bytes| bytes == [5, 3, 1, 0, 2]).unwrap();
    let changes: [&[(usize, u8)]; 8] = [
        &[(data + 3, 1)],     // one segment fewer
        &[(data + 3, 0)],     // none
        &[(data, 42)],        // no id
        &[(data, 10)],        // the id of a section of no interest
        &[(data, 0)],         // a custom section with a name that is none
        &[(first - 5, 0x7f)], // the head of the first segment
        &[(types, 42)],       // no section of memories
        &[(types + 3, 0x70)], // flags that are none
    ];
    for (i, change) in changes.into_iter().enumerate() {
        for cut in [false, true] {
            let mut bad = whole.clone();
            change.iter().for_each(|(at, byte)| bad[*at] = *byte);
            bad[index + 40] ^= 1;
            if cut {
                bad.truncate(index + 20);
            }
            let dump = CoreDumpFile::salvage_slice(&bad).unwrap();
            assert!(dump.damage().is_some() && !dump.has_index(), "{i}");
            // Each byte is what it was, or is lost.
            let view = dump.memory(FIRST).unwrap();
            for content in view.contents() {
                let addresses = content.addresses();
                let [start, end] =
                    [*addresses.start(), *addresses.end()].map(|at| usize::try_from(at).unwrap());
                let expected = &memory[start..=end];
                match content {
                    Content::Data { .. } => {
                        let mut found = vec![0; expected.len()];
                        view.read(start as u64, &mut found).unwrap();
                        assert!(found == expected, "{i}, {start:#x}");
                    }
                    Content::Zero(_) => {
                        assert!(expected.iter().all(|byte| *byte == 0), "{i}, {start:#x}");
                    }
                    Content::Lost(_) => {}
                    other => panic!("{i}: {other:?}"),
                }
            }
            // The section that is damaged hides the data in it, and no other does.
            let kept = view.coverage().data_bytes;
            let all = if i < 6 { [0, 4000].as_slice() } else { &[14_000] };
            assert!(all.contains(&kept), "{i}: {kept}");
        }
    }
}

/// A dump whose header has lost its name is not taken for one of another tool, whose zeros are zeros.
#[test]
fn keeps_excluded_ranges_without_the_header() {
    let partial = Own { flags: 1, excluded: vec![(0, 0, 99)], ..Own::default() }.dump(&small());
    let name = partial.windows(10).position(|name| name == b"corestream").unwrap();
    for at in name - 1..name + 10 {
        let mut bad = partial.clone();
        bad[at] ^= 0x20;
        assert!(CoreDumpFile::from_slice(&bad).is_err(), "{at:#x}");
        let dump = CoreDumpFile::salvage_slice(&bad).unwrap();
        assert!(dump.damage().is_some() && dump.is_partial(), "{at:#x}");
        let first = dump.memory(FIRST).unwrap().unknown().next();
        assert_eq!(first, Some(0..=99), "{at:#x}");
    }
}

/// Where only the content of a section is damaged, those behind it are read.
#[test]
fn a_damaged_section_does_not_hide_those_behind_it() {
    let whole = Own::default().dump(&small());
    let expected = CoreDumpFile::from_slice(&whole).unwrap();
    let section = |name: &str| {
        let name = [&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
        whole.windows(name.len()).position(|bytes| bytes == name).unwrap() + name.len()
    };
    for name in ["coremodules", "coreinstances", "corestack"] {
        let mut bad = whole.clone();
        bad[section(name)] ^= 0x7f;
        let dump = CoreDumpFile::salvage_slice(&bad).unwrap();
        assert_eq!(dump.name(), expected.name(), "{name}");
        assert_eq!(all(dump.globals()), all(expected.globals()), "{name}");
        assert_eq!(types(&dump), types(&expected), "{name}");
        let threads = expected.threads().count() - usize::from(name == "corestack");
        assert_eq!(dump.threads().count(), threads, "{name}");
        check_small_memories(&dump);
    }
}

/// Wherever a dump is cut, every byte of a memory that lies in what is left is there, and nothing else
/// is said to be zero but what is in order before it.
#[test]
fn what_is_there_of_a_cut_segment_is_salvaged() {
    let foreign = small();
    let own = Own::default().dump(&foreign);
    let partial = Own { flags: 1, excluded: vec![(0, 0, 99)], ..Own::default() }.dump(&foreign);
    let decoded = common::decode(&foreign);
    let ends: Vec<_> = decoded
        .segments
        .iter()
        .map(|s| (s, s.data.as_ptr().addr() - foreign.as_ptr().addr()))
        .collect();
    for (bytes, before, ordered) in
        [(&own, own::HEADER, true), (&partial, own::HEADER, false), (&foreign, 0, false)]
    {
        let (first, last) = (ends[0].1 + before, ends[ends.len() - 1]);
        let end = last.1 + last.0.data.len() + before;
        for cut in first..end {
            read_consistently(&bytes[..cut]);
            let dump = CoreDumpFile::salvage_slice(&bytes[..cut]).unwrap();
            let damage = dump.damage().map(Error::kind);
            if damage.is_none() && bytes == &foreign {
                // Between two sections nobody sees it.
                continue;
            }
            assert_eq!(damage, Some(ErrorKind::Truncated));
            // In order, zeros end where the last segment that has begun does.
            let mut expected: Vec<_> =
                images().iter().map(|(_, image)| vec![0xee; image.len()]).collect();
            let begun = |at: usize| at + before <= cut;
            for (i, expected) in (0..).zip(&mut expected) {
                let last = ends.iter().rfind(|(_, at)| begun(*at)).unwrap();
                let known = match last.0.memory.cmp(&i) {
                    _ if !ordered => 0,
                    std::cmp::Ordering::Less => 0,
                    std::cmp::Ordering::Equal => usize::try_from(last.0.address).unwrap(),
                    std::cmp::Ordering::Greater => expected.len(),
                };
                expected[..known].fill(0);
            }
            let mut sums = [(0, 0); 4];
            for (segment, at) in ends.iter().filter(|(_, at)| begun(*at)) {
                let len = segment.data.len().min(cut - before - at);
                let start = usize::try_from(segment.address).unwrap();
                let memory = segment.memory as usize;
                expected[memory][start..start + len].copy_from_slice(&segment.data[..len]);
                sums[memory].0 += u64::from(len > 0);
                sums[memory].1 += len as u64;
            }
            for (i, (expected, sums)) in (0..).zip(expected.iter().zip(sums)) {
                let found = contents(&dump, MemoryIndex(i));
                assert!(found == *expected, "memory {i}, {cut} bytes");
                let coverage = dump.memory(MemoryIndex(i)).unwrap().coverage();
                assert_eq!((coverage.segments, coverage.data_bytes), sums);
                let lost = expected.iter().filter(|byte| **byte == 0xee).count() as u64;
                assert_eq!((coverage.excluded_bytes, coverage.lost_bytes), (0, lost.into()));
            }
        }
    }
}

fn check_small_memories(dump: &CoreDumpFile<'_>) {
    for (i, (_, image)) in (0..).zip(images()) {
        let found = contents(dump, MemoryIndex(i));
        let known = found.iter().zip(&image).filter(|(found, _)| **found != 0xee);
        assert!(known.clone().all(|(found, expected)| found == expected));
        assert_eq!(known.count(), image.len(), "memory {i}");
    }
}

/// A file of 5 GiB with 100,000 segments: opened and read without touching what it does not need.
#[test]
fn a_large_dump_is_opened_without_touching_its_contents() {
    let (count, len) = (100_000, 50_000);
    let dump = sparse(guest(&[]), count, len);
    let (_, last_address, last_offset, _) = dump.segments[99_999];
    dump.file.as_file().write_all_at(b"here", last_offset).unwrap();

    let before = mapped_pages();
    // SAFETY: nobody else knows the file, and nobody writes to it any more.
    #[allow(unsafe_code, reason = "maps a file of its own")]
    let mapped = unsafe { MappedFile::new(dump.file.as_file()) };
    let mapped = CoreDumpFile::from_source(mapped.unwrap()).unwrap();
    let file = CoreDumpFile::open(dump.file.path()).unwrap();
    for dump in [&mapped, &file] {
        assert!(dump.has_index() && dump.len() > 5_000_000_000);
        assert_eq!((all(dump.modules()).len(), all(dump.instances()).len()), (2, 2));
        assert_eq!((all(dump.globals()).len(), threads(dump).len()), (3, 2));
        let memory = dump.memory(FIRST).unwrap();
        let mut buffer = [0; 5];
        memory.read(last_address, &mut buffer).unwrap();
        assert_eq!(buffer, *b"here\0");
        let coverage = memory.coverage();
        assert_eq!((coverage.segments, coverage.data_bytes), (count, count * u64::from(len)));
    }
    // The index has 2 MB; the kernel maps some pages around each that is touched.
    let touched = mapped_pages().saturating_sub(before) * 4096;
    assert!(touched < 8 << 20, "{touched} bytes");
    for dump in [&mapped, &file] {
        let Verdict::Intact(whole) = dump.verify().unwrap() else { panic!("it is whole") };
        assert_eq!((whole.segments, whole.checksums), (count, false));
    }
}

/// Pages of files that are mapped into this process now.
fn mapped_pages() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 4
}
