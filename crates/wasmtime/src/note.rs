//! What a dump of a Wasmtime guest could not know, and what to do about it.

use std::fmt;

use corestream::{InstanceIndex, ModuleIndex};

/// Something that a [`Captured`](super::Captured) does not know, because Wasmtime does not say.
///
/// ```
/// use corestream_wasmtime::Note;
///
/// let note = Note::FrameInstances { module: 0.into(), frames: 1 };
/// let expected = "the instance of 1 frame is not known: module 0 has or may have several";
/// assert_eq!(note.to_string(), expected);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Note {
    /// The backtrace has as many frames as Wasmtime keeps: older ones may be missing.
    Frames {
        /// How many frames there are.
        kept: usize,
    },
    /// There are no frames: backtraces are turned off, or Wasmtime had no room for as many as it was
    /// asked to keep, or no function was running.
    NoFrames,
    /// The instance of some frames is not known, because their module has several, or may have
    /// others than those that are listed.
    FrameInstances {
        /// The module.
        module: ModuleIndex,
        /// How many frames.
        frames: usize,
    },
    /// A memory of an instance is not known.
    Memory {
        /// The instance.
        instance: InstanceIndex,
        /// The index of the memory in the instance's index space.
        index: u32,
    },
    /// Some globals of an instance are not known.
    Globals {
        /// The instance.
        instance: InstanceIndex,
        /// How many, at least: without guest debugging and without a trap, nobody says how many
        /// globals an instance has.
        count: usize,
    },
    /// What the embedder gave for an import does not fit its type.
    Import {
        /// The module of the import.
        module: String,
        /// The name of the import.
        name: String,
    },
    /// The embedder named no instance, and without guest debugging Wasmtime lists none.
    NoInstances,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frames { kept } => write!(
                f,
                "the backtrace stops at {kept} frames, older ones may be missing: raise \
                 Config::wasm_backtrace_max_frames"
            ),
            Self::NoFrames => f.write_str(
                "there is no backtrace: if a function was running, turn on \
                 Config::wasm_backtrace_max_frames, or lower it",
            ),
            Self::FrameInstances { module, frames } => write!(
                f,
                "the instance of {frames} frame{} is not known: module {module} has or may have \
                 several",
                if *frames == 1 { "" } else { "s" }
            ),
            Self::Memory { instance, index } => {
                write!(f, "memory {index} of instance {instance} is not known")
            }
            Self::Globals { instance, count } => write!(
                f,
                "{count} global{} of instance {instance} {} not known",
                if *count == 1 { "" } else { "s" },
                if *count == 1 { "is" } else { "are" }
            ),
            Self::Import { module, name } => {
                write!(f, "what was given for the import {module:?} {name:?} does not fit its type")
            }
            Self::NoInstances => {
                f.write_str("no instance is known: name them, or turn on Config::guest_debug")
            }
        }
    }
}
