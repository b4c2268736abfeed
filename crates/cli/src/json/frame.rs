//! A frame: as in a manifest, and with what it is called in the source.

use corestream::InstanceIndex;
use corestream::read::FrameView;
use serde::{Deserialize, Serialize};

use super::value::Value;
use super::{Counts, List, Symbols, listed};

/// A frame. Where nothing is known of its locals or of its operand stack, the list is left out.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frame<'d> {
    instance: Option<u32>,
    function: u32,
    #[serde(default)]
    offset: u32,
    #[serde(default, skip_serializing_if = "List::is_empty")]
    locals: List<'d, Value>,
    #[serde(default, skip_serializing_if = "List::is_empty")]
    stack: List<'d, Value>,
}

impl<'d> Frame<'d> {
    /// Describes a frame of a dump. With `counts`, an instance that the dump does not list is not known.
    pub(super) fn new(frame: FrameView<'d>, counts: Option<Counts>) -> Self {
        let instance = frame.instance.map(|instance| instance.0);
        let stack = frame.clone();
        Self {
            instance: listed(instance, counts.map(|counts| counts.instances)),
            function: frame.function,
            offset: frame.offset,
            locals: List::made(move || frame.locals().map(Value::from)),
            stack: List::made(move || stack.stack().map(Value::from)),
        }
    }

    /// Returns the frame of the library.
    pub fn into_frame(self) -> corestream::Frame {
        corestream::Frame::new(self.instance.map(InstanceIndex), self.function, self.offset)
            .with_locals(self.locals.into_iter().map(corestream::Value::from))
            .with_stack(self.stack.into_iter().map(corestream::Value::from))
    }
}

/// A frame as `inspect` reports it.
#[derive(Debug, Serialize, Deserialize)]
pub struct InspectedFrame<'d> {
    #[serde(flatten)]
    frame: Frame<'d>,
    /// What its module's file tells of it, if one was given.
    #[serde(flatten)]
    symbols: Option<Symbols>,
}

impl<'d> InspectedFrame<'d> {
    pub(super) fn new(frame: FrameView<'d>, symbols: Option<Symbols>) -> Self {
        Self { frame: Frame::new(frame, None), symbols }
    }
}
