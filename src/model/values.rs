//! Globals, and values of them and of frames.

/// The top of one of the reference type hierarchies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefType {
    /// `funcref`
    Func,
    /// `externref`
    Extern,
    /// `anyref`
    Any,
    /// `exnref`
    Exn,
    /// `contref`
    Cont,
}

impl RefType {
    /// All of them, in the order of their names in the text format.
    pub const ALL: [Self; 5] = [Self::Func, Self::Extern, Self::Any, Self::Exn, Self::Cont];

    /// The name in the text format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Func => "funcref",
            Self::Extern => "externref",
            Self::Any => "anyref",
            Self::Exn => "exnref",
            Self::Cont => "contref",
        }
    }
}

/// A type of numbers or vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberType {
    /// `i32`
    I32,
    /// `i64`
    I64,
    /// `f32`
    F32,
    /// `f64`
    F64,
    /// `v128`
    V128,
}

impl NumberType {
    /// Returns the name in the text format.
    pub fn name(self) -> &'static str {
        match self {
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::V128 => "v128",
        }
    }
}

/// The value of a global. Floats are their bits, so that the payload of a NaN is kept.
///
/// ```
/// use corestream::{Global, GlobalValue};
///
/// let global = Global::mutable(1.5_f32.into());
/// assert_eq!(global.value, GlobalValue::F32(1.5_f32.to_bits()));
/// assert_eq!(GlobalValue::from(-1_i64), GlobalValue::I64(-1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalValue {
    /// `i32`
    I32(i32),
    /// `i64`
    I64(i64),
    /// `f32`, its bits
    F32(u32),
    /// `f64`, its bits
    F64(u64),
    /// `v128`, lane 0 of `i8x16` in the lowest byte
    V128(u128),
    /// A reference: its value has no meaning outside the process, null of its top type is written.
    Ref(RefType),
    /// A global of this type whose value is not known: WasmEdge writes no values. It can be read, and not
    /// written.
    Missing(NumberType),
}

/// A global with its value at the time of the dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Global {
    /// Whether it was declared mutable; kept in the dump.
    pub mutable: bool,
    /// Type and value.
    pub value: GlobalValue,
}

impl Global {
    /// A global that was declared mutable.
    pub fn mutable(value: GlobalValue) -> Self {
        Self { mutable: true, value }
    }

    /// A global that was declared immutable.
    pub fn constant(value: GlobalValue) -> Self {
        Self { mutable: false, value }
    }
}

/// A local or an operand in a frame. v128 and references have no encoding there: [`Value::Missing`].
///
/// ```
/// use corestream::{Frame, Value};
///
/// let frame = Frame::new(None, 3, 17).with_locals([7.into(), Value::Missing, 0.5_f64.into()]);
/// assert_eq!(frame.locals, [Value::I32(7), Value::Missing, Value::F64(0.5_f64.to_bits())]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// The engine could not say.
    Missing,
    /// `i32`
    I32(i32),
    /// `i64`
    I64(i64),
    /// `f32`, its bits
    F32(u32),
    /// `f64`, its bits
    F64(u64),
}

macro_rules! from {
    ($($of:ty => $variant:ident: $bits:expr,)*) => {$(
        impl From<$of> for Value {
            fn from(value: $of) -> Self {
                Self::$variant($bits(value))
            }
        }

        impl From<$of> for GlobalValue {
            fn from(value: $of) -> Self {
                Self::$variant($bits(value))
            }
        }
    )*};
}

from! {
    i32 => I32: std::convert::identity,
    i64 => I64: std::convert::identity,
    f32 => F32: f32::to_bits,
    f64 => F64: f64::to_bits,
}
