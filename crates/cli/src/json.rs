//! The shapes of the tool's JSON, each defined once for both directions: the manifest, which `extract --all` writes and
//! `dump --manifest` reads, and the reports of `inspect --json` and `dump --stats json`.
//!
//! A report lists the same things as a manifest, with more facts about each: the types of a report contain those of the
//! manifest. Conversions from and to the library's types stand beside each type. Lists of a dump are not collected: a
//! [`List`] makes its items while it is written, so that the memory needed does not grow with the dump.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::string_slice)
)]

mod formatter;
mod frame;
mod global;
mod identity;
mod inspection;
mod instance;
mod list;
mod manifest;
mod memory;
mod number;
mod object;
mod stats;
mod symbols;
mod thread;
mod value;

pub use self::formatter::VisibleFormatter;
pub use self::identity::hex;
pub use self::inspection::Inspection;
pub use self::list::List;
pub use self::manifest::Manifest;
pub use self::memory::coverage;
pub use self::stats::Stats;
pub use self::symbols::Symbols;

/// The number of things of each kind in a dump. A manifest has only indices that are below: others are written as
/// `null`, not known.
#[derive(Clone, Copy)]
struct Counts {
    modules: usize,
    instances: usize,
    memories: usize,
    globals: usize,
}

impl Counts {
    fn of(dump: &corestream::CoreDumpFile<'_>) -> Self {
        Self {
            modules: dump.modules().len(),
            instances: dump.instances().len(),
            memories: dump.memories().len(),
            globals: dump.globals().len(),
        }
    }
}

/// Returns an index if there are more things than that, or if their number does not matter.
fn listed(index: Option<u32>, count: Option<usize>) -> Option<u32> {
    index.filter(|index| count.is_none_or(|count| (*index as usize) < count))
}

/// For `skip_serializing_if`.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Deserializes a field that may be left out, but is not an absent one if it is `null`.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}
