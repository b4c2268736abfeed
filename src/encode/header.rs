//! Encodes the section `corestream`: the length of the dump and the offset of its index.

use zerocopy::IntoBytes;

use super::name::push_name;
use crate::format::{
    CUSTOM, DEGRADED, HEADER, HEADER_BODY_BYTES, HEADER_SECTION_BYTES, Header, HeaderFields,
    PARTIAL, VERSION, one_byte,
};
use crate::piece::MAX_HEADER_BYTES;
use crate::plan::Plan;

// The writer reserves this much room for each header.
const _: () = assert!(HEADER_SECTION_BYTES <= MAX_HEADER_BYTES);

/// Appends the section to `to`.
pub(super) fn push_header_section(to: &mut Vec<u8>, plan: &Plan<'_>) {
    let fields = HeaderFields {
        version: VERSION.into(),
        flags: flags(plan).into(),
        length: plan.len().into(),
        index: plan.index.offset.into(),
        block_log2: plan.index.block_log2.into(),
    };
    let header = Header { fields, crc: crc32fast::hash(fields.as_bytes()).into() };
    to.push(CUSTOM);
    to.push(one_byte(HEADER_BODY_BYTES));
    push_name(to, HEADER);
    to.extend_from_slice(header.as_bytes());
}

/// Returns the flags of the dump.
pub(super) fn flags(plan: &Plan<'_>) -> u32 {
    let partial = if plan.excluded().next().is_none() { 0 } else { PARTIAL };
    let degraded = if plan.shortfalls().is_empty() { 0 } else { DEGRADED };
    partial | degraded
}
