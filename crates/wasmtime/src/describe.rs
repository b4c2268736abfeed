//! Conversion of a store's inventory and a guest's frames to the model of corestream.

use std::collections::HashMap;

use wasmtime::{AsContext, AsContextMut, GlobalType, HeapType, Mutability, Val, ValType};

use super::identity::{Identities, Unidentified};
use super::index_space::instance_indices;
use super::inventory::{AnyMemory, ImportHints, Inventory};
use super::note::Note;
use super::shared::SharedHandle;
use super::wasm_frame::WasmFrame;
use corestream::{
    CoreDump, Frame, Global, GlobalIndex, GlobalValue, Instance, InstanceIndex, Memory,
    MemoryImage, MemoryIndex, MemoryType, Module, ModuleIndex, ModuleKey, RefType, Thread,
    UnixTime,
};

/// The code offset that means "unknown" in a dump.
const UNKNOWN_OFFSET: u32 = 0;

/// Describes a guest, except for its name, and returns the modules without identity. The dump borrows the memories of
/// `store`.
pub(super) fn describe<'a, C: AsContextMut>(
    store: &'a mut C,
    mut inventory: Inventory,
    hints: &ImportHints<'_, C::Data>,
    identities: &Identities,
    thread: &str,
    frames: Vec<WasmFrame>,
    notes: &mut Vec<Note>,
) -> (CoreDump<'a>, Unidentified) {
    let mut dump = CoreDump::new("");
    dump.captured_at = UnixTime::now();
    for frame in &frames {
        inventory.module(&frame.module);
    }
    let spaces = inventory.spaces(&mut store.as_context_mut(), hints, notes);
    for spaces in spaces {
        let module = spaces.instance.module(&*store).clone();
        let module = inventory.module(&module).map(ModuleIndex);
        let memories = spaces.memories.into_iter().map(|item| item.map(MemoryIndex));
        let globals = spaces.globals.into_iter().map(|item| item.map(GlobalIndex));
        let instance = Instance::new(module);
        dump.add_instance(instance.with_memories(memories).with_globals(globals));
    }
    for module in &inventory.modules {
        dump.add_module(module.name().map_or_else(Module::anonymous, Module::new));
    }
    let of_component = |module: &wasmtime::Module| inventory.components.has_module(module);
    let unidentified = identities.place(&inventory.modules, of_component, &mut dump);
    let frames = model_frames(&mut inventory, &dump, frames, notes);
    // After the frames, which find their instances by the modules of the store.
    inventory.components.name_modules(&inventory.instances, &mut dump, notes);
    set_keys(store, &inventory, &mut dump);
    dump.add_thread(Thread::new(thread).with_frames(frames));
    // Reading the values of globals needs the store mutably, so it comes before the memories, which borrow the store.
    for item in &inventory.globals {
        let ty = item.ty(&*store);
        let value = global_value(&ty, || item.get(&mut *store));
        dump.add_global(match ty.mutability() {
            Mutability::Var => Global::mutable(value),
            Mutability::Const => Global::constant(value),
        });
    }
    let store: &'a C = store;
    for item in &inventory.memories {
        dump.add_memory(memory(store, item));
    }
    (dump, unidentified)
}

/// Sets the key of each module, by which a merge recognizes it in the dump of another store.
fn set_keys(store: &impl AsContext, inventory: &Inventory, dump: &mut CoreDump<'_>) {
    // The index is unique within the process, not only within the engine.
    let key = |module: &wasmtime::Module| {
        ModuleKey::new::<wasmtime::Module>(module.debug_index_in_engine())
    };
    for (described, module) in dump.modules.iter_mut().zip(&inventory.modules) {
        described.key = Some(key(module));
    }
    // The core instances of a component have modules of their own in the dump.
    for (described, instance) in dump.instances.iter().zip(&inventory.instances) {
        let module = described.module.and_then(|index| dump.modules.get_mut(index.0 as usize));
        if let Some(module) = module {
            module.key = Some(key(instance.module(store)));
        }
    }
}

fn model_frames(
    inventory: &mut Inventory,
    dump: &CoreDump<'_>,
    frames: Vec<WasmFrame>,
    notes: &mut Vec<Note>,
) -> Vec<Frame> {
    // The only instance of each module, or `None` if the module has several. If not all instances are listed, it may
    // have others.
    let mut only: HashMap<ModuleIndex, Option<InstanceIndex>> = HashMap::new();
    let listed = if inventory.all_instances { &dump.instances[..] } else { &[] };
    for (index, instance) in instance_indices().zip(listed) {
        if let Some(module) = instance.module {
            only.entry(module).and_modify(|only| *only = None).or_insert(Some(index));
        }
    }
    let instances = inventory.instances.iter().map(wasmtime::Instance::debug_index_in_store);
    let positions: HashMap<u32, InstanceIndex> = instances.zip(instance_indices()).collect();
    let mut unknown: Vec<(ModuleIndex, usize)> = Vec::new();
    let frames = frames
        .into_iter()
        .map(|frame| {
            let module = inventory.module(&frame.module).map(ModuleIndex);
            let exact = frame
                .instance
                .and_then(|instance| positions.get(&instance.debug_index_in_store()).copied());
            let instance = exact.or_else(|| only.get(&module?).copied().flatten());
            if let (None, Some(module)) = (instance, module) {
                match unknown.iter_mut().find(|(of, _)| *of == module) {
                    Some((_, frames)) => *frames += 1,
                    None => unknown.push((module, 1)),
                }
            }
            Frame::new(instance, frame.function, frame.offset.unwrap_or(UNKNOWN_OFFSET))
                .with_locals(frame.locals)
                .with_stack(frame.stack)
        })
        .collect();
    notes.extend(
        unknown.into_iter().map(|(module, frames)| Note::FrameInstances { module, frames }),
    );
    frames
}

fn memory<'a, C: AsContext>(store: &'a C, item: &AnyMemory) -> Memory<'a> {
    match item {
        AnyMemory::Unshared(memory) => {
            let ty = memory_type(&memory.ty(store), memory.size(store));
            Memory::new(ty, MemoryImage::from_slice(memory.data(store)))
        }
        AnyMemory::Shared(memory) => {
            let image = MemoryImage::from_shared(SharedHandle(memory.clone()));
            let ty = memory.ty();
            // Another thread may grow the memory between the two calls.
            let pages = image.len() / ty.page_size();
            Memory::new(memory_type(&ty, pages), image)
        }
    }
}

/// Returns the type of a memory whose current size is `pages` pages.
fn memory_type(ty: &wasmtime::MemoryType, pages: u64) -> MemoryType {
    let mut of_dump =
        if ty.is_64() { MemoryType::wasm64(pages) } else { MemoryType::wasm32(pages) };
    of_dump.maximum = ty.maximum();
    of_dump.shared = ty.is_shared();
    // Wasmtime has page sizes of 1 byte and 64 KiB. The plan rejects any other size, including 0.
    of_dump.page_size = u32::try_from(ty.page_size()).unwrap_or_default();
    of_dump
}

/// Returns the value of a global. Does not call `get` for a reference, because it cannot return every reference.
fn global_value(ty: &GlobalType, get: impl FnOnce() -> Val) -> GlobalValue {
    if let ValType::Ref(ty) = ty.content() {
        return GlobalValue::Ref(match ty.heap_type().top() {
            HeapType::Func => RefType::Func,
            HeapType::Extern => RefType::Extern,
            HeapType::Exn => RefType::Exn,
            HeapType::Cont => RefType::Cont,
            _ => RefType::Any,
        });
    }
    match get() {
        Val::I32(x) => GlobalValue::I32(x),
        Val::I64(x) => GlobalValue::I64(x),
        Val::F32(bits) => GlobalValue::F32(bits),
        Val::F64(bits) => GlobalValue::F64(bits),
        Val::V128(x) => GlobalValue::V128(x.as_u128()),
        // Unreachable: the type is a number type.
        _ => GlobalValue::Ref(RefType::Any),
    }
}
