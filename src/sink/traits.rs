//! The contract of a destination.

use std::io::{self, IoSlice, Write};
use std::os::fd::BorrowedFd;

use crate::limits::MAX_BATCH_PIECES;
use crate::piece::Piece;

/// Where a dump goes: takes as much of some pieces as it can, and says how much that was. Every [`Write`] is one.
///
/// The rest is done by the [`Writer`](crate::Writer): it continues short writes, repeats interrupted ones, waits, cancels
/// and counts.
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
/// One of your own sees where a piece is in the dump, and in an image file if it is of one ([`Piece`]):
///
/// ```
/// use corestream::{CoreDump, Dumper, Piece, Sink};
///
/// /// Remembers how long the longest piece is, and lets all of them go.
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
    /// Called once before the first piece with the length of the dump in bytes. If `may_block` is false, somebody may
    /// want to stop the dump, or a time limit is set: [`put`](Self::put) should not block then, if it can help it.
    ///
    /// # Errors
    /// There is no room for the dump.
    fn begin(&mut self, len: u64, may_block: bool) -> io::Result<()> {
        let _ = (len, may_block);
        Ok(())
    }

    /// Takes the first bytes of `pieces`, which are not empty, and returns how many: at least one, at most all. They may
    /// end within a piece. It is called again with the rest.
    ///
    /// # Errors
    /// Those of the output. After [`io::ErrorKind::Interrupted`] it is called again with the same pieces, and after
    /// [`io::ErrorKind::WouldBlock`] as soon as the descriptor that it [waits on](Self::waits_on) takes bytes, if there
    /// is one. After any other error the dump has failed.
    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize>;

    /// The descriptor that is waited for when [`put`](Self::put) would block; `None` if there is none.
    fn waits_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Called once after the last piece.
    ///
    /// # Errors
    /// Those of the output.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// A blanket implementation rather than a wrapper: `write_to(&mut socket)` just works with what everybody has. The price
// is that `Box<dyn Sink>` is no sink itself; `write_to` takes `&mut dyn Sink`, which serves as well.
/// One vectored write.
impl<W: Write + ?Sized> Sink for W {
    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        self.write_vectored(&slices(pieces))
    }

    fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }
}

/// The bytes of pieces, as vectored writes take them.
pub(super) fn slices<'b>(pieces: &'b [Piece<'_>]) -> Vec<IoSlice<'b>> {
    pieces.iter().take(MAX_BATCH_PIECES).map(|piece| IoSlice::new(piece.bytes)).collect()
}
