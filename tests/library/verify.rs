//! Whatever is damaged is found, in files and in streams alike; what is whole is not called damaged.

use crate::{common, foreign};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::Random;
use common::own::{self, Own};
use common::reading::{
    PAGE, facts, guest, images, read_consistently, small, verdict, verdict_consistently,
};
use corestream::read::{
    DamageReport, EarlyFact, IntactDump, MemoryRange, ReadAt, Verdict, Verifier,
};
use corestream::*;
use foreign::{CORE, module};
use proptest::prelude::*;

fn whole(bytes: &[u8]) -> IntactDump {
    match verdict(bytes).unwrap() {
        Verdict::Intact(whole) => whole,
        Verdict::Damaged(damage) => panic!("{damage}"),
    }
}

fn damage(bytes: &[u8]) -> DamageReport {
    match verdict(bytes).unwrap() {
        Verdict::Damaged(damage) => damage,
        Verdict::Intact(whole) => panic!("{whole:?}"),
    }
}

/// A source that fails at one of its reads.
struct FailsAt<'b> {
    bytes: &'b [u8],
    reads: AtomicUsize,
    fails: usize,
}

impl ReadAt for FailsAt<'_> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self.reads.fetch_add(1, Ordering::Relaxed) == self.fails {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => self.bytes.read_exact_at(buffer, offset),
        }
    }
}

#[test]
fn a_source_that_fails_at_any_read_is_an_error() {
    for bytes in [Own::default().dump(&small()), small()] {
        let mut fails = 0;
        loop {
            let source = FailsAt { bytes: &bytes, reads: AtomicUsize::new(0), fails };
            let verdict = Verifier::new().threads(2).verify(&source);
            if source.reads.load(Ordering::Relaxed) <= fails {
                // The second one lacks the section `corestream`.
                assert_eq!(verdict.unwrap(), Verifier::new().threads(1).verify(&bytes).unwrap());
                break;
            }
            let error = verdict.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Input);
            assert_eq!(error.io_error().unwrap().kind(), io::ErrorKind::ConnectionReset);
            fails += 1;
        }
        assert!(fails > 0);
    }
}

/// A source that has fewer bytes than it says.
struct Shorter<'b>(&'b [u8], u64);

impl ReadAt for Shorter<'_> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.1)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

#[test]
fn a_source_that_becomes_shorter_is_an_error() {
    let bytes = Own::default().dump(&small());
    for len in (0..bytes.len()).step_by(7) {
        let source = Shorter(&bytes[..len], bytes.len() as u64);
        assert_eq!(
            Verifier::new().threads(1).verify(&source).unwrap_err().kind(),
            ErrorKind::Input
        );
    }
}

#[test]
fn every_flipped_bit_is_caught() {
    let own = Own::default().dump(&small());
    assert!((1000..3000).contains(&own.len()), "{}", own.len());
    for own in [own, facts()] {
        every_flipped_bit_of_is_caught(&own);
    }
}

fn every_flipped_bit_of_is_caught(own: &[u8]) {
    for i in 0..own.len() * 8 {
        let mut flipped = own.to_vec();
        flipped[i / 8] ^= 1 << (i % 8);
        match verdict_consistently(&flipped) {
            Ok(Verdict::Intact(_)) => panic!("bit {i}"),
            Ok(Verdict::Damaged(damage)) => {
                let bytes = damage.range.start..=damage.range.end;
                let at = (i / 8) as u64;
                assert!(bytes.contains(&at) || at < 100, "byte {at:#x}: {damage:?}");
                assert!(!damage.truncated || at < 100, "byte {at:#x}: {damage:?}");
            }
            // It does not begin as a module any more.
            Err(error) => {
                assert!(i < 64, "bit {i}: {error}");
                assert_eq!(error.kind(), ErrorKind::Format);
            }
        }
        // Whatever it is, it can be opened and read or is an error.
        read_consistently(&flipped);
    }
}

/// What a reader says of a place, a program can ask for.
#[test]
fn an_error_has_the_bytes_that_it_is_about() {
    let images = images();
    let bytes = Dumper::new().plan(&guest(&images)).unwrap().to_vec().unwrap();
    let mut placed = 0;
    for i in 0..bytes.len() {
        if let Err(truncated) = CoreDumpFile::from_slice(&bytes[..i])
            && truncated.kind() == ErrorKind::Truncated
        {
            assert_eq!(truncated.range().unwrap().start, i as u64, "{truncated}");
        }
        let mut damaged = bytes.clone();
        damaged[i] ^= 0x55;
        let Err(error) = CoreDumpFile::from_slice(&damaged) else { continue };
        let said = error.to_string();
        if let Some(place) = said.strip_prefix("at 0x").and_then(|rest| rest.split(':').next()) {
            let place = u64::from_str_radix(place, 16).unwrap();
            assert_eq!(error.range().unwrap().start, place, "{said}");
            placed += 1;
        }
    }
    assert!(placed > 100, "{placed}");
}

#[test]
fn every_cut_is_caught() {
    for own in [Own::default().dump(&small()), facts()] {
        every_cut_of_is_caught(&own);
    }
}

fn every_cut_of_is_caught(own: &[u8]) {
    for len in 0..own.len() {
        let cut = &own[..len];
        match verdict_consistently(cut) {
            Ok(Verdict::Intact(_)) => panic!("{len} bytes"),
            Ok(Verdict::Damaged(damage)) => {
                assert!(damage.truncated);
                if len >= own::end_of_core(own) + own::HEADER {
                    let all = own.len();
                    assert_eq!(damage.reason, format!("truncated: {len} of {all} bytes"));
                    assert_eq!(damage.range, len as u64..all as u64);
                    let error = CoreDumpFile::from_slice(cut).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Truncated);
                    assert_eq!(error.to_string(), damage.reason);
                }
            }
            Err(error) => assert!(len <= 8 && error.kind() == ErrorKind::Format, "{len}: {error}"),
        }
        read_consistently(cut);
    }
    for more in [1, 1000, 1 << 20] {
        let mut longer = own.to_vec();
        longer.resize(own.len() + more, 0);
        let damage = damage(&longer);
        assert_eq!(damage.range, own.len() as u64..longer.len() as u64);
        assert!(damage.reason.ends_with("after the end of the dump"), "{damage}");
        assert_eq!(CoreDumpFile::from_slice(&longer).unwrap_err().kind(), ErrorKind::Damaged);
    }
}

/// Without checksums, both sections are still covered.
#[test]
fn the_own_sections_are_covered_without_checksums() {
    let own = Own { block_log2: 0, ..Own::default() }.dump(&small());
    let header = own::end_of_core(&own);
    let index = own::index_of(&own);
    for i in (header..header + own::HEADER).chain(index..own.len()).flat_map(|i| i * 8..i * 8 + 8) {
        let mut flipped = own.clone();
        flipped[i / 8] ^= 1 << (i % 8);
        let found = verdict(&flipped);
        assert!(!matches!(found, Ok(Verdict::Intact(_))), "bit {i}");
        assert!(CoreDumpFile::from_slice(&flipped).is_err() || i / 8 < index, "bit {i}");
    }
}

/// In a dump of many blocks the report names the right one, and what lies in it.
#[test]
fn a_bad_block_names_its_segments() {
    let mut random = Random(3);
    let mut image = vec![0; 4 * PAGE];
    for object in image.chunks_mut(400) {
        let len = 1 + random.below(300).min(object.len() - 1);
        object[..len].fill(7);
    }
    let images = [(MemoryType::wasm64(4), image), (MemoryType::wasm32(1), vec![9; 5000])];
    let foreign = own::without(&Dumper::new().plan(&guest(&images)).unwrap().to_vec().unwrap());
    let own = Own { block_log2: 10, ..Own::default() }.dump(&foreign);
    let segments: Vec<(u32, u64, u64, u64)> = common::decode(&foreign)
        .segments
        .iter()
        .map(|s| {
            let offset = s.data.as_ptr().addr() - foreign.as_ptr().addr() + own::HEADER;
            (s.memory, s.address, offset as u64, s.data.len() as u64)
        })
        .collect();
    whole(&own);
    for _ in 0..500 {
        let at = random.below(own::index_of(&own) as u64);
        let mut bad = own.clone();
        bad[at] ^= 0x10;
        let block = at as u64 / 1024 * 1024;
        let end = (block + 1024).min(own::index_of(&own) as u64);
        if at < 200 {
            continue; // sections before the data say more than their block
        }
        let damage = damage(&bad);
        assert_eq!(damage.range, block..end, "{damage}");
        assert_eq!(damage.bad_blocks, 1);
        // The lowest and highest address of each memory in the block, one segment at a time.
        for memory in 0..2 {
            let mut inside = segments
                .iter()
                .filter(|(of, _, offset, len)| {
                    *of == memory && *offset < end && offset + len > block
                })
                .map(|(_, address, offset, len)| {
                    let first = address + (block.max(*offset) - offset);
                    (first, address + (end.min(offset + len) - offset) - 1)
                });
            let expected = inside.next().map(|(first, last)| {
                let last = inside.next_back().map_or(last, |(_, last)| last);
                first..=last
            });
            let found = damage.memory.iter().find(|range| range.memory == MemoryIndex(memory));
            assert_eq!(found.map(|range| range.addresses.clone()), expected, "{damage}");
        }
    }
    let mut bad = own.clone();
    bad[5000] ^= 1;
    bad[9000] ^= 1;
    let damage = damage(&bad);
    assert_eq!((damage.range.start, damage.bad_blocks), (4096, 2));
    assert!(damage.to_string().contains("first of 2 bad blocks"), "{damage}");
    assert!(damage.to_string().contains("affects memory 0 0x"), "{damage}");
}

/// All memory that is in bad blocks is listed, up to a limit, and no other.
#[test]
fn every_bad_block_names_its_memory() {
    // A MiB without a gap, then every other KiB of eight.
    let mut image = vec![7; 9 << 20];
    (1 << 20..9 << 20).step_by(2048).for_each(|at| image[at..at + 1024].fill(0));
    let images = [(MemoryType::wasm32(144), image), (MemoryType::wasm32(1), vec![9; 5000])];
    let foreign = own::without(&Dumper::new().plan(&guest(&images)).unwrap().to_vec().unwrap());
    let own = Own { block_log2: 10, ..Own::default() }.dump(&foreign);
    let offset = |data: &[u8]| data.as_ptr().addr() - foreign.as_ptr().addr() + own::HEADER;
    let decoded = common::decode(&foreign);
    let (first, last) = (&decoded.segments[0], decoded.segments.last().unwrap());
    let bad = |places: &mut dyn Iterator<Item = usize>| {
        let mut bad = own.clone();
        places.for_each(|at| bad[at] ^= 1);
        damage(&bad)
    };
    let (data, end) = (offset(first.data), offset(last.data));
    let range = |memory, addresses| MemoryRange { memory: MemoryIndex(memory), addresses };
    // The blocks of the first segment that begin at so many KiB.
    let block = |kib: usize| ((data / 1024 + kib) * 1024 - data) as u64;
    assert_eq!((first.memory, first.address, last.memory, last.address), (0, 0, 1, 0));

    let found = bad(&mut [10, 11, 12, 20].map(|kib| (data / 1024 + kib) * 1024).into_iter());
    let expected = [range(0, block(10)..=block(13) - 1), range(0, block(20)..=block(21) - 1)];
    assert_eq!((found.bad_blocks, &found.all_memory[..], found.more_memory), (4, &expected[..], 0));
    assert_eq!(found.memory, [range(0, block(10)..=block(11) - 1)]);

    let found = bad(&mut [data + 4096, end + 4999].into_iter());
    let tail = ((end + 4999) / 1024 * 1024 - end) as u64;
    assert_eq!(found.all_memory.last().unwrap(), &range(1, tail..=4999));
    assert_eq!(found.all_memory.len(), 2);

    // Only the first block has bytes of what comes before the memory.
    assert!(!found.guest && found.checksums);

    // The header is damaged, and so is the memory in its block; where the index is damaged, nothing can tell.
    let found = bad(&mut [50].into_iter());
    assert_eq!(found.all_memory, [range(0, 0..=block(1) - 1)]);
    assert!(found.guest && found.checksums);
    let found = bad(&mut [data + 4096, own.len() - 1].into_iter());
    assert_eq!(found.all_memory, []);
    assert!(!found.guest && !found.checksums);

    let found = bad(&mut (data + (1 << 20)..end).step_by(2048));
    assert_eq!(found.all_memory.len(), limits::MAX_DAMAGED_RANGES);
    assert!(found.bad_blocks > 2000 && found.more_memory > 900, "{}", found.more_memory);
    let ends = found
        .all_memory
        .windows(2)
        .all(|pair| *pair[0].addresses.end() + 1 < *pair[1].addresses.start());
    assert!(ends);
}

/// A fault that comes before all bad blocks is told first, and the blocks all the same.
#[test]
fn a_fault_before_bad_blocks_hides_none_of_them() {
    let own = Own { block_log2: 9, ..Own::default() }.dump(&small());
    let at = own::end_of_core(&own) + own::HEADER;
    let blocks = own::index_of(&own).div_ceil(512);
    assert!(blocks > 1);
    // The id of the first section after the header, and the checksum of its block with it.
    let mut bad = own.clone();
    bad[at] = 99;
    let crc = crc32fast::hash(&bad[..512]);
    let table = bad.len() - 4 - 4 * blocks;
    bad[table..table + 4].copy_from_slice(&crc.to_le_bytes());
    let end = bad.len() - 4;
    let crc = crc32fast::hash(&bad[own::index_of(&own)..end]);
    bad[end..].copy_from_slice(&crc.to_le_bytes());
    let only = damage(&bad);
    assert_eq!((only.range.start, only.bad_blocks), (at as u64, 0));
    assert!(only.checksums && !only.guest);
    let last = own::index_of(&own) - 1;
    bad[last] ^= 1;
    let found = damage(&bad);
    assert_eq!(
        (&found.range, found.bad_blocks, found.all_memory.is_empty()),
        (&only.range, 1, false)
    );
    let expected = format!("at {at:#x}: unknown section id 99; 1 bad block follows");
    assert_eq!(found.to_string(), expected);
    assert!(found.checksums && !found.guest && !found.truncated);
}

/// Each of these indices has a checksum that holds.
#[test]
fn an_index_that_contradicts_the_dump_is_an_error() {
    let foreign = small();
    let own = Own::default().dump(&foreign);
    let index = own::index_of(&own);
    // Id, size (two bytes), length of the name, the name.
    let head = index + 1 + 2 + 1 + 16;
    let memories = head + 28;
    let segments = memories + 4 * 12;
    let change = |at: usize, to: &[u8]| {
        let mut bad = own.clone();
        bad[at..at + to.len()].copy_from_slice(to);
        own::mend_index(&mut bad);
        bad
    };
    for (what, at, to) in [
        ("flags", head + 4, &[1][..]),
        ("fewer memories", head + 8, &[3]),
        ("more segments", head + 12, &[200]),
        ("many segments", head + 12, &[0xff; 4]),
        ("many ranges", head + 16, &[0xff; 4]),
        ("other blocks", head + 20, &[21]),
        ("many blocks", head + 24, &[0xff; 4]),
        ("a memory with too many segments", memories, &[0xff; 4]),
        ("flags of a memory", memories + 8, &[2]),
        ("an address past the memory", segments + 4, &[1]),
        ("an address behind the next", segments, &[0xff, 0xff]),
        ("data in the head of a section", segments + 8, &[9, 0]),
        ("data past the file", segments + 12, &[9]),
        ("an empty segment", segments + 16, &[0]),
        ("a long segment", segments + 18, &[1]),
        ("another name", index + 4, b"C"),
    ] {
        let bad = change(at, to);
        let error = CoreDumpFile::from_slice(&bad).unwrap_err();
        let kinds = [ErrorKind::Damaged, ErrorKind::Unsupported];
        assert!(kinds.contains(&error.kind()), "{what}: {error}");
        assert!(error.to_string().contains("corestream.index"), "{what}: {error}");
        assert!(!matches!(verdict(&bad), Ok(Verdict::Intact(_))), "{what}");
    }
    assert_eq!(
        CoreDumpFile::from_slice(&change(head, &[2])).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    // Shifted within its section: only a walk over the headers sees it.
    let bad = change(segments + 8, &[own[segments + 8] - 1]);
    assert!(CoreDumpFile::from_slice(&bad).is_ok());
    let found = damage(&bad);
    assert_eq!(found.range, segments as u64..segments as u64 + 20);
    let offset = u16::from_le_bytes(own[segments + 8..segments + 10].try_into().unwrap());
    let (listed, there) = (offset - 1, offset);
    assert_eq!(
        found.reason,
        format!(
            "at {segments:#x}: corestream.index: segment 0: lists 80 bytes at address 0x64 of \
             memory 0, file offset {listed:#x}; the sections have 80 bytes at address 0x64 of memory 0, \
             file offset {there:#x}"
        )
    );
    // So does a stream, but can't look again; and every entry is found, in whatever section it is.
    let Verdict::Damaged(stream) = Verifier::new().verify_stream(&bad[..]).unwrap() else {
        panic!("it is not")
    };
    assert_eq!(stream.range, index as u64..own.len() as u64);
    let message = "corestream.index: segments differ from the sections";
    assert_eq!(stream.reason, format!("at {index:#x}: {message}"));
    let count = common::decode(&foreign).segments.len();
    assert!(count > 4);
    for i in 0..count {
        let entry = segments + i * 20;
        let bad = change(entry + 16, &[own[entry + 16] - 1]);
        if own[entry + 16] == 1 {
            continue; // an empty one is none
        }
        let found = damage(&bad);
        assert_eq!(found.range, entry as u64..entry as u64 + 20, "{found}");
        assert!(found.reason.contains(&format!("corestream.index: segment {i}: ")), "{found}");
    }

    for excluded in [
        vec![(0, 9, 8)],
        vec![(0, 0, 10), (0, 11, 20)],
        vec![(0, 30, 40), (0, 10, 20)],
        vec![(0, 65_500, 65_536)],
        vec![(0, 90, 100)],
        vec![(0, 179, 300)],
        vec![(3, 0, 0)],
    ] {
        let bad = Own { flags: 1, excluded: excluded.clone(), ..Own::default() }.dump(&foreign);
        let error = CoreDumpFile::from_slice(&bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{excluded:?}: {error}");
        assert!(matches!(verdict(&bad), Ok(Verdict::Damaged(_))));
    }
}

/// The flag says that there are ranges, and nothing else does.
#[test]
fn ranges_and_their_flag_go_together() {
    let foreign = small();
    for (flags, excluded) in
        [(0, vec![(0, 0, 99)]), (2, vec![(0, 0, 99)]), (1, vec![]), (3, vec![])]
    {
        let bad = Own { flags, excluded, ..Own::default() }.dump(&foreign);
        let found = damage(&bad);
        assert!(found.reason.contains("corestream.index: the number of ranges, "), "{found}");
        assert!(found.reason.ends_with(", contradicts the flags"), "{found}");
        assert_eq!(CoreDumpFile::from_slice(&bad).unwrap_err().kind(), ErrorKind::Damaged);
    }
}

/// The writer and `docs/format.md`, from which the tests make the same sections, agree to the byte.
#[test]
fn the_writer_follows_the_format() {
    let images = images();
    let guest = guest(&images);
    for limit in [256, u32::MAX] {
        for (checksums, block_log2) in [(true, 20), (false, 0)] {
            let dumper = Dumper::new().max_section_bytes(limit).checksums(checksums);
            let bytes = dumper.plan(&guest).unwrap().to_vec().unwrap();
            let own = Own { block_log2, ..Own::default() }.dump(&own::without(&bytes));
            assert!(bytes == own);
        }
    }
    // Over several blocks, and with a name that the format has no room for.
    let mut image = vec![1; 5 << 20];
    image[1 << 20..3 << 20].fill(0);
    let mut guest = CoreDump::new("x".repeat(100_001));
    guest.add_memory(Memory::new(MemoryType::wasm32(80), MemoryImage::from_slice(&image)));
    let plan = Dumper::new().threads(2).plan(&guest).unwrap();
    assert_eq!(plan.shortfalls().len(), 1);
    let bytes = plan.to_vec().unwrap();
    assert!(bytes == Own { flags: 2, ..Own::default() }.dump(&own::without(&bytes)));
}

proptest! {
    /// Some bytes are not what they were.
    #[test]
    fn mutations_are_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        base in 0..3,
        mend in any::<bool>(),
    ) {
        let mut bytes = small();
        let own = base > 0;
        if base == 1 {
            bytes = facts();
        } else if own {
            let excluded = vec![(0, 200, 300), (1, 5000, 6000)];
            bytes = Own { flags: 1, excluded, ..Own::default() }.dump(&bytes);
        }
        let index = own::index_of_or_end(&bytes);
        for (at, value) in changes {
            // With a checksum that holds, the index is what is of interest.
            let from = if own && mend { index } else { 0 };
            let at = from + at.index(bytes.len() - from);
            bytes[at] = value;
        }
        if own && mend {
            own::mend_index(&mut bytes);
        }
        let _ = verdict_consistently(&bytes);
        read_consistently(&bytes);
    }
}

#[test]
fn knows_which_sections_are_optional() {
    let modules: (u8, &[u8]) = (0, b"\x0bcoremodules\0");
    let instances: (u8, &[u8]) = (0, b"\x0dcoreinstances\0");
    let unknown: (u8, &[u8]) = (0, b"\x06stranger");
    let bytes = module(&[unknown, instances, (1, &[0]), CORE, (3, &[0]), modules, unknown]);
    assert_eq!(CoreDumpFile::from_slice(&bytes).unwrap().name(), "p");
    whole(&bytes);

    // Opened, but not taken as whole.
    for sections in [&[CORE][..], &[CORE, modules], &[CORE, instances]] {
        let bytes = module(sections);
        assert_eq!(CoreDumpFile::from_slice(&bytes).unwrap().memories().len(), 0);
        assert!(damage(&bytes).truncated);
    }
    let stray = module(&[CORE, modules, instances, (0, b"\x0fcorestream.data\0")]);
    CoreDumpFile::from_slice(&stray).unwrap();
    assert!(damage(&stray).reason.contains("section `corestream` is missing"));

    for sections in [&[][..], &[modules], &[unknown]] {
        let error = CoreDumpFile::from_slice(&module(sections)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format, "{error}");
    }
    for twice in [CORE, modules, instances, (5, &[0]), (6, &[0]), (11, &[0])] {
        let bytes = module(&[CORE, twice, twice]);
        assert!(
            CoreDumpFile::from_slice(&bytes).unwrap_err().to_string().contains("appears twice")
        );
        assert!(matches!(verdict(&bytes), Ok(Verdict::Damaged(_))));
    }
    let text = CoreDumpFile::from_slice(b"(module)").unwrap_err();
    assert_eq!(text.to_string(), "not a core dump: it does not begin as a WebAssembly module does");
    for (bytes, said) in [
        (&b""[..], "it is empty"),
        (b"\0asm\x0d\0\x01\0", "it is a component, and a dump is a core module"),
    ] {
        let error = verdict(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format);
        assert_eq!(error.to_string(), format!("not a core dump: {said}"));
    }

    // The header comes second, or another tool has moved it.
    let own = Own::default().dump(&small());
    let (core, header) = (own::end_of_core(&own), own::end_of_core(&own) + own::HEADER);
    let later = [&own[..core], b"\0\x02\x01x", &own[core..header], &own[header..]].concat();
    assert!(whole(&later).rewritten);
    // Unless it does not hold.
    let mut bad = later;
    bad[core + 4 + 20] ^= 1;
    assert_eq!(damage(&bad).range.start, core as u64 + 4);
    let headless = [&own[..core], &own[header..]].concat();
    assert!(damage(&headless).reason.contains("section `corestream` is missing"));
}

/// A stream that has no end, but an error.
struct Failing<'b>(&'b [u8]);

impl std::io::Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(std::io::ErrorKind::ConnectionReset.into()),
            n => Ok(n),
        }
    }
}

/// Sections that are wrong are known before the rest has come, and what is then known is the verdict.
#[test]
fn a_stream_can_be_left_at_the_first_fault() {
    let mut own = Own::default().dump(&small());
    let at = own::end_of_core(&own) + own::HEADER;
    own[at] = 99;
    let mut calls = Vec::new();
    let verdict = Verifier::new().verify_stream_with(Failing(&own[..at + 10]), |early| {
        calls.push(format!("{early:?}"));
        match early {
            EarlyFact::Fault => Err(std::io::ErrorKind::Other.into()),
            _ => Ok(()),
        }
    });
    let Ok(Verdict::Damaged(left)) = verdict else { panic!("{verdict:?}") };
    assert_eq!(left.reason, format!("at {at:#x}: unknown section id 99"));
    assert_eq!(calls, ["Name(\"guest.wasm\")", &format!("Length({})", own.len()), "Fault"]);
    // Who goes on learns which memory that concerns, or that there is no rest.
    let Verdict::Damaged(whole) = Verifier::new().verify_stream(&own[..]).unwrap() else {
        panic!("it is")
    };
    assert!(whole.bad_blocks > 0 && whole.reason.ends_with(&left.reason), "{whole}");
    assert!(Verifier::new().verify_stream(Failing(&own[..at + 10])).is_err());
}

/// A stream that fails is an error, and not a dump that is cut off.
#[test]
fn a_stream_that_fails_is_an_error() {
    let own = Own::default().dump(&small());
    for len in [0, 5, 20, 700, own.len() - 1, own.len()] {
        let error = Verifier::new().verify_stream(Failing(&own[..len])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input, "{error}");
        assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::ConnectionReset);
    }
}
