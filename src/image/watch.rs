//! Whether image files were written to while a dump was made of them: what the *changing* mark says.
//!
//! The question is asked when the scan begins and when the last byte of an image has been fetched. The
//! answer is certain on local file systems ([`Writers`]): nobody has the file open for writing at either
//! moment, and whoever wrote in between left a [`Trace`]. A writer that keeps a mapping but not its descriptor
//! is seen at the end.
//!
//! Where one of these is missing (another user's file, a network file system, no inotify instance left),
//! the length and times of the file decide. They miss a write through a mapping whose page was already
//! writable: docs/reliability.md says so.
//!
//! Nothing of this is needed for a dump to be valid: bytes that may change are fetched once. So whatever
//! fails here only makes the answer less certain.
//!
//! # Traces
//! A modification time that is a few seconds old is a trace: the next write changes it. A writer that sets it back
//! escapes. inotify reports every write, and every close of a descriptor that was open for writing, also where the
//! time is too recent, or on tmpfs, which does not see a write through a mapping. But closing an inotify instance
//! waits up to 15 ms for the kernel's read-copy-update, so one is made only if a file needs it.
//!
//! # Read-only file systems
//! The pages of an image on a read-only file system are lent, and a dump of them is damaged if somebody makes the
//! file system writable, writes to the image, and makes it read-only again before the end, when only a look at the
//! file system is left. The kernel refuses to make a file system read-only while a file is open for writing, a
//! writable mapping included. So each writer has left its trace by then. Those of these images that need inotify
//! have an instance of their own, which no busy writer of another image can make overflow. An image that can't be
//! watched is not lent.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use super::backend::answers::Writers;
use super::backend::events::Events;
use super::backend::file_system::{is_unnamed_memory, updates_times_on_write};
use super::backend::fixed::is_on_read_only_file_system;
use super::backend::leases::writers_of;
use super::change::Change;
use super::memory_image::MemoryImage;
use crate::error::{Error, ErrorKind, Result};

/// How old the times of a file must be for the next write to change them: vfat counts in steps of two seconds, others
/// in ticks of the kernel.
const SETTLED: Duration = Duration::from_secs(4);

/// Watches the image files of a dump.
#[derive(Default)]
pub(crate) struct Watch {
    events: Option<Events>,
    /// Watches the images that are lent because their file system is read-only.
    guards: Option<Events>,
    /// One for each image.
    images: Vec<Watched>,
}

/// What is known of one image.
#[derive(Default)]
struct Watched {
    /// As it was at first; `None` if it is no file, or one that cannot change.
    start: Option<Start>,
    /// The code of the worst change that was seen; 0 is none.
    worst: AtomicU8,
    /// What is watched of an image that is lent because its file system is read-only.
    guard: Option<Guard>,
}

/// A file on a read-only file system.
struct Guard {
    version: Version,
    trace: Trace,
    was_written: AtomicBool,
}

/// A file when the scan began.
struct Start {
    /// Whether it is memory that had no name, whose writers the kernel does not count.
    is_unnamed: bool,
    writers: Writers,
    version: Option<Version>,
    /// `None` if a writer may leave none.
    trace: Option<Trace>,
}

/// What shows that a file was written to by somebody who has closed it since.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trace {
    /// Its modification time.
    Times,
    /// Events with this number.
    Events(i32),
}

impl Trace {
    /// Whether events with this number, or with `None` of all files, are of the file.
    fn is_of_event(self, number: Option<i32>) -> bool {
        matches!(self, Self::Events(own) if number.is_none_or(|number| number == own))
    }
}

/// The length of a file and the times of its last change, in seconds and nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(file: &File) -> Option<Self> {
        let m = file.metadata().ok()?;
        let modified = (m.mtime(), m.mtime_nsec());
        Some(Self { len: m.len(), modified, changed: (m.ctime(), m.ctime_nsec()) })
    }

    /// Whether the next write gives the file other times.
    fn is_settled(&self) -> bool {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let limit = since_epoch.ok().and_then(|now| now.checked_sub(SETTLED));
        let limit = limit.and_then(|limit| i64::try_from(limit.as_secs()).ok());
        limit.is_some_and(|limit| self.modified.0 < limit && self.changed.0 < limit)
    }

    /// Whether the file has not been written to since it was `other`. The change time is not compared: a new name
    /// changes it too.
    fn has_contents_of(&self, other: &Self) -> bool {
        (self.len, self.modified) == (other.len, other.modified)
    }
}

/// Returns the trace that a writer of `file` leaves; `None` if it may leave none. Makes `events` for the first file
/// that needs them.
fn trace(
    events: &OnceLock<Option<Events>>,
    file: &File,
    version: Option<&Version>,
) -> Option<Trace> {
    if updates_times_on_write(file) && version.is_some_and(Version::is_settled) {
        return Some(Trace::Times);
    }
    let events = events.get_or_init(Events::new).as_ref()?;
    events.add(file).map(Trace::Events)
}

impl Watch {
    /// Watches the files of `images` from now on.
    pub(crate) fn begin<'i>(images: impl Iterator<Item = &'i MemoryImage<'i>>) -> Self {
        let (events, guards) = (OnceLock::new(), OnceLock::new());
        let start = |file| {
            let version = Version::of(file);
            // In this order: whoever opens the file after the question about writers leaves a trace.
            let trace = trace(&events, file, version.as_ref());
            let is_unnamed = is_unnamed_memory(file);
            Start { is_unnamed, writers: writers_of(file), version, trace }
        };
        let guard = |file| {
            let version = Version::of(file)?;
            let trace = trace(&guards, file, Some(&version))?;
            Some(Guard { version, trace, was_written: AtomicBool::new(false) })
        };
        let watched = |image: &'i MemoryImage<'i>| {
            let assumed = image.is_changing().then_some(Change::Assumed);
            Watched {
                start: image.changeable_file().map(start),
                worst: AtomicU8::new(assumed.map_or(0, Change::code)),
                guard: image.guarded_file().and_then(guard),
            }
        };
        let images = images.map(watched).collect();
        let [events, guards] = [events, guards].map(|events| events.into_inner().flatten());
        Self { events, guards, images }
    }

    /// Looks for changes since the beginning; `images` are those of [`begin`](Self::begin).
    pub(crate) fn look<'i>(&self, images: impl Iterator<Item = &'i MemoryImage<'i>>) {
        if self.images.iter().all(|watched| watched.start.is_none()) {
            return;
        }
        // Before the events are read: a writer that is gone by now has left one.
        let end: Vec<_> = images
            .map(|image| image.changeable_file().map(|file| (writers_of(file), Version::of(file))))
            .collect();
        self.read_events();
        for (watched, end) in self.images.iter().zip(end) {
            if let (Some(start), Some((writers, version))) = (&watched.start, end) {
                watched.compare(start, writers, version);
            }
        }
    }

    /// Whether a write to image `i` is seen although its file system was read-only.
    pub(crate) fn is_guarded(&self, i: usize) -> bool {
        self.images.get(i).is_some_and(|watched| watched.guard.is_some())
    }

    /// Checks that the images that are lent because their file system is read-only could not change since the
    /// beginning; `images` are those of [`begin`](Self::begin).
    ///
    /// # Errors
    /// Returns the position of an image that could, and an error: the bytes that were sent may not be those of the
    /// checksums.
    pub(crate) fn check_guarded<'i>(
        &self,
        images: impl Iterator<Item = &'i MemoryImage<'i>>,
    ) -> Result<(), (usize, Error)> {
        let guarded = || self.images.iter().map(|watched| &watched.guard);
        if guarded().all(Option::is_none) {
            return Ok(());
        }
        // Before the events are read: what is read-only again has left one.
        let now: Vec<_> = images
            .map(|image| {
                image
                    .guarded_file()
                    .map(|file| (is_on_read_only_file_system(file), Version::of(file)))
            })
            .collect();
        if let Some(events) = &self.guards {
            events.read(|number, _| {
                for guard in guarded().flatten() {
                    if guard.trace.is_of_event(number) {
                        guard.was_written.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
        for (i, (guard, now)) in guarded().zip(now).enumerate() {
            let (Some(guard), Some((is_read_only, version))) = (guard, now) else { continue };
            let was_written = guard.was_written.load(Ordering::Relaxed);
            if !is_read_only || was_written || version != Some(guard.version) {
                let message = "the file system of the image became writable while it was dumped";
                return Err((i, Error::new(ErrorKind::Image, message)));
            }
        }
        Ok(())
    }

    fn read_events(&self) {
        let Some(events) = &self.events else { return };
        events.read(|number, change| {
            for watched in &self.images {
                let trace = watched.start.as_ref().and_then(|start| start.trace);
                if trace.is_some_and(|trace| trace.is_of_event(number)) {
                    watched.add(change);
                }
            }
        });
    }

    /// The worst change of each image so far.
    pub(crate) fn changes(&self) -> impl Iterator<Item = Option<Change>> {
        self.images.iter().map(|watched| Change::from_code(watched.worst.load(Ordering::Relaxed)))
    }
}

impl Watched {
    fn compare(&self, start: &Start, writers: Writers, version: Option<Version>) {
        let is_any = |answer: Writers| [start.writers, writers].contains(&answer);
        if start.is_unnamed || is_any(Writers::Some) {
            self.add(Change::Writable);
        }
        let (Some(before), Some(after)) = (start.version, version) else { return };
        let is_same = match start.trace.filter(|_| !is_any(Writers::Unknown)) {
            Some(Trace::Times) => after.has_contents_of(&before),
            Some(Trace::Events(_)) => true,
            None => after == before,
        };
        if !is_same {
            self.add(Change::Written);
        }
    }

    fn add(&self, change: Change) {
        self.worst.fetch_max(change.code(), Ordering::Relaxed);
    }
}
