//! The text forms of types and values.
//!
//! `Display` and `FromStr` of each type are next to each other because they are inverses: parsing a displayed value
//! returns the same bits. A NaN is therefore displayed with its sign, and with its payload unless that is the canonical
//! one, in the syntax of the text format (core specification, "Floating-Point").

use std::fmt;
use std::str::FromStr;

use super::memory::MemoryType;
use super::values::{GlobalValue, NumberType, RefType, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::PAGE_BYTES;

/// Returns an error for invalid text.
fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Option, message)
}

/// Returns an error for an unknown type, which lists the known ones.
fn unknown_type(text: &str, names: &[&str]) -> Error {
    invalid(format!("unknown type {text:?}; expected one of {}", names.join(", ")))
}

/// Finds a type by its name.
fn find_type<T: Copy>(text: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T> {
    let found = all.iter().find(|ty| name(**ty) == text);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|ty| name(*ty)).collect();
        unknown_type(text, &names)
    })
}

impl fmt::Display for RefType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RefType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        find_type(text, Self::ALL, Self::name)
    }
}

impl fmt::Display for NumberType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for NumberType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        find_type(text, Self::ALL, Self::name)
    }
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |count| if count == 1 { "" } else { "s" };
        write!(f, "{} page{}", self.minimum, s(self.minimum))?;
        if self.page_size != PAGE_BYTES {
            write!(f, " of {} byte{}", self.page_size, s(self.page_size.into()))?;
        }
        if let Some(maximum) = self.maximum {
            write!(f, ", at most {maximum}")?;
        }
        if self.memory64 {
            f.write_str(", memory64")?;
        }
        if self.shared {
            f.write_str(", shared")?;
        }
        Ok(())
    }
}

impl FromStr for MemoryType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse_memory_type(text).ok_or_else(|| {
            let example = "16 pages of 1 byte, at most 32, memory64, shared";
            invalid(format!("invalid memory type {text:?}; expected a type such as {example:?}"))
        })
    }
}

/// Parses the type of a memory, with its parts in the order in which `Display` writes them.
fn parse_memory_type(text: &str) -> Option<MemoryType> {
    let mut parts = text.split(", ").peekable();
    let first = parts.next()?;
    let (pages, size) = match first.split_once(" of ") {
        Some((pages, size)) => (pages, Some(size)),
        None => (first, None),
    };
    let mut ty = MemoryType::wasm32(parse_quantity(pages, "page")?);
    if let Some(size) = size {
        ty.page_size = u32::try_from(parse_quantity(size, "byte")?).ok()?;
    }
    if let Some(maximum) = parts.peek().and_then(|part| part.strip_prefix("at most ")) {
        ty.maximum = Some(parse_decimal(maximum)?);
        parts.next();
    }
    ty.memory64 = parts.next_if_eq(&"memory64").is_some();
    ty.shared = parts.next_if_eq(&"shared").is_some();
    parts.next().is_none().then_some(ty)
}

/// Parses a number followed by a unit in the singular or plural.
fn parse_quantity(text: &str, unit: &str) -> Option<u64> {
    let (count, name) = text.split_once(' ')?;
    (name.strip_suffix('s').unwrap_or(name) == unit).then(|| parse_decimal(count)).flatten()
}

/// Parses decimal digits without a sign.
fn parse_decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Missing => f.write_str("missing"),
            Self::I32(x) => write!(f, "i32:{x}"),
            Self::I64(x) => write!(f, "i64:{x}"),
            Self::F32(bits) => write!(f, "f32:{}", Float::F32(bits)),
            Self::F64(bits) => write!(f, "f64:{}", Float::F64(bits)),
        }
    }
}

impl FromStr for Value {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = |ty: &str| unknown_type(ty, &["i32", "i64", "f32", "f64"]);
        match text.split_once(':') {
            None if text == "missing" => Ok(Self::Missing),
            None => Err(invalid(format!(
                "invalid value {text:?}; expected a value such as i32:-1 or missing"
            ))),
            Some((ty, value)) => match ty.parse() {
                Ok(NumberType::I32) => parse_number(ty, value).map(Self::I32),
                Ok(NumberType::I64) => parse_number(ty, value).map(Self::I64),
                Ok(NumberType::F32) => parse_f32_bits(value).map(Self::F32),
                Ok(NumberType::F64) => parse_f64_bits(value).map(Self::F64),
                Ok(NumberType::V128) | Err(_) => Err(unknown(ty)),
            },
        }
    }
}

impl fmt::Display for GlobalValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::I32(x) => Value::I32(x).fmt(f),
            Self::I64(x) => Value::I64(x).fmt(f),
            Self::F32(x) => Value::F32(x).fmt(f),
            Self::F64(x) => Value::F64(x).fmt(f),
            Self::V128(x) => write!(f, "v128:{x:#034x}"),
            Self::Ref(ty) => ty.fmt(f),
            Self::Missing(ty) => write!(f, "{ty}:missing"),
        }
    }
}

impl FromStr for GlobalValue {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((ty, value)) = text.split_once(':') else {
            return text.parse().map(Self::Ref).map_err(|_| {
                invalid(format!(
                    "invalid value {text:?}; expected a value such as i32:-1 or funcref"
                ))
            });
        };
        let number_type = ty.parse()?;
        if value == "missing" {
            return Ok(Self::Missing(number_type));
        }
        match number_type {
            NumberType::I32 => parse_number(ty, value).map(Self::I32),
            NumberType::I64 => parse_number(ty, value).map(Self::I64),
            NumberType::F32 => parse_f32_bits(value).map(Self::F32),
            NumberType::F64 => parse_f64_bits(value).map(Self::F64),
            NumberType::V128 => parse_v128_bits(value).map(Self::V128),
        }
    }
}

/// Parses a number of the type named `ty`.
fn parse_number<N: FromStr>(ty: &str, text: &str) -> Result<N> {
    text.parse().map_err(|_| invalid(format!("invalid {ty} {text:?}")))
}

fn parse_v128_bits(text: &str) -> Result<u128> {
    let bits = text.strip_prefix("0x").and_then(parse_hexadecimal);
    bits.ok_or_else(|| invalid(format!("invalid v128 {text:?}; expected 0x and up to 32 digits")))
}

/// Parses hexadecimal digits without a sign.
fn parse_hexadecimal(digits: &str) -> Option<u128> {
    let all = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    all.then(|| u128::from_str_radix(digits, 16).ok()).flatten()
}

/// The bits of a float.
#[derive(Clone, Copy)]
enum Float {
    F32(u32),
    F64(u64),
}

/// The bit fields of a NaN of 32 or 64 bits.
struct NanLayout {
    sign: u64,
    /// The exponent field, which is all ones.
    exponent: u64,
    /// The payload field. Its highest bit marks a quiet NaN, and is the canonical payload when it is the only one.
    payload: u64,
}

impl NanLayout {
    const F32: Self = Self { sign: 1 << 31, exponent: 0xff << 23, payload: (1 << 23) - 1 };
    const F64: Self = Self { sign: 1 << 63, exponent: 0x7ff << 52, payload: (1 << 52) - 1 };

    /// Returns the canonical payload.
    fn canonical(&self) -> u64 {
        self.payload ^ (self.payload >> 1)
    }

    /// Parses `NaN` or `NaN:0xPAYLOAD`, with an optional minus sign, and returns the bits.
    fn parse(&self, text: &str) -> Option<u64> {
        let (sign, text) = match text.strip_prefix('-') {
            Some(text) => (self.sign, text),
            None => (0, text),
        };
        let (name, payload) = match text.split_once(":0x") {
            Some((name, digits)) => (name, u64::try_from(parse_hexadecimal(digits)?).ok()?),
            None => (text, self.canonical()),
        };
        let fits = payload != 0 && payload & !self.payload == 0;
        (fits && name.eq_ignore_ascii_case("nan")).then_some(sign | self.exponent | payload)
    }
}

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bits, nan) = match *self {
            Self::F32(bits) if f32::from_bits(bits).is_nan() => (bits.into(), NanLayout::F32),
            Self::F64(bits) if f64::from_bits(bits).is_nan() => (bits, NanLayout::F64),
            Self::F32(bits) => return write!(f, "{:?}", f32::from_bits(bits)),
            Self::F64(bits) => return write!(f, "{:?}", f64::from_bits(bits)),
        };
        let sign = if bits & nan.sign == 0 { "" } else { "-" };
        match bits & nan.payload {
            payload if payload == nan.canonical() => write!(f, "{sign}NaN"),
            payload => write!(f, "{sign}NaN:{payload:#x}"),
        }
    }
}

fn parse_f32_bits(text: &str) -> Result<u32> {
    match NanLayout::F32.parse(text).map(u32::try_from) {
        Some(Ok(bits)) => Ok(bits),
        _ => parse_number("f32", text).map(f32::to_bits),
    }
}

fn parse_f64_bits(text: &str) -> Result<u64> {
    match NanLayout::F64.parse(text) {
        Some(bits) => Ok(bits),
        None => parse_number("f64", text).map(f64::to_bits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Parses the displayed value.
    fn round_trip<T: fmt::Display + FromStr<Err = Error>>(value: &T) -> T {
        value.to_string().parse().unwrap()
    }

    #[test]
    fn parses_every_displayed_type() {
        for ty in RefType::ALL {
            assert_eq!(
                (round_trip(ty), round_trip(&GlobalValue::Ref(*ty))),
                (*ty, GlobalValue::Ref(*ty))
            );
        }
        for ty in NumberType::ALL {
            let missing = GlobalValue::Missing(*ty);
            assert_eq!((round_trip(ty), round_trip(&missing)), (*ty, missing));
        }
        assert_eq!(round_trip(&Value::Missing), Value::Missing);
    }

    #[test]
    fn keeps_the_sign_and_payload_of_a_nan() {
        for (bits, text) in [
            (0x7fc0_0000, "f32:NaN"),
            (0xffc0_0000, "f32:-NaN"),
            (0x7f80_0001, "f32:NaN:0x1"),
            (0xffff_ffff, "f32:-NaN:0x7fffff"),
            (0x7f80_0000, "f32:inf"),
            (0x8000_0000, "f32:-0.0"),
        ] {
            assert_eq!(Value::F32(bits).to_string(), text);
            assert_eq!(text.parse::<Value>().unwrap(), Value::F32(bits));
        }
        let quiet = Value::F64(0x7ff8_0000_0000_0000);
        assert_eq!(quiet.to_string(), "f64:NaN");
        assert_eq!("f64:nan".parse::<Value>().unwrap(), quiet);
        assert_eq!("f64:nan:0x8000000000000".parse::<Value>().unwrap(), quiet);
    }

    #[test]
    fn rejects_invalid_values() {
        for (text, expected) in [
            ("7", "invalid value \"7\"; expected a value such as i32:-1 or funcref"),
            ("anyfunc", "invalid value \"anyfunc\"; expected a value such as i32:-1 or funcref"),
            ("u32:7", "unknown type \"u32\"; expected one of i32, i64, f32, f64, v128"),
            ("i32:2147483648", "invalid i32 \"2147483648\""),
            ("i64:", "invalid i64 \"\""),
            ("f32:NaN:0x0", "invalid f32 \"NaN:0x0\""),
            ("f32:NaN:0x800000", "invalid f32 \"NaN:0x800000\""),
            ("f64:NaN:0x+1", "invalid f64 \"NaN:0x+1\""),
            ("f64:NaN:1", "invalid f64 \"NaN:1\""),
            ("v128:1", "invalid v128 \"1\"; expected 0x and up to 32 digits"),
            ("v128:0x", "invalid v128 \"0x\"; expected 0x and up to 32 digits"),
        ] {
            let error = text.parse::<GlobalValue>().unwrap_err();
            assert_eq!((error.kind(), error.to_string()), (ErrorKind::Option, expected.into()));
        }
        for (text, expected) in [
            ("lost", "invalid value \"lost\"; expected a value such as i32:-1 or missing"),
            ("v128:0x1", "unknown type \"v128\"; expected one of i32, i64, f32, f64"),
            ("i32:missing", "invalid i32 \"missing\""),
        ] {
            assert_eq!(text.parse::<Value>().unwrap_err().to_string(), expected);
        }
        let error = "func".parse::<RefType>().unwrap_err().to_string();
        let names = "funcref, externref, anyref, exnref, contref";
        assert_eq!(error, format!("unknown type \"func\"; expected one of {names}"));
    }

    #[test]
    fn parses_memory_types_in_the_displayed_order_only() {
        let ty = MemoryType::wasm64(1).with_page_size(1).with_maximum(7).with_shared();
        assert_eq!(ty.to_string(), "1 page of 1 byte, at most 7, memory64, shared");
        assert_eq!(round_trip(&ty), ty);
        for text in [
            "",
            "16",
            "16 bytes",
            "+16 pages",
            "16 pages,shared",
            "16 pages of 1",
            "16 pages of 4294967296 bytes",
            "16 pages, at most",
            "16 pages, at most -1",
            "16 pages, shared, memory64",
            "16 pages, shared, shared",
            "16 pages, ",
            "18446744073709551616 pages",
        ] {
            let error = text.parse::<MemoryType>().unwrap_err().to_string();
            let expected =
                "expected a type such as \"16 pages of 1 byte, at most 32, memory64, shared\"";
            assert_eq!(error, format!("invalid memory type {text:?}; {expected}"));
        }
    }

    proptest! {
        #[test]
        fn parses_every_displayed_value(
            i32: i32, i64: i64, f32: u32, f64: u64, v128: u128, payload in 1..=0x7f_ffff_u32,
        ) {
            let nan = Value::F32(f32 & 0x8000_0000 | 0x7f80_0000 | payload);
            let values = [Value::I32(i32), Value::I64(i64), Value::F32(f32), Value::F64(f64), nan];
            prop_assert_eq!(values.map(|value| round_trip(&value)), values);
            let globals = [
                GlobalValue::I32(i32),
                GlobalValue::I64(i64),
                GlobalValue::F32(f32),
                GlobalValue::F64(f64 | 0x7ff << 52 | 1),
                GlobalValue::V128(v128),
            ];
            prop_assert_eq!(globals.map(|value| round_trip(&value)), globals);
        }

        #[test]
        fn parses_every_displayed_memory_type(
            minimum: u64, maximum: Option<u64>, memory64: bool, shared: bool, page_size: u32,
        ) {
            let mut ty = MemoryType { memory64, shared, maximum, ..MemoryType::wasm32(minimum) };
            prop_assert_eq!(round_trip(&ty), ty);
            ty.page_size = page_size;
            prop_assert_eq!(round_trip(&ty), ty);
        }

        #[test]
        fn never_panics_on_arbitrary_text(text in "\\PC{0,20}") {
            let _ = text.parse::<MemoryType>();
            if let Ok(value) = text.parse::<GlobalValue>() {
                prop_assert_eq!(round_trip(&value), value);
            }
        }
    }
}
