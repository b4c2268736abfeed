//! Values of variables, as far as the dump knows them.

use std::fmt;

use corestream::read::{FrameView, InstanceView};
use corestream::{CoreDumpFile, GlobalValue, Value};

use super::variables::{Base, Shape, Variable};

/// What is known of a variable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Known {
    Nothing,
    Signed(i64),
    Unsigned(u64),
    Boolean(bool),
    F32(u32),
    F64(u64),
    /// A pointer, by the address that it holds.
    Pointer(u64),
    /// Something larger, by the address where it lies.
    LiesAt(u64),
}

/// A frame of a dump, with what its variables may be in.
pub struct State<'s, 'd, 'f> {
    pub dump: &'s CoreDumpFile<'d>,
    pub frame: &'s FrameView<'f>,
    /// It waits for another frame.
    pub caller: bool,
}

/// Bits and how many of them there are, of a whole number or of a float.
#[derive(Clone, Copy)]
struct Bits {
    bits: u64,
    bytes: u8,
    float: bool,
}

impl State<'_, '_, '_> {
    /// What the dump knows of a variable.
    pub fn known(&self, variable: &Variable) -> Known {
        self.value(variable).unwrap_or(Known::Nothing)
    }

    fn value(&self, variable: &Variable) -> Option<Known> {
        let location = variable.location.as_ref()?;
        let base = match location.base {
            Base::Zero => Bits { bits: 0, bytes: 8, float: false },
            Base::Local(index) => bits(self.frame.locals().nth(index as usize)?)?,
            Base::Operand(index) => bits(self.frame.stack().nth(index as usize)?)?,
            Base::Global(index) => self.global(index)?,
        };
        if location.is_value {
            let exact = location.plus == 0 || !base.float;
            let bits = base.bits.wrapping_add_signed(location.plus);
            return exact.then(|| Bits { bits, ..base }.shown(variable.shape))?;
        }
        if base.float {
            return None;
        }
        let address = base.bits.wrapping_add_signed(location.plus);
        // Addresses of a memory of 32 bits wrap as the guest's own do.
        let address = if base.bytes == 4 { address & u64::from(u32::MAX) } else { address };
        let Some(size) = variable.shape.size() else { return Some(Known::LiesAt(address)) };
        let mut bytes = [0; 8];
        let memory = self.instance()?.memories().next()??;
        self.dump.read(memory, address, bytes.get_mut(..size.into())?).ok()?;
        let float = matches!(variable.shape, Shape::Float(_));
        Bits { bits: u64::from_le_bytes(bytes), bytes: size, float }.shown(variable.shape)
    }

    fn instance(&self) -> Option<InstanceView<'_>> {
        self.dump.instance(self.frame.instance?)
    }

    /// The value of a global while this frame was executed. A frame that waits may have had another
    /// one than the dump has: what it called may have changed it, as it does a stack pointer.
    fn global(&self, index: u32) -> Option<Bits> {
        if self.caller {
            return None;
        }
        let global = self.instance()?.globals().nth(index as usize)??;
        match self.dump.globals().get(global.0 as usize)?.value {
            GlobalValue::I32(x) => bits(Value::I32(x)),
            GlobalValue::I64(x) => bits(Value::I64(x)),
            GlobalValue::F32(x) => bits(Value::F32(x)),
            GlobalValue::F64(x) => bits(Value::F64(x)),
            _ => None,
        }
    }
}

fn bits(value: Value) -> Option<Bits> {
    let (bits, bytes, float) = match value {
        Value::I32(x) => (x.cast_unsigned().into(), 4, false),
        Value::I64(x) => (x.cast_unsigned(), 8, false),
        Value::F32(x) => (x.into(), 4, true),
        Value::F64(x) => (x, 8, true),
        Value::Missing => return None,
    };
    Some(Bits { bits, bytes, float })
}

impl Shape {
    fn size(self) -> Option<u8> {
        match self {
            Self::Signed(n) | Self::Unsigned(n) | Self::Boolean(n) | Self::Float(n) => Some(n),
            Self::Address(n) => Some(n),
            Self::Other => None,
        }
    }
}

impl Bits {
    /// As a value of a type; nothing where these are not the bits of one.
    fn shown(self, shape: Shape) -> Option<Known> {
        let size = shape.size()?;
        let float = matches!(shape, Shape::Float(_));
        let fits = if float { size == self.bytes } else { size <= self.bytes };
        if !fits || float != self.float {
            return None;
        }
        let unused = 64_u32.checked_sub(u32::from(size) * 8)?;
        let bits = self.bits.checked_shl(unused)?;
        Some(match shape {
            Shape::Signed(_) => Known::Signed(bits.cast_signed() >> unused),
            Shape::Unsigned(_) => Known::Unsigned(bits >> unused),
            Shape::Boolean(_) => match bits >> unused {
                0 => Known::Boolean(false),
                1 => Known::Boolean(true),
                more => Known::Unsigned(more),
            },
            Shape::Float(4) => Known::F32(u32::try_from(bits >> unused).ok()?),
            Shape::Float(_) => Known::F64(bits),
            Shape::Address(_) => Known::Pointer(bits >> unused),
            Shape::Other => return None,
        })
    }
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
