//! What the bytes of a module say about its functions: where their bodies begin, and which types
//! locals and operands have at a position.
//!
//! The types are asked here, before Wasmtime is asked for a value: to read a continuation reference
//! from a frame would panic, and a reference has no encoding in a dump anyway.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use wasmparser::{
    Chunk, FuncToValidate, FuncValidatorAllocations, FunctionBody, Operator, OperatorsReader,
    Parser, Payload, Result, ValType, ValidPayload, Validator, ValidatorResources, WasmFeatures,
};

/// The positions that are asked for: for each defined function, offsets in the module in bytes.
pub(super) type Positions = BTreeMap<u32, BTreeSet<u32>>;

/// Where the first operator of a function stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Bytes from the start of the function's body.
    pub(super) offset: u32,
    /// Bytes from the start of the module.
    pub(super) position: u32,
}

/// The entries of these functions, by their indices among those that the module defines; a function
/// that can't be found is left out.
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
            // The engine accepted the module; where this parser does not, what was found counts.
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

/// Whether a module has a start function; yes if it can't be told.
pub(super) fn has_start(mut module: &[u8]) -> bool {
    let mut parser = Parser::new(0);
    loop {
        match parser.parse(module, true) {
            Ok(Chunk::Parsed { consumed, payload }) => {
                match payload {
                    Payload::StartSection { .. } => return true,
                    // Sections are in order, and start comes before code.
                    Payload::CodeSectionStart { .. } | Payload::End(_) => return false,
                    _ => {}
                }
                module = module.get(consumed..).unwrap_or_default();
            }
            _ => return true,
        }
    }
}

/// What is known of a function at an instruction.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    /// Bytes from the start of the function's body to the instruction.
    pub(super) offset: u32,
    /// The types of parameters and locals.
    pub(super) locals: Vec<ValType>,
    /// The types on the operand stack before the instruction is executed, bottom first; `None` where
    /// code that can't be reached leaves them open.
    pub(super) stack: Vec<Option<ValType>>,
}

/// The instructions that a position may mean: Wasmtime gives the one after a call for a frame that
/// calls, and the instruction itself for one that traps.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shapes {
    /// The call that ends at the position.
    pub(super) call: Option<Shape>,
    /// The instruction that begins there.
    pub(super) here: Option<Shape>,
}

/// The shapes at `positions`, by defined function and offset; what can't be found out is left out.
pub(super) fn shapes(module: &[u8], positions: &Positions) -> HashMap<(u32, u32), Shapes> {
    let mut shapes = HashMap::new();
    // The engine accepted the module; where this parser does not, what was found until then counts.
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
                // A function that is odd to this parser costs only its own frames their values.
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

/// Validates a function and reports the shape at each wanted position, and whether it is that of the
/// call before it.
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
        // A function too long for the offsets of a dump has no shapes beyond them.
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

/// Whether a frame can stay on the stack at this instruction while another one is on top of it.
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
