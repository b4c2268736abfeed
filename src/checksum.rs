//! CRC-32 of the pieces as they pass, block by block: what the index will hold.

use crc32fast::Hasher;

use crate::arithmetic::{at_most, exact};
use crate::error::{Error, Result};
use crate::plan::IndexLayout;

/// Sums up the bytes of a dump in the order in which they are sent.
pub(crate) struct Checksums {
    /// Bytes of a block; 0: nothing is summed up.
    block: u64,
    /// Those of the blocks that are complete.
    done: Vec<u32>,
    /// That of the block in hand, and the bytes that are missing in it.
    hasher: Hasher,
    missing: u64,
}

impl Checksums {
    /// For a dump with this index.
    ///
    /// # Errors
    /// The table can't be had.
    pub(crate) fn new(index: &IndexLayout) -> Result<Self> {
        let mut done = Vec::new();
        done.try_reserve_exact(exact(index.blocks)?)
            .map_err(|_| Error::out_of_memory("the table of checksums"))?;
        let block = if index.block_log2 == 0 { 0 } else { 1 << index.block_log2 };
        Ok(Self { block, done, hasher: Hasher::new(), missing: block })
    }

    /// Whether there is anything to do.
    pub(crate) fn are_wanted(&self) -> bool {
        self.block > 0
    }

    /// The next bytes.
    pub(crate) fn update<'b>(&mut self, parts: impl IntoIterator<Item = &'b [u8]>) {
        if !self.are_wanted() {
            return;
        }
        for mut rest in parts {
            while !rest.is_empty() {
                let (part, after) = rest.split_at(at_most(self.missing, rest.len()));
                self.hasher.update(part);
                match self.missing.checked_sub(part.len() as u64) {
                    // A part has at most as many bytes as are missing.
                    None | Some(0) => self.end_block(),
                    Some(missing) => self.missing = missing,
                }
                rest = after;
            }
        }
    }

    fn end_block(&mut self) {
        self.done.push(std::mem::take(&mut self.hasher).finalize());
        self.missing = self.block;
    }

    /// The checksums of all blocks; the last one may be shorter.
    pub(crate) fn finish(mut self) -> Vec<u32> {
        if self.missing < self.block {
            self.end_block();
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Entries;

    #[test]
    fn blocks_of_any_pieces_are_those_of_the_bytes() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i >> 7).to_le_bytes()[0]).collect();
        for len in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000] {
            for step in [1 << 13, 999_999, 3_000_000] {
                let index = IndexLayout::new(len as u64, Entries::default(), true).unwrap();
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
    fn the_table_stays_in_its_budget() {
        for len in [1_u64 << 36, (1 << 36) + 1, 1 << 40, u64::MAX >> 1] {
            let index = IndexLayout::new(len, Entries::default(), true).unwrap();
            assert!(index.blocks <= 65_536);
            assert!(index.block_log2 == 20 || index.blocks > 32_768);
        }
        let index = IndexLayout::new(1 << 40, Entries::default(), false).unwrap();
        assert_eq!((index.block_log2, index.blocks), (0, 0));
    }
}
