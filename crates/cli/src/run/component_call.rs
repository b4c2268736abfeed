//! Checks the imports and exports of a component, and resolves the call that `run` makes.
//!
//! Compiling a large component takes a minute, so what its bytes reveal is checked before. Wasmtime compares imports
//! with the linker only for a compiled component. Therefore the part of the component up to its last import, which is a
//! component too, is compiled first. It usually has only types.
//!
//! The types of exported functions are known after compilation only, so the arguments of `--invoke` are checked then.

use std::fmt::Write;

use wasmparser::{ComponentExternalKind, Parser, Payload};
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::wasm_wave::untyped::UntypedFuncCall;
use wasmtime::component::wasm_wave::wasm::{DisplayFuncResults, DisplayType, DisplayValue};
use wasmtime::component::{Component, ComponentExportIndex, Linker, Val};
use wasmtime::{Engine, Error};

use super::cause;
use super::check::{list, shown};

/// The interface that a command exports, without its version.
const RUN: &str = "wasi:cli/run@0.2.";
/// The maximum length of the part of a component that is compiled to check its imports.
const MAX_CHECKED_BYTES: usize = 4 << 20;

/// A call of an exported function.
pub struct FunctionCall {
    pub function: ComponentExportIndex,
    pub parameters: Vec<Val>,
    /// The number of results.
    pub results: usize,
}

/// Checks that the linker provides each import of a component, without compiling all of it.
///
/// # Errors
/// Returns a message about the first import that the linker does not provide.
pub fn check_imports<T: 'static>(wasm: &[u8], linker: &Linker<T>) -> Result<(), String> {
    let Some(part) = up_to_imports(wasm).filter(|part| part.len() <= MAX_CHECKED_BYTES) else {
        return Ok(());
    };
    // An error in this part is reported when the whole component is compiled.
    let Ok(component) = Component::from_binary(linker.engine(), part) else { return Ok(()) };
    linker.instantiate_pre(&component).map(|_| ()).map_err(|error| import_cause(&error, false))
}

/// Returns the part of a component up to its last import, or `None` if it imports nothing or cannot be read.
fn up_to_imports(wasm: &[u8]) -> Option<&[u8]> {
    let mut end = None;
    for payload in top_level(wasm) {
        if let Payload::ComponentImportSection(section) = payload? {
            end = Some(section.range().end);
        }
    }
    wasm.get(..usize::try_from(end?).ok()?)
}

/// Returns the payloads of a component outside of nested modules and components. `None` is a damaged one.
fn top_level(wasm: &[u8]) -> impl Iterator<Item = Option<Payload<'_>>> {
    let mut depth = 0_u32;
    Parser::new(0).parse_all(wasm).filter_map(move |payload| {
        let Ok(payload) = payload else { return Some(None) };
        let is_top = depth == 0;
        match &payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
        is_top.then_some(Some(payload))
    })
}

/// Returns the kind and the name of the import that the linker does not provide, if that is the error.
pub fn unknown_import(error: &Error) -> Option<(String, String)> {
    let message = error.chain().next()?.to_string();
    let end = "`, but a matching implementation was not found in the linker";
    let import = message.strip_prefix("component imports ")?.strip_suffix(end)?;
    let (kind, name) = import.split_once(" `")?;
    Some((kind.into(), name.into()))
}

/// Formats the message for an import that the linker does not provide, even with `stubs`.
pub fn import_cause(error: &Error, stubs: bool) -> String {
    let Some((kind, name)) = unknown_import(error) else { return cause::plain(error) };
    let name = shown(&name);
    let way_out = if stubs { "" } else { ", or use --stub-imports" };
    format!(
        "unknown import `{name}` ({kind}): `run` provides WASI 0.2 only; compose the component with one that exports \
         it{way_out}"
    )
}

/// Checks that a component exports the function that `run` calls without `--invoke`.
///
/// # Errors
/// Returns a message with the exports that `--invoke` can call.
pub fn check_run(wasm: &[u8]) -> Result<(), String> {
    let mut names = Vec::new();
    for payload in top_level(wasm) {
        // The engine reports a damaged component.
        let Some(payload) = payload else { return Ok(()) };
        let Payload::ComponentExportSection(section) = payload else { continue };
        for export in section {
            let Ok(export) = export else { return Ok(()) };
            let name = export.name.name;
            match export.kind {
                ComponentExternalKind::Instance if name.starts_with(RUN) => return Ok(()),
                ComponentExternalKind::Instance => names.push(format!("{}#FUNC", shown(name))),
                ComponentExternalKind::Func => names.push(shown(name)),
                _ => {}
            }
        }
    }
    if names.is_empty() {
        return Err("exports neither wasi:cli/run of WASI 0.2 nor any other function".into());
    }
    Err(format!(
        "does not export wasi:cli/run of WASI 0.2; choose a function with --invoke 'FUNC(ARGS)': {}",
        list(&names)
    ))
}

/// A function that a component exports, in an interface or on its own.
struct Exported {
    interface: Option<String>,
    name: String,
    ty: ComponentFunc,
}

impl Exported {
    /// Lists the exported functions of a component.
    fn all(engine: &Engine, component: &Component) -> Vec<Self> {
        let mut all = Vec::new();
        for (name, export) in component.component_type().exports(engine) {
            match export.ty {
                ComponentItem::ComponentFunc(ty) => {
                    all.push(Self { interface: None, name: name.into(), ty });
                }
                ComponentItem::ComponentInstance(instance) => {
                    for (function, export) in instance.exports(engine) {
                        if let ComponentItem::ComponentFunc(ty) = export.ty {
                            let interface = Some(name.into());
                            all.push(Self { interface, name: function.into(), ty });
                        }
                    }
                }
                _ => {}
            }
        }
        all
    }

    /// Returns the name that selects only this function.
    fn full_name(&self) -> String {
        match &self.interface {
            Some(interface) => format!("{}#{}", shown(interface), shown(&self.name)),
            None => shown(&self.name),
        }
    }

    /// Formats the parameters as in WIT, such as `(a: u32, b: string)`.
    fn parameters(&self) -> String {
        let parameters: Vec<String> = (self.ty.params())
            .map(|(name, ty)| format!("{}: {}", shown(name), text(&DisplayType(&ty))))
            .collect();
        format!("({})", list(&parameters))
    }
}

/// Resolves the call `invoke`, such as `add(1, 2)` or `docs:adder/add#add(1, 2)`.
///
/// # Errors
/// Returns a message if no function or several have this name, or if the arguments are wrong.
pub fn resolve(component: &Component, invoke: &str) -> Result<FunctionCall, String> {
    let (name, arguments) = match invoke.split_once('(') {
        Some((name, _)) => (name.trim(), invoke.get(invoke.find('(').unwrap_or_default()..)),
        None => (invoke.trim(), None),
    };
    let all = Exported::all(component.engine(), component);
    let matching = |exported: &&Exported| match (name.split_once('#'), &exported.interface) {
        (Some((interface, name)), Some(of)) => interface == of && name == exported.name,
        (None, _) => name == exported.name,
        (Some(_), None) => false,
    };
    let found: Vec<&Exported> = all.iter().filter(matching).collect();
    // Nothing else names a function outside of interfaces.
    let own = found.iter().find(|exported| exported.interface.is_none());
    let exported = match (&found[..], own) {
        ([exported], _) | (_, Some(exported)) => *exported,
        ([], None) => {
            let names: Vec<_> = all.iter().map(Exported::full_name).collect();
            if names.is_empty() {
                return Err("exports no functions".into());
            }
            return Err(format!("exports no function {}, only {}", shown(name), list(&names)));
        }
        (_, None) => {
            let names: Vec<_> = found.iter().map(|exported| exported.full_name()).collect();
            return Err(format!(
                "exports several functions {}; choose one: {}",
                shown(name),
                list(&names)
            ));
        }
    };
    let types: Vec<_> = exported.ty.params().map(|(_, ty)| ty).collect();
    let wrong = |why: String| {
        format!("function {}: takes {}, but {why}", shown(name), exported.parameters())
    };
    let parameters = match arguments {
        Some(arguments) => {
            // The parser accepts plain names only. A name of the same length keeps the positions in its messages.
            let call = format!("{}{arguments}", "f".repeat(invoke.len() - arguments.len()));
            UntypedFuncCall::parse(&call)
                .and_then(|call| call.to_wasm_params::<Val>(&types))
                .map_err(|error| wrong(format!("the arguments are wrong: {error}")))?
        }
        None if types.is_empty() => Vec::new(),
        None => return Err(wrong("--invoke has no arguments; write 'FUNC(ARGS)'".into())),
    };
    let interface = exported.interface.as_deref();
    let instance = interface.and_then(|interface| component.get_export_index(None, interface));
    let function = component.get_export_index(instance.as_ref(), &exported.name);
    let function = function.ok_or_else(|| format!("cannot find function {}", shown(name)))?;
    Ok(FunctionCall { function, parameters, results: exported.ty.results().len() })
}

/// Formats the result of a function as WAVE. Returns an empty text if there is none.
pub fn render(results: &[Val]) -> String {
    match results {
        [] => String::new(),
        results if results.iter().any(has_no_text) => {
            "a result that WAVE does not have, such as a resource\n".into()
        }
        [result] => format!("{}\n", text(&DisplayValue(result))),
        results => format!("{}\n", text(&DisplayFuncResults(results))),
    }
}

/// Returns whether WAVE has no form for a value or a part of it.
fn has_no_text(value: &Val) -> bool {
    match value {
        Val::Resource(_) | Val::Future(_) | Val::Stream(_) | Val::ErrorContext(_) => true,
        Val::List(values) | Val::Tuple(values) => values.iter().any(has_no_text),
        Val::Record(fields) => fields.iter().any(|(_, value)| has_no_text(value)),
        Val::Variant(_, value) | Val::Option(value) => value.as_deref().is_some_and(has_no_text),
        Val::Result(Ok(value) | Err(value)) => value.as_deref().is_some_and(has_no_text),
        _ => false,
    }
}

/// Formats a value or a type. WAVE has no form for some types, such as resources.
fn text(item: &impl std::fmt::Display) -> String {
    let mut text = String::new();
    match write!(text, "{item}") {
        Ok(()) => text.replace("<<UNSUPPORTED>>", "a type that WAVE does not have"),
        Err(_) => "a type that WAVE does not have".into(),
    }
}
