//! The model: contradictions are errors that name the item, and items over a limit of the format degrade the dump.

use crate::common;
use common::{DecodedFrame, decode};
use corestream::limits::{MAX_MEMORIES, MAX_NAME_BYTES, MAX_THREADS};
use corestream::*;

fn image(len: usize) -> MemoryImage<'static> {
    MemoryImage::from_slice(vec![1; len].leak())
}

fn error(change: impl FnOnce(&mut CoreDump<'_>)) -> String {
    let mut dump = CoreDump::new("guest");
    change(&mut dump);
    let error = Dumper::new().plan(&dump).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Model);
    error.to_string()
}

#[test]
fn rejects_contradictions_by_item() {
    let memory = |ty| error(|dump| _ = dump.add_memory(Memory::new(ty, image(65_537))));
    assert_eq!(
        memory(MemoryType::wasm32(1)),
        "memory 0: the image of 65537 bytes is larger than the memory of 65536 bytes; the memory needs \
         at least 2 pages"
    );
    assert_eq!(
        memory(MemoryType::wasm32(2).with_shared()),
        "memory 0: a shared memory needs a maximum"
    );
    assert_eq!(
        memory(MemoryType::wasm32(2).with_maximum(1)),
        "memory 0: 2 pages exceed the declared maximum of 1"
    );
    assert_eq!(
        memory(MemoryType::wasm32(65_537)),
        "memory 0: 65537 pages exceed the maximum of 65536 for a 32-bit memory; use a 64-bit memory (memory64)"
    );
    assert_eq!(
        memory(MemoryType::wasm32(2).with_page_size(4096)),
        "memory 0: invalid page size 4096; expected 1 or 65536"
    );
    let instance = |i: Instance| {
        error(|dump| {
            dump.add_module("m");
            dump.add_instance(Instance::default());
            dump.add_instance(i);
        })
    };
    assert_eq!(
        instance(Instance::new(ModuleIndex(1))),
        "instance 1: module index 1 is out of range; there is 1 module"
    );
    assert_eq!(
        instance(Instance::default().with_memories([MemoryIndex(0)])),
        "instance 1: memory index 0 is out of range; there are 0 memories"
    );
    assert_eq!(
        instance(Instance::default().with_globals([Some(GlobalIndex(9)), None])),
        "instance 1: global index 9 is out of range; there are 0 globals"
    );
    let frame = error(|dump| {
        let frames = [Frame::new(None, 0, 0), Frame::new(InstanceIndex(0), 0, 0)];
        dump.add_thread(Thread::new("main").with_frames(frames));
    });
    assert_eq!(frame, "thread 0, frame 1: instance index 0 is out of range; there are 0 instances");
}

#[test]
fn rejects_options_out_of_range() {
    let dump = CoreDump::new("guest");
    for (dumper, expected) in [
        (Dumper::new().max_segments(0), "max_segments: at least 1 segment is needed"),
        (
            Dumper::new().max_segments(100_001),
            "max_segments: 100001 segments are more than the 100000 that engines accept",
        ),
        (
            Dumper::new().max_section_bytes(255),
            "max_section_bytes: a section needs at least 256 bytes",
        ),
    ] {
        let error = dumper.plan(&dump).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Option, expected));
    }
}

#[test]
fn takes_zero_threads_as_one_per_core() {
    let dump = CoreDump::new("guest");
    let cores = std::thread::available_parallelism().unwrap().get().min(MAX_THREADS);
    for (dumper, threads) in [
        (Dumper::new(), cores),
        (Dumper::new().threads(0), cores),
        (Dumper::new().threads(3), 3),
        (Dumper::new().threads(usize::MAX), MAX_THREADS),
    ] {
        assert_eq!(dumper.plan(&dump).unwrap().stats().threads, threads);
    }
}

/// A dump with everything that the format can express, in the documented order of sections.
#[test]
fn writes_everything_that_the_format_can_express() {
    let mut dump = CoreDump::new("guest \u{1f980}");
    let m = [
        (MemoryType::wasm32(3), 70_000),
        (MemoryType::wasm64(1 << 48).with_maximum(1 << 48), 10),
        (MemoryType::wasm32(1).with_maximum(9).with_shared(), 0),
        (MemoryType::wasm32(4097).with_page_size(1), 4097),
    ]
    .map(|(ty, len)| dump.add_memory(Memory::new(ty, image(len))));
    let values = [
        GlobalValue::I32(i32::MIN),
        GlobalValue::I64(i64::MIN),
        GlobalValue::F32(0x7fa0_0001),
        GlobalValue::F64(0x7ff0_0000_0000_0001),
        GlobalValue::V128(u128::MAX - 5),
    ];
    let references = RefType::ALL.iter().copied().map(GlobalValue::Ref);
    for (i, value) in values.into_iter().chain(references).enumerate() {
        dump.add_global(if i % 2 == 0 { Global::mutable(value) } else { Global::constant(value) });
    }
    let module = dump.add_module("a.wasm");
    dump.add_module(Module::anonymous());
    dump.add_instance(Instance::new(module).with_memories(m).with_globals([GlobalIndex(2)]));
    let unknown = Instance::new(None).with_memories([None, Some(m[1])]).with_globals([None]);
    let unknown = dump.add_instance(unknown);
    let locals = [Value::I32(-1), Value::Missing, Value::F32(0x7fa0_0001)];
    let stack = [Value::I64(i64::MIN), Value::F64(0xfff0_0000_0000_0001)];
    let frame = Frame::new(unknown, 7, u32::MAX).with_locals(locals).with_stack(stack);
    dump.add_thread(Thread::new("main").with_frames([frame, Frame::new(None, 0, 0)]));
    dump.add_thread(Thread::new("idle"));

    let bytes = Dumper::new().plan(&dump).unwrap().to_vec().unwrap();
    let decoded = decode(&bytes);
    let order = "core corestream coremodules coreinstances corestack corestack memory global data \
                 corestream.index";
    assert_eq!(decoded.sections.join(" "), order);
    assert_eq!(decoded.name, dump.name);
    assert_eq!(decoded.modules, ["a.wasm", "<anonymous-module-1>"]);
    assert_eq!(decoded.instances[0].memories, [0, 1, 2, 3]);
    assert_eq!(decoded.instances[1].module_index, u32::MAX);
    assert_eq!(decoded.instances[1].memories, [u32::MAX, 1]);
    assert_eq!(decoded.instances[1].globals, [u32::MAX]);
    let globals: Vec<_> = dump.globals.iter().map(|g| (g.mutable, g.value)).collect();
    assert_eq!(decoded.globals, globals);
    for (found, memory) in decoded.memories.iter().zip(&dump.memories) {
        let ty = memory.ty;
        assert_eq!((found.initial, found.maximum), (ty.minimum, ty.maximum));
        assert_eq!((found.memory64, found.shared), (ty.memory64, ty.shared));
        assert_eq!(found.page_size_log2, (ty.page_size == 1).then_some(0));
    }
    let first = DecodedFrame {
        instance: 1,
        function: 7,
        offset: u32::MAX,
        locals: locals.into(),
        stack: stack.into(),
    };
    assert_eq!(decoded.threads[0].1[0], first);
    assert_eq!(decoded.threads[0].1[1].instance, u32::MAX);
    assert_eq!(decoded.threads[1], ("idle".into(), vec![]));
}

#[test]
fn keeps_the_memories_of_the_innermost_frames() {
    let mut dump = CoreDump::new("guest");
    let module = dump.add_module("m");
    let bytes: Vec<u8> = (0..150).collect();
    let memories: Vec<_> = bytes
        .chunks(1)
        .map(|b| dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(b))))
        .collect();
    let instances: Vec<_> = memories
        .iter()
        .map(|m| dump.add_instance(Instance::new(module).with_memories([*m])))
        .collect();
    let frames = |range: std::ops::Range<usize>| {
        instances[range].iter().map(|i| Frame::new(*i, 0, 0)).collect::<Vec<_>>()
    };
    dump.add_thread(Thread::new("a").with_frames(frames(130..150)));
    dump.add_thread(Thread::new("b").with_frames(frames(120..121)));
    let plan = Dumper::new().plan(&dump).unwrap();
    // The memories of frames come first. The others fill the rest.
    let kept: Vec<usize> = (0..79).chain([120]).chain(130..150).collect();
    assert_eq!(kept.len(), MAX_MEMORIES);
    let missing =
        |s: &Shortfall| matches!(s, Shortfall::Memory(m) if !kept.contains(&(m.0 as usize)));
    assert_eq!(plan.shortfalls().len(), 50);
    assert!(plan.shortfalls().iter().all(missing));
    let message = "memory 79 is omitted: a dump has at most 100 memories";
    assert_eq!(plan.shortfalls()[0].to_string(), message);

    let dumped = plan.to_vec().unwrap();
    let decoded = decode(&dumped);
    assert_eq!(decoded.memories.len(), MAX_MEMORIES);
    assert_eq!(decoded.threads[0].1.len(), 20);
    for (old, instance) in decoded.instances.iter().enumerate() {
        let new = kept.iter().position(|kept| *kept == old);
        let expected = new.map_or(u32::MAX, |new| u32::try_from(new).unwrap());
        assert_eq!(instance.memories, [expected]);
        if let Some(new) = new {
            assert_eq!(decoded.contents(new, 1), [bytes[old]]);
        }
    }
}

/// With more than 100 memories, the indices of the guest and of the dump differ. A plan uses those of the guest, except
/// in its segments, which use those of the dump.
#[test]
fn names_memories_by_their_index_in_the_guest() {
    let bytes: Vec<_> = (0..150).map(|i| [i, i, i]).collect();
    let mut dump = CoreDump::new("guest");
    for (i, bytes) in bytes.iter().enumerate() {
        let image = MemoryImage::from_slice(bytes);
        let image = if i == 130 { image.mark_changing() } else { image };
        let memory = Memory::new(MemoryType::wasm32(1), image);
        dump.add_memory(if i == 120 { memory.without(1..2) } else { memory });
    }
    let module = dump.add_module("m");
    let memories = [120, 130].map(MemoryIndex);
    let instance = dump.add_instance(Instance::new(module).with_memories(memories));
    dump.add_thread(Thread::new("main").with_frames([Frame::new(instance, 0, 0)]));
    let plan = Dumper::new().plan(&dump).unwrap();
    let kept: Vec<_> = (0..98).chain([120, 130]).map(MemoryIndex).collect();
    assert!(plan.memories().eq(kept.iter().copied()));
    let excluded = plan.excluded().map(|(memory, ranges)| (memory, ranges.as_slice()));
    assert_eq!(excluded.collect::<Vec<_>>(), [(MemoryIndex(120), &[1..=1][..])]);
    assert!(plan.changes().eq([(MemoryIndex(130), Change::Assumed)]));
    for segment in plan.segments() {
        let index = kept[segment.memory.0 as usize];
        let address = usize::try_from(segment.address).unwrap();
        let data = &bytes[index.0 as usize][address..][..segment.len as usize];
        assert!(data.iter().all(|byte| u32::from(*byte) == index.0), "{segment:?}");
    }

    // The dump uses its own indices.
    let dumped = plan.to_vec().unwrap();
    let read = CoreDumpFile::from_slice(&dumped).unwrap();
    assert!(read.memory(MemoryIndex(98)).unwrap().unknown().eq([1..=1]));
    assert!(read.memory(MemoryIndex(99)).unwrap().coverage().changing);
    let memories = [98, 99].map(|index| Some(MemoryIndex(index)));
    assert_eq!(read.instances().next().unwrap().unwrap().memories, memories);
}

#[test]
fn truncates_long_names_between_characters() {
    let name = "\u{e9}".repeat(MAX_NAME_BYTES / 2 + 1);
    let mut dump = CoreDump::new("x".to_string() + &name);
    dump.add_module(name.clone());
    dump.add_thread(Thread::new(name));
    let plan = Dumper::new().plan(&dump).unwrap();
    assert_eq!(plan.shortfalls().len(), 3);
    let message = "the name of module 0 has 100002 bytes and is shortened: a dump can hold 100000";
    assert_eq!(plan.shortfalls()[1].to_string(), message);
    let bytes = plan.to_vec().unwrap();
    let decoded = decode(&bytes);
    assert_eq!(decoded.name.len(), MAX_NAME_BYTES - 1);
    assert_eq!(decoded.modules[0].len(), MAX_NAME_BYTES);
    assert_eq!(decoded.threads[0].0.len(), MAX_NAME_BYTES);
}

#[test]
fn displays_a_core_dump() {
    let mut dump = CoreDump::new("bad\n\u{1b}[31mname");
    let ty = MemoryType::wasm64(2).with_maximum(3).with_shared();
    let memory = dump.add_memory(Memory::new(ty, image(5)));
    let global = dump.add_global(Global::mutable(GlobalValue::F64(1.5_f64.to_bits())));
    let module = dump.add_module(Module::anonymous());
    let instance = Instance::new(module).with_memories([memory]).with_globals([Some(global), None]);
    let instance = dump.add_instance(instance);
    let frame = Frame::new(instance, 3, 17).with_stack([Value::I64(-2)]);
    dump.add_thread(Thread::new("main").with_frames([frame, Frame::new(None, 1, 0)]));
    let expected = r"core dump of bad\n\u{1b}[31mname
modules:
  0: <anonymous-module-0>
instances:
  0: module 0, memories 0, globals 0, ?
memories:
  0: 2 pages, at most 3, memory64, shared, an image of 5 bytes
globals:
  0: mutable f64:1.5
thread main:
  0: <anonymous-module-0> function 3 at 0x11 (stack: i64:-2)
  1: <unknown module> function 1 at 0x0
";
    assert_eq!(dump.to_string(), expected);
    assert!(format!("{dump:?}").len() < 200);
}
