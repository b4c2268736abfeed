//! Whether a guest that trapped has exhausted the stack in its own memory.
//!
//! The problem: code by clang and rustc keeps arrays and everything else whose address is taken on a stack in
//! linear memory. It grows down, and no engine guards its end. What a user sees of a stack overflow is "out
//! of bounds memory access" or any other trap.
//!
//! The idea: the stack pointer is a mutable global. The linker calls it `__stack_pointer`; it begins at the
//! upper end of the stack. The dump has its value at the trap.
//!
//! - Below address 0 (wrapped around, so past the end of the memory): the stack overflowed, whatever the trap
//!   is. This is how an overflow ends where the stack comes first in memory, the layout of rustc, of
//!   wasi-sdk and of newer linkers.
//! - Below the end of static data, where the stack comes after that: the stack has grown into the data. It
//!   may have done so long before the trap, whose cause is then most likely the overwritten data. This is
//!   not certain: a guest may switch to a second stack that it keeps in its static data.
//! - A few bytes above address 0, and the trap is an access out of bounds: a function that calls no other may
//!   use up to 128 bytes below the stack pointer without moving it (LLVM's red zone), so an overflow is
//!   likely, but not certain.
//!
//! Without a name in the module, global 0 counts as the stack pointer only if the youngest frame's function
//! begins as the compilers begin a function with a stack frame: `global.get 0; i32.const N; i32.sub`. Then
//! the message says "likely". Other compilers may use their globals in any way, so nothing else is taken for
//! a stack pointer, and exhausting the engine's own call stack keeps the engine's name for it.

use std::collections::HashSet;

use corestream::{CoreDump, GlobalValue};
use wasmparser::{
    ConstExpr, DataKind, FunctionBody, KnownCustom, Name, Operator, Parser, Payload, Result,
    TypeRef, ValType,
};
use wasmtime::Trap;

use crate::report;

/// The name that linkers give the global.
const NAME: &str = "__stack_pointer";
/// The index of a stack pointer without a name: LLVM puts it first.
const UNNAMED: u32 = 0;
/// Bytes below the stack pointer that a function without calls uses (LLVM, `WebAssemblyFrameLowering`).
const RED_ZONE: u64 = 128;
/// Instructions of a function in which the stack pointer is moved, if it is.
const PROLOGUE: usize = 12;

/// The stack pointer of a module.
#[derive(Debug, PartialEq, Eq)]
pub struct StackPointer {
    global: u32,
    /// Whether the module calls it so.
    named: bool,
    /// The upper end of the stack.
    initial: u64,
    /// The end of the static data below the stack; 0 if the stack comes first in memory.
    floor: u64,
    /// If it has no name: the functions that begin as if it were the stack pointer.
    users: HashSet<u32>,
}

/// What a module says of its globals and of its data.
#[derive(Default)]
struct Facts {
    imported_functions: u32,
    imported_globals: u32,
    /// The first value of each global that is defined, if it is a mutable integer.
    globals: Vec<Option<u64>>,
    named: Option<u32>,
    /// Where each active segment of memory 0 ends.
    data_ends: Vec<u64>,
    users: HashSet<u32>,
    bodies: u32,
}

impl StackPointer {
    /// Finds the stack pointer of a valid module; `None` if there is none, or it can't be told.
    pub fn find(wasm: &[u8]) -> Option<Self> {
        let mut facts = Facts::default();
        for payload in Parser::new(0).parse_all(wasm) {
            facts.payload(payload.ok()?).ok()?;
        }
        let global = facts.named.unwrap_or(UNNAMED);
        let defined = global.checked_sub(facts.imported_globals)?;
        let initial = (*facts.globals.get(usize::try_from(defined).ok()?)?)?;
        let named = facts.named.is_some();
        if initial == 0 || (!named && facts.users.is_empty()) {
            return None;
        }
        let below = facts.data_ends.iter().filter(|end| **end <= initial);
        let floor = below.max().copied().unwrap_or(0);
        let users = if named { HashSet::new() } else { facts.users };
        Some(Self { global, named, initial, floor, users })
    }

    /// Returns the message for a stack overflow if `dump`, taken after `trap`, shows one.
    pub fn verdict(&self, dump: &CoreDump<'_>, trap: Trap) -> Option<String> {
        if matches!(trap, Trap::Interrupt | Trap::StackOverflow) {
            return None;
        }
        // `run` has one instance. Another module's could not be told from it.
        let [instance] = &dump.instances[..] else { return None };
        let global = (*instance.globals.get(usize::try_from(self.global).ok()?)?)?;
        let (value, signed) = match dump.globals.get(usize::try_from(global.0).ok()?)?.value {
            GlobalValue::I32(value) => (u64::from(value.cast_unsigned()), i64::from(value)),
            GlobalValue::I64(value) => (value.cast_unsigned(), value),
            _ => return None,
        };
        let memory = (*instance.memories.first()?)?;
        let memory = dump.memories.get(usize::try_from(memory.0).ok()?)?.ty.byte_len()?;
        if !self.named {
            let youngest = dump.threads.first()?.frames.first()?;
            if !self.users.contains(&youngest.function) {
                return None;
            }
        }
        let (certain, what) = if signed < 0 && value >= memory {
            let bytes = report::bytes(signed.unsigned_abs());
            (self.named, format!("the stack pointer is {bytes} below address 0"))
        } else if value < self.floor {
            let bytes = report::bytes(self.floor - value);
            (false, format!("the stack reaches {bytes} into the static data"))
        } else if trap == Trap::MemoryOutOfBounds && self.floor == 0 && value < RED_ZONE {
            (false, format!("the stack has {} left", report::bytes(value)))
        } else {
            return None;
        };
        let likely = if certain { "" } else { "likely a " };
        Some(format!("{likely}stack overflow: {what}"))
    }
}

impl Facts {
    fn payload(&mut self, payload: Payload<'_>) -> Result<()> {
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    match import?.ty {
                        TypeRef::Func(_) | TypeRef::FuncExact(_) => self.imported_functions += 1,
                        TypeRef::Global(_) => self.imported_globals += 1,
                        _ => {}
                    }
                }
            }
            Payload::GlobalSection(section) => {
                for global in section {
                    let global = global?;
                    let counts = global.ty.mutable
                        && matches!(global.ty.content_type, ValType::I32 | ValType::I64);
                    let initial = constant(&global.init_expr).filter(|_| counts);
                    self.globals.push(initial);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    if export.name == NAME && export.kind == wasmparser::ExternalKind::Global {
                        self.named = Some(export.index);
                    }
                }
            }
            Payload::CodeSectionEntry(body) => {
                if begins_with_stack_frame(&body) {
                    self.users.insert(self.imported_functions + self.bodies);
                }
                self.bodies += 1;
            }
            Payload::DataSection(section) => {
                for data in section {
                    let data = data?;
                    if let DataKind::Active { memory_index: 0, offset_expr } = data.kind
                        && let Some(offset) = constant(&offset_expr)
                    {
                        // A segment past 2^64 is past the end of any memory: its guest has not started.
                        self.data_ends.extend(offset.checked_add(data.data.len() as u64));
                    }
                }
            }
            Payload::CustomSection(section) => {
                if let KnownCustom::Name(names) = section.as_known() {
                    for name in names {
                        // A garbled name section is no fault of the guest.
                        let Ok(name) = name else { break };
                        if let Name::Global(globals) = name {
                            let mut globals = globals.into_iter().flatten();
                            let found = globals.find(|naming| naming.name == NAME);
                            self.named = self.named.or(found.map(|naming| naming.index));
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The value of an expression that is one constant.
fn constant(expression: &ConstExpr<'_>) -> Option<u64> {
    let mut operators = expression.get_operators_reader();
    let value = match operators.read().ok()? {
        Operator::I32Const { value } => value.cast_unsigned().into(),
        Operator::I64Const { value } => value.cast_unsigned(),
        _ => return None,
    };
    matches!(operators.read().ok()?, Operator::End).then_some(value)
}

/// Whether a function begins as those with a stack frame do, if global 0 is the stack pointer.
fn begins_with_stack_frame(body: &FunctionBody<'_>) -> bool {
    let Ok(mut operators) = body.get_operators_reader() else { return false };
    let mut matched = 0;
    for _ in 0..PROLOGUE {
        let Ok(operator) = operators.read() else { return false };
        matched = match (matched, operator) {
            (_, Operator::GlobalGet { global_index: 0 }) => 1,
            (1, Operator::I32Const { value: 1.. }) | (1, Operator::I64Const { value: 1.. }) => 2,
            (2, Operator::I32Sub | Operator::I64Sub) => return true,
            _ => 0,
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str) -> Option<StackPointer> {
        StackPointer::find(&wat::parse_str(text).unwrap())
    }

    const FUNCTION: &str =
        "(func (local i32) (local.set 0 (i32.sub (global.get 0) (i32.const 16))))";

    #[test]
    fn takes_the_named_global() {
        let found = find(
            "(module (memory 2) (global i32 (i32.const 1))
               (global $__stack_pointer (mut i32) (i32.const 65536))
               (data (i32.const 65536) \"after\"))",
        )
        .unwrap();
        assert_eq!((found.global, found.named, found.initial, found.floor), (1, true, 65_536, 0));
        let found = find(
            "(module (memory i64 2) (data (i64.const 1024) \"static\")
               (global (export \"__stack_pointer\") (mut i64) (i64.const 65536)))",
        )
        .unwrap();
        assert_eq!((found.global, found.named, found.floor), (0, true, 1030));
    }

    #[test]
    fn takes_global_0_only_if_a_function_uses_it_as_a_stack() {
        let found = find(&format!(
            "(module (memory 1) (global (mut i32) (i32.const 4096)) (func) {FUNCTION})"
        ));
        let found = found.unwrap();
        assert_eq!((found.global, found.named), (0, false));
        assert_eq!(found.users, HashSet::from([1]));
        for text in [
            "(module (memory 1) (global (mut i32) (i32.const 4096)) (func))".to_string(),
            format!("(module (memory 1) (global i32 (i32.const 4096)) {FUNCTION})"),
            format!("(module (memory 1) (global (mut i32) (i32.const 0)) {FUNCTION})"),
        ] {
            assert_eq!(find(&text), None, "{text}");
        }
    }
}
