//! Where a dump's bytes come from: a slice, of which nothing is touched that is skipped, or a stream,
//! of which a buffer is kept. What decodes them is the same.

use std::io::{self, Read};
use std::ops::Range;

use crc32fast::Hasher;

use super::fault::{Fault, Result, not_empty};
use super::index;
use super::read_at::ReadAt;
use crate::arithmetic::{Checked, at_most, exact};
use crate::error::zeros;
use crate::limits::MAX_NAME_BYTES;

/// Bytes of a stream that are kept: more than the longest name.
const BUFFER: usize = 1 << 18;

/// The bytes from the first to the end of `corestream` are fewer: a name, and a few numbers.
const BEFORE_BLOCKS: usize = MAX_NAME_BYTES + 1024;

/// A dump, from its first byte to its last.
pub(super) trait Input {
    /// How many bytes were taken or skipped.
    fn offset(&self) -> u64;

    /// The next `len` bytes, at most [`MAX_NAME_BYTES`].
    ///
    /// # Errors
    /// There are fewer, or they can't be read.
    fn take(&mut self, len: usize) -> Result<&[u8]>;

    /// Skips `len` bytes.
    ///
    /// # Errors
    /// There are fewer, or they can't be read.
    fn skip(&mut self, len: u64) -> Result<()>;

    /// Skips all that is left; gives the number of all bytes.
    ///
    /// # Errors
    /// They can't be read.
    fn drain(&mut self) -> Result<u64>;

    /// Whether there are no more bytes.
    ///
    /// # Errors
    /// They can't be read.
    fn at_end(&mut self) -> Result<bool>;

    /// Sets the offset at which the header places the index, and the size of the blocks before it that have checksums,
    /// 2^`block_log2` bytes; 0 if there are no checksums. Reading past the offset is an error if an index begins there.
    /// Otherwise another tool has made the dump longer, and the input goes on.
    ///
    /// # Errors
    /// Returns an internal error.
    fn expect_index(&mut self, offset: u64, block_log2: u32) -> Result<()>;

    /// Allows the index itself to be read.
    fn allow_index(&mut self);

    /// Returns whether something reaches past the beginning of the index, which is not there.
    fn has_passed_index(&self) -> bool;

    /// Begins the range that [`crc`](Self::crc) is of; `before` has what precedes it.
    fn mark(&mut self, before: Hasher);

    /// Returns the CRC-32 of what precedes the range, and of the bytes since [`mark`](Self::mark), which ends the range.
    fn crc(&mut self) -> u32;
}

/// A part of a dump in memory, if it is there.
pub(super) fn part(bytes: &[u8], range: Range<u64>) -> Option<&[u8]> {
    bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}

/// Where an index should begin that nothing before it reaches into.
#[derive(Clone, Copy, Debug)]
struct Barrier {
    /// The offset of the index; that of no byte where there is no barrier.
    at: u64,
    has_passed: bool,
}

impl Barrier {
    const NONE: Self = Self { at: u64::MAX, has_passed: false };

    fn new(at: u64) -> Self {
        Self { at, has_passed: false }
    }

    /// Returns where it is, if it is within the `len` bytes from `offset` on.
    #[inline]
    fn within(self, offset: u64, len: u64) -> Option<u64> {
        let ends_before = offset.checked_add(len).is_some_and(|end| end <= self.at);
        (!ends_before && offset <= self.at && self.at != u64::MAX).then_some(self.at)
    }

    /// Removes it if no index begins with these bytes, which are those at the barrier. If there are none, it stays: nothing
    /// passes it.
    ///
    /// # Errors
    /// Returns an error if an index begins with them.
    #[cold]
    fn pass(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let at = self.at;
        if index::begins(bytes) {
            let message = format!("reaches into the index at {at:#x}");
            return Err(Fault::damaged(not_empty(offset, at), message));
        }
        if !bytes.is_empty() {
            *self = Self { has_passed: true, ..Self::NONE };
        }
        Ok(())
    }
}

/// A dump in memory.
#[derive(Clone)]
pub(super) struct Slice<'b> {
    bytes: &'b [u8],
    /// The bytes before the barrier, so that what ends there needs no other check.
    before_barrier: &'b [u8],
    at: usize,
    barrier: Barrier,
    mark: usize,
    before: Option<Hasher>,
}

impl<'b> Slice<'b> {
    /// From `offset` on.
    pub(super) fn new(bytes: &'b [u8], offset: u64) -> Self {
        let at = at_most(offset, bytes.len());
        let barrier = Barrier::NONE;
        Self { bytes, before_barrier: bytes, at, barrier, mark: at, before: None }
    }

    /// Like [`Input::take`], borrowed from the slice.
    #[inline]
    pub(super) fn borrow(&mut self, len: usize) -> Result<&'b [u8]> {
        match self.at.checked_add(len).and_then(|end| self.before_barrier.get(self.at..end)) {
            Some(taken) => {
                // No slice ends past all offsets.
                self.at = self.at.wrapping_add(len);
                Ok(taken)
            }
            None => self.borrow_past_barrier(len),
        }
    }

    /// Like [`borrow`](Self::borrow), for what does not end before the barrier.
    #[cold]
    fn borrow_past_barrier(&mut self, len: usize) -> Result<&'b [u8]> {
        self.pass_barrier(len as u64)?;
        let end = self.at.checked_add(len);
        let taken = end.and_then(|end| self.bytes.get(self.at..end).map(|taken| (end, taken)));
        let (end, taken) = taken.ok_or_else(|| self.ended(len as u64))?;
        self.at = end;
        Ok(taken)
    }

    /// Passes the barrier, if it is within the next `len` bytes.
    fn pass_barrier(&mut self, len: u64) -> Result<()> {
        if let Some(at) = self.barrier.within(self.at as u64, len) {
            let bytes = part(self.bytes, at..self.bytes.len() as u64).unwrap_or_default();
            self.barrier.pass(bytes, self.at as u64)?;
            self.before_barrier = self.bytes;
        }
        Ok(())
    }

    fn ended(&self, wanted: u64) -> Box<Fault> {
        Fault::end_within(self.bytes.len() as u64, self.at as u64, wanted)
    }
}

impl Input for Slice<'_> {
    fn offset(&self) -> u64 {
        self.at as u64
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&[u8]> {
        self.borrow(len)
    }

    #[inline]
    fn skip(&mut self, len: u64) -> Result<()> {
        let end = self.offset().checked_add(len).and_then(|end| usize::try_from(end).ok());
        match end {
            Some(end) if end <= self.before_barrier.len() => self.at = end,
            _ => {
                self.pass_barrier(len)?;
                let end = end.filter(|end| *end <= self.bytes.len());
                self.at = end.ok_or_else(|| self.ended(len))?;
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<u64> {
        self.at = self.bytes.len();
        Ok(self.at as u64)
    }

    fn at_end(&mut self) -> Result<bool> {
        Ok(self.at == self.bytes.len())
    }

    fn expect_index(&mut self, offset: u64, _: u32) -> Result<()> {
        self.barrier = Barrier::new(offset);
        let before = part(self.bytes, 0..offset);
        self.before_barrier = before.unwrap_or(self.bytes);
        Ok(())
    }

    fn allow_index(&mut self) {
        (self.barrier, self.before_barrier) = (Barrier::NONE, self.bytes);
    }

    fn has_passed_index(&self) -> bool {
        self.barrier.has_passed
    }

    fn mark(&mut self, before: Hasher) {
        (self.mark, self.before) = (self.at, Some(before));
    }

    fn crc(&mut self) -> u32 {
        let mut hasher = self.before.take().unwrap_or_default();
        hasher.update(self.bytes.get(self.mark..self.at).unwrap_or_default());
        hasher.finalize()
    }
}

/// Bytes of a source that are read at first, and at most, beyond those that are wanted.
const READ_AHEAD: std::ops::RangeInclusive<usize> = 1 << 12..=1 << 18;

/// A dump in a source that lends no bytes: a window of it is kept.
///
/// The window grows as long as it is read in order, so that a list of a million frames takes few reads, and a header
/// among gigabytes of data takes a small one.
pub(super) struct Window<'s> {
    source: &'s dyn ReadAt,
    /// The length of the source in bytes.
    len: u64,
    at: u64,
    /// It only grows, so that it is filled with zeros once.
    buffer: Vec<u8>,
    /// Bytes of the buffer that were read.
    filled: usize,
    /// The offset of the first byte of the buffer.
    start: u64,
    /// Bytes to read when the buffer has too few.
    ahead: usize,
    barrier: Barrier,
    marked: Option<Hasher>,
}

impl<'s> Window<'s> {
    /// From `offset` on, of a source of `len` bytes.
    pub(super) fn new(source: &'s dyn ReadAt, len: u64, offset: u64) -> Self {
        let at = offset.min(len);
        let (buffer, ahead, barrier) = (Vec::new(), *READ_AHEAD.start(), Barrier::NONE);
        Self { source, len, at, buffer, filled: 0, start: at, ahead, barrier, marked: None }
    }

    /// Passes the barrier, if it is within the next `len` bytes.
    #[inline]
    fn pass_barrier(&mut self, len: u64) -> Result<()> {
        match self.barrier.within(self.at, len) {
            None => Ok(()),
            Some(at) => {
                let mut bytes = [0; index::BEGINNING];
                let there = self.len.checked_sub(at).map_or(0, |left| at_most(left, bytes.len()));
                let bytes = bytes.get_mut(..there).unwrap_or_default();
                if !bytes.is_empty() {
                    self.source.read_exact_at(bytes, at).map_err(|error| Fault::io(at, error))?;
                }
                self.barrier.pass(bytes, self.at)
            }
        }
    }

    /// Where the next bytes are in the buffer, if it has `len` of them.
    fn held(&self, len: usize) -> Option<Range<usize>> {
        let from = usize::try_from(self.at.checked_sub(self.start)?).ok()?;
        let to = from.checked_add(len)?;
        (to <= self.filled).then_some(from..to)
    }

    /// Reads until the buffer has the next `len` bytes.
    fn fill(&mut self, len: usize) -> Result<Range<usize>> {
        if let Some(held) = self.held(len) {
            return Ok(held);
        }
        let left = self.len.minus(self.at)?;
        if len as u64 > left {
            return Err(self.ended(len as u64));
        }
        // What of the buffer comes next.
        let from = self.at.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let rest = from.filter(|from| *from <= self.filled).unwrap_or(self.filled)..self.filled;
        let is_next = self.filled > 0 && from.is_some_and(|from| from <= self.filled);
        self.ahead = match is_next {
            true => self.ahead.times(2)?.min(*READ_AHEAD.end()),
            false => *READ_AHEAD.start(),
        };
        let wanted = at_most(left, len.max(self.ahead));
        self.buffer.copy_within(rest.clone(), 0);
        (self.start, self.filled) = (self.at, rest.len());
        if let Some(more) = wanted.checked_sub(self.buffer.len()) {
            let no_room = |_| crate::Error::out_of_memory("a buffer to read a dump");
            self.buffer.try_reserve_exact(more).map_err(no_room)?;
            self.buffer.resize(wanted, 0);
        }
        let offset = self.at.plus(rest.len() as u64)?;
        let to_fill = self.buffer.get_mut(rest.len()..wanted).unwrap_or_default();
        self.source.read_exact_at(to_fill, offset).map_err(|error| Fault::io(offset, error))?;
        self.filled = wanted;
        Ok(0..len)
    }

    fn ended(&self, wanted: u64) -> Box<Fault> {
        Fault::end_within(self.len, self.at, wanted)
    }
}

impl Input for Window<'_> {
    fn offset(&self) -> u64 {
        self.at
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&[u8]> {
        self.pass_barrier(len as u64)?;
        let held = self.fill(len)?;
        self.at = self.at.plus(len as u64)?;
        let bytes = self.buffer.get(held).unwrap_or_default();
        if let Some(marked) = &mut self.marked {
            marked.update(bytes);
        }
        Ok(bytes)
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        self.pass_barrier(len)?;
        let end = self.at.checked_add(len).filter(|end| *end <= self.len);
        let end = end.ok_or_else(|| self.ended(len))?;
        // Only the bytes of a checksum have to be read.
        while self.marked.is_some() && self.at < end {
            let left = end.minus(self.at)?;
            self.take(at_most(left, *READ_AHEAD.end()))?;
        }
        self.at = end;
        Ok(())
    }

    fn drain(&mut self) -> Result<u64> {
        self.at = self.len;
        Ok(self.len)
    }

    fn at_end(&mut self) -> Result<bool> {
        Ok(self.at == self.len)
    }

    fn expect_index(&mut self, offset: u64, _: u32) -> Result<()> {
        self.barrier = Barrier::new(offset);
        Ok(())
    }

    fn allow_index(&mut self) {
        self.barrier = Barrier::NONE;
    }

    fn has_passed_index(&self) -> bool {
        self.barrier.has_passed
    }

    fn mark(&mut self, before: Hasher) {
        self.marked = Some(before);
    }

    fn crc(&mut self) -> u32 {
        self.marked.take().unwrap_or_default().finalize()
    }
}

/// A dump in a source, whether that lends its bytes or not.
pub(super) enum Cursor<'s> {
    Slice(Slice<'s>),
    Window(Window<'s>),
}

macro_rules! delegate {
    ($self:ident, $input:ident => $result:expr) => {
        match $self {
            Self::Slice($input) => $result,
            Self::Window($input) => $result,
        }
    };
}

impl Input for Cursor<'_> {
    #[inline]
    fn offset(&self) -> u64 {
        delegate!(self, input => input.offset())
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&[u8]> {
        delegate!(self, input => input.take(len))
    }

    #[inline]
    fn skip(&mut self, len: u64) -> Result<()> {
        delegate!(self, input => input.skip(len))
    }

    fn drain(&mut self) -> Result<u64> {
        delegate!(self, input => input.drain())
    }

    fn at_end(&mut self) -> Result<bool> {
        delegate!(self, input => input.at_end())
    }

    fn expect_index(&mut self, offset: u64, block_log2: u32) -> Result<()> {
        delegate!(self, input => input.expect_index(offset, block_log2))
    }

    fn allow_index(&mut self) {
        delegate!(self, input => input.allow_index());
    }

    fn has_passed_index(&self) -> bool {
        delegate!(self, input => input.has_passed_index())
    }

    fn mark(&mut self, before: Hasher) {
        delegate!(self, input => input.mark(before));
    }

    fn crc(&mut self) -> u32 {
        delegate!(self, input => input.crc())
    }
}

/// A dump that comes through a pipe or a socket, and that nobody keeps.
pub(super) struct Stream<R> {
    source: R,
    buffer: Box<[u8]>,
    /// What of the buffer was read and not yet taken.
    held: Range<usize>,
    offset: u64,
    /// The offset of the end of what was read.
    known_end: u64,
    barrier: Barrier,
    marked: Option<Hasher>,
    blocks: Blocks,
}

/// The checksums of the blocks, computed as bytes pass.
enum Blocks {
    /// How long a block is may still be said: all bytes so far.
    Unknown(Vec<u8>),
    /// There are none.
    Off,
    /// `missing` bytes of the block in hand, and `left` bytes of the blocks after it, are to come.
    On { block: u64, missing: u64, left: u64, hasher: Hasher, done: Vec<u32> },
}

impl<R: Read> Stream<R> {
    /// # Errors
    /// The buffer can't be had.
    pub(super) fn new(source: R) -> crate::error::Result<Self> {
        let buffer = zeros(BUFFER, "a buffer to read a dump")?.into_boxed_slice();
        let blocks = Blocks::Unknown(Vec::new());
        let (held, barrier) = (0..0, Barrier::NONE);
        Ok(Self { source, buffer, held, offset: 0, known_end: 0, barrier, marked: None, blocks })
    }

    /// Passes the barrier, which is `ahead` bytes from here, no more than a name has, and within bytes that are wanted from
    /// `start` on.
    #[cold]
    fn pass_barrier(&mut self, ahead: usize, start: u64) -> Result<()> {
        // A stream that ends there has no index.
        self.fill(ahead.plus(index::BEGINNING)?)?;
        let held = self.buffer.get(self.held.clone()).unwrap_or_default();
        self.barrier.pass(held.get(ahead..).unwrap_or_default(), start)
    }

    /// The checksums of the blocks that have passed.
    pub(super) fn block_crcs(&mut self) -> Vec<u32> {
        match &mut self.blocks {
            Blocks::On { done, .. } => std::mem::take(done),
            _ => Vec::new(),
        }
    }

    /// Reads until the buffer has `len` bytes; `false` if the stream ends before.
    fn fill(&mut self, len: usize) -> Result<bool> {
        if self.held.len() < len && self.held.start > 0 {
            self.buffer.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        while self.held.len() < len {
            let free = self.buffer.get_mut(self.held.end..).unwrap_or_default();
            let room = free.len();
            match self.source.read(free) {
                Ok(0) => return Ok(false),
                Ok(read) if read <= room => {
                    self.held.end = self.held.end.plus(read)?;
                    self.known_end = self.known_end.plus(read as u64)?;
                }
                Ok(_) => {
                    let error = io::Error::other("a source gave more bytes than it was asked for");
                    return Err(Fault::io(self.known_end, error));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::io(self.known_end, error)),
            }
        }
        Ok(true)
    }

    /// Takes `len` bytes of those that the buffer has, or all if it has fewer.
    #[inline]
    fn advance(&mut self, len: usize) -> Result<&[u8]> {
        let held = self.buffer.get(self.held.clone()).unwrap_or_default();
        let bytes = held.get(..len).unwrap_or(held);
        if let Some(marked) = &mut self.marked {
            marked.update(bytes);
        }
        self.blocks.update(bytes)?;
        self.held.start = self.held.start.plus(bytes.len())?;
        self.offset = self.offset.plus(bytes.len() as u64)?;
        Ok(bytes)
    }

    /// Passes `len` bytes, with no barrier among them.
    fn pass(&mut self, len: u64) -> Result<()> {
        let mut left = len;
        while left > 0 {
            if !self.fill(1)? {
                return Err(self.ended(left));
            }
            let taken = self.advance(at_most(left, self.held.len()))?;
            left = left.minus(taken.len() as u64)?;
        }
        Ok(())
    }

    fn ended(&self, wanted: u64) -> Box<Fault> {
        Fault::end_within(self.known_end, self.offset, wanted)
    }
}

impl<R: Read> Input for Stream<R> {
    fn offset(&self) -> u64 {
        self.offset
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&[u8]> {
        if let Some(at) = self.barrier.within(self.offset, len as u64) {
            self.pass_barrier(exact(at.minus(self.offset)?)?, self.offset)?;
        }
        if self.held.len() < len && !self.fill(len)? {
            return Err(self.ended(len as u64));
        }
        self.advance(len)
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        match self.barrier.within(self.offset, len) {
            None => self.pass(len),
            Some(at) => {
                let start = self.offset;
                let before = at.minus(start)?;
                self.pass(before)?;
                self.pass_barrier(0, start)?;
                self.pass(len.minus(before)?)
            }
        }
    }

    fn drain(&mut self) -> Result<u64> {
        while self.fill(1)? {
            self.advance(self.held.len())?;
        }
        Ok(self.offset)
    }

    fn at_end(&mut self) -> Result<bool> {
        Ok(!self.fill(1)?)
    }

    fn expect_index(&mut self, offset: u64, block_log2: u32) -> Result<()> {
        self.barrier = Barrier::new(offset);
        if let (Blocks::Unknown(before), 1..) = (&mut self.blocks, block_log2) {
            let before = std::mem::take(before);
            let (hasher, done) = (Hasher::new(), Vec::new());
            let block = 1 << block_log2;
            let missing = offset.min(block);
            let left = offset.minus(missing)?;
            self.blocks = Blocks::On { block, missing, left, hasher, done };
            self.blocks.update(&before)?;
        }
        Ok(())
    }

    fn allow_index(&mut self) {
        self.barrier = Barrier::NONE;
    }

    fn has_passed_index(&self) -> bool {
        self.barrier.has_passed
    }

    fn mark(&mut self, before: Hasher) {
        self.marked = Some(before);
    }

    fn crc(&mut self) -> u32 {
        self.marked.take().unwrap_or_default().finalize()
    }
}

impl Blocks {
    fn update(&mut self, mut bytes: &[u8]) -> Result<()> {
        match self {
            Self::Off => {}
            Self::Unknown(before) => {
                let room = BEFORE_BLOCKS.checked_sub(before.len());
                match room.is_some_and(|room| bytes.len() <= room) {
                    true => before.extend_from_slice(bytes),
                    false => *self = Self::Off,
                }
            }
            Self::On { block, missing, left, hasher, done } => {
                while !bytes.is_empty() && *missing > 0 {
                    let (now, later) = bytes.split_at(at_most(*missing, bytes.len()));
                    hasher.update(now);
                    *missing = missing.minus(now.len() as u64)?;
                    if *missing == 0 {
                        done.push(std::mem::take(hasher).finalize());
                        *missing = (*left).min(*block);
                        *left = left.minus(*missing)?;
                    }
                    bytes = later;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Gives at most so many bytes at once.
    struct Steps<'b>(&'b [u8], usize);

    impl Read for Steps<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(buffer.len());
            self.0.read(&mut buffer[..n])
        }
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251).to_le_bytes()[0]).collect()
    }

    /// A source that lends nothing, and counts what is read of it.
    struct Counting<'b> {
        bytes: &'b [u8],
        reads: AtomicUsize,
        read: AtomicUsize,
    }

    impl ReadAt for Counting<'_> {
        fn len(&self) -> io::Result<u64> {
            Ok(self.bytes.len() as u64)
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.read.fetch_add(buffer.len(), Ordering::Relaxed);
            self.bytes.read_exact_at(buffer, offset)
        }
    }

    #[test]
    fn a_window_reads_little_here_and_there_and_much_in_order() {
        let bytes = bytes(8 << 20);
        let source =
            Counting { bytes: &bytes, reads: AtomicUsize::new(0), read: AtomicUsize::new(0) };
        let mut window = Window::new(&source, bytes.len() as u64, 0);
        for i in 0..8 {
            assert_eq!(window.take(10).unwrap(), &bytes[i << 20..][..10]);
            window.skip((1 << 20) - 10).unwrap();
        }
        assert_eq!(
            (source.reads.swap(0, Ordering::Relaxed), source.read.load(Ordering::Relaxed)),
            (8, 8 << 12)
        );
        assert!(window.at_end().unwrap());
        let mut window = Window::new(&source, bytes.len() as u64, 0);
        for byte in &bytes {
            assert_eq!(window.take(1).unwrap(), [*byte]);
        }
        let reads = source.reads.load(Ordering::Relaxed);
        assert!(reads < 40, "{reads}");
        assert_eq!(window.take(1).unwrap_err().kind, crate::ErrorKind::Truncated);
    }

    #[test]
    fn a_window_on_a_source_that_has_become_shorter_is_an_error() {
        let bytes = bytes(100);
        let shorter = &bytes[..50];
        let mut window = Window::new(&shorter, 100, 0);
        assert_eq!(window.take(10).unwrap_err().kind, crate::ErrorKind::Input);
        assert_eq!(window.offset(), 0);
    }

    /// Takes, skips and marks; gives all that an input says on the way.
    fn drive(input: &mut impl Input) -> Vec<(u64, Vec<u8>)> {
        let mut said = Vec::new();
        for i in 0..40 {
            let taken = input.take(i * 997 % 5000).unwrap().to_vec();
            said.push((input.offset(), taken));
            if i == 20 {
                input.mark(Hasher::new());
            }
            input.skip((i * 7919 % 30_000) as u64).unwrap();
        }
        said.push((input.crc().into(), Vec::new()));
        let error = input.skip(1 << 40).unwrap_err();
        said.push((error.range.start, error.line().into_bytes()));
        said.push((input.drain().unwrap(), vec![input.at_end().unwrap().into()]));
        said
    }

    #[test]
    fn a_window_and_a_stream_say_what_a_slice_says() {
        let bytes = bytes(1 << 20);
        let expected = drive(&mut Slice::new(&bytes, 0));
        let counting =
            Counting { bytes: &bytes, reads: AtomicUsize::new(0), read: AtomicUsize::new(0) };
        assert!(drive(&mut Window::new(&counting, bytes.len() as u64, 0)) == expected);
        for step in [1 << 20, 4096, 61] {
            assert!(drive(&mut Stream::new(Steps(&bytes, step)).unwrap()) == expected, "{step}");
        }
    }

    #[test]
    fn a_length_past_all_offsets_is_damage() {
        let bytes = bytes(100);
        let (mut slice, mut stream) = (Slice::new(&bytes, 0), Stream::new(&bytes[..]).unwrap());
        let inputs: [&mut dyn Input; 2] = [&mut slice, &mut stream];
        for input in inputs {
            input.take(10).unwrap();
            let fault = input.skip(u64::MAX - 9).unwrap_err();
            assert_eq!(fault.kind, crate::ErrorKind::Damaged);
            assert!(fault.line().ends_with("past the end of all offsets"), "{}", fault.line());
        }
        let fault = Slice::new(&bytes, 10).skip(u64::MAX - 10).unwrap_err();
        assert_eq!((fault.kind, fault.range), (crate::ErrorKind::Truncated, 100..u64::MAX));
    }

    #[test]
    fn a_source_that_counts_too_many_is_an_error() {
        struct Liar;
        impl Read for Liar {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                Ok(buffer.len() + 1)
            }
        }
        let fault = Stream::new(Liar).unwrap().take(1).map(<[u8]>::len).unwrap_err();
        assert_eq!(fault.kind, crate::ErrorKind::Input);
        let error = crate::Error::from(fault).to_string();
        assert!(error.ends_with("a source gave more bytes than it was asked for"), "{error}");
    }

    #[test]
    fn blocks_are_those_of_the_bytes_up_to_their_end() {
        let bytes = bytes(10_000);
        for (log2, end, before) in [(10, 10_000, 0), (10, 9_216, 3), (12, 9_217, 5000), (63, 77, 9)]
        {
            let mut stream = Stream::new(Steps(&bytes, 700)).unwrap();
            stream.take(before).unwrap();
            stream.expect_index(end, log2).unwrap();
            stream.drain().unwrap();
            let blocks = bytes[..usize::try_from(end).unwrap()].chunks(1 << log2);
            let expected: Vec<_> = blocks.map(crc32fast::hash).collect();
            assert_eq!(stream.block_crcs(), expected, "2^{log2} to {end}");
        }
        // What was not asked for early is not kept, and never asked for.
        let mut stream = Stream::new(&bytes[..]).unwrap();
        stream.drain().unwrap();
        assert!(matches!(&stream.blocks, Blocks::Unknown(kept) if kept.len() == 10_000));
        let mut stream = Stream::new(io::repeat(1).take(1 << 20)).unwrap();
        stream.drain().unwrap();
        assert!(matches!(stream.blocks, Blocks::Off));
    }
}
