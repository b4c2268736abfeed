//! Numbers. A whole number past 2^53 is a string, because not every program reads such a number exactly. A float is a
//! string of its bits, so that every NaN is what it was. Both may be given as numbers too.

use serde::{Deserialize, Serialize};

use crate::limits::MAX_EXACT_NUMBER;

/// A number, or the same in a string.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, or one in a string")]
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
    /// Returns the number of an `f32` with these bits.
    pub fn from_f32(bits: u32) -> Self {
        Self::Text(format!("{bits:#010x}"))
    }

    /// Returns the number of an `f64` with these bits.
    pub fn from_f64(bits: u64) -> Self {
        Self::Text(format!("{bits:#018x}"))
    }

    /// Returns the number of a `v128` with these bits.
    pub fn from_v128(bits: u128) -> Self {
        Self::Text(format!("{bits:#034x}"))
    }

    /// Returns the whole number from 0 that it is.
    pub fn to_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Text(text) => text.parse().ok(),
            Self::Signed(_) | Self::Float(_) => None,
        }
    }

    /// Returns the whole number that it is.
    pub fn to_i64(&self) -> Option<i64> {
        match self {
            Self::Unsigned(value) => i64::try_from(*value).ok(),
            Self::Signed(value) => Some(*value),
            Self::Float(_) => None,
            Self::Text(text) => text.parse().ok(),
        }
    }

    /// Returns the whole number that it is.
    pub fn to_i32(&self) -> Option<i32> {
        i32::try_from(self.to_i64()?).ok()
    }

    /// Returns the bits of the `f64` that it is.
    pub fn to_f64(&self) -> Option<u64> {
        match self {
            #[allow(clippy::cast_precision_loss, reason = "JSON does not tell 1 from 1.0")]
            Self::Unsigned(value) => Some((*value as f64).to_bits()),
            #[allow(clippy::cast_precision_loss, reason = "JSON does not tell 1 from 1.0")]
            Self::Signed(value) => Some((*value as f64).to_bits()),
            Self::Float(value) => Some(value.to_bits()),
            Self::Text(text) => u64::try_from(hexadecimal(text)?).ok(),
        }
    }

    /// Returns the bits of the `f32` that it is.
    pub fn to_f32(&self) -> Option<u32> {
        if let Self::Text(text) = self {
            return u32::try_from(hexadecimal(text)?).ok();
        }
        let value = f64::from_bits(self.to_f64()?);
        #[allow(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
        let nearest = value as f32;
        (nearest.is_finite() || !value.is_finite()).then(|| nearest.to_bits())
    }

    /// Returns the bits of the `v128` that it is.
    pub fn to_v128(&self) -> Option<u128> {
        match self {
            Self::Text(text) => hexadecimal(text),
            Self::Unsigned(_) | Self::Signed(_) | Self::Float(_) => None,
        }
    }
}

/// Returns the value of `0x…`.
fn hexadecimal(text: &str) -> Option<u128> {
    let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'))?;
    u128::from_str_radix(digits, 16).ok()
}

/// Defines a type that is written as a [`Number`], and read from one that fits.
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
    Whole(u64),
    "A whole number.",
    Number::from,
    Number::to_u64,
    "it must be a whole number from 0"
);
number!(
    Pages(u64),
    "A number of pages.",
    Number::from,
    Number::to_u64,
    "a number of pages is a whole number from 0"
);
number!(
    Address(u64),
    "An address of a memory.",
    Number::from,
    Number::to_u64,
    "an address is a whole number from 0"
);
number!(I32(i32), "An `i32`.", Number::from, Number::to_i32, "the value is no i32");
number!(I64(i64), "An `i64`.", Number::from, Number::to_i64, "the value is no i64");
number!(F32(u32), "The bits of an `f32`.", Number::from_f32, Number::to_f32, "the value is no f32");
number!(F64(u64), "The bits of an `f64`.", Number::from_f64, Number::to_f64, "the value is no f64");
