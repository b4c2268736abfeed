//! Writes a dump: the one loop that moves it from the images to a sink and computes its checksums.
//!
//! # The problem
//! Three things can be slow: the sink, reading an image that must be copied, and the checksums. One after the other
//! they would add up. And every sink has its own ways of being slow: it takes only a part, a signal interrupts it, it
//! would block, it blocks for minutes.
//!
//! # The idea
//! A sink is one operation: take some bytes of these pieces, return how many. Everything else is here and nowhere else:
//! the rest of a short write, interrupted writes, waiting for a descriptor, time limits, cancellation, progress and
//! counting.
//!
//! One helper thread works while the sink is busy:
//!
//! - With a borrowed batch, it computes the checksums of the same batch. The bytes cannot change, so both read them at
//!   the same time, and whichever is second finds them in the shared cache.
//! - With a copied batch, it reads the *next* batch into the other buffer and computes that batch's checksums. The copy
//!   still costs CPU time, but the sink hardly ever waits for it.
//!
//! Without a second core, without checksums and copies, or for a short dump, everything runs in the caller's thread.
//!
//! # The invariant
//! When a batch is sent, the checksums cover everything before it. If the batch is copied, they cover the batch too; if
//! it is borrowed, they do so once it is sent. At most one batch is ahead. So the checksums are updated in the order of
//! the dump, and no queue is necessary.
//!
//! A dump that fails or is cancelled never gets an index. A reader recognizes it as truncated.
//!
//! # The cost
//! Two buffers of at most 1 MiB, two tables of 512 entries and one of pieces. Batches begin with 256 KiB and adapt to
//! the sink. After less than 50 ms, the next batch is four times as long, up to 8 MiB; after more than 200 ms, half as
//! long, down to 64 KiB. Each batch allows a progress report and a check of the cancel handle, so these come several
//! times a second even with a slow sink. Batches of 1 or 32 MiB instead of 8 took 144 and 148 ms instead of 139 for a
//! dense GiB.
//!
//! Two threads that write the two halves of a file gained nothing, because the file system admits one writer at a time.
//! Copying 105 MB in pages into a mapping of the file took 26 ms instead of 16, because of a page fault for each page.

use std::fmt;
use std::io;
use std::mem;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::arithmetic::Checked;
use crate::atomic_file::{AtomicFile, FileOptions};
use crate::batch::{Batch, Batches};
use crate::checksum::Checksums;
use crate::control::{Cancel, Control, Meter, Progress, Stage};
use crate::error::{Error, ErrorKind, Result};
use crate::held_signal::without_sigxfsz;
use crate::limits::MAX_BATCH_BYTES;
use crate::piece::{Piece, advance, recycle};
use crate::pieces::{Pieces, Reader};
use crate::plan::Plan;
use crate::sink::{FileSink, Sink};

/// The length in bytes of a dump that is written faster than a thread is started.
const SMALL_DUMP_BYTES: u64 = 64 << 10;
/// The length in bytes of a batch whose checksums are computed faster than a thread is woken.
const SMALL_BATCH_BYTES: u64 = 64 << 10;
/// The minimum and maximum length in bytes of a batch.
const BATCH_BYTES: RangeInclusive<u64> = 64 << 10..=MAX_BATCH_BYTES;
/// The length in bytes of the first batch.
const FIRST_BATCH_BYTES: u64 = 256 << 10;
/// The time that a batch should take. After a faster batch, the next one is longer; after a slower one, shorter.
///
/// The end is four times the start, because a batch that took less than the start may become four times as long.
const BATCH_TIME: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_millis(200);
/// The time between two checks of the cancel handle while the writer waits for a sink.
const CANCEL_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A writer of a plan, to a sink or to a file. [`Plan::writer`] returns it.
///
/// Each writer has its own cancel handle, callback and time limits, so several writers can write the same plan.
///
/// ```
/// use corestream::{Cancel, CoreDump, Dumper, ErrorKind};
///
/// let dump = CoreDump::new("guest.wasm");
/// let plan = Dumper::new().plan(&dump)?;
///
/// let cancel = Cancel::new();
/// cancel.cancel("the host shuts down");
/// let error = plan.writer().cancel(Some(cancel)).write_to(&mut std::io::sink()).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Cancelled);
/// assert_eq!(error.to_string(), "cancelled: the host shuts down");
///
/// plan.writer().write_to(&mut std::io::sink())?;
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "nothing is written yet"]
pub struct Writer<'p> {
    plan: &'p Plan<'p>,
    control: Control,
    limits: TimeLimits,
    /// Whether a sink may block although the dump can be cancelled.
    may_block: bool,
}

/// How long to wait for a sink.
#[derive(Clone, Copy, Debug, Default)]
struct TimeLimits {
    /// The maximum time without progress.
    stall: Option<Duration>,
    /// The time by which the dump must be complete.
    deadline: Option<Instant>,
}

impl<'p> Writer<'p> {
    fn new(plan: &'p Plan<'p>) -> Self {
        Self {
            plan,
            control: plan.control.clone(),
            limits: TimeLimits::default(),
            may_block: false,
        }
    }

    /// Sets the handle that cancels writing. It then fails with [`ErrorKind::Cancelled`] and leaves nothing behind. The
    /// default is the handle of [`Dumper::cancel`](crate::Dumper::cancel).
    ///
    /// The writer checks the handle every few megabytes, whenever a sink has taken a part of a batch, and ten times a
    /// second while it waits for a sink. It cannot interrupt a sink that blocks by itself.
    pub fn cancel(mut self, cancel: Option<Cancel>) -> Self {
        self.control.cancel = cancel;
        self
    }

    /// Sets whether a [`PipeSink`](crate::PipeSink) or [`SocketSink`](crate::SocketSink) may block although the dump
    /// can be cancelled. This is faster, but the writer then cannot check the cancel handle until the reader has taken
    /// some bytes.
    ///
    /// Without a cancel handle, these sinks always may block. With a time limit, they never may.
    ///
    /// ```
    /// use corestream::{Cancel, CoreDump, Dumper, PipeSink};
    ///
    /// let (_reader, writer) = std::io::pipe().unwrap();
    /// let dump = CoreDump::new("guest.wasm");
    /// let plan = Dumper::new().cancel(Cancel::new()).plan(&dump)?;
    /// plan.writer().may_block(true).write_to(&mut PipeSink::new(&writer))?;
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn may_block(mut self, may_block: bool) -> Self {
        self.may_block = may_block;
        self
    }

    /// Sets the callback that receives the progress. The default is that of
    /// [`Dumper::progress`](crate::Dumper::progress).
    pub fn progress(mut self, watcher: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.control.watcher = Some(Arc::new(watcher));
        self
    }

    /// Sets how long to wait for a reader that takes no bytes. After that time, the dump fails with
    /// [`io::ErrorKind::TimedOut`]. The default `None` waits forever, whatever timeouts a socket has.
    ///
    /// It applies to sinks with a descriptor to wait on ([`Sink::waits_on`]). A terminal that reports that it is ready
    /// and then takes nothing can still block a write.
    ///
    /// ```
    /// use std::io::ErrorKind::TimedOut;
    /// use std::time::Duration;
    ///
    /// use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType, PipeSink};
    ///
    /// let bytes = vec![1; 32 * 65_536];
    /// let mut dump = CoreDump::new("guest.wasm");
    /// dump.add_memory(Memory::new(MemoryType::wasm32(32), MemoryImage::from_slice(&bytes)));
    /// let (_reader, writer) = std::io::pipe().unwrap();
    /// let plan = Dumper::new().plan(&dump)?;
    /// let writer_of_plan = plan.writer().stall_timeout(Some(Duration::from_millis(10)));
    /// let error = writer_of_plan.write_to(&mut PipeSink::new(&writer)).unwrap_err();
    /// assert_eq!(error.io_error().unwrap().kind(), TimedOut);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn stall_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.limits.stall = timeout;
        self
    }

    /// Sets the time by which the dump must be complete. Otherwise it fails with [`io::ErrorKind::TimedOut`].
    ///
    /// The writer checks the deadline between batches and while it waits for a sink ([`Sink::waits_on`]).
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    ///
    /// # use corestream::{CoreDump, Dumper};
    /// let dump = CoreDump::new("guest.wasm");
    /// let plan = Dumper::new().plan(&dump)?;
    /// let writer = plan.writer().deadline(Some(Instant::now() + Duration::from_secs(10)));
    /// writer.progress(|progress| println!("{} bytes", progress.done)).write_to(&mut std::io::sink())?;
    ///
    /// let error = plan.writer().deadline(Some(Instant::now())).to_vec().unwrap_err();
    /// assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::TimedOut);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn deadline(mut self, deadline: Option<Instant>) -> Self {
        self.limits.deadline = deadline;
        self
    }

    /// Streams the dump to `sink`: directly from images that cannot change, and through a small buffer from others
    /// ([`MemoryImage`](crate::MemoryImage#files-that-change)).
    ///
    /// # Errors
    /// Returns an error in these cases:
    ///
    /// - The sink fails. The message contains the number of bytes that it took.
    /// - An image file was truncated, or its file system became writable.
    /// - The dump was cancelled or exceeded a time limit.
    pub fn write_to<S: Sink + ?Sized>(&self, sink: &mut S) -> Result<()> {
        let mut written = 0;
        without_sigxfsz(|| self.stream(sink, &mut written))
            .map_err(|source| self.explain(written, source))
    }

    fn stream<S: Sink + ?Sized>(&self, sink: &mut S, written: &mut u64) -> io::Result<()> {
        let checksums = Checksums::new(&self.plan.index)?;
        let may_block = (self.may_block || self.control.cancel.is_none())
            && self.limits.stall.is_none()
            && self.limits.deadline.is_none();
        sink.begin(self.plan.len(), may_block)?;
        let meter = self.control.begin(Stage::Write, self.plan.len());
        let mut batches = Batches::new(self.plan);
        let table = Vec::new();
        let output = Output { sink, written, control: &self.control, limits: self.limits, table };
        let helper = self.start_helper();
        let mut stream = Stream { output, checksums, helper, meter };
        let mut batch = stream.run(&mut batches)?;
        let Stream { mut output, checksums, meter, .. } = stream;
        batches.begin_index(checksums)?;
        loop {
            // A cancelled dump must not get an index.
            output.check_limits()?;
            batches.fill_index(&mut batch)?;
            if batch.is_empty() {
                break;
            }
            output.put_all(&batch)?;
        }
        output.sink.finish()?;
        meter.finish();
        Ok(())
    }

    /// Starts a thread for checksums and copies if it is worthwhile and the system has one.
    fn start_helper(&self) -> Option<ThreadPool> {
        let plan = self.plan;
        let any_work = plan.index.blocks > 0 || plan.has_copies();
        let is_worthwhile = plan.stats().threads > 1 && any_work && plan.len() > SMALL_DUMP_BYTES;
        let pool = is_worthwhile.then(|| ThreadPoolBuilder::new().num_threads(1).build());
        pool.and_then(std::result::Result::ok)
    }

    /// Returns the error to report for an error that the loop met after `written` bytes.
    fn explain(&self, written: u64, source: io::Error) -> Error {
        // If an image file was truncated, a read ends early or a write fails with EFAULT. The truncation is the cause
        // to report.
        if let Err(image) = self.plan.check_images() {
            return image;
        }
        // A sink that checks the cancel handle itself may fail with any error.
        if let Err(cancelled) = self.control.check_cancelled() {
            return cancelled;
        }
        source.downcast::<Error>().unwrap_or_else(|source| {
            let message = format!("{written} of {} bytes written", self.plan.len());
            Error::io(ErrorKind::Output, message, source)
        })
    }

    /// Returns the dump as a vector.
    ///
    /// # Errors
    /// Returns an error if the vector cannot be allocated ([`ErrorKind::OutOfMemory`]), or in the cases of
    /// [`write_to`](Self::write_to).
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        let out_of_memory = || Error::out_of_memory("a vector for the whole dump");
        let len = usize::try_from(self.plan.len()).map_err(|_| out_of_memory())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| out_of_memory())?;
        self.write_to(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes the dump to a new file that only its owner can access. The file appears under its name once it is
    /// complete.
    ///
    /// On a file system without modes, the file has the mode that the mount gives to all files. Check its metadata if
    /// that matters.
    ///
    /// ```
    /// # use corestream::{CoreDump, Dumper};
    /// use corestream::FileOptions;
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("guest.core");
    /// let dump = CoreDump::new("guest.wasm");
    /// let plan = Dumper::new().plan(&dump)?;
    /// plan.writer().write_file(&path, FileOptions::new().sync(true))?;
    /// assert_eq!(path.metadata().unwrap().len(), plan.len());
    /// # Ok::<(), corestream::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the dump cannot be written to `path`. Then an existing file stays, and nothing is left
    /// behind. If a complete dump cannot be renamed to `path`, it is kept under another name ([`Error::kept_file`]).
    pub fn write_file(&self, path: impl AsRef<Path>, options: FileOptions) -> Result<()> {
        let path = path.as_ref();
        let failed = |what: &str, source| {
            Error::io(ErrorKind::Output, format!("{}: {what}", path.display()), source)
        };
        let sync = options.is_synced();
        let file = AtomicFile::create(path, options).map_err(|e| failed("cannot create", e))?;
        self.write_to(&mut FileSink::new(file.file())).map_err(|error| error.at(path.display()))?;
        let meter = sync.then(|| self.control.begin(Stage::Sync, self.plan.len()));
        file.commit().map_err(|error| error.into_error(path, "dump", ErrorKind::Output))?;
        if let Some(meter) = meter {
            meter.finish();
        }
        Ok(())
    }
}

impl fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("plan", self.plan)
            .field("control", &self.control)
            .field("limits", &self.limits)
            .field("may_block", &self.may_block)
            .finish()
    }
}

impl Plan<'_> {
    /// Returns a writer of the dump, which can have its own cancel handle, callback and time limits.
    pub fn writer(&self) -> Writer<'_> {
        Writer::new(self)
    }

    /// Returns the pieces of the dump, for a caller that pulls them.
    ///
    /// # Errors
    /// Returns an error if the table of checksums cannot be allocated.
    ///
    /// ```
    /// use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType};
    ///
    /// let bytes = vec![1; 65_536];
    /// let mut dump = CoreDump::new("guest.wasm");
    /// dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    /// let plan = Dumper::new().plan(&dump)?;
    ///
    /// let mut written = 0;
    /// let mut pieces = plan.pieces()?;
    /// while let Some(batch) = pieces.next_batch()? {
    ///     for piece in &batch {
    ///         assert_eq!(piece.offset, written);
    ///         written += piece.len();
    ///     }
    /// }
    /// assert_eq!(written, plan.len());
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn pieces(&self) -> Result<Pieces<'_>> {
        Pieces::new(self)
    }

    /// Returns the bytes of the dump as a [`Read`](io::Read), for example for an asynchronous runtime.
    ///
    /// # Errors
    /// Returns an error if the table of checksums cannot be allocated.
    ///
    /// ```
    /// use std::io::Read;
    ///
    /// # use corestream::{CoreDump, Dumper};
    /// let dump = CoreDump::new("guest.wasm");
    /// let plan = Dumper::new().plan(&dump)?;
    /// let mut bytes = Vec::new();
    /// plan.reader()?.read_to_end(&mut bytes).unwrap();
    /// assert_eq!(bytes, plan.to_vec()?);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn reader(&self) -> Result<Reader<'_>> {
        self.pieces().map(Reader::new)
    }

    /// Streams the dump to `sink`, like [`Writer::write_to`].
    ///
    /// # Errors
    /// Returns the errors of [`Writer::write_to`].
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
        self.writer().write_to(sink)
    }

    /// Returns the dump as a vector, like [`Writer::to_vec`].
    ///
    /// # Errors
    /// Returns the errors of [`Writer::to_vec`].
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        self.writer().to_vec()
    }

    /// Writes the dump to a new file, like [`Writer::write_file`].
    ///
    /// # Errors
    /// Returns an error if `path` exists, or in the cases of [`Writer::write_file`].
    ///
    /// ```
    /// # use corestream::{CoreDump, Dumper};
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("guest.core");
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

    /// Writes the dump to a file, like [`write_file`](Self::write_file), with options.
    ///
    /// # Errors
    /// Returns the errors of [`Writer::write_file`].
    pub fn write_file_with(&self, path: impl AsRef<Path>, options: FileOptions) -> Result<()> {
        self.writer().write_file(path, options)
    }
}

/// A dump that is being written.
struct Stream<'s, S: ?Sized> {
    output: Output<'s, S>,
    checksums: Checksums,
    /// Computes checksums and copies while the sink is busy.
    helper: Option<ThreadPool>,
    meter: Meter<'s>,
}

impl<S: Sink + ?Sized> Stream<'_, S> {
    /// Sends everything before the index, and returns the last batch for reuse.
    fn run<'p>(&mut self, batches: &mut Batches<'p>) -> io::Result<Batch<'p>> {
        let (mut batch, mut next) = (Batch::default(), Batch::default());
        let mut room = FIRST_BATCH_BYTES;
        // Whether the bytes of a copied batch are read and its checksums computed.
        let mut is_prepared = false;
        let mut start = Instant::now();
        batches.fill(&mut batch, room)?;
        loop {
            self.output.check_limits()?;
            if batch.is_empty() {
                return Ok(batch);
            }
            if batch.is_copied() {
                if !is_prepared {
                    batch.prepare(&mut self.checksums)?;
                }
                batches.fill(&mut next, room)?;
                self.send_copied(&batch, &mut next)?;
                self.meter.add(batch.len());
                is_prepared = next.is_copied();
                mem::swap(&mut batch, &mut next);
            } else {
                self.send(&batch)?;
                self.meter.add(batch.len());
                is_prepared = false;
                batches.fill(&mut batch, room)?;
            }
            let end = Instant::now();
            room = next_room(room, end.saturating_duration_since(start));
            start = end;
        }
    }

    /// Sends a borrowed batch and computes its checksums.
    fn send(&mut self, batch: &Batch<'_>) -> io::Result<()> {
        let (checksums, output) = (&mut self.checksums, &mut self.output);
        match &self.helper {
            Some(helper) if checksums.is_enabled() && batch.len() > SMALL_BATCH_BYTES => helper
                .in_place_scope(|scope| {
                    scope.spawn(|_| batch.update_checksums(checksums));
                    output.put_all(batch)
                }),
            _ => {
                batch.update_checksums(checksums);
                output.put_all(batch)
            }
        }
    }

    /// Sends a copied batch, which is prepared, and meanwhile prepares `next` if that is copied too.
    fn send_copied(&mut self, batch: &Batch<'_>, next: &mut Batch<'_>) -> io::Result<()> {
        let (checksums, output) = (&mut self.checksums, &mut self.output);
        let mut prepared = Ok(());
        let sent = match &self.helper {
            _ if !next.is_copied() => output.put_all(batch),
            Some(helper) if next.len() > SMALL_BATCH_BYTES => helper.in_place_scope(|scope| {
                scope.spawn(|_| prepared = next.prepare(checksums));
                output.put_all(batch)
            }),
            _ => {
                let sent = output.put_all(batch);
                if sent.is_ok() {
                    prepared = next.prepare(checksums);
                }
                sent
            }
        };
        sent?;
        Ok(prepared?)
    }
}

/// Returns the maximum length in bytes of the next batch, after one of `room` bytes that took `took`.
fn next_room(room: u64, took: Duration) -> u64 {
    let next = if took < *BATCH_TIME.start() {
        // `clamp` bounds the result.
        room.saturating_mul(4)
    } else if took > *BATCH_TIME.end() {
        room / 2
    } else {
        room
    };
    next.clamp(*BATCH_BYTES.start(), *BATCH_BYTES.end())
}

/// A sink, with the limits on waiting for it.
struct Output<'s, S: ?Sized> {
    sink: &'s mut S,
    /// The number of bytes that it has taken.
    written: &'s mut u64,
    control: &'s Control,
    limits: TimeLimits,
    /// An empty table for the pieces of the next batch, whose allocation is reused.
    table: Vec<Piece<'s>>,
}

impl<S: Sink + ?Sized> Output<'_, S> {
    /// Writes all of a batch to the sink.
    fn put_all(&mut self, batch: &Batch<'_>) -> io::Result<()> {
        let table = mem::take(&mut self.table);
        let mut pieces = batch.pieces_in(recycle(table))?;
        self.put_pieces(&mut pieces)?;
        self.table = recycle(pieces);
        Ok(())
    }

    /// Writes all of `pieces` to the sink.
    fn put_pieces(&mut self, pieces: &mut [Piece<'_>]) -> io::Result<()> {
        let mut rest = pieces;
        let mut since: Option<Instant> = None;
        while !rest.is_empty() {
            match self.sink.put(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => {
                    rest = advance(rest, taken).ok_or_else(|| invalid_count(taken))?;
                    *self.written = self.written.plus(taken as u64)?;
                    since = None;
                    if !rest.is_empty() {
                        self.check_limits()?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.check_limits()?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let Some(fd) = self.sink.waits_on() else { return Err(error) };
                    let start = *since.get_or_insert_with(Instant::now);
                    wait_until_writable(fd, start, self.control, self.limits)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Checks the cancel handle and the deadline.
    ///
    /// # Errors
    /// Returns an error if the dump was cancelled or the deadline has passed.
    fn check_limits(&self) -> io::Result<()> {
        self.control.check_cancelled()?;
        match self.limits.deadline {
            Some(deadline) if deadline <= Instant::now() => Err(deadline_passed()),
            _ => Ok(()),
        }
    }
}

fn invalid_count(taken: usize) -> io::Error {
    let message =
        format!("the sink returned {taken} as the number of bytes taken, more than it was given");
    Error::new(ErrorKind::Output, message).into()
}

fn deadline_passed() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the deadline has passed")
}

/// Waits until the descriptor takes bytes or fails; the next write reports which. The descriptor has taken no bytes
/// since `start`.
///
/// # Errors
/// Returns an error if the dump is cancelled or a time limit is exceeded.
fn wait_until_writable(
    fd: BorrowedFd<'_>,
    start: Instant,
    control: &Control,
    limits: TimeLimits,
) -> io::Result<()> {
    loop {
        control.check_cancelled()?;
        let to_deadline = limits.deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let to_stall = limits.stall.map(|stall| stall.saturating_sub(start.elapsed()));
        if to_deadline.is_some_and(|left| left.is_zero()) {
            return Err(deadline_passed());
        }
        if to_stall.is_some_and(|left| left.is_zero()) {
            let stall = limits.stall.unwrap_or_default();
            let message = format!("the reader took no bytes for {stall:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        let to_check = control.cancel.is_some().then_some(CANCEL_CHECK_INTERVAL);
        let wait = [to_deadline, to_stall, to_check].into_iter().flatten().min();
        // If the time is too long for the system, `poll` waits without a limit.
        let spec = wait.and_then(|wait| Timespec::try_from(wait).ok());
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], spec.as_ref()) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapts_the_length_of_batches_to_the_sink() {
        let mut room = FIRST_BATCH_BYTES;
        for expected in [1 << 20, 4 << 20, 8 << 20, 8 << 20] {
            room = next_room(room, Duration::from_millis(1));
            assert_eq!(room, expected);
        }
        assert_eq!(next_room(room, Duration::from_millis(100)), room);
        for _ in 0..7 {
            let slower = next_room(room, Duration::from_secs(1));
            assert_eq!(slower, room / 2);
            room = slower;
        }
        assert_eq!(next_room(room, Duration::from_secs(9)), 64 << 10);
    }
}
