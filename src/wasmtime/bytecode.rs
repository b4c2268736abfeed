//! What the bytes of a module say about its functions: where their bodies begin, and which types
//! locals and operands have at a position.
//!
//! The types are asked here, before Wasmtime is asked for a value: to read a continuation reference
//! from a frame would panic, and a reference has no encoding in a dump anyway.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use wasmparser::{
    FuncToValidate, FuncValidatorAllocations, FunctionBody, Parser, Payload, Result, ValType,
    ValidPayload, Validator, ValidatorResources, WasmFeatures,
};

/// The positions that are asked for: for each defined function, offsets in the module in bytes.
pub(super) type Positions = BTreeMap<u32, BTreeSet<u32>>;

/// What is at a position.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    /// Bytes from the start of the function's body.
    pub(super) offset: u32,
    /// The types of parameters and locals.
    pub(super) locals: Vec<ValType>,
    /// The types on the operand stack before the instruction there is executed, bottom first;
    /// `None` where code that can't be reached leaves them open.
    pub(super) stack: Vec<Option<ValType>>,
}

/// The shapes at `positions`, by defined function and offset; what can't be found out is left out.
pub(super) fn shapes(module: &[u8], positions: &Positions) -> HashMap<(u32, u32), Shape> {
    let mut shapes = HashMap::new();
    // The engine accepted the module; where this parser does not, what was found until then counts.
    let _ = collect(module, positions, &mut shapes);
    shapes
}

fn collect(
    module: &[u8],
    positions: &Positions,
    shapes: &mut HashMap<(u32, u32), Shape>,
) -> Result<()> {
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    let mut defined = 0;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload?;
        if let ValidPayload::Func(function, body) = validator.payload(&payload)? {
            if let Some(wanted) = positions.get(&defined) {
                // A function that is odd to this parser costs only its own frames their values.
                let _ = walk(function, &body, wanted, |at, shape| {
                    shapes.insert((defined, at), shape);
                });
            }
            defined += 1;
        }
        if let Payload::DataSection(_) = payload {
            break;
        }
    }
    Ok(())
}

/// Validates a function and tells the shape at each wanted position.
fn walk(
    function: FuncToValidate<ValidatorResources>,
    body: &FunctionBody<'_>,
    wanted: &BTreeSet<u32>,
    mut tell: impl FnMut(u32, Shape),
) -> Result<()> {
    let start = body.range().start;
    let mut validator = function.into_validator(FuncValidatorAllocations::default());
    let mut reader = body.get_binary_reader();
    validator.read_locals(&mut reader)?;
    let locals: Vec<_> =
        (0..validator.len_locals()).filter_map(|i| validator.get_local_type(i)).collect();
    let mut wanted = wanted.iter().copied().peekable();
    while !reader.eof() {
        let at = reader.original_position();
        while let Some(position) = wanted.next_if(|position| u64::from(*position) <= at) {
            let depth = validator.operand_stack_height() as usize;
            let stack = (0..depth).rev().map(|i| validator.get_operand_type(i).flatten()).collect();
            let offset = u32::try_from(u64::from(position).saturating_sub(start)).unwrap_or(0);
            tell(position, Shape { offset, locals: locals.clone(), stack });
        }
        if wanted.peek().is_none() {
            break;
        }
        reader.visit_operator(&mut validator.visitor(at))??;
    }
    Ok(())
}
