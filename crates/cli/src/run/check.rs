//! Checks a guest before compilation: its imports, the call, and its validity.
//!
//! Compiling a large guest takes a minute, and `--time-limit` does not cover it. Therefore every error that the bytes
//! of the module reveal is reported before. The engine validates, because only it knows which proposals it accepts. The
//! provided functions come from the linker, so there is no second list of WASI's functions here.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use wasmparser::{Parser, TypeRef, ValType};
use wasmtime::{Extern, ExternType, FuncType, Linker, Module, Store, Val};

use super::module::{GuestModule, is_function};
use super::{cause, invoke};
use crate::limits::MAX_MODULE_BYTES;
use crate::module_file::{self, Components, Form};
use crate::report::Failure;
use crate::wat_text;

/// The maximum number of names in a message.
const LISTED: usize = 8;
/// The maximum number of characters of a name in a message.
const MAX_SHOWN: usize = 80;

/// The resolved call that `run` makes.
pub struct Call {
    /// The exported function to call, or `None` if the guest only has a start function.
    pub name: Option<String>,
    /// The arguments.
    pub parameters: Vec<Val>,
    /// The number of results.
    pub results: usize,
    /// Whether to call `_initialize` first.
    pub initialize: bool,
}

/// A guest's file.
pub struct Source<'p> {
    path: &'p Path,
    /// The module or component in the binary format, converted if the file is text.
    wasm: Vec<u8>,
    /// The bytes of the file if it is text.
    text: Option<Vec<u8>>,
}

impl<'p> Source<'p> {
    /// Reads the guest at `path`.
    ///
    /// # Errors
    /// Returns an error that names the file if it cannot be read or is not a core module or a component.
    pub fn read(path: &'p Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Err(Failure::new(
                "`run` cannot read the guest from standard input; name a file",
            ));
        }
        let at = |cause: String| Failure::new(format!("{}: {cause}", path.display()));
        let cannot_read = |error: std::io::Error| at(format!("cannot read: {error}"));
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(cannot_read)?;
        let too_large =
            || at(format!("is larger than {MAX_MODULE_BYTES} bytes, the limit of `run`"));
        // Only a regular file has a meaningful length.
        if file.metadata().is_ok_and(|file| file.is_file() && file.len() > MAX_MODULE_BYTES) {
            return Err(too_large());
        }
        file.take(MAX_MODULE_BYTES + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
        if bytes.len() as u64 > MAX_MODULE_BYTES {
            return Err(too_large());
        }
        match module_file::form(&bytes, Components::Accepted).map_err(at)? {
            Form::Binary => Ok(Self { path, wasm: bytes, text: None }),
            Form::Text => {
                let wasm = wat_text::module(path, &bytes, false).map_err(Failure::new)?;
                Ok(Self { path, wasm, text: Some(bytes) })
            }
        }
    }

    /// Returns whether the file is text.
    pub fn is_text(&self) -> bool {
        self.text.is_some()
    }

    /// Returns whether the guest is a component.
    pub fn is_component(&self) -> bool {
        Parser::is_component(&self.wasm)
    }

    /// Checks a core module and resolves the call of the exported function `invoke`, or of `_start`. With `stubs`, the
    /// module may import unknown functions.
    ///
    /// # Errors
    /// Returns the first error on one line, with the name of the guest.
    pub fn check<T: 'static>(
        &self,
        invoke: Option<&str>,
        args: &[String],
        stubs: bool,
        linker: &Linker<T>,
        store: &mut Store<T>,
    ) -> Result<Call, Failure> {
        let path = self.path.display();
        let invalid = |error| Failure::new(self.invalid(&error));
        let validate = || Module::validate(linker.engine(), &self.wasm).map_err(invalid);
        let Ok(module) = GuestModule::parse(&self.wasm) else {
            validate()?;
            return Err(Failure::new(format!("{path}: cannot read the module")));
        };
        let checked = check_imports(&module, stubs, linker, store);
        let call = checked.and_then(|()| call(&module, invoke, args));
        let call = call.map_err(|cause| Failure::new(format!("{path}: {cause}")))?;
        // Validates last, because reading all function bodies takes longest.
        validate()?;
        Ok(call)
    }

    /// Returns the module or component in the binary format.
    pub fn into_wasm(self) -> Vec<u8> {
        self.wasm
    }

    /// Formats the message for an invalid module, with the line if the guest is text.
    fn invalid(&self, error: &wasmtime::Error) -> String {
        let path = self.path.display();
        let cause = cause::invalid(&self.wasm, error);
        let Some((cause, offset)) = cause::split_offset(&cause) else {
            return format!("{path}: {cause}");
        };
        let place = self.text.as_ref().and_then(|text| {
            // Encodes the text again for its lines, which would cost valid guests time and memory.
            let with_lines = wat_text::module(self.path, text, true).ok()?;
            let position = corestream_symbols::position_at(&with_lines, offset)?;
            position.line.zip(position.column)
        });
        match place {
            Some((line, column)) => format!("{path}:{line}:{column}: {cause}"),
            None => format!("{path}: {cause} (at offset {offset:#x})"),
        }
    }
}

/// Checks that the linker provides each import, except for functions with `stubs`.
///
/// # Errors
/// Returns a message that names the missing and mismatched imports.
fn check_imports<T: 'static>(
    module: &GuestModule<'_>,
    stubs: bool,
    linker: &Linker<T>,
    store: &mut Store<T>,
) -> Result<(), String> {
    let (mut unknown, mut mismatches) = (Vec::new(), Vec::new());
    let mut stubs_help = !stubs;
    for import in &module.imports {
        let name = format!("`{}::{}`", shown(import.module), shown(import.name));
        let Ok(provided) = linker.get(&mut *store, import.module, import.name) else {
            match kind(import.ty) {
                "function" if stubs => {}
                "function" => unknown.push(name),
                kind => {
                    stubs_help = false;
                    unknown.push(format!("{name} ({kind})"));
                }
            }
            continue;
        };
        if let Err(mismatch) = matches(module, import.ty, &provided, store) {
            mismatches.push(format!("import {name} {mismatch}"));
        }
    }
    // A module can import the same item twice.
    unknown.sort_unstable();
    unknown.dedup();
    if !unknown.is_empty() {
        let s = if unknown.len() == 1 { "" } else { "s" };
        let list = list(&unknown);
        let way_out =
            if stubs_help { "; --stub-imports makes stubs, which trap when called" } else { "" };
        return Err(format!(
            "unknown import{s} {list}: `run` provides WASI preview 1 only{way_out}"
        ));
    }
    match &mismatches[..] {
        [] => Ok(()),
        [first] => Err(first.clone()),
        [first, others @ ..] => {
            let more = match others.len() {
                1 => "1 more import does".into(),
                n => format!("{n} more imports do"),
            };
            Err(format!("{first}; {more} not fit either"))
        }
    }
}

/// Checks that the type of an import matches the item of the linker.
fn matches<T: 'static>(
    module: &GuestModule<'_>,
    import: TypeRef,
    provided: &Extern,
    store: &Store<T>,
) -> Result<(), String> {
    match (import, provided.ty(store)) {
        (TypeRef::Func(ty) | TypeRef::FuncExact(ty), ExternType::Func(provided)) => {
            let Some(wanted) = module.signature(ty) else {
                return Err("has no function type".into());
            };
            let same = |wanted: &[ValType], provided: Vec<wasmtime::ValType>| {
                wanted.len() == provided.len()
                    && wanted.iter().zip(&provided).all(|(a, b)| is_same(*a, b))
            };
            let fits = module.is_plain(ty)
                && same(wanted.params(), provided.params().collect())
                && same(wanted.results(), provided.results().collect());
            if fits {
                return Ok(());
            }
            Err(format!(
                "has the type {}, but WASI's function has the type {}",
                signature(wanted),
                provided_signature(&provided)
            ))
        }
        // The linker provides functions only. Instantiation would compare other types.
        (TypeRef::Memory(_), ExternType::Memory(_))
        | (TypeRef::Global(_), ExternType::Global(_))
        | (TypeRef::Table(_), ExternType::Table(_))
        | (TypeRef::Tag(_), ExternType::Tag(_)) => Ok(()),
        (import, _) => Err(format!("is a {} in the guest, but not in WASI", kind(import))),
    }
}

/// Returns whether two types are the same. Host functions use numbers and vectors only.
fn is_same(wanted: ValType, provided: &wasmtime::ValType) -> bool {
    matches!(
        (wanted, provided),
        (ValType::I32, wasmtime::ValType::I32)
            | (ValType::I64, wasmtime::ValType::I64)
            | (ValType::F32, wasmtime::ValType::F32)
            | (ValType::F64, wasmtime::ValType::F64)
            | (ValType::V128, wasmtime::ValType::V128)
    )
}

fn signature(ty: &wasmparser::FuncType) -> String {
    let text = |types: &[ValType]| types.iter().map(|ty| invoke::type_text(*ty)).collect();
    arrow(text(ty.params()), text(ty.results()))
}

fn provided_signature(ty: &FuncType) -> String {
    arrow(
        ty.params().map(|ty| ty.to_string()).collect(),
        ty.results().map(|ty| ty.to_string()).collect(),
    )
}

/// Formats a function type as `(i32, i64) -> (i32)`, truncated to a readable length.
fn arrow(parameters: Vec<String>, results: Vec<String>) -> String {
    format!("({}) -> ({})", invoke::type_list(&parameters), invoke::type_list(&results))
}

fn kind(import: TypeRef) -> &'static str {
    match import {
        TypeRef::Func(_) | TypeRef::FuncExact(_) => "function",
        TypeRef::Table(_) => "table",
        TypeRef::Memory(_) => "memory",
        TypeRef::Global(_) => "global",
        TypeRef::Tag(_) => "tag",
    }
}

/// Finds the function to call and parses its arguments.
fn call(module: &GuestModule<'_>, invoke: Option<&str>, args: &[String]) -> Result<Call, String> {
    let name = invoke.unwrap_or("_start");
    let function = match module.export(name) {
        Some((kind, function)) if is_function(kind) => function,
        Some((kind, _)) => {
            let kind = format!("{kind:?}").to_lowercase();
            return Err(format!("export {} is a {kind}, not a function", shown(name)));
        }
        None if invoke.is_none()
            && module.has_start()
            && module.exported_functions().is_empty() =>
        {
            if let Some(arg) = args.first() {
                return Err(format!(
                    "only has a start function, which takes no arguments; remove {arg}"
                ));
            }
            return Ok(Call { name: None, parameters: vec![], results: 0, initialize: false });
        }
        None => return Err(no_function(module, name, invoke.is_none())),
    };
    let ty = module.function_type(function).ok_or("the called function has no type")?;
    let parameters = invoke::parameters(module, ty, args);
    let parameters = parameters.map_err(|why| format!("function {}: {why}", shown(name)))?;
    let initialize = invoke.is_some() && name != "_initialize";
    let initialize = match module.export("_initialize") {
        Some((kind, function)) if initialize && is_function(kind) => {
            let ty = module.function_type(function);
            if !ty.is_some_and(|ty| ty.params().is_empty() && ty.results().is_empty()) {
                return Err(
                    "function _initialize: it must have no parameters and no results".into()
                );
            }
            true
        }
        _ => false,
    };
    Ok(Call { name: Some(name.into()), parameters, results: ty.results().len(), initialize })
}

/// Formats the message for a function that is not exported, with the exported ones.
fn no_function(module: &GuestModule<'_>, name: &str, default: bool) -> String {
    let names: Vec<String> = module.exported_functions().iter().map(|name| shown(name)).collect();
    let way_out = if names.is_empty() {
        " and no other function".into()
    } else if default {
        format!("; choose one with --invoke: {}", list(&names))
    } else {
        format!(", only {}", list(&names))
    };
    format!("exports no function {}{way_out}", shown(name))
}

/// Formats the first names of a list, and the number of others.
pub fn list(names: &[String]) -> String {
    let (first, others) = names.split_at(names.len().min(LISTED));
    let first = first.join(", ");
    match others.len() {
        0 => first,
        others => format!("{first} and {others} more"),
    }
}

/// Truncates a name from a module for a message.
pub fn shown(name: &str) -> String {
    match name.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.into(),
    }
}
