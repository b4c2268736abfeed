//! Whether a dump is whole: its structure, its index and its checksums; of a file in parallel, of a
//! stream in bounded memory, by the same code and with the same verdict. Only which entry of an index
//! is not what the sections say takes a second look, which a stream does not give.

mod blocks;
mod check;
mod stream;
mod verdict;

use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use verdict::{Damage, Excluded, MemoryRange, Verdict, Whole};

use self::check::examine;
use self::stream::{Passing, Watched};
use super::fault::{self, is_of_dump};
use super::file::CoreDumpFile;
use super::header::Header;
use super::index::Index;
use super::input::{Cursor, Input, Stream};
use super::open_options::open_file;
use super::parser::Parser;
use super::read_at::ReadAt;
use super::salvage::Found;
use super::source::Source;
use super::structure::Structure;
use crate::control::{Cancel, Control, Lookout, Meter, Progress, Stage};
use crate::error::{ErrorKind, Result};
use crate::threads::{resolve, run_on};

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
/// assert!(damage.truncated);
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
    /// Returns the default: one thread per core, no progress callback.
    pub fn new() -> Self {
        Self { threads: 0, control: Control::default() }
    }

    /// Sets how many threads sum up the blocks of a dump, the caller's included; 0 is one per core. A stream takes
    /// one.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets what stops the work: it then fails with [`ErrorKind::Cancelled`]. The work looks at it every few megabytes, and
    /// every few thousand segments, frames, or other items. It does not interrupt a read of a stream that waits for its
    /// writer.
    pub fn cancel(mut self, cancel: Option<Cancel>) -> Self {
        self.control.cancel = cancel;
        self
    }

    /// Sets the callback for progress.
    pub fn progress(mut self, watcher: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.control.watcher = Some(Arc::new(watcher));
        self
    }

    /// Checks a dump in any source of bytes. Threads read it in parts of at most 1 MiB.
    ///
    /// # Errors
    /// Returns an error if it is no core dump at all ([`ErrorKind::Format`]), if it has something that is not known here or
    /// is over a limit ([`ErrorKind::Unsupported`]), if the source cannot be read ([`ErrorKind::Input`]), if memory for a
    /// buffer cannot be allocated ([`ErrorKind::OutOfMemory`]), or if the work was cancelled ([`ErrorKind::Cancelled`]).
    /// That a dump is damaged is a verdict and no error.
    pub fn verify(&self, source: impl ReadAt) -> Result<Verdict> {
        verify(Source::new(&source)?, self.threads, &self.control)
    }

    /// Checks the dump at `path`, which is read and not mapped.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, and the errors of [`verify`](Self::verify).
    pub fn verify_file(&self, path: impl AsRef<Path>) -> Result<Verdict> {
        let path = path.as_ref();
        let verdict = open_file(path).and_then(|file| self.verify(&file));
        verdict.map_err(|error| error.at(path.display()))
    }

    /// Checks a dump that comes through a pipe or a socket, to its end, in memory that is bounded: it keeps nothing of the
    /// dump and needs no seeking.
    ///
    /// The verdict is that of [`verify`](Self::verify) with two exceptions. If the index differs from the sections, the
    /// verdict names the whole index and not the entry. If the sections before the header are damaged, the checksums are
    /// not known, and a stream that does not even begin as a module does is no core dump.
    ///
    /// Progress is told once the dump has said how long it is, and ends where it turns out that another tool has rewritten
    /// the dump.
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

    /// Like [`verify_stream`](Self::verify_stream); `early` gets what is known of the dump before it has passed, each
    /// fact at most once, and can end the check. If it does so at [`Early::Fault`], the verdict is of what has passed.
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
        let crcs = |stream: &mut Stream<_>, _: &Header| Ok(stream.take_block_crcs());
        let differs = |_: &Structure, _: &Index| Ok(None);
        let lookout = Lookout::new(&self.control);
        let mut parser = Parser::default();
        let verdict = examine(&mut parser, &mut input, &mut early, crcs, differs, lookout);
        match verdict {
            // The stream has failed because of that.
            Err(_) if passing.has_cancelled.get() => Err(self.control.cancelled()),
            Ok(verdict) => {
                if verdict.is_whole() {
                    passing.finish();
                }
                Ok(verdict)
            }
            failed => failed,
        }
    }
}

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

/// Checks a dump in any source with `threads` threads; 0 is one per core.
fn verify(source: Source<'_>, threads: usize, control: &Control) -> Result<Verdict> {
    control.check_cancelled()?;
    let work = Work { source, threads, control, meter: control.begin(Stage::Verify, source.len()) };
    let mut parser = Parser::default();
    let verdict = work.examine(&mut parser);
    let is_damaged = match &verdict {
        Ok(verdict) => !verdict.is_whole(),
        Err(error) => error.kind() == ErrorKind::Format,
    };
    let mut of_index = None;
    // A dump whose header was in its place needs no other sign of where its index is.
    let has_lost_header =
        parser.structure.header.is_none() && parser.structure.passed_index.is_none();
    if is_damaged
        && has_lost_header
        && let Some(found) = Found::of(source, None, control)?
    {
        match work.examine(&mut Parser::for_damaged(found.header, false)) {
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
            check::difference(self.source, structure, index, self.control)
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
        run_on(resolve(self.threads).min(blocks as usize), &work);
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
