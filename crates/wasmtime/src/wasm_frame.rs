//! A frame of a Wasmtime guest, and the frames of a backtrace.

use corestream::Value;
use wasmtime::{FrameInfo, Instance, Module};

/// A frame in the engine's terms.
#[derive(Clone, Debug)]
pub(super) struct WasmFrame {
    pub(super) module: Module,
    /// The instance. Known only if the stack itself was read.
    pub(super) instance: Option<Instance>,
    pub(super) function: u32,
    /// The offset in bytes from the start of the function's body, or `None` if unknown.
    pub(super) offset: Option<u32>,
    pub(super) locals: Vec<Value>,
    pub(super) stack: Vec<Value>,
}

/// Returns the frames of a backtrace, from youngest to oldest.
pub(super) fn of_backtrace(frames: &[FrameInfo]) -> Vec<WasmFrame> {
    let frame = |frame: &FrameInfo| WasmFrame {
        module: frame.module().clone(),
        instance: None,
        function: frame.func_index(),
        offset: frame.func_offset().and_then(|offset| u32::try_from(offset).ok()),
        locals: Vec::new(),
        stack: Vec::new(),
    };
    frames.iter().map(frame).collect()
}
