//! Instances, threads, frames and values, decoded from the dump whenever they are asked for.
//!
//! All of it was checked when the dump was opened, so nothing here fails; lists just end early if the
//! file has changed since.

use std::fmt;

use super::decode::Decoder;
use super::fault::Result;
use super::input::{self, Slice};
use super::layout::FrameLayout;
use crate::limits::UNKNOWN_INDEX;
use crate::model::{
    Frame, GlobalIndex, Instance, InstanceIndex, MemoryIndex, ModuleIndex, Thread, Value,
};

/// Decodes one item.
type Decode<'d, T> = fn(&mut Decoder<'_, Slice<'d>>) -> Result<T>;

/// A vector of items in the dump.
#[derive(Clone)]
struct List<'d, T> {
    input: Slice<'d>,
    left: u32,
    decode: Decode<'d, T>,
}

impl<'d, T> List<'d, T> {
    /// The vector at the offset of `from`, which is moved behind it.
    fn passed(from: &mut Decoder<'_, Slice<'d>>, decode: Decode<'d, T>) -> Result<Self> {
        let left = from.u32()?;
        Self::counted(from, left, decode)
    }

    /// The same of a vector whose count was read.
    fn counted(
        from: &mut Decoder<'_, Slice<'d>>,
        left: u32,
        decode: Decode<'d, T>,
    ) -> Result<Self> {
        let list = Self { input: from.input().clone(), left, decode };
        for _ in 0..left {
            decode(from)?;
        }
        Ok(list)
    }

    /// A vector that ends early whatever it says.
    fn empty(decode: Decode<'d, T>) -> Self {
        Self { input: Slice::new(&[], 0), left: 0, decode }
    }
}

impl<T> Iterator for List<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.left = self.left.checked_sub(1)?;
        (self.decode)(&mut Decoder::new(&mut self.input, u64::MAX)).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl<T> ExactSizeIterator for List<'_, T> {}

/// What is in it.
impl<T: Clone + fmt::Debug> fmt::Debug for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// An instance in a dump. What is `None` is not known; an index may be one that the dump does not
/// list.
#[derive(Clone, Debug)]
pub struct InstanceView<'d> {
    module: Option<u32>,
    memories: List<'d, Option<u32>>,
    globals: List<'d, Option<u32>>,
}

impl<'d> InstanceView<'d> {
    /// At `offset` of `bytes`.
    pub(super) fn at(bytes: &'d [u8], offset: u64) -> Self {
        let decoded = Self::decode(&mut Decoder::new(&mut Slice::new(bytes, offset), u64::MAX));
        decoded.unwrap_or_else(|_| Self {
            module: None,
            memories: List::empty(index),
            globals: List::empty(index),
        })
    }

    fn decode(from: &mut Decoder<'_, Slice<'d>>) -> Result<Self> {
        Ok(Self {
            module: index(from)?,
            memories: List::passed(from, index)?,
            globals: List::passed(from, index)?,
        })
    }

    /// The module that it is an instance of.
    pub fn module(&self) -> Option<ModuleIndex> {
        self.module.map(ModuleIndex)
    }

    /// Its memories in the order of its index space.
    pub fn memories(&self) -> impl ExactSizeIterator<Item = Option<MemoryIndex>> + Clone + use<'d> {
        self.memories.clone().map(|index| index.map(MemoryIndex))
    }

    /// Its globals in the order of its index space.
    pub fn globals(&self) -> impl ExactSizeIterator<Item = Option<GlobalIndex>> + Clone + use<'d> {
        self.globals.clone().map(|index| index.map(GlobalIndex))
    }

    /// The same in the words of the model, with its lists in memory.
    pub fn to_instance(&self) -> Instance {
        let (memories, globals) = (self.memories().collect(), self.globals().collect());
        Instance { module: self.module(), memories, globals }
    }
}

/// A thread in a dump.
#[derive(Clone, Debug)]
pub struct ThreadView<'d> {
    name: &'d str,
    frames: List<'d, FrameView<'d>>,
}

impl<'d> ThreadView<'d> {
    /// At an offset of `bytes`, with so many frames in this layout.
    pub(super) fn at(bytes: &'d [u8], (offset, frames): (u64, u32), layout: FrameLayout) -> Self {
        let mut input = Slice::new(bytes, offset);
        let mut from = Decoder::new(&mut input, u64::MAX);
        let name = from.name().unwrap_or_default();
        let left = from.u32().map_or(0, |_| frames);
        let decode = match (layout.has_instance(), layout.has_counts_first()) {
            (true, false) => FrameView::decode::<true, false>,
            (false, false) => FrameView::decode::<false, false>,
            (true, true) => FrameView::decode::<true, true>,
            (false, true) => FrameView::decode::<false, true>,
        };
        let left = if layout.is_known() { left } else { 0 };
        Self { name, frames: List { input, left, decode } }
    }

    /// Its name.
    pub fn name(&self) -> &'d str {
        self.name
    }

    /// Its frames, from youngest to oldest.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = FrameView<'d>> + Clone + use<'d> {
        self.frames.clone()
    }

    /// The same in the words of the model, with its frames in memory.
    pub fn to_thread(&self) -> Thread {
        Thread::new(self.name).with_frames(self.frames().map(|frame| frame.to_frame()))
    }
}

/// A frame in a dump.
#[derive(Clone, Debug)]
pub struct FrameView<'d> {
    /// The instance whose function it is, if known; it may be one that the dump does not list.
    pub instance: Option<InstanceIndex>,
    /// The index of the function in its module's index space.
    pub function: u32,
    /// Bytes from the start of the function's body, after its size field; 0 if unknown.
    pub offset: u32,
    locals: List<'d, Value>,
    stack: List<'d, Value>,
}

impl<'d> FrameView<'d> {
    fn decode<const INSTANCE: bool, const COUNTS_FIRST: bool>(
        from: &mut Decoder<'_, Slice<'d>>,
    ) -> Result<Self> {
        from.zero()?;
        let instance = if INSTANCE { index(from)?.map(InstanceIndex) } else { None };
        let (function, offset) = (from.u32()?, from.u32()?);
        let (locals, stack) = if COUNTS_FIRST {
            let (locals, stack) = (from.u32()?, from.u32()?);
            let locals = List::counted(from, locals, |from| from.fixed_value())?;
            (locals, List::counted(from, stack, |from| from.fixed_value())?)
        } else {
            let locals = List::passed(from, |from| from.value())?;
            (locals, List::passed(from, |from| from.value())?)
        };
        Ok(Self { instance, function, offset, locals, stack })
    }

    /// Parameters and locals; empty if not known.
    pub fn locals(&self) -> impl ExactSizeIterator<Item = Value> + Clone + use<'d> {
        self.locals.clone()
    }

    /// The operand stack, its bottom first; empty if not known.
    pub fn stack(&self) -> impl ExactSizeIterator<Item = Value> + Clone + use<'d> {
        self.stack.clone()
    }

    /// The same in the words of the model, with its values in memory.
    pub fn to_frame(&self) -> Frame {
        Frame::new(self.instance, self.function, self.offset)
            .with_locals(self.locals())
            .with_stack(self.stack())
    }
}

/// The name at `offset` of `bytes`.
pub(super) fn name(bytes: &[u8], offset: u64) -> &str {
    let mut input = Slice::new(bytes, offset);
    Decoder::new(&mut input, u64::MAX).name().unwrap_or_default()
}

/// The `len` bytes at `offset` of `bytes` as a name.
pub(super) fn bare_name(bytes: &[u8], offset: u64, len: u64) -> &str {
    let range = offset.checked_add(len).map(|end| offset..end);
    let name = range.and_then(|range| input::part(bytes, range));
    std::str::from_utf8(name.unwrap_or_default()).unwrap_or_default()
}

/// An index, `None` if it is not known.
fn index(from: &mut Decoder<'_, Slice<'_>>) -> Result<Option<u32>> {
    from.u32().map(|index| (index != UNKNOWN_INDEX).then_some(index))
}
