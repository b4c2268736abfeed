//! The core instances of a component, in the order in which Wasmtime creates them, and their names.
//!
//! # The problem
//! A store lists the core instances of a component without telling where in the component they come from. The names of
//! core modules alone do not tell: composed components contain the same module several times, and many modules have no
//! name.
//!
//! # The idea
//! A component is instantiated step by step, in the order of its sections, and a nested component is instantiated where
//! its instance is defined. There are no conditions. So the list of core instances follows from the bytes, and this
//! module runs the same steps as `wasmtime-environ/src/component/translate/inline.rs`, for the items that matter.
//!
//! A *scope* is one component instance. Scopes are numbered as Wasmtime numbers them, in the order of creation, because
//! the imports of adapters name their component instances by these numbers.
//!
//! # The cost
//! One pass over the component, and one step for each item of each component instance. Nested instances can multiply,
//! so the numbers of scopes, of core instances and of items have limits.

use std::collections::HashMap;

use corestream::ModuleIdentity;

use super::definitions::{Definitions, Kind, NamedItem, Step};
use crate::identity::module_identity;

/// The maximum number of component instances.
const MAX_SCOPES: usize = 100_000;
/// The maximum number of items of all component instances, which bounds the memory. Each has less than 200 bytes.
const MAX_ITEMS: usize = 1_000_000;
/// The maximum number of core instances.
const MAX_CORE_INSTANCES: usize = 100_000;
/// The maximum number of characters of one part of a name.
const MAX_PART: usize = 100;
/// The maximum number of characters of the path of a component instance.
const MAX_PATH: usize = 1000;
/// The name of a component that has none.
const ROOT: &str = "root";

/// The core instances of a component.
pub(crate) struct Layout {
    /// The core modules, in the order of the bytes.
    pub(super) modules: Vec<StaticModule>,
    /// The core instances, in the order of creation. Those of imported core modules are not listed.
    pub(super) created: Vec<Created>,
    /// The path of each component instance, by Wasmtime's number.
    pub(super) paths: Vec<String>,
}

/// A core module in the bytes of a component.
pub(super) struct StaticModule {
    pub(super) identity: ModuleIdentity,
    pub(super) imports: Vec<(String, String)>,
    pub(super) exports: Vec<String>,
}

/// A core instance that a component creates.
pub(super) struct Created {
    /// The position of its module in [`Layout::modules`].
    pub(super) module: usize,
    /// The path of the component instance and the name of the module, such as `outer/inner:module`.
    pub(super) name: String,
    /// For each imported memory and global, the core instance that exports it, and the name of the export.
    pub(super) imports: HashMap<(String, String), (usize, String)>,
}

/// An item of a component's index spaces. Unknown items come from the embedder.
#[derive(Clone, Copy)]
enum Item {
    Module(Option<usize>),
    /// The definition, and the scope around it.
    Component(Option<(usize, usize)>),
    /// The position of the instance's exports in [`Walk::exports`].
    Instance(Option<usize>),
}

/// A core instance: one that was created, one of existing items, or an unknown one.
#[derive(Clone)]
enum Core<'b> {
    Created(usize),
    Exports(HashMap<&'b str, State<'b>>),
    Unknown,
}

/// A core memory or global: the core instance that exports it, and the name of the export.
type State<'b> = Option<(usize, &'b str)>;

/// A component instance.
struct Scope<'b> {
    definition: usize,
    outer: Option<usize>,
    path: String,
    args: HashMap<&'b str, Item>,
    modules: Vec<Item>,
    components: Vec<Item>,
    instances: Vec<Item>,
    core_instances: Vec<Core<'b>>,
    memories: Vec<State<'b>>,
    globals: Vec<State<'b>>,
    /// The exports so far, which become those of the instance.
    exports: HashMap<&'b str, Item>,
    next_step: usize,
}

struct Walk<'d, 'b> {
    definitions: &'d Definitions<'b>,
    scopes: Vec<Scope<'b>>,
    exports: Vec<HashMap<&'b str, Item>>,
    created: Vec<Created>,
    /// The number of items that may follow.
    items_left: usize,
    /// The names so far, and the last number of each.
    names: HashMap<String, usize>,
}

impl Layout {
    /// Lists the core instances of a component in the binary format. Returns `None` if the component cannot be read, or
    /// has too many instances.
    pub(crate) fn read(wasm: &[u8]) -> Option<Self> {
        let definitions = Definitions::read(wasm)?;
        let mut walk = Walk {
            definitions: &definitions,
            scopes: Vec::new(),
            exports: Vec::new(),
            created: Vec::new(),
            items_left: MAX_ITEMS,
            names: HashMap::new(),
        };
        walk.run()?;
        let Walk { scopes, created, .. } = walk;
        let root = definitions.components.first()?.name.map_or_else(|| ROOT.into(), part);
        let path = |scope: Scope<'_>| if scope.path.is_empty() { root.clone() } else { scope.path };
        let paths = scopes.into_iter().map(path).collect();
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let modules = definitions.modules.iter().map(|module| StaticModule {
            identity: module_identity(module.bytes),
            imports: (module.imports.iter())
                .map(|(module, name, _)| ((*module).into(), (*name).into()))
                .collect(),
            exports: owned(&module.exports),
        });
        Some(Self { modules: modules.collect(), created, paths })
    }
}

impl<'b> Walk<'_, 'b> {
    fn run(&mut self) -> Option<()> {
        self.scopes.push(Scope::new(0, None, String::new(), HashMap::new()));
        let mut open = vec![0];
        while let Some(at) = open.last().copied() {
            let scope = self.scopes.get_mut(at)?;
            let definition = self.definitions.components.get(scope.definition)?;
            let Some(step) = definition.steps.get(scope.next_step) else {
                open.pop();
                let exports = std::mem::take(&mut scope.exports);
                if let Some(outer) = open.last() {
                    let index = self.exports.len();
                    self.exports.push(exports);
                    self.scopes.get_mut(*outer)?.instances.push(Item::Instance(Some(index)));
                }
                continue;
            };
            scope.next_step += 1;
            self.items_left = self.items_left.checked_sub(step.items())?;
            if let Step::Instance(component, args) = step {
                match self.instantiate(at, *component, args)? {
                    Some(scope) => open.push(scope),
                    None => self.scopes.get_mut(at)?.instances.push(Item::Instance(None)),
                }
                continue;
            }
            self.step(at, step)?;
        }
        Some(())
    }

    /// Begins an instance of a component. Returns its scope, or `None` if the component is unknown.
    fn instantiate(
        &mut self,
        at: usize,
        component: u32,
        args: &[NamedItem<'b>],
    ) -> Option<Option<usize>> {
        let scope = self.scopes.get(at)?;
        let Item::Component(Some((definition, outer))) = scope.item(Kind::Component, component)?
        else {
            return Some(None);
        };
        let of = self.definitions.components.get(scope.definition)?;
        let index = u32::try_from(scope.instances.len()).ok()?;
        let name = of.instance_names.get(&index).or_else(|| of.component_names.get(&component));
        let name = name.copied().or(self.definitions.components.get(definition)?.name);
        let name = name.map_or_else(|| format!("#{index}"), part);
        let mut path = scope.path.clone();
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(&name);
        let args = args.iter().map(|(name, kind, index)| Some((*name, scope.item(*kind, *index)?)));
        let args = args.collect::<Option<_>>()?;
        if self.scopes.len() >= MAX_SCOPES || path.chars().count() > MAX_PATH {
            return None;
        }
        self.scopes.push(Scope::new(definition, Some(outer), path, args));
        Some(Some(self.scopes.len().checked_sub(1)?))
    }

    fn step(&mut self, at: usize, step: &Step<'b>) -> Option<()> {
        let scope = self.scopes.get(at)?;
        let item = match step {
            Step::Import(kind, name) => {
                scope.args.get(name).copied().unwrap_or_else(|| kind.unknown())
            }
            Step::Module(module) => Item::Module(Some(*module)),
            Step::Component(definition) => Item::Component(Some((*definition, at))),
            Step::Exports(items) => {
                let items = items
                    .iter()
                    .map(|(name, kind, index)| Some((*name, scope.item(*kind, *index)?)));
                let exports = items.collect::<Option<_>>()?;
                self.exports.push(exports);
                Item::Instance(self.exports.len().checked_sub(1))
            }
            Step::Alias(kind, instance, name) => {
                let Item::Instance(exports) = scope.item(Kind::Instance, *instance)? else {
                    return None;
                };
                let exports = exports.and_then(|exports| self.exports.get(exports));
                let item = exports.and_then(|exports| exports.get(name)).copied();
                item.unwrap_or_else(|| kind.unknown())
            }
            Step::OuterAlias(kind, count, index) => {
                let mut of = scope;
                for _ in 0..*count {
                    of = self.scopes.get(of.outer?)?;
                }
                of.item(*kind, *index)?
            }
            Step::Export((name, kind, index)) => {
                let item = scope.item(*kind, *index)?;
                self.scopes.get_mut(at)?.exports.insert(name, item);
                item
            }
            Step::CoreInstance(module, args) => {
                let core = self.create(at, *module, args)?;
                self.scopes.get_mut(at)?.core_instances.push(core);
                return Some(());
            }
            Step::CoreExports(items) => {
                let items = items.iter().map(|(name, memory, index)| {
                    let space = if *memory { &scope.memories } else { &scope.globals };
                    Some((*name, *space.get(usize::try_from(*index).ok()?)?))
                });
                let core = Core::Exports(items.collect::<Option<_>>()?);
                self.scopes.get_mut(at)?.core_instances.push(core);
                return Some(());
            }
            Step::CoreAlias(memory, instance, name) => {
                let core = scope.core_instances.get(usize::try_from(*instance).ok()?)?;
                let state = core.state(name);
                let scope = self.scopes.get_mut(at)?;
                let space = if *memory { &mut scope.memories } else { &mut scope.globals };
                space.push(state);
                return Some(());
            }
            // `run` begins a new scope for it.
            Step::Instance(..) => return None,
        };
        self.scopes.get_mut(at)?.push(item);
        Some(())
    }

    /// Creates a core instance.
    fn create(&mut self, at: usize, module: u32, args: &[(&'b str, u32)]) -> Option<Core<'b>> {
        let scope = self.scopes.get(at)?;
        let Item::Module(Some(position)) = scope.item(Kind::Module, module)? else {
            return Some(Core::Unknown);
        };
        let definition = self.definitions.modules.get(position)?;
        let of = self.definitions.components.get(scope.definition)?;
        let core_instance = u32::try_from(scope.core_instances.len()).ok()?;
        let name = definition.name.or_else(|| of.module_names.get(&module).copied());
        let name = name.filter(|name| !name.is_empty());
        let name = name.map_or_else(|| format!("#{module}"), part);
        let name = match scope.path.as_str() {
            "" => name,
            path => format!("{path}:{name}"),
        };
        let label = of.core_instance_names.get(&core_instance).map(|name| part(name));
        let args: HashMap<_, _> = args.iter().copied().collect();
        let mut imports = HashMap::new();
        for (module, field, _) in definition.imports.iter().filter(|(.., state)| *state) {
            let core = args.get(module).and_then(|core| usize::try_from(*core).ok());
            let core = core.and_then(|core| scope.core_instances.get(core));
            if let Some((from, export)) = core.and_then(|core| core.state(field)) {
                imports.insert(((*module).into(), (*field).into()), (from, export.into()));
            }
        }
        if self.created.len() >= MAX_CORE_INSTANCES {
            return None;
        }
        let name = self.unique(name, label);
        self.created.push(Created { module: position, name, imports });
        Some(Core::Created(self.created.len().checked_sub(1)?))
    }

    /// Makes a name unique, by the name of the core instance or by a number.
    fn unique(&mut self, name: String, label: Option<String>) -> String {
        let Some(count) = self.names.get(&name).copied() else {
            self.names.insert(name.clone(), 1);
            return name;
        };
        let mut number = count;
        let mut candidate = label.map(|label| format!("{name}({label})"));
        let candidate = loop {
            if let Some(free) = candidate.take().filter(|name| !self.names.contains_key(name)) {
                break free;
            }
            number = number.saturating_add(1);
            candidate = Some(format!("{name}({number})"));
        };
        // The next search goes on from here, so all searches together are linear.
        self.names.insert(name, number);
        self.names.insert(candidate.clone(), 1);
        candidate
    }
}

impl<'b> Scope<'b> {
    fn new(
        definition: usize,
        outer: Option<usize>,
        path: String,
        args: HashMap<&'b str, Item>,
    ) -> Self {
        Self {
            definition,
            outer,
            path,
            args,
            modules: Vec::new(),
            components: Vec::new(),
            instances: Vec::new(),
            core_instances: Vec::new(),
            memories: Vec::new(),
            globals: Vec::new(),
            exports: HashMap::new(),
            next_step: 0,
        }
    }

    fn item(&self, kind: Kind, index: u32) -> Option<Item> {
        let space = match kind {
            Kind::Module => &self.modules,
            Kind::Component => &self.components,
            Kind::Instance => &self.instances,
        };
        space.get(usize::try_from(index).ok()?).copied()
    }

    fn push(&mut self, item: Item) {
        match item {
            Item::Module(_) => self.modules.push(item),
            Item::Component(_) => self.components.push(item),
            Item::Instance(_) => self.instances.push(item),
        }
    }
}

impl<'b> Core<'b> {
    /// Returns the memory or global that this instance exports as `name`.
    fn state(&self, name: &'b str) -> State<'b> {
        match self {
            Self::Created(created) => Some((*created, name)),
            Self::Exports(exports) => exports.get(name).copied().flatten(),
            Self::Unknown => None,
        }
    }
}

impl Kind {
    /// Returns an item of this kind about which nothing is known.
    fn unknown(self) -> Item {
        match self {
            Self::Module => Item::Module(None),
            Self::Component => Item::Component(None),
            Self::Instance => Item::Instance(None),
        }
    }
}

/// Shortens one part of a name.
fn part(name: &str) -> String {
    match name.char_indices().nth(MAX_PART) {
        Some((end, _)) => name.get(..end).map_or_else(String::new, |start| format!("{start}...")),
        None => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let layout = Layout::read(&wat::parse_str(text).unwrap()).unwrap();
        layout.created.into_iter().map(|created| created.name).collect()
    }

    #[test]
    fn names_without_name_sections_are_indices() {
        let text =
            "(component (component (core module) (core module) (core instance (instantiate 1)))
            (instance (instantiate 0)) (instance (instantiate 0)))";
        assert_eq!(names(text), ["#0:#1", "#1:#1"]);
    }

    #[test]
    fn names_are_unique() {
        let text = r#"(component (core module $m) (core module $other (@name "m(2)"))
            (core instance (instantiate $other)) (core instance (instantiate $m))
            (core instance (instantiate $m)) (core instance $x (instantiate $m))
            (core instance (instantiate $m)))"#;
        assert_eq!(names(text), ["m(2)", "m", "m(3)", "m(x)", "m(4)"]);
    }

    #[test]
    fn long_names_are_shortened() {
        let name = "ä".repeat(200);
        let text =
            format!("(component (core module (@name \"{name}\")) (core instance (instantiate 0)))");
        assert_eq!(names(&text), [format!("{}...", "ä".repeat(100))]);
    }

    /// Nested instances multiply.
    #[test]
    fn too_many_instances_have_no_layout() {
        let mut text = "(component $c0 (core module) (core instance (instantiate 0)))".to_owned();
        for _ in 0..20 {
            text =
                format!("(component {text} (instance (instantiate 0)) (instance (instantiate 0)))");
        }
        assert!(Layout::read(&wat::parse_str(text).unwrap()).is_none());
    }

    /// Few bytes can have many items, because every instance of a component has all of them.
    #[test]
    fn too_many_items_have_no_layout() {
        let component = |levels: u32| {
            let aliases = "(alias core export 0 \"m\" (core memory))".repeat(900);
            let mut text = format!(
                "(component $c0 (core module (memory (export \"m\") 1)) (core instance (instantiate 0)) {aliases})"
            );
            for _ in 0..levels {
                text = format!(
                    "(component {text} (instance (instantiate 0)) (instance (instantiate 0)))"
                );
            }
            Layout::read(&wat::parse_str(text).unwrap())
        };
        assert_eq!(component(9).unwrap().created.len(), 512);
        assert!(component(12).is_none());
    }

    #[test]
    fn damaged_components_have_no_layout_or_another() {
        let text = r#"(component
            (core module $m (memory (export "m") 1)) (core instance $i (instantiate $m))
            (alias core export $i "m" (core memory $a))
            (component $c (import "x" (instance $x)) (alias outer 1 $m (core module $o))
                (core instance (instantiate $o)) (export "o" (core module $o)))
            (instance $e) (instance $c (instantiate $c (with "x" (instance $e))))
            (alias export $c "o" (core module $again))
            (core instance (instantiate $again (with "y" (instance (export "z" (memory $a)))))))"#;
        let wasm = wat::parse_str(text).unwrap();
        assert!(Layout::read(&wasm).is_some());
        for at in 0..wasm.len() {
            assert!(Layout::read(&wasm[..at]).is_none() || at >= 8);
            for bit in 0..8 {
                let mut damaged = wasm.clone();
                damaged[at] ^= 1 << bit;
                let layout = Layout::read(&damaged);
                assert!(layout.is_none_or(|layout| layout.created.len() <= 10));
            }
        }
    }
}
