//! Salvage: opens the readable parts of a damaged dump.
//!
//! # The problem
//! One bad byte before the data makes a strict parser stop, although gigabytes of data and the index after them may be
//! intact. Salvage recovers as much as possible, but it must never present lost bytes as zeros, or bytes at a wrong
//! address as data.
//!
//! # The idea
//! Salvage takes the most reliable description of the layout that it finds, in this order:
//! 1. All sections are intact, and the dump is another writer's or was rewritten. The only fault then concerns the
//!    frames, or the dump ends between two sections. The sections give everything.
//! 2. The index is intact ([`FoundIndex`]). It gives the segments of all memories, however damaged the sections are.
//!    The header locates it. If the first section is damaged, its size leads to the header ([`header_by_size`]).
//!    Without a header, a search from the end of the file finds it ([`index::find_at_end`]).
//! 3. The header is intact, and the sizes of all sections lead exactly to the index, or to the end of a truncated file
//!    ([`are_sizes_consistent`]). The parser skips a damaged section by its size and reads the others.
//! 4. Otherwise the parser reads up to the first fault, and includes the part of a truncated segment that is in the
//!    file.
//!
//! # The invariant
//! - Without an index, an address outside of the segments counts as zero only if no segment can be missing there. That
//!   takes a dump by corestream, whose segments are sorted, without excluded ranges, and an address before the first
//!   damaged section or the first fault. All other addresses outside of segments count as lost.
//! - An index found by a search counts only if it is known to be in its place: the data ends where the index begins,
//!   or, in a dump without data, only sections appended by other tools follow it. Any other index could belong to a
//!   dump in the guest's memory.
//!
//! # The cost
//! Up to three passes over the sections, one over each candidate for an index, and a second one over the accepted
//! index. Only one of them fills tables at a time: a pass frees its tables before the next one starts, because a table
//! can take most of the memory that an open dump may use. So the first pass over an index keeps totals only, and the
//! second one fills the table.

use super::bounds::MemoryRequirement;
use super::decode::Decoder;
use super::fault::{Fault, Result, dump_fault_to_none};
use super::header::Header;
use super::index::{self, Index, IndexEntry};
use super::open::{IndexStatus, OpenedDump, Opener, SegmentTotals};
use super::parser::Parser;
use super::segment::Segment;
use super::source::Source;
use super::structure::Structure;
use super::table::TableBuilder;
use super::{appended, preamble, types};
use crate::arithmetic::{at_most, exact, sum};
use crate::control::{CancelCheck, Control};
use crate::error::{self, ErrorKind};
use crate::format::{CORE, CUSTOM, HEADER, PARTIAL};
use crate::limits::MAX_LISTED_SEGMENTS;
use crate::model::MemoryType;
use crate::ranges::range_len;

impl OpenedDump {
    /// Opens the readable parts of a dump whose strict opening failed with `fault`.
    ///
    /// Returns the fault as well. It is reworded if it says that the file is not a core dump.
    ///
    /// # Errors
    /// Returns an error if the file has no trace of a dump, or if it cannot be read.
    pub(super) fn salvage(
        source: Source<'_>,
        fault: Box<Fault>,
        control: &Control,
    ) -> Result<(Self, Box<Fault>)> {
        let all = SectionsRead::new(source, Parser::default(), control)?;
        let structure = &all.structure;
        let is_foreign = structure.header.is_none() && structure.stray.is_none();
        let has_core = structure.has_section(CORE);
        if structure.is_complete && is_foreign && structure.is_bounded && has_core {
            // Only the frame layout is unknown, or the dump ends between two sections.
            let index = IndexStatus::of_moved(source, structure);
            let index = dump_fault_to_none(index)?.unwrap_or(IndexStatus::Lost);
            return Ok((all.opener.finish(all.structure, index, None)?, fault));
        }
        let header = match has_core {
            true => structure.header.clone(),
            false => header_by_size(source)?,
        };
        // Frees the tables, which may take all the memory of an open dump, before new ones are filled.
        let outcome = all.outcome;
        drop((all.structure, all.opener));
        if let Some(found) = FoundIndex::find(source, header.as_ref(), control)? {
            return Ok((found.open(source, control)?, into_damage(fault, source)?));
        }
        if let Some(header) = header
            && are_sizes_consistent(&header, source, control)?
        {
            let parser = Parser::for_damaged(header, true);
            let mut sections = SectionsRead::new(source, parser, control)?;
            add_lost_memories(&mut sections.structure)?;
            return Ok((sections.open()?, into_damage(fault, source)?));
        }
        if !has_core {
            return Err(outcome.err().unwrap_or_else(Fault::no_core));
        }
        Ok((SectionsRead::new(source, Parser::default(), control)?.open()?, fault))
    }
}

/// What was read from the sections of a damaged dump.
struct SectionsRead<'c> {
    structure: Structure,
    opener: Opener<'c>,
    /// The fault at which reading stopped, if any.
    outcome: Result<()>,
}

impl<'c> SectionsRead<'c> {
    /// Reads the sections, up to the first fault that `parser` does not skip.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read.
    fn new(source: Source<'_>, mut parser: Parser, control: &'c Control) -> Result<Self> {
        let mut opener = Opener::new(None, CancelCheck::new(control));
        let outcome = opener.collect(&mut parser, &mut source.input(0));
        match outcome {
            Err(fault) if !fault.is_of_dump() => Err(fault),
            outcome => Ok(Self { structure: parser.structure, opener, outcome }),
        }
    }

    /// Opens the dump with the sections that were read.
    fn open(self) -> Result<OpenedDump> {
        let Self { structure, mut opener, outcome } = self;
        if !structure.is_bounded {
            opener.forget_segments();
        }
        // Segments of other writers may come in any order, and without the index the excluded ranges are unknown. Both
        // mean that any address may be lost.
        let any_lost = structure.any_header().is_none_or(|header| header.flags & PARTIAL != 0);
        let lost_from = match outcome {
            _ if any_lost => Some((0, 0)),
            Ok(()) => opener.lost_from,
            Err(_) => opener.lost_from.or(opener.reached).or(Some((0, 0))),
        };
        opener.finish(structure, IndexStatus::None, lost_from)
    }
}

/// Adds the memories whose types are lost, with the size that their segments need.
fn add_lost_memories(structure: &mut Structure) -> error::Result<()> {
    if !structure.has_lost_memory() {
        return Ok(());
    }
    let needs: Vec<_> = structure.requirements().iter().map(MemoryRequirement::needs).collect();
    for (memory, last, memory64) in needs {
        extend_memory(structure, memory, last, memory64)?;
    }
    Ok(())
}

/// Extends a memory to the address `last`, and records the declared number of pages. Adds the memory, and those before
/// it, if their types are lost.
fn extend_memory(
    structure: &mut Structure,
    memory: u32,
    last: Option<u64>,
    memory64: bool,
) -> error::Result<()> {
    for lost in (0..=memory).skip(structure.memories.len()) {
        structure.memories.push(MemoryType::wasm32(0));
        structure.grown.push((lost, 0));
    }
    let Some(ty) = structure.memories.get_mut(memory as usize) else { return Ok(()) };
    if let Some(last) = last
        && Some(last) > types::last_address(ty)
    {
        let declared = ty.minimum;
        *ty = extended_type(MemoryType { memory64: ty.memory64 || memory64, ..*ty }, last)?;
        structure.grown.retain(|(grown, _)| *grown != memory);
        structure.grown.push((memory, declared));
    }
    Ok(())
}

/// Turns the fault "not a core dump" into damage, for a file in which a dump was found.
///
/// # Errors
/// Returns an error if the dump cannot be read.
fn into_damage(fault: Box<Fault>, source: Source<'_>) -> Result<Box<Fault>> {
    Ok(match fault.kind {
        ErrorKind::Format if preamble::is_module(&mut source.input(0))? => {
            Fault::damaged(0..source.len(), "it has no section `core`")
        }
        ErrorKind::Format => preamble::damaged(),
        _ => fault,
    })
}

/// Returns the header of a dump whose first section, before the header, is damaged but has its right size.
fn header_by_size(source: Source<'_>) -> Result<Option<Header>> {
    let mut input = source.input(preamble::LEN);
    let mut all = Decoder::new(&mut input, source.len());
    let mut decode = || {
        all.byte()?;
        let size = all.u32()?;
        all.skip(size.into())?;
        let start = all.offset();
        let custom = all.byte()? == CUSTOM;
        let size = all.u32()?;
        let mut body = all.limited(size.into())?;
        if !custom || !body.is_named(HEADER)? {
            return Ok(None);
        }
        Header::decode(&mut body, start, true).map(Some)
    };
    Ok(dump_fault_to_none(decode())?.flatten())
}

/// Returns whether the sizes of the sections add up: they lead to the index, or to the end of a file that is truncated
/// before it.
fn are_sizes_consistent(header: &Header, source: Source<'_>, control: &Control) -> Result<bool> {
    let mut cancel_check = CancelCheck::new(control);
    let mut input = source.input(preamble::LEN);
    let mut sections = Decoder::new(&mut input, header.index);
    let mut skip_section = || -> Result<u64> {
        sections.byte()?;
        let size = sections.u32()?;
        sections.skip(size.into())?;
        Ok(sections.offset())
    };
    let mut at = preamble::LEN;
    while at < header.index && at < source.len() {
        cancel_check.step()?;
        match skip_section() {
            Ok(end) => at = end,
            Err(fault) if fault.is_of_dump() => return Ok(fault.kind == ErrorKind::Truncated),
            Err(fault) => return Err(fault),
        }
    }
    Ok(true)
}

/// An intact index of a dump that is damaged before it.
pub(super) struct FoundIndex {
    /// The header of the dump, read or inferred from the index.
    pub(super) header: Header,
    index: Index,
    /// The segments of each memory, up to the last memory with segments.
    memories: Vec<ListedSegments>,
}

/// The segments of one memory in an index.
#[derive(Clone, Copy, Default)]
struct ListedSegments {
    totals: SegmentTotals,
    last: Option<Segment>,
}

impl FoundIndex {
    /// Finds the index at the offset in `header`, or, without a header, near the end of the file.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read.
    pub(super) fn find(
        source: Source<'_>,
        header: Option<&Header>,
        control: &Control,
    ) -> Result<Option<Self>> {
        let mut cancel_check = CancelCheck::new(control);
        if let Some(header) = header {
            return Self::decode(source, header, &mut cancel_check);
        }
        for header in index::find_at_end(source, control)? {
            let Some(found) = Self::decode(source, &header, &mut cancel_check)? else { continue };
            // Proof that the index is in its place: the data ends where the index begins. An index without data could
            // be that of a dump in the guest's memory, unless only sections follow it.
            let last = found.memories.iter().filter_map(|listed| listed.last).next_back();
            let is_in_place = match last {
                Some(last) => last.in_file().end == found.header.index,
                None => appended::only_appended_follow(
                    &mut source.input(found.header.length),
                    &mut cancel_check,
                )?,
            };
            if is_in_place {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn decode(
        source: Source<'_>,
        header: &Header,
        cancel_check: &mut CancelCheck<'_>,
    ) -> Result<Option<Self>> {
        let mut memories: Vec<ListedSegments> = Vec::new();
        let mut is_before_index = true;
        let mut entry = |entry| {
            cancel_check.step()?;
            if let IndexEntry::Segment(segment) = entry {
                let memory = segment.memory() as usize;
                while memories.len() <= memory {
                    memories.push(ListedSegments::default());
                }
                if let Some(listed) = memories.get_mut(memory) {
                    listed.totals.add(1, segment.len().into())?;
                    listed.last = Some(segment);
                }
                is_before_index &= segment.in_file().end <= header.index;
            }
            Ok(())
        };
        let mut input = source.input(header.index);
        let decoded = dump_fault_to_none(Index::decode(&mut input, header, None, &mut entry))?;
        let header = header.clone();
        Ok(decoded.filter(|_| is_before_index).map(|index| Self { header, index, memories }))
    }

    /// Opens the dump, with the segments of the index and the items of the intact sections.
    fn open(self, source: Source<'_>, control: &Control) -> Result<OpenedDump> {
        let Self { header, index, memories } = self;
        // The index is decoded again: `decode` must not keep segments, since the verifier has no limit on them.
        let mut table = TableBuilder::new();
        let count = sum(memories.iter().map(|listed| listed.totals.segments))?;
        table.reserve_exact(at_most(count, MAX_LISTED_SEGMENTS))?;
        let mut cancel_check = CancelCheck::new(control);
        let mut entry = |entry| {
            cancel_check.step()?;
            match entry {
                IndexEntry::Segment(segment) => table.push(segment),
                IndexEntry::Checksum(_) | IndexEntry::Skipped => Ok(()),
            }
        };
        Index::decode(&mut source.input(header.index), &header, None, &mut entry)?;
        let trust_sizes = are_sizes_consistent(&header, source, control)?;
        let mut parser = Parser::for_damaged(header.clone(), trust_sizes);
        let totals = memories.iter().map(|listed| listed.totals).collect();
        let mut opener = Opener::with_segments(table, totals, cancel_check);
        // That the dump is damaged is known. Only a failed read is an error.
        dump_fault_to_none(opener.collect(&mut parser, &mut source.input(0)))?;
        let mut structure = parser.structure;
        (structure.header, structure.moved_header) = (Some(header), None);
        // The memory section may be lost or wrong. The index is intact, so its number of memories counts, and each
        // memory has at least the addresses in it.
        structure.memories.truncate(index.memories.len());
        for (i, memory) in (0_u32..).zip(&index.memories) {
            let last_excluded = memory.excluded.as_slice().last().map(|range| *range.end());
            let listed = memories.get(i as usize);
            let last_data = listed.and_then(|listed| listed.last).map(|segment| segment.last());
            extend_memory(&mut structure, i, last_excluded.max(last_data), false)?;
        }
        opener.finish(structure, IndexStatus::InPlace(index), None)
    }
}

/// Returns the type of a memory with enough whole pages for the address `last`.
fn extended_type(ty: MemoryType, last: u64) -> error::Result<MemoryType> {
    let pages = |page_size| types::pages_for(range_len(&(0..=last)), page_size);
    let memory64 = ty.memory64 || last > u64::from(u32::MAX);
    let (page_size, minimum) = match u64::try_from(pages(ty.page_size)) {
        Ok(minimum) => (ty.page_size, minimum),
        // 2^64 one-byte pages do not fit a `u64`.
        Err(_) => (65_536, exact(pages(65_536))?),
    };
    let maximum = ty.maximum.filter(|maximum| *maximum >= minimum && page_size == ty.page_size);
    let shared = ty.shared && maximum.is_some();
    Ok(MemoryType { minimum, maximum, memory64, shared, page_size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extends_a_memory_to_the_last_address() {
        let extended_type = |ty, last| extended_type(ty, last).unwrap();
        let ty = MemoryType::wasm32(0);
        assert_eq!(extended_type(ty, 65_535), MemoryType::wasm32(1));
        assert_eq!(extended_type(ty, 65_536), MemoryType::wasm32(2));
        assert_eq!(extended_type(ty, u64::MAX), MemoryType::wasm64(1 << 48));
        let bytes = MemoryType::wasm64(0).with_page_size(1);
        assert_eq!(extended_type(bytes, u64::MAX - 1).minimum, u64::MAX);
        assert_eq!(extended_type(bytes, u64::MAX), MemoryType::wasm64(1 << 48));
    }
}
