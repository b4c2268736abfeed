//! The value or address of a variable, and its text form.

use std::fmt;

/// The value or address of a variable. The text form is `= VALUE` or `at ADDRESS`.
///
/// ```
/// use corestream_symbols::Known;
///
/// assert_eq!(Known::Signed(-1).to_string(), "= -1");
/// assert_eq!(Known::F32(1.5_f32.to_bits()).to_string(), "= 1.5");
/// assert_eq!(Known::LiesAt(0x1000).to_string(), "at 0x1000");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Known {
    /// Neither the value nor the address is known.
    Nothing,
    /// A signed integer.
    Signed(i64),
    /// An unsigned integer.
    Unsigned(u64),
    /// A boolean.
    Boolean(bool),
    /// A 32-bit float, as bits.
    F32(u32),
    /// A 64-bit float, as bits.
    F64(u64),
    /// A pointer, as an address.
    Pointer(u64),
    /// The address of a larger variable.
    LiesAt(u64),
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Nothing => f.write_str("= ?"),
            Self::Signed(x) => write!(f, "= {x}"),
            Self::Unsigned(x) => write!(f, "= {x}"),
            Self::Boolean(x) => write!(f, "= {x}"),
            Self::F32(x) => write!(f, "= {:?}", f32::from_bits(x)),
            Self::F64(x) => write!(f, "= {:?}", f64::from_bits(x)),
            Self::Pointer(x) => write!(f, "= {x:#x}"),
            Self::LiesAt(x) => write!(f, "at {x:#x}"),
        }
    }
}
