//! Sources that lend no bytes: how much of them the reader reads, and sources that fail, change, or misreport their
//! length.

mod amounts;
mod changing;
mod failing;

use crate::{common, writers};
use common::own::{self, Own};
use common::reading::{PAGE, Said, facts, known, small};
use corestream::read::{OpenOptions, ReadAt};
use corestream::*;

/// Returns a guest whose lists have many items.
fn long_lists() -> CoreDump<'static> {
    let mut guest = known();
    for i in 0..300 {
        guest.add_global(Global::constant(GlobalValue::I64(i64::MAX >> (i % 64))));
        let identity = ModuleIdentity::new().with_sha256([u8::try_from(i % 256).unwrap(); 32]);
        let module = guest.add_module(Module::new("long ".repeat(20)).with_identity(identity));
        let instance = guest.add_instance(Instance::new(module).with_globals([GlobalIndex(0)]));
        if i % 30 == 0 {
            let frame = |at| Frame::new(instance, at, at).with_locals([Value::I64(at.into())]);
            guest.add_thread(Thread::new(format!("thread {i}")).with_frames((0..200).map(frame)));
        }
    }
    guest
}

/// Returns a dump whose lists and segments are longer than a single read.
fn long() -> Vec<u8> {
    let mut image = vec![0; 8 * PAGE];
    for (i, part) in (1..).zip(image.chunks_mut(PAGE / 2)) {
        part[..9000].fill(i);
    }
    let mut guest = long_lists();
    guest.add_memory(Memory::new(MemoryType::wasm32(8), MemoryImage::from_slice(&image)));
    Dumper::new().plan(&guest).unwrap().to_vec().unwrap()
}

/// Returns intact dumps, by corestream and by other writers.
fn dumps() -> Vec<(&'static str, Vec<u8>)> {
    let foreign = small();
    let partial = Own {
        flags: 1,
        block_log2: 8,
        excluded: vec![(0, 200, 300), (1, 5000, 6000)],
        changing: vec![1],
    };
    let own = Own::default().dump(&foreign);
    // A rewritten dump has two sections swapped. Their sizes have two bytes.
    let name = |name: &str| own.windows(name.len()).position(|w| w == name.as_bytes()).unwrap();
    let (modules, instances) = (name("coremodules") - 3, name("coreinstances") - 3);
    let end = name("corestack") - 3;
    let (before, rest) = (&own[..own::end_of_core(&own)], &own[end..]);
    let header = &own[own::end_of_core(&own)..modules];
    let (modules, instances) = (&own[modules..instances], &own[instances..end]);
    let rewritten = [before, instances, header, modules, rest].concat();
    vec![
        ("own", own.clone()),
        ("without checksums", Own { block_log2: 0, ..Own::default() }.dump(&foreign)),
        ("partial", partial.dump(&foreign)),
        ("facts", facts()),
        ("long", long()),
        ("rewritten", rewritten),
        ("foreign", foreign),
        ("WasmEdge", writers::wasmedge(b"guest")),
    ]
}

/// Returns damaged dumps, which can only be salvaged.
fn damaged() -> Vec<(&'static str, Vec<u8>)> {
    let own = Own::default().dump(&small());
    let long = long();
    let flipped = |at: usize| {
        let mut flipped = own.clone();
        flipped[at] ^= 0x55;
        flipped
    };
    vec![
        ("truncated", own[..own.len() / 2].to_vec()),
        ("without an end", own[..own.len() - 1].to_vec()),
        ("long, truncated", long[..long.len() / 2].to_vec()),
        ("first byte", flipped(0)),
        ("header", flipped(own::end_of_core(&own) + 20)),
        ("a list", flipped(own.windows(9).position(|w| w == b"corestack").unwrap() + 9)),
        ("index", flipped(own::index_of(&own) + 30)),
    ]
}

fn open(source: &dyn ReadAt, salvage: bool) -> Result<CoreDumpFile<'_>> {
    OpenOptions::new().salvage(salvage).threads(2).open_source(source)
}

/// Returns the text of a result.
fn shown<T>(result: Result<T>, show: impl Fn(T) -> String) -> String {
    match result {
        Ok(value) => show(value),
        Err(error) => format!("{error:?}"),
    }
}

/// Returns everything that a dump contains, as text.
fn message(dump: CoreDumpFile<'_>) -> String {
    format!("{:?}", Said::by(&dump))
}
