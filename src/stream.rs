//! The one loop that moves the pieces of a dump from the images to a sink, and sums them up on the way.
//!
//! The checksums have to be those of the very bytes that the sink gets. Where the bytes of a batch cannot
//! change, the sink takes them from where they lie, while a helper thread sums up the same batch.
//! Where they may change, reading them twice would give a dump that its own checksums call damaged. So
//! they are fetched once, into a buffer that nobody else knows; both the checksum and the sink use
//! that buffer.
//!
//! The copy costs time, but hardly any that the sink has to wait for: with two buffers, the helper
//! fetches and sums up the next batch while the sink takes the present one. Headers are copied into
//! the buffer too, so the sink gets a batch as one piece, which takes it fewer steps than
//! hundreds of small ones. A buffer is small enough to stay in a core's cache, so the sink does not go
//! to memory for the bytes a second time.
//!
//! The invariant that makes the order simple: when a batch is sent, everything before it is summed
//! up, and it is itself summed up already if it was copied, else while it is sent. At most one batch is
//! ahead.

use std::io;
use std::mem;
use std::ops::{Range, RangeInclusive};
use std::time::{Duration, Instant};

use rayon::ThreadPool;

use crate::checksum::Checksums;
use crate::control::{Control, Meter};
use crate::encode::Pieces;
use crate::error::{Error, ErrorKind, Result, zeros};
use crate::image::Bytes;
use crate::piece::{Emitted, Piece};
use crate::sink::Sink;

/// Pieces that a sink is given at once.
const BATCH: usize = 512;
/// Bytes that a sink is given at once, at least and at most: a larger piece comes in parts.
const BATCH_BYTES: RangeInclusive<u64> = 64 << 10..=8 << 20;
/// Bytes that a sink is given at first.
const FIRST_BATCH_BYTES: u64 = 256 << 10;
/// How long a sink may take for a batch: where it takes less, the next one is larger, where it takes
/// more, smaller.
const BATCH_TIME: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_millis(200);

/// Bytes that are summed up before another thread could have been woken.
const SMALL_BATCH: u64 = 64 << 10;
/// Bytes of a buffer for copies at least and at most. There are two.
const MIN_COPY: usize = 256 << 10;
const COPY_BYTES: usize = 1 << 20;
/// Bytes for gaps that are read along with an image.
const SCRATCH_BYTES: usize = 64 << 10;

/// What a sink is given at once: pieces that nobody can change, or a copy.
#[derive(Default)]
struct Batch<'p> {
    /// Without a copy: the pieces.
    pieces: Vec<Piece<'p>>,
    /// With a copy: all of its bytes, once those of images were fetched.
    buffer: Vec<u8>,
    /// The parts of images that have to be fetched; empty if nothing is copied.
    copies: Vec<Copy<'p>>,
    /// For bytes between parts of images.
    scratch: Vec<u8>,
    /// Its length in bytes.
    len: u64,
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

impl<'p> Batch<'p> {
    /// Replaces what it holds by at most `room` bytes of what comes next; empty at the end. `copies` says
    /// whether any part of the dump has to be copied.
    fn fill(&mut self, pieces: &mut Pieces<'p>, room: u64, copies: bool) -> Result<()> {
        self.pieces.clear();
        self.copies.clear();
        self.len = 0;
        reserve(&mut self.pieces)?;
        while self.pieces.len() < BATCH && self.len < room {
            if copies && pieces.next_is_copied() {
                // What is borrowed or long goes first; headers go along with the copy.
                let borrowed = self.pieces.iter().any(|piece| matches!(piece, Piece::Image { .. }));
                if borrowed || self.len > SMALL_BATCH {
                    return Ok(());
                }
                return self.fill_copied(pieces, room);
            }
            let Some(Emitted::Piece(piece)) = pieces.next_part(room.saturating_sub(self.len))
            else {
                return Ok(());
            };
            self.len = self.len.saturating_add(piece.len());
            self.pieces.push(piece);
        }
        Ok(())
    }

    /// Goes on with a copy, into which the pieces so far go as well.
    fn fill_copied(&mut self, pieces: &mut Pieces<'p>, room: u64) -> Result<()> {
        reserve(&mut self.copies)?;
        let capacity = usize::try_from(room).unwrap_or(COPY_BYTES).clamp(MIN_COPY, COPY_BYTES);
        if self.buffer.len() < capacity {
            self.buffer = Vec::new();
            self.buffer = zeros(capacity, "a buffer to copy an image")?;
        }
        if self.scratch.is_empty() {
            self.scratch = zeros(SCRATCH_BYTES, "a buffer to copy an image")?;
        }
        let mut end = 0_usize;
        for piece in &self.pieces {
            end = put_bytes(&mut self.buffer, end, piece.as_bytes())?;
        }
        self.pieces.clear();
        let room = room.min(capacity as u64);
        while self.copies.len() < BATCH && (end as u64) < room {
            // A piece that is not split must fit as a whole.
            let left = room.saturating_sub(end as u64);
            if !pieces.next_fits(left) {
                break;
            }
            match pieces.next_part(left) {
                Some(Emitted::Piece(piece)) => {
                    end = put_bytes(&mut self.buffer, end, piece.as_bytes())?;
                }
                Some(Emitted::Copy { from, offset, len }) => {
                    let is_apart = pieces.is_apart();
                    // No longer than what is left of the buffer.
                    let start = end;
                    end = end.saturating_add(usize::try_from(len).unwrap_or(capacity));
                    self.copies.push(Copy { from, offset, at: start..end, is_apart });
                }
                None => break,
            }
        }
        self.len = end as u64;
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn is_copied(&self) -> bool {
        !self.copies.is_empty()
    }

    /// Fetches the bytes of the copies and sums up the batch.
    fn prepare(&mut self, checksums: &mut Checksums) -> Result<()> {
        self.fetch()?;
        checksums.update(&[self.copied()]);
        Ok(())
    }

    /// Fetches the bytes of the copies, those of one file together.
    fn fetch(&mut self) -> Result<()> {
        let scratch = &mut self.scratch;
        let mut parts = Vec::new();
        reserve(&mut parts)?;
        let mut from: Option<Bytes<'p>> = None;
        let (mut rest, mut start) = (&mut self.buffer[..], 0_usize);
        for copy in &self.copies {
            // Headers stand between them.
            let skipped = copy.at.start.saturating_sub(start);
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

    /// A batch that was prepared, as one piece.
    fn copied(&self) -> Piece<'_> {
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        Piece::Bytes(self.buffer.get(..len).unwrap_or_default())
    }
}

/// Copies `bytes` to `buffer` at `start`; gives their end.
fn put_bytes(buffer: &mut [u8], start: usize, bytes: &[u8]) -> Result<usize> {
    let end = start.saturating_add(bytes.len());
    buffer.get_mut(start..end).ok_or_else(too_long)?.copy_from_slice(bytes);
    Ok(end)
}

fn too_long() -> Error {
    Error::new(ErrorKind::Internal, "a batch that is longer than its buffer")
}

/// Makes room in a table of a batch for as many entries as it may have.
fn reserve<T>(table: &mut Vec<T>) -> Result<()> {
    let no_room = |_| Error::out_of_memory("a table of pieces");
    table.try_reserve_exact(BATCH).map_err(no_room)
}

/// A dump on its way: to the sink, and past the checksums.
pub(crate) struct Stream<'s, S: ?Sized> {
    pub(crate) sink: &'s mut S,
    pub(crate) written: &'s mut u64,
    pub(crate) checksums: Checksums,
    /// Sums up, and copies, while the sink is busy.
    pub(crate) helper: Option<ThreadPool>,
    pub(crate) meter: Meter<'s>,
}

impl<S: Sink + ?Sized> Stream<'_, S> {
    /// Sends all of `pieces`; `copies` says whether any of them has to be copied.
    pub(crate) fn run(
        &mut self,
        mut pieces: Pieces<'_>,
        copies: bool,
        control: &Control,
    ) -> io::Result<()> {
        let (mut batch, mut next) = (Batch::default(), Batch::default());
        let mut room = FIRST_BATCH_BYTES;
        // Whether the batch is summed up, and its bytes are fetched if they are copied.
        let mut is_prepared = false;
        batch.fill(&mut pieces, room, copies).map_err(io::Error::other)?;
        loop {
            control.check_cancelled().map_err(io::Error::other)?;
            if batch.is_empty() {
                return Ok(());
            }
            let start = Instant::now();
            let before = *self.written;
            if batch.is_copied() {
                if !is_prepared {
                    batch.prepare(&mut self.checksums).map_err(io::Error::other)?;
                }
                next.fill(&mut pieces, room, copies).map_err(io::Error::other)?;
                self.send_copied(&batch, &mut next)?;
                is_prepared = next.is_copied();
                mem::swap(&mut batch, &mut next);
            } else {
                self.send(&batch.pieces, batch.len)?;
                is_prepared = false;
                batch.fill(&mut pieces, room, copies).map_err(io::Error::other)?;
            }
            room = next_room(room, start.elapsed());
            self.meter.add(self.written.saturating_sub(before));
        }
    }

    /// Sends pieces that nobody can change, `len` bytes, and sums them up.
    fn send(&mut self, pieces: &[Piece<'_>], len: u64) -> io::Result<()> {
        let checksums = &mut self.checksums;
        match &self.helper {
            Some(helper) if checksums.are_wanted() && len > SMALL_BATCH => {
                helper.in_place_scope(|scope| {
                    scope.spawn(|_| checksums.update(pieces));
                    put_all(self.sink, pieces, self.written)
                })
            }
            _ => {
                checksums.update(pieces);
                put_all(self.sink, pieces, self.written)
            }
        }
    }

    /// Sends a copy that is prepared, and prepares `next` meanwhile if it is one.
    fn send_copied(&mut self, batch: &Batch<'_>, next: &mut Batch<'_>) -> io::Result<()> {
        let pieces = [batch.copied()];
        let checksums = &mut self.checksums;
        let mut prepared = Ok(());
        let sent = match &self.helper {
            _ if !next.is_copied() => put_all(self.sink, &pieces, self.written),
            Some(helper) if next.len > SMALL_BATCH => helper.in_place_scope(|scope| {
                scope.spawn(|_| prepared = next.prepare(checksums));
                put_all(self.sink, &pieces, self.written)
            }),
            _ => {
                let sent = put_all(self.sink, &pieces, self.written);
                if sent.is_ok() {
                    prepared = next.prepare(checksums);
                }
                sent
            }
        };
        sent?;
        prepared.map_err(io::Error::other)
    }
}

/// The bytes of the next batch, after one of `room` bytes that took so long: through a slow sink too
/// there is something to tell several times a second, and a moment to stop in.
fn next_room(room: u64, took: Duration) -> u64 {
    let next = if took < *BATCH_TIME.start() {
        room.saturating_mul(2)
    } else if took > *BATCH_TIME.end() {
        room / 2
    } else {
        room
    };
    next.clamp(*BATCH_BYTES.start(), *BATCH_BYTES.end())
}

/// Puts all of `pieces`, and takes a sink by its word.
pub(crate) fn put_all<S: Sink + ?Sized>(
    sink: &mut S,
    pieces: &[Piece<'_>],
    written: &mut u64,
) -> io::Result<()> {
    let before = *written;
    sink.put(pieces, written)?;
    let taken = written.saturating_sub(before);
    let len = pieces.iter().map(Piece::len).sum::<u64>();
    if taken == len {
        return Ok(());
    }
    let message = format!("the sink says that it took {taken} of {len} bytes");
    Err(io::Error::other(Error::new(ErrorKind::Output, message)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::{CoreDump, Dumper, Memory, MemoryImage, MemoryType};

    /// What was left out is read neither into the dump nor beside it; a gap of zeros may be.
    #[test]
    fn what_is_left_out_is_not_read_along_with_its_neighbours() {
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
            let mut pieces = Pieces::new(&plan);
            while {
                batch.fill(&mut pieces, 1 << 20, true).unwrap();
                !batch.is_empty() && !batch.is_copied()
            } {}
            assert_eq!(batch.copies.len(), 3);
            batch.fetch().unwrap();
            assert!(!batch.buffer.contains(&0x5e) && !batch.scratch.contains(&0x5e), "{zeros}");
        }
    }

    #[test]
    fn batches_follow_the_sink() {
        let mut room = FIRST_BATCH_BYTES;
        for expected in [512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 8 << 20] {
            room = next_room(room, Duration::from_millis(1));
            assert_eq!(room, expected);
        }
        assert_eq!(next_room(room, Duration::from_millis(100)), room);
        for _ in 0..7 {
            let slower = next_room(room, Duration::from_secs(1));
            assert_eq!(slower, room / 2);
            room = slower;
        }
        assert_eq!(next_room(room, Duration::from_secs(9)), 64 << 10);
    }
}
