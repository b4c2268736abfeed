//! The items of the lists of a dump, each checked when the dump is parsed, and decoded when somebody asks for it.
//!
//! What a check passes, the decoder beside it decodes: a list that was checked once fails only where its source does, or
//! where the dump has changed since.
//!
//! Source: the tool-conventions'
//! [Coredump format](https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md).

use std::ops::Range;

use super::decode::Decoder;
use super::fault::{Fault, Result};
use super::input::Input;
use super::layout::FrameLayout;
use super::types;
use crate::error::Error;
use crate::limits::{MAX_FRAME_VALUES, MAX_GLOBALS, UNKNOWN_INDEX};
use crate::model::{
    Frame, Global, GlobalIndex, Instance, InstanceIndex, MemoryIndex, ModuleIndex, Value,
};

/// An item of a list.
pub(super) trait Item {
    /// What it is decoded to.
    type Value;

    /// Checks one and passes it.
    fn check<I: Input>(from: &mut Decoder<'_, I>) -> Result<()> {
        Self::decode(from).map(drop)
    }

    /// Passes one of a list that was checked, and need not look at its names.
    fn pass<I: Input>(from: &mut Decoder<'_, I>) -> Result<()> {
        Self::check(from)
    }

    /// Decodes one.
    fn decode<I: Input>(from: &mut Decoder<'_, I>) -> Result<Self::Value>;
}

/// A module: its name.
pub(super) enum Module {}

impl Item for Module {
    type Value = String;

    fn check<I: Input>(from: &mut Decoder<'_, I>) -> Result<()> {
        from.zero()?;
        from.check_name()
    }

    fn pass<I: Input>(from: &mut Decoder<'_, I>) -> Result<()> {
        from.zero()?;
        let len = from.u32()?;
        from.skip(len.into())
    }

    fn decode<I: Input>(from: &mut Decoder<'_, I>) -> Result<String> {
        from.zero()?;
        from.name()
    }
}

/// A note: its text.
pub(super) enum Note {}

impl Item for Note {
    type Value = String;

    fn check<I: Input>(from: &mut Decoder<'_, I>) -> Result<()> {
        from.check_name()
    }

    fn decode<I: Input>(from: &mut Decoder<'_, I>) -> Result<String> {
        from.name()
    }
}

impl Item for Instance {
    type Value = Self;

    fn check<I: Input>(from: &mut Decoder<'_, I>) -> Result<()> {
        from.zero()?;
        from.u32()?;
        for _ in 0..2 {
            for _ in 0..index_count(from)? {
                from.u32()?;
            }
        }
        Ok(())
    }

    fn decode<I: Input>(from: &mut Decoder<'_, I>) -> Result<Self> {
        from.zero()?;
        let module = index(from)?.map(ModuleIndex);
        let memories = indices(from, MemoryIndex)?;
        let globals = indices(from, GlobalIndex)?;
        Ok(Self { module, memories, globals })
    }
}

/// A global of a list that was checked ([`check_global`]).
impl Item for Global {
    type Value = Self;

    fn decode<I: Input>(from: &mut Decoder<'_, I>) -> Result<Self> {
        types::global(from, 0, true)
    }
}

/// Checks a global that comes after `before` others; `foreign` ones, of other writers, may have no value.
pub(super) fn check_global<I: Input>(
    from: &mut Decoder<'_, I>,
    before: usize,
    foreign: bool,
) -> Result<()> {
    types::global(from, before, foreign).map(drop)
}

/// Decodes the number of indices in a list of them.
fn index_count<I: Input>(from: &mut Decoder<'_, I>) -> Result<u32> {
    let start = from.offset();
    match from.u32()? {
        count if count as usize > MAX_GLOBALS => {
            let message =
                format!("{count} items of an instance are over the limit of {MAX_GLOBALS}");
            Err(Fault::unsupported(from.since(start), message))
        }
        count => Ok(count),
    }
}

/// Decodes a list of indices.
fn indices<T, I: Input>(
    from: &mut Decoder<'_, I>,
    of: impl Fn(u32) -> T,
) -> Result<Vec<Option<T>>> {
    let mut indices = Vec::new();
    for _ in 0..index_count(from)? {
        push(&mut indices, index(from)?.map(&of))?;
    }
    Ok(indices)
}

/// Decodes an index, `None` if it is not known.
fn index<I: Input>(from: &mut Decoder<'_, I>) -> Result<Option<u32>> {
    from.u32().map(|index| (index != UNKNOWN_INDEX).then_some(index))
}

/// Checks a frame in the layout of the specification. The frames of other writers are checked by trials
/// ([`layout`](super::layout)).
pub(super) fn check_frame<I: Input>(from: &mut Decoder<'_, I>) -> Result<()> {
    from.zero()?;
    for _ in 0..3 {
        from.u32()?;
    }
    for _ in 0..2 {
        for _ in 0..value_count(from)? {
            from.value()?;
        }
    }
    Ok(())
}

/// Decodes a frame.
pub(super) fn frame<I: Input>(from: &mut Decoder<'_, I>, layout: FrameLayout) -> Result<Frame> {
    from.zero()?;
    let instance = if layout.has_instance() { index(from)?.map(InstanceIndex) } else { None };
    let (function, offset) = (from.u32()?, from.u32()?);
    let (locals, stack) = if layout.has_counts_first() {
        let (locals, stack) = (value_count(from)?, value_count(from)?);
        (values(from, locals, Decoder::fixed_value)?, values(from, stack, Decoder::fixed_value)?)
    } else {
        let count = value_count(from)?;
        let locals = values(from, count, Decoder::value)?;
        let count = value_count(from)?;
        (locals, values(from, count, Decoder::value)?)
    };
    Ok(Frame::new(instance, function, offset).with_locals(locals).with_stack(stack))
}

/// Decodes the number of locals of a frame, or of values on its operand stack.
fn value_count<I: Input>(from: &mut Decoder<'_, I>) -> Result<u32> {
    let start = from.offset();
    match from.u32()? {
        count if count as usize > MAX_FRAME_VALUES => Err(too_many_values(from.since(start))),
        count => Ok(count),
    }
}

/// Returns the fault of a frame with more values than a reader decodes.
#[cold]
pub(super) fn too_many_values(range: Range<u64>) -> Box<Fault> {
    let message =
        format!("a frame has more than the limit of {MAX_FRAME_VALUES} locals or operands");
    Fault::unsupported(range, message)
}

fn values<'i, I: Input>(
    from: &mut Decoder<'i, I>,
    count: u32,
    decode: fn(&mut Decoder<'i, I>) -> Result<Value>,
) -> Result<Vec<Value>> {
    let mut values = Vec::new();
    for _ in 0..count {
        push(&mut values, decode(from)?)?;
    }
    Ok(values)
}

/// Adds an item to a list that a dump may claim to be of any length.
pub(super) fn push<T>(list: &mut Vec<T>, item: T) -> Result<()> {
    let no_room = |_| Error::out_of_memory("a list of a dump");
    list.try_reserve(1).map_err(no_room)?;
    list.push(item);
    Ok(())
}
