//! Positions of function bodies in a module, and the types of locals and operands at an instruction.
//!
//! The types are determined here before a value is read from Wasmtime. Reading a continuation reference from a frame
//! would panic, and references have no encoding in a dump anyway.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use wasmparser::{
    Chunk, FuncToValidate, FuncValidatorAllocations, FunctionBody, Operator, OperatorsReader,
    Parser, Payload, Result, ValType, ValidPayload, Validator, ValidatorResources, WasmFeatures,
};

/// The positions to look up: for each defined function, offsets in the module in bytes.
pub(super) type Positions = BTreeMap<u32, BTreeSet<u32>>;

/// The position of the first operator of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Bytes from the start of the function's body.
    pub(super) offset: u32,
    /// Bytes from the start of the module.
    pub(super) position: u32,
}

/// Returns the entries of functions, by their indices among the defined functions. Skips functions that it does not
/// find.
pub(super) fn entries(module: &[u8], defined: &HashSet<u32>) -> HashMap<u32, Entry> {
    let mut entries = HashMap::new();
    let mut indices = 0..=u32::MAX;
    for payload in Parser::new(0).parse_all(module) {
        if entries.len() == defined.len() {
            break;
        }
        let body = match payload {
            Ok(Payload::CodeSectionEntry(body)) => body,
            Ok(_) => continue,
            // The engine accepted the module. If this parser does not, keeps the entries found so far.
            Err(_) => break,
        };
        let Some(index) = indices.next() else { break };
        if defined.contains(&index)
            && let Ok(operators) = body.get_operators_reader()
        {
            let at = operators.original_position();
            let offset = at.checked_sub(body.range().start).and_then(|at| u32::try_from(at).ok());
            if let (Some(offset), Ok(position)) = (offset, u32::try_from(at)) {
                entries.insert(index, Entry { offset, position });
            }
        }
    }
    entries
}

/// Returns whether a module has a start function. Returns `true` if it is unknown.
pub(super) fn has_start(mut module: &[u8]) -> bool {
    let mut parser = Parser::new(0);
    loop {
        match parser.parse(module, true) {
            Ok(Chunk::Parsed { consumed, payload }) => {
                match payload {
                    Payload::StartSection { .. } => return true,
                    // Sections are in order, and the start section comes before the code section.
                    Payload::CodeSectionStart { .. } | Payload::End(_) => return false,
                    _ => {}
                }
                module = module.get(consumed..).unwrap_or_default();
            }
            _ => return true,
        }
    }
}

/// The types of the locals and operands of a function at an instruction.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    /// Bytes from the start of the function's body to the instruction.
    pub(super) offset: u32,
    /// The types of the parameters and locals.
    pub(super) locals: Vec<ValType>,
    /// The types on the operand stack before the instruction, from the bottom up. `None` for types that unreachable
    /// code leaves open.
    pub(super) stack: Vec<Option<ValType>>,
}

/// The two instructions that a position can refer to.
///
/// For a calling frame, Wasmtime reports the instruction after the call. For a trapping frame it reports the
/// instruction itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shapes {
    /// The call that ends at the position.
    pub(super) call: Option<Shape>,
    /// The instruction that starts at the position.
    pub(super) here: Option<Shape>,
}

/// Returns the shapes at `positions`, by defined function and offset. Skips positions whose shape cannot be determined.
pub(super) fn shapes(module: &[u8], positions: &Positions) -> HashMap<(u32, u32), Shapes> {
    let mut shapes = HashMap::new();
    // The engine accepted the module. If this parser does not, keeps the shapes found so far.
    let _ = collect(module, positions, &mut shapes);
    shapes
}

fn collect(
    module: &[u8],
    positions: &Positions,
    shapes: &mut HashMap<(u32, u32), Shapes>,
) -> Result<()> {
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    let mut indices = 0..=u32::MAX;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload?;
        if let ValidPayload::Func(function, body) = validator.payload(&payload)? {
            let Some(defined) = indices.next() else { break };
            if let Some(wanted) = positions.get(&defined) {
                // If this parser rejects a function, only the frames of that function lose their values.
                let _ = walk(function, &body, wanted, |at, call, shape| {
                    let shapes = shapes.entry((defined, at)).or_default();
                    *(if call { &mut shapes.call } else { &mut shapes.here }) = Some(shape);
                });
            }
        }
        if let Payload::DataSection(_) = payload {
            break;
        }
    }
    Ok(())
}

/// Validates a function and reports the shape at each requested position, and whether it belongs to the call before it.
fn walk(
    function: FuncToValidate<ValidatorResources>,
    body: &FunctionBody<'_>,
    wanted: &BTreeSet<u32>,
    mut report: impl FnMut(u32, bool, Shape),
) -> Result<()> {
    let Some(last) = wanted.last().copied().map(u64::from) else { return Ok(()) };
    let start = body.range().start;
    let mut validator = function.into_validator(FuncValidatorAllocations::default());
    let mut reader = body.get_binary_reader();
    validator.read_locals(&mut reader)?;
    let locals: Vec<_> =
        (0..validator.len_locals()).filter_map(|i| validator.get_local_type(i)).collect();
    let wanted_at = |at| u32::try_from(at).ok().filter(|at| wanted.contains(at));
    let mut reader = OperatorsReader::new(reader);
    while !reader.eof() && reader.original_position() <= last {
        let at = reader.original_position();
        let operator = reader.read()?;
        let (here, end) = (wanted_at(at), wanted_at(reader.original_position()));
        let end = end.filter(|_| is_call(&operator));
        // Offsets in a dump have 32 bits. A longer function has no shapes beyond that.
        let offset = at.checked_sub(start).and_then(|offset| u32::try_from(offset).ok());
        if let Some(offset) = offset
            && (here.is_some() || end.is_some())
        {
            let depth = validator.operand_stack_height() as usize;
            let stack = (0..depth).rev().map(|i| validator.get_operand_type(i).flatten()).collect();
            let shape = Shape { offset, locals: locals.clone(), stack };
            if let Some(end) = end {
                report(end, true, shape.clone());
            }
            if let Some(here) = here {
                report(here, false, shape);
            }
        }
        validator.op(at, &operator)?;
    }
    Ok(())
}

/// Returns whether a frame at this instruction can have called a younger frame.
fn is_call(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::Call { .. }
            | Operator::CallIndirect { .. }
            | Operator::CallRef { .. }
            | Operator::Resume { .. }
            | Operator::ResumeThrow { .. }
            | Operator::Suspend { .. }
            | Operator::Switch { .. }
    )
}
