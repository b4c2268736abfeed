//! Lines, inlined calls and variables of a place, by the debugging information of a module.

use std::collections::HashMap;

use addr2line::Context;
use gimli::{AttributeValue, Dwarf, UnitRef};

use super::counted::{Budget, Counted};
use super::demangle::{cut, demangle};
use super::guest::Place;
use super::limits::{MAX_DEBUG_READS, MAX_ENTRY_DEPTH, MAX_MORE_DEBUG_BYTES};
use super::variables::{self, Variable};

/// Bytes of the size field before a function's body, which some count to the function.
const SIZE_FIELD: u64 = 5;

/// The debugging information of a module.
pub struct Debug<'b> {
    context: Context<Counted<'b>>,
    budget: Budget,
}

/// Where in the source a frame is: in a function of it, of which several may be inlined into one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Position {
    /// The function, demangled.
    pub function: Option<String>,
    /// The path of the source file, as the compiler wrote it.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u32>,
    /// The column, from 1.
    pub column: Option<u32>,
    /// The parameters and locals that are in scope.
    pub variables: Vec<Variable>,
}

impl<'b> Debug<'b> {
    /// Of the sections by their names; `None` if there is none.
    ///
    /// # Errors
    /// It can't be used; in words.
    pub fn read(sections: &HashMap<&'b str, &'b [u8]>) -> Result<Option<Self>, String> {
        if !sections.contains_key(".debug_info") {
            return Ok(None);
        }
        let len: u64 = sections.values().map(|section| section.len() as u64).sum();
        let budget = Budget::new(len * MAX_DEBUG_READS + MAX_MORE_DEBUG_BYTES);
        let load = |id: gimli::SectionId| match id {
            // It may say of addresses what units do not, and only they have been checked.
            gimli::SectionId::DebugAranges => Counted::new(&[], &budget),
            _ => Counted::new(sections.get(id.name()).copied().unwrap_or_default(), &budget),
        };
        let loaded: gimli::Result<_> = Dwarf::load(|id| Ok::<_, gimli::Error>(load(id)));
        let context = loaded.and_then(|dwarf| match is_too_deep(&dwarf, &budget)? {
            true => Ok(None),
            false => Context::from_dwarf(dwarf).map(Some),
        });
        match context {
            Ok(Some(context)) => Ok(Some(Self { context, budget })),
            Ok(None) => Err(format!("has entries nested more than {MAX_ENTRY_DEPTH} deep")),
            Err(error) => Err(Self::cause(&budget, error)),
        }
    }

    fn cause(budget: &Budget, error: gimli::Error) -> String {
        match budget.is_spent() {
            true => "takes too much to read".into(),
            false => error.to_string(),
        }
    }

    /// Where a place is: the innermost function first, the one that all are inlined into last.
    ///
    /// # Errors
    /// What it says can't be used; in words.
    pub fn positions(&self, place: Place) -> Result<Vec<Position>, String> {
        self.find(place).map_err(|error| Self::cause(&self.budget, error))
    }

    fn find(&self, Place { address, body }: Place) -> gimli::Result<Vec<Position>> {
        let mut frames = self.context.find_frames(address).skip_all_loads()?;
        let unit = self.context.find_dwarf_and_unit(address).skip_all_loads();
        let mut positions = Vec::new();
        // What is in other files is not looked for. The last one is the function that has a frame.
        let mut found = Vec::new();
        while let Some(frame) = frames.next()? {
            found.push(frame);
        }
        let function = found.last().and_then(|frame| frame.dw_die_offset);
        if let (Some(function), Some(unit)) = (function, unit)
            && let Some(AttributeValue::Addr(begin)) =
                unit.entry(function)?.attr_value(gimli::DW_AT_low_pc)
            && body.checked_sub(begin).is_some_and(|before| before > SIZE_FIELD)
        {
            // It begins before the function does: it is one that the linker has dropped, which is at an
            // address where others are.
            return Ok(Vec::new());
        }
        for frame in found {
            let location = frame.location.as_ref();
            let name = frame.function.as_ref().and_then(|name| name.raw_name().ok());
            let name = name.map(|name| demangle(&name));
            let variables = match (frame.dw_die_offset, function, unit) {
                (Some(entry), Some(function), Some(unit)) => {
                    variables::of(unit, entry, function, address, &self.budget)?
                }
                _ => Vec::new(),
            };
            positions.push(Position {
                function: name,
                file: location.and_then(|location| location.file).map(cut),
                line: location.and_then(|location| location.line),
                column: location.and_then(|location| location.column).filter(|column| *column > 0),
                variables,
            });
        }
        Ok(positions)
    }
}

/// Whether entries are nested too deeply.
///
/// # Errors
/// They can't be read, or have so many attributes without a byte that they would never come to an end.
fn is_too_deep(dwarf: &Dwarf<Counted<'_>>, budget: &Budget) -> gimli::Result<bool> {
    let mut units = dwarf.units();
    while let Some(header) = units.next()? {
        let Ok(unit) = dwarf.unit(header) else { continue };
        let unit = UnitRef::new(dwarf, &unit);
        let mut entries = unit.entries_raw(None)?;
        while !entries.is_empty() {
            if entries.next_depth() > MAX_ENTRY_DEPTH {
                return Ok(true);
            }
            if let Some(abbreviation) = entries.read_abbreviation()? {
                budget.take(abbreviation.attributes().len() as u64)?;
                entries.skip_attributes(abbreviation.attributes())?;
            }
        }
    }
    Ok(false)
}
