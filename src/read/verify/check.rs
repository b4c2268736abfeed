//! The check of a dump, whether it comes from a source or as a stream: its sections, its index, and what follows it.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::io;

use super::Early;
use super::blocks::Blocks;
use super::verdict::{Damage, Excluded, Verdict, Whole};
use crate::control::{Control, Lookout};
use crate::error::{ErrorKind, Result};
use crate::format::{DEGRADED, INDEX, INSTANCES, IndexSegment, MODULES, PARTIAL};
use crate::model::MemoryIndex;
use crate::read::decode::Decoder;
use crate::read::fault::{self, Fault, dump_fault_to_none, is_of_dump};
use crate::read::file::Producer;
use crate::read::header::Header;
use crate::read::index::{Entry, Index, IndexedMemory};
use crate::read::input::Input;
use crate::read::parser::{Parser, Payload};
use crate::read::segment::{Placement, Segment};
use crate::read::source::Source;
use crate::read::structure::Structure;
use crate::read::{appended, data};

/// Checks a dump by a parser that is new; `early` gets what is known first, `crcs` gives the checksums of its blocks when all
/// of them have passed, `differs` says more of an index whose segments are not those of the sections, if it can.
pub(super) fn examine<I: Input>(
    parser: &mut Parser,
    input: &mut I,
    early: &mut dyn FnMut(Early<'_>) -> io::Result<()>,
    crcs: impl FnOnce(&mut I, &Header) -> fault::Result<Vec<u32>>,
    differs: impl FnOnce(&Structure, &Index) -> fault::Result<Option<Box<Fault>>>,
    mut lookout: Lookout<'_>,
) -> Result<Verdict> {
    let mut seen = Sequence::new();
    let sections = sections(parser, input, early, &mut seen, &mut lookout);
    let structure = &parser.structure;
    let sections = match sections.and_then(|()| required(structure, input.offset())) {
        // What comes after it cannot be read either.
        Err(fault) if !fault.is_of_dump() => return Err(fault.into()),
        sections => sections,
    };
    let ended = sections.is_err() && early(Early::Fault).is_err();
    let mut appended = 0;
    let (fault, mut blocks) = match &structure.header {
        Some(header) if !ended => {
            let mut blocks = Blocks::new(header.clone());
            let rest = Rest { structure, sections, seen, blocks: &mut blocks, lookout };
            let checked = rest.check(input, crcs, differs);
            (checked.map(|added| appended = added).err(), Some(blocks))
        }
        _ => (sections.err(), None),
    };
    let bad = blocks.as_mut().and_then(|blocks| blocks.damage(fault.as_deref()));
    match (bad, fault) {
        (_, Some(fault)) if !fault.is_of_dump() => Err(fault.into()),
        (Some(damage), _) => Ok(Verdict::Damaged(damage)),
        (None, Some(fault)) => {
            let checksums = blocks.is_some_and(|blocks| blocks.are_compared());
            damage(fault, checksums).map(Verdict::Damaged)
        }
        (None, None) => {
            let noted = blocks.map_or_else(Default::default, |b| (b.excluded, b.changing));
            Ok(Verdict::Whole(whole(structure, input.offset(), appended, noted)))
        }
    }
}

/// What the sections of a whole dump are; a dump that was cut off between two of them has not all. Some
/// writers know neither modules nor instances, and a tool that rewrites a dump may leave out any section.
fn required(structure: &Structure, end: u64) -> fault::Result<()> {
    if let Some(stray) = &structure.stray {
        return Err(Fault::stray(stray.clone()));
    }
    let lists = [structure.has_section(MODULES), structure.has_section(INSTANCES)];
    let other = structure.header.is_none() && lists == [false; 2] && structure.has_content();
    if other || structure.moved_header.is_some() {
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

/// Checks all sections before the index; `seen` gets the segments.
///
/// # Errors
/// Returns the first fault.
fn sections<I: Input>(
    parser: &mut Parser,
    input: &mut I,
    early: &mut dyn FnMut(Early<'_>) -> io::Result<()>,
    seen: &mut Sequence,
    lookout: &mut Lookout<'_>,
) -> fault::Result<()> {
    loop {
        match parser.next(input) {
            Ok(Some(Payload::Segment(segment))) => seen.add(&segment),
            Ok(Some(payload)) => {
                let (header, offset) = (parser.structure.header.as_ref(), input.offset());
                tell(payload, header, offset, early)
                    .map_err(|fault| parser.reject_payload(input, fault))?;
            }
            Ok(None) => return Ok(()),
            Err(fault) => return Err(fault),
        }
        match &parser.structure.header {
            // The bytes of a dump with checksums count when they are summed up.
            Some(header) if header.block_log2 != 0 => lookout.pass(input.offset())?,
            _ => lookout.step_at(input.offset())?,
        }
    }
}

/// Tells what the payload before the offset says early of the dump.
fn tell(
    payload: Payload,
    header: Option<&Header>,
    offset: u64,
    early: &mut dyn FnMut(Early<'_>) -> io::Result<()>,
) -> fault::Result<()> {
    let mut tell = |known: Early<'_>| early(known).map_err(|error| Fault::io(offset, error));
    match (payload, header) {
        (Payload::Process(name), _) => tell(Early::Name(&name)),
        (Payload::Header, Some(header)) => tell(Early::Length(header.length)),
        (Payload::NoHeader, _) => tell(Early::NoLength),
        (Payload::BadHeader(fault), _) => Err(fault),
        _ => Ok(()),
    }
}

/// The check of a dump that has a header, from where its sections have ended to the end of the input.
struct Rest<'r, 'c> {
    structure: &'r Structure,
    /// How its sections have ended.
    sections: fault::Result<()>,
    /// The segments of the sections.
    seen: Sequence,
    blocks: &'r mut Blocks,
    lookout: Lookout<'c>,
}

impl Rest<'_, '_> {
    /// Checks the blocks, the index and what follows it; returns the bytes that were added after the end of the dump.
    ///
    /// # Errors
    /// Returns the first fault.
    fn check<I: Input>(
        mut self,
        input: &mut I,
        crcs: impl FnOnce(&mut I, &Header) -> fault::Result<Vec<u32>>,
        differs: impl FnOnce(&Structure, &Index) -> fault::Result<Option<Box<Fault>>>,
    ) -> fault::Result<u64> {
        let index = self.index(input, crcs, differs);
        let Self { sections, blocks, mut lookout, .. } = self;
        let header = &blocks.header;
        // A pipe is read to its end, whatever was found.
        let after = match sections.is_ok() && index.is_ok() {
            true => appended::skip(input, header, &mut lookout),
            false => input.drain().and_then(|end| header.check_no_trailing_bytes(end).map(|()| 0)),
        };
        // A stream that fails says nothing of the dump; and what is not known here may come of damage.
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
    fn index<I: Input>(
        &mut self,
        input: &mut I,
        crcs: impl FnOnce(&mut I, &Header) -> fault::Result<Vec<u32>>,
        differs: impl FnOnce(&Structure, &Index) -> fault::Result<Option<Box<Fault>>>,
    ) -> fault::Result<()> {
        let Self { structure, sections, seen, blocks, lookout } = self;
        let header = blocks.header.clone();
        // A fault of a section that reaches past the index may stand there already.
        let to_index = header.index.checked_sub(input.offset()).ok_or_else(|| {
            Fault::damaged(header.index_range(), "the sections before the index reach into it")
        });
        input.skip(to_index?).map_err(|fault| fault.with_dump_len(header.length))?;
        blocks.found = crcs(input, &header)?;
        let mut listed = seen.empty();
        let complete = sections.is_ok().then_some(*structure);
        let mut index = Index::decode(input, &header, complete, &mut |entry| {
            lookout.step()?;
            match entry {
                Entry::Segment(segment) => {
                    listed.add(&segment);
                    blocks.add(segment);
                }
                Entry::Checksum(crc) => blocks.expected.push(crc),
                Entry::Skipped => {}
            }
            Ok(())
        })?;
        blocks.trusted = true;
        blocks.excluded = excluded(&index);
        blocks.changing = changing(&index);
        index.disagrees.take().map_or(Ok(()), Err)?;
        if complete.is_some() && !listed.is_the_same(seen) {
            let message = "corestream.index: the segments are not those of the sections";
            let whole = || Fault::damaged(header.index_range(), message);
            return Err(differs(structure, &index)?.unwrap_or_else(whole));
        }
        Ok(())
    }
}

/// The memories of which an index lists ranges.
fn excluded(index: &Index) -> Vec<Excluded> {
    let memories = (0..).map(MemoryIndex).zip(&index.memories);
    let partial = memories.filter(|(_, of)| !of.excluded.is_empty());
    let of = |(memory, of): (_, &IndexedMemory)| Excluded {
        memory,
        ranges: of.excluded.len() as u64,
        bytes: of.excluded.byte_len(),
    };
    partial.map(of).collect()
}

/// The memories that an index marks as changing.
fn changing(index: &Index) -> Vec<MemoryIndex> {
    let memories = (0..).map(MemoryIndex).zip(&index.memories);
    memories.filter(|(_, of)| of.changing).map(|(memory, _)| memory).collect()
}

/// A whole dump of `bytes`, `appended` of them after its own end; the index notes which memories are partial and
/// which were changing.
fn whole(
    structure: &Structure,
    bytes: u64,
    appended: u64,
    (excluded, changing): (Vec<Excluded>, Vec<MemoryIndex>),
) -> Whole {
    let own = structure.any_header();
    let flag = |flag| own.is_some_and(|header| header.flags & flag != 0);
    Whole {
        bytes,
        segments: structure.segments,
        producer: if own.is_some() { Producer::Corestream } else { Producer::Other },
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

/// The first entry of the index that is not what the sections say; both have the same number of segments.
///
/// # Errors
/// Returns an error if the dump cannot be read, or if the work was cancelled.
pub(super) fn difference(
    source: Source<'_>,
    structure: &Structure,
    index: &Index,
    control: &Control,
) -> fault::Result<Option<Box<Fault>>> {
    let mut lookout = Lookout::new(control);
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
    let mut entries = source.input(index.segments);
    let mut entries = Decoder::new(&mut entries, u64::MAX);
    for (memory, of) in (0..).zip(&index.memories) {
        for i in of.segments.clone() {
            lookout.step()?;
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

/// What a fault says of the dump, if it is one of the dump.
fn damage(fault: Box<Fault>, checksums: bool) -> Result<Damage> {
    let truncated = fault.kind == ErrorKind::Truncated;
    if !truncated && fault.kind != ErrorKind::Damaged {
        return Err(fault.into());
    }
    Ok(Damage {
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

/// A keyed hash of the segments of a dump in order; an attacker cannot construct a collision.
struct Sequence {
    key: RandomState,
    hasher: DefaultHasher,
}

impl Sequence {
    fn new() -> Self {
        let key = RandomState::new();
        Self { hasher: key.build_hasher(), key }
    }

    /// No segments; to be compared with this one.
    fn empty(&self) -> Self {
        Self { hasher: self.key.build_hasher(), key: self.key.clone() }
    }

    fn add(&mut self, segment: &Segment) {
        let Placement { address, offset, len, memory } = *segment.placement();
        (address, offset, len, memory).hash(&mut self.hasher);
    }

    fn is_the_same(&self, other: &Self) -> bool {
        self.hasher.finish() == other.hasher.finish()
    }
}
