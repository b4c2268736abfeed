//! The lists of a dump: modules, instances, threads, frames, globals and notes. They decode their items on demand.
//!
//! Opening a dump checks all items and keeps the offset of every 64th. To find an item, a list starts at the nearest
//! kept offset before it and skips the items between. Decoded items own their data, so a list needs no more memory than
//! its longest item. Decoding fails only if the source fails or if the dump has changed since it was opened.

use std::marker::PhantomData;

use super::decode::Decoder;
use super::fault::{Fault, Result};
use super::input::Cursor;
use super::item::{self, Item};
use super::layout::FrameLayout;
use super::source::Source;
use crate::error::{self, Error};
use crate::limits::MAX_NAME_BYTES;
use crate::model::{Frame, Thread};

/// The offset of one in this many items is kept.
const STEP: usize = 64;

/// The offsets of the items of a list, which are adjacent. Only every [`STEP`]th offset is kept.
#[derive(Debug, Default)]
pub(super) struct ItemOffsets {
    offsets: Vec<u64>,
    len: usize,
}

impl ItemOffsets {
    /// Returns the number of offsets that are kept for a list of `len` items.
    pub(super) const fn count(len: usize) -> usize {
        len.div_ceil(STEP)
    }

    /// Appends the item at `offset`.
    ///
    /// # Errors
    /// Returns an error if memory for the offset cannot be allocated.
    pub(super) fn push(&mut self, offset: u64) -> Result<()> {
        if self.len.is_multiple_of(STEP) {
            let no_room = |_| Error::out_of_memory("the offsets of a list");
            self.offsets.try_reserve(1).map_err(no_room)?;
            self.offsets.push(offset);
        }
        // This cannot wrap: a dump lists fewer than 2^32 items of a kind.
        self.len = self.len.wrapping_add(1);
        Ok(())
    }

    /// Returns the number of items.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the nearest kept offset at or before item `index`, and the number of items between them. Returns `None`
    /// if there is no such item.
    fn before(&self, index: usize) -> Option<(u64, usize)> {
        let offset = self.offsets.get(index / STEP).filter(|_| index < self.len)?;
        Some((*offset, index % STEP))
    }
}

/// An iterator over the items of a list.
pub(super) struct List<'d, T> {
    input: Cursor<'d>,
    remaining: usize,
    item: PhantomData<T>,
}

impl<'d, T: Item> List<'d, T> {
    /// Returns an iterator over the items at these offsets.
    pub(super) fn new(source: Source<'d>, offsets: &ItemOffsets) -> Self {
        let start = offsets.offsets.first().copied().unwrap_or_default();
        Self { input: source.input(start), remaining: offsets.len, item: PhantomData }
    }

    /// Decodes item `index` of the list. Returns `None` if there is no such item.
    pub(super) fn item(
        source: Source<'d>,
        offsets: &ItemOffsets,
        index: usize,
    ) -> Result<Option<T::Value>> {
        let Some((offset, between)) = offsets.before(index) else { return Ok(None) };
        let mut input = source.input(offset);
        let mut from = Decoder::new(&mut input, u64::MAX);
        for _ in 0..between {
            T::skip(&mut from)?;
        }
        T::decode(&mut from).map(Some)
    }
}

impl<T: Item> Iterator for List<'_, T> {
    type Item = error::Result<T::Value>;

    fn next(&mut self) -> Option<error::Result<T::Value>> {
        self.remaining = self.remaining.checked_sub(1)?;
        let decoded = T::decode(&mut Decoder::new(&mut self.input, u64::MAX));
        if decoded.is_err() {
            self.remaining = 0;
        }
        Some(decoded.map_err(Error::from))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl<T: Item> ExactSizeIterator for List<'_, T> {}

/// An iterator that ends after the first error.
pub(super) struct UntilError<I> {
    items: I,
    has_failed: bool,
}

impl<I> UntilError<I> {
    pub(super) fn new(items: I) -> Self {
        Self { items, has_failed: false }
    }
}

impl<T, I: Iterator<Item = error::Result<T>>> Iterator for UntilError<I> {
    type Item = error::Result<T>;

    fn next(&mut self) -> Option<error::Result<T>> {
        if self.has_failed {
            return None;
        }
        self.items.next().inspect(|item| self.has_failed = item.is_err())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        if self.has_failed { (0, Some(0)) } else { self.items.size_hint() }
    }
}

impl<T, I: ExactSizeIterator<Item = error::Result<T>>> ExactSizeIterator for UntilError<I> {}

/// A thread in a dump.
///
/// ```
/// use corestream::*;
///
/// # let mut guest = CoreDump::new("guest.wasm");
/// # guest.add_thread(Thread::new("main").with_frames([Frame::new(None, 3, 17)]));
/// # let bytes = Dumper::new().plan(&guest)?.to_vec()?;
/// let dump = CoreDumpFile::from_slice(&bytes)?;
/// let thread = dump.thread(0)?;
/// assert_eq!((thread.name(), thread.frames().len()), ("main", 1));
/// for frame in thread.frames() {
///     let frame = frame?;
///     assert_eq!((frame.function, frame.offset), (3, 17));
/// }
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
pub struct ThreadView<'d> {
    source: Source<'d>,
    name: String,
    /// The offset of the first frame.
    offset: u64,
    frames: u32,
    layout: FrameLayout,
}

impl<'d> ThreadView<'d> {
    /// Decodes the name at `offset` of a thread with this number of frames in this layout.
    pub(super) fn decode(
        source: Source<'d>,
        (offset, frames): (u64, u32),
        layout: FrameLayout,
    ) -> Result<Self> {
        let mut input = source.input(offset);
        let mut from = Decoder::new(&mut input, u64::MAX);
        let name = from.name()?;
        from.u32()?;
        let offset = from.offset();
        let frames = if layout.is_known() { frames } else { 0 };
        Ok(Self { source, name, offset, frames, layout })
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the frames from youngest to oldest. The iterator ends after the first error.
    ///
    /// # Errors
    /// An item is an error if the dump cannot be read or has changed since it was opened, or if the frame has more than
    /// [`MAX_FRAME_VALUES`](crate::limits::MAX_FRAME_VALUES) locals or operands
    /// ([`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported)).
    pub fn frames(&self) -> Frames<'d> {
        let input = self.source.input(self.offset);
        Frames { input, remaining: self.frames as usize, layout: self.layout }
    }

    /// Decodes all frames into a [`Thread`] of the model.
    ///
    /// # Errors
    /// Returns the errors of [`frames`](Self::frames), and an error of
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) if memory for the frames cannot be allocated.
    pub fn to_thread(&self) -> error::Result<Thread> {
        let mut frames = Vec::new();
        for frame in self.frames() {
            item::try_push(&mut frames, frame?)?;
        }
        Ok(Thread::new(&self.name).with_frames(frames))
    }
}

impl std::fmt::Debug for ThreadView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadView")
            .field("name", &self.name)
            .field("frames", &self.frames)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

/// An iterator over the frames of a thread. [`ThreadView::frames`] creates it.
pub struct Frames<'d> {
    input: Cursor<'d>,
    remaining: usize,
    layout: FrameLayout,
}

impl Iterator for Frames<'_> {
    type Item = error::Result<Frame>;

    fn next(&mut self) -> Option<error::Result<Frame>> {
        self.remaining = self.remaining.checked_sub(1)?;
        let decoded = item::decode_frame(&mut Decoder::new(&mut self.input, u64::MAX), self.layout);
        if decoded.is_err() {
            self.remaining = 0;
        }
        Some(decoded.map_err(Error::from))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for Frames<'_> {}

impl std::fmt::Debug for Frames<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames").field("remaining", &self.remaining).finish_non_exhaustive()
    }
}

/// Decodes a name without a length prefix: the `len` bytes at `offset`.
pub(super) fn decode_bare_name(source: Source<'_>, offset: u64, len: u64) -> Result<String> {
    let mut input = source.input(offset);
    let mut from = Decoder::new(&mut input, u64::MAX);
    let len = usize::try_from(len).ok().filter(|len| *len <= MAX_NAME_BYTES);
    let bytes = from.take(len.unwrap_or(MAX_NAME_BYTES))?.to_vec();
    String::from_utf8(bytes).map_err(|_| Fault::damaged(from.since(offset), "a name is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use crate::{
        CoreDump, CoreDumpFile, Dumper, ErrorKind, Global, GlobalIndex, GlobalValue, Instance,
        InstanceIndex, ModuleIndex,
    };

    /// Counts around multiples of 64 test the search from a kept offset.
    #[test]
    fn finds_each_item_of_a_list_by_index() {
        for count in [0, 1, 63, 64, 65, 128, 200] {
            let mut guest = CoreDump::new("guest");
            for i in 0..count {
                guest.add_module("m".repeat(i));
                guest.add_global(Global::constant(GlobalValue::I64(i64::MAX >> (i % 64))));
                let module = ModuleIndex(i.try_into().unwrap());
                guest.add_instance(Instance::new(module));
            }
            let bytes = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
            let dump = CoreDumpFile::from_slice(&bytes).unwrap();
            assert_eq!(dump.modules().len(), count);
            let index = |i: usize| u32::try_from(i).unwrap();
            for (i, name) in dump.modules().enumerate() {
                let name = name.unwrap();
                assert_eq!(name, "m".repeat(i));
                assert_eq!(dump.module(ModuleIndex(index(i))).unwrap(), name);
            }
            for (i, global) in dump.globals().enumerate() {
                assert_eq!(global.unwrap(), guest.globals[i]);
                assert_eq!(dump.global(GlobalIndex(index(i))).unwrap(), guest.globals[i]);
            }
            for (i, instance) in dump.instances().enumerate() {
                assert_eq!(instance.unwrap(), guest.instances[i]);
                assert_eq!(dump.instance(InstanceIndex(index(i))).unwrap(), guest.instances[i]);
            }
            let error = dump.module(ModuleIndex(index(count))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Option);
            let expected = format!("there is no module {count}; the dump has {count}");
            assert_eq!(error.to_string(), expected);
        }
    }
}
