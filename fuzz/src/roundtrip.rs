//! Any model and memories: wasmparser's validator accepts the dump, and its reader returns what
//! went in.

use arbitrary::{Arbitrary, Unstructured};
use corestream::{
    CoreDump, Dumper, Frame, Global, GlobalIndex, GlobalValue, Instance, InstanceIndex, Memory,
    MemoryImage, MemoryIndex, MemoryType, ModuleIndex, RefType, Thread, Value,
};

use crate::common::{DecodedFrame, decode};

#[derive(Arbitrary, Debug)]
pub struct Input {
    name: String,
    modules: Vec<Option<String>>,
    memories: Vec<(bool, Option<u8>, Vec<u8>)>,
    globals: Vec<(bool, AnyGlobal)>,
    instances: Vec<AnyInstance>,
    threads: Vec<(String, Vec<AnyFrame>)>,
    /// Bytes that the output takes at once.
    step: u8,
}

/// Module, memories and globals.
type AnyInstance = (Option<u8>, Vec<Option<u8>>, Vec<Option<u8>>);

#[derive(Arbitrary, Debug)]
enum AnyGlobal {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
    V128(u128),
    Ref(u8),
}

#[derive(Arbitrary, Debug)]
struct AnyFrame {
    instance: Option<u8>,
    function: u32,
    offset: u32,
    locals: Vec<AnyValue>,
    stack: Vec<AnyValue>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum AnyValue {
    Missing,
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
}

impl AnyGlobal {
    fn value(&self) -> GlobalValue {
        match *self {
            Self::I32(x) => GlobalValue::I32(x),
            Self::I64(x) => GlobalValue::I64(x),
            Self::F32(x) => GlobalValue::F32(x),
            Self::F64(x) => GlobalValue::F64(x),
            Self::V128(x) => GlobalValue::V128(x),
            Self::Ref(i) => GlobalValue::Ref(RefType::ALL[usize::from(i) % RefType::ALL.len()]),
        }
    }
}

fn values(list: &[AnyValue]) -> Vec<Value> {
    let value = |value: &AnyValue| match *value {
        AnyValue::Missing => Value::Missing,
        AnyValue::I32(x) => Value::I32(x),
        AnyValue::I64(x) => Value::I64(x),
        AnyValue::F32(x) => Value::F32(x),
        AnyValue::F64(x) => Value::F64(x),
    };
    list.iter().map(value).collect()
}

/// An index below `count`, if there is any.
fn index(index: Option<u8>, count: usize) -> Option<u32> {
    let count = u32::try_from(count).unwrap();
    index.and_then(|i| u32::from(i).checked_rem(count))
}

/// An output that takes a few bytes at once.
struct Slow {
    bytes: Vec<u8>,
    step: usize,
}

impl std::io::Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = bytes.len().min(self.step);
        self.bytes.extend(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs the check on the bytes of a fuzzer.
pub fn run(bytes: &[u8]) {
    if let Ok(mut input) = Input::arbitrary(&mut Unstructured::new(bytes)) {
        // The limits of the format are another test's.
        input.memories.truncate(100);
        check(&input);
    }
}

fn model(input: &Input) -> CoreDump<'_> {
    let mut dump = CoreDump::new(input.name.as_str());
    for name in &input.modules {
        match name {
            Some(name) => dump.add_module(name.as_str()),
            None => dump.add_anonymous_module(),
        };
    }
    for (memory64, more, image) in &input.memories {
        let pages = (image.len() as u64).div_ceil(65_536) + u64::from(more.unwrap_or(0));
        let ty = MemoryType { memory64: *memory64, ..MemoryType::wasm32(pages) };
        let ty = if more.is_some() { ty.with_maximum(pages + 1).with_shared() } else { ty };
        dump.add_memory(Memory::new(ty, MemoryImage::from_slice(image)));
    }
    for (mutable, global) in &input.globals {
        dump.add_global(Global { mutable: *mutable, value: global.value() });
    }
    for (module, memories, globals) in &input.instances {
        let memory = |m: &Option<u8>| index(*m, input.memories.len()).map(MemoryIndex);
        let global = |g: &Option<u8>| index(*g, input.globals.len()).map(GlobalIndex);
        dump.add_instance(Instance {
            module: index(*module, input.modules.len()).map(ModuleIndex),
            memories: memories.iter().map(memory).collect(),
            globals: globals.iter().map(global).collect(),
        });
    }
    for (name, frames) in &input.threads {
        let frame = |f: &AnyFrame| {
            let instance = index(f.instance, input.instances.len()).map(InstanceIndex);
            Frame::new(instance, f.function, f.offset)
                .with_locals(values(&f.locals))
                .with_stack(values(&f.stack))
        };
        dump.add_thread(Thread::new(name.as_str()).with_frames(frames.iter().map(frame)));
    }
    dump
}

fn check(input: &Input) {
    let dump = model(input);
    let _ = format!("{dump} {dump:?}");
    let plan = Dumper::new().threads(1).plan(&dump).unwrap();
    assert_eq!(plan.shortfalls(), []);
    let mut output = Slow { bytes: Vec::new(), step: usize::from(input.step) + 1 };
    plan.write_to(&mut output).unwrap();
    assert_eq!(output.bytes.len() as u64, plan.len());
    assert!(output.bytes == plan.to_vec().unwrap());

    let decoded = decode(&output.bytes);
    assert_eq!(decoded.name, dump.name);
    let modules: Vec<_> =
        dump.modules.iter().enumerate().map(|(i, m)| m.name_or_anonymous(i)).collect();
    assert_eq!(decoded.modules, modules);
    let unknown = u32::MAX;
    assert_eq!(decoded.instances.len(), dump.instances.len());
    for (found, expected) in decoded.instances.iter().zip(&dump.instances) {
        assert_eq!(found.module_index, expected.module.map_or(unknown, |m| m.0));
        let memories = expected.memories.iter().map(|m| m.map_or(unknown, |m| m.0));
        assert!(found.memories.iter().copied().eq(memories));
        let globals = expected.globals.iter().map(|g| g.map_or(unknown, |g| g.0));
        assert!(found.globals.iter().copied().eq(globals));
    }
    assert_eq!(decoded.threads.len(), dump.threads.len());
    for ((name, frames), expected) in decoded.threads.iter().zip(&dump.threads) {
        assert_eq!(name, &expected.name);
        let expected = expected.frames.iter().map(|frame| DecodedFrame {
            instance: frame.instance.map_or(unknown, |i| i.0),
            function: frame.function,
            offset: frame.offset,
            locals: frame.locals.clone(),
            stack: frame.stack.clone(),
        });
        assert_eq!(frames, &expected.collect::<Vec<_>>());
    }
    assert_eq!(decoded.globals.len(), dump.globals.len());
    for (found, expected) in decoded.globals.iter().zip(&dump.globals) {
        assert_eq!(*found, (expected.mutable, expected.value));
    }
    assert_eq!(decoded.memories.len(), dump.memories.len());
    for (i, (found, expected)) in decoded.memories.iter().zip(&dump.memories).enumerate() {
        assert_eq!(found.initial, expected.ty.minimum);
        assert_eq!(found.maximum, expected.ty.maximum);
        assert_eq!((found.memory64, found.shared), (expected.ty.memory64, expected.ty.shared));
        let image = expected.image.as_slice().unwrap();
        assert!(decoded.contents(i, image.len()) == image, "memory {i}");
    }
}
