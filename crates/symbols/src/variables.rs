//! The parameters and locals of a function: their names, their types, and their locations at an address.

use gimli::{AttributeValue, Operation, Reader, UnitOffset, UnitRef};

use super::counted::{Budget, Counted};
use super::demangle::truncate;
use super::known::Known;
use super::limits::{MAX_LOCATION_STEPS, MAX_TYPE_STEPS, MAX_VARIABLES};

type Entry<'b> = gimli::DebuggingInformationEntry<Counted<'b>>;

/// A parameter or a local.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Variable {
    /// The name in the source.
    pub name: String,
    /// Whether the variable is a parameter.
    pub parameter: bool,
    /// `None` if the variable has no location at the address, or one that this crate does not support.
    pub(crate) location: Option<Location>,
    pub(crate) shape: Shape,
    /// The value or address, once it has been looked up in the dump.
    pub known: Known,
}

/// A location: a base plus an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub base: Base,
    /// The offset in bytes added to the base.
    pub plus: i64,
    /// Whether the sum is the value itself instead of its address.
    pub is_value: bool,
}

/// The base of a location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Zero,
    Local(u32),
    Global(u32),
    /// A value of the operand stack, counted from the bottom.
    Operand(u32),
}

/// The interpretation of a variable's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Signed(u8),
    Unsigned(u8),
    Boolean(u8),
    Float(u8),
    Address(u8),
    /// Structs, arrays and unknown types.
    Other,
}

/// Returns the variables in scope at `address` of the function or inlined call that `entry` describes. `function` is
/// the entry of the frame's function.
pub fn of(
    unit: UnitRef<'_, Counted<'_>>,
    entry: UnitOffset<usize>,
    function: UnitOffset<usize>,
    address: u64,
    budget: &Budget,
) -> gimli::Result<Vec<Variable>> {
    let frame_base = match unit.entry(function)?.attr_value(gimli::DW_AT_frame_base) {
        Some(value) => location(unit, value, address, None)?,
        None => None,
    };
    let mut variables = Vec::new();
    let mut entries = unit.entries_raw(Some(entry))?;
    let top = entries.next_depth();
    let mut current = Entry::null();
    // Entries deeper than this belong to a scope that does not contain the address.
    let mut outside: Option<isize> = None;
    while !entries.is_empty() && variables.len() < MAX_VARIABLES {
        let depth = entries.next_depth();
        let first = entries.next_offset() == entry;
        if depth <= top && !first {
            break;
        }
        if !entries.read_entry(&mut current)? {
            continue;
        }
        budget.take(current.attrs().len() as u64)?;
        if first || outside.is_some_and(|of| depth > of) {
            continue;
        }
        outside = None;
        match current.tag() {
            gimli::DW_TAG_formal_parameter | gimli::DW_TAG_variable => {
                variables.extend(variable(unit, &current, address, frame_base.as_ref())?);
            }
            gimli::DW_TAG_lexical_block if covers(unit, &current, address)? => {}
            // Inlined functions list their own variables.
            _ => outside = Some(depth),
        }
    }
    Ok(variables)
}

fn covers<'b>(
    unit: UnitRef<'_, Counted<'b>>,
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

fn variable<'b>(
    unit: UnitRef<'_, Counted<'b>>,
    entry: &Entry<'b>,
    address: u64,
    frame_base: Option<&Location>,
) -> gimli::Result<Option<Variable>> {
    // A variable of an inlined function has its name and type in the abstract instance of the function.
    let origin = match entry.attr_value(gimli::DW_AT_abstract_origin) {
        Some(AttributeValue::UnitRef(at)) => Some(unit.entry(at)?),
        _ => None,
    };
    let attribute = |name| {
        entry.attr_value(name).or_else(|| origin.as_ref().and_then(|entry| entry.attr_value(name)))
    };
    let Some(name) = attribute(gimli::DW_AT_name) else { return Ok(None) };
    let name = truncate(&unit.attr_string(name)?.to_string_lossy()?);
    let found = match entry.attr_value(gimli::DW_AT_location) {
        Some(value) => location(unit, value, address, frame_base)?,
        None => match entry.attr_value(gimli::DW_AT_const_value) {
            Some(AttributeValue::Sdata(plus)) => Some(Location::constant(plus)),
            Some(value) => {
                let value = value.udata_value();
                value.map(|value| Location::constant(value.cast_signed()))
            }
            None => None,
        },
    };
    let shape = match attribute(gimli::DW_AT_type) {
        Some(AttributeValue::UnitRef(at)) => shape(unit, at)?,
        _ => Shape::Other,
    };
    let parameter = entry.tag() == gimli::DW_TAG_formal_parameter;
    Ok(Some(Variable { name, parameter, location: found, shape, known: Known::Nothing }))
}

impl Location {
    fn constant(plus: i64) -> Self {
        Self { base: Base::Zero, plus, is_value: true }
    }
}

/// Evaluates a location attribute at `address`. Returns `None` if there is no location, or one that is not supported.
fn location<'b>(
    unit: UnitRef<'_, Counted<'b>>,
    value: AttributeValue<Counted<'b>>,
    address: u64,
    frame_base: Option<&Location>,
) -> gimli::Result<Option<Location>> {
    if let Some(expression) = value.exprloc_value() {
        return evaluate(unit, expression, frame_base);
    }
    let Some(mut list) = unit.attr_locations(value)? else { return Ok(None) };
    while let Some(entry) = list.next()? {
        if (entry.range.begin..entry.range.end).contains(&address) {
            return evaluate(unit, entry.data, frame_base);
        }
    }
    Ok(None)
}

/// Evaluates an expression of the form base plus offset, the form that compilers emit for WebAssembly.
fn evaluate<'b>(
    unit: UnitRef<'_, Counted<'b>>,
    expression: gimli::Expression<Counted<'b>>,
    frame_base: Option<&Location>,
) -> gimli::Result<Option<Location>> {
    let mut found: Option<Location> = None;
    let mut operations = expression.operations(unit.encoding());
    let mut steps = 0;
    while let Some(operation) = operations.next()? {
        steps += 1;
        let from = |base, plus| Some(Location { base, plus, is_value: false });
        let next = match (operation, found.take()) {
            (_, Some(Location { is_value: true, .. })) => None,
            (Operation::WasmLocal { index }, None) => from(Base::Local(index), 0),
            (Operation::WasmGlobal { index }, None) => from(Base::Global(index), 0),
            (Operation::WasmStack { index }, None) => from(Base::Operand(index), 0),
            (Operation::Address { address }, None) => from(Base::Zero, address.cast_signed()),
            (Operation::UnsignedConstant { value }, None) => from(Base::Zero, value.cast_signed()),
            (Operation::SignedConstant { value }, None) => from(Base::Zero, value),
            (Operation::FrameOffset { offset }, None) => frame_base.map(|base| Location {
                plus: base.plus.wrapping_add(offset),
                is_value: false,
                ..*base
            }),
            (Operation::PlusConstant { value }, Some(location)) => {
                Some(Location { plus: location.plus.wrapping_add(value.cast_signed()), ..location })
            }
            (Operation::StackValue, Some(location)) => {
                Some(Location { is_value: true, ..location })
            }
            _ => None,
        };
        if next.is_none() || steps > MAX_LOCATION_STEPS {
            return Ok(None);
        }
        found = next;
    }
    Ok(found)
}

/// Returns the shape of the type at `at`, through typedefs and qualifiers.
fn shape(unit: UnitRef<'_, Counted<'_>>, mut at: UnitOffset<usize>) -> gimli::Result<Shape> {
    for _ in 0..MAX_TYPE_STEPS {
        let entry = unit.entry(at)?;
        let size = entry.attr_value(gimli::DW_AT_byte_size).and_then(|size| size.udata_value());
        let size = size.and_then(|size| u8::try_from(size).ok());
        let whole = size.filter(|size| matches!(size, 1 | 2 | 4 | 8));
        match entry.tag() {
            gimli::DW_TAG_base_type => {
                let encoding = entry.attr_value(gimli::DW_AT_encoding);
                let (Some(AttributeValue::Encoding(encoding)), Some(size)) = (encoding, whole)
                else {
                    return Ok(Shape::Other);
                };
                return Ok(match encoding {
                    gimli::DW_ATE_signed | gimli::DW_ATE_signed_char => Shape::Signed(size),
                    gimli::DW_ATE_unsigned
                    | gimli::DW_ATE_unsigned_char
                    | gimli::DW_ATE_UTF
                    | gimli::DW_ATE_ASCII => Shape::Unsigned(size),
                    gimli::DW_ATE_boolean => Shape::Boolean(size),
                    gimli::DW_ATE_address => Shape::Address(size),
                    gimli::DW_ATE_float if size >= 4 => Shape::Float(size),
                    _ => Shape::Other,
                });
            }
            gimli::DW_TAG_pointer_type
            | gimli::DW_TAG_reference_type
            | gimli::DW_TAG_rvalue_reference_type => {
                return Ok(Shape::Address(whole.unwrap_or(unit.encoding().address_size)));
            }
            gimli::DW_TAG_typedef
            | gimli::DW_TAG_const_type
            | gimli::DW_TAG_volatile_type
            | gimli::DW_TAG_restrict_type
            | gimli::DW_TAG_atomic_type
            | gimli::DW_TAG_enumeration_type => match entry.attr_value(gimli::DW_AT_type) {
                Some(AttributeValue::UnitRef(of)) => at = of,
                _ if entry.tag() == gimli::DW_TAG_enumeration_type => {
                    return Ok(whole.map_or(Shape::Other, Shape::Unsigned));
                }
                _ => return Ok(Shape::Other),
            },
            _ => return Ok(Shape::Other),
        }
    }
    Ok(Shape::Other)
}
