//! An input that reads a pipe or a socket, and computes the checksums of blocks as they pass.

use std::io::{self, Read};
use std::ops::Range;

use crc32fast::Hasher;

use super::Input;
use super::barrier::Barrier;
use crate::arithmetic::{Checked, at_most, exact};
use crate::error::{self, zeros};
use crate::limits::MAX_NAME_BYTES;
use crate::read::fault::{Fault, Result};
use crate::read::index;

/// The length of a stream's buffer: more than the longest name.
const BUFFER_LEN: usize = 1 << 18;

/// More bytes than precede the end of the section `corestream`: a name and a few numbers.
///
/// A stream keeps this many bytes until the header tells the size of a block.
const MAX_BYTES_UP_TO_HEADER: usize = MAX_NAME_BYTES + 1024;

/// A dump that comes through a pipe or a socket and is not stored.
pub(in crate::read) struct Stream<R> {
    source: R,
    buffer: Box<[u8]>,
    /// The bytes of the buffer that were read and not yet taken or skipped.
    buffered: Range<usize>,
    offset: u64,
    /// The offset after the last byte that was read.
    read_end: u64,
    barrier: Barrier,
    crc: Option<Hasher>,
    pub(super) blocks: BlockSums,
}

/// The checksums of the blocks, computed as the bytes pass.
pub(super) enum BlockSums {
    /// The header has not been read, so the size of a block is unknown. Keeps all bytes so far.
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
    pub(in crate::read) fn new(source: R) -> error::Result<Self> {
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
    pub(in crate::read) fn take_block_crcs(&mut self) -> Vec<u32> {
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
