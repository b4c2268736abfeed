//! The bytes of an image, and how parts of them are read.

use std::fs::File;

use super::gather::{Part, read_parts};
use super::read::read_file_at;
use super::shared::SharedImage;
use crate::error::{Error, ErrorKind, Result};

/// Where the bytes of an image are.
#[derive(Clone, Copy)]
pub(crate) enum Bytes<'i> {
    /// In the address space of this process.
    Slice(&'i [u8]),
    /// In a file, all of which is mapped.
    Mapped(&'i [u8], &'i File),
    /// In a file that is read piece by piece.
    File(&'i File),
    /// In the address space of this process, but threads may write there at any time.
    Shared(&'i SharedImage),
}

impl<'i> Bytes<'i> {
    /// The bytes, if they can be borrowed; otherwise they are copied by [`read_at`](Self::read_at).
    pub(crate) fn as_slice(self) -> Option<&'i [u8]> {
        match self {
            Self::Slice(bytes) | Self::Mapped(bytes, _) => Some(bytes),
            Self::File(_) | Self::Shared(_) => None,
        }
    }

    /// Whether both are the bytes of the same image, as far as it matters: parts of it can be read together.
    pub(crate) fn is_same_file(self, other: Self) -> bool {
        matches!((self, other), (Self::File(one), Self::File(other)) if std::ptr::eq(one, other))
    }

    /// Fills all `parts`, which are in order and do not overlap; what is between them may go to `scratch`.
    ///
    /// # Errors
    /// They can't be read, or end before a part is full.
    pub(crate) fn read_parts(self, parts: &mut [Part<'_>], scratch: &mut [u8]) -> Result<()> {
        match self {
            Self::File(file) => read_parts(file, parts, scratch),
            _ => parts.iter_mut().try_for_each(|(position, bytes)| self.read_at(bytes, *position)),
        }
    }

    /// Fills `buffer` from the byte at `at` on.
    ///
    /// # Errors
    /// They can't be read, or end before the buffer is full.
    pub(crate) fn read_at(self, buffer: &mut [u8], at: u64) -> Result<()> {
        match self {
            Self::Slice(bytes) | Self::Mapped(bytes, _) => {
                let rest = usize::try_from(at).ok().and_then(|start| bytes.get(start..));
                let part = rest.and_then(|rest| rest.get(..buffer.len()));
                let too_short = || Error::new(ErrorKind::Internal, "a read beyond an image");
                buffer.copy_from_slice(part.ok_or_else(too_short)?);
                Ok(())
            }
            Self::File(file) => read_file_at(file, buffer, at),
            Self::Shared(shared) => shared.read_at(buffer, at),
        }
    }
}
