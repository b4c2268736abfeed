//! Custom sections that another tool has appended to a dump of this project.

use super::decode::Decoder;
use super::fault::{Fault, Result, dump_fault_to_none};
use super::header::Header;
use super::input::Input;
use crate::control::CancelCheck;

/// Skips the sections that another tool has appended to a dump. Returns their length in bytes.
///
/// # Errors
/// Returns an error if the dump is followed by anything but custom sections, or by a custom section that belongs before
/// the end of a dump.
pub(super) fn skip<I: Input>(
    input: &mut I,
    header: &Header,
    cancel_check: &mut CancelCheck<'_>,
) -> Result<u64> {
    let only_custom = only_custom_sections(input, cancel_check);
    match (only_custom, input.drain()) {
        (Err(fault), _) if !fault.is_of_dump() => Err(fault),
        (_, Err(fault)) => Err(fault),
        (Ok(true), Ok(end)) => {
            end.checked_sub(header.length).ok_or_else(|| Fault::truncated(end, header.length))
        }
        (_, Ok(end)) => header.check_no_trailing_bytes(end).map(|()| 0),
    }
}

/// Returns whether only appended sections follow, up to the end of the input.
///
/// # Errors
/// Returns an error if the input cannot be read, or if the work was cancelled.
pub(super) fn only_appended_follow<I: Input>(
    input: &mut I,
    cancel_check: &mut CancelCheck<'_>,
) -> Result<bool> {
    dump_fault_to_none(only_custom_sections(input, cancel_check)).map(|only| only == Some(true))
}

/// Returns whether only custom sections follow, and none has a name of the Coredump format.
///
/// # Errors
/// Returns an error if a section is malformed, if the input cannot be read, or if the work was cancelled.
fn only_custom_sections<I: Input>(
    input: &mut I,
    cancel_check: &mut CancelCheck<'_>,
) -> Result<bool> {
    while !input.at_end()? {
        cancel_check.step()?;
        let mut all = Decoder::new(input, u64::MAX);
        if all.byte()? != 0 {
            return Ok(false);
        }
        let size = all.u32()?;
        let mut body = all.limited(size.into())?;
        let name = body.name()?;
        if name.starts_with("core") {
            return Ok(false);
        }
        body.skip_rest()?;
    }
    Ok(true)
}
