//! The one loop that moves the pieces of a dump from the images to a sink, and sums them up on the way.
//!
//! The checksums have to be those of the very bytes that the sink gets. Where the bytes of a batch cannot
//! change, the sink takes them from where they lie, while a helper thread sums up the same batch.
//! Where they may change, reading them twice would give a dump that its own checksums call damaged. So
//! they are fetched once, into a buffer that nobody else knows; both the checksum and the sink use
//! that buffer.
//!
//! The copy costs time, but hardly any that the sink has to wait for: with two buffers, the helper
//! fetches and sums up the next batch while the sink takes the present one. A buffer is small enough to
//! stay in a core's cache, so the sink does not go to memory for the bytes a second time.
//!
//! The invariant that makes the order simple: when a batch is sent, everything before it is summed
//! up, and it is itself summed up already if it was copied, else while it is sent. At most one batch is
//! ahead.

use std::io;
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
/// Bytes of the buffer for copies, of which there are two.
const COPY_BYTES: usize = 1 << 20;

/// What a sink is given at once.
struct Batch<'p> {
    /// In the order of the dump; empty bytes stand where those of a copy belong.
    pieces: Vec<Piece<'p>>,
    copies: Vec<Copy<'p>>,
    /// The bytes of the copies, once they were fetched.
    buffer: Vec<u8>,
    /// Bytes of all pieces and copies.
    len: u64,
}

/// A part of an image that has to be copied.
struct Copy<'p> {
    from: Bytes<'p>,
    /// The position of its first byte in the image.
    offset: u64,
    /// Which piece it is.
    piece: usize,
    /// Where its bytes go in the buffer.
    at: Range<usize>,
}

impl<'p> Batch<'p> {
    fn new() -> Result<Self> {
        Ok(Self { pieces: table()?, copies: Vec::new(), buffer: Vec::new(), len: 0 })
    }

    /// Replaces what it holds by at most `room` bytes of what comes next; empty at the end.
    fn fill(&mut self, pieces: &mut Pieces<'p>, mut room: u64) -> Result<()> {
        self.pieces.clear();
        self.copies.clear();
        self.len = 0;
        let mut copied = 0_usize;
        while self.pieces.len() < BATCH && room > 0 && copied < COPY_BYTES {
            let most_copied = COPY_BYTES.saturating_sub(copied) as u64;
            let Some(next) = pieces.next_part(room, most_copied) else { break };
            let len = match next {
                Emitted::Piece(piece) => {
                    self.pieces.push(piece);
                    piece.len()
                }
                Emitted::Copy { from, offset, len } => {
                    // At most what was left of the buffer.
                    let end = copied.saturating_add(usize::try_from(len).unwrap_or(COPY_BYTES));
                    let piece = self.pieces.len();
                    self.pieces.push(Piece::Bytes(&[]));
                    if self.copies.capacity() == 0 {
                        self.copies = table()?;
                    }
                    self.copies.push(Copy { from, offset, piece, at: copied..end });
                    copied = end;
                    len
                }
            };
            room = room.saturating_sub(len);
            self.len = self.len.saturating_add(len);
        }
        if copied > self.buffer.len() {
            self.buffer = Vec::new();
            let len = copied.next_power_of_two().min(COPY_BYTES);
            self.buffer = zeros(len, "a buffer to copy an image")?;
        }
        Ok(())
    }

    /// Fetches the bytes of the copies and sums up the batch.
    fn prepare(&mut self, checksums: &mut Checksums) -> Result<()> {
        for copy in &self.copies {
            let bytes = self.buffer.get_mut(copy.at.clone()).unwrap_or_default();
            copy.from.read_at(bytes, copy.offset)?;
        }
        checksums.update(&self.whole()?);
        Ok(())
    }

    /// Its pieces, copies included.
    fn whole(&self) -> Result<Vec<Piece<'_>>> {
        let mut pieces = table()?;
        pieces.extend_from_slice(&self.pieces);
        for copy in &self.copies {
            if let Some(piece) = pieces.get_mut(copy.piece) {
                *piece = Piece::Bytes(self.buffer.get(copy.at.clone()).unwrap_or_default());
            }
        }
        Ok(pieces)
    }
}

/// An empty table that has room for one entry a piece.
fn table<T>() -> Result<Vec<T>> {
    let mut table = Vec::new();
    let no_room = |_| Error::out_of_memory("a table of pieces");
    table.try_reserve_exact(BATCH).map_err(no_room)?;
    Ok(table)
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
    /// Sends all of `pieces`.
    pub(crate) fn run(&mut self, mut pieces: Pieces<'_>, control: &Control) -> io::Result<()> {
        let (mut batch, mut next) = (new_batch()?, new_batch()?);
        let mut room = FIRST_BATCH_BYTES;
        self.fill(&mut batch, &mut pieces, room)?;
        loop {
            control.check_cancelled().map_err(io::Error::other)?;
            if batch.pieces.is_empty() {
                return Ok(());
            }
            let start = Instant::now();
            let before = *self.written;
            if batch.copies.is_empty() {
                self.send(&batch.pieces, batch.len)?;
                room = next_room(room, start.elapsed());
                self.fill(&mut batch, &mut pieces, room)?;
            } else {
                next.fill(&mut pieces, room).map_err(io::Error::other)?;
                self.send_prepared(&batch, &mut next)?;
                room = next_room(room, start.elapsed());
                std::mem::swap(&mut batch, &mut next);
            }
            self.meter.add(self.written.saturating_sub(before));
        }
    }

    /// Fills a batch that none is sent before; if it has copies, it is prepared at once.
    fn fill<'p>(
        &mut self,
        batch: &mut Batch<'p>,
        pieces: &mut Pieces<'p>,
        room: u64,
    ) -> io::Result<()> {
        batch.fill(pieces, room).map_err(io::Error::other)?;
        if !batch.copies.is_empty() {
            batch.prepare(&mut self.checksums).map_err(io::Error::other)?;
        }
        Ok(())
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

    /// Sends a batch that is prepared; prepares `next` if it has copies.
    fn send_prepared(&mut self, batch: &Batch<'_>, next: &mut Batch<'_>) -> io::Result<()> {
        let pieces = batch.whole().map_err(io::Error::other)?;
        let checksums = &mut self.checksums;
        let mut prepared = Ok(());
        let sent = match &self.helper {
            _ if next.copies.is_empty() => put_all(self.sink, &pieces, self.written),
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

fn new_batch<'p>() -> io::Result<Batch<'p>> {
    Batch::new().map_err(io::Error::other)
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
    use super::*;

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
