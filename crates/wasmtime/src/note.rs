//! Notes on the unknown parts of a captured guest, with remedies.

use std::fmt;

use corestream::{InstanceIndex, MergedIndices, ModuleIndex};

/// An unknown part of a [`Captured`](super::Captured) guest, which Wasmtime does not expose.
///
/// ```
/// use corestream_wasmtime::Note;
///
/// let note = Note::FrameInstances { module: 0.into(), frames: 1 };
/// let expected = "the instance of 1 frame is unknown, because module 0 has or may have several; pass all \
///     instances to Capture::all_instances, or turn on Config::guest_debug";
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
        /// Whether the instance imports the memory. Otherwise it defines it.
        imported: bool,
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
    /// A note on one of several captured stores that were merged ([`Captured::merge`](super::Captured::merge)).
    Thread {
        /// The position of the store's thread in [`CoreDump::threads`](corestream::CoreDump::threads).
        thread: usize,
        /// The note.
        note: Box<Note>,
    },
}

impl Note {
    /// Returns the note with the indices of a merged dump, in which the store's thread is at position `thread`.
    pub(super) fn renumbered(self, merged: &MergedIndices, thread: usize) -> Self {
        let new = |instance: InstanceIndex| {
            merged.instances.get(instance.0 as usize).copied().unwrap_or(instance)
        };
        match self {
            Self::FrameInstances { module, frames } => {
                let module = merged.modules.get(module.0 as usize).copied().unwrap_or(module);
                Self::FrameInstances { module, frames }
            }
            Self::Memory { instance, index, imported } => {
                Self::Memory { instance: new(instance), index, imported }
            }
            Self::Globals { instance, count } => Self::Globals { instance: new(instance), count },
            // The other dump was itself merged.
            Self::Thread { thread: position, note } => {
                let thread = merged.threads.clone().nth(position).unwrap_or(thread);
                Self::Thread { thread, note }
            }
            note => note.of_thread(thread),
        }
    }

    /// Adds the thread to a note that does not say what it is about.
    pub(super) fn of_thread(self, thread: usize) -> Self {
        match self {
            Self::Frames { .. }
            | Self::NoFrames
            | Self::Import { .. }
            | Self::Component
            | Self::NoInstances => Self::Thread { thread, note: Box::new(self) },
            note => note,
        }
    }

    /// Adds a note to a list. Counts of frames are summed.
    pub(super) fn add_to(self, notes: &mut Vec<Self>) {
        if let Self::FrameInstances { module, frames } = &self {
            for note in &mut *notes {
                if let Self::FrameInstances { module: same, frames: sum } = note
                    && same == module
                    && let Some(both) = sum.checked_add(*frames)
                {
                    *sum = both;
                    return;
                }
            }
        }
        notes.push(self);
    }
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
                "the instance of {frames} frame{} is unknown, because module {module} has or may have \
                 several; pass all instances to Capture::all_instances, or turn on \
                 Config::guest_debug",
                if *frames == 1 { "" } else { "s" }
            ),
            Self::Memory { instance, index, imported: true } => write!(
                f,
                "memory {index} of instance {instance} is unknown, because it is imported; pass \
                 the import to Capture::define or Capture::linker, or turn on Config::guest_debug"
            ),
            Self::Memory { instance, index, imported: false } => write!(
                f,
                "memory {index} of instance {instance} is unknown; export the memory, or turn on \
                 Config::guest_debug"
            ),
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
                "the core instances of a component do not match its bytes, so they have no paths; pass the bytes \
                 that were compiled",
            ),
            Self::NoInstances => {
                f.write_str("no instances are known; add them with Capture::instances, or enable Config::guest_debug")
            }
            Self::Thread { thread, note } => write!(f, "thread {thread}: {note}"),
        }
    }
}
