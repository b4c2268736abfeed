//! The arguments and results of `--invoke`, in text form.

use wasmparser::{
    AbstractHeapType, CompositeInnerType, FuncType, HeapType, Operator, Parser, Payload, RefType,
    UnpackedIndex, ValType,
};
use wasmtime::Val;

use super::module::GuestModule;

/// The maximum number of types in a message.
const LISTED_TYPES: usize = 20;
/// The maximum number of characters of an argument in a message.
const MAX_SHOWN: usize = 60;

/// The reason why text is not a value of a type.
#[derive(Debug, PartialEq, Eq)]
enum Mistake {
    /// The syntax is wrong.
    Syntax,
    /// The number is out of range for the type.
    Range,
    /// The payload of the NaN is out of range.
    Payload,
    /// The number of lanes does not match the shape.
    Lanes { given: usize, of: usize },
}

/// Parses the arguments of a function of type `ty`. If it has no parameters, ARGS are the guest's argv instead.
///
/// # Errors
/// Returns an error if the number of arguments is wrong, or one is not a value of its type.
pub fn parameters(
    module: &GuestModule<'_>,
    ty: &FuncType,
    args: &[String],
) -> Result<Vec<Val>, String> {
    let types = ty.params();
    if types.is_empty() {
        return Ok(Vec::new());
    }
    if types.len() != args.len() {
        let s = if types.len() == 1 { "" } else { "s" };
        let given = if args.len() == 1 { "argument is" } else { "arguments are" };
        let list: Vec<String> = types.iter().map(|ty| type_text(*ty)).collect();
        let list = type_list(&list);
        return Err(format!(
            "takes {} parameter{s} ({list}), but {} {given} given after --",
            types.len(),
            args.len()
        ));
    }
    let mut values = Vec::with_capacity(types.len());
    for (i, (ty, arg)) in types.iter().zip(args).enumerate() {
        let at = |why: String| format!("argument {} (`{}`) {why}", i + 1, shown(arg));
        values.push(value(module, *ty, arg).map_err(at)?);
    }
    Ok(values)
}

/// Formats the first types of a list, separated by commas.
pub fn type_list(types: &[String]) -> String {
    let mut list = types.iter().take(LISTED_TYPES).cloned().collect::<Vec<_>>().join(", ");
    if types.len() > LISTED_TYPES {
        list.push_str(", ...");
    }
    list
}

/// Formats a type as in the text format, with types of the module as indices.
pub fn type_text(ty: ValType) -> String {
    match ty {
        ValType::Ref(ty) => reference_text(ty),
        ty => ty.to_string(),
    }
}

fn reference_text(ty: RefType) -> String {
    let null = if ty.is_nullable() { "null " } else { "" };
    let index =
        |index: UnpackedIndex| index.as_module_index().map_or(String::new(), |i| i.to_string());
    match ty.heap_type() {
        HeapType::Concrete(ty) => format!("(ref {null}{})", index(ty)),
        HeapType::Exact(ty) => format!("(ref {null}(exact {}))", index(ty)),
        HeapType::Abstract { .. } => ty.to_string(),
    }
}

fn shown(arg: &str) -> String {
    match arg.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &arg[..end]),
        None => arg.into(),
    }
}

/// Parses `arg` as a value of type `ty`.
fn value(module: &GuestModule<'_>, ty: ValType, arg: &str) -> Result<Val, String> {
    let value = match ty {
        // Signed and unsigned values have the same bits.
        ValType::I32 => integer(arg, 32).map(|bits| Val::I32(low_32(bits).cast_signed())),
        ValType::I64 => integer(arg, 64).map(|bits| Val::I64(low_64(bits).cast_signed())),
        ValType::F32 => float(arg, ValType::F32).map(|bits| Val::F32(low_32(bits))),
        ValType::F64 => float(arg, ValType::F64).map(|bits| Val::F64(low_64(bits))),
        ValType::V128 => vector(arg).map(|bits| Val::V128(bits.into())),
        ValType::Ref(ty) => return reference(module, ty, arg),
    };
    value.map_err(|mistake| match mistake {
        Mistake::Syntax => format!("is not of type {ty}; expected {}", example(ty)),
        Mistake::Range => format!("is out of range for {ty}; expected {}", range(ty)),
        Mistake::Payload => format!("has a NaN payload out of range; expected {}", payload(ty)),
        Mistake::Lanes { given, of } => {
            let lanes = if given == 1 { "lane" } else { "lanes" };
            format!("has {given} {lanes}, but its shape has {of}")
        }
    })
}

fn example(ty: ValType) -> &'static str {
    match ty {
        ValType::I32 | ValType::I64 => "an integer such as -1, 42 or 0xff",
        ValType::F32 | ValType::F64 => "a number such as -1.5, 1e3, 0x1p-3, inf or nan",
        _ => "lanes such as i32x4:1,2,3,4, or 128 bits such as 0xff",
    }
}

fn range(ty: ValType) -> &'static str {
    match ty {
        ValType::I32 => "-2147483648 to 4294967295",
        ValType::I64 => "-9223372036854775808 to 18446744073709551615",
        ValType::F32 => "at most 3.4028235e38",
        ValType::F64 => "at most 1.7976931348623157e308",
        _ => "lanes that fit the shape, signed or unsigned",
    }
}

fn payload(ty: ValType) -> &'static str {
    match ty {
        ValType::F32 => "0x1 to 0x7fffff",
        ValType::F64 => "0x1 to 0xfffffffffffff",
        _ => "0x1 to 0x7fffff for f32x4, 0x1 to 0xfffffffffffff for f64x2",
    }
}

/// Parses an integer as in the text format: a sign, decimal or hexadecimal digits, and underscores between digits.
/// Accepts the ranges of both signed and unsigned integers, and returns the bits.
fn integer(text: &str, bits: u32) -> Result<u128, Mistake> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => (16, digits),
        None => (10, digits),
    };
    // An underscore must be between two digits.
    let is_digits = digits
        .split('_')
        .all(|group| !group.is_empty() && group.chars().all(|c| c.is_digit(radix)));
    if !is_digits {
        return Err(Mistake::Syntax);
    }
    let magnitude = u128::from_str_radix(&digits.replace('_', ""), radix);
    let magnitude = magnitude.map_err(|_| Mistake::Range)?;
    let mask = u128::MAX >> (u128::BITS - bits);
    let largest = if negative { (mask >> 1) + 1 } else { mask };
    if magnitude > largest {
        return Err(Mistake::Range);
    }
    Ok(if negative { magnitude.wrapping_neg() & mask } else { magnitude })
}

/// Parses a float of type `ty` as in the text format, or as Rust displays it, and returns the bits.
fn float(text: &str, ty: ValType) -> Result<u128, Mistake> {
    let lower = text.to_ascii_lowercase();
    let (sign, rest) = match lower.strip_prefix(['-', '+']) {
        Some(rest) => (&lower[..1], rest),
        None => ("", lower.as_str()),
    };
    let rest = if rest == "infinity" { "inf" } else { rest };
    // Accepts a single token only, so that it cannot end the expression below.
    let is_token = rest.chars().all(|c| c.is_ascii_alphanumeric() || "+-._:".contains(c));
    if rest.is_empty() || !is_token {
        return Err(Mistake::Syntax);
    }
    // The parser of the text format supports hexadecimal floats and NaN payloads, and rounds correctly.
    let module = format!("(module (global {ty} ({ty}.const {sign}{rest})))");
    match wat::parse_str(module) {
        Ok(wasm) => constant(&wasm).ok_or(Mistake::Syntax),
        Err(error) if error.to_string().contains("out of range") => {
            Err(if rest.starts_with("nan") { Mistake::Payload } else { Mistake::Range })
        }
        // Rust accepts forms such as `.5`.
        Err(_) if rest.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
            let parsed = if ty == ValType::F64 {
                lower.parse::<f64>().map(|x| (u128::from(x.to_bits()), x.is_finite()))
            } else {
                lower.parse::<f32>().map(|x| (u128::from(x.to_bits()), x.is_finite()))
            };
            let (bits, finite) = parsed.map_err(|_| Mistake::Syntax)?;
            if finite { Ok(bits) } else { Err(Mistake::Range) }
        }
        Err(_) => Err(Mistake::Syntax),
    }
}

/// Returns the bits of the float that initializes the module's only global.
fn constant(wasm: &[u8]) -> Option<u128> {
    let expression = Parser::new(0).parse_all(wasm).find_map(|payload| match payload {
        Ok(Payload::GlobalSection(globals)) => Some(globals.into_iter().next()?.ok()?.init_expr),
        _ => None,
    })?;
    match expression.get_operators_reader().read().ok()? {
        Operator::F32Const { value } => Some(value.bits().into()),
        Operator::F64Const { value } => Some(value.bits().into()),
        _ => None,
    }
}

/// Parses a vector, given as one number or as a shape and its lanes from lane 0 on, and returns the bits.
fn vector(text: &str) -> Result<u128, Mistake> {
    let Some((shape, lanes)) = text.trim().split_once([':', ' ']) else {
        // The form in which results are printed.
        return match text.strip_prefix("0x") {
            Some(_) => integer(text, 128),
            None => Err(Mistake::Syntax),
        };
    };
    let (of, bits, ty) = match shape {
        "i8x16" => (16, 8, None),
        "i16x8" => (8, 16, None),
        "i32x4" => (4, 32, None),
        "i64x2" => (2, 64, None),
        "f32x4" => (4, 32, Some(ValType::F32)),
        "f64x2" => (2, 64, Some(ValType::F64)),
        _ => return Err(Mistake::Syntax),
    };
    let lanes: Vec<&str> =
        lanes.split([',', ' ']).map(str::trim).filter(|lane| !lane.is_empty()).collect();
    if lanes.len() != of {
        return Err(Mistake::Lanes { given: lanes.len(), of });
    }
    let mut vector = 0;
    for lane in lanes.iter().rev() {
        let lane = match ty {
            Some(ty) => float(lane, ty)?,
            None => integer(lane, bits)?,
        };
        vector = (vector << bits) | lane;
    }
    Ok(vector)
}

/// Parses a null reference, the only reference with a text form.
fn reference(module: &GuestModule<'_>, ty: RefType, arg: &str) -> Result<Val, String> {
    let text = reference_text(ty);
    if !matches!(arg, "null" | "ref.null") {
        return Err(format!("is not of type {text}; only null is supported"));
    }
    if !ty.is_nullable() {
        return Err(format!("cannot be null, because {text} is not nullable"));
    }
    let null = match ty.heap_type() {
        HeapType::Abstract { shared: false, ty } => null_of(ty),
        HeapType::Concrete(index) | HeapType::Exact(index) => {
            let ty = index.as_module_index().and_then(|index| module.composite(index));
            match ty {
                Some(CompositeInnerType::Func(_)) => Some(Val::FuncRef(None)),
                Some(CompositeInnerType::Array(_) | CompositeInnerType::Struct(_)) => {
                    Some(Val::AnyRef(None))
                }
                _ => None,
            }
        }
        HeapType::Abstract { .. } => None,
    };
    null.ok_or_else(|| format!("is unsupported: `run` does not support parameters of type {text}"))
}

fn null_of(ty: AbstractHeapType) -> Option<Val> {
    use AbstractHeapType as Type;
    match ty {
        Type::Func | Type::NoFunc => Some(Val::FuncRef(None)),
        Type::Extern | Type::NoExtern => Some(Val::ExternRef(None)),
        Type::Any | Type::Eq | Type::I31 | Type::Struct | Type::Array | Type::None => {
            Some(Val::AnyRef(None))
        }
        Type::Exn | Type::NoExn => Some(Val::ExnRef(None)),
        _ => None,
    }
}

/// Formats the results, one per line.
pub fn render(results: &[Val]) -> String {
    let line = |value: &Val| match value {
        Val::I32(x) => format!("{x}\n"),
        Val::I64(x) => format!("{x}\n"),
        Val::F32(bits) => format!("{:?}\n", f32::from_bits(*bits)),
        Val::F64(bits) => format!("{:?}\n", f64::from_bits(*bits)),
        Val::V128(x) => format!("{:#034x}\n", x.as_u128()),
        Val::FuncRef(None) | Val::ExternRef(None) | Val::AnyRef(None) | Val::ExnRef(None) => {
            "null\n".into()
        }
        _ => "a reference\n".into(),
    };
    results.iter().map(line).collect()
}

/// Returns the low 32 bits.
fn low_32(bits: u128) -> u32 {
    let [a, b, c, d, ..] = bits.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Returns the low 64 bits.
fn low_64(bits: u128) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = bits.to_le_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_integers_as_in_the_text_format() {
        let i32 = |text: &str| integer(text, 32).map(|bits| low_32(bits).cast_signed());
        for (text, expected) in [
            ("0", 0),
            ("+7", 7),
            ("-1", -1),
            ("1_000", 1000),
            ("0xff", 255),
            ("-0x8000_0000", i32::MIN),
            ("-2147483648", i32::MIN),
            ("4294967295", -1),
            ("0xFFFFFFFF", -1),
            ("0000000000000000000000000000000000000000000000000007", 7),
        ] {
            assert_eq!(i32(text), Ok(expected), "{text}");
        }
        for text in ["4294967296", "-2147483649", "0x1_0000_0000", &"9".repeat(99)] {
            assert_eq!(i32(text), Err(Mistake::Range), "{text}");
        }
        for text in
            ["", "-", "--1", "0x", "_1", "1_", "1__0", "0x_1", "1.0", "ff", " 1", "+-1", "٣"]
        {
            assert_eq!(i32(text), Err(Mistake::Syntax), "{text}");
        }
        assert_eq!(integer("18446744073709551615", 64), Ok(u64::MAX.into()));
        assert_eq!(integer("18446744073709551616", 64), Err(Mistake::Range));
        assert_eq!(integer("-9223372036854775808", 64), Ok(1 << 63));
        assert_eq!(integer("-9223372036854775809", 64), Err(Mistake::Range));
        assert_eq!(integer("-129", 8), Err(Mistake::Range));
        assert_eq!(integer("-128", 8), Ok(0x80));
    }

    #[test]
    fn parses_floats_as_in_the_text_format() {
        let f32 = |text: &str| float(text, ValType::F32).map(|bits| f32::from_bits(low_32(bits)));
        let f64 = |text: &str| float(text, ValType::F64).map(|bits| f64::from_bits(low_64(bits)));
        for (text, expected) in [
            ("1", 1.0),
            ("-1.5", -1.5),
            ("1e3", 1000.0),
            ("1_000.5", 1000.5),
            ("0x1p-3", 0.125),
            ("0x1.8p1", 3.0),
            ("inf", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            (".5", 0.5),
            ("5.", 5.0),
        ] {
            assert_eq!(f64(text), Ok(expected), "{text}");
        }
        assert!(f64("nan").unwrap().is_nan() && f32("-NaN").unwrap().is_nan());
        assert_eq!(float("nan:0x400001", ValType::F32), Ok(0x7fc0_0001));
        assert_eq!(float("-0", ValType::F32), Ok(0x8000_0000));
        assert_eq!(f32("16777217"), Ok(16_777_216.0));
        for text in ["1e39", "0x1p128", "3.5e38"] {
            assert_eq!(f32(text), Err(Mistake::Range), "{text}");
        }
        assert_eq!(f64("1e309"), Err(Mistake::Range));
        for text in ["nan:0x0", "-nan:0x800000", "nan:0x10000000000000000"] {
            assert_eq!(f32(text), Err(Mistake::Payload), "{text}");
        }
        assert_eq!(f64("nan:0x10000000000000"), Err(Mistake::Payload));
        assert_eq!(float("nan:0xfffffffffffff", ValType::F64), Ok(0x7fff_ffff_ffff_ffff));
        for text in ["", "-", "x", "1)(", "1 2", "nan:", "1e", "0x", "$a", "infinite"] {
            assert_eq!(f64(text), Err(Mistake::Syntax), "{text}");
        }
    }

    #[test]
    fn parses_vectors_as_lanes_and_as_bits() {
        let lanes = Ok(0x0000_0004_ffff_ffff_0000_0002_0000_0001);
        assert_eq!(vector("i32x4:1,2,-1,4"), lanes);
        assert_eq!(vector("i32x4 1 2 -1 4"), lanes);
        assert_eq!(vector("i32x4:0x1, 2, 4294967295, 4"), lanes);
        assert_eq!(vector("0x00000004ffffffff0000000200000001"), lanes);
        assert_eq!(vector("f32x4:1,0,0,-0"), Ok(0x8000_0000_0000_0000_0000_0000_3f80_0000));
        assert_eq!(vector("i8x16:1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,-1").unwrap() >> 120, 0xff);
        assert_eq!(low_64(vector("f64x2:1e3,nan").unwrap()), 1000_f64.to_bits());
        assert_eq!(vector("i32x4:1,2,3"), Err(Mistake::Lanes { given: 3, of: 4 }));
        assert_eq!(vector("i16x8:70000,0,0,0,0,0,0,0"), Err(Mistake::Range));
        for text in ["", "1", "i32x5:1", "i32x4:1,2,3,x", "0x", "0xgg"] {
            assert_eq!(vector(text), Err(Mistake::Syntax), "{text}");
        }
        assert_eq!(vector(&format!("0x{}", "f".repeat(33))), Err(Mistake::Range));
    }
}
