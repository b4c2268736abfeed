//! Sections that another tool has added after the end of a dump of this project's.

use super::decode::Decoder;
use super::fault::{Fault, Result, readable};
use super::header::Header;
use super::input::Input;
use crate::control::Lookout;

/// Passes sections that another tool has added after the end of a dump; returns the number of their bytes.
///
/// # Errors
/// Returns an error if something else follows the dump: no custom section, or one that belongs into a dump.
pub(super) fn pass<I: Input>(
    input: &mut I,
    header: &Header,
    lookout: &mut Lookout<'_>,
) -> Result<u64> {
    let only_custom = only_custom_sections(input, lookout);
    match (only_custom, input.drain()) {
        (Err(fault), _) if !fault.is_of_dump() => Err(fault),
        (_, Err(fault)) => Err(fault),
        (Ok(true), Ok(end)) => {
            end.checked_sub(header.length).ok_or_else(|| Fault::truncated(end, header.length))
        }
        (_, Ok(end)) => header.check_nothing_behind(end).map(|()| 0),
    }
}

/// Returns whether only such sections follow, up to the end of the input.
///
/// # Errors
/// Returns an error if they cannot be read, or if the work was cancelled.
pub(super) fn is_all<I: Input>(input: &mut I, lookout: &mut Lookout<'_>) -> Result<bool> {
    readable(only_custom_sections(input, lookout)).map(|only| only == Some(true))
}

/// Returns whether there are only custom sections up to the end, none of which a dump has.
fn only_custom_sections<I: Input>(input: &mut I, lookout: &mut Lookout<'_>) -> Result<bool> {
    while !input.at_end()? {
        lookout.step()?;
        let mut all = Decoder::new(input, u64::MAX);
        if all.byte()? != 0 {
            return Ok(false);
        }
        let size = all.u32()?;
        let mut body = all.part(size.into())?;
        let name = body.name()?;
        if name.starts_with("core") {
            return Ok(false);
        }
        body.skip_rest()?;
    }
    Ok(true)
}
