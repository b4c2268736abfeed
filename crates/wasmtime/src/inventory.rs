//! The inventory of a store: its modules, instances, memories and globals, each listed once.
//!
//! A dump needs every item once, and for each instance the items at each index. Wasmtime lists the items of a store only
//! after a trap or with guest debugging. A trap's list has no shared memories, and Wasmtime never exposes the imports of
//! an instance.
//!
//! The inventory therefore collects items by identity: from Wasmtime's lists if there are any, and otherwise from the
//! exports and definitions of the instances that the embedder added. An item gets its index in the dump when it is first
//! seen, and is recognized by its identity afterwards. A shared memory has no identity in the store and is recognized by
//! the address of its first byte, which never changes.
//!
//! The index space of each instance is resolved last, when all items are listed ([`index_space`](crate::index_space)).
//! The invariant: an index is either certain or unknown. A wrong guess would show the reader a memory of another
//! instance.

use std::collections::HashMap;

use corestream::InstanceIndex;
use wasmtime::{
    Extern, ExternType, Global, GlobalType, ImportType, Instance, Linker, Memory, MemoryType,
    Module, Mutability, SharedMemory, StoreContextMut, ValType, WasmCoreDump,
};

use super::component::ComponentInstances;
use super::index_space::{self, Slot, instance_indices};
use super::note::Note;

/// A memory of a store: an ordinary or a shared one.
#[derive(Clone)]
pub(super) enum AnyMemory {
    Unshared(Memory),
    Shared(SharedMemory),
}

/// The items that the embedder declared for imports.
pub(super) struct ImportHints<'w, T: 'static> {
    pub(super) defined: HashMap<(String, String), Extern>,
    pub(super) instances: Vec<(String, Instance)>,
    pub(super) linker: Option<&'w Linker<T>>,
}

impl<T> ImportHints<'_, T> {
    fn find(&self, store: &mut StoreContextMut<'_, T>, import: &ImportType<'_>) -> Option<Extern> {
        let (module, name) = (import.module(), import.name());
        if let Some(defined) = self.defined.get(&(module.to_owned(), name.to_owned())) {
            return Some(defined.clone());
        }
        if let Some((_, instance)) = self.instances.iter().find(|(named, _)| named == module) {
            return instance.get_export(store, name);
        }
        self.linker?.get_by_import(store, import)
    }
}

/// The items of a store, in the order of the dump.
#[derive(Default)]
pub(super) struct Inventory {
    pub(super) modules: Vec<Module>,
    pub(super) instances: Vec<Instance>,
    pub(super) memories: Vec<AnyMemory>,
    pub(super) globals: Vec<Global>,
    /// The instances of components whose bytes are known.
    pub(super) components: ComponentInstances,
    module_ids: HashMap<u64, Option<u32>>,
    memory_ids: HashMap<u64, Option<u32>>,
    /// The shared memories, by the address of their first byte, which never changes.
    shared_ids: HashMap<usize, Option<u32>>,
    global_ids: HashMap<u64, Option<u32>>,
    /// Whether all instances of the store are listed.
    pub(super) all_instances: bool,
    /// Whether all globals and all unshared memories are listed.
    complete: bool,
}

/// The index spaces of an instance, as indices in the dump.
pub(super) struct Spaces {
    pub(super) instance: Instance,
    pub(super) memories: Vec<Option<u32>>,
    pub(super) globals: Vec<Option<u32>>,
}

/// The exports of an instance, as indices in the dump, with the types that its module declares.
struct Exports {
    memories: Vec<(u32, MemoryType)>,
    globals: Vec<(u32, GlobalType)>,
}

/// Appends an item to a list and returns its index, or `None` if the index does not fit in 32 bits. Planning rejects
/// such a dump.
fn add<T>(list: &mut Vec<T>, item: T) -> Option<u32> {
    let index = u32::try_from(list.len()).ok();
    list.push(item);
    index
}

/// Returns all indices of a list, or `None` if they do not fit in 32 bits.
fn indices<T>(list: &[T]) -> Option<Vec<u32>> {
    Some((0..u32::try_from(list.len()).ok()?).collect())
}

impl Inventory {
    /// Takes the items that Wasmtime lists for a trap, in the same order.
    pub(super) fn of_core_dump(core_dump: &WasmCoreDump) -> Self {
        let mut inventory = Self { all_instances: true, complete: true, ..Self::default() };
        for module in core_dump.modules() {
            inventory.module(module);
        }
        inventory.instances = core_dump.instances().to_vec();
        for memory in core_dump.memories() {
            inventory.memory(*memory);
        }
        for global in core_dump.globals() {
            inventory.global(*global);
        }
        inventory
    }

    /// Takes the given instances and the items reachable from them. `all` says whether the store has no other
    /// instances.
    pub(super) fn of_instances<T>(
        store: &mut StoreContextMut<'_, T>,
        instances: Vec<Instance>,
        all: bool,
    ) -> Self {
        let mut inventory = Self { all_instances: all, ..Self::default() };
        for instance in &instances {
            inventory.module(instance.module(&mut *store));
        }
        inventory.instances = instances;
        inventory
    }

    pub(super) fn module(&mut self, module: &Module) -> Option<u32> {
        let id = module.debug_index_in_engine();
        *self.module_ids.entry(id).or_insert_with(|| add(&mut self.modules, module.clone()))
    }

    fn memory(&mut self, memory: Memory) -> Option<u32> {
        *self
            .memory_ids
            .entry(memory.debug_index_in_store())
            .or_insert_with(|| add(&mut self.memories, AnyMemory::Unshared(memory)))
    }

    fn shared_memory(&mut self, memory: SharedMemory) -> Option<u32> {
        *self
            .shared_ids
            .entry(memory.data().as_ptr().addr())
            .or_insert_with(|| add(&mut self.memories, AnyMemory::Shared(memory)))
    }

    fn global(&mut self, global: Global) -> Option<u32> {
        let id = global.debug_index_in_store();
        *self.global_ids.entry(id).or_insert_with(|| add(&mut self.globals, global))
    }

    fn any_memory(&mut self, item: Extern) -> Option<u32> {
        match item {
            Extern::Memory(memory) => self.memory(memory),
            Extern::SharedMemory(memory) => self.shared_memory(memory),
            _ => None,
        }
    }

    /// Resolves the index spaces of all instances.
    pub(super) fn spaces<T>(
        &mut self,
        store: &mut StoreContextMut<'_, T>,
        hints: &ImportHints<'_, T>,
        notes: &mut Vec<Note>,
    ) -> Vec<Spaces> {
        // Lists all exports before resolving any index space.
        let instances = self.instances.clone();
        let exported: Vec<_> = instances
            .into_iter()
            .map(|instance| (instance, self.exports(store, instance)))
            .collect();
        instance_indices()
            .zip(exported)
            .map(|(index, (instance, exports))| Spaces {
                instance,
                memories: self.memory_space(
                    store,
                    hints,
                    notes,
                    (index, instance),
                    &exports.memories,
                ),
                globals: self.global_space(
                    store,
                    hints,
                    notes,
                    (index, instance),
                    &exports.globals,
                ),
            })
            .collect()
    }

    /// Lists the memories and globals that an instance exports.
    fn exports<T>(&mut self, store: &mut StoreContextMut<'_, T>, instance: Instance) -> Exports {
        let module = instance.module(&mut *store).clone();
        let (mut memories, mut globals) = (Vec::new(), Vec::new());
        for export in module.exports() {
            let item = |store| instance.get_export(store, export.name());
            match export.ty() {
                ExternType::Memory(ty) => {
                    let item = item(&mut *store).and_then(|item| self.any_memory(item));
                    memories.extend(item.map(|item| (item, ty)));
                }
                ExternType::Global(ty) => {
                    let item = item(&mut *store).and_then(Extern::into_global);
                    let item = item.and_then(|item| self.global(item));
                    globals.extend(item.map(|item| (item, ty)));
                }
                _ => {}
            }
        }
        Exports { memories, globals }
    }

    fn memory_space<T>(
        &mut self,
        store: &mut StoreContextMut<'_, T>,
        hints: &ImportHints<'_, T>,
        notes: &mut Vec<Note>,
        (at, instance): (InstanceIndex, Instance),
        exported: &[(u32, MemoryType)],
    ) -> Vec<Option<u32>> {
        let module = instance.module(&mut *store).clone();
        let exact = |store: &mut StoreContextMut<'_, T>, slots: &[Slot<MemoryType>]| {
            let index = u32::try_from(slots.len()).ok()?;
            let unshared = instance.debug_memory(&mut *store, index).map(Extern::Memory);
            unshared.or_else(|| {
                instance.debug_shared_memory(&mut *store, index).map(Extern::SharedMemory)
            })
        };
        let mut slots = Vec::new();
        for import in module.imports() {
            let ExternType::Memory(ty) = import.ty() else { continue };
            if let Some(known) = exact(store, &slots).and_then(|item| self.any_memory(item)) {
                slots.push(Slot::Known(known));
                continue;
            }
            let Some(hint) = self.import(store, hints, instance, &import) else {
                slots.push(Slot::Import(ty));
                continue;
            };
            slots.push(match self.any_memory(hint) {
                Some(item) if fits_memory(store, &self.memories[item as usize], &ty) => {
                    Slot::Known(item)
                }
                _ => {
                    notes.push(Note::import(&import));
                    Slot::Import(ty)
                }
            });
        }
        for defined in 0..module.resources_required().num_memories {
            let item = exact(store, &slots).and_then(|item| self.any_memory(item));
            let id = u64::from(instance.debug_index_in_store()) << 32 | u64::from(defined);
            let item = item.or_else(|| self.memory_ids.get(&id).copied().flatten());
            slots.push(item.map_or(Slot::Defined, Slot::Known));
        }
        let complete = self.complete;
        let all = |slot: &Slot<MemoryType>| match slot {
            Slot::Import(ty) if complete && !ty.is_shared() => indices(&self.memories),
            _ => None,
        };
        // An unshared memory that the instance defines is known by its identity.
        let shared = |item: u32| matches!(self.memories[item as usize], AnyMemory::Shared(_));
        let is = |slot: &Slot<MemoryType>, item: u32, declared: &MemoryType| match slot {
            Slot::Import(ty) => ty == declared,
            Slot::Defined => shared(item),
            _ => false,
        };
        let fits = |slot: &Slot<MemoryType>, item: u32| match slot {
            Slot::Import(ty) => fits_memory(store, &self.memories[item as usize], ty),
            _ => false,
        };
        let space = index_space::resolve(slots, exported, all, is, fits);
        // The imported memories come first.
        let is_memory = |import: &ImportType<'_>| matches!(import.ty(), ExternType::Memory(_));
        let imports = module.imports().filter(is_memory).count();
        for ((index, item), position) in (0..=u32::MAX).zip(&space).zip(0..) {
            if item.is_none() {
                let imported = position < imports;
                notes.push(Note::Memory { instance: at, index, imported });
            }
        }
        space
    }

    fn global_space<T>(
        &mut self,
        store: &mut StoreContextMut<'_, T>,
        hints: &ImportHints<'_, T>,
        notes: &mut Vec<Note>,
        (at, instance): (InstanceIndex, Instance),
        exported: &[(u32, GlobalType)],
    ) -> Vec<Option<u32>> {
        let module = instance.module(&mut *store).clone();
        let exact = |store: &mut StoreContextMut<'_, T>, slots: &[Slot<GlobalType>]| {
            instance.debug_global(&mut *store, u32::try_from(slots.len()).ok()?)
        };
        let mut slots = Vec::new();
        for import in module.imports() {
            let ExternType::Global(ty) = import.ty() else { continue };
            if is_of_component(&import) {
                slots.push(Slot::Other);
                continue;
            }
            if let Some(global) = exact(store, &slots) {
                slots.push(self.global_slot(global));
                continue;
            }
            let Some(hint) = self.import(store, hints, instance, &import) else {
                slots.push(Slot::Import(ty));
                continue;
            };
            slots.push(match hint.into_global() {
                Some(global) if fits_global(&global.ty(&mut *store), &ty) => {
                    self.global_slot(global)
                }
                _ => {
                    notes.push(Note::import(&import));
                    Slot::Import(ty)
                }
            });
        }
        while let Some(global) = exact(store, &slots) {
            slots.push(self.global_slot(global));
        }
        self.push_defined_globals(&module, instance, &mut slots);
        let all = |slot: &Slot<GlobalType>| match slot {
            Slot::Import(_) if self.complete => indices(&self.globals),
            _ => None,
        };
        let types: Vec<_> = self.globals.iter().map(|global| global.ty(&mut *store)).collect();
        let is = |slot: &Slot<GlobalType>, _, declared: &GlobalType| match slot {
            Slot::Import(ty) => fits_global(declared, ty) && fits_global(ty, declared),
            _ => false,
        };
        let fits = |slot: &Slot<GlobalType>, item: u32| match slot {
            Slot::Import(ty) => fits_global(&types[item as usize], ty),
            _ => false,
        };
        let space = index_space::resolve(slots, exported, all, is, fits);
        let count = space.iter().filter(|item| item.is_none()).count();
        if count > 0 {
            notes.push(Note::Globals { instance: at, count });
        }
        space
    }

    /// Returns the item that an instance imports, if the component or the embedder tells.
    fn import<T>(
        &self,
        store: &mut StoreContextMut<'_, T>,
        hints: &ImportHints<'_, T>,
        instance: Instance,
        import: &ImportType<'_>,
    ) -> Option<Extern> {
        let of_component =
            self.components.import(store, instance, (import.module(), import.name()));
        of_component.or_else(|| hints.find(store, import))
    }

    fn global_slot(&mut self, global: Global) -> Slot<GlobalType> {
        self.global(global).map_or(Slot::Other, Slot::Known)
    }

    /// Adds the globals that `instance` defines, as far as Wasmtime lists them.
    fn push_defined_globals(
        &self,
        module: &Module,
        instance: Instance,
        slots: &mut Vec<Slot<GlobalType>>,
    ) {
        let imported =
            module.imports().filter(|import| matches!(import.ty(), ExternType::Global(_))).count();
        let first = u64::from(instance.debug_index_in_store()) << 32;
        for (id, item) in &self.global_ids {
            let Some(defined) = id.checked_sub(first).filter(|d| *d < u64::from(u32::MAX)) else {
                continue;
            };
            let defined = usize::try_from(defined).ok();
            let len = defined.and_then(|defined| imported.checked_add(defined)?.checked_add(1));
            let (Some(len), Some(item)) = (len, item) else { continue };
            if slots.len() < len {
                slots.resize(len, Slot::Defined);
            }
            slots[len - 1] = Slot::Known(*item);
        }
    }
}

impl Note {
    fn import(import: &ImportType<'_>) -> Self {
        Self::Import { module: import.module().into(), name: import.name().into() }
    }
}

/// Returns whether a memory can satisfy an import of this type. The memory may have grown since.
fn fits_memory<T>(store: &StoreContextMut<'_, T>, memory: &AnyMemory, import: &MemoryType) -> bool {
    let (ty, size) = match memory {
        AnyMemory::Unshared(memory) => (memory.ty(store), memory.size(store)),
        AnyMemory::Shared(memory) => (memory.ty(), memory.size()),
    };
    let maximum = match (import.maximum(), ty.maximum()) {
        (Some(import), Some(maximum)) => maximum <= import,
        (Some(_), None) => false,
        (None, _) => true,
    };
    let same = |ty: &MemoryType| (ty.is_64(), ty.is_shared(), ty.page_size());
    same(&ty) == same(import) && size >= import.minimum() && maximum
}

/// Returns whether a global of type `ty` can satisfy an import of this type.
fn fits_global(ty: &GlobalType, import: &GlobalType) -> bool {
    let matches = |a: &ValType, b: &ValType| a.matches(b);
    let (content, wanted) = (ty.content(), import.content());
    match (ty.mutability(), import.mutability()) {
        (Mutability::Const, Mutability::Const) => matches(content, wanted),
        (Mutability::Var, Mutability::Var) => matches(content, wanted) && matches(wanted, content),
        _ => false,
    }
}

/// Returns whether this import belongs to one of Wasmtime's component adapters.
///
/// Such an import is a flag of the component. No list contains it, and its identity can equal that of a global.
fn is_of_component(import: &ImportType<'_>) -> bool {
    match import.module() {
        "flags" => import.name().starts_with("instance"),
        "instance" => import.name() == "task_may_block",
        _ => false,
    }
}
