//! Computes the checksums of a dump while its pieces are sent.
//!
//! The index holds a CRC-32 for each block of the dump before it. The blocks have a fixed length, 1 MiB in most dumps,
//! whatever the pieces are: a block may span many pieces, and a piece many blocks. [`Checksums`] keeps the state of one
//! unfinished block, and splits each piece at the ends of blocks. Updates must come in the order of the dump, one at a
//! time, from any thread. The writer makes them on a helper thread while the sink takes the same bytes.
//!
//! The checksums cover the bytes that are sent, not the bytes that are in the image at another moment. An image that
//! changes would otherwise give a dump that its own checksums call damaged. So an image that can change is read once,
//! into a buffer, and both the checksum and the sink use that buffer ([`batch`](crate::batch)). Checksums made during
//! the scan would save a pass over memory, but would not cover the bytes that are sent.
//!
//! The table has at most 65,536 entries, 256 KiB: beyond 64 GiB, the blocks are longer ([`IndexLayout`]). It is
//! allocated before the first byte is sent, so that it cannot fail in the middle of a dump. The checksums of 2 GiB take
//! one core 170 ms. Both cores read the same bytes at the same time, and the second one finds them in the shared cache,
//! so a dump with checksums takes no longer than one without.

use crc32fast::Hasher;

use crate::arithmetic::{at_most, exact};
use crate::error::{Error, Result};
use crate::plan::IndexLayout;

/// The checksums of the bytes sent so far.
pub(crate) struct Checksums {
    /// The length of a block in bytes; 0 if the dump has no checksums.
    block_len: u64,
    /// The checksums of complete blocks.
    done: Vec<u32>,
    /// The state of the unfinished block.
    hasher: Hasher,
    /// The number of bytes that the unfinished block still lacks.
    missing: u64,
}

impl Checksums {
    /// Prepares the checksums for a dump with this index.
    ///
    /// # Errors
    /// Returns an error if the table cannot be allocated.
    pub(crate) fn new(index: &IndexLayout) -> Result<Self> {
        let mut done = Vec::new();
        done.try_reserve_exact(exact(index.blocks)?)
            .map_err(|_| Error::out_of_memory("the table of checksums"))?;
        let block_len = if index.block_log2 == 0 { 0 } else { 1 << index.block_log2 };
        Ok(Self { block_len, done, hasher: Hasher::new(), missing: block_len })
    }

    /// Returns whether the dump has checksums.
    pub(crate) fn is_enabled(&self) -> bool {
        self.block_len > 0
    }

    /// Adds the next bytes of the dump.
    pub(crate) fn update<'b>(&mut self, parts: impl IntoIterator<Item = &'b [u8]>) {
        if !self.is_enabled() {
            return;
        }
        for mut rest in parts {
            while !rest.is_empty() {
                let (part, after) = rest.split_at(at_most(self.missing, rest.len()));
                self.hasher.update(part);
                match self.missing.checked_sub(part.len() as u64) {
                    // `part` has at most `missing` bytes.
                    None | Some(0) => self.finish_block(),
                    Some(missing) => self.missing = missing,
                }
                rest = after;
            }
        }
    }

    fn finish_block(&mut self) {
        self.done.push(std::mem::take(&mut self.hasher).finalize());
        self.missing = self.block_len;
    }

    /// Returns the checksums of all blocks. The last block may be shorter than the others.
    pub(crate) fn finish(mut self) -> Vec<u32> {
        if self.missing < self.block_len {
            self.finish_block();
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::EntryCounts;

    #[test]
    fn checksums_do_not_depend_on_the_lengths_of_pieces() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i >> 7).to_le_bytes()[0]).collect();
        for len in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000] {
            for step in [1 << 13, 999_999, 3_000_000] {
                let index = IndexLayout::new(len as u64, EntryCounts::default(), true).unwrap();
                let mut checksums = Checksums::new(&index).unwrap();
                for part in bytes[..len].chunks(step) {
                    let (a, b) = part.split_at(part.len() / 3);
                    checksums.update([a, b]);
                }
                let expected: Vec<_> = bytes[..len].chunks(1 << 20).map(crc32fast::hash).collect();
                assert_eq!(checksums.finish(), expected, "{len} bytes by {step}");
                assert_eq!(expected.len(), index.blocks as usize);
            }
        }
    }

    #[test]
    fn bounds_the_table_for_dumps_of_any_length() {
        for len in [1_u64 << 36, (1 << 36) + 1, 1 << 40, u64::MAX >> 1] {
            let index = IndexLayout::new(len, EntryCounts::default(), true).unwrap();
            assert!(index.blocks <= 65_536);
            assert!(index.block_log2 == 20 || index.blocks > 32_768);
        }
        let index = IndexLayout::new(1 << 40, EntryCounts::default(), false).unwrap();
        assert_eq!((index.block_log2, index.blocks), (0, 0));
    }
}
