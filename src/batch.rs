//! Groups the parts of a dump into batches for the sink, either borrowed or copied.
//!
//! # The problem
//! The checksums must cover the very bytes that the sink gets. The bytes of a live guest in a slice, or of a file that
//! cannot change, are the same whenever they are read. The bytes of other images may change between two reads. A dump
//! whose checksums and payload came from different reads would fail its own verification.
//!
//! # The idea
//! A batch has one of two forms:
//!
//! - **Borrowed**: a list of slices, most of them in the images. The sink takes them from there while a helper thread
//!   computes the checksums of the same slices. Nothing is copied except headers.
//! - **Copied**: one buffer. The bytes of images are read into it once, and both the checksums and the sink use the
//!   buffer. Headers between the images' bytes go into the buffer too, so the sink gets one piece instead of hundreds.
//!
//! [`Batches`] forms batches in the order of the dump. A batch that begins with borrowed parts ends before the first
//! part that must be copied, unless it is so short that copying it costs less than another call of the sink.
//!
//! # The invariant
//! The batches, one after the other, are the dump. A batch has at most `MAX_BATCH_PIECES` pieces and the given number
//! of bytes, except that the sections before the data are never split. Bytes of an image that must be copied are read
//! exactly once. Excluded bytes are never read, not even into the scratch buffer: one `preadv` reads segments that lie
//! close together, along with the gaps between them, but a segment that follows excluded bytes is read by another call.
//!
//! # The cost
//! A copy buffer of 256 KiB to 1 MiB, which stays in a core's cache, so the sink does not load the bytes from memory a
//! second time. 64 KiB of scratch space for gaps, 32 KiB for headers, and tables for 512 entries. All are reused from
//! batch to batch. A dense image that is copied to a pipe takes three times the CPU time, because its pages would be
//! lent otherwise.
//!
//! Alternatives were slower. 512 buffers per batch instead of one take more time in `writev`. One `pread` for each short
//! segment takes 1.9 times the CPU time of a dump of heap-like memory to a file, against 1.2 times with `preadv`. A lease
//! on the file would make the copy unnecessary for file sinks, but would stall every process that opens the file for
//! writing.

use std::fs::File;
use std::mem;
use std::ops::Range;

use crate::arithmetic::{Checked, at_most};
use crate::checksum::Checksums;
use crate::encode::{DumpPart, DumpParts, IndexEncoder};
use crate::error::{Error, ErrorKind, Result, zeros};
use crate::image::Bytes;
use crate::limits::MAX_BATCH_PIECES;
use crate::piece::{MAX_HEADER_BYTES, Piece};
use crate::plan::Plan;

/// The maximum number of borrowed bytes that are copied into the buffer of the copied parts after them.
const MAX_BYTES_BEFORE_COPY: u64 = 64 << 10;
/// The minimum and maximum length in bytes of the copy buffer.
const MIN_COPY_BYTES: usize = 256 << 10;
const MAX_COPY_BYTES: usize = 1 << 20;
/// The length in bytes of the buffer for gaps that are read along with segments.
const SCRATCH_BYTES: usize = 64 << 10;

/// Some consecutive parts of a dump, for a sink.
#[derive(Default)]
pub(crate) struct Batch<'p> {
    /// The offset of its first byte in the dump.
    offset: u64,
    /// Its length in bytes.
    len: u64,
    /// The slices of a borrowed batch.
    slices: Vec<Slice<'p>>,
    /// The headers of a borrowed batch.
    headers: Vec<u8>,
    /// The bytes of a copied batch, complete after [`prepare`](Self::prepare), or a chunk of the index.
    buffer: Vec<u8>,
    /// Whether all bytes are in `buffer`.
    is_buffered: bool,
    /// The parts of images to read into `buffer`; empty for a borrowed batch.
    copies: Vec<ImageCopy<'p>>,
    /// Scratch space for the gaps between parts of images.
    scratch: Vec<u8>,
}

/// A slice of a borrowed batch.
enum Slice<'p> {
    /// A range of the buffer for headers.
    Header(Range<usize>),
    /// Bytes of the plan or of an image. If they are mapped from a file, with that file and their position in it.
    Borrowed(&'p [u8], Option<(&'p File, u64)>),
}

/// A part of an image to copy.
struct ImageCopy<'p> {
    from: Bytes<'p>,
    /// The position of its first byte in the image.
    offset: u64,
    /// The range of the buffer that its bytes go to.
    at: Range<usize>,
    /// Whether excluded bytes lie between the previous copy and this one, so that the gap must not be read.
    follows_excluded: bool,
}

impl Batch<'_> {
    /// Its length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether bytes of images must be read into the buffer.
    pub(crate) fn is_copied(&self) -> bool {
        !self.copies.is_empty()
    }

    /// Reads the bytes to copy, and computes the checksums of the batch.
    ///
    /// # Errors
    /// Returns an error if an image cannot be read.
    pub(crate) fn prepare(&mut self, checksums: &mut Checksums) -> Result<()> {
        self.read_copies()?;
        self.update_checksums(checksums);
        Ok(())
    }

    /// Computes the checksums of a batch that is borrowed or has been read.
    pub(crate) fn update_checksums(&self, checksums: &mut Checksums) {
        checksums.update((0..self.piece_count()).filter_map(|i| self.piece_bytes(i)));
    }

    /// Returns the pieces of a batch that is borrowed or has been read.
    ///
    /// # Errors
    /// Returns an error if a table of them cannot be allocated.
    pub(crate) fn pieces(&self) -> Result<Vec<Piece<'_>>> {
        self.pieces_in(Vec::new())
    }

    /// Returns the pieces in `table`, which is empty.
    ///
    /// # Errors
    /// Returns an error if a larger table cannot be allocated.
    pub(crate) fn pieces_in<'t>(&'t self, table: Vec<Piece<'t>>) -> Result<Vec<Piece<'t>>> {
        let mut pieces = table;
        let no_room = |_| Error::out_of_memory("a table of pieces");
        pieces.try_reserve_exact(self.piece_count()).map_err(no_room)?;
        let mut offset = self.offset;
        for i in 0..self.piece_count() {
            let Some(bytes) = self.piece_bytes(i) else { break };
            let file = match self.slices.get(i) {
                Some(Slice::Borrowed(_, file)) if !self.is_buffered => *file,
                _ => None,
            };
            pieces.push(Piece { offset, bytes, file });
            offset = offset.plus(bytes.len() as u64)?;
        }
        Ok(pieces)
    }

    /// Returns the number of pieces.
    pub(crate) fn piece_count(&self) -> usize {
        match self.is_buffered {
            true => usize::from(self.len > 0),
            false => self.slices.len(),
        }
    }

    /// Returns the bytes of piece `i`.
    pub(crate) fn piece_bytes(&self, i: usize) -> Option<&[u8]> {
        if self.is_buffered {
            return self.buffer.get(..usize::try_from(self.len).ok()?);
        }
        match self.slices.get(i)? {
            Slice::Header(at) => self.headers.get(at.clone()),
            Slice::Borrowed(bytes, _) => Some(bytes),
        }
    }

    /// Reads the bytes to copy. One call reads consecutive copies of one file, unless excluded bytes lie between them.
    fn read_copies(&mut self) -> Result<()> {
        let scratch = &mut self.scratch;
        let mut parts = Vec::new();
        reserve(&mut parts)?;
        let mut from: Option<Bytes<'_>> = None;
        let (mut rest, mut start) = (&mut self.buffer[..], 0_usize);
        for copy in &self.copies {
            // Skips the headers between two copies.
            let skipped = copy.at.start.checked_sub(start).ok_or_else(too_long)?;
            let after = mem::take(&mut rest).split_at_mut_checked(skipped).ok_or_else(too_long)?.1;
            let split = after.split_at_mut_checked(copy.at.len());
            let (bytes, after) = split.ok_or_else(too_long)?;
            (rest, start) = (after, copy.at.end);
            if let Some(from) =
                from.filter(|from| copy.follows_excluded || !from.is_same_file(copy.from))
            {
                from.read_parts(&mut parts, scratch)?;
                parts.clear();
            }
            from = Some(copy.from);
            parts.push((copy.offset, bytes));
        }
        if let Some(from) = from {
            from.read_parts(&mut parts, scratch)?;
        }
        self.release_read();
        Ok(())
    }

    /// Releases the bytes of snapshots that this batch has read. They are read in the order of their addresses.
    fn release_read(&self) {
        for (i, copy) in self.copies.iter().enumerate() {
            let is_last = match self.copies.get(i.saturating_add(1)) {
                Some(next) => !copy.from.is_same_snapshot(next.from),
                None => true,
            };
            if is_last {
                copy.from.release_before(copy.offset.saturating_add(copy.at.len() as u64));
            }
        }
    }

    fn clear(&mut self, offset: u64) {
        (self.offset, self.len, self.is_buffered) = (offset, 0, false);
        self.slices.clear();
        self.headers.clear();
        self.copies.clear();
    }
}

/// The source of a plan's batches, in the order of the dump.
pub(crate) struct Batches<'p> {
    plan: &'p Plan<'p>,
    parts: DumpParts<'p>,
    /// Whether any part of the dump must be copied.
    has_copies: bool,
    /// The number of bytes of the dump in batches so far.
    offset: u64,
    /// The encoder of the index, once all data has been in batches.
    index: Option<IndexEncoder<'p>>,
}

impl<'p> Batches<'p> {
    pub(crate) fn new(plan: &'p Plan<'p>) -> Self {
        let (parts, has_copies) = (DumpParts::new(plan), plan.has_copies());
        Self { plan, parts, has_copies, offset: 0, index: None }
    }

    /// Returns the number of bytes of the dump in batches so far.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Fills `batch` with the next parts of the dump, at most `room` bytes. It is empty where the index begins.
    ///
    /// # Errors
    /// Returns an error if a buffer or a table cannot be allocated.
    pub(crate) fn fill(&mut self, batch: &mut Batch<'p>, room: u64) -> Result<()> {
        batch.clear(self.offset);
        reserve(&mut batch.slices)?;
        // Room for all headers of a batch, so the buffer never moves.
        let no_room = |_| Error::out_of_memory("a buffer for headers");
        batch.headers.try_reserve(MAX_BATCH_PIECES * MAX_HEADER_BYTES).map_err(no_room)?;
        while batch.slices.len() < MAX_BATCH_PIECES
            && let Some(remaining) = room.checked_sub(batch.len).filter(|room| *room > 0)
        {
            if self.has_copies && self.parts.next_is_copied() {
                // Lent pages and long borrowed parts are sent first. A few headers are copied along.
                let is_lendable = |slice: &Slice<'_>| matches!(slice, Slice::Borrowed(_, Some(_)));
                if batch.len > MAX_BYTES_BEFORE_COPY || batch.slices.iter().any(is_lendable) {
                    break;
                }
                self.fill_copied(batch, room)?;
                break;
            }
            let before = batch.headers.len();
            let Some(part) = self.parts.next(remaining, &mut batch.headers) else { break };
            let slice = match part {
                DumpPart::Header => Slice::Header(before..batch.headers.len()),
                DumpPart::Bytes(bytes) => Slice::Borrowed(bytes, None),
                DumpPart::Image(bytes, file) => Slice::Borrowed(bytes, file),
                DumpPart::Copy { .. } => return Err(too_long()),
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

    /// Turns `batch` into a copied one: moves its borrowed parts into the buffer and adds copied parts.
    fn fill_copied(&mut self, batch: &mut Batch<'p>, room: u64) -> Result<()> {
        reserve(&mut batch.copies)?;
        let capacity = at_most(room, MAX_COPY_BYTES).max(MIN_COPY_BYTES);
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
            // A part that cannot be split must fit completely.
            let remaining = room.minus(end as u64)?;
            if !self.parts.next_fits(remaining) {
                break;
            }
            batch.headers.clear();
            match self.parts.next(remaining, &mut batch.headers) {
                Some(DumpPart::Header) => end = put_bytes(&mut batch.buffer, end, &batch.headers)?,
                Some(DumpPart::Bytes(bytes) | DumpPart::Image(bytes, _)) => {
                    end = put_bytes(&mut batch.buffer, end, bytes)?;
                }
                Some(DumpPart::Copy { from, offset, len }) => {
                    let follows_excluded = self.parts.follows_excluded();
                    let start = end;
                    let len = usize::try_from(len).map_err(|_| too_long())?;
                    end = end.checked_add(len).ok_or_else(too_long)?;
                    batch.copies.push(ImageCopy { from, offset, at: start..end, follows_excluded });
                }
                None => break,
            }
        }
        (batch.len, batch.is_buffered) = (end as u64, true);
        Ok(())
    }

    /// Begins the index. All data must have been in batches and must have been read. `checksums` cover everything
    /// before the index.
    ///
    /// # Errors
    /// Returns an error if an image file was truncated, or if a file that could not be written to during the scan can
    /// be written to now.
    pub(crate) fn begin_index(&mut self, checksums: Checksums) -> Result<()> {
        self.plan.check_images()?;
        let changing = self.plan.look_for_changes()?;
        self.plan.release_snapshots();
        self.index = Some(IndexEncoder::new(self.plan, checksums.finish(), changing));
        Ok(())
    }

    /// Fills `batch` with the next chunk of the index, after [`begin_index`](Self::begin_index). It is empty at the
    /// end.
    ///
    /// # Errors
    /// Returns an error if a buffer cannot be allocated, or if the dump does not have the planned length.
    pub(crate) fn fill_index(&mut self, batch: &mut Batch<'p>) -> Result<()> {
        batch.clear(self.offset);
        batch.is_buffered = true;
        if let Some(index) = &mut self.index {
            index.fill(&mut batch.buffer)?;
            batch.len = batch.buffer.len() as u64;
        }
        self.advance(batch)?;
        let (encoded, planned) = (self.offset, self.plan.len());
        if encoded > planned || (batch.is_empty() && encoded != planned) {
            let message = format!("the dump has {encoded} bytes instead of the planned {planned}");
            return Err(Error::new(ErrorKind::Internal, message));
        }
        Ok(())
    }

    fn advance(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.offset = self.offset.checked_add(batch.len).ok_or_else(too_long)?;
        Ok(())
    }
}

/// Copies `bytes` to `buffer` at `start` and returns their end.
fn put_bytes(buffer: &mut [u8], start: usize, bytes: &[u8]) -> Result<usize> {
    let end = start.checked_add(bytes.len()).ok_or_else(too_long)?;
    buffer.get_mut(start..end).ok_or_else(too_long)?.copy_from_slice(bytes);
    Ok(end)
}

fn too_long() -> Error {
    Error::new(ErrorKind::Internal, "a batch is longer than its buffer")
}

/// Reserves room in a table of a batch for the maximum number of entries.
fn reserve<T>(table: &mut Vec<T>) -> Result<()> {
    let no_room = |_| Error::out_of_memory("a table of pieces");
    table.try_reserve_exact(MAX_BATCH_PIECES).map_err(no_room)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::{CoreDump, Dumper, Memory, MemoryImage, MemoryType};

    /// Gaps of zeros may be read along with their neighbours, excluded bytes never.
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
            batch.read_copies().unwrap();
            assert!(!batch.buffer.contains(&0x5e) && !batch.scratch.contains(&0x5e), "{zeros}");
        }
    }
}
