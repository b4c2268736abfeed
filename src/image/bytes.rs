//! The location of the bytes of an image, and functions to read parts of them.

use std::fs::File;

use super::frozen::FrozenBytes;
use super::gather::{FilePart, read_parts};
use super::read::read_file_at;
use super::shared::SharedImage;
use crate::error::{Error, ErrorKind, Result};

/// The location of the bytes of an image.
#[derive(Clone, Copy)]
pub(crate) enum Bytes<'i> {
    /// In the address space of this process.
    Slice(&'i [u8]),
    /// In a file that is mapped completely.
    Mapped(&'i [u8], &'i File),
    /// In a file that is read in parts.
    File(&'i File),
    /// In the address space of this process, where threads may write at any time.
    Shared(&'i SharedImage),
    /// In a snapshot.
    Frozen(&'i dyn FrozenBytes),
}

impl<'i> Bytes<'i> {
    /// Returns the bytes if they can be borrowed. Otherwise, [`read_at`](Self::read_at) copies them.
    pub(crate) fn as_slice(self) -> Option<&'i [u8]> {
        match self {
            Self::Slice(bytes) | Self::Mapped(bytes, _) => Some(bytes),
            Self::File(_) | Self::Shared(_) | Self::Frozen(_) => None,
        }
    }

    /// Returns `true` if both are read from the same file, so that [`read_parts`](Self::read_parts) can read parts of
    /// both together.
    pub(crate) fn is_same_file(self, other: Self) -> bool {
        matches!((self, other), (Self::File(one), Self::File(other)) if std::ptr::eq(one, other))
    }

    /// Returns `true` if both are of the same memory of a snapshot.
    pub(crate) fn is_same_snapshot(self, other: Self) -> bool {
        match (self, other) {
            (Self::Frozen(one), Self::Frozen(other)) => std::ptr::addr_eq(one, other),
            _ => false,
        }
    }

    /// Declares that this dump does not need the bytes before `at` any more.
    pub(crate) fn release_before(self, at: u64) {
        if let Self::Frozen(frozen) = self {
            frozen.release_before(at);
        }
    }

    /// Fills all `parts`, which are in order and do not overlap. The gaps between parts may be read into `scratch`.
    ///
    /// # Errors
    /// Returns an error if the bytes cannot be read, or end before a part is full.
    pub(crate) fn read_parts(self, parts: &mut [FilePart<'_>], scratch: &mut [u8]) -> Result<()> {
        match self {
            Self::File(file) => read_parts(file, parts, scratch),
            _ => parts.iter_mut().try_for_each(|(position, bytes)| self.read_at(bytes, *position)),
        }
    }

    /// Fills `buffer` with the bytes starting at `at`.
    ///
    /// # Errors
    /// Returns an error if the bytes cannot be read, or end before the buffer is full.
    pub(crate) fn read_at(self, buffer: &mut [u8], at: u64) -> Result<()> {
        match self {
            Self::Slice(bytes) | Self::Mapped(bytes, _) => {
                let rest = usize::try_from(at).ok().and_then(|start| bytes.get(start..));
                let part = rest.and_then(|rest| rest.get(..buffer.len()));
                let too_short =
                    || Error::new(ErrorKind::Internal, "a read past the end of an image");
                buffer.copy_from_slice(part.ok_or_else(too_short)?);
                Ok(())
            }
            Self::File(file) => read_file_at(file, buffer, at),
            Self::Shared(shared) => shared.read_at(buffer, at),
            Self::Frozen(frozen) => frozen.read_at(buffer, at),
        }
    }
}
