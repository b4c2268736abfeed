//! Detects whether a trapped guest has exhausted the stack in its linear memory.
//!
//! # The problem
//! Code by clang and rustc keeps arrays, and all other variables whose address is taken, on a stack in linear memory.
//! The stack grows down, and no engine guards its end. A stack overflow appears as "out of bounds memory access" or any
//! other trap.
//!
//! # The idea
//! The stack pointer is a mutable global. The linker names it `__stack_pointer`, and initializes it with the upper end
//! of the stack. The dump has its value at the trap.
//!
//! - The stack pointer is below address 0 (it has wrapped around, past the end of the memory): the stack has
//!   overflowed, no matter which trap occurred. This happens if the stack comes first in memory, which is the layout of
//!   rustc, wasi-sdk and newer linkers.
//! - It is below the end of the static data, and the stack comes after the data: the stack has grown into the data.
//!   This may have happened long before the trap, which the overwritten data then most likely caused. It is not
//!   certain: a guest may switch to a second stack in its static data.
//! - It is a few bytes above address 0, and the trap is an out-of-bounds access: a leaf function may use up to 128
//!   bytes below the stack pointer without moving it (LLVM's red zone). An overflow is likely but not certain.
//!
//! # The limits
//! If the module has no names, global 0 counts as the stack pointer only if the function of the youngest frame starts
//! like a function with a stack frame: `global.get 0; i32.const N; i32.sub`. The message then says "likely". Other
//! compilers use their globals in other ways, so no other global counts as a stack pointer. If the engine's own call
//! stack is exhausted, the engine's message stays.

use std::collections::HashSet;

use corestream::{CoreDump, GlobalValue};
use wasmparser::{
    ConstExpr, DataKind, FunctionBody, KnownCustom, Name, Operator, Parser, Payload, Result,
    TypeRef, ValType,
};
use wasmtime::Trap;

use crate::report;

/// The name of the stack pointer, by convention of linkers.
const NAME: &str = "__stack_pointer";
/// The index of an unnamed stack pointer. LLVM puts it first.
const UNNAMED: u32 = 0;
/// The number of bytes below the stack pointer that a leaf function may use (LLVM, `WebAssemblyFrameLowering`).
const RED_ZONE: u64 = 128;
/// The number of instructions at the start of a function that may move the stack pointer.
const PROLOGUE: usize = 12;

/// The stack pointer of a module.
#[derive(Debug, PartialEq, Eq)]
pub struct StackPointer {
    global: u32,
    /// Whether the global has the name.
    named: bool,
    /// The upper end of the stack.
    initial: u64,
    /// The end of the static data below the stack, or 0 if the stack comes first in memory.
    floor: u64,
    /// For an unnamed global: the functions that start as if it were the stack pointer.
    users: HashSet<u32>,
}

/// The facts about a module's globals and data.
#[derive(Default)]
struct Facts {
    imported_functions: u32,
    imported_globals: u32,
    /// The initial value of each defined global that is a mutable integer.
    globals: Vec<Option<u64>>,
    named: Option<u32>,
    /// The end of each active segment of memory 0.
    data_ends: Vec<u64>,
    users: HashSet<u32>,
    bodies: u32,
}

impl StackPointer {
    /// Finds the stack pointer of a valid module. Returns `None` if there is none, or if it is uncertain.
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
        let instance = match &dump.instances[..] {
            [instance] => instance,
            // A component has several. This is the stack pointer of the youngest frame's module.
            instances => {
                let youngest = dump.threads.first()?.frames.first()?.instance?;
                instances.get(usize::try_from(youngest.0).ok()?)?
            }
        };
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
                        // A segment that ends past 2^64 does not fit any memory, so the guest never started.
                        self.data_ends.extend(offset.checked_add(data.data.len() as u64));
                    }
                }
            }
            Payload::CustomSection(section) => {
                if let KnownCustom::Name(names) = section.as_known() {
                    for name in names {
                        // Ignores a malformed name section.
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

/// Returns the value of an expression that is a single constant.
fn constant(expression: &ConstExpr<'_>) -> Option<u64> {
    let mut operators = expression.get_operators_reader();
    let value = match operators.read().ok()? {
        Operator::I32Const { value } => value.cast_unsigned().into(),
        Operator::I64Const { value } => value.cast_unsigned(),
        _ => return None,
    };
    matches!(operators.read().ok()?, Operator::End).then_some(value)
}

/// Returns whether a function starts like one with a stack frame, if global 0 is the stack pointer.
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
