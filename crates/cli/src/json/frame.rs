//! A frame: as in a manifest, and with what it is called in the source.

use corestream::InstanceIndex;
use serde::{Deserialize, Serialize};

use super::value::Value;
use super::{Counts, Symbols, listed};

/// A frame. Where nothing is known of its locals or of its operand stack, the list is left out.
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
    /// Describes a frame of a dump. With `counts`, an instance that the dump does not list is not known.
    pub(super) fn new(frame: corestream::Frame, counts: Option<Counts>) -> Self {
        let instance = frame.instance.map(|instance| instance.0);
        Self {
            instance: listed(instance, counts.map(|counts| counts.instances)),
            function: frame.function,
            offset: frame.offset,
            locals: frame.locals.into_iter().map(Value::from).collect(),
            stack: frame.stack.into_iter().map(Value::from).collect(),
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
pub struct InspectedFrame {
    #[serde(flatten)]
    frame: Frame,
    /// What its module's file tells of it, if one was given.
    #[serde(flatten)]
    symbols: Option<Symbols>,
}

impl InspectedFrame {
    pub(super) fn new(frame: corestream::Frame, symbols: Option<Symbols>) -> Self {
        Self { frame: Frame::new(frame, None), symbols }
    }
}
