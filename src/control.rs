//! How a dump under way is watched and stopped: progress and cancelling.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::error::{Error, Result};

/// Stops work that is under way, from any thread, and says why. Clones stop the same work. A signal handler must not call
/// [`cancel`](Self::cancel), which allocates; it can set a flag that one of these is made [from](Self::from).
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
/// // A flag that a signal handler sets; it has no reason.
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
    /// Returns one that has not stopped anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the work. The first reason counts, one line without a full stop.
    pub fn cancel(&self, reason: impl Into<String>) {
        // Another reason was first.
        let _ = self.reason.set(reason.into());
        self.flag.store(true, Ordering::Release);
    }

    /// Whether the work is to stop.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Why it is, if that was said.
    pub fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }
}

impl From<Arc<AtomicBool>> for Cancel {
    fn from(flag: Arc<AtomicBool>) -> Self {
        Self { flag, reason: Arc::default() }
    }
}

/// What work on a dump is about; the example of [`Progress`] shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// The images are scanned. Bytes are those of all images: what is known to be zero, or left out,
    /// counts when it is passed over.
    Scan,
    /// The dump is written. Bytes are those of the dump.
    Write,
    /// What was written is brought to disk ([`FileOptions::sync`](crate::FileOptions::sync)). Bytes
    /// are those of the dump; none of them is done until all are.
    Sync,
    /// A dump is verified. Bytes are those of the dump, or of a stream as many as it says it has.
    Verify,
    /// A dump is opened. Bytes are those of the dump: what need not be read counts when it is passed over.
    Open,
    /// A memory of a dump is restored. Bytes are those of the memory that lie in the dump.
    Restore,
}

/// How far work on a dump has come, for [`Dumper::progress`](crate::Dumper::progress) and
/// [`OpenOptions::progress`](crate::read::OpenOptions::progress).
///
/// ```
/// use corestream::{CoreDump, Dumper, Progress, Stage};
///
/// fn show(progress: Progress) {
///     let what = match progress.stage {
///         Stage::Scan => "scanning",
///         Stage::Write => "writing",
///         _ => "working",
///     };
///     println!("{what}: {} of {} bytes", progress.done, progress.total);
/// }
///
/// let dump = CoreDump::new("guest.wasm");
/// Dumper::new().progress(show).plan(&dump)?.write_to(&mut std::io::sink())?;
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Progress {
    /// What it is about.
    pub stage: Stage,
    /// The bytes that are done in this stage: 0 when it begins, all when it has succeeded.
    pub done: u64,
    /// The bytes of this stage, exactly, unless a scan is of images with more bytes than 64 bits can count.
    pub total: u64,
}

/// Who is told how far it has come.
type Watcher = dyn Fn(Progress) + Send + Sync;

/// Who watches the work, and whether it is to go on.
#[derive(Clone, Default)]
pub(crate) struct Control {
    /// Stops the work when it becomes true.
    pub(crate) cancel: Option<Cancel>,
    pub(crate) watcher: Option<Arc<Watcher>>,
}

impl Control {
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(Cancel::is_cancelled)
    }

    /// The error of work that was cancelled.
    pub(crate) fn cancelled(&self) -> Error {
        Error::cancelled(self.cancel.as_ref().and_then(Cancel::reason))
    }

    /// # Errors
    /// The work was cancelled.
    pub(crate) fn check_cancelled(&self) -> Result<()> {
        match self.is_cancelled() {
            true => Err(self.cancelled()),
            false => Ok(()),
        }
    }

    /// Begins a stage of so many bytes.
    pub(crate) fn begin(&self, stage: Stage, total: u64) -> Meter<'_> {
        let meter = Meter {
            watcher: self.watcher.as_deref(),
            stage,
            total,
            done: AtomicU64::new(0),
            telling: Mutex::new(()),
        };
        meter.tell();
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

/// Steps of work after which it looks whether it is cancelled.
const STEPS: u32 = 4096;

/// Bytes of a dump after which it looks: 64 KiB. An item of a list may have megabytes, or only two bytes.
const BYTES: u64 = 1 << 16;

/// Checks now and then whether the work was cancelled, and reports its progress.
pub(crate) struct Lookout<'c> {
    control: &'c Control,
    /// The meter, and the offset up to which it has counted.
    meter: Option<(&'c Meter<'c>, u64)>,
    /// Steps until the next look.
    left: u32,
    /// The offset of the next look.
    next: u64,
}

impl<'c> Lookout<'c> {
    /// Returns one that reports no progress.
    pub(crate) fn new(control: &'c Control) -> Self {
        Self { control, meter: None, left: STEPS, next: BYTES }
    }

    /// Returns one that reports progress within a dump ([`step_at`](Self::step_at)).
    pub(crate) fn with_meter(control: &'c Control, meter: &'c Meter<'c>) -> Self {
        Self { meter: Some((meter, 0)), ..Self::new(control) }
    }

    /// Counts a step.
    ///
    /// # Errors
    /// Returns an error if the work was cancelled.
    #[inline]
    pub(crate) fn step(&mut self) -> Result<()> {
        match self.counts_a_step() {
            true => self.control.check_cancelled(),
            false => Ok(()),
        }
    }

    /// Reports that all bytes before `offset` are done.
    ///
    /// # Errors
    /// Returns an error if the work was cancelled.
    #[inline]
    pub(crate) fn step_at(&mut self, offset: u64) -> Result<()> {
        match offset < self.next {
            true => Ok(()),
            false => self.look_at(offset),
        }
    }

    /// Notes that the input stands at `offset`, without a report.
    ///
    /// # Errors
    /// Returns an error if the work was cancelled.
    #[inline]
    pub(crate) fn pass(&mut self, offset: u64) -> Result<()> {
        match offset < self.next {
            true => Ok(()),
            false => self.look_after(offset),
        }
    }

    #[cold]
    fn look_after(&mut self, offset: u64) -> Result<()> {
        // Beyond all offsets there is nothing to look after.
        self.next = offset.saturating_add(BYTES);
        self.control.check_cancelled()
    }

    #[cold]
    fn look_at(&mut self, offset: u64) -> Result<()> {
        if let Some((meter, told)) = &mut self.meter
            && let Some(more) = offset.checked_sub(*told)
        {
            meter.add(more);
            *told = offset;
        }
        self.look_after(offset)
    }

    /// Counts a step; returns whether it is time to look.
    #[inline]
    fn counts_a_step(&mut self) -> bool {
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(STEPS);
        left.is_none()
    }
}

/// The bytes of one stage, as its threads get them done.
pub(crate) struct Meter<'c> {
    watcher: Option<&'c Watcher>,
    stage: Stage,
    total: u64,
    done: AtomicU64,
    /// Held by the thread that tells.
    telling: Mutex<()>,
}

impl Meter<'_> {
    /// So many bytes more are done.
    pub(crate) fn add(&self, bytes: u64) {
        if self.watcher.is_some() {
            self.done.fetch_add(bytes, Ordering::Relaxed);
            self.tell();
        }
    }

    /// Everything is done, by all threads.
    pub(crate) fn finish(&self) {
        self.done.store(self.total, Ordering::Relaxed);
        self.tell();
    }

    /// One thread at a time tells, so that what is told never goes back; the others have better to do
    /// than to wait for it.
    fn tell(&self) {
        if let Some(watcher) = self.watcher
            && let Ok(_telling) = self.telling.try_lock()
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
    fn many_threads_and_what_is_told_never_goes_back() {
        let (told, all) = mpsc::channel();
        let watcher = move |progress| told.send(progress).unwrap();
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
