//! What a dump knows of a variable, and how it is shown.

use std::fmt;

/// What is known of a variable. As text it is `= VALUE`, or `at ADDRESS`.
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
    /// Neither its value nor its address.
    Nothing,
    /// A signed integer.
    Signed(i64),
    /// An unsigned integer.
    Unsigned(u64),
    /// A truth value.
    Boolean(bool),
    /// The bits of a float of 32 bits.
    F32(u32),
    /// The bits of a float of 64 bits.
    F64(u64),
    /// A pointer, by the address that it holds.
    Pointer(u64),
    /// Something larger, by the address where it lies.
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
