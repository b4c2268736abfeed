//! A dump that is pulled: its pieces in batches, or its bytes.

use std::fmt;
use std::io::{self, Read};

use crate::arithmetic::Checked;
use crate::batch::{Batch, Batches};
use crate::checksum::Checksums;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::MAX_BATCH_BYTES;
use crate::piece::Piece;
use crate::plan::Plan;

/// Bytes of a batch for a reader, which copies them anyway.
const READER_BYTES: u64 = 1 << 20;

/// The pieces of a dump, made by [`Plan::pieces`], whose example pulls all of them: for destinations that are not a
/// [`Sink`](crate::Sink), such as io_uring or a client of an object store.
///
/// A batch lies in the images as far as their bytes cannot change, and otherwise in a buffer. The checksums of the dump
/// are made on the way, in the thread that pulls. What stops the work is that of the
/// [`Dumper`](crate::Dumper::cancel). Progress is not reported: the caller sees it by the offsets of the pieces.
pub struct Pieces<'p> {
    plan: &'p Plan<'p>,
    batches: Batches<'p>,
    batch: Batch<'p>,
    stage: Stage,
}

/// What comes next.
enum Stage {
    /// Everything before the index, with the checksums so far.
    Data(Checksums),
    Index,
    End,
    Failed,
}

impl<'p> Pieces<'p> {
    pub(crate) fn new(plan: &'p Plan<'p>) -> Result<Self> {
        let stage = Stage::Data(Checksums::new(&plan.index)?);
        Ok(Self { plan, batches: Batches::new(plan), batch: Batch::default(), stage })
    }

    /// Returns the next pieces, at least one and at most [`MAX_BATCH_PIECES`](crate::limits::MAX_BATCH_PIECES); `None` at
    /// the end of the dump. They have at most about [`MAX_BATCH_BYTES`], unless the sections before the memory, which are
    /// not split, have more.
    ///
    /// # Errors
    /// An image can't be read, or has become shorter; the work was cancelled ([`Dumper::cancel`](crate::Dumper::cancel));
    /// there is no memory for a buffer. Every later call fails too.
    pub fn next_batch(&mut self) -> Result<Option<Vec<Piece<'_>>>> {
        self.pull(MAX_BATCH_BYTES)?;
        match self.batch.is_empty() {
            true => Ok(None),
            false => self.batch.pieces().map(Some),
        }
    }

    /// Fills the batch with at most `room` bytes; it is empty at the end.
    fn pull(&mut self, room: u64) -> Result<()> {
        let stage = std::mem::replace(&mut self.stage, Stage::Failed);
        match self.step(stage, room) {
            Ok(stage) => {
                self.stage = stage;
                Ok(())
            }
            Err(error) => {
                // Its bytes may never have been fetched.
                self.batch = Batch::default();
                Err(error)
            }
        }
    }

    fn step(&mut self, stage: Stage, room: u64) -> Result<Stage> {
        if matches!(stage, Stage::Data(_) | Stage::Index) {
            self.plan.control.check_cancelled()?;
        }
        let batch = &mut self.batch;
        match stage {
            Stage::Data(mut checksums) => {
                self.batches.fill(batch, room)?;
                if !batch.is_empty() {
                    batch.prepare(&mut checksums)?;
                    return Ok(Stage::Data(checksums));
                }
                self.batches.begin_index(checksums)?;
                self.step(Stage::Index, room)
            }
            Stage::Index => {
                self.batches.fill_index(batch)?;
                // What is complete is not stopped any more.
                let is_last = self.batches.offset() == self.plan.len();
                Ok(if is_last { Stage::End } else { Stage::Index })
            }
            Stage::End => {
                *batch = Batch::default();
                Ok(Stage::End)
            }
            Stage::Failed => Err(Error::new(
                ErrorKind::Option,
                "the dump has failed before: its pieces can't be continued",
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

/// The bytes of a dump, made by [`Plan::reader`]. Each is copied once.
///
/// Errors are those of [`Pieces::next_batch`], [within](Error#impl-From<Error>-for-Error) an [`io::Error`]. The example of
/// [`Plan::reader`] reads all of a dump.
#[derive(Debug)]
pub struct Reader<'p> {
    pieces: Pieces<'p>,
    /// The piece of the batch, and the byte of that, that come next.
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
            let rest = batch.slice(self.piece).filter(|_| self.piece < batch.count());
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
            self.pieces.pull(READER_BYTES)?;
            (self.piece, self.byte) = (0, 0);
            if self.pieces.batch.is_empty() {
                return Ok(0);
            }
        }
    }
}
