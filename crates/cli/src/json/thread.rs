//! A thread.

use std::borrow::Cow;

use corestream::Result;
use corestream::read::ThreadView;
use serde::{Deserialize, Serialize};

use super::frame::Frame;
use super::{List, object};

/// A thread with its frames of type `F`, youngest first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "F: Deserialize<'de>"))]
pub struct Thread<'d, F> {
    #[serde(default)]
    name: Cow<'d, str>,
    #[serde(default, deserialize_with = "object::list")]
    frames: List<'d, F>,
}

impl<'d, F: 'd> Thread<'d, F> {
    /// Converts a thread of a dump. `frame` converts a frame, given its index in the thread. It fails if the dump cannot be
    /// read.
    pub(super) fn new(
        thread: ThreadView<'d>,
        frame: impl Fn(usize, corestream::Frame) -> Result<F> + Clone + 'd,
    ) -> Self {
        let name = thread.name().to_owned().into();
        let frames = List::lazy(move || {
            let frame = frame.clone();
            thread.frames().enumerate().map(move |(i, item)| frame(i, item?))
        });
        Self { name, frames }
    }
}

impl Thread<'_, Frame> {
    /// Converts to the library's thread.
    pub fn into_thread(self) -> corestream::Thread {
        let frames = self.frames.into_items().into_iter().map(Frame::into_frame);
        corestream::Thread::new(self.name).with_frames(frames)
    }
}
