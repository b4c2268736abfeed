//! Pieces: the unit of streaming, what `encode` yields and sinks take.

use std::fs::File;

use crate::error::Result;
use crate::image::{Bytes, SharedImage};

/// The most bytes that stand between the payloads of two segments.
pub(crate) const HEADER_BYTES: usize = 64;

/// A few bytes of header, by value.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; HEADER_BYTES],
    len: u8,
}

impl Header {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; HEADER_BYTES], len: 0 }
    }

    /// Appends `bytes`; what is written here is always shorter than [`HEADER_BYTES`].
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let len = usize::from(self.len);
        let free = &mut self.bytes[len..];
        free[..bytes.len()].copy_from_slice(bytes);
        // The sum is at most 64, or the line above would have panicked.
        self.len += u8::try_from(bytes.len()).unwrap_or(0);
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// A part of a dump. The pieces of a dump, one after the other, are the dump.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Piece<'p> {
    /// Header bytes that were made on the way.
    Header(Header),
    /// Bytes of the plan.
    Bytes(&'p [u8]),
    /// A part of an image, borrowed.
    Image(&'p [u8]),
    /// A part of an image that is a file to be read.
    File {
        /// The file.
        file: &'p File,
        /// Where in the file, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// A part of an image that others may write at any time: each reading of it can differ.
    Shared {
        /// The image.
        image: &'p SharedImage,
        /// Where in the image, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
}

impl Piece<'_> {
    /// Its length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "no piece is empty")]
    pub fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } | Self::Shared { len, .. } => *len,
            other => other.as_bytes().map_or(0, <[u8]>::len) as u64,
        }
    }

    /// The first `len` bytes and the rest; a piece that is not longer has no rest.
    pub(crate) fn split(self, len: u64) -> (Self, Option<Self>) {
        if self.len() <= len {
            return (self, None);
        }
        match self {
            Self::File { file, offset, len: whole } => (
                Self::File { file, offset, len },
                Some(Self::File { file, offset: offset + len, len: whole - len }),
            ),
            Self::Shared { image, offset, len: whole } => (
                Self::Shared { image, offset, len },
                Some(Self::Shared { image, offset: offset + len, len: whole - len }),
            ),
            Self::Image(bytes) => {
                // Shorter than the slice, whose length is a `usize`.
                let (first, rest) = bytes.split_at(usize::try_from(len).unwrap_or(bytes.len()));
                (Self::Image(first), Some(Self::Image(rest)))
            }
            small => (small, None),
        }
    }

    /// The bytes; `None` if they can't be borrowed and have to be copied with
    /// [`read_at`](Self::read_at).
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Header(header) => Some(header.as_bytes()),
            Self::Bytes(bytes) | Self::Image(bytes) => Some(bytes),
            Self::File { .. } | Self::Shared { .. } => None,
        }
    }

    /// Fills `buffer` with a part of the piece, from its byte `at` on.
    ///
    /// ```
    /// use corestream::Piece;
    ///
    /// let mut buffer = [0; 2];
    /// Piece::Bytes(b"bytes").read_at(&mut buffer, 3)?;
    /// assert_eq!(buffer, *b"es");
    /// # Ok::<(), corestream::Error>(())
    /// ```
    ///
    /// # Errors
    /// The file can't be read, or the piece ends before the buffer is full.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<()> {
        let (source, offset) = match self {
            Self::Header(header) => (Bytes::Slice(header.as_bytes()), 0),
            Self::Bytes(bytes) | Self::Image(bytes) => (Bytes::Slice(bytes), 0),
            Self::File { file, offset, .. } => (Bytes::File(file), *offset),
            Self::Shared { image, offset, .. } => (Bytes::Shared(image), *offset),
        };
        source.read_at(buffer, offset.saturating_add(at))
    }
}
