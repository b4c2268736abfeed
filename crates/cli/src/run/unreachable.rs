//! Finds the true offset of an `unreachable` that trapped, if the compiler reports another one.
//!
//! # The problem
//! Cranelift merges a conditional branch and a block that only traps into one conditional trap, with the offset of the
//! branch. So a guest that executes `unreachable` seems to stop at the `if` or `br_if` before it. The check of the time
//! limit, at the entry of a function or a loop, is a branch too. Only a lower optimization level turns this off, which
//! would make the guest too slow.
//!
//! # The idea
//! Only `unreachable` traps with this cause. If another instruction is at the reported offset, the `unreachable` is in
//! an arm of that branch: in the code after it, or at its target. The search follows each arm in the guest's bytes, up
//! to the first instruction that the compiler cannot merge: one that ends a compiler block, or that has a side effect.
//!
//! # The invariant
//! All other instructions count as mergeable, so the search finds every `unreachable` that may have trapped. The offset
//! is corrected only if there is exactly one. Otherwise the offset of the branch stays.
//!
//! # The cost
//! One function is parsed, after the guest has trapped.

use wasmparser::{FunctionBody, Operator, OperatorsReader, Parser, Payload, TypeRef};

/// Returns the offset of the `unreachable` that trapped in a function, in bytes from the start of its body.
///
/// `offset` is the reported offset. Returns `None` if it is right, or if it is uncertain which instruction trapped.
pub fn place(wasm: &[u8], function: u32, offset: u64) -> Option<u32> {
    let body = body(wasm, function)?;
    let start = body.range().start;
    let reported = start.checked_add(offset)?;
    let mut operators = body.get_operators_reader().ok()?;
    let mut candidates = if reported < operators.original_position() {
        // The reported offset is the entry of the function.
        vec![only_trap(operators)]
    } else {
        // Whether each block around the instruction is a loop.
        let mut blocks = Vec::new();
        loop {
            let at = operators.original_position();
            let operator = operators.read().ok()?;
            if at == reported {
                break arms(&operator, &operators, &blocks);
            }
            if at > reported {
                return None;
            }
            match operator {
                Operator::Loop { .. } => blocks.push(true),
                Operator::End => {
                    blocks.pop();
                }
                operator if begins_block(&operator) => blocks.push(false),
                _ => {}
            }
        }
    };
    candidates.retain(Option::is_some);
    candidates.dedup();
    let [Some(at)] = candidates[..] else { return None };
    u32::try_from(at.checked_sub(start)?).ok()
}

/// Returns the body of the function with the given index.
fn body(wasm: &[u8], function: u32) -> Option<FunctionBody<'_>> {
    let mut index = 0_u32;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let TypeRef::Func(_) | TypeRef::FuncExact(_) = import.ok()?.ty {
                        index = index.checked_add(1)?;
                    }
                }
            }
            Payload::CodeSectionEntry(body) if index == function => return Some(body),
            Payload::CodeSectionEntry(_) => index = index.checked_add(1)?,
            _ => {}
        }
    }
    None
}

/// Finds the `unreachable` in each arm of the branch `operator`. `rest` is the code after it.
fn arms(operator: &Operator<'_>, rest: &OperatorsReader<'_>, blocks: &[bool]) -> Vec<Option<u64>> {
    let target = match operator {
        Operator::Unreachable => return Vec::new(),
        Operator::If { .. } => after_arm(rest.clone()),
        Operator::BrIf { relative_depth }
        | Operator::BrOnNull { relative_depth }
        | Operator::BrOnNonNull { relative_depth }
        | Operator::BrOnCast { relative_depth, .. }
        | Operator::BrOnCastFail { relative_depth, .. } => {
            let depth = *relative_depth as usize;
            match blocks.iter().rev().nth(depth) {
                // A branch to a loop that starts with `unreachable` could not be executed. The outermost label is the
                // function's, and a branch to it returns.
                Some(true) | None => None,
                Some(false) => after_blocks(rest.clone(), depth),
            }
        }
        _ => None,
    };
    vec![only_trap(rest.clone()), target.and_then(only_trap)]
}

/// Returns the code after the first arm of an `if`: the second arm, or the code after the `if`.
fn after_arm(mut operators: OperatorsReader<'_>) -> Option<OperatorsReader<'_>> {
    let mut depth = 0_u32;
    loop {
        match operators.read().ok()? {
            Operator::Else | Operator::End if depth == 0 => return Some(operators),
            Operator::End => depth = depth.checked_sub(1)?,
            operator if begins_block(&operator) => depth = depth.checked_add(1)?,
            _ => {}
        }
    }
}

/// Returns the code after the end of this block and of `more` blocks around it.
fn after_blocks(
    mut operators: OperatorsReader<'_>,
    mut more: usize,
) -> Option<OperatorsReader<'_>> {
    let mut depth = 0_u32;
    loop {
        match operators.read().ok()? {
            Operator::End if depth > 0 => depth = depth.checked_sub(1)?,
            Operator::End => match more.checked_sub(1) {
                Some(left) => more = left,
                None => return Some(operators),
            },
            operator if begins_block(&operator) => depth = depth.checked_add(1)?,
            _ => {}
        }
    }
}

/// Returns the position of the first `unreachable`, if only mergeable instructions precede it.
fn only_trap(mut operators: OperatorsReader<'_>) -> Option<u64> {
    loop {
        let at = operators.original_position();
        let operator = operators.read().ok()?;
        if let Operator::Unreachable = operator {
            return Some(at);
        }
        if ends_block(&operator) || has_effect(&operator) {
            return None;
        }
    }
}

fn begins_block(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::Block { .. }
            | Operator::Loop { .. }
            | Operator::If { .. }
            | Operator::TryTable { .. }
    )
}

/// Returns whether an instruction ends a compiler block.
fn ends_block(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::Loop { .. }
            | Operator::If { .. }
            | Operator::Else
            | Operator::End
            | Operator::Br { .. }
            | Operator::BrIf { .. }
            | Operator::BrTable { .. }
            | Operator::BrOnNull { .. }
            | Operator::BrOnNonNull { .. }
            | Operator::BrOnCast { .. }
            | Operator::BrOnCastFail { .. }
            | Operator::Return
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::ReturnCallRef { .. }
            | Operator::Throw { .. }
            | Operator::ThrowRef
    )
}

/// Returns whether an instruction certainly has a side effect, so that the compiler keeps it before a trap.
fn has_effect(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::Call { .. }
            | Operator::CallIndirect { .. }
            | Operator::CallRef { .. }
            | Operator::GlobalSet { .. }
            | Operator::I32Store { .. }
            | Operator::I32Store8 { .. }
            | Operator::I32Store16 { .. }
            | Operator::I64Store { .. }
            | Operator::I64Store8 { .. }
            | Operator::I64Store16 { .. }
            | Operator::I64Store32 { .. }
            | Operator::F32Store { .. }
            | Operator::F64Store { .. }
            | Operator::V128Store { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the offset of the trap in function 1 of a module with the given body and one parameter. `offset` is the
    /// reported offset.
    fn in_body(body: &str, offset: u64) -> Option<u32> {
        let text = format!(
            "(module (import \"\" \"\" (func)) (func (param i32) (result i32) {body}) (memory 1))"
        );
        place(&wat::parse_str(text).unwrap(), 1, offset)
    }

    #[test]
    fn finds_an_arm_that_only_traps() {
        // Offsets: 0 locals, 1 `local.get 0`, 3 the branch with its label or type, 5 the next instruction.
        for (body, expected) in [
            ("local.get 0 if unreachable end i32.const 1", Some(5)),
            ("local.get 0 if else unreachable end i32.const 1", Some(6)),
            ("local.get 0 if nop end unreachable", Some(7)),
            (
                "local.get 0 if local.get 0 i32.const 1 i32.add drop unreachable end i32.const 1",
                Some(11),
            ),
            ("local.get 0 if block unreachable end end i32.const 1", Some(7)),
            ("local.get 0 if loop unreachable end end i32.const 1", None),
            ("local.get 0 if block end unreachable end i32.const 1", None),
            ("local.get 0 if call 0 unreachable end i32.const 1", None),
            // Two candidates.
            ("local.get 0 if unreachable else unreachable end unreachable", None),
            ("local.get 0 if unreachable end unreachable", None),
            // One of two arms stores before it traps.
            (
                "local.get 0 if unreachable end i32.const 0 i32.const 0 i32.store unreachable",
                Some(5),
            ),
        ] {
            assert_eq!(in_body(body, 3), expected, "{body}");
        }
    }

    #[test]
    fn finds_the_target_of_a_branch() {
        // Offsets: 0 locals, 1 and 3 blocks, 5 `local.get 0`, 7 `br_if`, 9 the next instruction.
        for (body, expected) in [
            (
                "block block local.get 0 br_if 0 i32.const 1 return end unreachable end i32.const 1",
                Some(13),
            ),
            (
                "block block local.get 0 br_if 1 i32.const 1 return end unreachable end i32.const 1",
                None,
            ),
            (
                "block block local.get 0 br_if 1 i32.const 1 return end i32.const 1 return end unreachable",
                Some(17),
            ),
            (
                "block block local.get 0 br_if 0 unreachable end i32.const 1 return end i32.const 1",
                Some(9),
            ),
            ("block block local.get 0 br_if 0 unreachable end unreachable end i32.const 1", None),
            ("loop block local.get 0 br_if 1 unreachable end end i32.const 1", Some(9)),
            (
                "block block local.get 0 br_if 0 block block end end unreachable end end i32.const 1",
                None,
            ),
        ] {
            assert_eq!(in_body(body, 7), expected, "{body}");
        }
    }

    #[test]
    fn finds_unreachable_at_entries_of_functions_and_loops() {
        assert_eq!(in_body("unreachable", 0), Some(1));
        assert_eq!(in_body("local.get 0 drop unreachable", 0), Some(4));
        assert_eq!(in_body("loop unreachable end i32.const 1", 1), Some(3));
        assert_eq!(in_body("call 0 unreachable", 0), None);
    }

    #[test]
    fn keeps_a_correct_offset() {
        assert_eq!(in_body("unreachable", 1), None);
        assert_eq!(in_body("nop unreachable", 2), None);
        // There is no instruction at this offset.
        assert_eq!(in_body("i32.const 1 drop unreachable", 2), None);
        assert_eq!(in_body("unreachable", 1000), None);
        assert_eq!(in_body("unreachable", u64::MAX), None);
    }
}
