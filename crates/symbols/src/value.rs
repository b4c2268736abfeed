//! Values of variables, as far as the dump knows them.

use corestream::{CoreDumpFile, Frame, GlobalValue, Instance, Value};

use super::known::Known;
use super::variables::{Base, Shape, Variable};

/// A frame of a dump, with what its variables may be in.
pub struct State<'s, 'd> {
    pub dump: &'s CoreDumpFile<'d>,
    pub frame: &'s Frame,
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

impl State<'_, '_> {
    /// What the dump knows of a variable.
    pub fn known(&self, variable: &Variable) -> Known {
        self.value(variable).unwrap_or(Known::Nothing)
    }

    fn value(&self, variable: &Variable) -> Option<Known> {
        let location = variable.location.as_ref()?;
        let base = match location.base {
            Base::Zero => Bits { bits: 0, bytes: 8, float: false },
            Base::Local(index) => bits(*self.frame.locals.get(index as usize)?)?,
            Base::Operand(index) => bits(*self.frame.stack.get(index as usize)?)?,
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
        let memory = (*self.instance()?.memories.first()?)?;
        let memory = self.dump.memory(memory).ok()?;
        memory.read(address, bytes.get_mut(..size.into())?).ok()?;
        let float = matches!(variable.shape, Shape::Float(_));
        Bits { bits: u64::from_le_bytes(bytes), bytes: size, float }.shown(variable.shape)
    }

    fn instance(&self) -> Option<Instance> {
        self.dump.instance(self.frame.instance?).ok()
    }

    /// The value of a global while this frame was executed. A frame that waits may have had another
    /// one than the dump has: what it called may have changed it, as it does a stack pointer.
    fn global(&self, index: u32) -> Option<Bits> {
        if self.caller {
            return None;
        }
        let global = (*self.instance()?.globals.get(index as usize)?)?;
        match self.dump.global(global).ok()?.value {
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
        _ => return None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variables::Location;
    use corestream::{
        CoreDump, Dumper, Frame, Global, Instance, Memory, MemoryImage, MemoryType, Thread,
    };

    /// What is known of a variable at a location in a frame with some locals, of a guest whose global
    /// is 0x1000, where its memory has the bytes 0xff 1 2 3 4 5 6 7.
    fn known(base: Base, plus: i64, is_value: bool, shape: Shape, caller: bool) -> Known {
        let mut bytes = vec![0; 65_536];
        bytes[0x1000..0x1008].copy_from_slice(&[0xff, 1, 2, 3, 4, 5, 6, 7]);
        let mut dump = CoreDump::new("guest");
        let image = MemoryImage::from_slice(&bytes);
        let memory = dump.add_memory(Memory::new(MemoryType::wasm32(1), image));
        let global = dump.add_global(Global::mutable(GlobalValue::I32(0x1000)));
        let module = dump.add_module("guest");
        let instance = Instance::new(module).with_memories([memory]).with_globals([global]);
        let instance = dump.add_instance(instance);
        let locals = [
            Value::I32(-2),
            Value::I64(1 << 40),
            Value::F32(1.5_f32.to_bits()),
            Value::F64(2.5_f64.to_bits()),
            Value::Missing,
        ];
        let frame = Frame::new(instance, 0, 1).with_locals(locals).with_stack([Value::I32(0x1001)]);
        dump.add_thread(Thread::new("main").with_frames([frame]));
        let bytes = Dumper::new().plan(&dump).unwrap().to_vec().unwrap();
        let dump = CoreDumpFile::from_slice(&bytes).unwrap();
        let frame = dump.thread(0).unwrap().frames().next().unwrap().unwrap();
        let location = Some(Location { base, plus, is_value });
        let (name, parameter, known) = ("x".into(), false, Known::Nothing);
        let variable = Variable { name, parameter, location, shape, known };
        State { dump: &dump, frame: &frame, caller }.known(&variable)
    }

    #[test]
    fn values() {
        let local = |index, shape| known(Base::Local(index), 0, true, shape, true);
        assert_eq!(local(0, Shape::Signed(4)), Known::Signed(-2));
        assert_eq!(local(0, Shape::Unsigned(4)), Known::Unsigned(0xffff_fffe));
        assert_eq!(local(0, Shape::Signed(1)), Known::Signed(-2));
        assert_eq!(local(0, Shape::Unsigned(1)), Known::Unsigned(0xfe));
        assert_eq!(local(0, Shape::Address(4)), Known::Pointer(0xffff_fffe));
        assert_eq!(local(1, Shape::Signed(8)), Known::Signed(1 << 40));
        assert_eq!(local(2, Shape::Float(4)), Known::F32(1.5_f32.to_bits()));
        assert_eq!(local(3, Shape::Float(8)), Known::F64(2.5_f64.to_bits()));
        assert_eq!(known(Base::Zero, -7, true, Shape::Signed(4), false), Known::Signed(-7));
        assert_eq!(known(Base::Zero, 1, true, Shape::Boolean(1), false), Known::Boolean(true));
        // Too small for the type, of another kind, missing, not there, without a size.
        for (index, shape) in [
            (0, Shape::Signed(8)),
            (0, Shape::Float(4)),
            (2, Shape::Signed(4)),
            (3, Shape::Float(4)),
            (4, Shape::Signed(4)),
            (5, Shape::Signed(4)),
            (0, Shape::Other),
        ] {
            assert_eq!(local(index, shape), Known::Nothing, "{index} {shape:?}");
        }
    }

    #[test]
    fn in_memory() {
        let read = |base, plus, shape, caller| known(base, plus, false, shape, caller);
        let global = Base::Global(0);
        assert_eq!(read(global, 0, Shape::Unsigned(2), false), Known::Unsigned(0x1ff));
        assert_eq!(read(global, 4, Shape::Unsigned(4), false), Known::Unsigned(0x0706_0504));
        assert_eq!(read(global, -4, Shape::Signed(4), false), Known::Signed(0));
        assert_eq!(read(Base::Zero, 0x1000, Shape::Signed(1), true), Known::Signed(-1));
        assert_eq!(read(Base::Operand(0), 0, Shape::Unsigned(1), true), Known::Unsigned(1));
        assert_eq!(read(global, 16, Shape::Other, false), Known::LiesAt(0x1010));
        // A frame that waits may have had another global; past the end of the memory; not there.
        assert_eq!(read(global, 0, Shape::Unsigned(2), true), Known::Nothing);
        assert_eq!(read(global, 0xf000, Shape::Unsigned(1), false), Known::Nothing);
        assert_eq!(read(Base::Local(0), 0, Shape::Unsigned(4), false), Known::Nothing);
        assert_eq!(read(Base::Global(1), 0, Shape::Unsigned(4), false), Known::Nothing);
        assert_eq!(read(Base::Local(2), 0, Shape::Unsigned(4), false), Known::Nothing);
    }
}
