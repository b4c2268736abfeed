//! Notes on the unknown parts of a captured guest, with remedies.

use std::fmt;

use corestream::{InstanceIndex, ModuleIndex};

/// An unknown part of a [`Captured`](super::Captured) guest, which Wasmtime does not expose.
///
/// ```
/// use corestream_wasmtime::Note;
///
/// let note = Note::FrameInstances { module: 0.into(), frames: 1 };
/// let expected = "the instance of 1 frame is unknown: module 0 has or may have several";
/// assert_eq!(note.to_string(), expected);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Note {
    /// The backtrace has as many frames as Wasmtime keeps, so older frames may be missing.
    Frames {
        /// The number of frames in the backtrace.
        kept: usize,
    },
    /// There are no frames: backtraces are off, or Wasmtime could not allocate the requested number, or no function was
    /// running.
    NoFrames,
    /// The instance of some frames is unknown, because their module has several instances, or may have unlisted ones.
    FrameInstances {
        /// The module.
        module: ModuleIndex,
        /// The number of frames.
        frames: usize,
    },
    /// A memory of an instance is unknown.
    Memory {
        /// The instance.
        instance: InstanceIndex,
        /// The index of the memory in the instance's index space.
        index: u32,
    },
    /// Some globals of an instance are unknown.
    Globals {
        /// The instance.
        instance: InstanceIndex,
        /// The minimum number of unknown globals. Without guest debugging and without a trap, Wasmtime does not expose
        /// how many globals an instance has.
        count: usize,
    },
    /// The item that the embedder declared for an import does not match its type.
    Import {
        /// The module of the import.
        module: String,
        /// The name of the import.
        name: String,
    },
    /// The core instances of a component do not fit the bytes that the embedder passed for it, or the bytes cannot be
    /// read. The instances have no paths, and their imports may be unknown.
    Component,
    /// The embedder added no instance, and without guest debugging Wasmtime does not list any.
    NoInstances,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frames { kept } => write!(
                f,
                "the backtrace is truncated to {kept} frames; raise \
                 Config::wasm_backtrace_max_frames"
            ),
            Self::NoFrames => f.write_str(
                "there is no backtrace: if a function was running, turn on \
                 Config::wasm_backtrace_max_frames, or lower it",
            ),
            Self::FrameInstances { module, frames } => write!(
                f,
                "the instance of {frames} frame{} is unknown: module {module} has or may have \
                 several",
                if *frames == 1 { "" } else { "s" }
            ),
            Self::Memory { instance, index } => {
                write!(f, "memory {index} of instance {instance} is unknown")
            }
            Self::Globals { instance, count } => write!(
                f,
                "{count} global{} of instance {instance} {} unknown",
                if *count == 1 { "" } else { "s" },
                if *count == 1 { "is" } else { "are" }
            ),
            Self::Import { module, name } => {
                write!(f, "the item for import {module:?} {name:?} does not match its type")
            }
            Self::Component => f.write_str(
                "the core instances of a component do not fit its bytes, so they have no paths",
            ),
            Self::NoInstances => {
                f.write_str("no instances are known; add them with Capture::instances, or enable Config::guest_debug")
            }
        }
    }
}
