//! The guest in wasmer: a stopped instance as a `CoreDump`, which borrows its memories.

use std::path::Path;

use corestream::{
    CoreDump, Dumper, Frame, Global, GlobalValue, Instance, Memory, MemoryImage, MemoryType,
    Module, RefType, Thread, UnixTime,
};
use corestream_wasmtime::module_identity;
use wasmer::sys::Singlepass;
use wasmer::{Function, RuntimeError, Store, Type, Value, imports};

use super::Result;
use super::wasm::{self, Exposed};

/// Runs the export `start` of a guest until it traps, and dumps it to `path`.
pub fn dump(name: &str, wasm: &[u8], start: &str, path: &Path) -> Result<()> {
    let exposed = wasm::expose(wasm)?;
    let mut store = Store::new(Singlepass::default());
    let module = wasmer::Module::new(&store, &exposed.wasm)?;
    let log = Function::new_typed(&mut store, |_: i32| {});
    let imports = imports! { "host" => { "log" => log } };
    let instance = wasmer::Instance::new(&mut store, &module, &imports)?;
    let start = instance.exports.get_typed_function::<(), ()>(&store, start)?;
    let error = start.call(&mut store).err().ok_or("the guest did not trap in wasmer")?;

    let mut dump = CoreDump::new(name);
    dump.captured_at = UnixTime::now();
    dump.trap = Some(error.message());
    let described = module.name().map_or_else(Module::anonymous, Module::new);
    let module = dump.add_module(described.with_identity(module_identity(wasm)));
    // Reading a global needs the store mutably, so the globals come before the memories, which borrow the store.
    let mut globals = Vec::new();
    for name in &exposed.globals {
        let global = instance.exports.get_global(name)?;
        let value = global_value(&global.get(&mut store));
        globals.push(dump.add_global(match global.ty(&store).mutability {
            wasmer::Mutability::Var => Global::mutable(value),
            wasmer::Mutability::Const => Global::constant(value),
        }));
    }
    let views = exposed.memories.iter().map(|name| {
        let memory = instance.exports.get_memory(name)?;
        Ok((memory.ty(&store), memory.view(&store)))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let mut memories = Vec::new();
    for (ty, view) in &views {
        let mut described = MemoryType::wasm32(view.size().0.into());
        described.maximum = ty.maximum.map(|pages| pages.0.into());
        if ty.shared {
            return Err("a shared memory needs MemoryImage::from_shared".into());
        }
        // SAFETY: the memory is not shared and its guest has stopped. No code writes to the memory or resizes it while
        // the store, which the view borrows, is borrowed.
        let bytes = unsafe { view.data_unchecked() };
        memories.push(dump.add_memory(Memory::new(described, MemoryImage::from_slice(bytes))));
    }
    let instance = Instance::new(module).with_memories(memories).with_globals(globals);
    let instance = dump.add_instance(instance);
    dump.add_thread(Thread::new("main").with_frames(frames(&error, instance, &exposed)));
    Dumper::new().plan(&dump)?.write_file(path)?;
    Ok(())
}

/// Returns the frames of a trap, from youngest to oldest, as `RuntimeError::trace` has them.
fn frames(
    error: &RuntimeError,
    instance: corestream::InstanceIndex,
    exposed: &Exposed,
) -> Vec<Frame> {
    let frame = |frame: &wasmer::FrameInfo| {
        let function = frame.func_index();
        // An offset of 0 means "unknown".
        let offset = exposed.code_offset(function, frame.module_offset()).unwrap_or(0);
        Frame::new(instance, function, offset)
    };
    error.trace().iter().map(frame).collect()
}

fn global_value(value: &Value) -> GlobalValue {
    match value {
        Value::I32(x) => GlobalValue::I32(*x),
        Value::I64(x) => GlobalValue::I64(*x),
        Value::F32(x) => GlobalValue::F32(x.to_bits()),
        Value::F64(x) => GlobalValue::F64(x.to_bits()),
        Value::V128(x) => GlobalValue::V128(*x),
        reference => GlobalValue::Ref(match reference.ty() {
            Type::FuncRef => RefType::Func,
            Type::ExternRef => RefType::Extern,
            _ => RefType::Exn,
        }),
    }
}
