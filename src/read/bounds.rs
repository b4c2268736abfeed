//! Whether segments lie in their memories, also where those are declared after them or too short.
//!
//! corestream declares a memory with the size that it had, before its data. Other writers declare no size
//! (wasm-coredump-builder, wasm-coredump-rewriter) or the size before the memory grew, and the specification
//! lets sections come in any order. Then a memory is as long as its segments need, up to its maximum, and what
//! can't be checked at a segment is checked at the end of the dump. Both readers keep one [`Reach`] a
//! memory for that, however many segments there are.

use std::ops::Range;

use super::data::Segment;
use super::fault::{Fault, Result};
use super::types;
use crate::limits::{MAX_MEMORIES, max_pages};
use crate::model::MemoryType;

/// Bytes by which wasm-coredump-rewriter may misjudge the address of its payload.
const MISJUDGED: u64 = 4;

/// What the decoder of a segment asks about the memories.
pub(super) trait Memories {
    /// Checks the width of an address in a memory.
    fn check_width(&mut self, memory: u32, memory64: bool, at: Range<u64>) -> Result<()>;

    /// Checks that a segment is in its memory.
    fn check(&mut self, segment: &Segment, at: Range<u64>) -> Result<()>;
}

/// Memories that are declared with the size that they had.
impl Memories for &[MemoryType] {
    fn check_width(&mut self, memory: u32, memory64: bool, at: Range<u64>) -> Result<()> {
        match self.get(memory as usize) {
            Some(ty) if ty.memory64 != memory64 => {
                let bits = if memory64 { 64 } else { 32 };
                let message = format!("its address has {bits} bits, those of the memory have not");
                Err(Fault::damaged(at, message))
            }
            _ => Ok(()),
        }
    }

    fn check(&mut self, segment: &Segment, at: Range<u64>) -> Result<()> {
        segment.check(self, at)
    }
}

/// How far the segments of a memory reach.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    memory: u32,
    /// The segment that ends last.
    last: Segment,
    /// The head of that.
    at: Range<u64>,
    /// The widths of addresses that were met before the memory was declared, and where.
    narrow: Option<Range<u64>>,
    wide: Option<Range<u64>>,
}

impl Reach {
    /// The memory, the last address that a segment of it has, and whether addresses have 64 bits.
    pub(super) fn needs(&self) -> (u32, Option<u64>, bool) {
        let last = (self.last.len > 0).then(|| self.last.last());
        (self.memory, last, self.wide.is_some())
    }

    fn new(memory: u32, at: Range<u64>) -> Self {
        let last = Segment { address: 0, offset: 0, len: 0, memory };
        Self { memory, last, at, narrow: None, wide: None }
    }
}

/// The address after a segment.
fn end(segment: &Segment) -> u128 {
    u128::from(segment.address).saturating_add(segment.len.into())
}

/// Memories of a dump that does not say where its index is.
pub(super) struct Growing<'w> {
    /// The types that were declared so far.
    pub(super) types: &'w [MemoryType],
    /// Whether that are all.
    pub(super) declared: bool,
    pub(super) reaches: &'w mut Vec<Reach>,
}

impl Growing<'_> {
    fn reach(&mut self, memory: u32, at: &Range<u64>) -> Result<&mut Reach> {
        let known = self.reaches.iter().position(|reach| reach.memory == memory);
        if known.is_none() {
            if memory as usize >= MAX_MEMORIES {
                let message = format!("there is no memory {memory}");
                return Err(Fault::damaged(at.clone(), message));
            }
            self.reaches.push(Reach::new(memory, at.clone()));
        }
        let last = self.reaches.len().saturating_sub(1);
        let missing = || Fault::damaged(at.clone(), format!("there is no memory {memory}"));
        self.reaches.get_mut(known.unwrap_or(last)).ok_or_else(missing)
    }
}

impl Memories for Growing<'_> {
    fn check_width(&mut self, memory: u32, memory64: bool, at: Range<u64>) -> Result<()> {
        if self.declared {
            return self.types.check_width(memory, memory64, at);
        }
        let reach = self.reach(memory, &at)?;
        let width = if memory64 { &mut reach.wide } else { &mut reach.narrow };
        width.get_or_insert(at);
        Ok(())
    }

    fn check(&mut self, segment: &Segment, at: Range<u64>) -> Result<()> {
        if let Some(ty) = self.types.get(segment.memory as usize) {
            if end(segment) <= types::size(ty) {
                return Ok(());
            }
            if end(segment) > most(ty).saturating_add(slack(ty)) {
                return segment.check(self.types, at);
            }
        } else if self.declared {
            return segment.check(self.types, at);
        }
        let reach = self.reach(segment.memory, &at)?;
        if end(segment) >= end(&reach.last) {
            (reach.last, reach.at) = (*segment, at);
        }
        Ok(())
    }
}

/// The bytes that a memory can have at most.
fn most(ty: &MemoryType) -> u128 {
    let pages = ty.maximum.unwrap_or_else(|| max_pages(ty.memory64, ty.page_size));
    u128::from(pages).saturating_mul(ty.page_size.into())
}

/// The bytes by which a segment may pass that, if all else is as wasm-coredump-rewriter has it.
fn slack(ty: &MemoryType) -> u128 {
    match (ty.minimum, ty.maximum) {
        (0, Some(_)) => MISJUDGED.into(),
        _ => 0,
    }
}

/// Checks at the end of a dump what could not be checked before, and makes memories as long as their segments
/// need; gives the sizes that were declared of those that were too short. `grow` says whether they may
/// grow at all.
pub(super) fn settle(
    memories: &mut [MemoryType],
    reaches: &[Reach],
    grow: bool,
) -> Result<Vec<(u32, u64)>> {
    let mut grown = Vec::new();
    for reach in reaches {
        let in_section = |fault: Box<Fault>| fault.within("section data");
        let index = reach.memory as usize;
        let Some(ty) = memories.get(index).copied() else {
            let message = format!("there is no memory {index}, the dump has {}", memories.len());
            return Err(in_section(Fault::damaged(reach.at.clone(), message)));
        };
        for (width, memory64) in [(&reach.narrow, false), (&reach.wide, true)] {
            if let Some(at) = width {
                let checked = (&mut &*memories).check_width(reach.memory, memory64, at.clone());
                checked.map_err(in_section)?;
            }
        }
        if end(&reach.last) <= types::size(&ty) {
            continue;
        }
        let pages = end(&reach.last).div_ceil(u128::from(ty.page_size.max(1)));
        let pages = u64::try_from(pages).unwrap_or(u64::MAX);
        let most = ty.maximum.unwrap_or_else(|| max_pages(ty.memory64, ty.page_size));
        if !grow || pages > most {
            reach.last.check(memories, reach.at.clone()).map_err(in_section)?;
        }
        grown.push((reach.memory, ty.minimum));
        if let Some(ty) = memories.get_mut(index) {
            ty.minimum = pages;
        }
    }
    Ok(grown)
}

/// Returns the segment of a dump by wasm-coredump-rewriter, with its address put right. Such a dump stands at
/// the start of the guest's own memory, and its only segment is the rest of that: an address in it is an
/// offset in the dump. What the dump says is some bytes off for some lengths of its numbers.
pub(super) fn in_its_own_memory(
    memories: &[MemoryType],
    reaches: &[Reach],
    segments: u64,
    len: u64,
) -> Option<Segment> {
    let ([ty], [reach], 1) = (memories, reaches, segments) else { return None };
    let last = reach.last;
    let same = most(ty) == u128::from(len) && ty.minimum == 0 && ty.maximum.is_some();
    let near = last.address.abs_diff(last.offset) <= MISJUDGED;
    let to_the_end = last.memory == 0 && last.in_file().end == len && last.len > 0;
    (same && near && to_the_end).then_some(Segment { address: last.offset, ..last })
}
