//! Reads the bytes of a dump in order: from memory, from a source, or from a stream.
//!
//! # The problem
//! One parser has to read a dump in memory without copying it, a file or remote object without reading the gigabytes
//! between the headers, and a pipe that cannot seek. The bytes come from an untrusted file, so any length may be wrong.
//!
//! # The idea
//! [`Input`] is a cursor that only moves forward: it takes a few bytes or skips many. There are three implementations, and a
//! test drives all of them through the same steps.
//!
//! - [`Slice`] borrows. Skipping costs nothing, and skipped pages of a mapping are never touched.
//! - [`Window`] reads a source with [`ReadAt`]. It keeps one window of the source in a buffer. The first read fetches 4 KiB,
//!   and each read that continues the previous one fetches twice as much, up to 256 KiB. So a list of a million frames takes
//!   few reads, and a header among gigabytes of data takes a small one. A skip past the window reads nothing.
//! - [`Stream`] reads everything. It keeps 256 KiB, more than the longest name, and computes the checksums of the blocks from
//!   the bytes as they pass.
//!
//! # The barrier before the index
//! The header gives the offset of the index, and nothing before the index may reach into it. After
//! [`guard_index`](Input::guard_index), an operation that crosses the offset looks at the bytes there. If an index begins
//! there, the operation fails: a length is damaged. If none does, another tool has made the dump longer and moved the index.
//! Then the input removes the barrier, remembers that ([`has_passed_index`](Input::has_passed_index)) and continues. The check
//! is in the input because only the input can look ahead in a stream.
//!
//! # The cost
//! A slice checks the barrier and its own end in one comparison. A window and a stream check the barrier in each operation.
//! Both have a buffer of 256 KiB at most. A stream also keeps the bytes up to the header, about 100 KB, and the checksums
//! of the blocks, four bytes each.

use std::io::{self, Read};
use std::ops::Range;

use crc32fast::Hasher;

use super::fault::{Fault, Result, at_least_one_byte};
use super::index;
use super::read_at::ReadAt;
use crate::arithmetic::{Checked, at_most, exact};
use crate::error::zeros;
use crate::limits::MAX_NAME_BYTES;

/// The bytes of a dump in order, from first to last.
pub(super) trait Input {
    /// Returns the number of bytes taken or skipped.
    fn offset(&self) -> u64;

    /// Takes the next `len` bytes, at most [`MAX_NAME_BYTES`].
    ///
    /// # Errors
    /// Returns an error if fewer bytes remain, if they reach into the index, or if they cannot be read.
    fn take(&mut self, len: usize) -> Result<&[u8]>;

    /// Skips `len` bytes.
    ///
    /// # Errors
    /// Returns an error if fewer bytes remain, if they reach into the index, or if they cannot be read.
    fn skip(&mut self, len: u64) -> Result<()>;

    /// Skips all remaining bytes. Returns the length of the dump.
    ///
    /// # Errors
    /// Returns an error if the bytes cannot be read.
    fn drain(&mut self) -> Result<u64>;

    /// Returns whether no bytes remain.
    ///
    /// # Errors
    /// Returns an error if the input cannot be read.
    fn at_end(&mut self) -> Result<bool>;

    /// Sets the barrier: fails operations that cross `offset` if an index begins there.
    ///
    /// If no index begins there, the first such operation succeeds and removes the barrier.
    fn guard_index(&mut self, offset: u64);

    /// Removes the barrier, so that the index itself can be read.
    fn unguard_index(&mut self);

    /// Returns whether an operation has crossed the barrier because no index begins there.
    fn has_passed_index(&self) -> bool;

    /// Computes the checksums of the blocks of 2^`block_log2` bytes before the offset `end`, of which the last may be
    /// shorter. With a `block_log2` of 0 there are none.
    ///
    /// Only a stream does this. A source can be read again, by several threads at once.
    ///
    /// # Errors
    /// Returns an internal error.
    fn sum_blocks(&mut self, _end: u64, _block_log2: u32) -> Result<()> {
        Ok(())
    }

    /// Starts a CRC-32 over the bytes from here on. `before` is the state after the bytes that precede them.
    fn start_crc(&mut self, before: Hasher);

    /// Returns the CRC-32 that [`start_crc`](Self::start_crc) began, over all bytes up to here, and ends it.
    fn finish_crc(&mut self) -> u32;
}

/// Returns a range of a dump in memory, or `None` if the range is past the end.
pub(super) fn subslice(bytes: &[u8], range: Range<u64>) -> Option<&[u8]> {
    bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}

/// The offset of the index, which nothing before the index may reach past.
#[derive(Clone, Copy, Debug)]
struct Barrier {
    /// The offset of the index. Without a barrier it is `u64::MAX`, which no byte has.
    at: u64,
    has_passed: bool,
}

impl Barrier {
    const NONE: Self = Self { at: u64::MAX, has_passed: false };

    fn new(at: u64) -> Self {
        Self { at, has_passed: false }
    }

    /// Returns the barrier's offset if the `len` bytes from `offset` on reach past it.
    #[inline]
    fn crossed_by(self, offset: u64, len: u64) -> Option<u64> {
        let ends_before = offset.checked_add(len).is_some_and(|end| end <= self.at);
        (!ends_before && offset <= self.at && self.at != u64::MAX).then_some(self.at)
    }

    /// Removes the barrier unless an index begins with `bytes`, the bytes at the barrier. `offset` is where the operation
    /// that crosses it began.
    ///
    /// If `bytes` is empty the barrier stays. The dump ends there, so nothing can pass it.
    ///
    /// # Errors
    /// Returns an error if an index begins with `bytes`.
    #[cold]
    fn pass(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let at = self.at;
        if index::begins(bytes) {
            let message = format!("reaches into the index at {at:#x}");
            return Err(Fault::damaged(at_least_one_byte(offset, at), message));
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
    /// The bytes before the barrier. One comparison with their end covers both the barrier and the end of the dump.
    before_barrier: &'b [u8],
    offset: usize,
    barrier: Barrier,
    /// The offset at which the CRC-32 starts, and its state there.
    crc_start: usize,
    before_crc: Option<Hasher>,
}

impl<'b> Slice<'b> {
    /// Returns an input that begins at `offset`.
    pub(super) fn new(bytes: &'b [u8], offset: u64) -> Self {
        let offset = at_most(offset, bytes.len());
        Self {
            bytes,
            before_barrier: bytes,
            offset,
            barrier: Barrier::NONE,
            crc_start: offset,
            before_crc: None,
        }
    }

    /// Takes the next `len` bytes, like [`Input::take`], borrowed for as long as the dump.
    #[inline]
    pub(super) fn borrow(&mut self, len: usize) -> Result<&'b [u8]> {
        match self.offset.checked_add(len).and_then(|end| self.before_barrier.get(self.offset..end))
        {
            Some(taken) => {
                // This cannot wrap: the sum is the end of a subslice.
                self.offset = self.offset.wrapping_add(len);
                Ok(taken)
            }
            None => self.borrow_past_barrier(len),
        }
    }

    /// Takes bytes that end after the barrier or after the end of the dump.
    #[cold]
    fn borrow_past_barrier(&mut self, len: usize) -> Result<&'b [u8]> {
        self.pass_barrier(len as u64)?;
        let end = self.offset.checked_add(len);
        let taken = end.and_then(|end| self.bytes.get(self.offset..end).map(|taken| (end, taken)));
        let (end, taken) = taken.ok_or_else(|| self.unexpected_end(len as u64))?;
        self.offset = end;
        Ok(taken)
    }

    /// Passes the barrier if the next `len` bytes cross it.
    fn pass_barrier(&mut self, len: u64) -> Result<()> {
        if let Some(at) = self.barrier.crossed_by(self.offset as u64, len) {
            let bytes = subslice(self.bytes, at..self.bytes.len() as u64).unwrap_or_default();
            self.barrier.pass(bytes, self.offset as u64)?;
            self.before_barrier = self.bytes;
        }
        Ok(())
    }

    fn unexpected_end(&self, len: u64) -> Box<Fault> {
        Fault::unexpected_end_within(self.bytes.len() as u64, self.offset as u64, len)
    }
}

impl Input for Slice<'_> {
    fn offset(&self) -> u64 {
        self.offset as u64
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&[u8]> {
        self.borrow(len)
    }

    #[inline]
    fn skip(&mut self, len: u64) -> Result<()> {
        let end = self.offset().checked_add(len).and_then(|end| usize::try_from(end).ok());
        match end {
            Some(end) if end <= self.before_barrier.len() => self.offset = end,
            _ => {
                self.pass_barrier(len)?;
                let end = end.filter(|end| *end <= self.bytes.len());
                self.offset = end.ok_or_else(|| self.unexpected_end(len))?;
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<u64> {
        self.offset = self.bytes.len();
        Ok(self.offset as u64)
    }

    fn at_end(&mut self) -> Result<bool> {
        Ok(self.offset == self.bytes.len())
    }

    fn guard_index(&mut self, offset: u64) {
        self.barrier = Barrier::new(offset);
        self.before_barrier = subslice(self.bytes, 0..offset).unwrap_or(self.bytes);
    }

    fn unguard_index(&mut self) {
        (self.barrier, self.before_barrier) = (Barrier::NONE, self.bytes);
    }

    fn has_passed_index(&self) -> bool {
        self.barrier.has_passed
    }

    fn start_crc(&mut self, before: Hasher) {
        (self.crc_start, self.before_crc) = (self.offset, Some(before));
    }

    fn finish_crc(&mut self) -> u32 {
        let mut hasher = self.before_crc.take().unwrap_or_default();
        hasher.update(self.bytes.get(self.crc_start..self.offset).unwrap_or_default());
        hasher.finalize()
    }
}

/// The least and the most bytes that a window reads at a time, unless an operation needs more.
const READ_AHEAD: std::ops::RangeInclusive<usize> = 1 << 12..=1 << 18;

/// A dump in a source that lends no bytes, read through a window that grows while the reads are sequential.
pub(super) struct Window<'s> {
    source: &'s dyn ReadAt,
    /// The length of the source in bytes.
    len: u64,
    offset: u64,
    /// The buffer never shrinks, so each of its bytes is zeroed once only.
    buffer: Vec<u8>,
    /// The number of bytes in the buffer that were read from the source.
    filled: usize,
    /// The offset in the dump of the first byte of the buffer.
    start: u64,
    /// The number of bytes that the next read fetches.
    read_ahead: usize,
    barrier: Barrier,
    crc: Option<Hasher>,
}

impl<'s> Window<'s> {
    /// Returns an input that begins at `offset` of a source of `len` bytes.
    pub(super) fn new(source: &'s dyn ReadAt, len: u64, offset: u64) -> Self {
        let offset = offset.min(len);
        Self {
            source,
            len,
            offset,
            buffer: Vec::new(),
            filled: 0,
            start: offset,
            read_ahead: *READ_AHEAD.start(),
            barrier: Barrier::NONE,
            crc: None,
        }
    }

    /// Passes the barrier if the next `len` bytes cross it.
    #[inline]
    fn pass_barrier(&mut self, len: u64) -> Result<()> {
        match self.barrier.crossed_by(self.offset, len) {
            None => Ok(()),
            Some(at) => {
                let mut bytes = [0; index::BEGINNING];
                let there = self.len.checked_sub(at).map_or(0, |left| at_most(left, bytes.len()));
                let bytes = bytes.get_mut(..there).unwrap_or_default();
                if !bytes.is_empty() {
                    self.source.read_exact_at(bytes, at).map_err(|error| Fault::io(at, error))?;
                }
                self.barrier.pass(bytes, self.offset)
            }
        }
    }

    /// Returns the range of the next `len` bytes in the buffer, or `None` if the buffer does not have all of them.
    fn buffered(&self, len: usize) -> Option<Range<usize>> {
        let from = usize::try_from(self.offset.checked_sub(self.start)?).ok()?;
        let to = from.checked_add(len)?;
        (to <= self.filled).then_some(from..to)
    }

    /// Reads until the buffer has the next `len` bytes. Returns their range in the buffer.
    fn fill(&mut self, len: usize) -> Result<Range<usize>> {
        if let Some(buffered) = self.buffered(len) {
            return Ok(buffered);
        }
        let remaining = self.len.minus(self.offset)?;
        if len as u64 > remaining {
            return Err(self.unexpected_end(len as u64));
        }
        // The bytes at the end of the buffer that are among the next ones.
        let from = self.offset.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let kept = from.filter(|from| *from <= self.filled).unwrap_or(self.filled)..self.filled;
        let is_sequential = self.filled > 0 && from.is_some_and(|from| from <= self.filled);
        self.read_ahead = match is_sequential {
            true => self.read_ahead.times(2)?.min(*READ_AHEAD.end()),
            false => *READ_AHEAD.start(),
        };
        let fill_to = at_most(remaining, len.max(self.read_ahead));
        self.buffer.copy_within(kept.clone(), 0);
        (self.start, self.filled) = (self.offset, kept.len());
        if let Some(more) = fill_to.checked_sub(self.buffer.len()) {
            let no_room = |_| crate::Error::out_of_memory("a buffer to read a dump");
            self.buffer.try_reserve_exact(more).map_err(no_room)?;
            self.buffer.resize(fill_to, 0);
        }
        let offset = self.offset.plus(kept.len() as u64)?;
        let to_fill = self.buffer.get_mut(kept.len()..fill_to).unwrap_or_default();
        self.source.read_exact_at(to_fill, offset).map_err(|error| Fault::io(offset, error))?;
        self.filled = fill_to;
        Ok(0..len)
    }

    fn unexpected_end(&self, len: u64) -> Box<Fault> {
        Fault::unexpected_end_within(self.len, self.offset, len)
    }
}

impl Input for Window<'_> {
    fn offset(&self) -> u64 {
        self.offset
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&[u8]> {
        self.pass_barrier(len as u64)?;
        let buffered = self.fill(len)?;
        self.offset = self.offset.plus(len as u64)?;
        let bytes = self.buffer.get(buffered).unwrap_or_default();
        if let Some(crc) = &mut self.crc {
            crc.update(bytes);
        }
        Ok(bytes)
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        self.pass_barrier(len)?;
        let end = self.offset.checked_add(len).filter(|end| *end <= self.len);
        let end = end.ok_or_else(|| self.unexpected_end(len))?;
        // Skipped bytes are read only for a checksum.
        while self.crc.is_some() && self.offset < end {
            let left = end.minus(self.offset)?;
            self.take(at_most(left, *READ_AHEAD.end()))?;
        }
        self.offset = end;
        Ok(())
    }

    fn drain(&mut self) -> Result<u64> {
        self.offset = self.len;
        Ok(self.len)
    }

    fn at_end(&mut self) -> Result<bool> {
        Ok(self.offset == self.len)
    }

    fn guard_index(&mut self, offset: u64) {
        self.barrier = Barrier::new(offset);
    }

    fn unguard_index(&mut self) {
        self.barrier = Barrier::NONE;
    }

    fn has_passed_index(&self) -> bool {
        self.barrier.has_passed
    }

    fn start_crc(&mut self, before: Hasher) {
        self.crc = Some(before);
    }

    fn finish_crc(&mut self) -> u32 {
        self.crc.take().unwrap_or_default().finalize()
    }
}

/// A dump in a source, which may lend its bytes or not.
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

    fn guard_index(&mut self, offset: u64) {
        delegate!(self, input => input.guard_index(offset));
    }

    fn unguard_index(&mut self) {
        delegate!(self, input => input.unguard_index());
    }

    fn has_passed_index(&self) -> bool {
        delegate!(self, input => input.has_passed_index())
    }

    fn start_crc(&mut self, before: Hasher) {
        delegate!(self, input => input.start_crc(before));
    }

    fn finish_crc(&mut self) -> u32 {
        delegate!(self, input => input.finish_crc())
    }
}

/// The length of a stream's buffer: more than the longest name.
const BUFFER_LEN: usize = 1 << 18;

/// More bytes than precede the end of the section `corestream`: a name and a few numbers.
///
/// A stream keeps this many bytes until the header tells the size of a block.
const MAX_BYTES_UP_TO_HEADER: usize = MAX_NAME_BYTES + 1024;

/// A dump that comes through a pipe or a socket and is not stored.
pub(super) struct Stream<R> {
    source: R,
    buffer: Box<[u8]>,
    /// The bytes of the buffer that were read and not yet taken or skipped.
    buffered: Range<usize>,
    offset: u64,
    /// The offset after the last byte that was read.
    read_end: u64,
    barrier: Barrier,
    crc: Option<Hasher>,
    blocks: BlockSums,
}

/// The checksums of the blocks, computed as the bytes pass.
enum BlockSums {
    /// The size of a block is not known yet. All bytes so far are kept.
    SizeUnknown(Vec<u8>),
    /// No checksums are computed.
    Off,
    /// `missing` bytes of the current block are to come, and after them `left` bytes of later blocks.
    On { block: u64, missing: u64, left: u64, hasher: Hasher, done: Vec<u32> },
}

impl<R: Read> Stream<R> {
    /// Returns an input that reads `source` from its first byte.
    ///
    /// # Errors
    /// Returns an error if memory for the buffer cannot be allocated.
    pub(super) fn new(source: R) -> crate::error::Result<Self> {
        let buffer = zeros(BUFFER_LEN, "a buffer to read a dump")?.into_boxed_slice();
        Ok(Self {
            source,
            buffer,
            buffered: 0..0,
            offset: 0,
            read_end: 0,
            barrier: Barrier::NONE,
            crc: None,
            blocks: BlockSums::SizeUnknown(Vec::new()),
        })
    }

    /// Passes the barrier, which is `ahead` bytes from here. That is at most the length of a name. `start` is where the
    /// operation that crosses the barrier began.
    #[cold]
    fn pass_barrier(&mut self, ahead: usize, start: u64) -> Result<()> {
        // If the stream ends before that, no index begins at the barrier.
        self.fill(ahead.plus(index::BEGINNING)?)?;
        let buffered = self.buffer.get(self.buffered.clone()).unwrap_or_default();
        self.barrier.pass(buffered.get(ahead..).unwrap_or_default(), start)
    }

    /// Takes the checksums of the blocks that have passed.
    pub(super) fn take_block_crcs(&mut self) -> Vec<u32> {
        match &mut self.blocks {
            BlockSums::On { done, .. } => std::mem::take(done),
            _ => Vec::new(),
        }
    }

    /// Reads until the buffer has `len` bytes. Returns `false` if the stream ends before that.
    fn fill(&mut self, len: usize) -> Result<bool> {
        if self.buffered.len() < len && self.buffered.start > 0 {
            self.buffer.copy_within(self.buffered.clone(), 0);
            self.buffered = 0..self.buffered.len();
        }
        while self.buffered.len() < len {
            let free = self.buffer.get_mut(self.buffered.end..).unwrap_or_default();
            let room = free.len();
            match self.source.read(free) {
                Ok(0) => return Ok(false),
                Ok(read) if read <= room => {
                    self.buffered.end = self.buffered.end.plus(read)?;
                    self.read_end = self.read_end.plus(read as u64)?;
                }
                Ok(_) => {
                    let message = "the source reported more bytes than were requested";
                    return Err(Fault::io(self.read_end, io::Error::other(message)));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::io(self.read_end, error)),
            }
        }
        Ok(true)
    }

    /// Takes `len` of the buffered bytes, or all of them if there are fewer.
    #[inline]
    fn take_buffered(&mut self, len: usize) -> Result<&[u8]> {
        let buffered = self.buffer.get(self.buffered.clone()).unwrap_or_default();
        let bytes = buffered.get(..len).unwrap_or(buffered);
        if let Some(crc) = &mut self.crc {
            crc.update(bytes);
        }
        self.blocks.update(bytes)?;
        self.buffered.start = self.buffered.start.plus(bytes.len())?;
        self.offset = self.offset.plus(bytes.len() as u64)?;
        Ok(bytes)
    }

    /// Skips `len` bytes that do not cross the barrier.
    fn skip_freely(&mut self, len: u64) -> Result<()> {
        let mut left = len;
        while left > 0 {
            if !self.fill(1)? {
                return Err(self.unexpected_end(left));
            }
            let taken = self.take_buffered(at_most(left, self.buffered.len()))?;
            left = left.minus(taken.len() as u64)?;
        }
        Ok(())
    }

    fn unexpected_end(&self, len: u64) -> Box<Fault> {
        Fault::unexpected_end_within(self.read_end, self.offset, len)
    }
}

impl<R: Read> Input for Stream<R> {
    fn offset(&self) -> u64 {
        self.offset
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&[u8]> {
        if let Some(at) = self.barrier.crossed_by(self.offset, len as u64) {
            self.pass_barrier(exact(at.minus(self.offset)?)?, self.offset)?;
        }
        if self.buffered.len() < len && !self.fill(len)? {
            return Err(self.unexpected_end(len as u64));
        }
        self.take_buffered(len)
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        match self.barrier.crossed_by(self.offset, len) {
            None => self.skip_freely(len),
            Some(at) => {
                let start = self.offset;
                let before = at.minus(start)?;
                self.skip_freely(before)?;
                self.pass_barrier(0, start)?;
                self.skip_freely(len.minus(before)?)
            }
        }
    }

    fn drain(&mut self) -> Result<u64> {
        while self.fill(1)? {
            self.take_buffered(self.buffered.len())?;
        }
        Ok(self.offset)
    }

    fn at_end(&mut self) -> Result<bool> {
        Ok(!self.fill(1)?)
    }

    fn guard_index(&mut self, offset: u64) {
        self.barrier = Barrier::new(offset);
    }

    fn unguard_index(&mut self) {
        self.barrier = Barrier::NONE;
    }

    fn has_passed_index(&self) -> bool {
        self.barrier.has_passed
    }

    fn sum_blocks(&mut self, end: u64, block_log2: u32) -> Result<()> {
        if let (BlockSums::SizeUnknown(kept), 1..) = (&mut self.blocks, block_log2) {
            let kept = std::mem::take(kept);
            let (hasher, done) = (Hasher::new(), Vec::new());
            let block = 1 << block_log2;
            let missing = end.min(block);
            let left = end.minus(missing)?;
            self.blocks = BlockSums::On { block, missing, left, hasher, done };
            self.blocks.update(&kept)?;
        }
        Ok(())
    }

    fn start_crc(&mut self, before: Hasher) {
        self.crc = Some(before);
    }

    fn finish_crc(&mut self) -> u32 {
        self.crc.take().unwrap_or_default().finalize()
    }
}

impl BlockSums {
    fn update(&mut self, mut bytes: &[u8]) -> Result<()> {
        match self {
            Self::Off => {}
            Self::SizeUnknown(kept) => {
                let room = MAX_BYTES_UP_TO_HEADER.checked_sub(kept.len());
                match room.is_some_and(|room| bytes.len() <= room) {
                    true => kept.extend_from_slice(bytes),
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

    /// A reader of the first field that returns at most as many bytes per call as the second says.
    struct ShortReads<'b>(&'b [u8], usize);

    impl Read for ShortReads<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(buffer.len());
            self.0.read(&mut buffer[..n])
        }
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251).to_le_bytes()[0]).collect()
    }

    /// A source that lends no bytes, and counts the reads and the bytes read.
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
    fn window_reads_ahead_only_in_sequential_access() {
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
    fn window_reports_a_source_that_has_shrunk() {
        let bytes = bytes(100);
        let shorter = &bytes[..50];
        let mut window = Window::new(&shorter, 100, 0);
        assert_eq!(window.take(10).unwrap_err().kind, crate::ErrorKind::Input);
        assert_eq!(window.offset(), 0);
    }

    /// Takes, skips and checksums bytes. Returns everything that the input returned.
    fn drive(input: &mut impl Input) -> Vec<(u64, Vec<u8>)> {
        let mut seen = Vec::new();
        for i in 0..40 {
            let taken = input.take(i * 997 % 5000).unwrap().to_vec();
            seen.push((input.offset(), taken));
            if i == 20 {
                input.start_crc(Hasher::new());
            }
            input.skip((i * 7919 % 30_000) as u64).unwrap();
        }
        seen.push((input.finish_crc().into(), Vec::new()));
        let error = input.skip(1 << 40).unwrap_err();
        seen.push((error.range.start, error.line().into_bytes()));
        seen.push((input.drain().unwrap(), vec![input.at_end().unwrap().into()]));
        seen
    }

    #[test]
    fn all_inputs_return_the_same_bytes_and_errors() {
        let bytes = bytes(1 << 20);
        let expected = drive(&mut Slice::new(&bytes, 0));
        let counting =
            Counting { bytes: &bytes, reads: AtomicUsize::new(0), read: AtomicUsize::new(0) };
        assert!(drive(&mut Window::new(&counting, bytes.len() as u64, 0)) == expected);
        for step in [1 << 20, 4096, 61] {
            assert!(
                drive(&mut Stream::new(ShortReads(&bytes, step)).unwrap()) == expected,
                "{step}"
            );
        }
    }

    #[test]
    fn rejects_a_length_past_the_largest_offset() {
        let bytes = bytes(100);
        let (mut slice, mut stream) = (Slice::new(&bytes, 0), Stream::new(&bytes[..]).unwrap());
        let inputs: [&mut dyn Input; 2] = [&mut slice, &mut stream];
        for input in inputs {
            input.take(10).unwrap();
            let fault = input.skip(u64::MAX - 9).unwrap_err();
            assert_eq!(fault.kind, crate::ErrorKind::Damaged);
            assert!(
                fault.line().ends_with("reaches past the largest file offset"),
                "{}",
                fault.line()
            );
        }
        let fault = Slice::new(&bytes, 10).skip(u64::MAX - 10).unwrap_err();
        assert_eq!((fault.kind, fault.range), (crate::ErrorKind::Truncated, 100..u64::MAX));
    }

    #[test]
    fn stream_rejects_a_source_that_reports_too_many_bytes() {
        struct OverReporting;
        impl Read for OverReporting {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                Ok(buffer.len() + 1)
            }
        }
        let fault = Stream::new(OverReporting).unwrap().take(1).map(<[u8]>::len).unwrap_err();
        assert_eq!(fault.kind, crate::ErrorKind::Input);
        let error = crate::Error::from(fault).to_string();
        assert!(error.ends_with("the source reported more bytes than were requested"), "{error}");
    }

    #[test]
    fn stream_sums_each_block_up_to_the_index() {
        let bytes = bytes(10_000);
        for (log2, end, before) in [(10, 10_000, 0), (10, 9_216, 3), (12, 9_217, 5000), (63, 77, 9)]
        {
            let mut stream = Stream::new(ShortReads(&bytes, 700)).unwrap();
            stream.take(before).unwrap();
            stream.sum_blocks(end, log2).unwrap();
            stream.drain().unwrap();
            let blocks = bytes[..usize::try_from(end).unwrap()].chunks(1 << log2);
            let expected: Vec<_> = blocks.map(crc32fast::hash).collect();
            assert_eq!(stream.take_block_crcs(), expected, "2^{log2} to {end}");
        }
        // Without a header early in the dump, the stream stops keeping bytes and computes no checksums.
        let mut stream = Stream::new(&bytes[..]).unwrap();
        stream.drain().unwrap();
        assert!(matches!(&stream.blocks, BlockSums::SizeUnknown(kept) if kept.len() == 10_000));
        let mut stream = Stream::new(io::repeat(1).take(1 << 20)).unwrap();
        stream.drain().unwrap();
        assert!(matches!(stream.blocks, BlockSums::Off));
    }
}
