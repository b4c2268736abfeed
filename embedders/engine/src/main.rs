//! A custom engine that reserves 6 GiB for a memory64, of which its guest touched three places. The cost of the dump
//! depends on the touched memory only.

use std::error::Error;

use corestream::read::{Verdict, Verifier};
use corestream::{
    CoreDump, CoreDumpFile, Dumper, Frame, Global, GlobalValue, Instance, Memory, MemoryImage,
    MemoryIndex, MemoryType, Thread, Value,
};
use memmap2::MmapOptions;

const PAGE: usize = 65_536;
const LEN: usize = 6 << 30;
/// The addresses and values that the guest wrote.
const TOUCHED: [(usize, &[u8]); 3] =
    [(0, b"first"), ((4 << 30) - 2, b"over 4 GiB"), (LEN - 4, b"last")];

fn main() -> Result<(), Box<dyn Error>> {
    let mut memory = MmapOptions::new().len(LEN).no_reserve_swap().map_anon()?;
    for (at, bytes) in TOUCHED {
        memory[at..at + bytes.len()].copy_from_slice(bytes);
    }

    let mut dump = CoreDump::new("guest.wasm");
    let ty = MemoryType::wasm64((LEN / PAGE) as u64);
    let memory = dump.add_memory(Memory::new(ty, MemoryImage::from_slice(&memory)));
    let stack_pointer = dump.add_global(Global::mutable(GlobalValue::I64(1 << 20)));
    let module = dump.add_module("guest.wasm");
    let instance = Instance::new(module).with_memories([memory]).with_globals([stack_pointer]);
    let instance = dump.add_instance(instance);
    let frame = Frame::new(instance, 7, 42).with_locals([Value::I64(-1), Value::Missing]);
    dump.add_thread(Thread::new("main").with_frames([frame]));

    let plan = Dumper::new().plan(&dump)?;
    // Untouched pages are found without reading them.
    assert!(plan.stats().extent_bytes < 1 << 20, "{:?}", plan.stats());
    assert!(plan.len() < 4096, "{} bytes", plan.len());
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("guest.core");
    plan.write_file(&path)?;

    let Verdict::Intact(whole) = Verifier::new().threads(2).verify_file(&path)? else {
        return Err("it is damaged".into());
    };
    assert_eq!((whole.bytes, whole.segments), (plan.len(), 3));
    let read = CoreDumpFile::open(&path)?;
    let memory = read.memory(MemoryIndex(0))?;
    assert_eq!(memory.ty(), ty);
    for (at, bytes) in TOUCHED {
        let mut buffer = vec![0; bytes.len()];
        memory.read(at as u64, &mut buffer)?;
        assert_eq!(buffer, bytes);
    }
    let thread = read.thread(0)?;
    let frame = thread.frames().next().ok_or("no frame")??;
    assert_eq!((frame.function, frame.offset), (7, 42));
    Ok(())
}
