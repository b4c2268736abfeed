//! Salvaging damaged and truncated dumps: every byte that is there is read, and nothing is called zero without proof.

use crate::common;
use common::own::{self, Own};
use common::reading::{
    FIRST, PAGE, all, contents, images, read_all, read_consistently, small, types,
};
use corestream::read::{Content, Verdict, Verifier};
use corestream::*;

use super::dumps::check_small;

/// The bytes before the damage are readable, and the lost bytes are reported.
#[test]
fn salvages_a_damaged_dump() {
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
    // Ten bytes of the second segment are left.
    let end = first.iter().position(|byte| *byte == 2).unwrap() + 10;
    expected[end..].fill(0xee);
    assert!(contents(&dump, FIRST) == expected);
    let coverage = dump.memory(FIRST).unwrap().coverage();
    assert_eq!((coverage.segments, coverage.data_bytes), (2, 90));
    assert_eq!((coverage.excluded_bytes, coverage.lost_bytes), (0, (PAGE - end) as u128));
    assert!(contents(&dump, MemoryIndex(2)) == [0xee; 13]);
    let coverage = dump.memory(MemoryIndex(2)).unwrap().coverage();
    assert_eq!((coverage.excluded_bytes, coverage.lost_bytes), (0, 13));
    // The missing bytes are lost, not excluded.
    for (memory, from) in [(FIRST, end), (MemoryIndex(2), 0)] {
        let error = dump.memory(memory).unwrap().read(from as u64, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Truncated);
        let (what, why) =
            (format!(" of memory {memory} is lost in a damaged dump: "), "truncated: ");
        assert!(error.to_string().contains(&(what + why)), "{error}");
    }

    // A section with an unknown name, with the index and without it.
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

    // Damage to the index alone, or bytes after it, lose nothing.
    for bad in [&own[..own.len() - 1], &[&own[..], b"more"].concat()] {
        let dump = CoreDumpFile::salvage_slice(bad).unwrap();
        assert!(dump.damage().is_some());
        check_small_memories(&dump);
    }
    // But excluded ranges count as lost.
    let partial = Own { flags: 1, excluded: vec![(0, 0, 99)], ..Own::default() }.dump(&foreign);
    let dump = CoreDumpFile::salvage_slice(&partial[..partial.len() - 1]).unwrap();
    let memory = dump.memory(FIRST).unwrap();
    assert!(memory.read(200, &mut [0]).is_err());
    memory.read(100, &mut [0]).unwrap();
    let coverage = memory.coverage();
    assert_eq!((coverage.excluded_bytes, coverage.lost_bytes > 0), (0, true));
    read_consistently(&partial[..partial.len() - 1]);
}

/// Changes the bytes outside of segments with each mask that `masks_of` returns for an offset. The intact index still
/// gives all memories.
fn check_salvaging_by_the_index(masks_of: impl Fn(usize) -> &'static [u8]) {
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
                // Without its size, a memory ends with its segments. A damaged size may be too large.
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
            for mask in masks_of(at) {
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
        // The sections before the data are all zeros.
        let first = decoded.segments[0].data.as_ptr().addr() - whole.as_ptr().addr();
        let mut bad = whole.clone();
        bad[..first].fill(0);
        let dump = CoreDumpFile::salvage_slice(&bad).unwrap();
        check(&dump, "zeros");
        assert_eq!((dump.name(), dump.threads().count()), ("", 0));
        assert_eq!(dump.memory(FIRST).unwrap().declared_pages(), Some(0));
        let error = dump.damage().unwrap();
        assert_eq!(error.to_string(), "at 0x0: does not start like a WebAssembly module");
        let verdict = Verifier::new().threads(1).verify(&bad).unwrap();
        let Verdict::Damaged(damage) = verdict else { panic!("expected damage") };
        assert_eq!(damage.bad_blocks, usize::from(own.block_log2 != 0));
        // Another tool has appended a section, or a section and an unknown byte.
        let added = [&bad[..], b"\0\x05\x04noteX"].concat();
        for added in [&added[..added.len() - 1], &added] {
            check(&CoreDumpFile::salvage_slice(added).unwrap(), "added");
        }
        drop(dump);
        // After a byte was removed, the offsets of the index are wrong.
        bad.remove(3);
        assert!(CoreDumpFile::salvage_slice(&bad).is_err());
    }
}

#[test]
fn salvages_memories_by_the_index() {
    check_salvaging_by_the_index(|at| &MASKS[at % 4..=at % 4]);
}

#[test]
#[ignore = "slow: 2 s"]
fn salvages_memories_by_the_index_after_any_change() {
    check_salvaging_by_the_index(|_| &MASKS);
}

/// Changes of a byte.
static MASKS: [u8; 4] = [0x01, 0x40, 0x80, 0xff];

/// The guest's memory contains a dump with an index. The damaged dump of the guest has lost its own index.
#[test]
fn ignores_an_index_in_the_memory_of_the_guest() {
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

/// The index of the damaged dump lists bytes of itself as a segment. Its checksum matches.
#[test]
fn ignores_an_index_with_segments_after_its_start() {
    let own = Own::default().dump(&small());
    let (index, count) = (own::index_of(&own), common::decode(&own).segments.len());
    // After the id, the size (two bytes), the name, the head and four memories.
    let entries = index + 1 + 2 + 17 + 28 + 4 * 12;
    let offset = entries + 20 * (count - 1) + 8;
    for (to, is_used) in [(None, true), (Some(index), false), (Some(own.len() - 1), false)] {
        let mut bad = own.clone();
        if let Some(to) = to {
            bad[offset..offset + 8].copy_from_slice(&(to as u64).to_le_bytes());
            own::mend_index(&mut bad);
        }
        bad[0] ^= 1;
        let has_index = CoreDumpFile::salvage_slice(&bad).is_ok_and(|dump| dump.has_index());
        assert_eq!(has_index, is_used, "a segment at {to:x?}");
    }
}

/// The index is damaged, and a change hides segments.
#[test]
fn reports_lost_segments_as_lost() {
    let mut memory = vec![0; 2 * 65_536];
    memory[5000..9000].fill(1);
    memory[70_000..80_000].fill(2);
    let mut guest = CoreDump::new("guest.wasm");
    guest.add_memory(Memory::new(MemoryType::wasm32(2), MemoryImage::from_slice(&memory)));
    let whole = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
    let index = own::index_of(&whole);
    let first = whole.windows(4000).position(|bytes| bytes == [1; 4000]).unwrap();
    // The data section has an id, a size of two bytes, a count, and then the header of the first segment.
    let data = (0..first).rfind(|at| whole[*at] == 11 && whole[at + 3] == 2).unwrap();
    // The memory section has an id, a size, a count, flags and a minimum.
    let types = whole.windows(5).position(|bytes| bytes == [5, 3, 1, 0, 2]).unwrap();
    let changes: [&[(usize, u8)]; 8] = [
        &[(data + 3, 1)],     // one segment fewer
        &[(data + 3, 0)],     // none
        &[(data, 42)],        // an unknown section id
        &[(data, 10)],        // the id of a section that is skipped
        &[(data, 0)],         // a custom section with an invalid name
        &[(first - 5, 0x7f)], // the header of the first segment
        &[(types, 42)],       // no memory section
        &[(types + 3, 0x70)], // unknown flags
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
            // Each byte is right, or lost.
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
            // Only a damaged data section hides data.
            let kept = view.coverage().data_bytes;
            let all = if i < 6 { [0, 4000].as_slice() } else { &[14_000] };
            assert!(all.contains(&kept), "{i}: {kept}");
        }
    }
}

/// A dump whose header has lost its name is not taken for a dump of another tool, in which zeros are known.
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

#[test]
fn reads_the_sections_after_a_damaged_one() {
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

/// Truncates dumps after the bytes of their segments. Salvaging gives every byte that is left. Only addresses before
/// the last segment in order are zero.
fn check_truncated_segments(step: usize) {
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
        for cut in (first..end).step_by(step) {
            read_consistently(&bytes[..cut]);
            let dump = CoreDumpFile::salvage_slice(&bytes[..cut]).unwrap();
            let damage = dump.damage().map(Error::kind);
            if damage.is_none() && bytes == &foreign {
                // A cut between two sections goes unnoticed.
                continue;
            }
            assert_eq!(damage, Some(ErrorKind::Truncated));
            // In an ordered dump, known zeros end with the last segment that has begun.
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

#[test]
fn salvages_truncated_segments() {
    check_truncated_segments(5);
}

#[test]
#[ignore = "slow: 1 s"]
fn salvages_segments_truncated_at_every_byte() {
    check_truncated_segments(1);
}

/// Checks the memories of a damaged dump of the small guest, none of whose bytes may be unknown.
fn check_small_memories(dump: &CoreDumpFile<'_>) {
    for (i, (_, image)) in (0..).zip(images()) {
        let found = contents(dump, MemoryIndex(i));
        let known = found.iter().zip(&image).filter(|(found, _)| **found != 0xee);
        assert!(known.clone().all(|(found, expected)| found == expected));
        assert_eq!(known.count(), image.len(), "memory {i}");
    }
}

/// Damages a segment in one of many data sections, and truncates the dump in a later section. No byte that the guest had
/// may be called zero.
#[test]
fn loses_no_byte_silently_in_many_sections() {
    let mut image = vec![0; 16 * PAGE];
    for (i, run) in image.chunks_exact_mut(PAGE).enumerate() {
        run[..100].fill(u8::try_from(i + 1).unwrap());
    }
    let mut guest = CoreDump::new("guest");
    guest.add_memory(Memory::new(MemoryType::wasm32(16), MemoryImage::from_slice(&image)));
    let bytes = Dumper::new().max_section_bytes(256).plan(&guest).unwrap().to_vec().unwrap();
    let decoded = common::decode(&bytes);
    let starts: Vec<_> =
        decoded.segments.iter().map(|s| s.data.as_ptr().addr() - bytes.as_ptr().addr()).collect();
    assert_eq!(starts.len(), 16);
    for damaged in 0..14 {
        for cut in starts[damaged + 1..].iter().map(|start| start + 50) {
            let mut dump = bytes[..cut].to_vec();
            // The opcode before the address of the segment.
            let head = (0..16).map(|i| starts[damaged] - i).find(|at| dump[*at] == 0x41).unwrap();
            dump[head] = 0xff;
            let salvaged = CoreDumpFile::salvage_slice(&dump).unwrap();
            assert!(salvaged.damage().is_some());
            let found = contents(&salvaged, MemoryIndex(0));
            for (address, (found, expected)) in found.iter().zip(&image).enumerate() {
                assert!(
                    *found == 0xee || found == expected,
                    "{address:#x}: {found}, segment {damaged} damaged, {cut} bytes"
                );
            }
        }
    }
}
