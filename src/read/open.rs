//! Opens a dump: keeps what the parser finds, and builds the table of segments.

use std::ops::RangeInclusive;

use super::appended;
use super::data::DataSection;
use super::facts::Trap;
use super::fault::{Fault, Result};
use super::header::Header;
use super::index::{Entry, Index};
use super::input::{Cursor, Input};
use super::items::ItemOffsets;
use super::parser::{Parser, Payload};
use super::segment::Segment;
use super::source::Source;
use super::structure::Structure;
use super::table::{self, Builder, Table};
use crate::arithmetic::{Checked, at_most};
use crate::control::{Control, Lookout, Meter};
use crate::error::{self, Error, ErrorKind};
use crate::format::{CORE, IndexSegment, PARTIAL};
use crate::limits::{
    MAX_DATA_SECTIONS, MAX_EXCLUDED_RANGES, MAX_GLOBALS, MAX_LISTED, MAX_LISTED_SEGMENTS,
    MAX_LISTED_THREADS, MAX_METADATA_BYTES, MAX_NAME_BYTES, MAX_TRAP_BYTES,
};

/// A dump that was parsed: where things are, and little else.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) structure: Structure,
    pub(super) items: Items,
    pub(super) table: Table,
    pub(super) index: Option<Index>,
    /// For each memory, what is in its segments.
    pub(super) kept: Vec<Kept>,
    /// The memory and the address from which on what is in no segment is not known, if the dump is
    /// damaged.
    pub(super) lost: Option<(u32, u64)>,
}

/// Where the items of a dump are, as [`items`](super::items) decodes them.
#[derive(Debug, Default)]
pub(super) struct Items {
    /// The name of the process; empty if a damaged dump has lost it.
    pub(super) process: String,
    pub(super) modules: ItemOffsets,
    /// The offset and the length of the name of the only module, where the dump does not have the length.
    pub(super) bare_module: Option<(u64, u64)>,
    pub(super) instances: ItemOffsets,
    /// The offset of each thread's name, and its number of frames.
    pub(super) threads: Vec<(u64, u32)>,
    pub(super) globals: ItemOffsets,
    pub(super) notes: ItemOffsets,
    pub(super) trap: Trap,
    pub(super) identities: ItemOffsets,
}

/// What an open dump keeps is bounded whatever is in it: the tables that grow with it, and the few bytes of the rest.
const _: () = {
    /// Returns the bytes of a vector of `len` items that has grown by doubling.
    const fn grown<T>(len: usize) -> usize {
        len.next_power_of_two() * size_of::<T>()
    }

    // The largest table is moved once, when it has grown to this. No other needs as much while it is moved.
    let table = (MAX_LISTED_SEGMENTS + table::DOUBLED) * size_of::<Segment>();
    let sections = grown::<DataSection>(MAX_DATA_SECTIONS);
    let ranges = grown::<RangeInclusive<u64>>(MAX_EXCLUDED_RANGES);
    let threads = grown::<(u64, u32)>(MAX_LISTED_THREADS);
    let lists = grown::<u64>(ItemOffsets::count(MAX_LISTED)) * 3
        + grown::<u64>(ItemOffsets::count(MAX_GLOBALS));
    let rest = MAX_NAME_BYTES + MAX_TRAP_BYTES + (64 << 10);
    assert!(table + sections + ranges + threads + lists + rest <= MAX_METADATA_BYTES);
};

/// What is in the segments of a memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kept {
    pub(super) segments: u64,
    pub(super) bytes: u64,
}

impl Kept {
    pub(super) fn add(&mut self, segments: u64, bytes: u64) -> error::Result<()> {
        self.segments = self.segments.plus(segments)?;
        self.bytes = self.bytes.plus(bytes)?;
        Ok(())
    }
}

impl Opened {
    /// Opens a dump that is not damaged as far as can be seen without touching its data.
    pub(super) fn strict(source: Source<'_>, control: &Control, meter: &Meter<'_>) -> Result<Self> {
        let lookout = Lookout::with_meter(control, meter);
        // The code for each kind of input is its own: a dump without an index may have a million segments to decode.
        let opened = match &mut source.input(0) {
            Cursor::Slice(input) => Self::as_written(source, input, lookout),
            Cursor::Window(input) => Self::as_written(source, input, lookout),
        };
        match opened? {
            AsWritten::Opened(opened) => Ok(*opened),
            AsWritten::Not(fault) => Self::rewritten(source, fault, control),
        }
    }

    /// Opens a dump whose sections are where its writer has put them.
    ///
    /// # Errors
    /// Returns an error for a fault that has nothing to do with where its sections are.
    fn as_written<I: Input>(
        source: Source<'_>,
        input: &mut I,
        lookout: Lookout<'_>,
    ) -> Result<AsWritten> {
        let mut parser = Parser::default();
        let mut opener = Opener::new(Some(source.len()), lookout);
        match opener.read(&mut parser, input) {
            Err(fault) if matches!(fault.kind, ErrorKind::Damaged | ErrorKind::Truncated) => {
                return Ok(AsWritten::Not(Some(fault)));
            }
            parsed => parsed?,
        }
        let structure = parser.structure;
        if !structure.has_section(CORE) {
            return Err(Fault::no_core());
        }
        let Some(header) = &structure.header else {
            // With an index it may be known what was left out.
            if let (Some(index), None) = (&structure.moved_index, &structure.moved_header) {
                return Err(Fault::stray(index.clone()));
            }
            if opener.use_index {
                // The sections that were skipped for the index have to be parsed.
                return Ok(AsWritten::Not(None));
            }
            let marks = Marks::of(source, &structure)?;
            return opener.finish(structure, marks, None).map(AsWritten::opened);
        };
        // The index has no room for more, whatever the sections say.
        let room = header.length.minus(header.index)?.checked_div(size_of::<IndexSegment>() as u64);
        let room = room.unwrap_or_default();
        opener.builder.expect(at_most(structure.segments.min(room), MAX_LISTED_SEGMENTS))?;
        let entry = &mut |entry| opener.entry(&entry);
        let mut index = Index::decode(input, header, Some(&structure), entry)?;
        if let Some(fault) = index.disagrees.take() {
            return Err(fault);
        }
        appended::skip(input, header, &mut opener.lookout)?;
        opener.finish(structure, Marks::Index(index), None).map(AsWritten::opened)
    }

    /// Opens a dump of this project's that another tool has rewritten, by its sections alone. `fault` is what is wrong with
    /// it if it is none.
    fn rewritten(source: Source<'_>, fault: Option<Box<Fault>>, control: &Control) -> Result<Self> {
        let mut parser = Parser::default();
        let mut opener = Opener::new(None, Lookout::new(control));
        let parsed = opener.read(&mut parser, &mut source.input(0));
        let structure = parser.structure;
        let is_rewritten = structure.moved_header.is_some() && structure.has_section(CORE);
        match (parsed, fault) {
            (Ok(()), _) if is_rewritten => {
                let marks = Marks::of(source, &structure)?;
                opener.finish(structure, marks, None)
            }
            // It is one, and what cannot be read of it is no damage.
            (Err(parsed), _) if is_rewritten && parsed.kind == ErrorKind::Unsupported => {
                Err(parsed)
            }
            (Err(parsed), _) if !parsed.is_of_dump() => Err(parsed),
            (_, Some(fault)) | (Err(fault), None) => Err(fault),
            (Ok(()), None) => Err(Fault::no_core()),
        }
    }
}

/// Whether a dump is as its writer has made it.
enum AsWritten {
    Opened(Box<Opened>),
    /// It is not: another tool has rewritten it, or it has this fault.
    Not(Option<Box<Fault>>),
}

impl AsWritten {
    fn opened(opened: Opened) -> Self {
        Self::Opened(Box::new(opened))
    }
}

/// What is known of memories besides their segments.
pub(super) enum Marks {
    None,
    /// All of the index.
    Index(Index),
    /// What holds of the index of a dump that was rewritten: which ranges were left out, and which memories
    /// were changing. Where a segment is, it does not know any more.
    Moved(Index),
    /// There are ranges that were left out, and nobody knows which.
    Lost,
}

impl Marks {
    /// The marks of a dump that has no index where that belongs.
    ///
    /// # Errors
    /// The dump cannot be read.
    pub(super) fn of(source: Source<'_>, structure: &Structure) -> Result<Self> {
        let Some(header) = &structure.moved_header else { return Ok(Self::None) };
        let index = match structure.moved_index.clone() {
            Some(range) => Index::moved(source, range, header, &structure.memories)?,
            None => None,
        };
        Ok(match index {
            Some(index) => Self::Moved(index),
            None if header.flags & PARTIAL != 0 => Self::Lost,
            None => Self::None,
        })
    }
}

/// Keeps what a parser finds.
pub(super) struct Opener<'c> {
    lookout: Lookout<'c>,
    /// The length of the file; `None` if the readable parts of a damaged one are wanted.
    length: Option<u64>,
    /// Whether segments are those of the index.
    use_index: bool,
    items: Items,
    builder: Builder,
    kept: Vec<Kept>,
    /// The memory and the address of the end of what was found, if segments are in order.
    pub(super) reached: Option<(u32, u64)>,
    /// The same before the first section with segments that is damaged.
    pub(super) lost: Option<(u32, u64)>,
}

impl<'c> Opener<'c> {
    pub(super) fn new(length: Option<u64>, lookout: Lookout<'c>) -> Self {
        let (items, builder) = (Items::default(), Builder::new());
        let kept = Vec::new();
        let (use_index, reached, lost) = (false, None, None);
        Self { lookout, length, use_index, items, builder, kept, reached, lost }
    }

    /// Returns an opener for a damaged dump whose index lists these segments, and `kept` for each memory.
    pub(super) fn by_index(builder: Builder, kept: Vec<Kept>, lookout: Lookout<'c>) -> Self {
        Self { use_index: true, builder, kept, ..Self::new(None, lookout) }
    }

    /// Keeps all that the parser finds.
    ///
    /// # Errors
    /// Returns the first fault. What was found before it is kept.
    pub(super) fn read<I: Input>(&mut self, parser: &mut Parser, input: &mut I) -> Result<()> {
        loop {
            let kept = match parser.next(input) {
                Ok(Some(Payload::Segment(segment))) => self.segment(segment),
                Ok(Some(payload)) => self.keep(parser, payload),
                Ok(None) => return Ok(()),
                Err(fault) => return Err(fault),
            };
            kept.map_err(|fault| parser.reject_payload(input, fault))?;
            self.lookout.step_at(input.offset())?;
        }
    }

    fn keep(&mut self, parser: &mut Parser, payload: Payload) -> Result<()> {
        let items = &mut self.items;
        match payload {
            Payload::Process(name) => items.process = name,
            Payload::Header => self.check_length(parser.structure.header.as_ref())?,
            Payload::BadHeader(fault) if self.length.is_some() => return Err(fault),
            Payload::Module(at) => items.modules.push(at)?,
            Payload::BareModule { at, len } => {
                items.bare_module = Some((at, len));
                items.modules.push(at)?;
            }
            Payload::Instance(at) => items.instances.push(at)?,
            Payload::Thread { at, frames } => {
                let no_room = |_| Error::out_of_memory("the places of the threads");
                items.threads.try_reserve(1).map_err(no_room)?;
                items.threads.push((at, frames));
            }
            Payload::Note(at) => items.notes.push(at)?,
            Payload::Trap(trap) => items.trap = *trap,
            Payload::Identity(at) => items.identities.push(at)?,
            Payload::Global(at) => items.globals.push(at)?,
            Payload::Data if self.use_index => parser.skip_section(),
            Payload::Segment(segment) => self.segment(segment)?,
            Payload::TruncatedSegment { segment, file_len } => self.cut(segment, file_len),
            Payload::SectionEnd { may_lose_segments: true } => {
                self.lost = self.lost.or(self.reached).or(Some((0, 0)));
            }
            Payload::BadHeader(_)
            | Payload::NoHeader
            | Payload::Data
            | Payload::Checked
            | Payload::SectionEnd { .. } => {}
        }
        Ok(())
    }

    /// Checks that the file is as long as its header says. From then on its segments are those of its index.
    fn check_length(&mut self, header: Option<&Header>) -> Result<()> {
        let (Some(length), Some(header)) = (self.length, header) else { return Ok(()) };
        self.use_index = true;
        match length < header.length {
            true => Err(Fault::truncated(length, header.length)),
            false => Ok(()),
        }
    }

    fn segment(&mut self, segment: Segment) -> Result<()> {
        self.push(segment)?;
        // Its last byte: there may be no address behind it.
        self.reached = Some((segment.memory(), segment.last()));
        Ok(())
    }

    /// Keeps what there is of a segment whose contents are cut off, in a file of so many bytes.
    fn cut(&mut self, segment: Segment, file: u64) {
        if self.length.is_some() {
            return;
        }
        let lost_from = match segment.split_at_offset(file) {
            Some((there, lost)) if self.segment(there).is_ok() => lost.address(),
            // No byte of it is in the file, or the table is full: the whole segment is lost.
            _ => segment.address(),
        };
        self.reached = Some((segment.memory(), lost_from));
    }

    #[inline]
    fn count(&mut self, memory: u32, segments: u64, bytes: u64) -> Result<()> {
        let memory = memory as usize;
        loop {
            match self.kept.get_mut(memory) {
                Some(kept) => return Ok(kept.add(segments, bytes)?),
                None => self.kept.push(Kept::default()),
            }
        }
    }

    /// Adds a segment to the table.
    ///
    /// # Errors
    /// Returns an error if the table is full, or if memory for it cannot be allocated.
    #[inline]
    fn push(&mut self, segment: Segment) -> Result<()> {
        self.builder.push(segment)?;
        self.count(segment.memory(), 1, segment.len().into())
    }

    /// Takes an entry of the index.
    fn entry(&mut self, entry: &Entry) -> Result<()> {
        self.lookout.step()?;
        match entry {
            Entry::Segment(segment) => self.push(*segment),
            Entry::Checksum(_) | Entry::Skipped => Ok(()),
        }
    }

    /// # Errors
    /// Returns an internal error.
    pub(super) fn finish(
        mut self,
        structure: Structure,
        marks: Marks,
        lost: Option<(u32, u64)>,
    ) -> Result<Opened> {
        if let Some(segment) = structure.in_its_own_memory {
            self.forget_segments();
            self.segment(segment)?;
        }
        let (table, index, lost) = match marks {
            Marks::Index(index) => {
                // The segments of an index are in order, and do not overlap.
                (self.table()?, Some(index), lost)
            }
            Marks::Moved(index) => {
                let table = self.table()?;
                match index.is_apart_from(&table) {
                    true => (table, Some(index), lost),
                    false => (table, None, Some((0, 0))),
                }
            }
            Marks::Lost => (self.table()?, None, Some((0, 0))),
            Marks::None => (self.table()?, None, lost),
        };
        let mut kept = self.kept;
        kept.resize(structure.memories.len(), Kept::default());
        Ok(Opened { structure, items: self.items, table, index, kept, lost })
    }

    /// Takes back all segments.
    pub(super) fn forget_segments(&mut self) {
        (self.builder, self.reached) = (Builder::new(), None);
        self.kept.clear();
    }

    /// The table of what was found; bytes that are overwritten are not counted any more.
    fn table(&mut self) -> Result<Table> {
        let (table, overlap) = std::mem::replace(&mut self.builder, Builder::new()).finish()?;
        if overlap {
            self.kept.iter_mut().for_each(|kept| kept.bytes = 0);
            for part in table.all() {
                self.count(part.memory(), 0, part.len().into())?;
            }
        }
        Ok(table)
    }
}
