//! Checks that debugging information in a file of its own describes the functions of the code.

use std::sync::Arc;

use gimli::{AttributeValue, Dwarf, SectionId};

use super::units::{Entry, Units};
use crate::budget::{Budget, BudgetReader};
use crate::limits::{MAX_CHECKED_FUNCTIONS, MAX_MORE_STEPS};
use crate::module::Module;

/// One in this number of functions may be unmatched.
const MAX_FOREIGN: usize = 10;

/// Returns the DWARF address of a function that `code` does not have, if `debug` describes another build.
///
/// Linkers give removed functions a placeholder address, and toolchains use different ones. So a single unmatched function
/// proves nothing, and more than one in [`MAX_FOREIGN`] must be unmatched.
///
/// Debugging information that cannot be read proves nothing either.
pub fn find_foreign(debug: &Module<'_>, code: &Module<'_>) -> Option<u64> {
    let len: u64 = debug.debug.values().map(|section| section.len() as u64).sum();
    let budget = Budget::new(len * 2 + MAX_MORE_STEPS);
    let load = |id: SectionId| {
        let bytes = debug.debug.get(id.name()).copied().unwrap_or_default();
        Ok::<_, gimli::Error>(BudgetReader::new(bytes, &budget))
    };
    let units = Units::read(Arc::new(Dwarf::load(load).ok()?)).ok()?;
    let mut found = Functions::default();
    for unit in 0..units.len() {
        if found.add_unit(&units, unit, code, &budget).is_err() {
            break;
        }
    }
    found.first_foreign.filter(|_| found.foreign > (found.known + found.foreign) / MAX_FOREIGN)
}

#[derive(Default)]
struct Functions {
    known: usize,
    foreign: usize,
    first_foreign: Option<u64>,
}

impl Functions {
    fn add_unit(
        &mut self,
        units: &Units<'_>,
        unit: usize,
        code: &Module<'_>,
        budget: &Budget,
    ) -> gimli::Result<()> {
        let Some(unit) = units.get(unit) else { return Ok(()) };
        // The addresses that linkers give to removed functions.
        let last = match unit.encoding().address_size {
            4 => u64::from(u32::MAX),
            _ => u64::MAX,
        };
        let mut entries = unit.entries_raw(None)?;
        let mut current = Entry::null();
        while !entries.is_empty() && self.known + self.foreign < MAX_CHECKED_FUNCTIONS {
            if !entries.read_entry(&mut current)? {
                continue;
            }
            budget.take(current.attrs().len() as u64)?;
            if current.tag() != gimli::DW_TAG_subprogram {
                continue;
            }
            let Some(begin) = current.attr_value(gimli::DW_AT_low_pc) else { continue };
            let Some(begin) = unit.attr_address(begin)? else { continue };
            if begin == 0 || begin >= last - 1 {
                continue;
            }
            let end = match current.attr_value(gimli::DW_AT_high_pc) {
                Some(AttributeValue::Addr(end)) => Some(end),
                Some(value) => value.udata_value().and_then(|len| begin.checked_add(len)),
                None => None,
            };
            let function = code.function_at(begin).and_then(|index| code.function_end(index));
            if function.is_some_and(|function| end.is_none_or(|end| end == function)) {
                self.known += 1;
            } else {
                self.foreign += 1;
                self.first_foreign.get_or_insert(begin);
            }
        }
        Ok(())
    }
}
