//! Batches: what a sink is given at once, borrowed where the bytes cannot change and otherwise copied.
//!
//! The checksums have to be those of the very bytes that the sink gets. Where the bytes of a batch cannot
//! change, the sink takes them from where they lie, while somebody else sums up the same batch. Where they may
//! change, reading them twice would give a dump that its own checksums call damaged. So they are fetched once,
//! into a buffer that nobody else knows; both the checksum and the sink use that buffer.
//!
//! Headers are copied into the buffer too, so that the sink gets such a batch as one piece, which takes it fewer
//! steps than hundreds of small ones. A buffer is small enough to stay in a core's cache, so that the sink does not
//! go to memory for the bytes a second time.

use std::fs::File;
use std::mem;
use std::ops::Range;

use crate::arithmetic::{Checked, at_most};
use crate::checksum::Checksums;
use crate::encode::{Index, Part, Parts};
use crate::error::{Error, ErrorKind, Result, zeros};
use crate::image::Bytes;
use crate::limits::MAX_BATCH_PIECES;
use crate::piece::{HEADER_BYTES, Piece};
use crate::plan::Plan;

/// Bytes before a copy that go along with it.
const SMALL: u64 = 64 << 10;
/// Bytes of the buffer for copies at least and at most.
const MIN_COPY: usize = 256 << 10;
const COPY_BYTES: usize = 1 << 20;
/// Bytes for gaps that are read along with an image.
const SCRATCH_BYTES: usize = 64 << 10;

/// What comes next of a dump, for a sink.
#[derive(Default)]
pub(crate) struct Batch<'p> {
    /// The position of its first byte in the dump.
    offset: u64,
    /// Its length in bytes.
    len: u64,
    /// Where its bytes are, unless all of them are in `buffer`.
    slices: Vec<Slice<'p>>,
    /// Headers of such a batch.
    headers: Vec<u8>,
    /// The bytes of a batch that is copied, once those of images were fetched; or a part of the index.
    buffer: Vec<u8>,
    /// Whether all bytes are in the buffer.
    is_made: bool,
    /// The parts of images that have to be fetched; empty if nothing is copied.
    copies: Vec<Copy<'p>>,
    /// For bytes between parts of images.
    scratch: Vec<u8>,
}

/// A part of a batch that is not copied.
enum Slice<'p> {
    /// In the buffer for headers.
    Header(Range<usize>),
    /// Bytes of the plan or of an image, with their file and their position in it if they are a mapping of one.
    Borrowed(&'p [u8], Option<(&'p File, u64)>),
}

/// A part of an image that has to be copied.
struct Copy<'p> {
    from: Bytes<'p>,
    /// The position of its first byte in the image.
    offset: u64,
    /// Where its bytes go in the buffer.
    at: Range<usize>,
    /// Whether what is between the copy before and this one must not be read.
    is_apart: bool,
}

impl Batch<'_> {
    /// Its length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether bytes of images have to be fetched for it.
    pub(crate) fn is_copied(&self) -> bool {
        !self.copies.is_empty()
    }

    /// Fetches the bytes of the copies, and sums up the batch.
    ///
    /// # Errors
    /// An image can't be read.
    pub(crate) fn prepare(&mut self, checksums: &mut Checksums) -> Result<()> {
        self.fetch()?;
        self.sum_up(checksums);
        Ok(())
    }

    /// Sums up a batch whose bytes are there.
    pub(crate) fn sum_up(&self, checksums: &mut Checksums) {
        checksums.update((0..self.count()).filter_map(|i| self.slice(i)));
    }

    /// Its pieces, once its bytes are there.
    ///
    /// # Errors
    /// There is no memory for a table of them.
    pub(crate) fn pieces(&self) -> Result<Vec<Piece<'_>>> {
        self.pieces_in(Vec::new())
    }

    /// Its pieces, once its bytes are there, in a table that is empty.
    ///
    /// # Errors
    /// There is no memory for a larger table.
    pub(crate) fn pieces_in<'t>(&'t self, table: Vec<Piece<'t>>) -> Result<Vec<Piece<'t>>> {
        let mut pieces = table;
        let no_room = |_| Error::out_of_memory("a table of pieces");
        pieces.try_reserve_exact(self.count()).map_err(no_room)?;
        let mut offset = self.offset;
        for i in 0..self.count() {
            let Some(bytes) = self.slice(i) else { break };
            let file = match self.slices.get(i) {
                Some(Slice::Borrowed(_, file)) if !self.is_made => *file,
                _ => None,
            };
            pieces.push(Piece { offset, bytes, file });
            offset = offset.plus(bytes.len() as u64)?;
        }
        Ok(pieces)
    }

    /// How many pieces it has.
    pub(crate) fn count(&self) -> usize {
        match self.is_made {
            true => usize::from(self.len > 0),
            false => self.slices.len(),
        }
    }

    /// The bytes of a piece.
    pub(crate) fn slice(&self, i: usize) -> Option<&[u8]> {
        if self.is_made {
            return self.buffer.get(..usize::try_from(self.len).ok()?);
        }
        match self.slices.get(i)? {
            Slice::Header(at) => self.headers.get(at.clone()),
            Slice::Borrowed(bytes, _) => Some(bytes),
        }
    }

    /// Fetches the bytes of the copies, those of one file together.
    fn fetch(&mut self) -> Result<()> {
        let scratch = &mut self.scratch;
        let mut parts = Vec::new();
        reserve(&mut parts)?;
        let mut from: Option<Bytes<'_>> = None;
        let (mut rest, mut start) = (&mut self.buffer[..], 0_usize);
        for copy in &self.copies {
            // Headers stand between them.
            let skipped = copy.at.start.checked_sub(start).ok_or_else(too_long)?;
            let after = mem::take(&mut rest).split_at_mut_checked(skipped).ok_or_else(too_long)?.1;
            let split = after.split_at_mut_checked(copy.at.len());
            let (bytes, after) = split.ok_or_else(too_long)?;
            (rest, start) = (after, copy.at.end);
            if let Some(from) = from.filter(|from| copy.is_apart || !from.is_same_file(copy.from)) {
                from.read_parts(&mut parts, scratch)?;
                parts.clear();
            }
            from = Some(copy.from);
            parts.push((copy.offset, bytes));
        }
        match from {
            Some(from) => from.read_parts(&mut parts, scratch),
            None => Ok(()),
        }
    }

    fn clear(&mut self, offset: u64) {
        (self.offset, self.len, self.is_made) = (offset, 0, false);
        self.slices.clear();
        self.headers.clear();
        self.copies.clear();
    }
}

/// Makes batches of a plan, one after the other.
pub(crate) struct Batches<'p> {
    plan: &'p Plan<'p>,
    parts: Parts<'p>,
    /// Whether any part of the dump has to be copied.
    has_copies: bool,
    /// Bytes of the dump that are in batches.
    offset: u64,
    /// What comes after the data.
    index: Option<Index<'p>>,
}

impl<'p> Batches<'p> {
    pub(crate) fn new(plan: &'p Plan<'p>) -> Self {
        let (parts, has_copies) = (Parts::new(plan), plan.has_copies());
        Self { plan, parts, has_copies, offset: 0, index: None }
    }

    /// Bytes of the dump that are in batches so far.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Replaces what `batch` holds by at most `room` bytes of what comes next, up to the index; it is empty where that
    /// begins.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(crate) fn fill(&mut self, batch: &mut Batch<'p>, room: u64) -> Result<()> {
        batch.clear(self.offset);
        reserve(&mut batch.slices)?;
        // All headers of a batch; so none of them is ever moved.
        let no_room = |_| Error::out_of_memory("a buffer for headers");
        batch.headers.try_reserve(MAX_BATCH_PIECES * HEADER_BYTES).map_err(no_room)?;
        while batch.slices.len() < MAX_BATCH_PIECES
            && let Some(left) = room.checked_sub(batch.len).filter(|left| *left > 0)
        {
            if self.has_copies && self.parts.next_is_copied() {
                // What is borrowed or long goes first; headers go along with the copy.
                let is_image = |slice: &Slice<'_>| matches!(slice, Slice::Borrowed(_, Some(_)));
                if batch.len > SMALL || batch.slices.iter().any(is_image) {
                    break;
                }
                self.fill_copied(batch, room)?;
                break;
            }
            let before = batch.headers.len();
            let Some(part) = self.parts.next(left, &mut batch.headers) else { break };
            let slice = match part {
                Part::Header => Slice::Header(before..batch.headers.len()),
                Part::Bytes(bytes) => Slice::Borrowed(bytes, None),
                Part::Image(bytes, file) => Slice::Borrowed(bytes, file),
                Part::Copy { .. } => return Err(too_long()),
            };
            let len = match &slice {
                Slice::Header(at) => at.len(),
                Slice::Borrowed(bytes, _) => bytes.len(),
            };
            batch.len = batch.len.plus(len as u64)?;
            batch.slices.push(slice);
        }
        self.advance(batch)
    }

    /// Goes on with a copy, into which what is in the batch so far goes as well.
    fn fill_copied(&mut self, batch: &mut Batch<'p>, room: u64) -> Result<()> {
        reserve(&mut batch.copies)?;
        let capacity = at_most(room, COPY_BYTES).max(MIN_COPY);
        if batch.buffer.len() < capacity {
            batch.buffer = Vec::new();
            batch.buffer = zeros(capacity, "a buffer to copy an image")?;
        }
        if batch.scratch.is_empty() {
            batch.scratch = zeros(SCRATCH_BYTES, "a buffer to copy an image")?;
        }
        let mut end = 0_usize;
        for slice in &batch.slices {
            let bytes = match slice {
                Slice::Header(at) => batch.headers.get(at.clone()).unwrap_or_default(),
                Slice::Borrowed(bytes, _) => bytes,
            };
            end = put_bytes(&mut batch.buffer, end, bytes)?;
        }
        let room = room.min(capacity as u64);
        while batch.copies.len() < MAX_BATCH_PIECES && (end as u64) < room {
            // A part that is not split must fit as a whole.
            let left = room.minus(end as u64)?;
            if !self.parts.next_fits(left) {
                break;
            }
            batch.headers.clear();
            match self.parts.next(left, &mut batch.headers) {
                Some(Part::Header) => end = put_bytes(&mut batch.buffer, end, &batch.headers)?,
                Some(Part::Bytes(bytes) | Part::Image(bytes, _)) => {
                    end = put_bytes(&mut batch.buffer, end, bytes)?;
                }
                Some(Part::Copy { from, offset, len }) => {
                    let is_apart = self.parts.is_apart();
                    let start = end;
                    let len = usize::try_from(len).map_err(|_| too_long())?;
                    end = end.checked_add(len).ok_or_else(too_long)?;
                    batch.copies.push(Copy { from, offset, at: start..end, is_apart });
                }
                None => break,
            }
        }
        (batch.len, batch.is_made) = (end as u64, true);
        Ok(())
    }

    /// Begins the index of the dump, whose checksums are these: all data has been in batches and was read.
    ///
    /// # Errors
    /// The file of an image has become shorter, or can be written to by now though it could not before.
    pub(crate) fn begin_index(&mut self, checksums: Checksums) -> Result<()> {
        self.plan.check_images()?;
        let changing = self.plan.look_for_changes()?;
        // Also of the last batch: nothing that was stopped gets an index.
        self.index = Some(Index::new(self.plan, checksums.finish(), changing));
        Ok(())
    }

    /// Replaces what `batch` holds by the next part of the index, which was begun; it is empty at the end.
    ///
    /// # Errors
    /// There is no memory for it, or the dump is not as long as it was planned.
    pub(crate) fn fill_index(&mut self, batch: &mut Batch<'p>) -> Result<()> {
        batch.clear(self.offset);
        batch.is_made = true;
        if let Some(index) = &mut self.index {
            index.fill(&mut batch.buffer)?;
            batch.len = batch.buffer.len() as u64;
        }
        self.advance(batch)?;
        let (made, planned) = (self.offset, self.plan.len());
        if made > planned || (batch.is_empty() && made != planned) {
            let message = format!("{made} bytes were made, {planned} were planned");
            return Err(Error::new(ErrorKind::Internal, message));
        }
        Ok(())
    }

    fn advance(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.offset = self.offset.checked_add(batch.len).ok_or_else(too_long)?;
        Ok(())
    }
}

/// Copies `bytes` to `buffer` at `start`; gives their end.
fn put_bytes(buffer: &mut [u8], start: usize, bytes: &[u8]) -> Result<usize> {
    let end = start.checked_add(bytes.len()).ok_or_else(too_long)?;
    buffer.get_mut(start..end).ok_or_else(too_long)?.copy_from_slice(bytes);
    Ok(end)
}

fn too_long() -> Error {
    Error::new(ErrorKind::Internal, "a batch that is longer than its buffer")
}

/// Makes room in a table of a batch for as many entries as it may have.
fn reserve<T>(table: &mut Vec<T>) -> Result<()> {
    let no_room = |_| Error::out_of_memory("a table of pieces");
    table.try_reserve_exact(MAX_BATCH_PIECES).map_err(no_room)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::{CoreDump, Dumper, Memory, MemoryImage, MemoryType};

    /// What was left out is read neither into the dump nor beside it; a gap of zeros may be.
    #[test]
    fn does_not_read_excluded_bytes_with_their_neighbours() {
        for zeros in [0, 100] {
            let file = tempfile::tempfile().unwrap();
            let mut bytes = vec![1; 65_536];
            let secret = 300..340;
            bytes[secret.clone()].fill(0x5e);
            bytes[secret.end..secret.end + zeros].fill(0);
            bytes[200..250].fill(0);
            file.write_all_at(&bytes, 0).unwrap();
            let image = MemoryImage::from_file(file).unwrap().mark_changing();
            let mut dump = CoreDump::new("guest");
            let memory = Memory::new(MemoryType::wasm32(1), image);
            dump.add_memory(memory.without(secret.start as u64..secret.end as u64));
            let plan = Dumper::new().plan(&dump).unwrap();
            let mut batch = Batch::default();
            let mut batches = Batches::new(&plan);
            while {
                batches.fill(&mut batch, 1 << 20).unwrap();
                !batch.is_empty() && !batch.is_copied()
            } {}
            assert_eq!(batch.copies.len(), 3);
            batch.fetch().unwrap();
            assert!(!batch.buffer.contains(&0x5e) && !batch.scratch.contains(&0x5e), "{zeros}");
        }
    }
}
