//! Whether a file can still change: any file can.

use std::fs::File;

/// Returns false.
pub(in crate::image) fn is_fixed(_: &File) -> bool {
    false
}

/// Returns false.
pub(in crate::image) fn is_on_read_only_file_system(_: &File) -> bool {
    false
}
