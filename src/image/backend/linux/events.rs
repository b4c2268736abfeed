//! Events of image files: every write, and every close of a descriptor that was open for writing.
//!
//! Source: [inotify(7)](https://man7.org/linux/man-pages/man7/inotify.7.html). One instance serves all
//! images of a dump, since a user may have only 128 by default.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

use super::reopen::path_of;
use crate::image::change::Change;

/// Bytes of the buffer for events.
const BUFFER_BYTES: usize = 4096;
/// Events that are read at once, so that a busy writer does not keep the reader busy: the length of the
/// kernel's queue by default.
const MAX_EVENTS: usize = 1 << 14;

/// An inotify instance.
pub(in crate::image) struct Events(OwnedFd);

impl Events {
    /// An instance without files; `None` if the system gives no more.
    pub(in crate::image) fn new() -> Option<Self> {
        inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok().map(Self)
    }

    /// Adds a file; gives the number that its events carry. Equal files have the same one.
    pub(in crate::image) fn add(&self, file: &File) -> Option<i32> {
        let what = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE;
        inotify::add_watch(&self.0, path_of(file), what).ok()
    }

    /// Passes on what has happened since the last call: the number of the file, or `None` for all of
    /// them, and what its event means.
    pub(in crate::image) fn read(&self, mut seen: impl FnMut(Option<i32>, Change)) {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(&self.0, &mut buffer);
        for _ in 0..MAX_EVENTS {
            let Ok(event) = reader.next() else { break };
            let what = event.events();
            if what.contains(ReadFlags::MODIFY) {
                seen(Some(event.wd()), Change::Written);
            } else if what.contains(ReadFlags::CLOSE_WRITE) {
                seen(Some(event.wd()), Change::Writable);
            } else if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                seen(None, Change::Writable);
            }
        }
    }
}
