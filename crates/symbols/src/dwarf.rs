//! Lines, inlined calls and variables of a code position, from the DWARF of a module.

use std::collections::HashMap;

use addr2line::Context;
use gimli::{AttributeValue, Dwarf, UnitRef};

use super::counted::{Budget, Counted};
use super::demangle::{demangle, truncate};
use super::guest::Place;
use super::limits::{MAX_DEBUG_READS, MAX_ENTRY_DEPTH, MAX_MORE_DEBUG_BYTES};
use super::variables::{self, Variable};

/// The maximum length in bytes of the size field before a function's body. Some producers count it as part of the
/// function.
const SIZE_FIELD: u64 = 5;

/// The debugging information of a module.
pub struct Debug<'b> {
    context: Context<Counted<'b>>,
    budget: Budget,
}

/// A source position of a frame, in one function. A frame has several of them if functions are inlined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Position {
    /// The demangled name of the function.
    pub function: Option<String>,
    /// The path of the source file, as the compiler recorded it.
    pub file: Option<String>,
    /// The line, starting at 1.
    pub line: Option<u32>,
    /// The column, starting at 1.
    pub column: Option<u32>,
    /// The parameters and locals that are in scope.
    pub variables: Vec<Variable>,
}

impl<'b> Debug<'b> {
    /// Reads the debugging sections. Returns `None` if there are none.
    ///
    /// # Errors
    /// Returns a message if the debugging information cannot be used.
    pub fn read(sections: &HashMap<&'b str, &'b [u8]>) -> Result<Option<Self>, String> {
        if !sections.contains_key(".debug_info") {
            return Ok(None);
        }
        let len: u64 = sections.values().map(|section| section.len() as u64).sum();
        let budget = Budget::new(len * MAX_DEBUG_READS + MAX_MORE_DEBUG_BYTES);
        let load = |id: gimli::SectionId| match id {
            // `.debug_aranges` may list addresses that the units do not have, and only the units were checked.
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
            Ok(None) => Err(format!("has entries nested more than {MAX_ENTRY_DEPTH} levels deep")),
            Err(error) => Err(Self::cause(&budget, error)),
        }
    }

    fn cause(budget: &Budget, error: gimli::Error) -> String {
        match budget.is_spent() {
            true => "exceeds the read limit for debugging information".into(),
            false => error.to_string(),
        }
    }

    /// Returns the source positions of a code position, from the innermost inlined function to the function of the
    /// frame.
    ///
    /// # Errors
    /// Returns a message if the debugging information cannot be used.
    pub fn positions(&self, place: Place) -> Result<Vec<Position>, String> {
        self.find(place).map_err(|error| Self::cause(&self.budget, error))
    }

    fn find(&self, Place { address, body }: Place) -> gimli::Result<Vec<Position>> {
        let mut frames = self.context.find_frames(address).skip_all_loads()?;
        let unit = self.context.find_dwarf_and_unit(address).skip_all_loads();
        let mut positions = Vec::new();
        // Does not load split DWARF from other files. The last position is that of the frame's function.
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
            // The entry starts before the function: it describes a function that the linker removed, whose address
            // range now overlaps others.
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
                file: location.and_then(|location| location.file).map(truncate),
                line: location.and_then(|location| location.line),
                column: location.and_then(|location| location.column).filter(|column| *column > 0),
                variables,
            });
        }
        Ok(positions)
    }
}

/// Returns whether entries are nested too deeply.
///
/// # Errors
/// Returns an error if the entries cannot be read, or have more zero-length attributes than the budget allows.
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
