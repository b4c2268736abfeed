//! Detects whether image files were written to while a dump was made of them. The result is the *changing* mark of
//! the dump.
//!
//! # The problem
//! A dump of a file that changes is torn, and its reader should know. But no system call reports whether a file was
//! written to between two moments. Leases show the current writers, but not a writer that has closed the file. Times
//! show past writes, but miss a write through a mapping whose page was already writable. inotify reports no writes
//! through mappings.
//!
//! # The idea
//! Ask twice, when the scan begins and when the last byte of an image has been fetched. The answer is certain on
//! local file systems ([`Writers`]): no process has the file open for writing at either moment, and every process
//! that wrote in between left a [`Trace`]. A writer that keeps a mapping but closes its descriptor still counts as a
//! writer at the second moment.
//!
//! If one of these sources is missing (a file of another user, a network file system, no inotify instance available),
//! the length and the times of the file decide. They miss the write through a mapping described above;
//! docs/reliability.md says so.
//!
//! # The invariant
//! The validity of a dump does not depend on this module, except for the last section, because bytes that may change
//! are fetched only once. So a failure here never fails the dump. It only makes the answer less certain.
//!
//! # Traces
//! A modification time that is a few seconds old is a trace: the next write changes it. A writer that sets it back
//! escapes. If the time is too recent, or on tmpfs, which does not notice writes through a mapping, inotify supplies
//! the trace. It reports every call of `write`, and every close of a descriptor that was open for writing.
//!
//! # The cost
//! Closing an inotify instance waits up to 15 ms for the kernel's read-copy-update, a third of the time of a small
//! dump. So an instance is only created if a file needs it. Holding a lease during the whole dump was rejected: it
//! stalls every writer that opens the file.
//!
//! # Read-only file systems
//! A dump lends the pages of an image on a read-only file system. A process could make the file system writable,
//! write to the image, and make the file system read-only again before the dump is finished. Then the dump is
//! damaged, and checking the state of the file system at the end does not show it.
//!
//! But the kernel refuses to make a file system read-only while a file is open for writing, including through a
//! writable mapping. So every such writer has left its trace by then. Images of this kind that need inotify use a
//! separate instance, so that a busy writer of another image cannot make its queue overflow. An image that cannot be
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

/// The minimum age of a file's times at which the next write is certain to change them. vfat counts in steps of two
/// seconds, other file systems in ticks of the kernel.
const MIN_SETTLED_AGE: Duration = Duration::from_secs(4);

/// A watch on the image files of a dump.
#[derive(Default)]
pub(crate) struct Watch {
    events: Option<Events>,
    /// Watches the images that are lent because their file system is read-only.
    guards: Option<Events>,
    /// One element for each image.
    images: Vec<WatchedImage>,
}

/// What is known about one image.
#[derive(Default)]
struct WatchedImage {
    /// The initial state. `None` if the image is not a file, or is a file that cannot change.
    start: Option<InitialState>,
    /// The code of the worst change so far; 0 means no change.
    worst: AtomicU8,
    /// The watch on an image that is lent because its file system is read-only.
    guard: Option<Guard>,
}

/// A file on a read-only file system.
struct Guard {
    version: Version,
    trace: Trace,
    was_written: AtomicBool,
}

/// The state of a file when the scan began.
struct InitialState {
    /// Whether the file is memory without a name, whose writers the kernel does not count.
    is_unnamed: bool,
    writers: Writers,
    version: Option<Version>,
    /// `None` if a writer may leave no trace.
    trace: Option<Trace>,
}

/// The evidence of a write by a process that has closed the file since.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trace {
    /// The modification time of the file.
    Times,
    /// Events with this watch descriptor.
    Events(i32),
}

impl Trace {
    /// Returns `true` if an event with this watch descriptor is about the file. `None` means that the event is about
    /// all files.
    fn matches_event(self, descriptor: Option<i32>) -> bool {
        matches!(self, Self::Events(watched) if descriptor.is_none_or(|descriptor| descriptor == watched))
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

    /// Returns `true` if the next write is certain to change the times of the file.
    fn is_settled(&self) -> bool {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let limit = since_epoch.ok().and_then(|now| now.checked_sub(MIN_SETTLED_AGE));
        let limit = limit.and_then(|limit| i64::try_from(limit.as_secs()).ok());
        limit.is_some_and(|limit| self.modified.0 < limit && self.changed.0 < limit)
    }

    /// Returns `true` if the file has not been written to since the version `other`. This ignores the change time,
    /// because renaming the file changes it too.
    fn has_contents_of(&self, other: &Self) -> bool {
        (self.len, self.modified) == (other.len, other.modified)
    }
}

/// Returns the trace that a writer of `file` leaves, or `None` if it may leave none. Creates `events` for the first
/// file that needs them.
fn choose_trace(
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
    /// Starts to watch the files of `images`.
    pub(crate) fn begin<'i>(images: impl Iterator<Item = &'i MemoryImage<'i>>) -> Self {
        let (events, guards) = (OnceLock::new(), OnceLock::new());
        let start = |file| {
            let version = Version::of(file);
            // The order matters: a process that opens the file after the query for writers leaves a trace.
            let trace = choose_trace(&events, file, version.as_ref());
            let is_unnamed = is_unnamed_memory(file);
            InitialState { is_unnamed, writers: writers_of(file), version, trace }
        };
        let guard = |file| {
            let version = Version::of(file)?;
            let trace = choose_trace(&guards, file, Some(&version))?;
            Some(Guard { version, trace, was_written: AtomicBool::new(false) })
        };
        let watched = |image: &'i MemoryImage<'i>| {
            let assumed = image.is_changing().then_some(Change::Assumed);
            WatchedImage {
                start: image.changeable_file().map(start),
                worst: AtomicU8::new(assumed.map_or(0, Change::code)),
                guard: image.guarded_file().and_then(guard),
            }
        };
        let images = images.map(watched).collect();
        let [events, guards] = [events, guards].map(|events| events.into_inner().flatten());
        Self { events, guards, images }
    }

    /// Records the changes since [`begin`](Self::begin); `images` are the same as there.
    pub(crate) fn detect_changes<'i>(&self, images: impl Iterator<Item = &'i MemoryImage<'i>>) {
        if self.images.iter().all(|watched| watched.start.is_none()) {
            return;
        }
        // Query the writers before reading the events: a writer that is gone by now has left an event.
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

    /// Returns `true` if a write to image `i`, whose file system was read-only, would be detected.
    pub(crate) fn is_guarded(&self, i: usize) -> bool {
        self.images.get(i).is_some_and(|watched| watched.guard.is_some())
    }

    /// Checks that the images that are lent because their file system is read-only cannot have changed since
    /// [`begin`](Self::begin); `images` are the same as there.
    ///
    /// # Errors
    /// Returns the position of an image that can have changed, and an error. The bytes that were sent may not match
    /// the checksums.
    pub(crate) fn check_guarded<'i>(
        &self,
        images: impl Iterator<Item = &'i MemoryImage<'i>>,
    ) -> Result<(), (usize, Error)> {
        let guarded = || self.images.iter().map(|watched| &watched.guard);
        if guarded().all(Option::is_none) {
            return Ok(());
        }
        // Query the file systems before reading the events: if one is read-only again, its writers have left events.
        let now: Vec<_> = images
            .map(|image| {
                image
                    .guarded_file()
                    .map(|file| (is_on_read_only_file_system(file), Version::of(file)))
            })
            .collect();
        if let Some(events) = &self.guards {
            events.read(|descriptor, _| {
                for guard in guarded().flatten() {
                    if guard.trace.matches_event(descriptor) {
                        guard.was_written.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
        for (i, (guard, now)) in guarded().zip(now).enumerate() {
            let (Some(guard), Some((is_read_only, version))) = (guard, now) else { continue };
            let was_written = guard.was_written.load(Ordering::Relaxed);
            if !is_read_only || was_written || version != Some(guard.version) {
                let message = "the file system became writable while the image was dumped";
                return Err((i, Error::new(ErrorKind::Image, message)));
            }
        }
        Ok(())
    }

    fn read_events(&self) {
        let Some(events) = &self.events else { return };
        events.read(|descriptor, change| {
            for watched in &self.images {
                let trace = watched.start.as_ref().and_then(|start| start.trace);
                if trace.is_some_and(|trace| trace.matches_event(descriptor)) {
                    watched.record(change);
                }
            }
        });
    }

    /// Returns the worst change of each image so far.
    pub(crate) fn changes(&self) -> impl Iterator<Item = Option<Change>> {
        self.images.iter().map(|watched| Change::from_code(watched.worst.load(Ordering::Relaxed)))
    }
}

impl WatchedImage {
    fn compare(&self, start: &InitialState, writers: Writers, version: Option<Version>) {
        let is_any = |answer: Writers| [start.writers, writers].contains(&answer);
        if start.is_unnamed || is_any(Writers::Present) {
            self.record(Change::Writable);
        }
        let (Some(before), Some(after)) = (start.version, version) else { return };
        let is_same = match start.trace.filter(|_| !is_any(Writers::Unknown)) {
            Some(Trace::Times) => after.has_contents_of(&before),
            Some(Trace::Events(_)) => true,
            None => after == before,
        };
        if !is_same {
            self.record(Change::Written);
        }
    }

    fn record(&self, change: Change) {
        self.worst.fetch_max(change.code(), Ordering::Relaxed);
    }
}
