//! Verifying: damage is found at the right place, in files and in streams, and an intact dump is not called damaged.

use crate::{common, foreign};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::Random;
use common::own::{self, Own};
use common::reading::{
    PAGE, facts, guest, images, intact, read_consistently, small, verdict, verdict_consistently,
};
use corestream::read::{DamageReport, EarlyFact, MemoryRange, ReadAt, Verdict, Verifier};
use corestream::*;
use foreign::{CORE, module};
use proptest::prelude::*;

/// Returns the verdict of a damaged dump.
fn damage(bytes: &[u8]) -> DamageReport {
    match verdict(bytes).unwrap() {
        Verdict::Damaged(damage) => damage,
        Verdict::Intact(intact) => panic!("{intact:?}"),
    }
}

/// A source in which one read fails.
struct FailsAt<'b> {
    bytes: &'b [u8],
    reads: AtomicUsize,
    /// The number of successful reads before that.
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
fn reports_a_failed_read_of_a_source() {
    for bytes in [Own::default().dump(&small()), small()] {
        let mut fails = 0;
        loop {
            let source = FailsAt { bytes: &bytes, reads: AtomicUsize::new(0), fails };
            let verdict = Verifier::new().threads(2).verify(&source);
            if source.reads.load(Ordering::Relaxed) <= fails {
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

/// A source with fewer bytes than its length.
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
fn rejects_a_source_that_became_shorter() {
    let bytes = Own::default().dump(&small());
    for len in (0..bytes.len()).step_by(7) {
        let source = Shorter(&bytes[..len], bytes.len() as u64);
        assert_eq!(
            Verifier::new().threads(1).verify(&source).unwrap_err().kind(),
            ErrorKind::Input
        );
    }
}

/// Flips one bit after the other. Each verdict must name the place of that bit:
///
/// - in the header or the index: the section, or the block of the header;
/// - before the index: the block, or bytes around the bit in its section if they break the format.
fn reports_flipped_bits(bits_of: impl Fn(usize) -> Range<usize>) {
    const BLOCK: u64 = 64;

    for foreign in [small(), own::without(&facts())] {
        let own = Own { block_log2: BLOCK.ilog2(), ..Own::default() }.dump(&foreign);
        let sections = own::sections(&own).into_iter().map(|section| section.range);
        let sections: Vec<_> = sections.map(|range| range.start as u64..range.end as u64).collect();
        let index = own::index_of(&own) as u64;
        let header = own::end_of_core(&own) as u64;
        let mut blocks = 0;
        for (at, bit) in (0..own.len()).flat_map(|at| bits_of(at).map(move |bit| (at, bit))) {
            let mut flipped = own.clone();
            flipped[at] ^= 1 << bit;
            let (what, at) = (format!("byte {at:#x}, bit {bit}"), at as u64);
            match verdict_consistently(&flipped) {
                Ok(Verdict::Intact(_)) => panic!("{what}: not found"),
                Ok(Verdict::Damaged(damage)) => {
                    let range = &damage.range;
                    let block = at / BLOCK * BLOCK..(at / BLOCK * BLOCK + BLOCK).min(index);
                    let section = sections.iter().find(|section| section.contains(&at)).cloned();
                    let is_around = section.as_ref().is_some_and(|section| {
                        section.start <= range.start
                            && range.end <= section.end
                            && range.contains(&at)
                    });
                    let is_exact = match &section {
                        Some(index_section) if at >= index => range == index_section,
                        Some(section) if section.start == header => {
                            *range == *section || *range == block
                        }
                        _ => *range == block || is_around,
                    };
                    assert!(
                        is_exact,
                        "{what}: {range:x?}, not {block:x?}, in {section:x?}: {damage}"
                    );
                    assert!(!damage.truncated, "{what}: {damage}");
                    blocks += usize::from(*range == block);
                }
                // The dump no longer begins as a module.
                Err(error) => {
                    assert!(at < 8, "{what}: {error}");
                    assert_eq!(error.kind(), ErrorKind::Format);
                }
            }
            // It can still be opened and read, or is an error.
            read_consistently(&flipped);
        }
        assert!(blocks > 100, "only {blocks} reports name a block");
    }
}

#[test]
fn reports_the_place_of_a_flipped_bit() {
    reports_flipped_bits(|at| at % 8..at % 8 + 1);
}

#[test]
#[ignore = "slow: 20 s"]
fn reports_the_place_of_every_flipped_bit() {
    reports_flipped_bits(|_| 0..8);
}

/// The range of an error begins at the offset in its text.
#[test]
fn gives_the_range_of_an_error() {
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
        let message = error.to_string();
        if let Some(place) = message.strip_prefix("at 0x").and_then(|rest| rest.split(':').next()) {
            let place = u64::from_str_radix(place, 16).unwrap();
            assert_eq!(error.range().unwrap().start, place, "{message}");
            placed += 1;
        }
    }
    assert!(placed > 100, "{placed}");
}

#[test]
fn reports_a_truncated_dump() {
    for own in [Own::default().dump(&small()), facts()] {
        reports_truncation(&own, (0..own.len()).step_by(5));
    }
}

#[test]
#[ignore = "slow: 1 s"]
fn reports_truncation_after_every_byte() {
    for own in [Own::default().dump(&small()), facts()] {
        reports_truncation(&own, 0..own.len());
    }
}

fn reports_truncation(own: &[u8], lengths: impl Iterator<Item = usize>) {
    for len in lengths {
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

/// The header and the index have checksums of their own.
#[test]
fn reports_damage_to_header_and_index_without_checksums() {
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

/// The report names the bad block of many, and the memory in it.
#[test]
fn reports_the_bad_block_and_its_memory() {
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
    intact(&own);
    for _ in 0..500 {
        let at = random.below(own::index_of(&own) as u64);
        let mut bad = own.clone();
        bad[at] ^= 0x10;
        let block = at as u64 / 1024 * 1024;
        let end = (block + 1024).min(own::index_of(&own) as u64);
        if at < 200 {
            continue; // A broken section before the data is reported instead of its block.
        }
        let damage = damage(&bad);
        assert_eq!(damage.range, block..end, "{damage}");
        assert_eq!(damage.bad_blocks, 1);
        // The addresses of each memory in the block.
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

/// The report lists all memory in bad blocks, up to a limit, and no other memory.
#[test]
fn lists_the_memory_of_every_bad_block() {
    // 1 MiB of data, then 8 MiB in which every other KiB is data.
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
    // The offset within the first segment of a block that begins `kib` KiB after it.
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

    // Only the first block holds bytes before the memory.
    assert!(!found.guest && found.checksums);

    // With a damaged header, the memory in its block is bad as well. With a damaged index, nothing is known.
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

/// A fault before the first bad block is reported first, together with the number of bad blocks.
#[test]
fn counts_bad_blocks_after_a_fault() {
    let own = Own { block_log2: 9, ..Own::default() }.dump(&small());
    let at = own::end_of_core(&own) + own::HEADER;
    let blocks = own::index_of(&own).div_ceil(512);
    assert!(blocks > 1);
    // Changes the id of the first section after the header, and the checksum of its block to match.
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
    let expected = format!(
        "at {at:#x}: unknown section id 99; 1 bad block follows (bytes {at:#x}..{:#x})",
        found.range.end
    );
    assert_eq!(found.to_string(), expected);
    assert!(found.checksums && !found.guest && !found.truncated);
}

/// The checksum of each of these indices matches.
#[test]
fn rejects_an_index_that_contradicts_the_dump() {
    let foreign = small();
    let own = Own::default().dump(&foreign);
    let index = own::index_of(&own);
    // After the id, the size (two bytes), the length of the name and the name.
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
        ("an address above the next", segments, &[0xff, 0xff]),
        ("data in the header of a section", segments + 8, &[9, 0]),
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
    // A segment shifted within its section: only the segment headers show it.
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
    // A stream cannot be read again to find the entry. In a source, each entry is found in any section.
    let Verdict::Damaged(stream) = Verifier::new().verify_stream(&bad[..]).unwrap() else {
        panic!("expected damage")
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
            continue; // An empty segment does not count.
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

/// The flag for excluded ranges and their list must agree.
#[test]
fn rejects_excluded_ranges_that_contradict_their_flag() {
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

/// The writer and the tests, which follow `docs/format.md` independently, make the same bytes.
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
    // A dump of several blocks, with a name that is too long.
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
    /// Changes a few bytes.
    #[test]
    fn reads_or_rejects_mutations(
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
            // With its checksum mended, only changes of the index matter.
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
    intact(&bytes);

    // The reader opens these, but they are not complete.
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
    assert_eq!(text.to_string(), "not a core dump: it is not a WebAssembly module");
    for (bytes, message) in [
        (&b""[..], "it is empty"),
        (b"\0asm\x0d\0\x01\0", "it is a component, and a dump is a core module"),
    ] {
        let error = verdict(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format);
        assert_eq!(error.to_string(), format!("not a core dump: {message}"));
    }

    // The header is the second section, unless another tool has moved it.
    let own = Own::default().dump(&small());
    let (core, header) = (own::end_of_core(&own), own::end_of_core(&own) + own::HEADER);
    let later = [&own[..core], b"\0\x02\x01x", &own[core..header], &own[header..]].concat();
    assert!(intact(&later).rewritten);
    // A moved header must still have the right checksum.
    let mut bad = later;
    bad[core + 4 + 20] ^= 1;
    assert_eq!(damage(&bad).range.start, core as u64 + 4);
    let headless = [&own[..core], &own[header..]].concat();
    assert!(damage(&headless).reason.contains("section `corestream` is missing"));
}

/// A stream that fails at its end.
struct Failing<'b>(&'b [u8]);

impl std::io::Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(std::io::ErrorKind::ConnectionReset.into()),
            n => Ok(n),
        }
    }
}

/// The caller learns of a wrong section before the rest arrives. If it stops there, the verdict is what is known so
/// far.
#[test]
fn stops_a_stream_at_the_first_fault() {
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
    // A caller that continues learns which memory is bad, or that the stream fails.
    let Verdict::Damaged(all) = Verifier::new().verify_stream(&own[..]).unwrap() else {
        panic!("expected damage")
    };
    assert!(all.bad_blocks > 0 && all.reason.ends_with(&left.reason), "{all}");
    assert!(Verifier::new().verify_stream(Failing(&own[..at + 10])).is_err());
}

/// A failing stream is an error, not a truncated dump.
#[test]
fn reports_a_failed_stream() {
    let own = Own::default().dump(&small());
    for len in [0, 5, 20, 700, own.len() - 1, own.len()] {
        let error = Verifier::new().verify_stream(Failing(&own[..len])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input, "{error}");
        assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::ConnectionReset);
    }
}
