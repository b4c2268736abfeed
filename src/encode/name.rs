//! Names of sections.

use crate::format::one_byte;

/// Appends the name of one of corestream's sections.
pub(super) fn push_name(to: &mut Vec<u8>, name: &'static str) {
    to.push(one_byte(name.len()));
    to.extend_from_slice(name.as_bytes());
}
