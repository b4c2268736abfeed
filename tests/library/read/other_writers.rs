//! Dumps by other writers, and dumps by corestream that another tool has rewritten.

use crate::environment::require;
use crate::{common, foreign, writers};
use std::ops::Range;
use std::process::Command;

use common::own::{self, Own};
use common::reading::{
    FIRST, PAGE, all, contents, images, read_consistently, small, threads, types,
    verdict_consistently,
};
use corestream::read::{FrameLayout, IntactDump, Producer, Verdict};
use corestream::*;
use foreign::{CORE, module};
use writers::{Frame as Expected, rewriter, stack, wasmedge, wasmer};

/// Opens a dump strictly. Checks that salvaging it finds no damage and gives the same threads.
fn open(bytes: &[u8]) -> CoreDumpFile<'_> {
    let dump = CoreDumpFile::from_slice(bytes).unwrap();
    let salvaged = CoreDumpFile::salvage_slice(bytes).unwrap();
    assert!(salvaged.damage().is_none());
    assert_eq!(threads(&dump), threads(&salvaged));
    dump
}

/// Returns the verdict of an intact dump, which is the same in a source of every kind.
fn intact(bytes: &[u8]) -> IntactDump {
    match verdict_consistently(bytes).unwrap() {
        Verdict::Intact(intact) => intact,
        Verdict::Damaged(damage) => panic!("{damage}"),
    }
}

/// Checks the layout and the frames of the only thread.
fn check(bytes: &[u8], layout: FrameLayout, frames: &[Expected<'_>]) {
    let dump = open(bytes);
    assert_eq!((dump.frame_layout(), dump.producer()), (layout, Producer::Other));
    assert_eq!(intact(bytes).layout, Some(layout));
    let found = dump.thread(0).unwrap().to_thread().unwrap();
    let values = |values: &[i32]| values.iter().map(|value| Value::I32(*value)).collect::<Vec<_>>();
    let frames = frames.iter().map(|(instance, function, offset, locals, stack)| {
        Frame::new(instance.map(InstanceIndex), *function, *offset)
            .with_locals(values(locals))
            .with_stack(values(stack))
    });
    assert_eq!(found, Thread::new("main").with_frames(frames));
    read_consistently(bytes);
}

#[test]
fn reads_frames_of_wasm_coredump_builder() {
    let frames =
        [(None, 19, 0x12, &[][..], &[][..]), (None, 7, 0x44, &[], &[]), (None, 3, 9, &[], &[])];
    check(&wasmer(), FrameLayout::NoInstance, &frames);
    let with_values = [(None, 4, 70, &[-1, 1 << 20][..], &[3][..]), (None, 9, 9, &[], &[])];
    let bytes = module(&[CORE, (0, &stack(&with_values, false))]);
    check(&bytes, FrameLayout::NoInstance, &with_values);
}

#[test]
fn reads_frames_of_wasm_coredump_rewriter() {
    let frames = [
        (Some(0), 2, 123, &[][..], &[][..]),
        (Some(0), 3, 456, &[], &[]),
        (Some(0), 100, 678, &[], &[]),
    ];
    check(&rewriter(&frames, 0), FrameLayout::Standard, &frames);
    let frames = [
        (Some(0), 2, 123, &[][..], &[][..]),
        (Some(1), 3, 456, &[1, -1], &[]),
        (Some(0), 100, 678, &[1, 2, 3], &[]),
    ];
    check(&rewriter(&frames, 0), FrameLayout::CountsFirst, &frames);
}

/// The dump is inside the memory that it describes, so an address is an offset, even if the dump says otherwise.
#[test]
fn reads_the_memory_of_wasm_coredump_rewriter() {
    let frames = [(Some(0), 2, 123, &[5][..], &[][..])];
    for misjudged in -2..=2 {
        let bytes = rewriter(&frames, misjudged);
        let dump = open(&bytes);
        let ty = MemoryType::wasm32(2).with_maximum(2);
        let memory = dump.memory(FIRST).unwrap();
        assert_eq!((types(&dump), memory.declared_pages()), (vec![ty], Some(0)));
        let found = contents(&dump, FIRST);
        let payload = usize::try_from(memory.coverage().data_bytes).unwrap();
        let payload = 2 * PAGE - payload;
        assert!(
            found[payload..] == bytes[payload..] && found[..payload].iter().all(|byte| *byte == 0)
        );
        let mut last = [0; 3];
        memory.read(2 * PAGE as u64 - 3, &mut last).unwrap();
        assert_eq!(last, bytes[2 * PAGE - 3..]);
        intact(&bytes);
    }
    // The address is too far off, or the segment does not reach the end of the file.
    assert!(matches!(verdict_consistently(&rewriter(&frames, 5)), Ok(Verdict::Damaged(_))));
    let longer = [&rewriter(&frames, 1)[..], b"\0\x02\x01x"].concat();
    assert!(matches!(verdict_consistently(&longer), Ok(Verdict::Damaged(_))));
}

#[test]
fn reads_frames_globals_and_names_of_wasmedge() {
    let frames = [(None, 2, 0x30, &[5][..], &[7, 8][..]), (None, 0, 0, &[], &[])];
    for name in ["", "guest", "\u{e4}", "\x04main", &"long ".repeat(50)] {
        let bytes = wasmedge(name.as_bytes());
        check(&bytes, FrameLayout::NoInstanceCountsFirst, &frames);
        let dump = open(&bytes);
        // The first byte of this name happens to be its length, so the reader takes it for a length.
        let name = if name == "\x04main" { "main" } else { name };
        assert_eq!(all(dump.modules()), [name]);
        assert_eq!(dump.module(ModuleIndex(0)).unwrap(), name);
        assert_eq!(all(dump.globals()), [Global::mutable(GlobalValue::Missing(NumberType::I32))]);
        assert_eq!(types(&dump), [MemoryType::wasm32(2)]);
        assert_eq!(dump.instances().len(), 0);
        let text = dump.global(GlobalIndex(0)).unwrap().value.to_string();
        assert_eq!(text, "i32:missing");
    }
    assert!(matches!(verdict_consistently(&wasmedge(b"\xff")), Ok(Verdict::Damaged(_))));
}

#[test]
fn refuses_to_dump_a_global_without_a_value() {
    let mut dump = CoreDump::new("guest.wasm");
    dump.add_global(Global::constant(GlobalValue::Missing(NumberType::F64)));
    let error = Dumper::new().plan(&dump).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Model);
    assert_eq!(error.to_string(), "global 0: its value is unknown; give it a value of type f64");
}

#[test]
fn shows_no_frame_where_the_layout_is_ambiguous() {
    // Instance 0, function 1 at 2 with one local; or function 0 at 1 with two.
    let both = b"\x09corestack\0\x04main\x01\0\0\x01\x02\x01\x01\0";
    let bytes = module(&[CORE, (0, both), (5, &[1, 0, 1]), (11, b"\x01\0\x41\0\x0b\x01x")]);
    let dump = open(&bytes);
    assert_eq!(dump.frame_layout(), FrameLayout::Ambiguous);
    assert_eq!(
        (dump.thread(0).unwrap().name(), dump.thread(0).unwrap().frames().len()),
        ("main", 0)
    );
    assert_eq!(intact(&bytes).layout, Some(FrameLayout::Ambiguous));
    // Another thread makes the layout unambiguous.
    let other = stack(&[(None, 5, 6, &[7], &[])], false);
    let decided = module(&[CORE, (0, both), (0, &other)]);
    let dump = open(&decided);
    assert_eq!(dump.frame_layout(), FrameLayout::NoInstance);
    assert_eq!(dump.threads().map(|thread| thread.unwrap().frames().len()).sum::<usize>(), 2);
}

#[test]
fn shows_no_frame_where_no_layout_fits() {
    for frames in [
        &b"\x01\0\0\x01\x02\x03\x04"[..],
        // The instance does not exist, or the function index is impossible.
        b"\x01\0\x07\x01\x02\0\0",
        b"\x01\0\0\xff\xff\xff\x7f\x02\0\0",
    ] {
        let body = [b"\x09corestack\0\x04main", frames].concat();
        let sections: [(u8, &[u8]); 6] = [
            CORE,
            (0, b"\x0bcoremodules\x01\0\x01m"),
            (0, b"\x0dcoreinstances\x01\0\0\0\0"),
            (0, &body),
            (5, &[1, 0, 1]),
            (11, b"\x01\0\x41\0\x0b\x01x"),
        ];
        let bytes = module(&sections);
        let error = CoreDumpFile::from_slice(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.to_string().contains("corestack: unknown frame layout"), "{error}");
        // Salvaging gives everything else.
        let dump = CoreDumpFile::salvage_slice(&bytes).unwrap();
        assert_eq!(dump.frame_layout(), FrameLayout::Unknown);
        assert_eq!(dump.thread(0).unwrap().frames().len(), 0);
        assert_eq!(contents(&dump, FIRST)[..2], *b"x\0");
        assert_eq!(dump.memory(FIRST).unwrap().coverage().unknown_bytes(), 0);
        assert!(matches!(verdict_consistently(&bytes), Ok(Verdict::Damaged(_))));
        read_consistently(&bytes);
    }
}

#[test]
fn extends_a_memory_to_its_segments() {
    let data = b"\x01\0\x41\xff\xff\x03\x0b\x03xyz";
    for (ty, pages) in [
        (&[1, 0, 0][..], Some(2)),
        (&[1, 0, 1], Some(2)),
        (&[1, 1, 0, 3], Some(2)),
        (&[1, 1, 0, 1], None),
        (&[1, 0, 2], Some(2)),
    ] {
        let bytes = module(&[CORE, (5, ty), (11, data)]);
        let Some(pages) = pages else {
            assert!(CoreDumpFile::from_slice(&bytes).is_err());
            assert!(matches!(verdict_consistently(&bytes), Ok(Verdict::Damaged(_))));
            continue;
        };
        let dump = open(&bytes);
        let memory = dump.memory(FIRST).unwrap();
        assert_eq!(memory.ty().minimum, pages, "{ty:x?}");
        assert_eq!(memory.declared_pages(), (ty[2] < 2).then_some(ty[2].into()));
        let mut buffer = [0; 4];
        memory.read(65_534, &mut buffer).unwrap();
        assert_eq!(buffer, *b"\0xyz");
        intact(&bytes);
    }
}

/// Returns the sections of a dump: id and body.
fn sections(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let sections = own::sections(bytes).into_iter();
    sections.map(|section| (section.id, bytes[section.body].to_vec())).collect()
}

/// Returns a module with these sections, whose sizes have at least `pad` bytes.
fn padded(sections: &[(u8, Vec<u8>)], pad: usize) -> Vec<u8> {
    let mut bytes = b"\0asm\x01\0\0\0".to_vec();
    for (id, body) in sections {
        bytes.push(*id);
        let at = bytes.len();
        own::leb(&mut bytes, body.len());
        while bytes.len() - at < pad {
            *bytes.last_mut().unwrap() |= 0x80;
            bytes.push(0);
        }
        bytes.extend(body);
    }
    bytes
}

fn is_named(section: &(u8, Vec<u8>), name: &str) -> bool {
    section.0 == 0
        && section.1[1..].starts_with(name.as_bytes())
        && section.1[0] as usize == name.len()
}

/// The content of a dump does not depend on the order of its sections.
#[test]
fn reads_sections_in_any_order() {
    let images = images();
    let guest = common::reading::guest(&images);
    let foreign = own::without(&Dumper::new().plan(&guest).unwrap().to_vec().unwrap());
    let own = Own { changing: vec![1], ..Own::default() }.dump(&foreign);
    let excluded = vec![(0, 0, 99), (1, 1000, PAGE as u64 - 1)];
    let partial = Own { flags: 1, excluded, ..Own::default() }.dump(&foreign);
    for (bytes, is_own, is_partial) in
        [(&foreign, false, false), (&own, true, false), (&partial, true, true)]
    {
        let expected = CoreDumpFile::from_slice(bytes).unwrap();
        let original = sections(bytes);
        let rotated = (1..original.len()).map(|by| {
            let mut all = original.clone();
            all.rotate_left(by);
            all
        });
        let mut reversed = original.clone();
        reversed.reverse();
        // Binaryen writes custom sections last.
        let (mut last, mut first): (Vec<_>, Vec<_>) =
            original.iter().cloned().partition(|(id, _)| *id == 0);
        first.append(&mut last);
        for order in rotated.chain([reversed, first]) {
            for pad in [0, 5] {
                let bytes = padded(&order, pad);
                let dump = open(&bytes);
                assert_eq!(dump.is_rewritten(), is_own);
                assert_eq!(dump.producer(), expected.producer());
                assert_eq!(dump.name(), expected.name());
                let sorted = |dump: &CoreDumpFile<'_>| {
                    let mut threads = threads(dump);
                    threads.sort_by(|a, b| a.name.cmp(&b.name));
                    threads
                };
                assert_eq!(sorted(&dump), sorted(&expected));
                assert_eq!(all(dump.instances()), all(expected.instances()));
                assert_eq!(all(dump.globals()), all(expected.globals()));
                assert_eq!(types(&dump), types(&expected));
                assert_eq!((dump.is_partial(), dump.has_checksums()), (is_partial, false));
                for i in 0..4 {
                    let memory = MemoryIndex(i);
                    assert!(contents(&dump, memory) == contents(&expected, memory));
                    let coverage =
                        |dump: &CoreDumpFile<'_>| dump.memory(memory).unwrap().coverage();
                    assert_eq!(coverage(&dump), coverage(&expected));
                }
                let intact = intact(&bytes);
                assert_eq!(
                    (intact.rewritten, intact.checksums, intact.partial),
                    (is_own, false, is_partial)
                );
                read_consistently(&bytes);
            }
        }
    }
}

/// Without the index of a partial dump, zeros are unknown.
#[test]
fn keeps_ranges_unknown_without_the_index() {
    let excluded = vec![(0, 0, 99)];
    let partial = Own { flags: 1, excluded, ..Own::default() }.dump(&small());
    let mut all = sections(&partial);
    all.rotate_left(1);
    let index = all.iter().position(|section| is_named(section, "corestream.index")).unwrap();
    // A checksum mismatch is as bad as no index.
    let mut bad = all.clone();
    *bad[index].1.last_mut().unwrap() ^= 1;
    all.remove(index);
    for sections in [all, bad] {
        let bytes = padded(&sections, 0);
        let dump = open(&bytes);
        let image = &images()[0].1;
        let found = contents(&dump, FIRST);
        assert!(found.iter().zip(image).all(|(found, byte)| *found == *byte || *found == 0xee));
        assert!(!found.contains(&0) && dump.is_partial());
        let memory = dump.memory(FIRST).unwrap();
        assert_eq!(memory.read(0, &mut [0]).unwrap_err().kind(), ErrorKind::Excluded);
        read_consistently(&bytes);
    }
}

/// Removing or adding a section moves those after it.
#[test]
fn detects_removed_and_added_sections() {
    let own = Own::default().dump(&small());
    let original = sections(&own);
    for name in ["coremodules", "corestack"] {
        let rest: Vec<_> =
            original.iter().filter(|section| !is_named(section, name)).cloned().collect();
        let bytes = padded(&rest, 0);
        let dump = open(&bytes);
        assert!(dump.is_rewritten());
        assert!(contents(&dump, FIRST) == images()[0].1);
        assert!(intact(&bytes).rewritten);
    }
    // At the end, nothing moves, and all checksums match.
    let added = (0, b"\x09producers\0".to_vec());
    let mut more = original.clone();
    more.push(added.clone());
    let bytes = padded(&more, 0);
    let dump = open(&bytes);
    assert!(!dump.is_rewritten() && dump.has_index() && dump.has_checksums());
    let found = intact(&bytes);
    assert_eq!((found.rewritten, found.appended, found.checksums), (false, 13, true));
    // Anything else at the end is damage, including a second section of the dump.
    for wrong in [&b"\0"[..], b"\x01\0", b"\0\x05\x04core", b"\0\x02\x01\xff", b"\0\x7f\x01x"] {
        let bytes = [&own[..], wrong].concat();
        assert!(CoreDumpFile::from_slice(&bytes).is_err(), "{wrong:x?}");
        assert!(matches!(verdict_consistently(&bytes), Ok(Verdict::Damaged(_))), "{wrong:x?}");
    }
    // Before the other sections, even before the name of the process.
    let mut before = original.clone();
    before.insert(0, added);
    let bytes = padded(&before, 0);
    assert!(open(&bytes).is_rewritten() && intact(&bytes).rewritten);
    // Without the name of the process, the reader rejects the dump.
    let nameless: Vec<_> =
        original.iter().filter(|section| !is_named(section, "core")).cloned().collect();
    let bytes = padded(&nameless, 0);
    assert_eq!(CoreDumpFile::from_slice(&bytes).unwrap_err().kind(), ErrorKind::Damaged);
    assert!(matches!(verdict_consistently(&bytes), Ok(Verdict::Damaged(_))));
}

/// A section that another tool has inserted is not damage, whatever its length.
#[test]
fn accepts_an_added_section_of_any_length() {
    let original = sections(&Own::default().dump(&small()));
    let data = original.iter().position(|(id, _)| *id == 11).unwrap();
    for len in [10, 100, 500, 5000] {
        let mut body = b"\x09producers".to_vec();
        body.resize(10 + len, 0);
        let mut more = original.clone();
        more.insert(data, (0, body));
        let bytes = padded(&more, 0);
        let verdict = verdict_consistently(&bytes).unwrap();
        assert!(verdict.is_intact(), "{len} bytes: {verdict:?}");
        assert!(open(&bytes).is_rewritten());
    }
}

/// The memory section comes after the index.
#[test]
fn accepts_memories_after_the_index() {
    let mut moved = sections(&Own::default().dump(&small()));
    let memory = moved.iter().position(|(id, _)| *id == 5).unwrap();
    let section = moved.remove(memory);
    moved.push(section);
    let bytes = padded(&moved, 0);
    assert!(intact(&bytes).rewritten);
    assert!(contents(&open(&bytes), FIRST) == images()[0].1);
    // Without that section, the dump is damaged.
    moved.pop();
    let bytes = padded(&moved, 0);
    let Verdict::Damaged(damage) = verdict_consistently(&bytes).unwrap() else {
        panic!("expected damage")
    };
    assert!(damage.reason.contains("there is no memory 0; the dump has 0"), "{damage}");
}

/// The reported fault is not that the dump was rewritten.
#[test]
fn reports_the_fault_of_a_rewritten_dump() {
    let mut more = sections(&Own::default().dump(&small()));
    let data = more.iter().position(|(id, _)| *id == 11).unwrap();
    more[data].1[2] = 0x77; // This instruction gives no address.
    more.insert(data, (0, b"\x09producers\0".to_vec()));
    let bytes = padded(&more, 0);
    let Verdict::Damaged(damage) = verdict_consistently(&bytes).unwrap() else {
        panic!("expected damage")
    };
    assert!(damage.reason.contains("section data: segment 0"), "{damage}");
    let error = CoreDumpFile::from_slice(&bytes).unwrap_err();
    assert!(error.to_string().contains(&damage.reason), "{error}");
    let salvaged = CoreDumpFile::salvage_slice(&bytes).unwrap();
    assert_eq!(salvaged.damage().unwrap().to_string(), error.to_string());
}

/// Flips bits of dumps without checksums, and truncates them. Sources of every kind must give the same result.
fn check_flips_and_truncation(bits_of: impl Fn(&[u8], usize) -> Range<usize>) {
    let frames = [(Some(0), 2, 123, &[5][..], &[1, -1][..]), (Some(1), 3, 456, &[], &[])];
    let rest: [(u8, &[u8]); 3] = [
        (0, b"\x0bcoremodules\x01\0\x01m"),
        (0, b"\x0dcoreinstances\x02\0\0\x01\0\0\0\0\0\0"),
        (11, b"\x02\0\x41\0\x0b\x03xyz\0\x41\x02\x0b\x01w"),
    ];
    let by_layout = [true, false].map(|counts_first| {
        let stack = stack(&frames, counts_first);
        let mut sections = vec![CORE, (0, &stack[..]), (5, &[1, 0, 1])];
        sections.extend(rest);
        module(&sections)
    });
    let foreign = small();
    let own = sections(&Own::default().dump(&foreign));
    // Binaryen writes custom sections last.
    let (mut custom, mut others): (Vec<_>, Vec<_>) = own.into_iter().partition(|(id, _)| *id == 0);
    others.append(&mut custom);
    let rewritten = padded(&others, 0);
    assert!(intact(&rewritten).rewritten);
    for bytes in by_layout.into_iter().chain([foreign, rewritten]) {
        open(&bytes);
        for i in 0..bytes.len() {
            let mut flipped = bytes.clone();
            for bit in bits_of(&bytes, i) {
                flipped[i] = bytes[i] ^ 1 << bit;
                let _ = verdict_consistently(&flipped);
                read_consistently(&flipped);
            }
            if !bits_of(&bytes, i).is_empty() {
                let _ = verdict_consistently(&bytes[..i]);
                read_consistently(&bytes[..i]);
            }
        }
    }
}

#[test]
fn judges_flips_and_truncation_alike_in_every_source() {
    // One bit of every other byte.
    check_flips_and_truncation(|_, i| if i % 2 == 0 { i / 2 % 8..i / 2 % 8 + 1 } else { 0..0 });
}

#[test]
#[ignore = "slow: 3 s"]
fn judges_all_flips_alike_in_every_source() {
    // One bit of each byte of a long dump.
    check_flips_and_truncation(|bytes, i| if bytes.len() < 500 { 0..8 } else { i % 8..i % 8 + 1 });
}

#[test]
fn reads_what_wasm_opt_writes() {
    let directory = tempfile::tempdir().unwrap();
    let [before, after] = ["before.wasm", "after.wasm"].map(|name| directory.path().join(name));
    let images = vec![images().swap_remove(0)];
    let mut guest = common::reading::guest(&images);
    // Binaryen 108 does not know all types of references.
    guest.globals.clear();
    guest.instances.iter_mut().for_each(|instance| instance.globals.clear());
    let bytes = Dumper::new().plan(&guest).unwrap().to_vec();
    std::fs::write(&before, bytes.unwrap()).unwrap();
    let mut command = Command::new("wasm-opt");
    let ran = command.args(["-all"]).arg(&before).arg("-o").arg(&after).output();
    let ran = ran.map_err(|error| error.to_string());
    let ran =
        ran.and_then(|output| output.status.success().then_some(()).ok_or(format!("{output:?}")));
    require!("binaryen", ran);
    let bytes = std::fs::read(&after).unwrap();
    let dump = open(&bytes);
    assert!(dump.is_rewritten() && intact(&bytes).rewritten);
    assert!(contents(&dump, FIRST) == images[0].1);
    assert_eq!(dump.thread(0).unwrap().frames().len(), 2);
}
