//! The core instances of components: their names, the identities of their modules, and their imports.
//!
//! # The problem
//! Wasmtime runs a component as core instances, and lists them in a store like those of other modules. Its public API
//! does not tell which core module of the component an instance belongs to, in which nested component it is, or what
//! it imports. Fused adapters are instances of modules that Wasmtime makes itself, and they have no name.
//!
//! # The idea
//! The bytes of the component determine the core instances and their order ([`layout`]). The store has the same
//! instances in the same order, and adapters between them. An instance belongs to a component if the code of its module
//! is in the code of the component.
//!
//! The invariant: the instances have names only if the whole list fits. Each module of the store must have the imports
//! and exports of one module of the component, always the same one. The functions that an adapter exports and the
//! modules that it imports have names that Wasmtime gives them (`wasmtime-environ/src/fact.rs`). If a list does not fit,
//! a note says so, and the dump has what it would have without the component.

mod definitions;
mod layout;

use std::collections::{HashMap, HashSet};

use corestream::{CoreDump, ModuleIdentity};
use wasmtime::component::Component;
use wasmtime::{Extern, Instance, Module, StoreContextMut};

use self::layout::{Layout, StaticModule};
use crate::index_space::instance_indices;
use crate::note::Note;

/// The maximum number of component instances in the name of an adapter.
const MAX_PATHS: usize = 4;

/// A component that the embedder passed.
pub(crate) struct KnownComponent {
    component: Component,
    /// `None` if the bytes cannot be read.
    layout: Option<Layout>,
}

/// The core instances of a store's components, by their identity in the store.
#[derive(Default)]
pub(crate) struct ComponentInstances {
    known: HashMap<u32, Known>,
    /// The components of these instances.
    components: Vec<Component>,
    /// Whether a component does not fit its bytes.
    mismatch: bool,
}

/// A core instance of a component.
struct Known {
    name: String,
    /// The identity of its module, or `None` for an adapter, whose module has no bytes.
    identity: Option<ModuleIdentity>,
    imports: HashMap<(String, String), (Instance, String)>,
}

impl KnownComponent {
    pub(crate) fn new(component: &Component, wasm: &[u8]) -> Self {
        Self { component: component.clone(), layout: Layout::read(wasm) }
    }
}

/// Returns whether a module is part of a component. The code of any other module has a range of its own.
fn is_in(component: &Component, module: &Module) -> bool {
    module.image_range() == component.image_range()
}

impl ComponentInstances {
    /// Finds the core instances of the components in a store. `instances` are those of the store, in any order.
    pub(crate) fn find<T>(
        store: &StoreContextMut<'_, T>,
        instances: &[Instance],
        components: &[KnownComponent],
    ) -> Self {
        let mut this = Self::default();
        let mut listed: Vec<_> =
            instances.iter().map(|instance| (*instance, instance.module(store))).collect();
        // Wasmtime numbers instances in the order of creation.
        listed.sort_by_key(|(instance, _)| instance.debug_index_in_store());
        for component in components {
            let own: Vec<_> = (listed.iter().copied())
                .filter(|(_, module)| is_in(&component.component, module))
                .collect();
            match component.layout.as_ref().and_then(|layout| place(layout, &own)) {
                Some(known) => {
                    this.known.extend(known);
                    this.components.push(component.component.clone());
                }
                None => this.mismatch |= !own.is_empty(),
            }
        }
        this
    }

    /// Returns whether a module of the store belongs to a component whose instances are known.
    pub(crate) fn has_module(&self, module: &Module) -> bool {
        self.components.iter().any(|component| is_in(component, module))
    }

    /// Names the modules of a dump after the core instances, and sets their identities. A module with several instances
    /// is listed once for each of them. `instances` are the instances of the dump, in its order.
    pub(crate) fn name_modules(
        &self,
        instances: &[Instance],
        dump: &mut CoreDump<'_>,
        notes: &mut Vec<Note>,
    ) {
        let mut taken = HashSet::new();
        let mut adapters = HashSet::new();
        for (index, instance) in instance_indices().zip(instances) {
            let Some(known) = self.get(*instance) else { continue };
            let mut named = corestream::Module::new(&known.name);
            match &known.identity {
                Some(identity) => named.identity = identity.clone(),
                None => {
                    adapters.insert(index);
                }
            }
            match dump.instances[index.0 as usize].module {
                Some(module) if taken.insert(module) => dump.modules[module.0 as usize] = named,
                _ => {
                    let module = dump.add_module(named);
                    dump.instances[index.0 as usize].module = Some(module);
                }
            }
        }
        // An adapter imports flags of the engine, which are not globals of the store, and memories of other instances.
        notes.retain(|note| match note {
            Note::Globals { instance, .. } | Note::Memory { instance, .. } => {
                !adapters.contains(instance)
            }
            _ => true,
        });
        if self.mismatch {
            notes.push(Note::Component);
        }
    }

    fn get(&self, instance: Instance) -> Option<&Known> {
        self.known.get(&instance.debug_index_in_store())
    }

    /// Returns the item that a core instance of a component imports.
    pub(crate) fn import<T>(
        &self,
        store: &mut StoreContextMut<'_, T>,
        instance: Instance,
        (module, name): (&str, &str),
    ) -> Option<Extern> {
        let (from, export) =
            self.get(instance)?.imports.get(&(module.to_owned(), name.to_owned()))?;
        from.get_export(store, export)
    }
}

/// Finds the place of each core instance in a component. `own` are the instances of the component, in the order of
/// creation. Returns `None` if they do not fit.
fn place(layout: &Layout, own: &[(Instance, &Module)]) -> Option<HashMap<u32, Known>> {
    let mut known = HashMap::new();
    // The place of each module of the store.
    let mut places: HashMap<u64, Place> = HashMap::new();
    // The core instances of the current instantiation of the component, in the order of the layout.
    let mut current: Vec<Instance> = Vec::new();
    let mut instantiation = 1;
    for (instance, module) in own {
        let is_complete = current.len() == layout.created.len();
        let next = layout.created.get(if is_complete { 0 } else { current.len() })?;
        let id = module.debug_index_in_engine();
        let place = match places.get(&id) {
            Some(place) => place.clone(),
            None => {
                let place = Place::of(layout, next.module, module)?;
                // Two modules of the store are never the same one of the component.
                if matches!(place, Place::Module(_)) && places.values().any(|p| *p == place) {
                    return None;
                }
                places.insert(id, place.clone());
                place
            }
        };
        let (name, identity, imports) = match place {
            Place::Adapter(name) => (name, None, HashMap::new()),
            Place::Module(position) if position == next.module => {
                if is_complete {
                    current.clear();
                    instantiation += 1;
                }
                let imports = next.imports.iter().filter_map(|(import, (from, export))| {
                    Some((import.clone(), (*current.get(*from)?, export.clone())))
                });
                let imports = imports.collect();
                current.push(*instance);
                let identity = layout.modules.get(position)?.identity.clone();
                (next.name.clone(), Some(identity), imports)
            }
            Place::Module(_) => return None,
        };
        let name = match instantiation {
            1 => name,
            number => format!("{name}[{number}]"),
        };
        known.insert(instance.debug_index_in_store(), Known { name, identity, imports });
    }
    Some(known)
}

/// The place of a module of the store in a component.
#[derive(Clone, PartialEq, Eq)]
enum Place {
    /// The position of the module in [`Layout::modules`].
    Module(usize),
    /// An adapter with this name.
    Adapter(String),
}

impl Place {
    /// Returns the place of a module that is either the one at position `next`, or an adapter. Returns `None` if it is
    /// neither, or looks like both.
    fn of(layout: &Layout, next: usize, module: &Module) -> Option<Self> {
        let is_next = is_same(layout.modules.get(next)?, module);
        match (is_next, adapter_name(layout, module)) {
            (true, None) => Some(Self::Module(next)),
            (false, Some(name)) => Some(Self::Adapter(name)),
            _ => None,
        }
    }
}

/// Returns whether a module of the store has the imports and exports of a module of the component.
fn is_same(wanted: &StaticModule, module: &Module) -> bool {
    let imports = wanted.imports.iter().map(|(module, name)| (module.as_str(), name.as_str()));
    let exports = module.exports().map(|export| export.name()).collect::<HashSet<_>>();
    module.imports().map(|import| (import.module(), import.name())).eq(imports)
        && exports.len() == wanted.exports.len()
        && wanted.exports.iter().all(|name| exports.contains(name.as_str()))
}

/// Returns the name of an adapter, with the component instances that it connects, or `None` if the module does not look
/// like an adapter.
fn adapter_name(layout: &Layout, module: &Module) -> Option<String> {
    let number = |name: &str, prefix: &str| name.strip_prefix(prefix)?.parse::<usize>().ok();
    let mut paths: Vec<&str> = Vec::new();
    let mut calls = false;
    for import in module.imports() {
        match import.module() {
            "callee" => calls = true,
            "flags" => {
                let path = layout.paths.get(number(import.name(), "instance")?)?;
                if !paths.contains(&path.as_str()) && paths.len() < MAX_PATHS {
                    paths.push(path);
                }
            }
            _ => {}
        }
    }
    let exports = module.exports().any(|export| number(export.name(), "adapter").is_some());
    (calls && exports && !paths.is_empty()).then(|| format!("adapter({})", paths.join(", ")))
}
