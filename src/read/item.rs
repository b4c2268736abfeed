//! The items of a dump's lists. The parser checks each item, and a list decodes items on demand.
//!
//! Whatever a check accepts, the corresponding decoder decodes. So decoding an item that was checked fails only if the
//! source fails or if the dump has changed since.
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
    /// The decoded item.
    type Value;

    /// Checks an item and skips it.
    fn check<I: Input>(from: &mut Decoder<'_, I>) -> Result<()> {
        Self::decode(from).map(drop)
    }

    /// Skips an item that was checked before. It need not check names again.
    fn skip<I: Input>(from: &mut Decoder<'_, I>) -> Result<()> {
        Self::check(from)
    }

    /// Decodes an item.
    fn decode<I: Input>(from: &mut Decoder<'_, I>) -> Result<Self::Value>;
}

/// A module, decoded to its name.
pub(super) enum Module {}

impl Item for Module {
    type Value = String;

    fn check<I: Input>(from: &mut Decoder<'_, I>) -> Result<()> {
        from.expect_zero()?;
        from.check_name()
    }

    fn skip<I: Input>(from: &mut Decoder<'_, I>) -> Result<()> {
        from.expect_zero()?;
        let len = from.u32()?;
        from.skip(len.into())
    }

    fn decode<I: Input>(from: &mut Decoder<'_, I>) -> Result<String> {
        from.expect_zero()?;
        from.name()
    }
}

/// A note, decoded to its text.
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
        from.expect_zero()?;
        from.u32()?;
        for _ in 0..2 {
            for _ in 0..decode_index_count(from)? {
                from.u32()?;
            }
        }
        Ok(())
    }

    fn decode<I: Input>(from: &mut Decoder<'_, I>) -> Result<Self> {
        from.expect_zero()?;
        let module = decode_index(from)?.map(ModuleIndex);
        let memories = decode_indices(from, MemoryIndex)?;
        let globals = decode_indices(from, GlobalIndex)?;
        Ok(Self { module, memories, globals })
    }
}

/// Decodes a global that [`check_global`] has checked. A foreign one may have no value.
impl Item for Global {
    type Value = Self;

    fn decode<I: Input>(from: &mut Decoder<'_, I>) -> Result<Self> {
        types::decode_global(from, 0, true)
    }
}

/// Checks a global that follows `preceding` others. The globals of `foreign` writers may have no value.
pub(super) fn check_global<I: Input>(
    from: &mut Decoder<'_, I>,
    preceding: usize,
    foreign: bool,
) -> Result<()> {
    types::decode_global(from, preceding, foreign).map(drop)
}

/// Decodes the length of a list of indices.
fn decode_index_count<I: Input>(from: &mut Decoder<'_, I>) -> Result<u32> {
    let start = from.offset();
    match from.u32()? {
        count if count as usize > MAX_GLOBALS => {
            let message = format!("{count} indices are over the limit of {MAX_GLOBALS}");
            Err(Fault::unsupported(from.since(start), message))
        }
        count => Ok(count),
    }
}

/// Decodes a list of indices.
fn decode_indices<T, I: Input>(
    from: &mut Decoder<'_, I>,
    of: impl Fn(u32) -> T,
) -> Result<Vec<Option<T>>> {
    let mut indices = Vec::new();
    for _ in 0..decode_index_count(from)? {
        try_push(&mut indices, decode_index(from)?.map(&of))?;
    }
    Ok(indices)
}

/// Decodes an index. Returns `None` for the index that means unknown.
fn decode_index<I: Input>(from: &mut Decoder<'_, I>) -> Result<Option<u32>> {
    from.u32().map(|index| (index != UNKNOWN_INDEX).then_some(index))
}

/// Checks a frame in the layout of the specification. The [`layout`](super::layout) detector checks the frames of other
/// writers.
pub(super) fn check_frame<I: Input>(from: &mut Decoder<'_, I>) -> Result<()> {
    from.expect_zero()?;
    for _ in 0..3 {
        from.u32()?;
    }
    for _ in 0..2 {
        for _ in 0..decode_value_count(from)? {
            from.value()?;
        }
    }
    Ok(())
}

/// Decodes a frame in this layout.
pub(super) fn decode_frame<I: Input>(
    from: &mut Decoder<'_, I>,
    layout: FrameLayout,
) -> Result<Frame> {
    from.expect_zero()?;
    let instance =
        if layout.has_instance() { decode_index(from)?.map(InstanceIndex) } else { None };
    let (function, offset) = (from.u32()?, from.u32()?);
    let (locals, stack) = if layout.has_counts_first() {
        let (locals, stack) = (decode_value_count(from)?, decode_value_count(from)?);
        (
            decode_values(from, locals, Decoder::fixed_value)?,
            decode_values(from, stack, Decoder::fixed_value)?,
        )
    } else {
        let count = decode_value_count(from)?;
        let locals = decode_values(from, count, Decoder::value)?;
        let count = decode_value_count(from)?;
        (locals, decode_values(from, count, Decoder::value)?)
    };
    Ok(Frame::new(instance, function, offset).with_locals(locals).with_stack(stack))
}

/// Decodes the number of locals or operands of a frame.
fn decode_value_count<I: Input>(from: &mut Decoder<'_, I>) -> Result<u32> {
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

fn decode_values<'i, I: Input>(
    from: &mut Decoder<'i, I>,
    count: u32,
    decode: fn(&mut Decoder<'i, I>) -> Result<Value>,
) -> Result<Vec<Value>> {
    let mut values = Vec::new();
    for _ in 0..count {
        try_push(&mut values, decode(from)?)?;
    }
    Ok(values)
}

/// Appends an item to a list whose length is not trusted.
///
/// # Errors
/// Returns an error if memory for the item cannot be allocated.
pub(super) fn try_push<T>(list: &mut Vec<T>, item: T) -> Result<()> {
    let no_room = |_| Error::out_of_memory("a list of a dump");
    list.try_reserve(1).map_err(no_room)?;
    list.push(item);
    Ok(())
}
