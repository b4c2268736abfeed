//! Lets the caller pull a dump: its pieces in batches, or its bytes.

use std::fmt;
use std::io::{self, Read};

use crate::arithmetic::Checked;
use crate::batch::{Batch, Batches};
use crate::checksum::Checksums;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::MAX_BATCH_BYTES;
use crate::piece::Piece;
use crate::plan::Plan;

/// The length in bytes of a batch for a reader, which copies them anyway.
const READER_BATCH_BYTES: u64 = 1 << 20;

/// The pieces of a dump in batches, for destinations that are not a [`Sink`](crate::Sink), such as io_uring or the
/// client of an object store.
///
/// [`Plan::pieces`] returns it, and has an example. A batch borrows the bytes of images that cannot change, and copies
/// the pieces of other images into a buffer. The checksums of the dump are computed in the calling thread.
///
/// The handle of [`Dumper::cancel`](crate::Dumper::cancel) cancels it. It reports no progress: the offsets of the
/// pieces show it.
pub struct Pieces<'p> {
    plan: &'p Plan<'p>,
    batches: Batches<'p>,
    batch: Batch<'p>,
    state: PullState,
}

/// The part of the dump that comes next.
enum PullState {
    /// Everything before the index, with the checksums so far.
    Data(Checksums),
    Index,
    End,
    Failed,
}

impl<'p> Pieces<'p> {
    pub(crate) fn new(plan: &'p Plan<'p>) -> Result<Self> {
        let state = PullState::Data(Checksums::new(&plan.index)?);
        Ok(Self { plan, batches: Batches::new(plan), batch: Batch::default(), state })
    }

    /// Returns the next pieces, or `None` at the end of the dump.
    ///
    /// A batch has at least one and at most [`MAX_BATCH_PIECES`](crate::limits::MAX_BATCH_PIECES) pieces, and at most
    /// about [`MAX_BATCH_BYTES`]. Only the sections before the memory, which are never split, may exceed that.
    ///
    /// # Errors
    /// Returns an error in these cases, and for every later call:
    ///
    /// - An image cannot be read, or was truncated.
    /// - The dump was cancelled ([`Dumper::cancel`](crate::Dumper::cancel)).
    /// - A buffer cannot be allocated.
    pub fn next_batch(&mut self) -> Result<Option<Vec<Piece<'_>>>> {
        self.pull(MAX_BATCH_BYTES)?;
        match self.batch.is_empty() {
            true => Ok(None),
            false => self.batch.pieces().map(Some),
        }
    }

    /// Fills the batch with at most `room` bytes. It is empty at the end.
    fn pull(&mut self, room: u64) -> Result<()> {
        let state = std::mem::replace(&mut self.state, PullState::Failed);
        match self.step(state, room) {
            Ok(state) => {
                self.state = state;
                Ok(())
            }
            Err(error) => {
                // The batch may have bytes that were never read.
                self.batch = Batch::default();
                Err(error)
            }
        }
    }

    fn step(&mut self, state: PullState, room: u64) -> Result<PullState> {
        if matches!(state, PullState::Data(_) | PullState::Index) {
            self.plan.control.check_cancelled()?;
        }
        let batch = &mut self.batch;
        match state {
            PullState::Data(mut checksums) => {
                self.batches.fill(batch, room)?;
                if !batch.is_empty() {
                    batch.prepare(&mut checksums)?;
                    return Ok(PullState::Data(checksums));
                }
                self.batches.begin_index(checksums)?;
                self.step(PullState::Index, room)
            }
            PullState::Index => {
                self.batches.fill_index(batch)?;
                // After its last byte, a dump can no longer be cancelled.
                let is_last = self.batches.offset() == self.plan.len();
                Ok(if is_last { PullState::End } else { PullState::Index })
            }
            PullState::End => {
                *batch = Batch::default();
                Ok(PullState::End)
            }
            PullState::Failed => Err(Error::new(
                ErrorKind::Option,
                "the dump failed earlier and cannot continue; start again from the plan",
            )),
        }
    }
}

impl fmt::Debug for Pieces<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (offset, len) = (self.batches.offset(), self.plan.len());
        f.debug_struct("Pieces").field("pulled", &offset).field("len", &len).finish()
    }
}

/// The bytes of a dump as a [`Read`]. Each is copied once.
///
/// [`Plan::reader`] returns it, and has an example. Its errors are those of [`Pieces::next_batch`],
/// [wrapped](Error#impl-From<Error>-for-Error) in an [`io::Error`].
#[derive(Debug)]
pub struct Reader<'p> {
    pieces: Pieces<'p>,
    /// The index of the next piece in the batch, and of the next byte in that piece.
    piece: usize,
    byte: usize,
}

impl<'p> Reader<'p> {
    pub(crate) fn new(pieces: Pieces<'p>) -> Self {
        Self { pieces, piece: 0, byte: 0 }
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let batch = &self.pieces.batch;
            let rest = batch.piece_bytes(self.piece).filter(|_| self.piece < batch.piece_count());
            if let Some(rest) = rest.and_then(|bytes| bytes.get(self.byte..)) {
                let len = rest.len().min(buffer.len());
                if let (Some(to), Some(from)) = (buffer.get_mut(..len), rest.get(..len))
                    && len > 0
                {
                    to.copy_from_slice(from);
                    self.byte = self.byte.plus(len)?;
                    return Ok(len);
                }
                self.piece = self.piece.plus(1)?;
                self.byte = 0;
                continue;
            }
            self.pieces.pull(READER_BATCH_BYTES)?;
            (self.piece, self.byte) = (0, 0);
            if self.pieces.batch.is_empty() {
                return Ok(0);
            }
        }
    }
}
