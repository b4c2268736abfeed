//! A frame: as in a manifest, and as in a report, with its symbols.

use corestream::InstanceIndex;
use serde::{Deserialize, Serialize};

use super::value::Value;
use super::{Counts, Symbols, listed_index};

/// A frame. An empty list of locals or of operand stack values is omitted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frame {
    instance: Option<u32>,
    function: u32,
    #[serde(default)]
    offset: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    locals: Vec<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    stack: Vec<Value>,
}

impl Frame {
    /// Converts a frame of a dump. With `counts`, an instance that the dump does not list becomes unknown.
    pub(super) fn new(frame: corestream::Frame, counts: Option<Counts>) -> Self {
        let instance = frame.instance.map(|instance| instance.0);
        Self {
            instance: listed_index(instance, counts.map(|counts| counts.instances)),
            function: frame.function,
            offset: frame.offset,
            locals: frame.locals.into_iter().map(Value::from).collect(),
            stack: frame.stack.into_iter().map(Value::from).collect(),
        }
    }

    /// Converts to the library's frame.
    pub fn into_frame(self) -> corestream::Frame {
        corestream::Frame::new(self.instance.map(InstanceIndex), self.function, self.offset)
            .with_locals(self.locals.into_iter().map(corestream::Value::from))
            .with_stack(self.stack.into_iter().map(corestream::Value::from))
    }
}

/// A frame as `inspect` reports it.
#[derive(Debug, Serialize, Deserialize)]
pub struct InspectedFrame {
    #[serde(flatten)]
    frame: Frame,
    /// The symbols, if a file of its module was given.
    #[serde(flatten)]
    symbols: Option<Symbols>,
}

impl InspectedFrame {
    pub(super) fn new(frame: corestream::Frame, symbols: Option<Symbols>) -> Self {
        Self { frame: Frame::new(frame, None), symbols }
    }
}
