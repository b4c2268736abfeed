//! Checks that segments lie within their memories, even if a memory is declared after its segments or too small.
//!
//! corestream declares each memory with its size at the time of the dump, before the data. Other writers declare no
//! size (wasm-coredump-builder, wasm-coredump-rewriter) or the size before the memory grew, and the specification lets
//! sections come in any order. In their dumps a memory is as large as its segments need, up to its maximum. What cannot
//! be checked at a segment is checked at the end of the dump ([`grow_memories`]). The opener and the verifier keep one
//! [`MemoryRequirement`] per memory for this, however many segments there are.

use std::ops::Range;

use super::fault::{Fault, Result};
use super::segment::{Placement, Segment};
use super::{types, wide};
use crate::limits::{MAX_MEMORIES, max_pages};
use crate::model::MemoryType;

/// The maximum error in bytes of the address that wasm-coredump-rewriter writes for its payload.
const MAX_ADDRESS_ERROR: u64 = 4;

/// The memories of a dump, against which the decoder checks each segment.
pub(super) trait Memories {
    /// Checks the width of an address in a memory. `at` is the place of the address in the file.
    fn check_width(&mut self, memory: u32, memory64: bool, at: Range<u64>) -> Result<()>;

    /// Checks that a segment lies within its memory. `at` is the place of the segment's head in the file.
    fn check(&mut self, segment: &Placement, at: Range<u64>) -> Result<()>;
}

/// Memories declared before their segments, with their size at the time of the dump.
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

/// The type that the segments of a memory require.
#[derive(Clone, Debug)]
pub(super) struct MemoryRequirement {
    memory: u32,
    /// The segment with the highest end address. It may be empty. A segment can end at 2^64, so this is not an address.
    last: Placement,
    /// The place of the head of that segment.
    at: Range<u64>,
    /// The place of the first 32-bit address before the declaration of the memory.
    narrow: Option<Range<u64>>,
    /// The place of the first 64-bit address before the declaration of the memory.
    wide: Option<Range<u64>>,
}

impl MemoryRequirement {
    /// Returns the memory, the last address of its segments, and whether it has 64-bit addresses.
    pub(super) fn needs(&self) -> (u32, Option<u64>, bool) {
        let last = self.last.segment().map(|segment| segment.last());
        (self.memory, last, self.wide.is_some())
    }

    fn new(memory: u32, at: Range<u64>) -> Self {
        let last = Placement { address: 0, offset: 0, len: 0, memory };
        Self { memory, last, at, narrow: None, wide: None }
    }
}

/// Memories of a dump without a header in its place, or with lost types. They may be declared after their segments or
/// too small.
pub(super) struct GrowingMemories<'w> {
    /// The types declared so far.
    pub(super) types: &'w [MemoryType],
    /// Whether all types are declared.
    pub(super) is_declared: bool,
    pub(super) requirements: &'w mut Vec<MemoryRequirement>,
}

impl GrowingMemories<'_> {
    /// Returns the requirement of a memory. Adds it at the first call.
    fn requirement(&mut self, memory: u32, at: &Range<u64>) -> Result<&mut MemoryRequirement> {
        let missing = || Fault::damaged(at.clone(), format!("there is no memory {memory}"));
        let known = self.requirements.iter().position(|known| known.memory == memory);
        let requirement = match known {
            Some(known) => self.requirements.get_mut(known),
            None if memory as usize >= MAX_MEMORIES => None,
            None => {
                self.requirements.push(MemoryRequirement::new(memory, at.clone()));
                self.requirements.last_mut()
            }
        };
        requirement.ok_or_else(missing)
    }
}

impl Memories for GrowingMemories<'_> {
    fn check_width(&mut self, memory: u32, memory64: bool, at: Range<u64>) -> Result<()> {
        if self.is_declared {
            return self.types.check_width(memory, memory64, at);
        }
        let requirement = self.requirement(memory, &at)?;
        let width = if memory64 { &mut requirement.wide } else { &mut requirement.narrow };
        width.get_or_insert(at);
        Ok(())
    }

    fn check(&mut self, segment: &Placement, at: Range<u64>) -> Result<()> {
        if let Some(ty) = self.types.get(segment.memory as usize) {
            if segment.end() <= ty.size() {
                return Ok(());
            }
            let excess = segment.end().checked_sub(max_bytes(ty));
            if excess.is_some_and(|excess| excess > tolerance(ty)) {
                return Err(segment.past_the_end(ty, at));
            }
        } else if self.is_declared {
            return segment.check(self.types, at);
        }
        segment.check_addresses(&at)?;
        let requirement = self.requirement(segment.memory, &at)?;
        if segment.end() >= requirement.last.end() {
            (requirement.last, requirement.at) = (*segment, at);
        }
        Ok(())
    }
}

/// Returns the maximum size of a memory in pages.
fn max_size_in_pages(ty: &MemoryType) -> u64 {
    ty.maximum.unwrap_or_else(|| max_pages(ty.memory64, ty.page_size))
}

/// Returns the maximum size of a memory in bytes.
fn max_bytes(ty: &MemoryType) -> u128 {
    wide::product(max_size_in_pages(ty), ty.page_size.into())
}

/// Returns the number of bytes by which a segment may exceed the maximum size, for now, in a dump that may be one by
/// wasm-coredump-rewriter.
fn tolerance(ty: &MemoryType) -> u128 {
    match (ty.minimum, ty.maximum) {
        (0, Some(_)) => MAX_ADDRESS_ERROR.into(),
        _ => 0,
    }
}

/// Checks the requirements against the declared types at the end of a dump. If `may_grow`, gives memories that were
/// declared too small the size that their segments need.
///
/// Returns each memory that has grown, with the number of pages that was declared.
pub(super) fn grow_memories(
    memories: &mut [MemoryType],
    requirements: &[MemoryRequirement],
    may_grow: bool,
) -> Result<Vec<(u32, u64)>> {
    let mut grown = Vec::new();
    for requirement in requirements {
        let MemoryRequirement { memory, last, at, narrow, wide } = requirement;
        let in_section = |fault: Box<Fault>| fault.within("section data");
        let index = *memory as usize;
        let Some(ty) = memories.get(index).copied() else {
            let message = format!("there is no memory {index}, the dump has {}", memories.len());
            return Err(in_section(Fault::damaged(at.clone(), message)));
        };
        for (width, memory64) in [(narrow, false), (wide, true)] {
            if let Some(at) = width {
                let checked = (&mut &*memories).check_width(*memory, memory64, at.clone());
                checked.map_err(in_section)?;
            }
        }
        if last.end() <= ty.size() {
            continue;
        }
        let pages = u64::try_from(types::pages_for(last.end(), ty.page_size));
        let pages = pages.ok().filter(|pages| may_grow && *pages <= max_size_in_pages(&ty));
        let past_the_end = || in_section(last.past_the_end(&ty, at.clone()));
        let pages = pages.ok_or_else(past_the_end)?;
        grown.push((*memory, ty.minimum));
        if let Some(ty) = memories.get_mut(index) {
            ty.minimum = pages;
        }
    }
    Ok(grown)
}

/// Returns the only segment of a dump by wasm-coredump-rewriter, with its address corrected, or `None` for other dumps.
///
/// That tool writes the dump to the start of the guest's own memory. The segment is the rest of that memory, so
/// addresses are file offsets. The address in the dump is wrong by a few bytes, depending on the lengths of the LEB128
/// numbers before it. `segments` is the number of segments, `len` the length of the dump.
pub(super) fn rewriter_segment(
    memories: &[MemoryType],
    requirements: &[MemoryRequirement],
    segments: u64,
    len: u64,
) -> Option<Segment> {
    let ([ty], [requirement], 1) = (memories, requirements, segments) else { return None };
    let last = requirement.last;
    let is_memory = max_bytes(ty) == u128::from(len) && ty.minimum == 0 && ty.maximum.is_some();
    let is_near = last.address.abs_diff(last.offset) <= MAX_ADDRESS_ERROR;
    let is_rest = last.memory == 0 && last.end_in_file() == len.into();
    let corrected = Placement { address: last.offset, ..last };
    corrected.segment().filter(|_| is_memory && is_near && is_rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(address: u64, len: u32) -> Placement {
        Placement { memory: 0, address, offset: 0, len }
    }

    /// Returns the type of a memory that is declared as `ty` after its segments, and the memories that have grown.
    fn grow(segments: &[Placement], ty: MemoryType) -> Result<(MemoryType, Vec<(u32, u64)>)> {
        let mut requirements = Vec::new();
        let mut growing =
            GrowingMemories { types: &[], is_declared: false, requirements: &mut requirements };
        for (i, segment) in (0..).zip(segments) {
            growing.check(segment, i..i + 1)?;
        }
        let mut memories = [ty];
        let grown = grow_memories(&mut memories, &requirements, true)?;
        Ok((memories[0], grown))
    }

    #[test]
    fn grows_a_memory_to_the_end_of_the_address_space() {
        let last = [placement(3, 9), placement(u64::MAX, 1)];
        let (ty, grown) = grow(&last, MemoryType::wasm64(1)).unwrap();
        assert_eq!((ty.size(), grown), (1 << 64, vec![(0, 1)]));
        let largest = MemoryType::wasm64(1 << 48);
        assert_eq!(grow(&last, largest).unwrap(), (largest, Vec::new()));
        // With one-byte pages, the maximum size is 2^64 - 1 bytes: address 2^64 - 1 does not exist.
        let bytes = MemoryType::wasm64(0).with_page_size(1);
        let fault = grow(&last, bytes).unwrap_err();
        assert!(
            fault.line().contains("1-byte segment at address 0xffffffffffffffff is past the end")
        );
        let (ty, _) = grow(&[placement(u64::MAX - 1, 1)], bytes).unwrap();
        assert_eq!(ty.minimum, u64::MAX);
    }

    #[test]
    fn rejects_a_segment_past_the_end_of_the_address_space() {
        let fault = grow(&[placement(u64::MAX, 2)], MemoryType::wasm64(1)).unwrap_err();
        let line = "at 0x0: 2-byte segment at address 0xffffffffffffffff is past the end of the \
                    address space";
        assert_eq!((fault.line(), fault.range), (line.into(), 0..1));
        // An empty segment at the last address requires a memory that has it.
        let (ty, _) = grow(&[placement(u64::MAX, 0)], MemoryType::wasm64(1)).unwrap();
        assert_eq!(ty.minimum, 1 << 48);
    }
}
