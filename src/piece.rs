//! Pieces: the unit of streaming, what `encode` yields and sinks take.

use std::fs::File;

/// The most bytes that stand between the payloads of two segments.
pub(crate) const HEADER_BYTES: usize = 64;

/// A part of a dump, borrowed. The pieces of a dump, one after the other, are the dump: see [`Sink`](crate::Sink) and
/// [`Plan::pieces`](crate::Plan::pieces).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Piece<'p> {
    /// The position of its first byte in the dump.
    pub offset: u64,
    /// Its bytes: those of an image where they lie, or a few that were made on the way.
    pub bytes: &'p [u8],
    /// If the bytes are those of a mapped image file: that file, and the position of the first byte in it. The file is
    /// one that cannot change ([`MemoryImage`](crate::MemoryImage#files-that-change)), so that the kernel may lend its
    /// pages. Never let it do so with the memory of a live guest.
    pub file: Option<(&'p File, u64)>,
}

impl<'p> Piece<'p> {
    /// Returns a piece that is not one of a file.
    ///
    /// ```
    /// use corestream::Piece;
    ///
    /// let piece = Piece::new(8, b"bytes");
    /// assert_eq!((piece.offset, piece.bytes, piece.len()), (8, &b"bytes"[..], 5));
    /// ```
    pub fn new(offset: u64, bytes: &'p [u8]) -> Self {
        Self { offset, bytes, file: None }
    }

    /// Returns the piece, whose bytes are also at `at` in a file that cannot change.
    ///
    /// ```
    /// use corestream::Piece;
    ///
    /// # let file = tempfile::tempfile().unwrap();
    /// let piece = Piece::new(8, b"bytes").with_file(&file, 4096);
    /// assert_eq!(piece.file.map(|(_, at)| at), Some(4096));
    /// ```
    #[must_use]
    pub fn with_file(self, file: &'p File, at: u64) -> Self {
        Self { file: Some((file, at)), ..self }
    }

    /// Returns its length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "no piece of a dump is empty")]
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// What is left after its first `len` bytes; `None` if it has not as many.
    fn after(self, len: usize) -> Option<Self> {
        let (bytes, more) = (self.bytes.get(len..)?, len as u64);
        let file = match self.file {
            Some((file, at)) => Some((file, at.checked_add(more)?)),
            None => None,
        };
        Some(Self { offset: self.offset.checked_add(more)?, bytes, file })
    }
}

/// Empties a table of pieces, so that its allocation can hold pieces that live for another time.
#[allow(clippy::unnecessary_filter_map, reason = "a filter would keep the lifetime")]
pub(crate) fn emptied<'p>(mut pieces: Vec<Piece<'_>>) -> Vec<Piece<'p>> {
    pieces.clear();
    // Collecting a vector into one of the same layout keeps the allocation, and there is nothing to collect.
    pieces.into_iter().map_while(|_| None).collect()
}

/// Returns what is left of `pieces` after their first `taken` bytes; `None` if they have not as many.
///
/// The first piece that is left may be changed into its rest.
pub(crate) fn advance<'s, 'p>(
    pieces: &'s mut [Piece<'p>],
    taken: usize,
) -> Option<&'s mut [Piece<'p>]> {
    let mut left = taken;
    let is_taken = |piece: &&Piece<'_>| {
        let more = left.checked_sub(piece.bytes.len());
        left = more.unwrap_or(left);
        more.is_some()
    };
    let whole = pieces.iter().take_while(is_taken).count();
    let rest = pieces.get_mut(whole..)?;
    match rest.first_mut() {
        Some(first) => *first = first.after(left)?,
        None if left > 0 => return None,
        None => {}
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emptied_table_keeps_its_allocation() {
        let table = {
            let bytes = vec![1, 2];
            let mut pieces = Vec::with_capacity(100);
            pieces.push(Piece::new(0, &bytes));
            emptied(pieces)
        };
        assert!(table.is_empty() && table.capacity() >= 100);
    }

    #[test]
    fn what_is_left_of_pieces() {
        let file = tempfile::tempfile().unwrap();
        let all = b"abcdefgh";
        let pieces = || {
            let first = Piece::new(100, &all[..3]);
            [
                first,
                Piece { offset: 103, bytes: &all[3..7], file: Some((&file, 40)) },
                Piece::new(107, &all[7..]),
            ]
        };
        for taken in 0..=8 {
            let mut pieces = pieces();
            let rest = advance(&mut pieces, taken).unwrap();
            let bytes: Vec<u8> = rest.iter().flat_map(|piece| piece.bytes.to_vec()).collect();
            assert_eq!(bytes, all[taken..]);
            if let Some(first) = rest.first() {
                assert_eq!(first.offset, 100 + taken as u64);
                let at = first.file.map(|(_, at)| at);
                assert_eq!(at, (3..7).contains(&taken).then(|| 37 + taken as u64));
            }
        }
        assert!(advance(&mut pieces(), 9).is_none());
        assert!(advance(&mut pieces(), usize::MAX).is_none());
    }
}
