//! The locals, operands, globals and memory of a frame in a dump.

use std::cell::RefCell;

use corestream::{ErrorKind, Frame, GlobalValue, InstanceIndex, Result, Value};

use super::instances::{Instances, is_of_dump, known};
use super::value::Unknown;

/// The state of the guest as a frame of a dump sees it.
#[derive(Clone, Copy)]
pub struct FrameState<'s, 'd> {
    pub instances: &'s RefCell<Instances<'d>>,
    pub instance: Option<InstanceIndex>,
    /// `None` for static variables, which do not belong to a frame.
    pub frame: Option<&'s Frame>,
    /// Whether the frame called a younger one.
    pub caller: bool,
}

/// The bits of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    pub bits: u128,
    /// The size of the number in bytes.
    pub bytes: u8,
    pub class: Class,
}

/// The class of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Integer,
    Float,
    Vector,
}

/// The result of a lookup. The outer error ends the work: the dump cannot be read. The inner one is the reason why this
/// value is unknown.
pub type Lookup<T> = Result<std::result::Result<T, Unknown>>;

impl FrameState<'_, '_> {
    /// Returns the value of a local.
    ///
    /// # Errors
    /// Returns the reason why the value is unknown.
    pub fn local(&self, index: u32) -> std::result::Result<Bits, Unknown> {
        let locals = self.frame.map_or(&[][..], |frame| &frame.locals);
        locals.get(index as usize).copied().and_then(bits).ok_or(Unknown::Local(index))
    }

    /// Returns the value of the operand stack with this index, counted from the bottom.
    ///
    /// # Errors
    /// Returns the reason why the value is unknown.
    pub fn operand(&self, index: u32) -> std::result::Result<Bits, Unknown> {
        let stack = self.frame.map_or(&[][..], |frame| &frame.stack);
        stack.get(index as usize).copied().and_then(bits).ok_or(Unknown::Operand(index))
    }

    /// Returns the value of a global.
    ///
    /// A mutable global of a calling frame is unknown, because the called functions may have changed it, as they change
    /// the stack pointer.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read.
    pub fn global(&self, index: u32) -> Lookup<Bits> {
        let Some(instance) = self.instance else { return Ok(Err(Unknown::Global(index))) };
        let Some(global) = self.instances.borrow_mut().global(instance, index)? else {
            return Ok(Err(Unknown::Global(index)));
        };
        if self.caller && global.mutable {
            return Ok(Err(Unknown::ChangedGlobal(index)));
        }
        let value = match global.value {
            GlobalValue::I32(x) => Value::I32(x),
            GlobalValue::I64(x) => Value::I64(x),
            GlobalValue::F32(x) => Value::F32(x),
            GlobalValue::F64(x) => Value::F64(x),
            GlobalValue::V128(bits) => {
                return Ok(Ok(Bits { bits, bytes: 16, class: Class::Vector }));
            }
            _ => return Ok(Err(Unknown::Global(index))),
        };
        Ok(bits(value).ok_or(Unknown::Global(index)))
    }

    /// Fills `buffer` with the bytes at an address of the instance's first memory.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Lookup<()> {
        let mut instances = self.instances.borrow_mut();
        let memory = match self.instance {
            Some(instance) => instances.memory(instance)?,
            None => None,
        };
        let Some(memory) = memory else { return Ok(Err(Unknown::NoMemory)) };
        let Some(memory) = known(instances.dump().memory(memory))? else {
            return Ok(Err(Unknown::NoMemory));
        };
        match memory.read(address, buffer) {
            Ok(()) => Ok(Ok(())),
            Err(error) if error.kind() == ErrorKind::Option => {
                Ok(Err(Unknown::OutOfBounds(address)))
            }
            Err(error) if error.kind() == ErrorKind::Excluded => {
                Ok(Err(Unknown::Excluded(address)))
            }
            Err(error) if is_of_dump(error.kind()) => Ok(Err(Unknown::Lost(address))),
            Err(error) => Err(error),
        }
    }
}

fn bits(value: Value) -> Option<Bits> {
    let (bits, bytes, class) = match value {
        Value::I32(x) => (x.cast_unsigned().into(), 4, Class::Integer),
        Value::I64(x) => (x.cast_unsigned().into(), 8, Class::Integer),
        Value::F32(x) => (x.into(), 4, Class::Float),
        Value::F64(x) => (x.into(), 8, Class::Float),
        _ => return None,
    };
    Some(Bits { bits, bytes, class })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;
    use corestream::read::ReadAt;
    use corestream::{
        CoreDump, CoreDumpFile, Dumper, Global, Instance, Memory, MemoryImage, MemoryType, Thread,
    };

    /// Returns a dump of a guest whose memory has the bytes 1 to 8 at 0x1000, without the bytes from 0x2000 to 0x2010.
    fn dump() -> Vec<u8> {
        let mut bytes = vec![0; 65_536];
        bytes[0x1000..0x1008].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut dump = CoreDump::new("guest");
        let image = MemoryImage::from_slice(&bytes);
        let mut memory = Memory::new(MemoryType::wasm32(1), image);
        memory.exclude(0x2000..0x2010);
        let memory = dump.add_memory(memory);
        let mutable = dump.add_global(Global::mutable(GlobalValue::I32(0x1000)));
        let constant = dump.add_global(Global::constant(GlobalValue::F64(2.5_f64.to_bits())));
        let module = dump.add_module("guest");
        let instance = Instance::new(module).with_memories([memory]);
        let instance = dump.add_instance(instance.with_globals([mutable, constant]));
        let locals = [Value::I32(-2), Value::I64(1 << 40), Value::F32(0), Value::Missing];
        let frame = Frame::new(instance, 0, 1).with_locals(locals).with_stack([Value::I32(7)]);
        dump.add_thread(Thread::new("main").with_frames([frame]));
        Dumper::new().plan(&dump).unwrap().to_vec().unwrap()
    }

    fn integer(bits: u128, bytes: u8) -> Bits {
        Bits { bits, bytes, class: Class::Integer }
    }

    #[test]
    fn finds_values_or_the_reason_why_they_are_unknown() {
        let bytes = dump();
        let dump = CoreDumpFile::from_slice(&bytes).unwrap();
        let frame = dump.thread(0).unwrap().frames().next().unwrap().unwrap();
        let instances = RefCell::new(Instances::new(&dump));
        let instance = frame.instance;
        let state =
            FrameState { instances: &instances, instance, frame: Some(&frame), caller: false };
        assert_eq!(state.local(0), Ok(integer(0xffff_fffe, 4)));
        assert_eq!(state.local(1), Ok(integer(1 << 40, 8)));
        assert_eq!(state.local(2).map(|bits| bits.class), Ok(Class::Float));
        for missing in [3, 4] {
            assert_eq!(state.local(missing), Err(Unknown::Local(missing)));
        }
        assert_eq!(state.operand(0), Ok(integer(7, 4)));
        assert_eq!(state.operand(1), Err(Unknown::Operand(1)));
        assert_eq!(state.global(0).unwrap(), Ok(integer(0x1000, 4)));
        assert_eq!(state.global(2).unwrap(), Err(Unknown::Global(2)));

        // A younger frame may have changed a mutable global.
        let caller = FrameState { caller: true, ..state };
        assert_eq!(caller.global(0).unwrap(), Err(Unknown::ChangedGlobal(0)));
        assert_eq!(caller.global(1).unwrap().map(|bits| bits.class), Ok(Class::Float));

        let read = |address, len: usize| {
            let mut buffer = vec![0; len];
            state.read(address, &mut buffer).unwrap().map(|()| buffer)
        };
        assert_eq!(read(0x1002, 3), Ok(vec![3, 4, 5]));
        assert_eq!(read(0x1fff, 2), Err(Unknown::Excluded(0x1fff)));
        assert_eq!(read(0xffff, 2), Err(Unknown::OutOfBounds(0xffff)));
        let static_state = FrameState { frame: None, instance: None, ..state };
        assert_eq!(static_state.local(0), Err(Unknown::Local(0)));
        assert_eq!(static_state.read(0, &mut [0]).unwrap(), Err(Unknown::NoMemory));
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
        let state = |index: usize| {
            let frame = &frames[index];
            let instance = frame.instance;
            FrameState { instances: &instances, instance, frame: Some(frame), caller: true }
        };

        source.read.store(0, Ordering::Relaxed);
        // Threads that alternate between two instances, with a variable in the same global.
        for _ in 0..100 {
            for (frame, expected) in [(0, 11), (1, 22)] {
                assert_eq!(state(frame).global(99_999).unwrap(), Ok(integer(expected, 4)));
            }
        }
        // A frame with variables in many globals and in memory.
        for i in 0..200 {
            assert_eq!(state(1).global(i).unwrap(), Ok(integer(22, 4)));
            let mut byte = [0];
            assert_eq!((state(1).read(0, &mut byte).unwrap(), byte), (Ok(()), [7]));
        }
        let (read, len) = (source.read.load(Ordering::Relaxed), source.bytes.len() as u64);
        // The instances are nearly all of the dump. Each global and each memory access is one read of up to 4 KiB.
        assert!(read <= len * 3 + 203 * 4096 + 200, "{read} bytes of {len} were read");

        source.fails.store(true, Ordering::Relaxed);
        let state = state(0);
        assert_eq!(state.global(0).unwrap_err().kind(), ErrorKind::Input);
        assert_eq!(state.read(0, &mut [0]).unwrap_err().kind(), ErrorKind::Input);
    }
}
