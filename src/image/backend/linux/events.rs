//! Events of image files: every write, and every close of a descriptor that was open for writing.
//!
//! One inotify instance serves all images of a dump, because a user may have only 128 instances by default. Source:
//! [inotify(7)](https://man7.org/linux/man-pages/man7/inotify.7.html).

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

use super::reopen::path_of;
use crate::image::change::Change;

/// The length of the event buffer in bytes.
const BUFFER_BYTES: usize = 4096;
/// The maximum number of events per call of [`Events::read`], so that a busy writer cannot keep the reader busy. It
/// is the default length of the kernel's queue.
const MAX_EVENTS_PER_READ: usize = 1 << 14;

/// An inotify instance.
pub(in crate::image) struct Events(OwnedFd);

impl Events {
    /// Creates an instance without files. Returns `None` if the system grants no more instances.
    pub(in crate::image) fn new() -> Option<Self> {
        inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok().map(Self)
    }

    /// Adds a file and returns its watch descriptor, which its events carry. The same file always has the same one.
    pub(in crate::image) fn add(&self, file: &File) -> Option<i32> {
        let what = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE;
        inotify::add_watch(&self.0, path_of(file), what).ok()
    }

    /// Calls `on_event` for each event since the last call, with the watch descriptor of its file and the meaning of
    /// the event. `None` instead of a watch descriptor means all files.
    pub(in crate::image) fn read(&self, mut on_event: impl FnMut(Option<i32>, Change)) {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(&self.0, &mut buffer);
        for _ in 0..MAX_EVENTS_PER_READ {
            let Ok(event) = reader.next() else { break };
            let what = event.events();
            if what.contains(ReadFlags::MODIFY) {
                on_event(Some(event.wd()), Change::Written);
            } else if what.contains(ReadFlags::CLOSE_WRITE) {
                on_event(Some(event.wd()), Change::Writable);
            } else if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                on_event(None, Change::Writable);
            }
        }
    }
}
