//! The reason why the guest stopped, in words.
//!
//! A dump can record the message of the trap. If it does not, the instruction of the youngest frame tells which trap it
//! can have been, but not that there was one: the dump of a running guest can stop it at any instruction. The words say
//! which of the two it is. Only `unreachable`, and a division whose recorded divisor is zero, cannot do anything but
//! trap.

use corestream::Value;
use wasmparser::Operator;

const NO_TRAP: &str = "the dump records no trap";

/// Returns the reason of a stop.
///
/// `operator` is the instruction of the youngest frame, if it is known, `stack` its operand stack, and `at_entry` says
/// whether the guest stopped when it entered a function.
pub(crate) fn describe(
    recorded: Option<&str>,
    operator: Option<&Operator<'_>>,
    stack: &[Value],
    at_entry: bool,
) -> String {
    if let Some(recorded) = recorded {
        // LLDB shows one line.
        return recorded.replace(|c: char| c.is_control(), " ");
    }
    if at_entry {
        return probably("call stack exhausted");
    }
    match operator {
        Some(Operator::Unreachable) => "wasm trap: unreachable".into(),
        Some(operator) => match division(operator, stack) {
            Some(reason) => reason,
            None => trap_of(operator).map_or(NO_TRAP.into(), probably),
        },
        None => NO_TRAP.into(),
    }
}

fn probably(trap: &str) -> String {
    format!("probably wasm trap: {trap} (no trap is recorded)")
}

/// Returns the reason if the instruction is a division of integers.
fn division(operator: &Operator<'_>, stack: &[Value]) -> Option<String> {
    use Operator as Op;

    let may_overflow = match operator {
        Op::I32DivS | Op::I64DivS => true,
        Op::I32DivU | Op::I64DivU | Op::I32RemS | Op::I64RemS | Op::I32RemU | Op::I64RemU => false,
        _ => return None,
    };
    let zero = "integer divide by zero";
    let overflow = "integer overflow";
    let certain = |trap: &str| format!("wasm trap: {trap}");
    Some(match stack {
        [.., Value::I32(_) | Value::I64(_), Value::I32(0) | Value::I64(0)] => certain(zero),
        [.., Value::I32(i32::MIN), Value::I32(-1)] | [.., Value::I64(i64::MIN), Value::I64(-1)]
            if may_overflow =>
        {
            certain(overflow)
        }
        // The division has a result.
        [.., Value::I32(_), Value::I32(_)] | [.., Value::I64(_), Value::I64(_)] => NO_TRAP.into(),
        _ if may_overflow => probably("integer divide by zero or overflow"),
        _ => probably(zero),
    })
}

/// Returns the trap that an instruction other than a division can cause.
fn trap_of(operator: &Operator<'_>) -> Option<&'static str> {
    // `wasmparser` has over 600 instructions, whose names follow a scheme. The `Debug` text begins with the name of the
    // variant.
    let text = format!("{operator:?}");
    let name = text.split([' ', '{', '(']).next().unwrap_or_default();
    let has = |part: &str| name.contains(part);
    Some(match name {
        "CallIndirect" | "ReturnCallIndirect" => {
            "indirect call to a null, undefined or mismatched table element"
        }
        "CallRef" | "ReturnCallRef" | "RefAsNonNull" | "ThrowRef" => "null reference",
        "TableGet" | "TableSet" | "TableInit" | "TableCopy" | "TableFill" => {
            "out of bounds table access"
        }
        "MemoryInit" | "MemoryCopy" | "MemoryFill" => "out of bounds memory access",
        "RefCastNonNull" | "RefCastNullable" => "cast failure",
        "Throw" => "uncaught exception",
        _ if has("Trunc")
            && !has("Sat")
            && (name.starts_with("I32") || name.starts_with("I64")) =>
        {
            "invalid conversion to integer"
        }
        _ if has("Atomic") && !has("Fence") => "out of bounds or misaligned memory access",
        _ if name.starts_with("Array")
            && (has("Get") || has("Set") || has("Copy") || has("Fill")) =>
        {
            "null reference or out of bounds array access"
        }
        _ if name.starts_with("Struct") && (has("Get") || has("Set")) => "null reference",
        _ if has("Load") || has("Store") => "out of bounds memory access",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the reason at an instruction with this encoding.
    fn at(code: &[u8], stack: &[Value]) -> String {
        let mut reader = wasmparser::OperatorsReader::new(wasmparser::BinaryReader::new(code, 0));
        describe(None, Some(&reader.read().unwrap()), stack, false)
    }

    #[test]
    fn the_recorded_message_comes_first() {
        let stop = |recorded| describe(recorded, Some(&Operator::Unreachable), &[], false);
        assert_eq!(stop(Some("time\nlimit")), "time limit");
        assert_eq!(stop(None), "wasm trap: unreachable");
    }

    #[test]
    fn names_the_trap_of_a_division_by_its_operands() {
        let (zero, overflow) = ("wasm trap: integer divide by zero", "wasm trap: integer overflow");
        // i32.div_s and i64.rem_u
        assert_eq!(at(&[0x6d], &[Value::I32(7), Value::I32(0)]), zero);
        assert_eq!(at(&[0x82], &[Value::I64(7), Value::I64(0)]), zero);
        assert_eq!(at(&[0x6d], &[Value::I32(i32::MIN), Value::I32(-1)]), overflow);
        assert_eq!(at(&[0x6f], &[Value::I32(i32::MIN), Value::I32(-1)]), NO_TRAP);
        assert_eq!(at(&[0x6d], &[Value::I32(7), Value::I32(2)]), NO_TRAP);
        let expected =
            "probably wasm trap: integer divide by zero or overflow (no trap is recorded)";
        assert_eq!(at(&[0x6d], &[]), expected);
        let expected = "probably wasm trap: integer divide by zero (no trap is recorded)";
        assert_eq!(at(&[0x82], &[Value::Missing, Value::Missing]), expected);
    }

    #[test]
    fn says_that_a_trap_is_only_probable() {
        for (code, trap) in [
            (&[0x28, 2, 0][..], "out of bounds memory access"),
            (&[0x3a, 0, 0], "out of bounds memory access"),
            (&[0xfc, 10, 0, 0], "out of bounds memory access"),
            (&[0xfe, 0x10, 2, 0], "out of bounds or misaligned memory access"),
            (&[0x11, 0, 0], "indirect call to a null, undefined or mismatched table element"),
            (&[0xa8], "invalid conversion to integer"),
            (&[0x25, 0], "out of bounds table access"),
            (&[0xd4], "null reference"),
            (&[0x14, 0], "null reference"),
        ] {
            assert_eq!(at(code, &[]), probably(trap));
        }
        // i32.trunc_sat_f32_s, i32.add, call, f32.trunc and i32.wrap_i64 do not trap.
        for code in [&[0xfc, 0][..], &[0x6a], &[0x10, 0], &[0x8f], &[0xa7]] {
            assert_eq!(at(code, &[]), NO_TRAP, "{code:x?}");
        }
        assert_eq!(describe(None, None, &[], true), probably("call stack exhausted"));
        assert_eq!(describe(None, None, &[], false), NO_TRAP);
    }
}
