//! Properties of file systems, which are unknown.

use std::fs::File;

/// Returns false.
pub(in crate::image) fn has_exact_holes(_: &File) -> bool {
    false
}

/// Returns false.
pub(in crate::image) fn mapping_allocates(_: &File) -> bool {
    false
}

/// Returns false.
pub(in crate::image) fn mapping_reserves(_: &File) -> bool {
    false
}

/// Returns false.
pub(in crate::image) fn updates_times_on_write(_: &File) -> bool {
    false
}

/// Returns false.
pub(in crate::image) fn is_unnamed_memory(_: &File) -> bool {
    false
}
