//! An input that is either a slice or a window, for code in which a branch per operation does not matter.

use crc32fast::Hasher;

use super::{Input, Slice, Window};
use crate::read::fault::Result;

/// A dump in a source, read as a slice if the source lends its bytes and through a window if not.
pub(in crate::read) enum Cursor<'s> {
    Slice(Slice<'s>),
    Window(Window<'s>),
}

macro_rules! delegate {
    ($self:ident, $input:ident => $result:expr) => {
        match $self {
            Self::Slice($input) => $result,
            Self::Window($input) => $result,
        }
    };
}

impl Input for Cursor<'_> {
    #[inline]
    fn offset(&self) -> u64 {
        delegate!(self, input => input.offset())
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&[u8]> {
        delegate!(self, input => input.take(len))
    }

    #[inline]
    fn skip(&mut self, len: u64) -> Result<()> {
        delegate!(self, input => input.skip(len))
    }

    fn drain(&mut self) -> Result<u64> {
        delegate!(self, input => input.drain())
    }

    fn at_end(&mut self) -> Result<bool> {
        delegate!(self, input => input.at_end())
    }

    fn guard_index(&mut self, offset: u64) {
        delegate!(self, input => input.guard_index(offset));
    }

    fn unguard_index(&mut self) {
        delegate!(self, input => input.unguard_index());
    }

    fn has_passed_index(&self) -> bool {
        delegate!(self, input => input.has_passed_index())
    }

    fn start_crc(&mut self, before: Hasher) {
        delegate!(self, input => input.start_crc(before));
    }

    fn finish_crc(&mut self) -> u32 {
        delegate!(self, input => input.finish_crc())
    }
}
