//! Verification: checks the structure, the index and the checksums of a dump.
//!
//! # The problem
//! A verifier must find all damage, name the affected memory, and give the same verdict for a file and for a stream.
//! For a file it should use all cores. A stream passes only once and may be larger than memory, and its receiver wants
//! to reject a wrong or damaged dump before gigabytes have arrived.
//!
//! # The idea
//! One function, [`examine`], checks both. It pulls the sections from the [`Parser`], then decodes the index, then
//! checks the bytes after it. It is generic over the input and over the source of the checksums:
//! - A stream sums the blocks while the parser skips over their bytes.
//! - A source lets the parser jump over the data. Threads then take the blocks one by one from a counter and sum them
//!   ([`SourceCheck::block_crcs`]).
//!
//! The segments of the sections are compared with the segments of the index by a keyed hash of both sequences ([`check`]), so
//! neither list is kept. Facts that are known early, such as the name and the length, go to a callback at once
//! ([`EarlyFact`]).
//!
//! # The verdict
//! A fault in the sections does not end the check if the header is intact: the index may still name every bad block and
//! the memory in it ([`blocks`]). The report is about the first damaged place in file order. A failed read, a
//! failed allocation or cancellation is an error and never a verdict. An unknown value is an error only if there is no
//! damage that may have caused it.
//!
//! If the header of a source is lost, a second check uses the index at the end of the file ([`FoundIndex`]), so that
//! the report can still name the bad blocks.
//!
//! # The cost
//! Each byte is summed once. In addition to a buffer of at most 1 MiB per thread, the verifier keeps two checksums and
//! the addresses of the memory for each block, and in a dump with excluded ranges 24 bytes for each segment. If the
//! hashes differ, a second pass over the sections and the index of a source finds the entry. A stream cannot go back,
//! so its verdict then names the index as a whole.

mod blocks;
mod check;
mod stream;
mod verdict;

use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use verdict::{DamageReport, Excluded, IntactDump, MemoryRange, Verdict};

use self::check::examine;
use self::stream::{MeteredStream, StreamProgress};
use super::fault::{self, is_of_dump};
use super::file::CoreDumpFile;
use super::header::Header;
use super::index::Index;
use super::input::{Cursor, Input, Stream};
use super::open_options::open_file;
use super::parser::Parser;
use super::read_at::ReadAt;
use super::salvage::FoundIndex;
use super::source::Source;
use super::structure::Structure;
use crate::control::{Cancel, CancelCheck, Control, Meter, Progress, Stage};
use crate::error::{ErrorKind, Result};
use crate::threads::{resolve, run_on};

/// Verifies dumps.
///
/// ```
/// use corestream::read::{Verdict, Verifier};
/// use corestream::{CoreDump, Dumper};
///
/// let mut bytes = Dumper::new().plan(&CoreDump::new("guest.wasm"))?.to_vec()?;
/// let verifier = Verifier::new().threads(2);
/// assert!(verifier.verify(&bytes)?.is_intact());
///
/// bytes.truncate(bytes.len() - 1);
/// let Verdict::Damaged(report) = verifier.verify(&bytes)? else { panic!("not damaged") };
/// assert!(report.truncated);
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is checked yet"]
pub struct Verifier {
    /// The number of threads, or 0 for one per core.
    threads: usize,
    control: Control,
}

impl Default for Verifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Verifier {
    /// Returns a verifier with one thread per core, no cancel handle and no progress callback.
    pub fn new() -> Self {
        Self { threads: 0, control: Control::default() }
    }

    /// Sets the number of threads that sum the blocks of a source, including the caller's. 0 means one per core. A
    /// stream uses only the caller's thread.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets the handle that cancels the work, which then fails with [`ErrorKind::Cancelled`].
    ///
    /// The handle is checked every few megabytes, and every few thousand segments, frames or other items. It does not
    /// interrupt a blocked read of a stream.
    pub fn cancel(mut self, cancel: Option<Cancel>) -> Self {
        self.control.cancel = cancel;
        self
    }

    /// Sets the callback that receives progress reports.
    pub fn progress(mut self, watcher: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.control.watcher = Some(Arc::new(watcher));
        self
    }

    /// Verifies a dump in any source of bytes. The threads read it in parts of at most 1 MiB.
    ///
    /// # Errors
    /// Damage is a verdict and not an error. Returns an error of one of these kinds:
    /// - [`ErrorKind::Format`]: the source is not a core dump.
    /// - [`ErrorKind::Unsupported`]: the dump contains something unknown to this version, or exceeds a limit.
    /// - [`ErrorKind::Input`]: the source cannot be read.
    /// - [`ErrorKind::OutOfMemory`]: memory for a buffer cannot be allocated.
    /// - [`ErrorKind::Cancelled`]: the work was cancelled.
    pub fn verify(&self, source: impl ReadAt) -> Result<Verdict> {
        verify(Source::new(&source)?, self.threads, &self.control)
    }

    /// Verifies the dump at `path`. The file is read, not mapped.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, and the errors of [`verify`](Self::verify).
    pub fn verify_file(&self, path: impl AsRef<Path>) -> Result<Verdict> {
        let path = path.as_ref();
        let verdict = open_file(path).and_then(|file| self.verify(&file));
        verdict.map_err(|error| error.at(path.display()))
    }

    /// Verifies a dump that arrives through a pipe or a socket. Reads the stream to its end, in bounded memory and
    /// without seeking.
    ///
    /// Returns the same verdict as [`verify`](Self::verify), with two exceptions:
    /// - If the index differs from the sections, the verdict names the whole index instead of the entry.
    /// - If the sections before the header are damaged, the checksums cannot be compared. A stream that does not begin
    ///   as a module is then not a core dump.
    ///
    /// Progress reports begin once the header has given the length of the dump. They stop if another tool turns out to
    /// have rewritten the dump.
    ///
    /// # Errors
    /// Returns the errors of [`verify`](Self::verify); a stream that cannot be read is one of [`ErrorKind::Input`].
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

    /// Verifies a stream like [`verify_stream`](Self::verify_stream), and reports facts about the dump before all of it
    /// has arrived.
    ///
    /// `early` receives each fact at most once, and can end the check by returning an error. If it does so at
    /// [`EarlyFact::Fault`], the result is the verdict on the bytes so far.
    ///
    /// # Errors
    /// Returns the errors of [`verify_stream`](Self::verify_stream), and an error of [`ErrorKind::Input`] if `early`
    /// returns an error for another fact.
    ///
    /// ```
    /// use corestream::read::{EarlyFact, Verifier};
    /// use corestream::{CoreDump, Dumper};
    ///
    /// let bytes = Dumper::new().plan(&CoreDump::new("guest.wasm"))?.to_vec()?;
    /// let refuse = |fact: EarlyFact<'_>| match fact {
    ///     EarlyFact::Length(length) if length > 100 => Err(std::io::ErrorKind::FileTooLarge.into()),
    ///     _ => Ok(()),
    /// };
    /// let error = Verifier::new().verify_stream_with(&bytes[..], refuse).unwrap_err();
    /// assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::FileTooLarge);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn verify_stream_with(
        &self,
        stream: impl Read,
        mut early: impl FnMut(EarlyFact<'_>) -> io::Result<()>,
    ) -> Result<Verdict> {
        let progress = StreamProgress::new(&self.control);
        let mut input = Stream::new(MeteredStream { stream, progress: &progress })?;
        let mut early = |fact: EarlyFact<'_>| {
            match fact {
                EarlyFact::Length(length) => progress.begin(length),
                EarlyFact::NoLength => progress.stop(),
                _ => {}
            }
            early(fact)
        };
        let block_crcs = |stream: &mut Stream<_>, _: &Header| Ok(stream.take_block_crcs());
        let no_difference = |_: &Structure, _: &Index| Ok(None);
        let cancel_check = CancelCheck::new(&self.control);
        let mut parser = Parser::default();
        let verdict =
            examine(&mut parser, &mut input, &mut early, block_crcs, no_difference, cancel_check);
        match verdict {
            // The cancelled stream has failed with another kind of error.
            Err(_) if progress.was_cancelled.get() => Err(self.control.cancelled()),
            Ok(verdict) => {
                if verdict.is_intact() {
                    progress.finish();
                }
                Ok(verdict)
            }
            failed => failed,
        }
    }
}

/// A fact about a dump that is known before the rest of its stream has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EarlyFact<'s> {
    /// The name of the process. It comes from an untrusted dump: do not use it as a path without checking it.
    Name(&'s str),
    /// The length of the dump in bytes, from the section `corestream`.
    Length(u64),
    /// The section `corestream` is not in its place, so the length is unknown and truncation between two sections may
    /// go undetected. Another tool wrote the dump, or has rewritten it: then an earlier [`Length`](Self::Length) is
    /// void.
    NoLength,
    /// The sections have a fault. The rest is read only to find the bad blocks and the memory in them.
    Fault,
}

impl CoreDumpFile<'_> {
    /// Verifies the dump: its structure, its index and its checksums.
    ///
    /// The threads, the cancel handle and the progress callback are those of [`OpenOptions`](super::OpenOptions).
    ///
    /// # Errors
    /// Returns the errors of [`Verifier::verify`].
    pub fn verify(&self) -> Result<Verdict> {
        verify(self.source(), self.threads, &self.control)
    }
}

/// Verifies a dump in any source, with `threads` threads, or one per core for 0.
fn verify(source: Source<'_>, threads: usize, control: &Control) -> Result<Verdict> {
    control.check_cancelled()?;
    let meter = control.begin(Stage::Verify, source.len());
    let check = SourceCheck { source, threads, control, meter };
    let mut parser = Parser::default();
    let verdict = check.examine(&mut parser);
    let is_damaged = match &verdict {
        Ok(verdict) => !verdict.is_intact(),
        Err(error) => error.kind() == ErrorKind::Format,
    };
    let mut verdict_by_index = None;
    // If the header was in its place, the search could only find another index, which a stream would not find.
    let has_lost_header =
        parser.structure.header.is_none() && parser.structure.passed_index.is_none();
    if is_damaged
        && has_lost_header
        && let Some(found) = FoundIndex::find(source, None, control)?
    {
        match check.examine(&mut Parser::for_damaged(found.header, false)) {
            Ok(damaged @ Verdict::Damaged(_)) => verdict_by_index = Some(damaged),
            Err(error) if !is_of_dump(error.kind()) => return Err(error),
            _ => {}
        }
    }
    let verdict = verdict_by_index.map_or(verdict, Ok);
    if verdict.is_ok() {
        check.meter.finish();
    }
    verdict
}

/// The check of a dump in a source.
struct SourceCheck<'w> {
    source: Source<'w>,
    threads: usize,
    control: &'w Control,
    meter: Meter<'w>,
}

impl SourceCheck<'_> {
    /// Checks the dump with a new parser.
    fn examine(&self, parser: &mut Parser) -> Result<Verdict> {
        // Specialized for each kind of input, because decoding takes most of the time.
        match &mut self.source.input(0) {
            Cursor::Slice(input) => self.examine_input(parser, input),
            Cursor::Window(input) => self.examine_input(parser, input),
        }
    }

    fn examine_input<I: Input>(&self, parser: &mut Parser, input: &mut I) -> Result<Verdict> {
        let block_crcs = |_: &mut _, header: &Header| self.block_crcs(header);
        let find_difference = |structure: &Structure, index: &Index| {
            check::find_difference(self.source, structure, index, self.control)
        };
        let cancel_check = CancelCheck::with_meter(self.control, &self.meter);
        examine(parser, input, &mut |_| Ok(()), block_crcs, find_difference, cancel_check)
    }

    /// Computes the checksums of all blocks of the dump.
    ///
    /// # Errors
    /// Returns an error if a block cannot be read, or if the work was cancelled.
    fn block_crcs(&self, header: &Header) -> fault::Result<Vec<u32>> {
        let blocks = header.block_count();
        let crcs: Vec<_> = (0..blocks).map(|_| AtomicU32::new(0)).collect();
        let next_block = AtomicU32::new(0);
        let failure = Mutex::new(None);
        let work = || {
            let mut buffer = Vec::new();
            loop {
                // Each thread stops at the first number past the end, so the counter does not wrap.
                let block = next_block.fetch_add(1, Ordering::Relaxed);
                let Some(slot) = crcs.get(block as usize) else { break };
                match self.block_crc(header.block(block), &mut buffer) {
                    Ok(crc) => slot.store(crc, Ordering::Relaxed),
                    Err(fault) => {
                        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                        failure.get_or_insert(fault);
                        // Stops the other threads at their next block.
                        next_block.store(blocks, Ordering::Relaxed);
                        break;
                    }
                }
            }
        };
        run_on(resolve(self.threads).min(blocks as usize), &work);
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(fault) => Err(fault),
            None => Ok(crcs.into_iter().map(AtomicU32::into_inner).collect()),
        }
    }

    /// Computes the checksum of a block, or of the part of it that the source contains.
    fn block_crc(&self, block: Range<u64>, buffer: &mut Vec<u8>) -> fault::Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        let (mut at, end) = (block.start, block.end.min(self.source.len()));
        while at < end {
            self.control.check_cancelled()?;
            let next = at.checked_add(MAX_PART_BYTES).map_or(end, |next| next.min(end));
            let part = self.source.part(at..next, buffer)?;
            hasher.update(part);
            self.meter.add(part.len() as u64);
            at = next;
        }
        Ok(hasher.finalize())
    }
}

/// The maximum number of bytes of a source that are read and summed at once.
const MAX_PART_BYTES: u64 = 1 << 20;
