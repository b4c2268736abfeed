//! The function that is called: its parameters from the command line, its results as text.

use wasmtime::{FuncType, Val, ValType};

/// The values of the parameters of `ty`, as they stand on the command line.
///
/// # Errors
/// There are too many or too few, or one is not of its type.
pub fn parameters(ty: &FuncType, args: &[String]) -> Result<Vec<Val>, String> {
    let count = ty.params().len();
    if count == 0 {
        // They are the guest's argv.
        return Ok(Vec::new());
    }
    if count != args.len() {
        return Err(format!("it has {count} parameters, but {} ARGS are given", args.len()));
    }
    ty.params().zip(args).map(|(ty, arg)| parameter(&ty, arg)).collect()
}

fn parameter(ty: &ValType, arg: &str) -> Result<Val, String> {
    let value = match ty {
        ValType::I32 => arg.parse().map(Val::I32).ok(),
        ValType::I64 => arg.parse().map(Val::I64).ok(),
        ValType::F32 => arg.parse().map(|x: f32| Val::F32(x.to_bits())).ok(),
        ValType::F64 => arg.parse().map(|x: f64| Val::F64(x.to_bits())).ok(),
        _ => return Err(format!("a parameter of type {ty} can't be given here")),
    };
    value.ok_or_else(|| format!("{arg} is no {ty}"))
}

/// A place for each result of `ty`.
///
/// # Errors
/// One is of a type without a default.
pub fn results(ty: &FuncType) -> Result<Vec<Val>, String> {
    let default = |ty: ValType| {
        Val::default_for_ty(&ty).ok_or_else(|| format!("a result of type {ty} can't be taken"))
    };
    ty.results().map(default).collect()
}

/// Results as text, one a line.
pub fn render(results: &[Val]) -> String {
    let line = |value: &Val| match value {
        Val::I32(x) => format!("{x}\n"),
        Val::I64(x) => format!("{x}\n"),
        Val::F32(bits) => format!("{:?}\n", f32::from_bits(*bits)),
        Val::F64(bits) => format!("{:?}\n", f64::from_bits(*bits)),
        Val::V128(x) => format!("{:#034x}\n", x.as_u128()),
        _ => "a reference\n".into(),
    };
    results.iter().map(line).collect()
}
