//! Stubs for the functions that a core module imports and WASI does not provide (`--stub-imports`).

use wasmtime::{Caller, Error, ExternType, Linker, Module, Val};

use super::check::shown;

/// Defines a function that traps for each unknown function that the module imports. The linker allows shadowing
/// afterwards.
pub fn add_to_linker<T: 'static>(linker: &mut Linker<T>, module: &Module) {
    linker.allow_shadowing(false);
    for import in module.imports() {
        let ExternType::Func(ty) = import.ty() else { continue };
        let (from, name) = (import.module(), import.name());
        let message = format!("called the import `{}::{}`, a stub", shown(from), shown(name));
        // Fails if the function is defined, by WASI or for an earlier import.
        let _ =
            linker.func_new(from, name, ty, move |_: Caller<'_, T>, _: &[Val], _: &mut [Val]| {
                Err(Error::msg(message.clone()))
            });
    }
    linker.allow_shadowing(true);
}
