//! The tool's JSON: the manifest, which `extract --all` writes and `dump --manifest` reads, and the reports of
//! `inspect --json` and `dump --stats json`. Each shape is defined once, for both directions.
//!
//! A report has the lists of a manifest, with more facts about each item, so its types contain the types of the manifest.
//! Each type converts from and to the library's type. Lists of a dump are not collected: a [`List`] creates its items
//! while it is written, so memory does not grow with the dump.
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
pub use self::symbols::{SymbolMatch, Symbols, UnitStatics};

/// The number of items of each kind in a dump. A manifest only has indices below these numbers; other indices become
/// `null`, which means unknown.
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

/// Returns an index that is below `count`, or any index if there is no `count`.
fn listed_index(index: Option<u32>, count: Option<usize>) -> Option<u32> {
    index.filter(|index| count.is_none_or(|count| (*index as usize) < count))
}

/// Negates a `bool`, for `skip_serializing_if`.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Deserializes a field that is present, for an optional field in which `null` does not mean absent.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}
