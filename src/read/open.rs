//! Opens a dump: collects the payloads of the parser, and builds the table of segments.
//!
//! # The problem
//! Opening must work for every intact dump: a dump by corestream, by another writer, or by corestream and rewritten by
//! another tool. It must be fast for a dump of many gigabytes, read nothing of the memories, and
//! keep at most [`MAX_METADATA_BYTES`], whatever the dump contains.
//!
//! # The idea
//! There are two attempts:
//! 1. [`OpenedDump::open_as_written`] takes the dump as its writer wrote it. With an intact header, the parser stops at
//!    the data, and the index gives all segments. Without a header the dump is another writer's, and the parser decodes
//!    the headers of all segments.
//! 2. [`OpenedDump::open_rewritten`] follows if the first attempt found damage. A tool that rewrites a module moves the
//!    sections, so the offsets in the header and in the index are wrong. It parses all sections, as for another
//!    writer's dump, and takes only the excluded ranges and the changing memories from the index
//!    ([`IndexStatus::Moved`]). If this finds no rewritten dump, the error is the fault of the first attempt.
//!
//! # The invariant
//! An [`OpenedDump`] owns what it keeps, and its size is bounded: an assertion below adds up the maximum of every
//! table. Items are checked when the dump is opened, but only their offsets are kept. They are decoded when a caller
//! asks.
//!
//! # The cost
//! With an index: the sections before the data, and one pass over the index. Without one: one pass over the headers of
//! all segments, whose contents the input skips. A dump is parsed twice only if the first attempt fails.

use std::ops::RangeInclusive;

use super::appended;
use super::data::DataSection;
use super::facts::Trap;
use super::fault::{Fault, Result};
use super::header::Header;
use super::index::{Index, IndexEntry};
use super::input::{Cursor, Input};
use super::items::ItemOffsets;
use super::parser::{Parser, Payload};
use super::segment::Segment;
use super::source::Source;
use super::structure::Structure;
use super::table::{self, Table, TableBuilder};
use crate::arithmetic::{Checked, at_most};
use crate::control::{CancelCheck, Control, Meter};
use crate::error::{self, Error, ErrorKind};
use crate::format::{CORE, IndexSegment, PARTIAL};
use crate::limits::{
    MAX_DATA_SECTIONS, MAX_EXCLUDED_RANGES, MAX_GLOBALS, MAX_LISTED, MAX_LISTED_SEGMENTS,
    MAX_LISTED_THREADS, MAX_METADATA_BYTES, MAX_NAME_BYTES, MAX_TRAP_BYTES,
};

/// The metadata of an open dump: mostly the offsets of its items.
#[derive(Debug)]
pub(super) struct OpenedDump {
    pub(super) structure: Structure,
    pub(super) items: DumpItems,
    pub(super) table: Table,
    pub(super) index: Option<Index>,
    /// The segments and bytes of each memory.
    pub(super) totals: Vec<SegmentTotals>,
    /// The memory and the address from which on bytes outside of segments are unknown, for a dump that is damaged or
    /// has lost its list of excluded ranges.
    pub(super) lost_from: Option<(u32, u64)>,
}

/// The places of the items of a dump. [`items`](super::items) decodes them.
#[derive(Debug, Default)]
pub(super) struct DumpItems {
    /// The name of the process. Empty if a damaged dump has lost it.
    pub(super) process: String,
    pub(super) modules: ItemOffsets,
    /// The offset and the length of the name of the only module, in a dump that does not encode the length.
    pub(super) bare_module: Option<(u64, u64)>,
    pub(super) instances: ItemOffsets,
    /// The offset of each thread's name, and its number of frames.
    pub(super) threads: Vec<(u64, u32)>,
    pub(super) globals: ItemOffsets,
    pub(super) notes: ItemOffsets,
    pub(super) trap: Trap,
    pub(super) identities: ItemOffsets,
}

/// Asserts the memory limit of an open dump: the tables that grow with the dump, and the rest.
const _: () = {
    /// Returns the maximum size in bytes of a vector of `len` items that grows by doubling.
    const fn grown<T>(len: usize) -> usize {
        len.next_power_of_two() * size_of::<T>()
    }

    // The table of segments, the largest one, moves once, when it has this many. While any other table moves, less
    // memory is in use.
    let table = (MAX_LISTED_SEGMENTS + table::MAX_DOUBLED_SEGMENTS) * size_of::<Segment>();
    let sections = grown::<DataSection>(MAX_DATA_SECTIONS);
    let ranges = grown::<RangeInclusive<u64>>(MAX_EXCLUDED_RANGES);
    let threads = grown::<(u64, u32)>(MAX_LISTED_THREADS);
    let lists = grown::<u64>(ItemOffsets::count(MAX_LISTED)) * 3
        + grown::<u64>(ItemOffsets::count(MAX_GLOBALS));
    let rest = MAX_NAME_BYTES + MAX_TRAP_BYTES + (64 << 10);
    assert!(table + sections + ranges + threads + lists + rest <= MAX_METADATA_BYTES);
};

/// The number of segments of a memory, and of the bytes in them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SegmentTotals {
    pub(super) segments: u64,
    pub(super) bytes: u64,
}

impl SegmentTotals {
    pub(super) fn add(&mut self, segments: u64, bytes: u64) -> error::Result<()> {
        self.segments = self.segments.plus(segments)?;
        self.bytes = self.bytes.plus(bytes)?;
        Ok(())
    }
}

impl OpenedDump {
    /// Opens a dump without reading the contents of its memories.
    ///
    /// # Errors
    /// Returns an error for any damage found.
    pub(super) fn open(source: Source<'_>, control: &Control, meter: &Meter<'_>) -> Result<Self> {
        let cancel_check = CancelCheck::with_meter(control, meter);
        // Specialized for each kind of input: a dump without an index may have a million segments to decode.
        let attempt = match &mut source.input(0) {
            Cursor::Slice(input) => Self::open_as_written(source, input, cancel_check),
            Cursor::Window(input) => Self::open_as_written(source, input, cancel_check),
        };
        match attempt? {
            FirstAttempt::Opened(opened) => Ok(*opened),
            FirstAttempt::MaybeRewritten(fault) => Self::open_rewritten(source, fault, control),
        }
    }

    /// Opens a dump whose sections are where its writer put them.
    ///
    /// # Errors
    /// Returns an error for a fault that moved sections do not explain.
    fn open_as_written<I: Input>(
        source: Source<'_>,
        input: &mut I,
        cancel_check: CancelCheck<'_>,
    ) -> Result<FirstAttempt> {
        let mut parser = Parser::default();
        let mut opener = Opener::new(Some(source.len()), cancel_check);
        match opener.collect(&mut parser, input) {
            Err(fault) if matches!(fault.kind, ErrorKind::Damaged | ErrorKind::Truncated) => {
                return Ok(FirstAttempt::MaybeRewritten(Some(fault)));
            }
            parsed => parsed?,
        }
        let structure = parser.structure;
        if !structure.has_section(CORE) {
            return Err(Fault::no_core());
        }
        let Some(header) = &structure.header else {
            // A dump with an index but without a header has lost the header.
            if let (Some(index), None) = (&structure.moved_index, &structure.moved_header) {
                return Err(Fault::stray(index.clone()));
            }
            if opener.use_index {
                // The parser has skipped the data sections, because the index was expected to list the segments.
                return Ok(FirstAttempt::MaybeRewritten(None));
            }
            let index = IndexStatus::of_moved(source, &structure)?;
            return opener.finish(structure, index, None).map(FirstAttempt::opened);
        };
        // The sections may declare more segments than the index has space for.
        let room = header.length.minus(header.index)?.checked_div(size_of::<IndexSegment>() as u64);
        let room = room.unwrap_or_default();
        opener.table.reserve_exact(at_most(structure.segments.min(room), MAX_LISTED_SEGMENTS))?;
        let entry = &mut |entry| opener.add_entry(&entry);
        let mut index = Index::decode(input, header, Some(&structure), entry)?;
        if let Some(fault) = index.mismatch.take() {
            return Err(fault);
        }
        appended::skip(input, header, &mut opener.cancel_check)?;
        opener.finish(structure, IndexStatus::InPlace(index), None).map(FirstAttempt::opened)
    }

    /// Opens a dump by corestream that another tool has rewritten, by its sections alone.
    ///
    /// `fault` is the fault of the first attempt, if there was one.
    ///
    /// # Errors
    /// Returns `fault` if the dump was not rewritten, or the fault of its sections.
    fn open_rewritten(
        source: Source<'_>,
        fault: Option<Box<Fault>>,
        control: &Control,
    ) -> Result<Self> {
        let mut parser = Parser::default();
        let mut opener = Opener::new(None, CancelCheck::new(control));
        let parsed = opener.collect(&mut parser, &mut source.input(0));
        let structure = parser.structure;
        let is_rewritten = structure.moved_header.is_some() && structure.has_section(CORE);
        match (parsed, fault) {
            (Ok(()), _) if is_rewritten => {
                let index = IndexStatus::of_moved(source, &structure)?;
                opener.finish(structure, index, None)
            }
            // The dump was rewritten, and this fault is not damage: it tells more than the first one.
            (Err(parsed), _) if is_rewritten && parsed.kind == ErrorKind::Unsupported => {
                Err(parsed)
            }
            (Err(parsed), _) if !parsed.is_of_dump() => Err(parsed),
            (_, Some(fault)) | (Err(fault), None) => Err(fault),
            (Ok(()), None) => Err(Fault::no_core()),
        }
    }
}

/// The outcome of the first attempt to open a dump.
enum FirstAttempt {
    Opened(Box<OpenedDump>),
    /// The dump has this fault, or another tool has rewritten it, or both.
    MaybeRewritten(Option<Box<Fault>>),
}

impl FirstAttempt {
    fn opened(opened: OpenedDump) -> Self {
        Self::Opened(Box::new(opened))
    }
}

/// What is left of the index of a dump.
pub(super) enum IndexStatus {
    /// The dump has no index.
    None,
    /// The index is intact and in its place.
    InPlace(Index),
    /// Another tool has rewritten the dump. The index still knows which ranges were excluded and which memories were
    /// changing, but the offsets of its segments are wrong.
    Moved(Index),
    /// Ranges were excluded, and the list of them is lost.
    Lost,
}

impl IndexStatus {
    /// Returns the status of a dump that has no index in its place.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read, or if the index has more ranges than a reader keeps.
    pub(super) fn of_moved(source: Source<'_>, structure: &Structure) -> Result<Self> {
        let Some(header) = &structure.moved_header else { return Ok(Self::None) };
        let index = match structure.moved_index.clone() {
            Some(range) => Index::decode_moved(source, range, header, &structure.memories)?,
            None => None,
        };
        Ok(match index {
            Some(index) => Self::Moved(index),
            None if header.flags & PARTIAL != 0 => Self::Lost,
            None => Self::None,
        })
    }
}

/// Collects the payloads of a parser.
pub(super) struct Opener<'c> {
    cancel_check: CancelCheck<'c>,
    /// The length of the file, or `None` to collect the readable parts of a damaged one.
    strict_len: Option<u64>,
    /// Whether the index gives the segments, so that the parser skips the data sections.
    use_index: bool,
    items: DumpItems,
    table: TableBuilder,
    totals: Vec<SegmentTotals>,
    /// The memory and the last address of the segments found so far, if they are in order.
    pub(super) reached: Option<(u32, u64)>,
    /// The value of `reached` before the first section that may have lost segments.
    pub(super) lost_from: Option<(u32, u64)>,
}

impl<'c> Opener<'c> {
    pub(super) fn new(strict_len: Option<u64>, cancel_check: CancelCheck<'c>) -> Self {
        let (items, table) = (DumpItems::default(), TableBuilder::new());
        let totals = Vec::new();
        let (use_index, reached, lost_from) = (false, None, None);
        Self { cancel_check, strict_len, use_index, items, table, totals, reached, lost_from }
    }

    /// Returns an opener for a damaged dump whose segments come from its index.
    pub(super) fn with_segments(
        table: TableBuilder,
        totals: Vec<SegmentTotals>,
        cancel_check: CancelCheck<'c>,
    ) -> Self {
        Self { use_index: true, table, totals, ..Self::new(None, cancel_check) }
    }

    /// Collects all payloads of the parser.
    ///
    /// # Errors
    /// Returns the first fault. The opener keeps the payloads before it.
    pub(super) fn collect<I: Input>(&mut self, parser: &mut Parser, input: &mut I) -> Result<()> {
        loop {
            let added = match parser.next(input) {
                Ok(Some(Payload::Segment(segment))) => self.add_segment(segment),
                Ok(Some(payload)) => self.add(parser, payload),
                Ok(None) => return Ok(()),
                Err(fault) => return Err(fault),
            };
            added.map_err(|fault| parser.reject_payload(input, fault))?;
            self.cancel_check.step_at(input.offset())?;
        }
    }

    fn add(&mut self, parser: &mut Parser, payload: Payload) -> Result<()> {
        let items = &mut self.items;
        match payload {
            Payload::Process(name) => items.process = name,
            Payload::Header => self.check_length(parser.structure.header.as_ref())?,
            Payload::BadHeader(fault) if self.strict_len.is_some() => return Err(fault),
            Payload::Module(at) => items.modules.push(at)?,
            Payload::BareModule { at, len } => {
                items.bare_module = Some((at, len));
                items.modules.push(at)?;
            }
            Payload::Instance(at) => items.instances.push(at)?,
            Payload::Thread { at, frames } => {
                let out_of_memory = |_| Error::out_of_memory("the offsets of the threads");
                items.threads.try_reserve(1).map_err(out_of_memory)?;
                items.threads.push((at, frames));
            }
            Payload::Note(at) => items.notes.push(at)?,
            Payload::Trap(trap) => items.trap = *trap,
            Payload::Identity(at) => items.identities.push(at)?,
            Payload::Global(at) => items.globals.push(at)?,
            Payload::Data if self.use_index => parser.skip_section(),
            Payload::Segment(segment) => self.add_segment(segment)?,
            Payload::TruncatedSegment { segment, file_len } => {
                self.add_truncated_segment(segment, file_len)
            }
            Payload::SectionEnd { may_lose_segments: true } => {
                self.lost_from = self.lost_from.or(self.reached).or(Some((0, 0)));
            }
            Payload::BadHeader(_)
            | Payload::NoHeader
            | Payload::Data
            | Payload::Checked
            | Payload::SectionEnd { .. } => {}
        }
        Ok(())
    }

    /// Checks that the file is not shorter than its header says. From here on the index gives the segments.
    fn check_length(&mut self, header: Option<&Header>) -> Result<()> {
        let (Some(len), Some(header)) = (self.strict_len, header) else { return Ok(()) };
        self.use_index = true;
        match len < header.length {
            true => Err(Fault::truncated(len, header.length)),
            false => Ok(()),
        }
    }

    fn add_segment(&mut self, segment: Segment) -> Result<()> {
        self.push(segment)?;
        // The last address and not the end, which may not fit a `u64`.
        self.reached = Some((segment.memory(), segment.last()));
        Ok(())
    }

    /// Adds the part of a segment that is in a truncated file of `file_len` bytes.
    fn add_truncated_segment(&mut self, segment: Segment, file_len: u64) {
        if self.strict_len.is_some() {
            return;
        }
        let lost_from = match segment.split_at_offset(file_len) {
            Some((present, lost)) if self.add_segment(present).is_ok() => lost.address(),
            // No byte of the segment is in the file, or the table is full: the whole segment is lost.
            _ => segment.address(),
        };
        self.reached = Some((segment.memory(), lost_from));
    }

    #[inline]
    fn add_to_totals(&mut self, memory: u32, segments: u64, bytes: u64) -> Result<()> {
        let memory = memory as usize;
        loop {
            match self.totals.get_mut(memory) {
                Some(totals) => return Ok(totals.add(segments, bytes)?),
                None => self.totals.push(SegmentTotals::default()),
            }
        }
    }

    /// Adds a segment to the table and to the totals.
    ///
    /// # Errors
    /// Returns an error if the table is full or an allocation fails.
    #[inline]
    fn push(&mut self, segment: Segment) -> Result<()> {
        self.table.push(segment)?;
        self.add_to_totals(segment.memory(), 1, segment.len().into())
    }

    /// Adds an entry of the index.
    fn add_entry(&mut self, entry: &IndexEntry) -> Result<()> {
        self.cancel_check.step()?;
        match entry {
            IndexEntry::Segment(segment) => self.push(*segment),
            IndexEntry::Checksum(_) | IndexEntry::Skipped => Ok(()),
        }
    }

    /// Returns the open dump. `lost_from` is the start of the lost addresses that the caller knows of.
    ///
    /// # Errors
    /// Returns an error if the table of segments cannot be built.
    pub(super) fn finish(
        mut self,
        structure: Structure,
        index: IndexStatus,
        lost_from: Option<(u32, u64)>,
    ) -> Result<OpenedDump> {
        if let Some(segment) = structure.in_its_own_memory {
            self.forget_segments();
            self.add_segment(segment)?;
        }
        let table = self.build_table()?;
        let (index, lost_from) = match index {
            IndexStatus::InPlace(index) => (Some(index), lost_from),
            IndexStatus::Moved(index) if index.is_disjoint_from(&table) => (Some(index), lost_from),
            // Any byte outside of segments may have been excluded.
            IndexStatus::Moved(_) | IndexStatus::Lost => (None, Some((0, 0))),
            IndexStatus::None => (None, lost_from),
        };
        let mut totals = self.totals;
        totals.resize(structure.memories.len(), SegmentTotals::default());
        Ok(OpenedDump { structure, items: self.items, table, index, totals, lost_from })
    }

    /// Discards all segments.
    pub(super) fn forget_segments(&mut self) {
        (self.table, self.reached) = (TableBuilder::new(), None);
        self.totals.clear();
    }

    /// Builds the table of segments. If segments overlap, counts the bytes of each memory again, without overwritten
    /// ones.
    fn build_table(&mut self) -> Result<Table> {
        let table = std::mem::replace(&mut self.table, TableBuilder::new());
        let (table, has_overlaps) = table.finish()?;
        if has_overlaps {
            self.totals.iter_mut().for_each(|totals| totals.bytes = 0);
            for part in table.segments() {
                self.add_to_totals(part.memory(), 0, part.len().into())?;
            }
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests;
