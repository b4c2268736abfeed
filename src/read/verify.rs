//! Whether a dump is whole: its structure, its index and its checksums; of a file in parallel, of a
//! stream in bounded memory, by the same code and with the same verdict. Only which entry of an index
//! is not what the sections say takes a second look, which a stream does not give.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::io::{self, Read};
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::appended;
use super::data;
use super::decode::Decoder;
use super::fault::{self, Fault, is_of_dump, readable};
use super::file::{CoreDumpFile, Producer};
use super::header::Header;
use super::index::{Entry, Index, IndexedMemory};
use super::input::{Cursor, Input, Stream};
use super::layout::FrameLayout;
use super::open_options::regular_file;
use super::parser::{Parser, Payload};
use super::read_at::ReadAt;
use super::salvage::Found;
use super::segment::{Placement, Segment};
use super::source::Source;
use super::structure::Structure;
use crate::arithmetic::Checked;
use crate::control::{Cancel, Control, Lookout, Meter, Progress, Stage};
use crate::error::{ErrorKind, Result};
use crate::format::{DEGRADED, INDEX, INSTANCES, IndexSegment, MODULES, PARTIAL};
use crate::limits::MAX_DAMAGED_RANGES;
use crate::model::MemoryIndex;
use crate::threads::{run_on, wanted};

/// Whether a dump is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it may say that the dump is damaged"]
pub enum Verdict {
    /// It is.
    Whole(Whole),
    /// It is not.
    Damaged(Damage),
}

impl Verdict {
    /// Whether the dump is whole.
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

/// A dump that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Whole {
    /// Its length in bytes.
    pub bytes: u64,
    /// Its segments.
    pub segments: u64,
    /// Who wrote it. Of a dump by others only the structure can be checked.
    pub producer: Producer,
    /// Whether another tool has moved or changed sections since: then the index and the checksums are of
    /// other bytes, and only the structure could be checked.
    pub rewritten: bool,
    /// Bytes of sections that another tool has added after the end of the dump.
    pub appended: u64,
    /// How its frames are laid out; `None` without frames.
    pub layout: Option<FrameLayout>,
    /// Whether it has checksums, which hold.
    pub checksums: bool,
    /// Whether ranges of memories were left out on purpose.
    pub partial: bool,
    /// Each memory of which some were.
    pub left_out: Vec<LeftOut>,
    /// Each memory that may have been written to while it was dumped: it may hold old and new bytes.
    pub changing: Vec<MemoryIndex>,
    /// Whether parts of the guest were left out because the format has no room for them.
    pub degraded: bool,
}

/// What was left out of a memory on purpose ([`MemoryView::unknown`](super::MemoryView::unknown) says where).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftOut {
    /// The memory.
    pub memory: MemoryIndex,
    /// How many ranges of it.
    pub ranges: u64,
    /// The bytes in all of them: up to all 2^64.
    pub bytes: u128,
}

/// What is wrong with a dump: the first place of the file that is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// Bytes of the file; where it is cut off, those that are missing.
    pub range: Range<u64>,
    /// What is wrong, in a line.
    pub reason: String,
    /// Whether it ends too early.
    pub cut_off: bool,
    /// How many blocks have not the bytes that their checksum is of.
    pub bad_blocks: usize,
    /// The memory that lies in `range`, where that is a block and the index is there to tell.
    pub memory: Vec<MemoryRange>,
    /// The memory that lies in all bad blocks, in order; ranges that touch are one. At most
    /// [`MAX_DAMAGED_RANGES`](crate::limits::MAX_DAMAGED_RANGES).
    pub all_memory: Vec<MemoryRange>,
    /// How many more ranges there are than `all_memory` has.
    pub more_memory: usize,
    /// Whether a bad block has bytes of the sections before the memory: names, sizes of memories, globals
    /// and frames may be wrong, even where they can be read.
    pub guest: bool,
    /// Whether checksums tell the bad blocks from the good ones. They do not where the dump has none or
    /// where its index is lost: then any byte may be wrong.
    pub checksums: bool,
    /// Whether `range` is the first bad block.
    is_block: bool,
}

/// A range of a memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// The memory.
    pub memory: MemoryIndex,
    /// From the first to the last byte; not all that is between must be concerned.
    pub addresses: RangeInclusive<u64>,
}

/// Checks dumps.
///
/// ```
/// use corestream::read::{Verdict, Verifier};
/// use corestream::{CoreDump, Dumper};
///
/// let mut bytes = Dumper::new().plan(&CoreDump::new("guest.wasm"))?.to_vec()?;
/// let verifier = Verifier::new().threads(2);
/// assert!(verifier.verify(&bytes)?.is_whole());
///
/// bytes.truncate(bytes.len() - 1);
/// let Verdict::Damaged(damage) = verifier.verify(&bytes)? else { panic!("it was cut") };
/// assert!(damage.cut_off);
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is checked yet"]
pub struct Verifier {
    /// 0 stands for the number of cores.
    threads: usize,
    control: Control,
}

impl Default for Verifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Verifier {
    /// Returns the default: a thread per core, nobody watches.
    pub fn new() -> Self {
        Self { threads: 0, control: Control::default() }
    }

    /// Sets how many threads sum up the blocks of a dump, the caller's included; 0 is one per core. A stream takes
    /// one.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets what stops the work: it then fails with [`ErrorKind::Cancelled`]. The work looks at it every few megabytes and
    /// every few thousand segments. A stream that waits for its writer is waited for.
    pub fn cancel(mut self, cancel: Option<Cancel>) -> Self {
        self.control.cancel = cancel;
        self
    }

    /// Sets who is told how far the work has come.
    pub fn progress(mut self, watcher: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.control.watcher = Some(Arc::new(watcher));
        self
    }

    /// Checks a dump in any source of bytes. Threads read it in parts of at most 1 MiB.
    ///
    /// # Errors
    /// Returns an error if it is no core dump at all, if it has something that is not known here, or if the source cannot
    /// be read ([`ErrorKind::Input`]). A dump that is damaged is a verdict.
    pub fn verify(&self, source: impl ReadAt) -> Result<Verdict> {
        verify(Source::new(&source)?, self.threads, &self.control)
    }

    /// Checks the dump at `path`, which is read and not mapped.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, and the errors of [`verify`](Self::verify).
    pub fn verify_file(&self, path: impl AsRef<Path>) -> Result<Verdict> {
        let path = path.as_ref();
        let verdict = regular_file(path).and_then(|file| self.verify(&file));
        verdict.map_err(|error| error.at(path.display()))
    }

    /// Checks a dump that comes through a pipe or a socket, to its end, in memory that is bounded: none of
    /// it is kept, and no seeking is needed. The verdict is that of [`verify`](Self::verify), but that an index which
    /// is not what the sections say is named as a whole, and that of a dump whose first sections are damaged no
    /// checksum is known: if not even its first bytes are those of a module, it is no core dump.
    ///
    /// # Errors
    /// Returns an error if the stream cannot be read, if it is no core dump, or if it has something that is not known here.
    ///
    /// ```
    /// use corestream::read::Verifier;
    /// use corestream::{CoreDump, Dumper};
    ///
    /// let bytes = Dumper::new().plan(&CoreDump::new("guest.wasm"))?.to_vec()?;
    /// let verifier = Verifier::new();
    /// assert_eq!(verifier.verify_stream(&bytes[..])?, verifier.verify(&bytes)?);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn verify_stream(&self, stream: impl Read) -> Result<Verdict> {
        self.verify_stream_with(stream, |_| Ok(()))
    }

    /// Like [`verify_stream`](Self::verify_stream); `early` gets what is known of the dump before it has passed, at the
    /// most once each, and can end the check. If it does so at [`Early::Fault`], the verdict is of what has passed.
    ///
    /// # Errors
    /// Returns the errors of [`verify_stream`](Self::verify_stream), and otherwise that of `early`, as one of
    /// [`ErrorKind::Input`].
    ///
    /// ```
    /// use corestream::read::{Early, Verifier};
    /// use corestream::{CoreDump, Dumper};
    ///
    /// let bytes = Dumper::new().plan(&CoreDump::new("guest.wasm"))?.to_vec()?;
    /// let refuse = |early: Early<'_>| match early {
    ///     Early::Length(length) if length > 100 => Err(std::io::ErrorKind::FileTooLarge.into()),
    ///     _ => Ok(()),
    /// };
    /// let error = Verifier::new().verify_stream_with(&bytes[..], refuse).unwrap_err();
    /// assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::FileTooLarge);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn verify_stream_with(
        &self,
        stream: impl Read,
        mut early: impl FnMut(Early<'_>) -> io::Result<()>,
    ) -> Result<Verdict> {
        let passing = Passing::new(&self.control);
        let mut input = Stream::new(Watched { stream, passing: &passing })?;
        let mut early = |known: Early<'_>| {
            match known {
                Early::Length(length) => passing.begin(length),
                Early::NoLength => passing.end(),
                _ => {}
            }
            early(known)
        };
        let crcs = |stream: &mut Stream<_>, _: &Header| Ok(stream.block_crcs());
        let differs = |_: &Structure, _: &Index| Ok(None);
        let lookout = Lookout::new(&self.control);
        let mut parser = Parser::default();
        let verdict = examine(&mut parser, &mut input, &mut early, crcs, differs, lookout);
        match verdict {
            // The stream has failed because of that.
            Err(_) if passing.has_cancelled.get() => Err(self.control.cancelled()),
            Ok(verdict) => {
                passing.finish();
                Ok(verdict)
            }
            failed => failed,
        }
    }
}

/// A stream of which somebody watches how much has passed, and that fails when the work is cancelled.
struct Watched<'p, 'c, R> {
    stream: R,
    passing: &'p Passing<'c>,
}

/// How much of a stream has passed.
struct Passing<'c> {
    control: &'c Control,
    /// Who is told, once the dump has said how long it is; `None` again where that is void.
    meter: RefCell<Option<Meter<'c>>>,
    /// The bytes that have passed.
    bytes: Cell<u64>,
    /// Whether the stream has failed because the work was cancelled.
    has_cancelled: Cell<bool>,
}

impl<'c> Passing<'c> {
    fn new(control: &'c Control) -> Self {
        let (meter, bytes) = (RefCell::new(None), Cell::new(0));
        Self { control, meter, bytes, has_cancelled: Cell::new(false) }
    }

    /// Begins to tell: the dump has `total` bytes.
    fn begin(&self, total: u64) {
        let meter = self.control.begin(Stage::Verify, total);
        meter.add(self.bytes.get());
        self.meter.replace(Some(meter));
    }

    /// Tells nothing any more.
    fn end(&self) {
        self.meter.replace(None);
    }

    /// Tells that all has passed.
    fn finish(&self) {
        if let Some(meter) = &*self.meter.borrow() {
            meter.finish();
        }
    }
}

impl<R: Read> Read for Watched<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Passing { control, meter, bytes, has_cancelled } = self.passing;
        if let Err(cancelled) = control.check_cancelled() {
            has_cancelled.set(true);
            return Err(io::Error::other(cancelled));
        }
        let count = self.stream.read(buffer)?;
        bytes.set(bytes.get().plus(count as u64).map_err(io::Error::other)?);
        if let Some(meter) = &*meter.borrow() {
            meter.add(count as u64);
        }
        Ok(count)
    }
}

/// Checks a dump in any source, with so many threads.
fn verify(source: Source<'_>, threads: usize, control: &Control) -> Result<Verdict> {
    let work = Work { source, threads, control, meter: control.begin(Stage::Verify, source.len()) };
    let mut parser = Parser::default();
    let verdict = work.examine(&mut parser);
    let is_damaged = match &verdict {
        Ok(verdict) => !verdict.is_whole(),
        Err(error) => error.kind() == ErrorKind::Format,
    };
    let mut of_index = None;
    if is_damaged
        && parser.structure.header.is_none()
        && let Some(found) = Found::of(source, None, control)?
    {
        match work.examine(&mut Parser::of_damaged(found.header, false)) {
            Ok(damage @ Verdict::Damaged(_)) => of_index = Some(damage),
            Err(error) if !is_of_dump(error.kind()) => return Err(error),
            _ => {}
        }
    }
    let verdict = of_index.map_or(verdict, Ok);
    if verdict.is_ok() {
        work.meter.finish();
    }
    verdict
}

/// What the check of a source works with.
struct Work<'w> {
    source: Source<'w>,
    threads: usize,
    control: &'w Control,
    meter: Meter<'w>,
}

impl Work<'_> {
    /// Checks the dump by a parser that is new.
    fn examine(&self, parser: &mut Parser) -> Result<Verdict> {
        // The code for each kind of input is its own, since most of the time goes into decoding.
        match &mut self.source.input(0) {
            Cursor::Slice(input) => self.examine_input(parser, input),
            Cursor::Window(input) => self.examine_input(parser, input),
        }
    }

    fn examine_input<I: Input>(&self, parser: &mut Parser, input: &mut I) -> Result<Verdict> {
        let crcs = |_: &mut _, header: &Header| self.block_crcs(header);
        let differs = |structure: &Structure, index: &Index| {
            difference(self.source, structure, index, self.control)
        };
        let lookout = Lookout::with_meter(self.control, &self.meter);
        examine(parser, input, &mut |_| Ok(()), crcs, differs, lookout)
    }

    /// The checksums of all blocks of the dump.
    ///
    /// # Errors
    /// A block cannot be read, or the work was cancelled.
    fn block_crcs(&self, header: &Header) -> fault::Result<Vec<u32>> {
        let blocks = header.block_count();
        let found: Vec<_> = (0..blocks).map(|_| AtomicU32::new(0)).collect();
        let next = AtomicU32::new(0);
        let failure = Mutex::new(None);
        let work = || {
            let mut buffer = Vec::new();
            loop {
                // It counts no further than blocks and threads together, and never wraps.
                let block = next.fetch_add(1, Ordering::Relaxed);
                let Some(found) = found.get(block as usize) else { break };
                match self.block_crc(header.block(block), &mut buffer) {
                    Ok(crc) => found.store(crc, Ordering::Relaxed),
                    Err(fault) => {
                        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                        failure.get_or_insert(fault);
                        // The others stop too.
                        next.store(blocks, Ordering::Relaxed);
                        break;
                    }
                }
            }
        };
        run_on(wanted(self.threads).min(blocks as usize), &work);
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(fault) => Err(fault),
            None => Ok(found.into_iter().map(AtomicU32::into_inner).collect()),
        }
    }

    /// The checksum of a block, as far as the source has it.
    fn block_crc(&self, block: Range<u64>, buffer: &mut Vec<u8>) -> fault::Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        let (mut at, end) = (block.start, block.end.min(self.source.len()));
        while at < end {
            self.control.check_cancelled()?;
            let next = at.checked_add(SUMMED).map_or(end, |next| next.min(end));
            let part = self.source.part(at..next, buffer)?;
            hasher.update(part);
            self.meter.add(part.len() as u64);
            at = next;
        }
        Ok(hasher.finalize())
    }
}

/// Bytes of a source that are summed up at once.
const SUMMED: u64 = 1 << 20;

/// What is known of a dump long before the rest of its stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Early<'s> {
    /// The name of the process. It comes from whoever wrote the dump: never use it as a path as it is.
    Name(&'s str),
    /// The bytes of the whole dump, as the section `corestream` has them.
    Length(u64),
    /// There is no section `corestream` where it belongs: another tool wrote the dump, and it can't be told
    /// from one that is cut off between two of its sections. Or another tool has rewritten the dump: an
    /// earlier [`Length`](Self::Length) is void.
    NoLength,
    /// Something is wrong with its sections. The rest is read only to tell more of that: which blocks are
    /// bad, and which memory lies in them.
    Fault,
}

impl CoreDumpFile<'_> {
    /// Checks structure, index and checksums. Threads, cancelling and progress are those of
    /// [`OpenOptions`](super::OpenOptions).
    ///
    /// # Errors
    /// Returns the errors of [`Verifier::verify`].
    pub fn verify(&self) -> Result<Verdict> {
        verify(self.source(), self.threads, &self.control)
    }
}

/// The first entry of the index that is not what the sections say; both have the same number of segments.
///
/// # Errors
/// Returns an error if the dump cannot be read, or if the work was cancelled.
fn difference(
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
        readable(data::segment(&mut Decoder::new(&mut input, end), &structure.memories))
    };
    let mut entries = source.input(index.segments);
    let mut entries = Decoder::new(&mut entries, u64::MAX);
    for (memory, of) in (0..).zip(&index.memories) {
        for i in of.segments.clone() {
            lookout.step()?;
            let start = entries.offset();
            let entry: [u8; size_of::<IndexSegment>()] = entries.array()?;
            let listed = Placement::listed(&zerocopy::transmute!(entry), memory);
            let Some(found) = next()? else { return Ok(None) };
            if found.as_ref().map(Segment::placement) != Some(&listed) {
                let found = match found {
                    Some(found) => found.to_string(),
                    None => "one that puts nothing into a memory".to_string(),
                };
                let message = format!("segment {i}: lists {listed}; the sections have {found}");
                return Ok(Some(Fault::damaged(entries.since(start), message).within(INDEX)));
            }
        }
    }
    Ok(None)
}

/// Checks a dump by a parser that is new; `early` gets what is known first, `crcs` gives the checksums of its blocks when all
/// of them have passed, `differs` says more of an index whose segments are not those of the sections, if it can.
fn examine<I: Input>(
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
            let noted = blocks.map_or_else(Default::default, |b| (b.left_out, b.changing));
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
    let lists = [structure.has(MODULES), structure.has(INSTANCES)];
    let other = structure.header.is_none() && lists == [false; 2] && structure.has_content();
    if other || structure.moved.is_some() {
        return Ok(());
    }
    for section in [MODULES, INSTANCES] {
        if !structure.has(section) {
            return Err(Fault::end(end, end).within(format_args!("no section `{section}`")));
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
                tell(payload, header, offset, early).map_err(|fault| parser.fail(offset, fault))?;
            }
            Ok(None) => return Ok(()),
            Err(fault) => return Err(fault),
        }
        match &parser.structure.header {
            // The bytes of a dump with checksums count when they are summed up.
            Some(header) if header.block_log2 != 0 => lookout.step()?,
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
            true => appended::pass(input, header, &mut lookout),
            false => input.drain().and_then(|end| header.check_nothing_behind(end).map(|()| 0)),
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
        input.skip(to_index?).map_err(|fault| fault.cut_off_from(header.length))?;
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
            }
            Ok(())
        })?;
        blocks.trusted = true;
        blocks.left_out = left_out(&index);
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
fn left_out(index: &Index) -> Vec<LeftOut> {
    let memories = (0..).map(MemoryIndex).zip(&index.memories);
    let partial = memories.filter(|(_, of)| !of.left_out.is_empty());
    let of = |(memory, of): (_, &IndexedMemory)| LeftOut {
        memory,
        ranges: of.left_out.len() as u64,
        bytes: of.left_out.byte_len(),
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
    (left_out, changing): (Vec<LeftOut>, Vec<MemoryIndex>),
) -> Whole {
    let own = structure.own();
    let flag = |flag| own.is_some_and(|header| header.flags & flag != 0);
    Whole {
        bytes,
        segments: structure.segments,
        producer: if own.is_some() { Producer::Corestream } else { Producer::Other },
        rewritten: structure.moved.is_some(),
        appended,
        layout: structure.has_frames.then_some(structure.layout),
        checksums: structure.header.as_ref().is_some_and(|header| header.block_log2 != 0),
        partial: flag(PARTIAL),
        left_out,
        changing,
        degraded: flag(DEGRADED),
    }
}

/// What a fault says of the dump, if it is one of the dump.
fn damage(fault: Box<Fault>, checksums: bool) -> Result<Damage> {
    let cut_off = fault.kind == ErrorKind::CutOff;
    if !cut_off && fault.kind != ErrorKind::Damaged {
        return Err(fault.into());
    }
    Ok(Damage {
        range: fault.range.clone(),
        reason: fault.line(),
        cut_off,
        bad_blocks: 0,
        memory: Vec::new(),
        all_memory: Vec::new(),
        more_memory: 0,
        guest: false,
        checksums,
        is_block: false,
    })
}

/// The segments of a dump in order, as a number that nobody can foresee.
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

/// The blocks of a dump: their checksums, and which memory lies in them.
struct Blocks {
    header: Header,
    /// What the bytes give.
    found: Vec<u32>,
    /// What the index says.
    expected: Vec<u32>,
    /// Whether the index is one.
    trusted: bool,
    /// In the order of blocks; no more than there are blocks and memories.
    memory: Vec<(u64, MemoryRange)>,
    /// Where the first segment begins, if there is one.
    first_segment: Option<u64>,
    /// What the index says was left out; one entry a memory at most.
    left_out: Vec<LeftOut>,
    /// The memories that the index marks as changing.
    changing: Vec<MemoryIndex>,
}

impl Blocks {
    fn new(header: Header) -> Self {
        Self {
            header,
            found: Vec::new(),
            expected: Vec::new(),
            trusted: false,
            memory: Vec::new(),
            first_segment: None,
            left_out: Vec::new(),
            changing: Vec::new(),
        }
    }

    /// Notes the blocks that a segment lies in.
    fn add(&mut self, segment: Segment) {
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
    fn are_compared(&self) -> bool {
        self.trusted && self.header.block_log2 != 0
    }

    /// What is wrong, if a block is bad; `fault` comes first if it lies before all of those.
    fn damage(&mut self, fault: Option<&Fault>) -> Option<Damage> {
        let bad = || (0..self.header.block_count()).filter(|block| self.is_bad(*block));
        let first = bad().next().filter(|_| self.trusted)?;
        let bad_blocks = bad().count();
        let block = self.header.block(first);
        let in_words =
            || format!("the checksum of {:#x}..{:#x} does not hold", block.start, block.end);
        let (range, reason) = match fault {
            Some(fault) if fault.range.start < block.start => {
                let blocks = if bad_blocks == 1 { "block is" } else { "blocks are" };
                let reason = format!("{}; {bad_blocks} {blocks} bad behind it", fault.line());
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
            cut_off: !is_block && fault.is_some_and(|fault| fault.kind == ErrorKind::CutOff),
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

impl fmt::Display for MemoryRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.addresses.start(), self.addresses.end());
        write!(f, "memory {} {first:#x}..={last:#x}", self.memory)
    }
}

/// One line: the reason, how many blocks are bad, and which memory that concerns.
impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if self.bad_blocks > 1 && self.is_block {
            write!(f, "; {} blocks are bad, this is the first", self.bad_blocks)?;
        }
        for (i, range) in self.memory.iter().enumerate() {
            write!(f, "{} {range}", if i == 0 { "; this concerns" } else { "," })?;
        }
        Ok(())
    }
}
