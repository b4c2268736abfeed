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
