//! The section `corestream`: the length of the dump and the offset of its index.

use std::ops::Range;

use zerocopy::IntoBytes;

use super::decode::Decoder;
use super::fault::{Fault, Result, plural_s};
use super::input::Input;
use crate::format::{self, DEGRADED, HeaderFields, PARTIAL, VERSION};
use crate::limits::MAX_CHECKSUM_BLOCKS;

/// The contents of the section `corestream`.
#[derive(Clone, Debug)]
pub(super) struct Header {
    /// The flags [`PARTIAL`] and [`DEGRADED`].
    pub(super) flags: u32,
    /// The length of the dump in bytes.
    pub(super) length: u64,
    /// The offset of the section `corestream.index`.
    pub(super) index: u64,
    /// Each checksum covers 2^`block_log2` bytes. This is 0 if there are no checksums.
    pub(super) block_log2: u32,
    /// The number of checksums.
    blocks: u32,
}

impl Header {
    /// Returns a header, or `None` if the blocks would be too many or too large.
    pub(super) fn new(flags: u32, length: u64, index: u64, block_log2: u32) -> Option<Self> {
        let blocks = match block_log2 {
            0 => 0,
            log2 => u32::try_from(index.div_ceil(1_u64.checked_shl(log2)?)).ok()?,
        };
        let this = Self { flags, length, index, block_log2, blocks };
        (blocks <= MAX_CHECKSUM_BLOCKS).then_some(this)
    }

    /// Decodes the body of the section. `start` is the offset of the section's id.
    ///
    /// If the section is `in_place`, the index must lie after it. Otherwise another tool has moved sections, and the
    /// offset is no longer true.
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
            return damaged("checksum mismatch".into());
        }
        if version.get() != VERSION {
            return Err(unknown_value(all, "version", version.get()));
        }
        if flags.get() & !(PARTIAL | DEGRADED) != 0 {
            return Err(unknown_value(all, "flags", flags.get()));
        }
        if index >= length || (in_place && index < all.end) {
            let end = all.end;
            return damaged(format!(
                "index offset {index:#x} is not between {end:#x} and {length:#x}"
            ));
        }
        Self::new(flags.get(), length, index, block_log2).ok_or_else(|| {
            Fault::damaged(all, format!("invalid block size of 2^{block_log2} bytes"))
        })
    }

    /// Returns the number of blocks, each with a checksum.
    pub(super) fn block_count(&self) -> u32 {
        self.blocks
    }

    /// Returns the bytes of the file that belong to a block.
    pub(super) fn block(&self, block: u32) -> Range<u64> {
        let start = u64::from(block) << self.block_log2;
        match start.checked_add(1 << self.block_log2) {
            Some(end) if end < self.index => start..end,
            // The last block can be shorter.
            _ => start..self.index,
        }
    }

    /// Checks that a file of `file_len` bytes does not continue after the end of the dump.
    pub(super) fn check_no_trailing_bytes(&self, file_len: u64) -> Result<()> {
        match file_len.checked_sub(self.length) {
            None | Some(0) => Ok(()),
            Some(more) => {
                let message = format!("{more} byte{} after the end of the dump", plural_s(more));
                Err(Fault::damaged(self.length..file_len, message))
            }
        }
    }

    /// Returns the bytes of the section `corestream.index`.
    pub(super) fn index_range(&self) -> Range<u64> {
        self.index..self.length
    }
}

/// Returns the fault of a field with an unknown value.
pub(super) fn unknown_value(range: Range<u64>, what: &str, value: u32) -> Box<Fault> {
    Fault::unsupported(range, format!("unknown {what} {value}"))
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
    fn decodes_all_fields() {
        let header = decode(|_| ()).unwrap();
        assert_eq!((header.flags, header.length, header.index), (3, 0x50_0000, 0x40_0005));
        assert_eq!(header.block_count(), 5);
        assert_eq!(header.block(0), 0..1 << 20);
        assert_eq!(header.block(4), 0x40_0000..0x40_0005);
        assert_eq!(decode(|bytes| bytes[24] = 0).unwrap().block_count(), 0);
    }

    #[test]
    fn clips_the_last_block_to_the_index() {
        let header = Header::new(0, u64::MAX, u64::MAX - 1, 63).unwrap();
        assert_eq!(header.block_count(), 2);
        assert_eq!(header.block(0), 0..1 << 63);
        assert_eq!(header.block(1), 1 << 63..u64::MAX - 1);
        assert!(Header::new(0, u64::MAX, u64::MAX - 1, 64).is_none());
    }

    #[test]
    fn rejects_unknown_and_impossible_values() {
        let (kind, line) = decode(|bytes| bytes[0] = 2).unwrap_err();
        assert_eq!(kind, ErrorKind::Unsupported);
        assert_eq!(line, "at 0x0: unknown version 2");
        assert_eq!(decode(|bytes| bytes[4] = 4).unwrap_err().0, ErrorKind::Unsupported);
        // An index past the end of the dump, and one within the header.
        assert_eq!(decode(|bytes| bytes[22] = 1).unwrap_err().0, ErrorKind::Damaged);
        assert_eq!(decode(|bytes| bytes[16..19].fill(0)).unwrap_err().0, ErrorKind::Damaged);
        // Too many blocks, and blocks of 2^64 bytes.
        assert_eq!(decode(|bytes| bytes[24] = 1).unwrap_err().0, ErrorKind::Damaged);
        assert_eq!(decode(|bytes| bytes[24] = 64).unwrap_err().0, ErrorKind::Damaged);
    }
}
