//! Dumps by version 0.1 of the tool: their content is read, and writing the same guests again gives the same bytes.
//!
//! They are in `tests/data/0.1`. The tool made each of them from a manifest and images, which this module describes
//! again. `corestream dump --manifest` of the commit that `.ci/full` names made `degraded.dump`.

use crate::common;
use std::fs;
use std::path::Path;

use common::reading::{all, contents, read_consistently, types, verdict};
use corestream::read::{IntactDump, Producer, Verdict};
use corestream::*;

const PAGE: usize = 65_536;

/// Returns an image of one page.
fn first() -> Vec<u8> {
    image(PAGE, &[(100, b"one"), (4096, &b"two".repeat(20)), (PAGE - 1, b"!")])
}

/// Returns an image of two pages.
fn second() -> Vec<u8> {
    image(2 * PAGE, &[(0, b"zero"), (PAGE, b"second page")])
}

fn image(len: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut image = vec![0; len];
    for (start, part) in parts {
        image[*start..start + part.len()].copy_from_slice(part);
    }
    image
}

fn one_page<'i>(image: &'i [u8]) -> Memory<'i> {
    Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(image))
}

/// Checks that the old dump of this name is intact and describes `guest`, and that dumping `guest` gives the same
/// bytes. Returns the verdict.
fn assert_old(name: &str, guest: &CoreDump<'_>, dumper: &Dumper) -> IntactDump {
    let intact = assert_read(name, guest);
    assert!(!intact.degraded);
    let written = dumper.plan(guest).unwrap().to_vec().unwrap();
    assert!(written == dump_of(name), "{name}: the bytes differ");
    intact
}

/// Checks that the old dump of this name is intact and describes `guest`. Returns the verdict.
fn assert_read(name: &str, guest: &CoreDump<'_>) -> IntactDump {
    let bytes = dump_of(name);
    let Verdict::Intact(intact) = verdict(&bytes).unwrap() else { panic!("{name} is damaged") };
    read_consistently(&bytes);

    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    assert_eq!(dump.name(), format!("{name}.wasm"));
    assert_eq!((dump.producer(), dump.has_index()), (Producer::Corestream, true));
    let names = guest.modules.iter().enumerate().map(|(i, module)| module.name_or_anonymous(i));
    assert!(all(dump.modules()).into_iter().eq(names));
    assert_eq!(all(dump.instances()), guest.instances);
    assert_eq!(all(dump.globals()), guest.globals);
    assert_eq!(common::reading::threads(&dump), guest.threads);
    assert_eq!(all(dump.notes()), guest.notes);
    assert!(types(&dump).into_iter().eq(guest.memories.iter().map(|memory| memory.ty)));
    // Version 0.1 did not have these facts.
    assert_eq!((dump.trap(), dump.captured_at()), (None, None));
    assert!(all(dump.module_identities()).iter().all(|identity| !identity.is_known()));
    intact
}

fn dump_of(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/0.1").join(name);
    fs::read(path.with_extension("dump")).unwrap()
}

#[test]
fn reads_plain_dumps() {
    let image = first();
    for (name, checksums) in [("plain", true), ("no-checksum", false)] {
        let mut guest = CoreDump::new(format!("{name}.wasm"));
        let memory = guest.add_memory(one_page(&image));
        let intact = assert_old(name, &guest, &Dumper::new().checksums(checksums));
        assert_eq!((intact.segments, intact.checksums), (3, checksums));
        let bytes = dump_of(name);
        assert!(contents(&CoreDumpFile::from_slice(&bytes).unwrap(), memory) == image);
    }
}

#[test]
fn reads_excluded_ranges() {
    let image = first();
    let mut guest = CoreDump::new("partial.wasm");
    let memory = guest.add_memory(one_page(&image).without(4096..8192));
    let intact = assert_old("partial", &guest, &Dumper::new());
    assert!(intact.partial);
    let bytes = dump_of("partial");
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let view = dump.memory(memory).unwrap();
    assert!(view.unknown().eq([4096..=8191]));
    assert_eq!(view.read(4095, &mut [0; 2]).unwrap_err().kind(), ErrorKind::Excluded);
    let mut expected = image;
    expected[4096..8192].fill(0xee);
    assert!(contents(&dump, memory) == expected);
}

#[test]
fn reads_several_memories() {
    let (first, second) = (first(), second());
    let mut guest = CoreDump::new("memories.wasm");
    guest.add_memory(one_page(&first));
    let ty = MemoryType::wasm32(2).with_maximum(3).with_shared();
    guest.add_memory(Memory::new(ty, MemoryImage::from_slice(&second).mark_changing()));
    let ty = MemoryType::wasm32(13).with_page_size(1);
    guest.add_memory(Memory::new(ty, MemoryImage::from_slice(b"thirteen byte")));
    guest.add_memory(Memory::new(MemoryType::wasm32(0), MemoryImage::from_slice(&[])));
    let intact = assert_old("memories", &guest, &Dumper::new());
    assert_eq!(intact.changing, [MemoryIndex(1)]);
    let bytes = dump_of("memories");
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let images: [&[u8]; 4] = [&first, &second, b"thirteen byte", &[]];
    for (i, image) in (0..).zip(images) {
        assert!(contents(&dump, MemoryIndex(i)) == image, "memory {i}");
    }
}

#[test]
fn reads_a_memory_of_2_to_the_64_bytes() {
    let image = second();
    let mut guest = CoreDump::new("memory64.wasm");
    let ty = MemoryType::wasm64(1 << 48);
    let memory = guest.add_memory(Memory::new(ty, MemoryImage::from_slice(&image)));
    assert_old("memory64", &guest, &Dumper::new());
    let bytes = dump_of("memory64");
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let memory = dump.memory(memory).unwrap();
    let mut read = vec![1; 3 * PAGE];
    memory.read(0, &mut read).unwrap();
    assert!(read[..image.len()] == image && read[image.len()..].iter().all(|byte| *byte == 0));
    memory.read(u64::MAX, &mut read[..1]).unwrap();
    assert_eq!(read[0], 0);
}

#[test]
fn reads_frames() {
    let image = first();
    let mut guest = CoreDump::new("frames.wasm");
    let memory = guest.add_memory(one_page(&image));
    let globals = [
        Global::mutable(GlobalValue::I32(-7)),
        Global::constant(GlobalValue::V128((1 << 127) | 1)),
        Global::constant(GlobalValue::Ref(RefType::Exn)),
    ];
    let globals = globals.map(|global| guest.add_global(global));
    let modules = [guest.add_module("guest.wasm"), guest.add_module(Module::anonymous())];
    let instance = Instance::new(modules[0]).with_memories([memory]).with_globals(globals);
    let instance = guest.add_instance(instance);
    guest.add_instance(Instance::new(modules[1]).with_memories([None]));
    guest.add_thread(
        Thread::new("main").with_frames([
            Frame::new(instance, 3, 17)
                .with_locals([Value::I32(-1), Value::Missing, Value::F64(0x7ff8_0000_0000_0001)])
                .with_stack([Value::I64(i64::MIN), Value::F32(0x7fa0_0001)]),
            Frame::new(None, u32::MAX, 0),
        ]),
    );
    guest.add_thread(Thread::new("second"));
    assert_old("frames", &guest, &Dumper::new());
}

#[test]
fn reads_notes() {
    let image = first();
    let mut guest = CoreDump::new("notes.wasm");
    guest.add_memory(one_page(&image));
    guest.notes = vec!["stopped by the time limit".into(), "żółć".into()];
    assert_old("notes", &guest, &Dumper::new());
}

/// The guest has one memory too many. The only frame uses the last memory, `second`. Another instance uses the first
/// memory, `first`, and the second-to-last one, which is empty and which the dump does not include.
#[test]
fn reads_a_degraded_dump() {
    let (first, second) = (first(), second());
    let empty = || Memory::new(MemoryType::wasm32(0), MemoryImage::from_slice(&[]));
    let two_pages = || Memory::new(MemoryType::wasm32(2), MemoryImage::from_slice(&second));
    let frame = |instance| Thread::new("main").with_frames([Frame::new(instance, 3, 17)]);

    let mut guest = CoreDump::new("degraded.wasm");
    let module = guest.add_module("guest.wasm");
    let mut memories = vec![guest.add_memory(one_page(&first))];
    memories.extend((1..limits::MAX_MEMORIES).map(|_| guest.add_memory(empty())));
    memories.push(guest.add_memory(two_pages()));
    let other = Instance::new(module).with_memories([memories[0], memories[99]]);
    guest.add_instance(other);
    let instance = guest.add_instance(Instance::new(module).with_memories([memories[100]]));
    guest.add_thread(frame(instance));

    let mut expected = CoreDump::new("degraded.wasm");
    let module = expected.add_module("guest.wasm");
    let kept = expected.add_memory(one_page(&first));
    for _ in 1..limits::MAX_MEMORIES - 1 {
        expected.add_memory(empty());
    }
    let last = expected.add_memory(two_pages());
    expected.add_instance(Instance::new(module).with_memories([Some(kept), None]));
    let instance = expected.add_instance(Instance::new(module).with_memories([last]));
    expected.add_thread(frame(instance));

    let intact = assert_read("degraded", &expected);
    assert!(intact.degraded && intact.checksums);
    let bytes = dump_of("degraded");
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    assert!(dump.is_degraded());
    assert!(contents(&dump, kept) == first && contents(&dump, last) == second);
    let plan = Dumper::new().plan(&guest).unwrap();
    assert_eq!(plan.shortfalls(), [Shortfall::Memory(memories[99])]);
    assert!(plan.to_vec().unwrap() == bytes, "degraded: the bytes differ");
}
