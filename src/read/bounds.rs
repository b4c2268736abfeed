//! Whether segments lie in their memories, also where those are declared after them or too short.
//!
//! corestream declares a memory with the size that it had, before its data. Other writers declare no size
//! (wasm-coredump-builder, wasm-coredump-rewriter) or the size before the memory grew, and the specification
//! lets sections come in any order. Then a memory is as long as its segments need, up to its maximum, and what
//! can't be checked at a segment is checked at the end of the dump. Both readers keep one [`Reach`] a
//! memory for that, however many segments there are.

use std::ops::Range;

use super::fault::{Fault, Result};
use super::segment::{Placement, Segment};
use super::{types, wide};
use crate::limits::{MAX_MEMORIES, max_pages};
use crate::model::MemoryType;

/// Bytes by which wasm-coredump-rewriter may misjudge the address of its payload.
const MISJUDGED: u64 = 4;

/// What the decoder of a segment asks about the memories.
pub(super) trait Memories {
    /// Checks the width of an address in a memory.
    fn check_width(&mut self, memory: u32, memory64: bool, at: Range<u64>) -> Result<()>;

    /// Checks that a segment is in its memory.
    fn check(&mut self, segment: &Placement, at: Range<u64>) -> Result<()>;
}

/// Memories that are declared with the size that they had.
impl Memories for &[MemoryType] {
    fn check_width(&mut self, memory: u32, memory64: bool, at: Range<u64>) -> Result<()> {
        match self.get(memory as usize) {
            Some(ty) if ty.memory64 != memory64 => {
                let (bits, of_memory) = if memory64 { (64, 32) } else { (32, 64) };
                let message = format!("{bits}-bit address in a {of_memory}-bit memory");
                Err(Fault::damaged(at, message))
            }
            _ => Ok(()),
        }
    }

    fn check(&mut self, segment: &Placement, at: Range<u64>) -> Result<()> {
        segment.check(self, at)
    }
}

/// How far the segments of a memory reach.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    memory: u32,
    /// The segment that ends last, which may be empty. A memory can have all of its addresses.
    last: Placement,
    /// The head of that.
    at: Range<u64>,
    /// The widths of addresses that were met before the memory was declared, and where.
    narrow: Option<Range<u64>>,
    wide: Option<Range<u64>>,
}

impl Reach {
    /// The memory, the last address that a segment of it has, and whether addresses have 64 bits.
    pub(super) fn needs(&self) -> (u32, Option<u64>, bool) {
        let last = self.last.segment().map(|segment| segment.last());
        (self.memory, last, self.wide.is_some())
    }

    fn new(memory: u32, at: Range<u64>) -> Self {
        let last = Placement { address: 0, offset: 0, len: 0, memory };
        Self { memory, last, at, narrow: None, wide: None }
    }
}

/// Memories of a dump that does not say where its index is.
pub(super) struct Growing<'w> {
    /// The types that were declared so far.
    pub(super) types: &'w [MemoryType],
    /// Whether these are all.
    pub(super) is_declared: bool,
    pub(super) reaches: &'w mut Vec<Reach>,
}

impl Growing<'_> {
    fn reach(&mut self, memory: u32, at: &Range<u64>) -> Result<&mut Reach> {
        let missing = || Fault::damaged(at.clone(), format!("there is no memory {memory}"));
        let known = self.reaches.iter().position(|reach| reach.memory == memory);
        let reach = match known {
            Some(known) => self.reaches.get_mut(known),
            None if memory as usize >= MAX_MEMORIES => None,
            None => {
                self.reaches.push(Reach::new(memory, at.clone()));
                self.reaches.last_mut()
            }
        };
        reach.ok_or_else(missing)
    }
}

impl Memories for Growing<'_> {
    fn check_width(&mut self, memory: u32, memory64: bool, at: Range<u64>) -> Result<()> {
        if self.is_declared {
            return self.types.check_width(memory, memory64, at);
        }
        let reach = self.reach(memory, &at)?;
        let width = if memory64 { &mut reach.wide } else { &mut reach.narrow };
        width.get_or_insert(at);
        Ok(())
    }

    fn check(&mut self, segment: &Placement, at: Range<u64>) -> Result<()> {
        if let Some(ty) = self.types.get(segment.memory as usize) {
            if segment.end() <= ty.size() {
                return Ok(());
            }
            let over = segment.end().checked_sub(most(ty));
            if over.is_some_and(|over| over > slack(ty)) {
                return Err(segment.past_the_end(ty, at));
            }
        } else if self.is_declared {
            return segment.check(self.types, at);
        }
        segment.check_addresses(&at)?;
        let reach = self.reach(segment.memory, &at)?;
        if segment.end() >= reach.last.end() {
            (reach.last, reach.at) = (*segment, at);
        }
        Ok(())
    }
}

/// The pages that a memory can have at most.
fn most_pages(ty: &MemoryType) -> u64 {
    ty.maximum.unwrap_or_else(|| max_pages(ty.memory64, ty.page_size))
}

/// The bytes that a memory can have at most.
fn most(ty: &MemoryType) -> u128 {
    wide::product(most_pages(ty), ty.page_size.into())
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
        if reach.last.end() <= ty.size() {
            continue;
        }
        let pages = u64::try_from(types::pages_for(reach.last.end(), ty.page_size));
        let pages = pages.ok().filter(|pages| grow && *pages <= most_pages(&ty));
        let past_the_end = || in_section(reach.last.past_the_end(&ty, reach.at.clone()));
        let pages = pages.ok_or_else(past_the_end)?;
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
    let to_the_end = last.memory == 0 && last.end_in_file() == len.into();
    let there = Placement { address: last.offset, ..last };
    there.segment().filter(|_| same && near && to_the_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(address: u64, len: u32) -> Placement {
        Placement { memory: 0, address, offset: 0, len }
    }

    /// What a memory is, of whose type segments alone tell until the end.
    fn settled(segments: &[Placement], ty: MemoryType) -> Result<(MemoryType, Vec<(u32, u64)>)> {
        let mut reaches = Vec::new();
        let mut growing = Growing { types: &[], is_declared: false, reaches: &mut reaches };
        for (i, segment) in (0..).zip(segments) {
            growing.check(segment, i..i + 1)?;
        }
        let mut memories = [ty];
        let grown = settle(&mut memories, &reaches, true)?;
        Ok((memories[0], grown))
    }

    #[test]
    fn memories_grow_to_the_end_of_all_addresses() {
        let last = [placement(3, 9), placement(u64::MAX, 1)];
        let (ty, grown) = settled(&last, MemoryType::wasm64(1)).unwrap();
        assert_eq!((ty.size(), grown), (1 << 64, vec![(0, 1)]));
        let whole = MemoryType::wasm64(1 << 48);
        assert_eq!(settled(&last, whole).unwrap(), (whole, Vec::new()));
        // With pages of a byte, a memory has no last address of 64 bits.
        let bytes = MemoryType::wasm64(0).with_page_size(1);
        let fault = settled(&last, bytes).unwrap_err();
        assert!(
            fault.line().contains("1-byte segment at address 0xffffffffffffffff is past the end")
        );
        let (ty, _) = settled(&[placement(u64::MAX - 1, 1)], bytes).unwrap();
        assert_eq!(ty.minimum, u64::MAX);
    }

    #[test]
    fn no_memory_has_a_segment_past_the_end_of_all_addresses() {
        let fault = settled(&[placement(u64::MAX, 2)], MemoryType::wasm64(1)).unwrap_err();
        let line = "at 0x0: 2-byte segment at address 0xffffffffffffffff is past the end of the \
                    address space";
        assert_eq!((fault.line(), fault.range), (line.into(), 0..1));
        // One that is empty may end there, but needs a memory that does.
        let (ty, _) = settled(&[placement(u64::MAX, 0)], MemoryType::wasm64(1)).unwrap();
        assert_eq!(ty.minimum, 1 << 48);
    }
}
