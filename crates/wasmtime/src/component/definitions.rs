//! Reads the definitions of a component: its core modules, its nested components, and the steps that instantiate them.
//!
//! Only core modules, core instances, components, instances, and the core memories and globals have steps, because
//! nothing else decides which core instances exist. The reader does not validate. Wasmtime has compiled the same bytes.

use std::collections::HashMap;

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentName,
    ComponentOuterAliasKind, ComponentTypeRef, ExternalKind, Instance, KnownCustom, Name, NameMap,
    Parser, Payload, TypeRef,
};

/// All definitions of a component. The first of `components` is the component itself.
#[derive(Default)]
pub(super) struct Definitions<'b> {
    pub(super) modules: Vec<ModuleDefinition<'b>>,
    pub(super) components: Vec<Definition<'b>>,
}

/// A core module in a component.
#[derive(Default)]
pub(super) struct ModuleDefinition<'b> {
    pub(super) bytes: &'b [u8],
    /// The name in the module's own name section.
    pub(super) name: Option<&'b str>,
    /// The module and the name of each import, in order, and whether the import is a memory or a global.
    pub(super) imports: Vec<(&'b str, &'b str, bool)>,
    pub(super) exports: Vec<&'b str>,
}

/// A component, which may be nested in another one.
#[derive(Default)]
pub(super) struct Definition<'b> {
    /// The name in the component's own name section.
    pub(super) name: Option<&'b str>,
    pub(super) module_names: HashMap<u32, &'b str>,
    pub(super) core_instance_names: HashMap<u32, &'b str>,
    pub(super) component_names: HashMap<u32, &'b str>,
    pub(super) instance_names: HashMap<u32, &'b str>,
    pub(super) steps: Vec<Step<'b>>,
}

/// An index space of a component with items that contain core instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Module,
    Component,
    Instance,
}

/// An item that a component instance exports or receives: its name, its kind, and its index.
pub(super) type NamedItem<'b> = (&'b str, Kind, u32);

/// A step of the instantiation of a component. Each adds one item to an index space.
pub(super) enum Step<'b> {
    /// Adds the argument with this name.
    Import(Kind, &'b str),
    /// Adds a core module of the component, by its position in [`Definitions::modules`].
    Module(usize),
    /// Adds a nested component, by its position in [`Definitions::components`].
    Component(usize),
    /// Instantiates a core module. The arguments are core instances.
    CoreInstance(u32, Vec<(&'b str, u32)>),
    /// Adds a core instance of memories (`true`) and globals (`false`) by their indices.
    CoreExports(Vec<(&'b str, bool, u32)>),
    /// Instantiates a component.
    Instance(u32, Vec<NamedItem<'b>>),
    /// Adds an instance of existing items.
    Exports(Vec<NamedItem<'b>>),
    /// Adds an export of an instance.
    Alias(Kind, u32, &'b str),
    /// Adds an item of an enclosing component: how far it is outwards, and the index.
    OuterAlias(Kind, u32, u32),
    /// Adds a core memory (`true`) or global (`false`) that a core instance exports.
    CoreAlias(bool, u32, &'b str),
    /// Exports an item, which adds it again.
    Export(NamedItem<'b>),
}

impl Step<'_> {
    /// Returns the number of items that the step adds or names.
    pub(super) fn items(&self) -> usize {
        let named = match self {
            Self::CoreInstance(_, args) => args.len(),
            Self::CoreExports(items) => items.len(),
            Self::Instance(_, items) | Self::Exports(items) => items.len(),
            _ => 0,
        };
        named.saturating_add(1)
    }
}

/// A module or component whose sections are being read.
enum Open {
    Module(usize),
    Component(usize),
}

impl<'b> Definitions<'b> {
    /// Reads a component in the binary format. Returns `None` if it is not a component, or is damaged.
    pub(super) fn read(wasm: &'b [u8]) -> Option<Self> {
        if !Parser::is_component(wasm) {
            return None;
        }
        let mut this = Self { modules: Vec::new(), components: vec![Definition::default()] };
        let mut open = vec![Open::Component(0)];
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload.ok()?;
            match &payload {
                Payload::ModuleSection { unchecked_range, .. } => {
                    let start = usize::try_from(unchecked_range.start).ok()?;
                    let end = usize::try_from(unchecked_range.end).ok()?;
                    let module = this.modules.len();
                    this.step(&open, Step::Module(module))?;
                    let bytes = wasm.get(start..end)?;
                    this.modules.push(ModuleDefinition { bytes, ..ModuleDefinition::default() });
                    open.push(Open::Module(module));
                }
                Payload::ComponentSection { .. } => {
                    let component = this.components.len();
                    this.step(&open, Step::Component(component))?;
                    this.components.push(Definition::default());
                    open.push(Open::Component(component));
                }
                Payload::End(_) => {
                    open.pop();
                }
                _ => match open.last()? {
                    Open::Module(module) => this.modules.get_mut(*module)?.read(&payload)?,
                    Open::Component(at) => this.components.get_mut(*at)?.read(&payload)?,
                },
            }
        }
        Some(this)
    }

    fn step(&mut self, open: &[Open], step: Step<'b>) -> Option<()> {
        let Open::Component(component) = open.last()? else { return None };
        self.components.get_mut(*component)?.steps.push(step);
        Some(())
    }
}

impl<'b> ModuleDefinition<'b> {
    fn read(&mut self, payload: &Payload<'b>) -> Option<()> {
        match payload {
            Payload::ImportSection(section) => {
                for import in section.clone().into_imports() {
                    let import = import.ok()?;
                    let state = matches!(import.ty, TypeRef::Memory(_) | TypeRef::Global(_));
                    self.imports.push((import.module, import.name, state));
                }
            }
            Payload::ExportSection(section) => {
                for export in section.clone() {
                    self.exports.push(export.ok()?.name);
                }
            }
            Payload::CustomSection(section) => {
                if let KnownCustom::Name(names) = section.as_known() {
                    // Wasmtime ignores a damaged name section too.
                    for name in names.into_iter().map_while(Result::ok) {
                        if let Name::Module { name, .. } = name {
                            self.name = Some(name);
                        }
                    }
                }
            }
            _ => {}
        }
        Some(())
    }
}

impl<'b> Definition<'b> {
    fn read(&mut self, payload: &Payload<'b>) -> Option<()> {
        match payload {
            Payload::ComponentImportSection(section) => {
                for import in section.clone() {
                    let import = import.ok()?;
                    let kind = match import.ty {
                        ComponentTypeRef::Module(_) => Kind::Module,
                        ComponentTypeRef::Component(_) => Kind::Component,
                        ComponentTypeRef::Instance(_) => Kind::Instance,
                        _ => continue,
                    };
                    self.steps.push(Step::Import(kind, import.name.name));
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section.clone() {
                    self.steps.push(core_instance(instance.ok()?));
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section.clone() {
                    self.steps.push(match instance.ok()? {
                        ComponentInstance::Instantiate { component_index, args } => {
                            let args = args
                                .iter()
                                .filter_map(|arg| Some((arg.name, Kind::of(arg.kind)?, arg.index)));
                            Step::Instance(component_index, args.collect())
                        }
                        ComponentInstance::FromExports(exports) => {
                            let items = exports.iter().filter_map(|export| {
                                Some((export.name.name, Kind::of(export.kind)?, export.index))
                            });
                            Step::Exports(items.collect())
                        }
                    });
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section.clone() {
                    self.steps.extend(alias_step(alias.ok()?));
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section.clone() {
                    let export = export.ok()?;
                    if let Some(kind) = Kind::of(export.kind) {
                        self.steps.push(Step::Export((export.name.name, kind, export.index)));
                    }
                }
            }
            Payload::CustomSection(section) => {
                if let KnownCustom::ComponentName(names) = section.as_known() {
                    for name in names.into_iter().map_while(Result::ok) {
                        match name {
                            ComponentName::Component { name, .. } => self.name = Some(name),
                            ComponentName::CoreModules(map) => add(&mut self.module_names, map),
                            ComponentName::CoreInstances(map) => {
                                add(&mut self.core_instance_names, map);
                            }
                            ComponentName::Components(map) => add(&mut self.component_names, map),
                            ComponentName::Instances(map) => add(&mut self.instance_names, map),
                            _ => {}
                        }
                    }
                }
            }
            _ => {}
        }
        Some(())
    }
}

/// Adds the names of a name section, up to the first damaged one.
fn add<'b>(names: &mut HashMap<u32, &'b str>, map: NameMap<'b>) {
    names.extend(map.into_iter().map_while(Result::ok).map(|naming| (naming.index, naming.name)));
}

fn core_instance(instance: Instance<'_>) -> Step<'_> {
    match instance {
        Instance::Instantiate { module_index, args } => {
            let args = args.iter().map(|arg| (arg.name, arg.index));
            Step::CoreInstance(module_index, args.collect())
        }
        Instance::FromExports(exports) => {
            let state = exports.iter().filter_map(|export| match export.kind {
                ExternalKind::Memory => Some((export.name, true, export.index)),
                ExternalKind::Global => Some((export.name, false, export.index)),
                _ => None,
            });
            Step::CoreExports(state.collect())
        }
    }
}

/// Returns the step for an alias, if it adds an item with a step.
fn alias_step(alias: ComponentAlias<'_>) -> Option<Step<'_>> {
    Some(match alias {
        ComponentAlias::InstanceExport { kind, instance_index, name } => {
            Step::Alias(Kind::of(kind)?, instance_index, name)
        }
        ComponentAlias::CoreInstanceExport { kind, instance_index, name } => {
            let memory = match kind {
                ExternalKind::Memory => true,
                ExternalKind::Global => false,
                _ => return None,
            };
            Step::CoreAlias(memory, instance_index, name)
        }
        ComponentAlias::Outer { kind, count, index } => {
            let kind = match kind {
                ComponentOuterAliasKind::CoreModule => Kind::Module,
                ComponentOuterAliasKind::Component => Kind::Component,
                _ => return None,
            };
            Step::OuterAlias(kind, count, index)
        }
    })
}

impl Kind {
    fn of(kind: ComponentExternalKind) -> Option<Self> {
        match kind {
            ComponentExternalKind::Module => Some(Self::Module),
            ComponentExternalKind::Component => Some(Self::Component),
            ComponentExternalKind::Instance => Some(Self::Instance),
            _ => None,
        }
    }
}
