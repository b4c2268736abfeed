//! The contract of a sink.

use std::io::{self, IoSlice, Write};
use std::os::fd::BorrowedFd;

use crate::limits::MAX_BATCH_PIECES;
use crate::piece::Piece;

/// A destination of a dump. Every [`Write`] is one.
///
/// A sink takes as much of some pieces as it can, and returns the number of bytes taken. The [`Writer`](crate::Writer)
/// does the rest: it continues short writes, repeats interrupted ones, waits, cancels and counts.
///
/// ```
/// use corestream::{CoreDump, Dumper};
///
/// let dump = CoreDump::new("guest.wasm");
/// let mut bytes = Vec::new();
/// Dumper::new().plan(&dump)?.write_to(&mut bytes)?;
/// assert_eq!(bytes[..4], *b"\0asm");
/// # Ok::<(), corestream::Error>(())
/// ```
///
/// A custom sink also sees the offset of each piece in the dump, and its position in an image file if it is mapped from
/// one ([`Piece`]):
///
/// ```
/// use corestream::{CoreDump, Dumper, Piece, Sink};
///
/// /// Discards all pieces and remembers the length of the longest one.
/// struct Longest(u64);
///
/// impl Sink for Longest {
///     fn put(&mut self, pieces: &[Piece<'_>]) -> std::io::Result<usize> {
///         self.0 = pieces.iter().map(Piece::len).fold(self.0, u64::max);
///         Ok(pieces.iter().map(|piece| piece.bytes.len()).sum())
///     }
/// }
///
/// # use corestream::{Memory, MemoryImage, MemoryType};
/// # let bytes = [1; 65_536];
/// # let mut dump = CoreDump::new("guest.wasm");
/// # dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
/// let mut longest = Longest(0);
/// Dumper::new().plan(&dump)?.write_to(&mut longest)?;
/// assert_eq!(longest.0, 65_536);
/// # Ok::<(), corestream::Error>(())
/// ```
pub trait Sink {
    /// Prepares for a dump of `len` bytes. The writer calls this once, before the first piece.
    ///
    /// If `may_block` is false, the dump can be cancelled or has a time limit, and [`put`](Self::put) should not block
    /// if it can avoid it.
    ///
    /// # Errors
    /// Returns an error if there is no room for the dump.
    fn begin(&mut self, len: u64, may_block: bool) -> io::Result<()> {
        let _ = (len, may_block);
        Ok(())
    }

    /// Takes the first bytes of `pieces` and returns their number: at least one, at most all. They may end within a
    /// piece. The writer calls this again with the rest. `pieces` is never empty, nor is any piece.
    ///
    /// # Errors
    /// Returns the errors of the output. After [`io::ErrorKind::Interrupted`], the writer calls again with the same
    /// pieces. After [`io::ErrorKind::WouldBlock`], it does so once the descriptor that the sink [waits
    /// on](Self::waits_on) takes bytes; without such a descriptor, the dump fails. Any other error ends the dump.
    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize>;

    /// Returns the descriptor to wait on when [`put`](Self::put) would block, or `None` if there is none.
    fn waits_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Completes the output. The writer calls this once, after the last piece.
    ///
    /// # Errors
    /// Returns the errors of the output.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// A blanket implementation instead of a wrapper, so that `write_to(&mut socket)` works with the types that callers
// already have. In return, `Box<dyn Sink>` cannot be a sink itself. `write_to` takes a `&mut dyn Sink` instead.
/// Writes the pieces with one vectored write.
impl<W: Write + ?Sized> Sink for W {
    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        self.write_vectored(&slices(pieces))
    }

    fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }
}

/// Returns the bytes of pieces in the form that vectored writes take.
pub(super) fn slices<'b>(pieces: &'b [Piece<'_>]) -> Vec<IoSlice<'b>> {
    pieces.iter().take(MAX_BATCH_PIECES).map(|piece| IoSlice::new(piece.bytes)).collect()
}
