//! The variables in scope at a code position: where their entries are.

use gimli::{UnitOffset, UnitRef};

use super::units::{Cursor, Entry};
use crate::budget::{Budget, BudgetReader};
use crate::limits::MAX_VARIABLES;

/// The entry of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The offset of the entry in its unit.
    pub at: UnitOffset<usize>,
    /// Whether the variable is a parameter.
    pub parameter: bool,
}

/// Returns the variables in scope at `address` of the function or inlined call that `entry` describes, outer scopes
/// first. If there are more than [`MAX_VARIABLES`], it returns one more.
///
/// # Errors
/// Returns an error if the entries are malformed.
pub fn sites<'b>(
    unit: UnitRef<'_, BudgetReader<'b>>,
    entry: UnitOffset<usize>,
    address: u64,
    budget: &Budget,
) -> gimli::Result<Vec<Site>> {
    let mut sites = Vec::new();
    let mut entries = unit.entries_raw(Some(entry))?;
    let top = entries.next_depth();
    let mut current = Entry::null();
    // Entries deeper than this belong to a scope that does not contain the address.
    let mut outside: Option<isize> = None;
    while !entries.is_empty() && sites.len() <= MAX_VARIABLES {
        let depth = entries.next_depth();
        let first = entries.next_offset() == entry;
        if depth <= top && !first {
            break;
        }
        if !entries.read_entry(&mut current)? {
            continue;
        }
        budget.take(current.attrs().len() as u64)?;
        if first {
            if !current.has_children() {
                break;
            }
            continue;
        }
        if outside.is_some_and(|of| depth > of) {
            continue;
        }
        outside = None;
        match current.tag() {
            gimli::DW_TAG_formal_parameter => {
                sites.push(Site { at: current.offset(), parameter: true });
                outside = Some(depth);
            }
            gimli::DW_TAG_variable => {
                // A declaration only names a variable of another scope.
                if current.attr_value(gimli::DW_AT_declaration).is_none() {
                    sites.push(Site { at: current.offset(), parameter: false });
                }
                outside = Some(depth);
            }
            gimli::DW_TAG_lexical_block if covers(unit, &current, address)? => {}
            // Inlined functions list their own variables.
            _ => outside = Some(depth),
        }
    }
    Ok(sites)
}

fn covers<'b>(
    unit: UnitRef<'_, BudgetReader<'b>>,
    entry: &Entry<'b>,
    address: u64,
) -> gimli::Result<bool> {
    let mut ranges = unit.die_ranges(entry)?;
    while let Some(range) = ranges.next()? {
        if (range.begin..range.end).contains(&address) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Site {
    /// Returns the entry in its unit.
    pub fn cursor<'d, 'b>(&self, unit: UnitRef<'d, BudgetReader<'b>>) -> Cursor<'d, 'b> {
        Cursor { unit, at: self.at }
    }
}
