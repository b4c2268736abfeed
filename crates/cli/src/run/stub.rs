//! Stubs for the functions that a guest imports and WASI does not provide (`--stub-imports`).

use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{self, Component, LinkerInstance, ResourceType};
use wasmtime::{Caller, Error, ExternType, Linker, Module, Result, Val};

use super::check::shown;
use super::component_call::unknown_import;
use super::component_state::VERSION;

/// The host's type for resources that only stubs know.
struct Unknown;

fn called(name: &str) -> Error {
    Error::msg(format!("called the import `{}`, a stub", shown(name)))
}

/// Defines a function that traps for each unknown function that the module imports. The linker allows shadowing
/// afterwards.
pub fn add_to_linker<T: 'static>(linker: &mut Linker<T>, module: &Module) {
    linker.allow_shadowing(false);
    for import in module.imports() {
        let ExternType::Func(ty) = import.ty() else { continue };
        let (from, name) = (import.module(), import.name());
        let full = format!("{}::{}", shown(from), shown(name));
        // Fails if the function is defined, by WASI or for an earlier import.
        let _ =
            linker.func_new(from, name, ty, move |_: Caller<'_, T>, _: &[Val], _: &mut [Val]| {
                Err(called(&full))
            });
    }
    linker.allow_shadowing(true);
}

/// Defines functions that trap for the functions that a component imports and the linker does not provide. The linker
/// allows shadowing afterwards.
///
/// # Errors
/// Returns an error if an import cannot be replaced by functions, or has another type than in WASI.
pub fn add_to_component_linker<T: Send + 'static>(
    linker: &mut component::Linker<T>,
    component: &Component,
) -> Result<()> {
    let (engine, ty) = (component.engine(), component.component_type());
    let mut stubbed: Vec<String> = Vec::new();
    linker.allow_shadowing(false);
    // The linker compares imports by type and by version, and reports the first that it does not provide.
    while let Err(error) = linker.instantiate_pre(component).map(|_| ()) {
        let import = unknown_import(&error).map(|(_, name)| name);
        let Some(name) = import.filter(|name| !stubbed.contains(name)) else { return Err(error) };
        let Some((_, item)) = ty.imports(engine).find(|(other, _)| *other == name) else {
            return Err(error);
        };
        match item.ty {
            ComponentItem::ComponentFunc(function) => {
                let _ = add_function(&mut linker.root(), &name, &function, name.clone());
            }
            ComponentItem::ComponentInstance(instance) => {
                let mut stubs = linker.instance(&provided_name(&name))?;
                for (export, item) in instance.exports(engine) {
                    // Fails if WASI provides the item.
                    let _ = match item.ty {
                        ComponentItem::ComponentFunc(function) => {
                            let full = format!("{name}#{export}");
                            add_function(&mut stubs, export, &function, full)
                        }
                        ComponentItem::Resource(_) => {
                            stubs.resource(export, ResourceType::host::<Unknown>(), |_, _| Ok(()))
                        }
                        _ => Ok(()),
                    };
                }
            }
            _ => return Err(error),
        }
        stubbed.push(name);
    }
    linker.allow_shadowing(true);
    Ok(())
}

/// Returns the name under which the linker has an interface, if it has it: WASI of any version 0.2 has the version that
/// the tool provides.
fn provided_name(name: &str) -> String {
    match name.split_once("@0.2.") {
        Some((interface, _)) if interface.starts_with("wasi:") => format!("{interface}@{VERSION}"),
        _ => name.into(),
    }
}

fn add_function<T: Send + 'static>(
    stubs: &mut LinkerInstance<'_, T>,
    name: &str,
    function: &ComponentFunc,
    full: String,
) -> Result<()> {
    if function.async_() {
        stubs.func_new_concurrent(name, move |_, _, _, _| {
            let error = called(&full);
            Box::pin(async move { Err(error) })
        })
    } else {
        stubs.func_new(name, move |_, _, _, _| Err(called(&full)))
    }
}
