//! A thread.

use std::borrow::Cow;

use corestream::Result;
use corestream::read::ThreadView;
use serde::{Deserialize, Serialize};

use super::frame::Frame;
use super::{List, object};

/// A thread with its frames of type `F`, from youngest to oldest.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "F: Deserialize<'de>"))]
pub struct Thread<'d, F> {
    #[serde(default)]
    name: Cow<'d, str>,
    #[serde(default, deserialize_with = "object::list")]
    frames: List<'d, F>,
}

impl<'d, F: 'd> Thread<'d, F> {
    /// Describes a thread of a dump. `frame` makes an item of a frame and its index, or fails if the dump cannot be read.
    pub(super) fn new(
        thread: ThreadView<'d>,
        frame: impl Fn(usize, corestream::Frame) -> Result<F> + Clone + 'd,
    ) -> Self {
        let name = thread.name().to_owned().into();
        let frames = List::made(move || {
            let frame = frame.clone();
            thread.frames().enumerate().map(move |(i, of)| frame(i, of?))
        });
        Self { name, frames }
    }
}

impl Thread<'_, Frame> {
    /// Returns the thread of the library.
    pub fn into_thread(self) -> corestream::Thread {
        let frames = self.frames.into_items().into_iter().map(Frame::into_frame);
        corestream::Thread::new(self.name).with_frames(frames)
    }
}
