//! Progress and cancellation of long operations.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::error::{Error, Result};

/// A handle that cancels an operation from any thread, with a reason.
///
/// Clones cancel the same operation. A signal handler must not call [`cancel`](Self::cancel), which allocates. It can
/// set an `AtomicBool` from which a `Cancel` [was made](Self::from).
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
///
/// use corestream::Cancel;
///
/// let cancel = Cancel::new();
/// cancel.clone().cancel("the host shuts down");
/// assert!(cancel.is_cancelled());
/// assert_eq!(cancel.reason(), Some("the host shuts down"));
///
/// // A flag that a signal handler sets, without a reason.
/// let flag = Arc::new(AtomicBool::new(false));
/// let cancel = Cancel::from(flag.clone());
/// flag.store(true, Ordering::Relaxed);
/// assert!(cancel.is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
    reason: Arc<OnceLock<String>>,
}

impl Cancel {
    /// Returns a handle that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels the operation. `reason` is one line without a full stop. Only the first reason is kept.
    pub fn cancel(&self, reason: impl Into<String>) {
        // Fails if a reason is set already: the first one is kept.
        let _ = self.reason.set(reason.into());
        self.flag.store(true, Ordering::Release);
    }

    /// Returns whether the operation was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Returns the reason given to [`cancel`](Self::cancel), if any.
    pub fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }
}

impl From<Arc<AtomicBool>> for Cancel {
    fn from(flag: Arc<AtomicBool>) -> Self {
        Self { flag, reason: Arc::default() }
    }
}

/// The stage of an operation that a [`Progress`] reports on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Scanning the images. Counts the bytes of all images. Bytes that are known to be zero or are excluded count as
    /// done when the scan skips them.
    Scan,
    /// Writing the dump. Counts the bytes of the dump.
    Write,
    /// Syncing the dump to disk ([`FileOptions::sync`](crate::FileOptions::sync)). Counts the bytes of the dump, which
    /// become done all at once.
    Sync,
    /// Verifying a dump. Counts the bytes of the dump. For a stream, the total is the length in the dump's header.
    Verify,
    /// Opening a dump. Counts the bytes of the dump. Bytes that need not be read count as done when they are skipped.
    Open,
    /// Restoring a memory of a dump. Counts the bytes of the memory that the dump contains.
    Restore,
}

/// The progress of an operation on a dump, as reported to [`Dumper::progress`](crate::Dumper::progress) and
/// [`OpenOptions::progress`](crate::read::OpenOptions::progress).
///
/// ```
/// use corestream::{CoreDump, Dumper, Progress, Stage};
///
/// fn show(progress: Progress) {
///     let stage = match progress.stage {
///         Stage::Scan => "scanning",
///         Stage::Write => "writing",
///         _ => "working",
///     };
///     println!("{stage}: {} of {} bytes", progress.done, progress.total);
/// }
///
/// let dump = CoreDump::new("guest.wasm");
/// Dumper::new().progress(show).plan(&dump)?.write_to(&mut std::io::sink())?;
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Progress {
    /// The current stage.
    pub stage: Stage,
    /// The number of bytes done in this stage: 0 at its start, `total` once it has succeeded.
    pub done: u64,
    /// The exact number of bytes of this stage. It is `u64::MAX` for a scan of 2^64 bytes or more.
    pub total: u64,
}

/// The callback that receives progress reports.
type Watcher = dyn Fn(Progress) + Send + Sync;

/// The cancel handle and the progress callback of an operation.
#[derive(Clone, Default)]
pub(crate) struct Control {
    pub(crate) cancel: Option<Cancel>,
    pub(crate) watcher: Option<Arc<Watcher>>,
}

impl Control {
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(Cancel::is_cancelled)
    }

    /// Returns the error of a cancelled operation.
    pub(crate) fn cancelled(&self) -> Error {
        Error::cancelled(self.cancel.as_ref().and_then(Cancel::reason))
    }

    /// Checks the cancel handle.
    ///
    /// # Errors
    /// Returns an error if the operation was cancelled.
    pub(crate) fn check_cancelled(&self) -> Result<()> {
        match self.is_cancelled() {
            true => Err(self.cancelled()),
            false => Ok(()),
        }
    }

    /// Begins a stage of `total` bytes and reports its start.
    pub(crate) fn begin(&self, stage: Stage, total: u64) -> Meter<'_> {
        let meter = Meter {
            watcher: self.watcher.as_deref(),
            stage,
            total,
            done: AtomicU64::new(0),
            reporting: Mutex::new(()),
        };
        meter.report();
        meter
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("cancel", &self.cancel)
            .field("is_watched", &self.watcher.is_some())
            .finish()
    }
}

/// The number of steps between two checks of the cancel handle.
const STEPS: u32 = 4096;

/// The number of bytes of a dump between two checks: 64 KiB. The length of an item varies from two bytes to megabytes,
/// so counting items alone is not enough.
const BYTES: u64 = 1 << 16;

/// Checks the cancel handle at intervals, and reports progress.
///
/// A check reads an atomic that another thread may write. Inner loops call [`step`](Self::step) for every item, so they
/// must not pay for that each time.
pub(crate) struct CancelCheck<'c> {
    control: &'c Control,
    /// The meter, and the offset up to which bytes were reported to it.
    meter: Option<(&'c Meter<'c>, u64)>,
    /// The number of steps until the next check.
    left: u32,
    /// The offset at which the next check is due.
    next: u64,
}

impl<'c> CancelCheck<'c> {
    /// Returns a check without progress reports.
    pub(crate) fn new(control: &'c Control) -> Self {
        Self { control, meter: None, left: STEPS, next: BYTES }
    }

    /// Returns a check that also reports progress within a dump ([`step_at`](Self::step_at)).
    pub(crate) fn with_meter(control: &'c Control, meter: &'c Meter<'c>) -> Self {
        Self { meter: Some((meter, 0)), ..Self::new(control) }
    }

    /// Counts a step.
    ///
    /// # Errors
    /// Returns an error if the operation was cancelled.
    #[inline]
    pub(crate) fn step(&mut self) -> Result<()> {
        match self.is_due() {
            true => self.control.check_cancelled(),
            false => Ok(()),
        }
    }

    /// Reports that all bytes before `offset` are done.
    ///
    /// # Errors
    /// Returns an error if the operation was cancelled.
    #[inline]
    pub(crate) fn step_at(&mut self, offset: u64) -> Result<()> {
        match offset < self.next {
            true => Ok(()),
            false => self.report_at(offset),
        }
    }

    /// Records that the input is at `offset`, without a progress report.
    ///
    /// # Errors
    /// Returns an error if the operation was cancelled.
    #[inline]
    pub(crate) fn pass(&mut self, offset: u64) -> Result<()> {
        match offset < self.next {
            true => Ok(()),
            false => self.check_at(offset),
        }
    }

    #[cold]
    fn check_at(&mut self, offset: u64) -> Result<()> {
        // An input that is this close to the last offset needs no further check.
        self.next = offset.saturating_add(BYTES);
        self.control.check_cancelled()
    }

    #[cold]
    fn report_at(&mut self, offset: u64) -> Result<()> {
        if let Some((meter, reported)) = &mut self.meter
            && let Some(more) = offset.checked_sub(*reported)
        {
            meter.add(more);
            *reported = offset;
        }
        self.check_at(offset)
    }

    /// Counts a step and returns whether a check is due.
    #[inline]
    fn is_due(&mut self) -> bool {
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(STEPS);
        left.is_none()
    }
}

/// Counts the bytes that the threads of one stage have done, and reports them.
pub(crate) struct Meter<'c> {
    watcher: Option<&'c Watcher>,
    stage: Stage,
    total: u64,
    done: AtomicU64,
    /// Held by the thread that calls the watcher.
    reporting: Mutex<()>,
}

impl Meter<'_> {
    /// Adds `bytes` to the bytes done, and reports.
    pub(crate) fn add(&self, bytes: u64) {
        if self.watcher.is_some() {
            self.done.fetch_add(bytes, Ordering::Relaxed);
            self.report();
        }
    }

    /// Reports that all bytes are done. All threads must have finished.
    pub(crate) fn finish(&self) {
        self.done.store(self.total, Ordering::Relaxed);
        self.report();
    }

    /// Calls the watcher with the current count.
    ///
    /// Only one thread at a time does so, so that the reported counts never decrease. The others skip the report
    /// instead of waiting: a later report includes their bytes.
    fn report(&self) {
        if let Some(watcher) = self.watcher
            && let Ok(_reporting) = self.reporting.try_lock()
        {
            let done = self.done.load(Ordering::Relaxed).min(self.total);
            watcher(Progress { stage: self.stage, done, total: self.total });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn reports_of_several_threads_never_decrease() {
        let (reports, all) = mpsc::channel();
        let watcher = move |progress| reports.send(progress).unwrap();
        let control = Control { watcher: Some(Arc::new(watcher)), ..Control::default() };
        let meter = control.begin(Stage::Scan, 8_000);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1_000).for_each(|_| meter.add(1)));
            }
        });
        assert_eq!(meter.done.load(Ordering::Relaxed), 8_000);
        meter.finish();
        drop(control);
        let all: Vec<Progress> = all.iter().collect();
        assert!(all.iter().all(|p| p.stage == Stage::Scan && p.total == 8_000));
        assert!(all.is_sorted_by_key(|p| p.done));
        assert_eq!((all[0].done, all[all.len() - 1].done), (0, 8_000));
    }
}
