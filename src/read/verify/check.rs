//! The check of a dump from a source or a stream: its sections, its index, and the bytes after it.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::io;

use super::EarlyFact;
use super::blocks::Blocks;
use super::verdict::{DamageReport, Excluded, IntactDump, Verdict};
use crate::control::{CancelCheck, Control};
use crate::error::{ErrorKind, Result};
use crate::format::{DEGRADED, INDEX, INSTANCES, IndexSegment, MODULES, PARTIAL};
use crate::model::MemoryIndex;
use crate::read::decode::Decoder;
use crate::read::fault::{self, Fault, dump_fault_to_none, is_of_dump};
use crate::read::file::Producer;
use crate::read::header::Header;
use crate::read::index::{Index, IndexEntry, IndexedMemory};
use crate::read::input::Input;
use crate::read::parser::{Parser, Payload};
use crate::read::segment::{Placement, Segment};
use crate::read::source::Source;
use crate::read::structure::Structure;
use crate::read::{appended, data};

/// Checks a dump with a new parser.
///
/// - `early` receives facts as soon as they are known. An error ends the check.
/// - `block_crcs` returns the checksums of the blocks, once the input is at the index.
/// - `find_difference` returns the first segment in which the index differs from the sections, if it can.
pub(super) fn examine<I: Input>(
    parser: &mut Parser,
    input: &mut I,
    early: &mut dyn FnMut(EarlyFact<'_>) -> io::Result<()>,
    block_crcs: impl FnOnce(&mut I, &Header) -> fault::Result<Vec<u32>>,
    find_difference: impl FnOnce(&Structure, &Index) -> fault::Result<Option<Box<Fault>>>,
    mut cancel_check: CancelCheck<'_>,
) -> Result<Verdict> {
    let mut segments = SegmentHash::new();
    let sections = check_sections(parser, input, early, &mut segments, &mut cancel_check);
    let structure = &parser.structure;
    let sections = sections.and_then(|()| check_required_sections(structure, input.offset()));
    let sections = match sections {
        // After a failed read the rest cannot be read either.
        Err(fault) if !fault.is_of_dump() => return Err(fault.into()),
        sections => sections,
    };
    let ends_here = sections.is_err() && early(EarlyFact::Fault).is_err();
    let mut appended = 0;
    let (fault, mut blocks) = match &structure.header {
        Some(header) if !ends_here => {
            let mut blocks = Blocks::new(header.clone());
            let tail =
                TailCheck { structure, sections, segments, blocks: &mut blocks, cancel_check };
            let checked = tail.check(input, block_crcs, find_difference);
            (checked.map(|bytes| appended = bytes).err(), Some(blocks))
        }
        _ => (sections.err(), None),
    };
    let report = blocks.as_mut().and_then(|blocks| blocks.report_damage(fault.as_deref()));
    match (report, fault) {
        (_, Some(fault)) if !fault.is_of_dump() => Err(fault.into()),
        (Some(report), _) => Ok(Verdict::Damaged(report)),
        (None, Some(fault)) => {
            let checksums = blocks.is_some_and(|blocks| blocks.are_compared());
            report_fault(fault, checksums).map(Verdict::Damaged)
        }
        (None, None) => {
            let memories = blocks.map_or_else(Default::default, |b| (b.excluded, b.changing));
            Ok(Verdict::Intact(describe_intact(structure, input.offset(), appended, memories)))
        }
    }
}

/// Checks that no required section is missing, as in a dump that is truncated between two sections.
///
/// Some writers write neither modules nor instances, and a tool that rewrites a dump may remove any section.
fn check_required_sections(structure: &Structure, end: u64) -> fault::Result<()> {
    if let Some(stray) = &structure.stray {
        return Err(Fault::stray(stray.clone()));
    }
    let lists = [structure.has_section(MODULES), structure.has_section(INSTANCES)];
    let is_foreign = structure.header.is_none() && lists == [false; 2] && structure.has_content();
    if is_foreign || structure.moved_header.is_some() {
        return Ok(());
    }
    for section in [MODULES, INSTANCES] {
        if !structure.has_section(section) {
            return Err(
                Fault::unexpected_end(end, end).within(format_args!("no section `{section}`"))
            );
        }
    }
    Ok(())
}

/// Checks all sections before the index, and adds their segments to `segments`.
///
/// # Errors
/// Returns the first fault.
fn check_sections<I: Input>(
    parser: &mut Parser,
    input: &mut I,
    early: &mut dyn FnMut(EarlyFact<'_>) -> io::Result<()>,
    segments: &mut SegmentHash,
    cancel_check: &mut CancelCheck<'_>,
) -> fault::Result<()> {
    loop {
        match parser.next(input) {
            Ok(Some(Payload::Segment(segment))) => segments.add(&segment),
            Ok(Some(payload)) => {
                let (header, offset) = (parser.structure.header.as_ref(), input.offset());
                let reported = report_early(payload, header, offset, early);
                reported.map_err(|fault| parser.reject_payload(input, fault))?;
            }
            Ok(None) => return Ok(()),
            Err(fault) => return Err(fault),
        }
        match &parser.structure.header {
            // In a dump with checksums, bytes count as done when their block is summed.
            Some(header) if header.block_log2 != 0 => cancel_check.pass(input.offset())?,
            _ => cancel_check.step_at(input.offset())?,
        }
    }
}

/// Reports the fact in `payload`, if it is an early one. The payload ends at `offset`.
fn report_early(
    payload: Payload,
    header: Option<&Header>,
    offset: u64,
    early: &mut dyn FnMut(EarlyFact<'_>) -> io::Result<()>,
) -> fault::Result<()> {
    let mut report = |fact: EarlyFact<'_>| early(fact).map_err(|error| Fault::io(offset, error));
    match (payload, header) {
        (Payload::Process(name), _) => report(EarlyFact::Name(&name)),
        (Payload::Header, Some(header)) => report(EarlyFact::Length(header.length)),
        (Payload::NoHeader, _) => report(EarlyFact::NoLength),
        (Payload::BadHeader(fault), _) => Err(fault),
        _ => Ok(()),
    }
}

/// The check of a dump with a header, from the end of its sections to the end of the input.
struct TailCheck<'r, 'c> {
    structure: &'r Structure,
    /// The fault of the sections, if any.
    sections: fault::Result<()>,
    /// The segments of the sections.
    segments: SegmentHash,
    blocks: &'r mut Blocks,
    cancel_check: CancelCheck<'c>,
}

impl TailCheck<'_, '_> {
    /// Checks the blocks, the index and the bytes after it. Returns the number of bytes appended to the dump.
    ///
    /// # Errors
    /// Returns the most relevant fault: a failed read, else damage, else something unknown; the first one of each.
    fn check<I: Input>(
        mut self,
        input: &mut I,
        block_crcs: impl FnOnce(&mut I, &Header) -> fault::Result<Vec<u32>>,
        find_difference: impl FnOnce(&Structure, &Index) -> fault::Result<Option<Box<Fault>>>,
    ) -> fault::Result<u64> {
        let index = self.check_index(input, block_crcs, find_difference);
        let Self { sections, blocks, mut cancel_check, .. } = self;
        let header = &blocks.header;
        // A stream is read to its end even after a fault.
        let after = match sections.is_ok() && index.is_ok() {
            true => appended::skip(input, header, &mut cancel_check),
            false => input.drain().and_then(|end| header.check_no_trailing_bytes(end).map(|()| 0)),
        };
        // After a failed read, faults of the dump mean nothing. And an unknown value may be a consequence of damage.
        let rank = |fault: &Fault| match fault.kind {
            kind if !is_of_dump(kind) => 0,
            ErrorKind::Unsupported => 2,
            _ => 1,
        };
        let before =
            [sections.err(), index.err()].into_iter().flatten().min_by_key(|fault| rank(fault));
        match (before, after) {
            (Some(before), Err(after)) if rank(&after) < rank(&before) => Err(after),
            (Some(before), _) => Err(before),
            (None, after) => after,
        }
    }

    /// Checks the blocks and the index.
    fn check_index<I: Input>(
        &mut self,
        input: &mut I,
        block_crcs: impl FnOnce(&mut I, &Header) -> fault::Result<Vec<u32>>,
        find_difference: impl FnOnce(&Structure, &Index) -> fault::Result<Option<Box<Fault>>>,
    ) -> fault::Result<()> {
        let Self { structure, sections, segments, blocks, cancel_check } = self;
        let header = blocks.header.clone();
        // After a fault in a section that extends past the index, the input may be past the index already.
        let to_index = header.index.checked_sub(input.offset()).ok_or_else(|| {
            Fault::damaged(header.index_range(), "the sections extend into the index")
        });
        input.skip(to_index?).map_err(|fault| fault.with_dump_len(header.length))?;
        blocks.computed = block_crcs(input, &header)?;
        let mut listed = segments.new_empty();
        let intact_sections = sections.is_ok().then_some(*structure);
        let mut index = Index::decode(input, &header, intact_sections, &mut |entry| {
            cancel_check.step()?;
            match entry {
                IndexEntry::Segment(segment) => {
                    listed.add(&segment);
                    blocks.add_segment(segment);
                }
                IndexEntry::Checksum(crc) => blocks.stored.push(crc),
                IndexEntry::Skipped => {}
            }
            Ok(())
        })?;
        blocks.is_index_intact = true;
        blocks.excluded = excluded(&index);
        blocks.changing = changing(&index);
        index.mismatch.take().map_or(Ok(()), Err)?;
        if intact_sections.is_some() && !listed.is_equal(segments) {
            let message = "corestream.index: segments differ from the sections";
            let no_entry = || Fault::damaged(header.index_range(), message);
            return Err(find_difference(structure, &index)?.unwrap_or_else(no_entry));
        }
        Ok(())
    }
}

/// Returns the memories with excluded ranges in an index.
fn excluded(index: &Index) -> Vec<Excluded> {
    let memories = (0..).map(MemoryIndex).zip(&index.memories);
    let partial = memories.filter(|(_, indexed)| !indexed.excluded.is_empty());
    let summarize = |(memory, indexed): (_, &IndexedMemory)| Excluded {
        memory,
        ranges: indexed.excluded.len() as u64,
        bytes: indexed.excluded.byte_len(),
    };
    partial.map(summarize).collect()
}

/// Returns the memories that an index marks as changing.
fn changing(index: &Index) -> Vec<MemoryIndex> {
    let memories = (0..).map(MemoryIndex).zip(&index.memories);
    memories.filter(|(_, indexed)| indexed.changing).map(|(memory, _)| memory).collect()
}

/// Returns the properties of an intact dump of `bytes` bytes, including `appended` bytes that another tool has
/// appended. The index gives `excluded` and `changing`.
fn describe_intact(
    structure: &Structure,
    bytes: u64,
    appended: u64,
    (excluded, changing): (Vec<Excluded>, Vec<MemoryIndex>),
) -> IntactDump {
    let header = structure.any_header();
    let flag = |flag| header.is_some_and(|header| header.flags & flag != 0);
    IntactDump {
        bytes,
        segments: structure.segments,
        producer: if header.is_some() { Producer::Corestream } else { Producer::Other },
        rewritten: structure.moved_header.is_some(),
        appended,
        layout: structure.has_frames.then_some(structure.layout),
        checksums: structure.header.as_ref().is_some_and(|header| header.block_log2 != 0),
        partial: flag(PARTIAL),
        excluded,
        changing,
        degraded: flag(DEGRADED),
    }
}

/// Finds the first entry of the index that differs from the sections. Both have the same number of segments.
///
/// # Errors
/// Returns an error if the dump cannot be read, or if the work was cancelled.
pub(super) fn find_difference(
    source: Source<'_>,
    structure: &Structure,
    index: &Index,
    control: &Control,
) -> fault::Result<Option<Box<Fault>>> {
    let mut cancel_check = CancelCheck::new(control);
    let mut sections = structure.data.iter();
    let (mut input, mut end) = (source.input(0), 0);
    let mut next = || {
        while input.offset() >= end {
            let Some(section) = sections.next() else { return Ok(None) };
            (input, end) = (source.input(section.start), section.end);
        }
        dump_fault_to_none(data::decode_segment(
            &mut Decoder::new(&mut input, end),
            &structure.memories,
        ))
    };
    let mut entries = source.input(index.segments_offset);
    let mut entries = Decoder::new(&mut entries, u64::MAX);
    for (memory, indexed) in (0..).zip(&index.memories) {
        for i in indexed.segments.clone() {
            cancel_check.step()?;
            let start = entries.offset();
            let entry: [u8; size_of::<IndexSegment>()] = entries.array()?;
            let listed = Placement::from_index_entry(&zerocopy::transmute!(entry), memory);
            let Some(found) = next()? else { return Ok(None) };
            if found.as_ref().map(Segment::placement) != Some(&listed) {
                let found = match found {
                    Some(found) => found.to_string(),
                    None => "a passive or empty segment".to_string(),
                };
                let message = format!("segment {i}: lists {listed}; the sections have {found}");
                return Ok(Some(Fault::damaged(entries.since(start), message).within(INDEX)));
            }
        }
    }
    Ok(None)
}

/// Converts a fault to a damage report.
///
/// # Errors
/// Returns the fault if it is not damage.
fn report_fault(fault: Box<Fault>, checksums: bool) -> Result<DamageReport> {
    let truncated = fault.kind == ErrorKind::Truncated;
    if !truncated && fault.kind != ErrorKind::Damaged {
        return Err(fault.into());
    }
    Ok(DamageReport {
        range: fault.range.clone(),
        reason: fault.line(),
        truncated,
        bad_blocks: 0,
        memory: Vec::new(),
        all_memory: Vec::new(),
        more_memory: 0,
        guest: false,
        checksums,
        is_block: false,
    })
}

/// A hash of the segments of a dump in order.
///
/// It compares the segments of the sections with the segments of the index without keeping either. The key is random, so
/// a collision cannot be constructed in advance.
struct SegmentHash {
    key: RandomState,
    hasher: DefaultHasher,
}

impl SegmentHash {
    fn new() -> Self {
        let key = RandomState::new();
        Self { hasher: key.build_hasher(), key }
    }

    /// Returns the hash of no segments, with the same key.
    fn new_empty(&self) -> Self {
        Self { hasher: self.key.build_hasher(), key: self.key.clone() }
    }

    fn add(&mut self, segment: &Segment) {
        let Placement { address, offset, len, memory } = *segment.placement();
        (address, offset, len, memory).hash(&mut self.hasher);
    }

    fn is_equal(&self, other: &Self) -> bool {
        self.hasher.finish() == other.hasher.finish()
    }
}
