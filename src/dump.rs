//! The dumper: the one place that wires the stages
//! image -> extents -> scan -> plan -> encode -> sink.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::atomic_file::{AtomicFile, FileOptions};
use crate::checksum::Checksums;
use crate::control::{Control, Progress, Stage};
use crate::encode::{self, Index, Pieces};
use crate::error::{Error, ErrorKind, Result};
use crate::held_signal::without_sigxfsz;
use crate::image::{ExtentMethod, ExtentOptions, MappingMethod};
use crate::limits;
use crate::model::CoreDump;
use crate::piece::Piece;
use crate::plan::{self, Plan};
use crate::scan::{self, Scanner};
use crate::sink::{FileSink, Sink};
use crate::stream::{Stream, put_all};

/// Bytes of a dump that is written before another thread could have been started.
const SMALL_DUMP: u64 = 64 << 10;

/// Makes plans of core dumps.
///
/// ```
/// use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType};
///
/// let mut bytes = vec![0; 65_536];
/// bytes[1000..2000].fill(1);
/// let mut dump = CoreDump::new("guest.wasm");
/// dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
///
/// let plan = Dumper::new().plan(&dump)?;
/// assert_eq!(plan.segments().len(), 1);
/// assert_eq!(plan.stats().data_bytes, 1000);
/// assert_eq!(plan.to_vec()?.len() as u64, plan.len());
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Dumper {
    options: plan::Options,
}

impl Dumper {
    /// The default: 100,000 segments at most, as many threads as there are cores, what the
    /// kernel calls a hole trusted.
    pub fn new() -> Self {
        let threads = thread::available_parallelism().map_or(1, |n| n.get());
        let extents = ExtentOptions { trust_holes: true, method: None, mappings: None };
        let scan = scan::Options { scanner: Scanner::new(), threads, extents };
        let max_segments = limits::MAX_DATA_SEGMENTS;
        let max_section_bytes = limits::MAX_SECTION_BYTES;
        let (checksums, control) = (true, Control::default());
        let options = plan::Options { max_segments, max_section_bytes, scan, checksums, control };
        Self { options }
    }

    /// How many segments a dump may have, 1 to 100,000. Every memory that holds data gets one, and every
    /// range between data that is left out on purpose ([`Memory::without`](crate::Memory::without))
    /// one more, also if that makes more. Beyond the data section, in dumps over 4 GiB, a segment is cut at each end of
    /// a section, and those cuts are not counted. The data section has never more than 100,000.
    pub fn max_segments(mut self, segments: u32) -> Self {
        self.options.max_segments = segments;
        self
    }

    /// How many threads scan, the caller's included; at least 1. Fewer are used where there is less
    /// to do, where the system gives no more, and over [`limits::MAX_THREADS`]. The dump is the same for any number.
    pub fn threads(mut self, threads: usize) -> Self {
        self.options.scan.threads = threads;
        self
    }

    /// Whether what the kernel calls a hole of an image file, or memory that was never touched, is
    /// taken as zero without reading it. If not, all of every image is read.
    pub fn trust_holes(mut self, trust: bool) -> Self {
        self.options.scan.extents.trust_holes = trust;
        self
    }

    /// How the pages of a live guest's memory that were never touched are found:
    /// [`ExtentMethod::PagemapScan`], [`Pagemap`](ExtentMethod::Pagemap),
    /// [`Smaps`](ExtentMethod::Smaps), or [`Whole`](ExtentMethod::Whole), which reads them. `None`, the default, is the best one that
    /// the system has; planning fails if a method that is asked for can't be used. Files are not
    /// concerned.
    ///
    /// ```
    /// use corestream::{CoreDump, Dumper, ExtentMethod, Memory, MemoryImage, MemoryType};
    ///
    /// let bytes = [1; 65_536];
    /// let mut dump = CoreDump::new("guest.wasm");
    /// dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    /// let plan = Dumper::new().extent_method(Some(ExtentMethod::Whole)).plan(&dump)?;
    /// assert_eq!(plan.stats().extent_methods, [ExtentMethod::Whole]);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn extent_method(mut self, method: Option<ExtentMethod>) -> Self {
        self.options.scan.extents.method = method;
        self
    }

    /// How the mappings under a live guest's memory are found, which decide what may be skipped.
    /// `None`, the default, is the best way that the system has; planning fails if one that is asked
    /// for can't be used.
    pub fn mapping_method(mut self, method: Option<MappingMethod>) -> Self {
        self.options.scan.extents.mappings = method;
        self
    }

    /// The backend of the scan.
    pub fn scanner(mut self, scanner: Scanner) -> Self {
        self.options.scan.scanner = scanner;
        self
    }

    /// How many bytes the body of a section with data may have, at least
    /// [`limits::MIN_SECTION_BYTES`]; what does not fit into the data section goes on in custom
    /// sections called `corestream.data`.
    pub fn max_section_bytes(mut self, bytes: u32) -> Self {
        self.options.max_section_bytes = bytes;
        self
    }

    /// Whether the dump holds a CRC-32 of every MiB of it, which a reader can check it by. They are
    /// there by default, and are made on another core while the sink is busy.
    pub fn checksums(mut self, checksums: bool) -> Self {
        self.options.checksums = checksums;
        self
    }

    /// A flag that stops the work when it becomes true: planning and writing then fail with
    /// [`ErrorKind::Cancelled`], and nothing is left behind. It is looked at every few megabytes, and
    /// several times a second where a sink takes less. A [`Pipe`](crate::Pipe) or
    /// [`Socket`](crate::Socket) whose reader takes nothing looks at it too; any other sink that waits is
    /// waited for, unless it does so as well ([`Sink::cancel`]).
    pub fn cancel(mut self, flag: Arc<AtomicBool>) -> Self {
        self.options.control.cancel = Some(flag);
        self
    }

    /// Who is told how far planning and writing have come: in each stage at its beginning, every few
    /// megabytes, and at its end if it succeeds. It costs nothing that can be measured, if
    /// `watcher` is quick: the work waits for it.
    ///
    /// Any thread of a scan may call it, but only one at a time, and what it is told never goes back
    /// within a stage, except that a scan begins anew if the holes of an image file turn out to be doubtful. A stage
    /// that is cancelled, or fails, just ends.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// use corestream::{CoreDump, Dumper, Stage};
    ///
    /// let written = Arc::new(AtomicU64::new(0));
    /// let watched = written.clone();
    /// let dumper = Dumper::new().progress(move |progress| {
    ///     if progress.stage == Stage::Write {
    ///         watched.store(progress.done, Ordering::Relaxed);
    ///     }
    /// });
    ///
    /// let dump = CoreDump::new("guest.wasm");
    /// let plan = dumper.plan(&dump)?;
    /// plan.write_to(&mut std::io::sink())?;
    /// assert_eq!(written.load(Ordering::Relaxed), plan.len());
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn progress(mut self, watcher: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.options.control.watcher = Some(Arc::new(watcher));
        self
    }

    /// Scans the memories of `dump` and fixes the layout of the core dump.
    ///
    /// # Errors
    /// An option is out of range, `dump` contradicts itself
    /// ([`CoreDump::validate`]), an image can't be read, or the tables of the plan can't be had.
    pub fn plan<'d>(&self, dump: &'d CoreDump<'d>) -> Result<Plan<'d>> {
        Plan::new(dump, self.options.clone(), encode::prelude)
    }
}

impl Default for Dumper {
    fn default() -> Self {
        Self::new()
    }
}

impl Plan<'_> {
    /// Streams the dump to `sink`, straight from images that cannot change and through a small buffer from
    /// others ([`MemoryImage`](crate::MemoryImage#files-that-change)).
    ///
    /// # Errors
    /// The sink fails; the error says how many bytes it has taken. An image file has become
    /// shorter, or its file system writable. The work was cancelled.
    ///
    /// ```
    /// # use corestream::{CoreDump, Dumper};
    /// let dump = CoreDump::new("guest.wasm");
    /// let plan = Dumper::new().plan(&dump)?;
    /// plan.write_to(&mut std::io::sink())?;
    ///
    /// let error = plan.write_to(&mut &mut [0; 10][..]).unwrap_err();
    /// assert_eq!(error.to_string(), "10 of 159 bytes written: write zero");
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn write_to<S: Sink + ?Sized>(&self, sink: &mut S) -> Result<()> {
        let mut written = 0;
        without_sigxfsz(|| self.stream(sink, &mut written))
            .map_err(|source| self.failed_after(written, source))?;
        if written != self.len() {
            let message = format!("{written} bytes were emitted, {} were planned", self.len());
            return Err(Error::new(ErrorKind::Internal, message));
        }
        Ok(())
    }

    fn stream<S: Sink + ?Sized>(&self, sink: &mut S, written: &mut u64) -> io::Result<()> {
        let checksums = Checksums::new(&self.index).map_err(io::Error::other)?;
        sink.cancel(self.control.cancel.as_ref());
        sink.begin(self.len())?;
        let meter = self.control.begin(Stage::Write, self.len());
        let mut stream = Stream { sink, written, checksums, helper: self.helper(), meter };
        stream.run(Pieces::new(self), self.has_copies(), &self.control)?;
        self.check_images().map_err(io::Error::other)?;
        let changing = self.look_for_changes().map_err(io::Error::other)?;
        // Also of the last batch: nothing that was stopped gets an index.
        self.control.check_cancelled().map_err(io::Error::other)?;
        let Stream { sink, written, mut checksums, meter, .. } = stream;
        let index = Index::new(self, checksums.finish(), &changing);
        index.emit(|bytes| put_all(sink, &[Piece::Bytes(bytes)], written))?;
        sink.finish()?;
        meter.finish();
        Ok(())
    }

    /// A thread for the checksums and for copies, where it is worth one and the system gives one.
    fn helper(&self) -> Option<ThreadPool> {
        let any_work = self.index.blocks > 0 || self.has_copies();
        let worth = self.stats().threads > 1 && any_work && self.len() > SMALL_DUMP;
        let pool = worth.then(|| ThreadPoolBuilder::new().num_threads(1).build());
        pool.and_then(Result::ok)
    }

    fn failed_after(&self, written: u64, source: io::Error) -> Error {
        // An image that was cut makes a read end early and a write fail with EFAULT: say what was
        // behind it. Other errors of an image say so themselves.
        if let Err(image) = self.check_images() {
            return image;
        }
        // A sink that has seen the flag ends with an error, whichever it is.
        if self.control.is_cancelled() {
            return Error::cancelled();
        }
        source.downcast::<Error>().unwrap_or_else(|source| {
            let message = format!("{written} of {} bytes written", self.len());
            Error::io(ErrorKind::Output, message, source)
        })
    }

    /// The dump in one vector.
    ///
    /// # Errors
    /// Memory for it can't be had, or an image file has become shorter.
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        let out_of_memory = || Error::out_of_memory("a vector for the whole dump");
        let len = usize::try_from(self.len()).map_err(|_| out_of_memory())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| out_of_memory())?;
        self.write_to(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes the dump to a new file that only its owner can read, and that appears under its name
    /// only when it is whole.
    ///
    /// On a file system without modes the file has the mode that the mount gives to all files: look at its metadata
    /// where that matters.
    ///
    /// # Errors
    /// `path` exists; it can't be written there; then nothing is left behind. A dump that is finished and can't be
    /// given its name is kept under another ([`Error::kept_file`]).
    ///
    /// ```
    /// # use corestream::{CoreDump, Dumper};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("guest.core");
    /// let dump = CoreDump::new("guest.wasm");
    /// let plan = Dumper::new().plan(&dump)?;
    /// plan.write_file(&path)?;
    /// assert_eq!(path.metadata().unwrap().len(), plan.len());
    /// assert!(plan.write_file(&path).is_err());
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn write_file(&self, path: impl AsRef<Path>) -> Result<()> {
        self.write_file_with(path, FileOptions::new())
    }

    /// Like [`write_file`](Self::write_file), with options.
    ///
    /// # Errors
    /// It can't be written there; then an old file stays and nothing is left behind. A dump that is finished and
    /// can't be given its name is kept under another ([`Error::kept_file`]).
    pub fn write_file_with(&self, path: impl AsRef<Path>, options: FileOptions) -> Result<()> {
        let path = path.as_ref();
        let failed = |what: &str, source| {
            Error::io(ErrorKind::Output, format!("{}: {what}", path.display()), source)
        };
        let sync = options.is_synced();
        let file = AtomicFile::create(path, options).map_err(|e| failed("cannot create", e))?;
        self.write_to(&mut FileSink::new(file.file())).map_err(|error| error.at(path.display()))?;
        let meter = sync.then(|| self.control.begin(Stage::Sync, self.len()));
        file.commit().map_err(|error| error.at(path, "dump", ErrorKind::Output))?;
        if let Some(meter) = meter {
            meter.finish();
        }
        Ok(())
    }
}
