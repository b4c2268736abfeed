//! Looking up the values of variables in a dump.

use std::cell::RefCell;

use corestream::{Frame, GlobalValue, Result, Value};

use super::instances::{Instances, known};
use super::known::Known;
use super::variables::{Base, Shape, Variable};

/// A frame of a dump, with the locals, globals and memory in which its variables can be.
pub struct GuestState<'s, 'd> {
    pub instances: &'s RefCell<Instances<'d>>,
    pub frame: &'s Frame,
    /// Whether the frame called a younger one.
    pub caller: bool,
}

/// The bits of an integer or a float, with their number.
#[derive(Clone, Copy)]
struct Bits {
    bits: u64,
    bytes: u8,
    float: bool,
}

/// The value of a variable, or its address in memory.
enum Found {
    Bits(Bits),
    /// The value is at this address of the first memory.
    Address(u64),
}

impl GuestState<'_, '_> {
    /// Returns the value or address of a variable. It is unknown if that part of the dump is damaged.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read.
    pub fn known(&self, variable: &Variable) -> Result<Known> {
        let value = match self.find(variable)? {
            Some(Found::Bits(bits)) => bits.shown(variable.shape),
            Some(Found::Address(address)) => self.read(address, variable.shape)?,
            None => None,
        };
        Ok(value.unwrap_or(Known::Nothing))
    }

    fn find(&self, variable: &Variable) -> Result<Option<Found>> {
        let Some(location) = &variable.location else { return Ok(None) };
        let in_frame =
            |values: &[Value], index: u32| values.get(index as usize).copied().and_then(bits);
        let base = match location.base {
            Base::Zero => Some(Bits { bits: 0, bytes: 8, float: false }),
            Base::Local(index) => in_frame(&self.frame.locals, index),
            Base::Operand(index) => in_frame(&self.frame.stack, index),
            Base::Global(index) => self.global(index)?,
        };
        let Some(base) = base else { return Ok(None) };
        if location.is_value {
            let exact = location.plus == 0 || !base.float;
            let bits = base.bits.wrapping_add_signed(location.plus);
            return Ok(exact.then_some(Found::Bits(Bits { bits, ..base })));
        }
        if base.float {
            return Ok(None);
        }
        let address = base.bits.wrapping_add_signed(location.plus);
        // Addresses in a 32-bit memory wrap around, as in the guest.
        let address = if base.bytes == 4 { address & u64::from(u32::MAX) } else { address };
        Ok(Some(Found::Address(address)))
    }

    /// Reads a value at an address of the first memory.
    fn read(&self, address: u64, shape: Shape) -> Result<Option<Known>> {
        let Some(size) = shape.size() else { return Ok(Some(Known::LiesAt(address))) };
        let mut instances = self.instances.borrow_mut();
        let Some(instance) = self.frame.instance else { return Ok(None) };
        let Some(memory) = instances.memory(instance)? else { return Ok(None) };
        let Some(memory) = known(instances.dump().memory(memory))? else { return Ok(None) };
        let mut bytes = [0; 8];
        let Some(part) = bytes.get_mut(..size.into()) else { return Ok(None) };
        let Some(()) = known(memory.read(address, part))? else { return Ok(None) };
        let float = matches!(shape, Shape::Float(_));
        Ok(Bits { bits: u64::from_le_bytes(bytes), bytes: size, float }.shown(shape))
    }

    /// Returns the value of a global as seen by this frame.
    ///
    /// Returns `None` for a calling frame, because the called functions may have changed the global, as they change the
    /// stack pointer.
    fn global(&self, index: u32) -> Result<Option<Bits>> {
        let Some(instance) = self.frame.instance.filter(|_| !self.caller) else { return Ok(None) };
        Ok(match self.instances.borrow_mut().global(instance, index)? {
            Some(GlobalValue::I32(x)) => bits(Value::I32(x)),
            Some(GlobalValue::I64(x)) => bits(Value::I64(x)),
            Some(GlobalValue::F32(x)) => bits(Value::F32(x)),
            Some(GlobalValue::F64(x)) => bits(Value::F64(x)),
            _ => None,
        })
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
    /// Interprets the bits as a type. Returns an unknown value if they do not fit it.
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
    use std::io;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;
    use crate::variables::Location;
    use corestream::read::ReadAt;
    use corestream::{
        CoreDump, CoreDumpFile, Dumper, ErrorKind, Frame, Global, Instance, Memory, MemoryImage,
        MemoryType, Thread,
    };

    /// Looks up a variable in a frame with some locals. The guest's global is 0x1000, where its memory has the bytes
    /// 0xff 1 2 3 4 5 6 7.
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
        let instances = RefCell::new(Instances::new(&dump));
        GuestState { instances: &instances, frame: &frame, caller }.known(&variable).unwrap()
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
        // Too small for the type, of another type, missing, out of range, without a size.
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
        // Local 0 is -2: the sum wraps around to 0x1000.
        assert_eq!(read(Base::Local(0), 0x1002, Shape::Unsigned(1), false), Known::Unsigned(0xff));
        assert_eq!(read(global, 16, Shape::Other, false), Known::LiesAt(0x1010));
        // A mutable global of a calling frame, past the end of the memory, out of range.
        assert_eq!(read(global, 0, Shape::Unsigned(2), true), Known::Nothing);
        assert_eq!(read(global, 0xf000, Shape::Unsigned(1), false), Known::Nothing);
        assert_eq!(read(Base::Local(0), 0, Shape::Unsigned(4), false), Known::Nothing);
        assert_eq!(read(Base::Global(1), 0, Shape::Unsigned(4), false), Known::Nothing);
        assert_eq!(read(Base::Local(2), 0, Shape::Unsigned(4), false), Known::Nothing);
    }

    /// A source that counts the bytes read, and can be made to fail.
    struct Source {
        bytes: Vec<u8>,
        read: AtomicU64,
        fails: AtomicBool,
    }

    impl ReadAt for &Source {
        fn len(&self) -> io::Result<u64> {
            Ok(self.bytes.len() as u64)
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            if self.fails.load(Ordering::Relaxed) {
                return Err(io::Error::other("the disk is gone"));
            }
            self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            self.bytes.as_slice().read_exact_at(buffer, offset)
        }
    }

    #[test]
    fn many_variables_in_globals_decode_each_instance_once() {
        let mut guest = CoreDump::new("guest");
        let image = MemoryImage::from_slice(&[7; 65_536]);
        let memory = guest.add_memory(Memory::new(MemoryType::wasm32(1), image));
        let values = [11, 22].map(GlobalValue::I32);
        let globals = values.map(|value| guest.add_global(Global::constant(value)));
        let module = guest.add_module("guest");
        let instances = globals.map(|global| {
            let instance = Instance::new(module).with_memories([memory]);
            guest.add_instance(instance.with_globals(vec![global; 100_000]))
        });
        let bytes = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
        let source = Source { bytes, read: AtomicU64::new(0), fails: AtomicBool::new(false) };
        let dump = CoreDumpFile::from_source(&source).unwrap();
        let frames = instances.map(|instance| Frame::new(instance, 0, 1));
        let instances = RefCell::new(Instances::new(&dump));
        let value = |frame, base, is_value, shape| {
            let location = Some(Location { base, plus: 0, is_value });
            let (name, parameter, known) = ("x".into(), false, Known::Nothing);
            let variable = Variable { name, parameter, location, shape, known };
            GuestState { instances: &instances, frame, caller: false }.known(&variable)
        };

        source.read.store(0, Ordering::Relaxed);
        // Threads that alternate between two instances, with a variable in the same global.
        for _ in 0..100 {
            for (frame, expected) in frames.iter().zip([11, 22]) {
                let known = value(frame, Base::Global(99_999), true, Shape::Signed(4));
                assert_eq!(known.unwrap(), Known::Signed(expected));
            }
        }
        // A frame with variables in many globals and in memory.
        for i in 0..200 {
            let known = value(&frames[1], Base::Global(i), true, Shape::Signed(4));
            assert_eq!(known.unwrap(), Known::Signed(22));
            let known = value(&frames[1], Base::Zero, false, Shape::Unsigned(1));
            assert_eq!(known.unwrap(), Known::Unsigned(7));
        }
        let (read, len) = (source.read.load(Ordering::Relaxed), source.bytes.len() as u64);
        // The instances are nearly all of the dump. Each global and each memory access is one read of up to 4 KiB.
        assert!(read <= len * 3 + 203 * 4096 + 200, "{read} bytes of {len} were read");

        source.fails.store(true, Ordering::Relaxed);
        for (base, is_value) in [(Base::Global(0), true), (Base::Zero, false)] {
            let error = value(&frames[0], base, is_value, Shape::Signed(1)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Input, "{base:?}");
        }
    }
}
