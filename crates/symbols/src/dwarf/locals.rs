//! Checks that the debugging information and the code agree about the locals of functions.
//!
//! Tools such as `wasm-opt` renumber locals without adjusting the debugging information, so a variable's location names a
//! local that holds something else. Indices cannot reveal this; the types that the code declares can. A variable in a
//! local that is too small for it proves that the module was changed after it was compiled, so no local of it can be
//! trusted. A local of the same size and another class proves nothing: LLVM ignores conversions that keep the bits.
//!
//! The check covers variables in one local, and frame bases. A frame base is never a parameter and is always assigned.

use gimli::{Expression, Operation, UnitRef};
use wasmparser::ValType;

use super::Debug;
use super::units::{Attribute, Entry};
use crate::budget::BudgetReader;
use crate::module::{Locals, Module};

/// A function whose variables are compared.
struct Function {
    index: u32,
    locals: Locals,
    /// The local that holds the frame base.
    base: Option<u32>,
    uses_base: bool,
}

impl Function {
    /// Returns whether the code declares a local that can hold an address.
    fn has_address(&self, local: u32) -> bool {
        let declared = self.locals.types.get(local as usize);
        declared.is_some_and(|ty| matches!(ty, ValType::I32 | ValType::I64))
    }

    /// Returns whether the code declares a local that can hold `size` bytes.
    fn has_room(&self, local: u32, size: u64) -> bool {
        self.locals.types.get(local as usize).is_some_and(|ty| match ty {
            ValType::I32 | ValType::F32 => size <= 4,
            ValType::I64 | ValType::F64 => size <= 8,
            ValType::V128 | ValType::Ref(_) => true,
        })
    }

    /// Returns whether the local of the frame base cannot hold it. A compiler may name any local if no variable uses the
    /// frame base.
    fn has_wrong_base(&self, module: &Module<'_>) -> bool {
        let Some(base) = self.base.filter(|_| self.uses_base) else { return false };
        let is_assigned =
            module.assignments(self.index).map_or(true, |assignments| assignments.count(base) > 0);
        (base as usize) < self.locals.params || !self.has_address(base) || !is_assigned
    }
}

/// How a location uses a local.
enum LocalUse {
    /// The local holds the value.
    Value(u32),
    /// The local holds the address.
    Address(u32),
    /// The location is relative to the frame base.
    FrameBase,
    Other,
}

/// Returns whether the debugging information of a unit places a variable in a local that cannot hold it.
///
/// # Errors
/// Returns an error if the entries are malformed, or if the budget is spent.
pub fn has_disagreement<'b>(
    debug: &Debug<'b>,
    unit: UnitRef<'_, BudgetReader<'b>>,
    module: &Module<'b>,
) -> gimli::Result<bool> {
    let mut entries = unit.entries_raw(None)?;
    let mut current = Entry::null();
    // The functions around the entry, with the depths of their entries. `None` is one without code.
    let mut functions: Vec<(isize, Option<Function>)> = Vec::new();
    while !entries.is_empty() {
        let depth = entries.next_depth();
        let has_entry = entries.read_entry(&mut current)?;
        while let Some((_, left)) = functions.pop_if(|(of, _)| depth <= *of) {
            if left.is_some_and(|left| left.has_wrong_base(module)) {
                return Ok(true);
            }
        }
        if !has_entry {
            continue;
        }
        debug.take_steps(current.attrs().len() as u64)?;
        match current.tag() {
            gimli::DW_TAG_subprogram => {
                functions.push((depth, read_function(debug, unit, module, &current)?));
            }
            gimli::DW_TAG_variable | gimli::DW_TAG_formal_parameter => {
                if let Some((_, Some(function))) = functions.last_mut()
                    && let Some(location) = current.attr_value(gimli::DW_AT_location)
                    && is_misplaced(debug, unit, function, &current, location)?
                {
                    return Ok(true);
                }
            }
            _ => {}
        }
    }
    Ok(functions.iter().any(|(_, left)| left.as_ref().is_some_and(|of| of.has_wrong_base(module))))
}

/// Returns whether a variable is in a local that cannot hold it.
fn is_misplaced<'b>(
    debug: &Debug<'b>,
    unit: UnitRef<'_, BudgetReader<'b>>,
    function: &mut Function,
    entry: &Entry<'b>,
    location: Attribute<'b>,
) -> gimli::Result<bool> {
    let mut known_size = None;
    for used in uses_of(debug, unit, location)? {
        let fits = match used {
            LocalUse::Other => true,
            LocalUse::FrameBase => {
                function.uses_base = true;
                true
            }
            LocalUse::Address(local) => function.has_address(local),
            LocalUse::Value(local) => {
                let size = match known_size {
                    Some(size) => size,
                    None => *known_size.insert(size_of(debug, unit, entry)?),
                };
                function.has_room(local, size)
            }
        };
        if !fits {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads the function that an entry describes. Returns `None` if the code does not have it.
fn read_function<'b>(
    debug: &Debug<'b>,
    unit: UnitRef<'_, BudgetReader<'b>>,
    module: &Module<'b>,
    entry: &Entry<'b>,
) -> gimli::Result<Option<Function>> {
    let Some(begin) = entry.attr_value(gimli::DW_AT_low_pc) else { return Ok(None) };
    let begin = unit.attr_address(begin)?;
    let index = begin.and_then(|begin| module.function_at(begin));
    let Some((index, locals)) = index.and_then(|index| Some((index, module.locals(index)?))) else {
        return Ok(None);
    };
    debug.take_steps(locals.types.len() as u64)?;
    let base = match entry.attr_value(gimli::DW_AT_frame_base) {
        Some(base) => match uses_of(debug, unit, base)?.first() {
            Some(LocalUse::Value(local) | LocalUse::Address(local)) => Some(*local),
            _ => None,
        },
        None => None,
    };
    Ok(Some(Function { index, locals, base, uses_base: false }))
}

/// Returns how each expression of a location uses a local.
fn uses_of<'b>(
    debug: &Debug<'b>,
    unit: UnitRef<'_, BudgetReader<'b>>,
    location: Attribute<'b>,
) -> gimli::Result<Vec<LocalUse>> {
    if let Some(expression) = location.exprloc_value() {
        return Ok(vec![use_of(unit, expression)?]);
    }
    let mut uses = Vec::new();
    if let Some(mut list) = unit.attr_locations(location)? {
        while let Some(entry) = list.next()? {
            debug.take_steps(1)?;
            uses.push(use_of(unit, entry.data)?);
        }
    }
    Ok(uses)
}

fn use_of<'b>(
    unit: UnitRef<'_, BudgetReader<'b>>,
    expression: Expression<BudgetReader<'b>>,
) -> gimli::Result<LocalUse> {
    let mut operations = expression.operations(unit.encoding());
    let local = match operations.next()? {
        Some(Operation::WasmLocal { index }) => index,
        Some(Operation::FrameOffset { .. }) => return Ok(LocalUse::FrameBase),
        _ => return Ok(LocalUse::Other),
    };
    // A calculation can make a number of another size.
    Ok(match (operations.next()?, operations.next()?) {
        (None, _) => LocalUse::Address(local),
        (Some(Operation::StackValue), None) => LocalUse::Value(local),
        _ => LocalUse::Other,
    })
}

/// Returns the size of a variable in bytes, or 0 if it is not known.
fn size_of<'b>(
    debug: &Debug<'b>,
    unit: UnitRef<'_, BudgetReader<'b>>,
    entry: &Entry<'b>,
) -> gimli::Result<u64> {
    let mut ty = debug.type_of(unit, entry);
    if ty.is_none()
        && let Some(origin) = debug.follow(unit, entry.attr_value(gimli::DW_AT_abstract_origin))
    {
        ty = debug.type_of(origin.unit, &origin.entry()?);
    }
    match ty {
        Some(ty) => Ok(debug.size_of(ty)?.unwrap_or(0)),
        None => Ok(0),
    }
}
