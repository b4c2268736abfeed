//! The one loop that moves a dump from the images to a sink, and sums it up on the way.
//!
//! While the sink takes a batch, a helper thread makes the checksums of the same batch, if its bytes cannot change. Where
//! they have to be copied, the helper fetches and sums up the next batch meanwhile, so that the copy costs time, but
//! hardly any that the sink has to wait for.
//!
//! The invariant that makes the order simple: when a batch is sent, everything before it is summed up, and it is itself
//! summed up already if it was copied, else while it is sent. At most one batch is ahead.
//!
//! Short writes, interrupted ones, waiting, timeouts and cancelling are dealt with here and nowhere else: a sink takes what
//! it can and says how much that was.

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
use crate::piece::{Piece, advance, emptied};
use crate::pieces::{Pieces, Reader};
use crate::plan::Plan;
use crate::sink::{FileSink, Sink};

/// Bytes of a dump that is written before another thread could have been started.
const SMALL_DUMP: u64 = 64 << 10;
/// Bytes that are summed up before another thread could have been woken.
const SMALL_BATCH: u64 = 64 << 10;
/// Bytes that a sink is given at once, at least and at most.
const BATCH_BYTES: RangeInclusive<u64> = 64 << 10..=MAX_BATCH_BYTES;
/// Bytes that a sink is given at first.
const FIRST_BATCH_BYTES: u64 = 256 << 10;
/// How long a sink may take for a batch: where it takes less, the next one is larger, where it takes
/// more, smaller. The end is four times the start: what took less than that may be four times as long.
const BATCH_TIME: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_millis(200);
/// How long to wait before the flag that stops the dump is looked at again.
const LOOK: Duration = Duration::from_millis(100);

/// Writes a plan, made by [`Plan::writer`]. What stops and watches it is its own: the same plan can be written again
/// by another writer.
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
    limits: Limits,
    /// Whether a sink may block although the work can be stopped.
    may_block: bool,
}

/// How long a sink may be waited for.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    /// For as long as it takes nothing.
    stall: Option<Duration>,
    /// For all of the dump.
    deadline: Option<Instant>,
}

impl<'p> Writer<'p> {
    fn new(plan: &'p Plan<'p>) -> Self {
        Self { plan, control: plan.control.clone(), limits: Limits::default(), may_block: false }
    }

    /// Sets what stops the work: writing then fails with [`ErrorKind::Cancelled`], and nothing is left behind. The default is
    /// that of the [`Dumper`](crate::Dumper::cancel).
    ///
    /// It is looked at every few megabytes, whenever a sink has taken a part of what it was given, and several times a
    /// second where a sink is waited for. A sink that waits itself is waited for.
    pub fn cancel(mut self, cancel: Option<Cancel>) -> Self {
        self.control.cancel = cancel;
        self
    }

    /// Sets whether a [`PipeSink`](crate::PipeSink) or [`SocketSink`](crate::SocketSink) may block although the work can be stopped, which is
    /// faster: what stops the work is then not looked at before the reader has taken something. Without anything that
    /// stops it, a sink may block anyway; with a time limit it never may.
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

    /// Sets who is told how far it has come ([`Dumper::progress`](crate::Dumper::progress), which is the default).
    pub fn progress(mut self, watcher: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.control.watcher = Some(Arc::new(watcher));
        self
    }

    /// Sets how long to wait for a reader that takes nothing; then the dump fails with [`io::ErrorKind::TimedOut`]. `None`,
    /// the default, is for ever, whatever the options of a socket say. A terminal that says that it takes bytes and then
    /// takes none holds a write up all the same. It concerns sinks that can be waited for ([`Sink::waits_on`]).
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

    /// Sets when all of the dump must be written; if it is not, it fails with [`io::ErrorKind::TimedOut`]. It is looked at
    /// between two batches, and while a sink is waited for ([`Sink::waits_on`]).
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

    /// Streams the dump to `sink`, straight from images that cannot change and through a small buffer from
    /// others ([`MemoryImage`](crate::MemoryImage#files-that-change)).
    ///
    /// # Errors
    /// The sink fails; the error says how many bytes it has taken. An image file has become
    /// shorter, or its file system writable. The work was cancelled, or took too long.
    pub fn write_to<S: Sink + ?Sized>(&self, sink: &mut S) -> Result<()> {
        let mut written = 0;
        without_sigxfsz(|| self.stream(sink, &mut written))
            .map_err(|source| self.failed_after(written, source))
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
        let mut stream = Stream { output, checksums, helper: self.helper(), meter };
        let mut batch = stream.run(&mut batches)?;
        let Stream { mut output, checksums, meter, .. } = stream;
        batches.begin_index(checksums)?;
        loop {
            // Nothing that was stopped gets an index.
            output.check()?;
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

    /// A thread for the checksums and for copies, where it is worth one and the system gives one.
    fn helper(&self) -> Option<ThreadPool> {
        let plan = self.plan;
        let any_work = plan.index.blocks > 0 || plan.has_copies();
        let worth = plan.stats().threads > 1 && any_work && plan.len() > SMALL_DUMP;
        let pool = worth.then(|| ThreadPoolBuilder::new().num_threads(1).build());
        pool.and_then(std::result::Result::ok)
    }

    fn failed_after(&self, written: u64, source: io::Error) -> Error {
        // An image that was cut makes a read end early and a write fail with EFAULT: say what was
        // behind it. Other errors of an image say so themselves.
        if let Err(image) = self.plan.check_images() {
            return image;
        }
        // A sink that has seen the flag ends with an error, whichever it is.
        if let Err(cancelled) = self.control.check_cancelled() {
            return cancelled;
        }
        source.downcast::<Error>().unwrap_or_else(|source| {
            let message = format!("{written} of {} bytes written", self.plan.len());
            Error::io(ErrorKind::Output, message, source)
        })
    }

    /// Returns the dump in one vector.
    ///
    /// # Errors
    /// Returns an error if there is no memory for it ([`ErrorKind::OutOfMemory`]), or if an image file has become shorter.
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        let out_of_memory = || Error::out_of_memory("a vector for the whole dump");
        let len = usize::try_from(self.plan.len()).map_err(|_| out_of_memory())?;
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
    /// It can't be written there; then an old file stays and nothing is left behind. A dump that is finished and
    /// can't be given its name is kept under another ([`Error::kept_file`]).
    pub fn write_file(&self, path: impl AsRef<Path>, options: FileOptions) -> Result<()> {
        let path = path.as_ref();
        let failed = |what: &str, source| {
            Error::io(ErrorKind::Output, format!("{}: {what}", path.display()), source)
        };
        let sync = options.is_synced();
        let file = AtomicFile::create(path, options).map_err(|e| failed("cannot create", e))?;
        self.write_to(&mut FileSink::new(file.file())).map_err(|error| error.at(path.display()))?;
        let meter = sync.then(|| self.control.begin(Stage::Sync, self.plan.len()));
        file.commit().map_err(|error| error.at(path, "dump", ErrorKind::Output))?;
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
    /// Returns a writer of the dump, with a flag, a callback and time limits of its own.
    pub fn writer(&self) -> Writer<'_> {
        Writer::new(self)
    }

    /// Returns the pieces of the dump, to be pulled.
    ///
    /// # Errors
    /// Returns an error if there is no memory for the table of checksums.
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

    /// Returns the bytes of the dump, to be pulled: for an asynchronous runtime, or whatever takes a [`Read`](io::Read).
    ///
    /// # Errors
    /// Returns an error if there is no memory for the table of checksums.
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

    /// Streams the dump to `sink`, as [`Writer::write_to`].
    ///
    /// # Errors
    /// Those of [`Writer::write_to`].
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

    /// Returns the dump in one vector, as [`Writer::to_vec`] does.
    ///
    /// # Errors
    /// Those of [`Writer::to_vec`].
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        self.writer().to_vec()
    }

    /// Writes the dump to a new file, as [`Writer::write_file`].
    ///
    /// # Errors
    /// `path` exists; otherwise those of [`Writer::write_file`].
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

    /// Like [`write_file`](Self::write_file), with options.
    ///
    /// # Errors
    /// Those of [`Writer::write_file`].
    pub fn write_file_with(&self, path: impl AsRef<Path>, options: FileOptions) -> Result<()> {
        self.writer().write_file(path, options)
    }
}

/// A dump on its way: to the sink, and past the checksums.
struct Stream<'s, S: ?Sized> {
    output: Output<'s, S>,
    checksums: Checksums,
    /// Sums up, and copies, while the sink is busy.
    helper: Option<ThreadPool>,
    meter: Meter<'s>,
}

impl<S: Sink + ?Sized> Stream<'_, S> {
    /// Sends everything before the index; returns the batch in which it did so, to be used again.
    fn run<'p>(&mut self, batches: &mut Batches<'p>) -> io::Result<Batch<'p>> {
        let (mut batch, mut next) = (Batch::default(), Batch::default());
        let mut room = FIRST_BATCH_BYTES;
        // Whether the batch is summed up, and its bytes are fetched if they are copied.
        let mut is_prepared = false;
        let mut start = Instant::now();
        batches.fill(&mut batch, room)?;
        loop {
            self.output.check()?;
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

    /// Sends a batch that nobody can change, and sums it up.
    fn send(&mut self, batch: &Batch<'_>) -> io::Result<()> {
        let (checksums, output) = (&mut self.checksums, &mut self.output);
        match &self.helper {
            Some(helper) if checksums.are_wanted() && batch.len() > SMALL_BATCH => helper
                .in_place_scope(|scope| {
                    scope.spawn(|_| batch.sum_up(checksums));
                    output.put_all(batch)
                }),
            _ => {
                batch.sum_up(checksums);
                output.put_all(batch)
            }
        }
    }

    /// Sends a copy that is prepared, and prepares `next` meanwhile if it is one.
    fn send_copied(&mut self, batch: &Batch<'_>, next: &mut Batch<'_>) -> io::Result<()> {
        let (checksums, output) = (&mut self.checksums, &mut self.output);
        let mut prepared = Ok(());
        let sent = match &self.helper {
            _ if !next.is_copied() => output.put_all(batch),
            Some(helper) if next.len() > SMALL_BATCH => helper.in_place_scope(|scope| {
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

/// The bytes of the next batch, after one of `room` bytes that took so long: through a slow sink too
/// there is something to tell several times a second, and a moment to stop in.
fn next_room(room: u64, took: Duration) -> u64 {
    let next = if took < *BATCH_TIME.start() {
        // No larger than `clamp` lets it be.
        room.saturating_mul(4)
    } else if took > *BATCH_TIME.end() {
        room / 2
    } else {
        room
    };
    next.clamp(*BATCH_BYTES.start(), *BATCH_BYTES.end())
}

/// A sink, and how long it may be waited for.
struct Output<'s, S: ?Sized> {
    sink: &'s mut S,
    /// Bytes that it has taken.
    written: &'s mut u64,
    control: &'s Control,
    limits: Limits,
    /// An empty table, for the pieces of the next batch.
    table: Vec<Piece<'s>>,
}

impl<S: Sink + ?Sized> Output<'_, S> {
    /// Puts all of a batch.
    fn put_all(&mut self, batch: &Batch<'_>) -> io::Result<()> {
        let table = mem::take(&mut self.table);
        let mut pieces = batch.pieces_in(emptied(table))?;
        self.put_pieces(&mut pieces)?;
        self.table = emptied(pieces);
        Ok(())
    }

    fn put_pieces(&mut self, pieces: &mut [Piece<'_>]) -> io::Result<()> {
        let mut rest = pieces;
        let mut since: Option<Instant> = None;
        while !rest.is_empty() {
            match self.sink.put(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => {
                    rest = advance(rest, taken).ok_or_else(|| took_too_many(taken))?;
                    *self.written = self.written.plus(taken as u64)?;
                    since = None;
                    if !rest.is_empty() {
                        self.check()?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.check()?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let Some(fd) = self.sink.waits_on() else { return Err(error) };
                    let start = *since.get_or_insert_with(Instant::now);
                    wait(fd, start, self.control, self.limits)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// # Errors
    /// The work was cancelled, or takes too long.
    fn check(&self) -> io::Result<()> {
        self.control.check_cancelled()?;
        match self.limits.deadline {
            Some(deadline) if deadline <= Instant::now() => Err(missed()),
            _ => Ok(()),
        }
    }
}

fn took_too_many(taken: usize) -> io::Error {
    let message =
        format!("the sink says that it took {taken} bytes, which is more than it was given");
    Error::new(ErrorKind::Output, message).into()
}

fn missed() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the deadline has passed")
}

/// Waits until the descriptor takes bytes, or is broken, which the next write tells; it has taken none since `start`.
fn wait(fd: BorrowedFd<'_>, start: Instant, control: &Control, limits: Limits) -> io::Result<()> {
    loop {
        control.check_cancelled()?;
        let to_deadline = limits.deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let to_stall = limits.stall.map(|stall| stall.saturating_sub(start.elapsed()));
        if to_deadline.is_some_and(|left| left.is_zero()) {
            return Err(missed());
        }
        if to_stall.is_some_and(|left| left.is_zero()) {
            let stall = limits.stall.unwrap_or_default();
            let message = format!("nothing was taken for {stall:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        let look = control.cancel.is_some().then_some(LOOK);
        let wait = [to_deadline, to_stall, look].into_iter().flatten().min();
        // A time that is too long for the system is none.
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
    fn batches_follow_the_sink() {
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
