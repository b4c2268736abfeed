//! Sinks: where pieces go.

mod descriptor;
mod file;
mod pipe;
mod socket;

use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use file::FileSink;
pub use pipe::Pipe;
pub use socket::Socket;

use crate::piece::Piece;

/// Buffers that one vectored write takes at most (`IOV_MAX` of Linux is 1024).
const IOV: usize = 512;

/// Takes the pieces of a dump in order. Every [`Write`] is one.
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
/// One of your own sees where a piece lies, as a slice or in an image file ([`Piece`]):
///
/// ```
/// use corestream::{CoreDump, Dumper, Piece, Sink};
///
/// /// Counts what is in images, and lets all of it go.
/// struct Count(u64);
///
/// impl Sink for Count {
///     fn put(&mut self, pieces: &[Piece<'_>], written: &mut u64) -> std::io::Result<()> {
///         for piece in pieces {
///             if let Piece::Image { bytes, .. } = piece {
///                 self.0 += bytes.len() as u64;
///             }
///             *written += piece.len(); // or the dump fails: some of it was not taken
///         }
///         Ok(())
///     }
///
///     fn finish(&mut self) -> std::io::Result<()> {
///         Ok(())
///     }
/// }
///
/// # use corestream::{Memory, MemoryImage, MemoryType};
/// # let bytes = [1; 65_536];
/// # let mut dump = CoreDump::new("guest.wasm");
/// # dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
/// let mut count = Count(0);
/// Dumper::new().plan(&dump)?.write_to(&mut count)?;
/// assert_eq!(count.0, 65_536);
/// # Ok::<(), corestream::Error>(())
/// ```
pub trait Sink {
    /// Called once before all else with the flag that stops the dump, if there is one
    /// ([`Dumper::cancel`](crate::Dumper::cancel)). Between two calls of [`put`](Self::put) the dump looks
    /// at it; a sink that may wait for long looks at it as well, and ends with any error when it is true:
    /// the dump then fails with [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
    fn cancel(&mut self, flag: Option<&Arc<AtomicBool>>) {
        let _ = flag;
    }

    /// Called once before the first piece with the length of the dump in bytes.
    ///
    /// # Errors
    /// There is no room for it.
    fn begin(&mut self, len: u64) -> io::Result<()> {
        let _ = len;
        Ok(())
    }

    /// Takes pieces, all of them, and adds the bytes that it has taken to `written`, also when it
    /// fails.
    ///
    /// # Errors
    /// Those of the output; [`io::ErrorKind::WouldBlock`] if it can't wait.
    fn put(&mut self, pieces: &[Piece<'_>], written: &mut u64) -> io::Result<()>;

    /// Called once after the last piece.
    ///
    /// # Errors
    /// Those of the output.
    fn finish(&mut self) -> io::Result<()>;
}

/// Vectored writes; short ones are continued and interrupted ones repeated. A write of nothing is
/// [`io::ErrorKind::WriteZero`], and one of more bytes than were given is an error too.
impl<W: Write + ?Sized> Sink for W {
    fn put(&mut self, pieces: &[Piece<'_>], written: &mut u64) -> io::Result<()> {
        let mut slices = Vec::with_capacity(pieces.len().min(IOV));
        for piece in pieces {
            slices.push(IoSlice::new(piece.as_bytes()));
            if slices.len() == IOV {
                write_all(&mut slices, written, |slices| self.write_vectored(slices))?;
            }
        }
        write_all(&mut slices, written, |slices| self.write_vectored(slices))
    }

    fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }
}

/// The slices after their first `n` bytes.
///
/// # Errors
/// They have fewer, which [`IoSlice::advance_slices`] would panic at.
fn advanced<'s, 'b>(slices: &'s mut [IoSlice<'b>], n: usize) -> io::Result<&'s mut [IoSlice<'b>]> {
    let mut left = n;
    let is_taken = |slice: &&IoSlice<'_>| {
        let more = left.checked_sub(slice.len());
        left = more.unwrap_or(left);
        more.is_some()
    };
    let taken = slices.iter().take_while(is_taken).count();
    let rest = slices.get_mut(taken..).unwrap_or_default();
    match rest.first_mut() {
        Some(slice) => slice.advance(left),
        None if left > 0 => {
            return Err(io::Error::other("a writer took more bytes than it was given"));
        }
        None => {}
    }
    Ok(rest)
}

/// Writes all of `slices` and empties the list; `write` takes some of them.
fn write_all(
    slices: &mut Vec<IoSlice<'_>>,
    written: &mut u64,
    mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut rest = &mut slices[..];
    // Leading empty slices would make a write of nothing look like a full output.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                rest = advanced(rest, n)?;
                *written = written.saturating_add(n as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    slices.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::piece::Header;

    /// Takes `step` bytes a call at most, is interrupted every third time, and full after `room`.
    struct Reluctant {
        step: usize,
        room: usize,
        calls: usize,
        taken: Vec<u8>,
        full: io::Result<usize>,
    }

    impl Reluctant {
        fn new(step: usize, room: usize, full: io::Result<usize>) -> Self {
            Self { step, room, calls: 0, taken: Vec::new(), full }
        }
    }

    impl Write for Reluctant {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            if self.calls.is_multiple_of(3) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let left = self.room - self.taken.len();
            if left == 0 {
                return match &self.full {
                    Ok(n) => Ok(*n),
                    Err(error) => Err(error.kind().into()),
                };
            }
            let n = bytes.len().min(self.step).min(left);
            self.taken.extend(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn put_all(output: &mut Reluctant) -> (io::Result<()>, u64, Vec<u8>) {
        let stored: Vec<u8> = (0..600_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        let mut header = Header::new();
        header.push(b"header");
        let image = [7; 5000];
        let mut pieces = vec![Piece::Header(header), Piece::Image { bytes: &image, file: None }];
        pieces.extend([Piece::Bytes(b"x"); 1100]);
        pieces.push(Piece::Image { bytes: &stored[1..500_001], file: None });
        pieces.push(Piece::Bytes(b"end"));
        let mut expected = b"header".to_vec();
        expected.extend(image);
        expected.extend([b'x'; 1100]);
        expected.extend(&stored[1..500_001]);
        expected.extend(b"end");
        assert_eq!(pieces.iter().map(Piece::len).sum::<u64>(), expected.len() as u64);
        let mut written = 0;
        (output.put(&pieces, &mut written), written, expected)
    }

    #[test]
    fn short_and_interrupted_writes_are_continued() {
        for step in [1, 4095, 1 << 30] {
            let mut output = Reluctant::new(step, usize::MAX, Ok(0));
            let (result, written, expected) = put_all(&mut output);
            result.unwrap();
            assert_eq!(written, expected.len() as u64);
            assert!(output.taken == expected, "step {step}");
        }
    }

    #[test]
    fn a_writer_that_counts_too_many_is_an_error() {
        let mut output = Reluctant::new(1, 0, Ok(usize::MAX));
        let (result, written, _) = put_all(&mut output);
        assert_eq!(result.unwrap_err().to_string(), "a writer took more bytes than it was given");
        assert_eq!(written, 0);
    }

    #[test]
    fn a_full_output_says_how_far_it_came() {
        for room in [0, 1, 5006, 6105, 6106, 300_000] {
            let mut output = Reluctant::new(1 << 20, room, Ok(0));
            let (result, written, expected) = put_all(&mut output);
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WriteZero);
            assert_eq!(written, room as u64);
            assert!(output.taken == expected[..room]);

            let mut output = Reluctant::new(1 << 20, room, Err(io::ErrorKind::WouldBlock.into()));
            let (result, written, _) = put_all(&mut output);
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WouldBlock);
            assert_eq!(written, room as u64);
        }
    }
}
