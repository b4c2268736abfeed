//! The section `corestream`: how long the dump is and where its index lies.

use std::ops::Range;

use zerocopy::IntoBytes;

use super::decode::Decoder;
use super::fault::{Fault, Result};
use super::input::Input;
use crate::format::{self, DEGRADED, HeaderFields, PARTIAL, VERSION};
use crate::limits::MAX_CHECKSUM_BLOCKS;

/// What the section `corestream` says.
#[derive(Clone, Debug)]
pub(super) struct Header {
    /// Bit by bit, [`PARTIAL`] and [`DEGRADED`].
    pub(super) flags: u32,
    /// Bytes of the dump.
    pub(super) length: u64,
    /// The offset of the section `corestream.index`.
    pub(super) index: u64,
    /// A checksum is over 2^`block_log2` bytes; 0 without checksums.
    pub(super) block_log2: u32,
    /// How many checksums there are.
    blocks: u32,
}

impl Header {
    /// Returns what the section says; `None` if there can't be so many blocks, or blocks of that length.
    pub(super) fn new(flags: u32, length: u64, index: u64, block_log2: u32) -> Option<Self> {
        let blocks = match block_log2 {
            0 => 0,
            log2 => u32::try_from(index.div_ceil(1_u64.checked_shl(log2)?)).ok()?,
        };
        let this = Self { flags, length, index, block_log2, blocks };
        (blocks <= MAX_CHECKSUM_BLOCKS).then_some(this)
    }

    /// Decodes the body of the section; `start` is the offset of its id. Offsets are checked only where it
    /// is in place.
    pub(super) fn decode<I: Input>(
        body: &mut Decoder<'_, I>,
        start: u64,
        in_place: bool,
    ) -> Result<Self> {
        let bytes: [u8; size_of::<format::Header>()] = body.array()?;
        body.finish()?;
        let all = body.since(start);
        let damaged = |message: String| Err(Fault::damaged(all.clone(), message));
        let format::Header { fields, crc } = zerocopy::transmute!(bytes);
        let HeaderFields { version, flags, length, index, block_log2 } = fields;
        let (length, index, block_log2) = (length.get(), index.get(), block_log2.get());
        if crc32fast::hash(fields.as_bytes()) != crc.get() {
            return damaged("the checksum of this section does not hold".into());
        }
        if version.get() != VERSION {
            return Err(unknown(all, "version", version.get()));
        }
        if flags.get() & !(PARTIAL | DEGRADED) != 0 {
            return Err(unknown(all, "flags", flags.get()));
        }
        if index >= length || (in_place && index < all.end) {
            let end = all.end;
            return damaged(format!(
                "an index at {index:#x} is not between {end:#x} and {length:#x}"
            ));
        }
        Self::new(flags.get(), length, index, block_log2).ok_or_else(|| {
            Fault::damaged(all, format!("blocks of 2^{block_log2} bytes are not possible"))
        })
    }

    /// How many checksums there are.
    pub(super) fn block_count(&self) -> u32 {
        self.blocks
    }

    /// The bytes of the file that the checksum of one of the blocks is over.
    pub(super) fn block(&self, block: u32) -> Range<u64> {
        let start = u64::from(block) << self.block_log2;
        match start.checked_add(1 << self.block_log2) {
            Some(end) if end < self.index => start..end,
            // The last block, which may be shorter.
            _ => start..self.index,
        }
    }

    /// Checks that the file has no more than `length` bytes, which is what it has.
    pub(super) fn check_nothing_behind(&self, length: u64) -> Result<()> {
        match length.checked_sub(self.length) {
            None | Some(0) => Ok(()),
            Some(more) => {
                let message = format!("{more} bytes after the end of the dump");
                Err(Fault::damaged(self.length..length, message))
            }
        }
    }

    /// The section `corestream.index`.
    pub(super) fn index_range(&self) -> Range<u64> {
        self.index..self.length
    }
}

/// A value that is none of those known here.
pub(super) fn unknown(range: Range<u64>, what: &str, value: u32) -> Box<Fault> {
    Fault::unsupported(range, format!("{what} {value} of this section is not known here"))
}

#[cfg(test)]
mod tests {
    use super::super::input::Slice;
    use super::*;
    use crate::error::ErrorKind;

    fn decode(change: impl Fn(&mut [u8])) -> std::result::Result<Header, (ErrorKind, String)> {
        let mut bytes = [
            1, 0, 0, 0, // version
            3, 0, 0, 0, // flags: partial, degraded
            0, 0, 0x50, 0, 0, 0, 0, 0, // length
            5, 0, 0x40, 0, 0, 0, 0, 0, // index
            20, 0, 0, 0, // block_log2
            0, 0, 0, 0, // crc
        ];
        change(&mut bytes);
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        let mut input = Slice::new(&bytes, 0);
        let header = Header::decode(&mut Decoder::new(&mut input, 32), 0, true);
        header.map_err(|fault| (fault.kind, fault.line()))
    }

    #[test]
    fn fields() {
        let header = decode(|_| ()).unwrap();
        assert_eq!((header.flags, header.length, header.index), (3, 0x50_0000, 0x40_0005));
        assert_eq!(header.block_count(), 5);
        assert_eq!(header.block(0), 0..1 << 20);
        assert_eq!(header.block(4), 0x40_0000..0x40_0005);
        assert_eq!(decode(|bytes| bytes[24] = 0).unwrap().block_count(), 0);
    }

    #[test]
    fn the_last_block_may_end_past_all_offsets() {
        let header = Header::new(0, u64::MAX, u64::MAX - 1, 63).unwrap();
        assert_eq!(header.block_count(), 2);
        assert_eq!(header.block(0), 0..1 << 63);
        assert_eq!(header.block(1), 1 << 63..u64::MAX - 1);
        assert!(Header::new(0, u64::MAX, u64::MAX - 1, 64).is_none());
    }

    #[test]
    fn what_is_not_possible_is_said() {
        let (kind, line) = decode(|bytes| bytes[0] = 2).unwrap_err();
        assert_eq!(kind, ErrorKind::Unsupported);
        assert_eq!(line, "at 0x0: version 2 of this section is not known here");
        assert_eq!(decode(|bytes| bytes[4] = 4).unwrap_err().0, ErrorKind::Unsupported);
        // An index past the end of the file, and one in the header itself.
        assert_eq!(decode(|bytes| bytes[22] = 1).unwrap_err().0, ErrorKind::Damaged);
        assert_eq!(decode(|bytes| bytes[16..19].fill(0)).unwrap_err().0, ErrorKind::Damaged);
        // Too many blocks, and blocks of 2^64 bytes.
        assert_eq!(decode(|bytes| bytes[24] = 1).unwrap_err().0, ErrorKind::Damaged);
        assert_eq!(decode(|bytes| bytes[24] = 64).unwrap_err().0, ErrorKind::Damaged);
    }
}
