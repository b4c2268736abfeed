//! Numbers in JSON.
//!
//! A whole number above 2^53 is written as a string, because not every program reads such a number exactly. A float is
//! written as a string with its bits in hexadecimal, so that every NaN survives. Both can also be read from numbers.

use serde::{Deserialize, Serialize};

use crate::limits::MAX_EXACT_NUMBER;

/// A number, or a string that contains a number.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, or a string that contains a number")]
pub enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        if value <= MAX_EXACT_NUMBER {
            Self::Unsigned(value)
        } else {
            Self::Text(value.to_string())
        }
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        match u64::try_from(value) {
            Ok(value) => value.into(),
            Err(_) if value.unsigned_abs() <= MAX_EXACT_NUMBER => Self::Signed(value),
            Err(_) => Self::Text(value.to_string()),
        }
    }
}

impl From<i32> for Number {
    fn from(value: i32) -> Self {
        i64::from(value).into()
    }
}

impl Number {
    /// Converts the bits of an `f32`.
    pub fn from_f32(bits: u32) -> Self {
        Self::Text(format!("{bits:#010x}"))
    }

    /// Converts the bits of an `f64`.
    pub fn from_f64(bits: u64) -> Self {
        Self::Text(format!("{bits:#018x}"))
    }

    /// Converts the bits of a `v128`.
    pub fn from_v128(bits: u128) -> Self {
        Self::Text(format!("{bits:#034x}"))
    }

    /// Returns the number as a `u64`, or `None` if it is not one.
    pub fn to_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Text(text) => text.parse().ok(),
            Self::Signed(_) | Self::Float(_) => None,
        }
    }

    /// Returns the number as an `i64`, or `None` if it is not one.
    pub fn to_i64(&self) -> Option<i64> {
        match self {
            Self::Unsigned(value) => i64::try_from(*value).ok(),
            Self::Signed(value) => Some(*value),
            Self::Float(_) => None,
            Self::Text(text) => text.parse().ok(),
        }
    }

    /// Returns the number as an `i32`, or `None` if it is not one.
    pub fn to_i32(&self) -> Option<i32> {
        i32::try_from(self.to_i64()?).ok()
    }

    /// Returns the bits of the number as an `f64`, or `None` if it is not one.
    pub fn to_f64(&self) -> Option<u64> {
        match self {
            #[allow(clippy::cast_precision_loss, reason = "JSON does not distinguish 1 from 1.0")]
            Self::Unsigned(value) => Some((*value as f64).to_bits()),
            #[allow(clippy::cast_precision_loss, reason = "JSON does not distinguish 1 from 1.0")]
            Self::Signed(value) => Some((*value as f64).to_bits()),
            Self::Float(value) => Some(value.to_bits()),
            Self::Text(text) => u64::try_from(hexadecimal(text)?).ok(),
        }
    }

    /// Returns the bits of the number as an `f32`, rounded to the nearest one. Returns `None` if it is too large, or not a
    /// number.
    pub fn to_f32(&self) -> Option<u32> {
        if let Self::Text(text) = self {
            return u32::try_from(hexadecimal(text)?).ok();
        }
        let value = f64::from_bits(self.to_f64()?);
        #[allow(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
        let nearest = value as f32;
        (nearest.is_finite() || !value.is_finite()).then(|| nearest.to_bits())
    }

    /// Returns the bits of a `v128`, or `None` if the number is not a string of its bits.
    pub fn to_v128(&self) -> Option<u128> {
        match self {
            Self::Text(text) => hexadecimal(text),
            Self::Unsigned(_) | Self::Signed(_) | Self::Float(_) => None,
        }
    }
}

/// Parses a number of the form `0x…`.
fn hexadecimal(text: &str) -> Option<u128> {
    let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'))?;
    u128::from_str_radix(digits, 16).ok()
}

/// Defines a type that is serialized as a [`Number`], and deserialized from a [`Number`] in its range.
macro_rules! number {
    ($name:ident($value:ty), $doc:literal, $write:expr, $read:expr, $mismatch:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, Serialize, Deserialize)]
        #[serde(into = "Number", try_from = "Number")]
        pub struct $name(pub $value);

        impl From<$name> for Number {
            fn from(number: $name) -> Self {
                $write(number.0)
            }
        }

        impl TryFrom<Number> for $name {
            type Error = &'static str;

            fn try_from(number: Number) -> Result<Self, Self::Error> {
                $read(&number).map(Self).ok_or($mismatch)
            }
        }
    };
}

number!(
    WholeNumber(u64),
    "A whole number.",
    Number::from,
    Number::to_u64,
    "invalid number; expected a non-negative integer"
);
number!(
    Pages(u64),
    "A number of pages.",
    Number::from,
    Number::to_u64,
    "invalid number of pages; expected a non-negative integer"
);
number!(
    Address(u64),
    "An address of a memory.",
    Number::from,
    Number::to_u64,
    "invalid address; expected a non-negative integer"
);
number!(I32(i32), "An `i32`.", Number::from, Number::to_i32, "not a valid i32");
number!(I64(i64), "An `i64`.", Number::from, Number::to_i64, "not a valid i64");
number!(F32(u32), "The bits of an `f32`.", Number::from_f32, Number::to_f32, "not a valid f32");
number!(F64(u64), "The bits of an `f64`.", Number::from_f64, Number::to_f64, "not a valid f64");
