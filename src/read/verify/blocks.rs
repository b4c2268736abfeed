//! The checksummed blocks of a dump: finds the bad ones, and the memory in them.
//!
//! A block is bad if the checksum of its bytes differs from the one in the index. The index also says which addresses
//! each block holds, so a bad block can be reported as ranges of memory. [`Blocks`] notes these ranges while the index
//! is decoded, one per block and memory: the verifier keeps no segments, whose number it does not limit.

use super::verdict::{DamageReport, Excluded, MemoryRange};
use crate::error::ErrorKind;
use crate::limits::MAX_DAMAGED_RANGES;
use crate::model::MemoryIndex;
use crate::read::fault::Fault;
use crate::read::header::Header;
use crate::read::segment::Segment;

/// The blocks of a dump: their checksums, and the memory in them.
pub(super) struct Blocks {
    pub(super) header: Header,
    /// The checksums of the bytes.
    pub(super) computed: Vec<u32>,
    /// The checksums in the index.
    pub(super) stored: Vec<u32>,
    /// Whether the index is intact.
    pub(super) is_index_intact: bool,
    /// The memory in each block, in file order. Its length is at most the number of blocks plus the number of memories.
    memory: Vec<(u64, MemoryRange)>,
    /// The file offset of the first segment.
    first_segment: Option<u64>,
    /// The memories with excluded ranges, from the index.
    pub(super) excluded: Vec<Excluded>,
    /// The changing memories, from the index.
    pub(super) changing: Vec<MemoryIndex>,
}

impl Blocks {
    pub(super) fn new(header: Header) -> Self {
        Self {
            header,
            computed: Vec::new(),
            stored: Vec::new(),
            is_index_intact: false,
            memory: Vec::new(),
            first_segment: None,
            excluded: Vec::new(),
            changing: Vec::new(),
        }
    }

    /// Notes the addresses of a segment in each of its blocks.
    pub(super) fn add_segment(&mut self, segment: Segment) {
        let log2 = self.header.block_log2;
        self.first_segment.get_or_insert(segment.offset());
        if log2 == 0 || segment.in_file().end > self.header.index {
            return;
        }
        let mut rest = Some(segment);
        while let Some(segment) = rest.take() {
            let block = segment.offset() >> log2;
            // The end of the last block may overflow, but no segment reaches it then.
            let end = block.checked_add(1).and_then(|next| next.checked_mul(1 << log2));
            let part = match end.and_then(|end| segment.split_at_offset(end)) {
                Some((part, later)) => {
                    rest = Some(later);
                    part
                }
                None => segment,
            };
            let (memory, last) = (MemoryIndex(segment.memory()), part.last());
            match self.memory.last_mut() {
                Some((at, range)) if *at == block && range.memory == memory => {
                    range.addresses = *range.addresses.start()..=last;
                }
                _ => {
                    let addresses = part.address()..=last;
                    self.memory.push((block, MemoryRange { memory, addresses }));
                }
            }
        }
    }

    /// Returns whether the checksums were compared, so that the bad blocks are known.
    pub(super) fn are_compared(&self) -> bool {
        self.is_index_intact && self.header.block_log2 != 0
    }

    /// Returns the damage report if a block is bad. `fault` is the fault that was found otherwise, if any. It comes
    /// first if it lies before the first bad block, and joins the reason if it lies within that block.
    pub(super) fn report_damage(&mut self, fault: Option<&Fault>) -> Option<DamageReport> {
        let bad = || (0..self.header.block_count()).filter(|block| self.is_bad(*block));
        let first = bad().next().filter(|_| self.is_index_intact)?;
        let bad_blocks = bad().count();
        let block = self.header.block(first);
        let mismatch = "checksum mismatch";
        let (range, reason) = match fault {
            Some(fault) if fault.range.start < block.start => {
                let blocks = if bad_blocks == 1 { "block follows" } else { "blocks follow" };
                let reason = format!("{}; {bad_blocks} bad {blocks}", fault.line());
                (fault.range.clone(), reason)
            }
            Some(fault) if fault.range.start < block.end => {
                (block.clone(), format!("{mismatch}; {}", fault.line()))
            }
            _ => (block.clone(), mismatch.into()),
        };
        let is_block = range == block;
        let in_block = |(block, _): &&(u64, MemoryRange)| *block == u64::from(first) && is_block;
        let memory = self.memory.iter().filter(in_block).map(|(_, range)| range.clone()).collect();
        let (all_memory, more_memory) = self.take_bad_memory();
        Some(DamageReport {
            truncated: !is_block && fault.is_some_and(|fault| fault.kind == ErrorKind::Truncated),
            range,
            reason,
            bad_blocks,
            memory,
            all_memory,
            more_memory,
            guest: block.start < self.first_segment.unwrap_or(self.header.index),
            checksums: true,
            is_block,
        })
    }

    fn is_bad(&self, block: u32) -> bool {
        let block = block as usize;
        let pair = self.computed.get(block).zip(self.stored.get(block));
        pair.is_some_and(|(computed, stored)| computed != stored)
    }

    /// Takes the memory in bad blocks. Joins adjacent ranges, returns at most [`MAX_DAMAGED_RANGES`], and counts the
    /// others.
    fn take_bad_memory(&mut self) -> (Vec<MemoryRange>, usize) {
        let mut all = std::mem::take(&mut self.memory);
        all.retain(|(block, _)| u32::try_from(*block).is_ok_and(|block| self.is_bad(block)));
        all.dedup_by(|(_, next), (_, range)| {
            let touches = range.addresses.end().checked_add(1) == Some(*next.addresses.start());
            let joins = range.memory == next.memory && touches;
            if joins {
                range.addresses = *range.addresses.start()..=*next.addresses.end();
            }
            joins
        });
        let more = all.iter().skip(MAX_DAMAGED_RANGES).count();
        all.truncate(MAX_DAMAGED_RANGES);
        (all.into_iter().map(|(_, range)| range).collect(), more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of memory 0 and the data of memory 1 are adjacent by address, and so are the last two ranges.
    #[test]
    fn joins_adjacent_ranges_of_the_same_memory_only() {
        let range = |memory, addresses| MemoryRange { memory: MemoryIndex(memory), addresses };
        let mut blocks = Blocks::new(Header::new(0, 4 << 20, 3 << 20, 20).unwrap());
        blocks.memory = vec![
            (0, range(0, 0xff00..=0xffff)),
            (1, range(1, 0x1_0000..=0x1_00ff)),
            (2, range(1, 0x1_0100..=0x1_01ff)),
        ];
        (blocks.computed, blocks.stored) = (vec![1; 3], vec![0; 3]);
        let expected = [range(0, 0xff00..=0xffff), range(1, 0x1_0000..=0x1_01ff)];
        assert_eq!(blocks.take_bad_memory(), (expected.to_vec(), 0));
    }
}
