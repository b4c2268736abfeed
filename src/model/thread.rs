//! Threads and their frames.

use super::index::InstanceIndex;
use super::values::Value;

/// An activation of a function.
///
/// ```
/// use corestream::{Frame, InstanceIndex, Value};
///
/// let frame = Frame::new(InstanceIndex(0), 3, 17).with_locals([7.into()]).with_stack([Value::Missing]);
/// assert_eq!((frame.function, frame.offset), (3, 17));
/// assert_eq!((&frame.locals[..], &frame.stack[..]), (&[Value::I32(7)][..], &[Value::Missing][..]));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use]
#[non_exhaustive]
pub struct Frame {
    /// The instance of the function, if known.
    pub instance: Option<InstanceIndex>,
    /// The index of the function in its module's index space, which includes imported functions.
    pub function: u32,
    /// The code offset in bytes from the start of the function's body, after its size field. 0 if unknown.
    pub offset: u32,
    /// The parameters and locals, or empty if unknown.
    pub locals: Vec<Value>,
    /// The operand stack from the bottom up, or empty if unknown.
    pub stack: Vec<Value>,
}

impl Frame {
    /// Returns a frame of the function with index `function` in `instance` (`None` if unknown), at the code offset
    /// `offset`.
    pub fn new(instance: impl Into<Option<InstanceIndex>>, function: u32, offset: u32) -> Self {
        let instance = instance.into();
        Self { instance, function, offset, locals: Vec::new(), stack: Vec::new() }
    }

    /// Sets the locals.
    pub fn with_locals(mut self, locals: impl IntoIterator<Item = Value>) -> Self {
        self.locals = locals.into_iter().collect();
        self
    }

    /// Sets the operand stack, from the bottom up.
    pub fn with_stack(mut self, stack: impl IntoIterator<Item = Value>) -> Self {
        self.stack = stack.into_iter().collect();
        self
    }
}

/// A thread of the process.
///
/// ```
/// use corestream::{Frame, Thread};
///
/// let thread = Thread::new("main").with_frames([Frame::new(None, 3, 17), Frame::new(None, 0, 5)]);
/// assert_eq!(thread.frames[0].function, 3); // the youngest
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[must_use]
#[non_exhaustive]
pub struct Thread {
    /// The name.
    pub name: String,
    /// The frames, from youngest to oldest.
    pub frames: Vec<Frame>,
}

impl Thread {
    /// Returns a thread without frames.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), frames: Vec::new() }
    }

    /// Sets the frames, from youngest to oldest.
    pub fn with_frames(mut self, frames: impl IntoIterator<Item = Frame>) -> Self {
        self.frames = frames.into_iter().collect();
        self
    }
}
