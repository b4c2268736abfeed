//! Whether image files were written to while a dump was made of them: what the *changing* mark says.
//!
//! The question is asked when the scan begins and when the last byte of an image has been fetched. The
//! answer is certain on local file systems ([`Writers`]): nobody has the file open for writing at either
//! moment, and inotify reports every descriptor that was opened for writing and closed in between, as
//! well as every write and every change of length. A writer that keeps a mapping but not its descriptor
//! is seen at the end, and if it has unmapped the file by then, its close is reported.
//!
//! Where one of these is missing (another user's file, a network file system, no inotify instance left),
//! the length and times of the file decide. They miss a write through a mapping whose page was already
//! writable: docs/reliability.md says so.
//!
//! Nothing of this is needed for a dump to be valid: bytes that may change are fetched once. So whatever
//! fails here only makes the answer less certain.
//!
//! # Read-only file systems
//! The pages of an image on a read-only file system are lent, and a dump of them is damaged if somebody makes the
//! file system writable, writes to the image, and makes it read-only again before the end, when only a look at the
//! file system is left. The kernel refuses to make a file system read-only while a file is open for writing, a
//! writable mapping included. So each writer has left an event by then. These images have an inotify instance of
//! their own, which no busy writer of another image can make overflow. An image that can't be watched is not lent.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

#[cfg(target_os = "linux")]
use super::events::Events;
use super::writers::Writers;
use super::{MemoryImage, fixed};
use crate::error::{Error, ErrorKind, Result};

/// Why a dump marks a memory as *changing*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Change {
    /// The caller says that it changes ([`MemoryImage::mark_changing`], [`MemoryImage::from_shared`]).
    Assumed,
    /// Somebody had the file open for writing, which includes a writable mapping of it, and may have
    /// written to it.
    Writable,
    /// Somebody wrote to the file, or changed its length.
    Written,
}

impl Change {
    fn from_code(code: u8) -> Option<Self> {
        [Self::Assumed, Self::Writable, Self::Written]
            .into_iter()
            .find(|change| change.code() == code)
    }

    /// Greater for what is worse; 0 is no change.
    fn code(self) -> u8 {
        match self {
            Self::Assumed => 1,
            Self::Writable => 2,
            Self::Written => 3,
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Assumed => "is taken to change while it is dumped",
            Self::Writable => "was open for writing while it was dumped",
            Self::Written => "was written to while it was dumped",
        })
    }
}

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
    version: Option<Version>,
    /// The number that its events carry.
    events: i32,
    was_written: AtomicBool,
}

/// A file when the scan began.
struct Start {
    writers: Writers,
    version: Option<Version>,
    /// The number that its events carry.
    events: Option<i32>,
}

/// The length of a file and the times of its last change.
type Version = (u64, (i64, i64), (i64, i64));

fn version(file: &File) -> Option<Version> {
    let m = file.metadata().ok()?;
    Some((m.len(), (m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec())))
}

impl Watch {
    /// Watches the files of `images` from now on.
    pub(crate) fn begin<'i>(images: impl Iterator<Item = &'i MemoryImage<'i>> + Clone) -> Self {
        let any = images.clone().any(|image| image.changeable_file().is_some());
        let events = if any { Events::new() } else { None };
        let start = |file| {
            // In this order: whoever opens the file after the question about writers is reported.
            let number = events.as_ref().and_then(|events| events.add(file));
            Start { writers: Writers::of(file), version: version(file), events: number }
        };
        let any_guarded = images.clone().any(|image| image.guarded_file().is_some());
        let guards = if any_guarded { Events::new() } else { None };
        let guard = |file| {
            let events = guards.as_ref().and_then(|events| events.add(file))?;
            Some(Guard { version: version(file), events, was_written: AtomicBool::new(false) })
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
        Self { events, guards, images }
    }

    /// Looks for changes since the beginning; `images` are those of [`begin`](Self::begin).
    pub(crate) fn look<'i>(&self, images: impl Iterator<Item = &'i MemoryImage<'i>>) {
        // Before the events are read: a writer that is gone by now has left one.
        let end: Vec<_> = images
            .map(|image| image.changeable_file().map(|file| (Writers::of(file), version(file))))
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
    /// One could: the bytes that were sent may not be those of the checksums.
    pub(crate) fn check_guarded<'i>(
        &self,
        images: impl Iterator<Item = &'i MemoryImage<'i>>,
    ) -> Result<()> {
        let guarded = || self.images.iter().map(|watched| &watched.guard);
        // Before the events are read: what is read-only again has left one.
        let now: Vec<_> = images
            .map(|image| {
                image
                    .guarded_file()
                    .map(|file| (fixed::is_on_read_only_file_system(file), version(file)))
            })
            .collect();
        if let Some(events) = &self.guards {
            events.read(|number, _| {
                for guard in guarded().flatten() {
                    if number.is_none_or(|number| number == guard.events) {
                        guard.was_written.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
        for (i, (guard, now)) in guarded().zip(now).enumerate() {
            let (Some(guard), Some((is_read_only, version))) = (guard, now) else { continue };
            let was_written = guard.was_written.load(Ordering::Relaxed);
            if !is_read_only || was_written || version != guard.version {
                let message = format!(
                    "memory {i}: the file system of the image became writable while it was dumped"
                );
                return Err(Error::new(ErrorKind::Image, message));
            }
        }
        Ok(())
    }

    fn read_events(&self) {
        let Some(events) = &self.events else { return };
        events.read(|number, change| {
            for watched in &self.images {
                let own = watched.start.as_ref().and_then(|start| start.events);
                if own.is_some() && (number.is_none() || number == own) {
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
        if start.writers == Writers::Some || writers == Writers::Some {
            self.add(Change::Writable);
        }
        let is_certain =
            start.events.is_some() && start.writers == Writers::None && writers == Writers::None;
        // Times change for other reasons as well, such as a new name.
        if let (false, Some(before), Some(after)) = (is_certain, start.version, version)
            && before != after
        {
            self.add(Change::Written);
        }
    }

    fn add(&self, change: Change) {
        self.worst.fetch_max(change.code(), Ordering::Relaxed);
    }
}

/// Other systems report no events.
#[cfg(not(target_os = "linux"))]
struct Events;

#[cfg(not(target_os = "linux"))]
impl Events {
    fn new() -> Option<Self> {
        None
    }

    fn add(&self, _: &File) -> Option<i32> {
        None
    }

    fn read(&self, _: impl FnMut(Option<i32>, Change)) {}
}
