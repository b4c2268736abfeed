//! Pieces: the unit of streaming, what `encode` yields and sinks take.

use std::fs::File;

use crate::image::Bytes;

/// The most bytes that stand between the payloads of two segments.
pub(crate) const HEADER_BYTES: usize = 64;

/// A few bytes of header, by value.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; HEADER_BYTES],
    len: u8,
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "whatever the guest is, a header is never longer than the section `corestream`, which the \
              encoder asserts to fit"
)]
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
    /// Bytes of the plan, or of an image that may change: then a copy.
    Bytes(&'p [u8]),
    /// A part of an image, borrowed.
    Image {
        /// The bytes, where they lie.
        bytes: &'p [u8],
        /// If the image is a mapped file: that file, and the offset of the first byte in it. The file
        /// is one that cannot change ([`MemoryImage`](crate::MemoryImage#files-that-change)), so a sink
        /// may have the kernel lend its pages. It must never do so with the memory of a live guest.
        file: Option<(&'p File, u64)>,
    },
}

impl<'p> Piece<'p> {
    /// Its length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "no piece is empty")]
    pub fn len(&self) -> u64 {
        self.as_bytes().len() as u64
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Header(header) => header.as_bytes(),
            Self::Bytes(bytes) | Self::Image { bytes, .. } => bytes,
        }
    }
}

/// What `encode` yields: a piece, or a part of an image that can't be borrowed and becomes pieces by
/// way of a small buffer.
#[derive(Clone, Copy)]
pub(crate) enum Emitted<'p> {
    Piece(Piece<'p>),
    Copy {
        /// Where the bytes are.
        from: Bytes<'p>,
        /// The position of the first one, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
}

impl Emitted<'_> {
    /// The first `len` bytes and the rest, if it is a part of an image and longer.
    pub(crate) fn split(self, len: u64) -> (Self, Option<Self>) {
        match self {
            Self::Copy { from, offset, len: whole } if whole > len => (
                Self::Copy { from, offset, len },
                Some(Self::Copy {
                    from,
                    offset: offset.saturating_add(len),
                    len: whole.saturating_sub(len),
                }),
            ),
            Self::Piece(Piece::Image { bytes, file }) if bytes.len() as u64 > len => {
                // Shorter than the slice, whose length is a `usize`.
                let (first, rest) = bytes.split_at(usize::try_from(len).unwrap_or(bytes.len()));
                let image = |bytes, file| Self::Piece(Piece::Image { bytes, file });
                let after = file.map(|(file, at)| (file, at.saturating_add(first.len() as u64)));
                (image(first, file), Some(image(rest, after)))
            }
            whole => (whole, None),
        }
    }
}
