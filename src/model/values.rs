//! Globals, and the values of globals and frames.

/// The top of one of the reference type hierarchies.
///
/// ```
/// use corestream::RefType;
///
/// assert_eq!("funcref".parse::<RefType>()?, RefType::Func);
/// assert_eq!(RefType::ALL.iter().map(|ty| ty.name()).min(), Some("anyref"));
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
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
    /// All reference types of the format.
    pub const ALL: &[Self] = &[Self::Func, Self::Extern, Self::Any, Self::Exn, Self::Cont];

    /// Returns the name in the text format.
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
///
/// ```
/// use corestream::NumberType;
///
/// assert_eq!("v128".parse::<NumberType>()?, NumberType::V128);
/// assert_eq!(NumberType::ALL.iter().map(|ty| ty.name()).max(), Some("v128"));
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
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
    /// All types of numbers and vectors of the format.
    pub const ALL: &[Self] = &[Self::I32, Self::I64, Self::F32, Self::F64, Self::V128];

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

/// The value of a global.
///
/// Floats are stored as bits, which keeps the payload of a NaN. The text form is `TYPE:VALUE`, or the type of a
/// reference. Parsing a displayed value returns the same value.
///
/// ```
/// use corestream::{Global, GlobalValue, NumberType, RefType};
///
/// let global = Global::mutable(1.5_f32.into());
/// assert_eq!(global.value, GlobalValue::F32(1.5_f32.to_bits()));
/// assert_eq!(GlobalValue::from(-1_i64), GlobalValue::I64(-1));
///
/// assert_eq!("f64:1.5".parse::<GlobalValue>()?, 1.5.into());
/// assert_eq!("f32:NaN:0x200000".parse::<GlobalValue>()?, GlobalValue::F32(0x7fa0_0000));
/// assert_eq!("v128:0xff".parse::<GlobalValue>()?, GlobalValue::V128(255));
/// assert_eq!("funcref".parse::<GlobalValue>()?, GlobalValue::Ref(RefType::Func));
/// assert_eq!("i32:missing".parse::<GlobalValue>()?, GlobalValue::Missing(NumberType::I32));
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
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
    /// A reference. Its value has no meaning outside the process, so a dump has the null reference of its top type.
    Ref(RefType),
    /// An unknown value of this type. The reader returns it for dumps of WasmEdge, which have no values. A dump cannot
    /// be written with it.
    Missing(NumberType),
}

impl GlobalValue {
    /// Returns the name of the value's type in the text format.
    ///
    /// ```
    /// use corestream::{GlobalValue, RefType};
    ///
    /// assert_eq!(GlobalValue::I32(7).type_name(), "i32");
    /// assert_eq!(GlobalValue::Ref(RefType::Extern).type_name(), "externref");
    /// ```
    pub fn type_name(self) -> &'static str {
        match self {
            Self::I32(_) => NumberType::I32.name(),
            Self::I64(_) => NumberType::I64.name(),
            Self::F32(_) => NumberType::F32.name(),
            Self::F64(_) => NumberType::F64.name(),
            Self::V128(_) => NumberType::V128.name(),
            Self::Ref(ty) => ty.name(),
            Self::Missing(ty) => ty.name(),
        }
    }
}

/// A global with its value at the time of the dump.
///
/// ```
/// use corestream::Global;
///
/// let stack_pointer = Global::mutable(0x10000_i32.into());
/// assert!(stack_pointer.mutable && !Global::constant(7_i64.into()).mutable);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
#[non_exhaustive]
pub struct Global {
    /// Whether the global was declared mutable.
    pub mutable: bool,
    /// The type and value.
    pub value: GlobalValue,
}

impl Global {
    /// Returns a global that was declared mutable.
    pub fn mutable(value: GlobalValue) -> Self {
        Self { mutable: true, value }
    }

    /// Returns a global that was declared immutable.
    pub fn constant(value: GlobalValue) -> Self {
        Self { mutable: false, value }
    }
}

/// The value of a local or an operand of a frame.
///
/// The format has no encoding for v128 and references in frames. They are [`Value::Missing`]. The text form is
/// `TYPE:VALUE` or `missing`. Parsing a displayed value returns the same value.
///
/// ```
/// use corestream::{Frame, Value};
///
/// let frame = Frame::new(None, 3, 17).with_locals([7.into(), Value::Missing, 0.5_f64.into()]);
/// assert_eq!(frame.locals, [Value::I32(7), Value::Missing, Value::F64(0.5_f64.to_bits())]);
///
/// assert_eq!("i32:-1".parse::<Value>()?, Value::I32(-1));
/// assert_eq!(Value::from(0.5_f64).to_string(), "f64:0.5");
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Value {
    /// An unknown value.
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
