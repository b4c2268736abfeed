//! Reads the bytes of a dump in order: from memory, from a source, or from a stream.
//!
//! # The problem
//! One parser has to read a dump in memory without copying it, a file or remote object without reading the gigabytes
//! between the headers, and a pipe that cannot seek. The bytes come from an untrusted file, so any length in it can be
//! wrong.
//!
//! # The idea
//! [`Input`] is a cursor that only moves forward: it takes a few bytes or skips many. There are three implementations,
//! and a test drives all of them through the same steps.
//!
//! - [`Slice`] borrows. Skipping costs nothing, and skipped pages of a mapping are never touched.
//! - [`Window`] reads a source with [`ReadAt`](super::read_at::ReadAt). It keeps one window of the source in a buffer.
//!   The first read fetches 4 KiB, and each read that continues the previous one fetches twice as much, up to 256 KiB.
//!   So a list of a million frames takes few reads, and a header among gigabytes of data takes a small one. A skip past
//!   the window reads nothing.
//! - [`Stream`] reads everything. It keeps 256 KiB, more than the longest name, and computes the checksums of the
//!   blocks from the bytes as they pass.
//!
//! # The barrier before the index
//! The header gives the offset of the index, and nothing before the index may reach into it. After
//! [`guard_index`](Input::guard_index), an operation that crosses the offset looks at the bytes there. If an index
//! begins there, the operation fails: a length is damaged. If none does, another tool has made the dump longer and
//! moved the index. Then the input removes the barrier, remembers that ([`has_passed_index`](Input::has_passed_index))
//! and continues. The check is in the input because only the input can look ahead in a stream.
//!
//! # The cost
//! A slice checks the barrier and its own end in one comparison. A window and a stream check the barrier in each
//! operation. Both have a buffer of 256 KiB at most. A stream also keeps the bytes up to the header, about 100 KB, and
//! the checksums of the blocks, four bytes each.

mod barrier;
mod cursor;
mod slice;
mod stream;
mod window;

use std::ops::Range;

use crc32fast::Hasher;

pub(super) use self::cursor::Cursor;
pub(super) use self::slice::Slice;
pub(super) use self::stream::Stream;
pub(super) use self::window::Window;
use super::fault::Result;

/// The bytes of a dump in order, from first to last.
pub(super) trait Input {
    /// Returns the offset of the next byte.
    fn offset(&self) -> u64;

    /// Takes the next `len` bytes, at most [`MAX_NAME_BYTES`](crate::limits::MAX_NAME_BYTES).
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

    /// Sets the barrier at `offset`. Operations that cross it fail if an index begins there.
    ///
    /// If no index begins there, the first such operation succeeds and removes the barrier.
    fn guard_index(&mut self, offset: u64);

    /// Removes the barrier, so that the index itself can be read.
    fn unguard_index(&mut self);

    /// Returns whether an operation has crossed the barrier because no index begins there.
    fn has_passed_index(&self) -> bool;

    /// Starts computing the checksums of the blocks before the offset `end`. A block has 2^`block_log2` bytes, and the
    /// last one can be shorter. There are no blocks if `block_log2` is 0.
    ///
    /// Only a stream does this, and only if the header came early enough that it still has all bytes. A source can be
    /// read again, by several threads at once.
    ///
    /// # Errors
    /// Returns an internal error.
    fn sum_blocks(&mut self, _end: u64, _block_log2: u32) -> Result<()> {
        Ok(())
    }

    /// Starts a CRC-32 over the bytes from here on. `before` is the state after the bytes that precede them.
    fn start_crc(&mut self, before: Hasher);

    /// Ends the CRC-32 that [`start_crc`](Self::start_crc) began, and returns its value over all bytes up to here.
    fn finish_crc(&mut self) -> u32;
}

/// Returns a range of a dump in memory, or `None` if the range is past the end.
pub(super) fn subslice(bytes: &[u8], range: Range<u64>) -> Option<&[u8]> {
    bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}

#[cfg(test)]
mod tests;
