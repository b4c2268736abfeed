//! The blocks of a dump that have a checksum each, and the memory that lies in those whose checksum does not hold.

use super::verdict::{Damage, Excluded, MemoryRange};
use crate::error::ErrorKind;
use crate::limits::MAX_DAMAGED_RANGES;
use crate::model::MemoryIndex;
use crate::read::fault::Fault;
use crate::read::header::Header;
use crate::read::segment::Segment;

/// The blocks of a dump: their checksums, and which memory lies in them.
pub(super) struct Blocks {
    pub(super) header: Header,
    /// What the bytes give.
    pub(super) found: Vec<u32>,
    /// What the index says.
    pub(super) expected: Vec<u32>,
    /// Whether the index is one.
    pub(super) trusted: bool,
    /// In the order of blocks; no more than there are blocks and memories.
    memory: Vec<(u64, MemoryRange)>,
    /// Where the first segment begins, if there is one.
    first_segment: Option<u64>,
    /// What the index says was left out; one entry a memory at most.
    pub(super) excluded: Vec<Excluded>,
    /// The memories that the index marks as changing.
    pub(super) changing: Vec<MemoryIndex>,
}

impl Blocks {
    pub(super) fn new(header: Header) -> Self {
        Self {
            header,
            found: Vec::new(),
            expected: Vec::new(),
            trusted: false,
            memory: Vec::new(),
            first_segment: None,
            excluded: Vec::new(),
            changing: Vec::new(),
        }
    }

    /// Notes the blocks that a segment lies in.
    pub(super) fn add(&mut self, segment: Segment) {
        let log2 = self.header.block_log2;
        self.first_segment.get_or_insert(segment.offset());
        if log2 == 0 || segment.in_file().end > self.header.index {
            return;
        }
        let mut rest = Some(segment);
        while let Some(segment) = rest.take() {
            let block = segment.offset() >> log2;
            // The last block may end past all offsets, but no segment does.
            let end = block.checked_add(1).and_then(|next| next.checked_mul(1 << log2));
            let here = match end.and_then(|end| segment.split_at_offset(end)) {
                Some((here, later)) => {
                    rest = Some(later);
                    here
                }
                None => segment,
            };
            let (memory, last) = (MemoryIndex(segment.memory()), here.last());
            match self.memory.last_mut() {
                Some((at, range)) if *at == block && range.memory == memory => {
                    range.addresses = *range.addresses.start()..=last;
                }
                _ => {
                    let addresses = here.address()..=last;
                    self.memory.push((block, MemoryRange { memory, addresses }));
                }
            }
        }
    }

    /// Whether it is known which blocks are bad.
    pub(super) fn are_compared(&self) -> bool {
        self.trusted && self.header.block_log2 != 0
    }

    /// What is wrong, if a block is bad; `fault` comes first if it lies before all of those.
    pub(super) fn damage(&mut self, fault: Option<&Fault>) -> Option<Damage> {
        let bad = || (0..self.header.block_count()).filter(|block| self.is_bad(*block));
        let first = bad().next().filter(|_| self.trusted)?;
        let bad_blocks = bad().count();
        let block = self.header.block(first);
        let in_words =
            || format!("the checksum of {:#x}..{:#x} does not hold", block.start, block.end);
        let (range, reason) = match fault {
            Some(fault) if fault.range.start < block.start => {
                let blocks = if bad_blocks == 1 { "block follows" } else { "blocks follow" };
                let reason = format!("{}; {bad_blocks} bad {blocks}", fault.line());
                (fault.range.clone(), reason)
            }
            Some(fault) if fault.range.start < block.end => {
                (block.clone(), format!("{}; {}", in_words(), fault.line()))
            }
            _ => (block.clone(), in_words()),
        };
        let is_block = range == block;
        let of_block = |(block, _): &&(u64, MemoryRange)| *block == u64::from(first) && is_block;
        let memory = self.memory.iter().filter(of_block).map(|(_, range)| range.clone()).collect();
        let (all_memory, more_memory) = self.all_memory();
        Some(Damage {
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
        let pair = self.found.get(block).zip(self.expected.get(block));
        pair.is_some_and(|(found, expected)| found != expected)
    }

    /// What lies in bad blocks, and how many ranges there are beyond those that are listed.
    fn all_memory(&mut self) -> (Vec<MemoryRange>, usize) {
        let mut all = std::mem::take(&mut self.memory);
        all.retain(|(block, _)| u32::try_from(*block).is_ok_and(|block| self.is_bad(block)));
        all.dedup_by(|(_, next), (_, range)| {
            let touches = range.addresses.end().checked_add(1) == Some(*next.addresses.start());
            let one = range.memory == next.memory && touches;
            if one {
                range.addresses = *range.addresses.start()..=*next.addresses.end();
            }
            one
        });
        let more = all.iter().skip(MAX_DAMAGED_RANGES).count();
        all.truncate(MAX_DAMAGED_RANGES);
        (all.into_iter().map(|(_, range)| range).collect(), more)
    }
}
