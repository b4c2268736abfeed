//! Instructions of a module: where functions are in the file, and how long a call is.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use wasmparser::{
    BinaryReader, FunctionBody, Operator, OperatorsReader, Parser, Payload, Result, TypeRef,
};

/// The bodies of some functions of a module.
#[derive(Debug, Default)]
pub(crate) struct Code<'b> {
    bytes: &'b [u8],
    /// The bodies in the file, without their size fields.
    bodies: HashMap<u32, Range<usize>>,
}

impl<'b> Code<'b> {
    /// Finds the bodies of functions. Only those that are needed are kept, because a module can have a million.
    pub(crate) fn find(bytes: &'b [u8], needed: &HashSet<u32>) -> Self {
        let mut code = Self { bytes, bodies: HashMap::new() };
        let mut next = 0_u32;
        for payload in Parser::new(0).parse_all(bytes) {
            // The frames were matched with what comes before the fault of a malformed file.
            let Ok(true) = payload.and_then(|payload| code.add(&payload, &mut next, needed)) else {
                break;
            };
        }
        code
    }

    /// Returns whether more of the module is needed.
    fn add(
        &mut self,
        payload: &Payload<'_>,
        next: &mut u32,
        needed: &HashSet<u32>,
    ) -> Result<bool> {
        match payload {
            Payload::ImportSection(section) => {
                for import in section.clone().into_imports() {
                    if matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)) {
                        *next = next.saturating_add(1);
                    }
                }
            }
            Payload::CodeSectionEntry(body) => {
                let range = body.range();
                if needed.contains(next)
                    && let (Ok(start), Ok(end)) = (range.start.try_into(), range.end.try_into())
                {
                    self.bodies.insert(*next, start..end);
                }
                *next = next.saturating_add(1);
                return Ok(self.bodies.len() < needed.len());
            }
            _ => {}
        }
        Ok(true)
    }

    /// Returns the position of a frame's program counter in the file.
    ///
    /// LLDB looks up the youngest frame of a thread at its program counter, and callers at the byte before it. So the
    /// program counter of a caller is the address after its call. With the address of the call, LLDB would show the line
    /// of an argument.
    ///
    /// Some writers of dumps record the address after the call already. If there is no call at the offset, it is taken
    /// as such an address.
    pub(crate) fn position(&self, function: u32, offset: u32, caller: bool) -> Option<u64> {
        let body = self.bodies.get(&function)?;
        let offset = usize::try_from(offset).ok().filter(|offset| *offset < body.len())?;
        let position = body.start + offset;
        if !caller {
            return Some(position as u64);
        }
        if offset < self.first_instruction(body)? {
            // The position in the function is not known. The byte before this one is within the function.
            return Some(body.start as u64 + 1);
        }
        let (operator, len) = self.decode(position..body.end)?;
        let len = if is_call(&operator) { len } else { 0 };
        Some(position as u64 + len)
    }

    /// Returns whether an offset is in front of the first instruction: the guest stopped when it entered the function.
    pub(crate) fn is_at_entry(&self, function: u32, offset: u32) -> bool {
        let body = self.bodies.get(&function);
        let first = body.and_then(|body| self.first_instruction(body));
        first.is_some_and(|first| (offset as usize) < first)
    }

    /// Returns the instruction at an offset.
    pub(crate) fn operator(&self, function: u32, offset: u32) -> Option<Operator<'b>> {
        let body = self.bodies.get(&function)?;
        let position = body.start.checked_add(usize::try_from(offset).ok()?)?;
        if position >= body.end || self.is_at_entry(function, offset) {
            return None;
        }
        self.decode(position..body.end).map(|(operator, _)| operator)
    }

    /// Returns the offset of the first instruction in a body: the declarations of locals come before it.
    fn first_instruction(&self, body: &Range<usize>) -> Option<usize> {
        let bytes = self.bytes.get(body.clone())?;
        let reader = FunctionBody::new(BinaryReader::new(bytes, 0)).get_operators_reader().ok()?;
        usize::try_from(reader.original_position()).ok()
    }

    /// Decodes the first instruction of a range, and returns it with its length in bytes.
    fn decode(&self, range: Range<usize>) -> Option<(Operator<'b>, u64)> {
        let mut reader = OperatorsReader::new(BinaryReader::new(self.bytes.get(range)?, 0));
        let operator = reader.read().ok()?;
        Some((operator, reader.original_position()))
    }
}

/// Returns whether this instruction can call a function and continue after it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use wasm_encoder::{
        CodeSection, EntityType, Function, FunctionSection, ImportSection, Module, TypeSection,
        ValType,
    };

    /// Returns a module that imports a function, and whose function 1 has this code after a local.
    fn module(code: &[u8]) -> Vec<u8> {
        let (mut types, mut imports, mut functions, mut bodies) =
            (TypeSection::new(), ImportSection::new(), FunctionSection::new(), CodeSection::new());
        types.ty().function([], []);
        imports.import("host", "f", EntityType::Function(0));
        functions.function(0).function(0);
        let mut body = Function::new([(1, ValType::I32)]);
        body.raw(code.iter().copied());
        bodies.function(&body).function(&body);
        let mut module = Module::new();
        module.section(&types).section(&imports).section(&functions).section(&bodies);
        module.finish()
    }

    #[test]
    fn the_program_counter_of_a_caller_is_after_its_call() {
        let calls: [(&[u8], u64); 7] = [
            (&[0x10, 1], 2),
            (&[0x10, 0x81, 0], 3),
            (&[0x10, 0x80, 0x80, 0x80, 0x80, 0], 6),
            (&[0x11, 0, 0], 3),
            (&[0x11, 0x80, 0, 0x80, 0x80, 0], 6),
            (&[0x14, 0], 2),
            (&[0x14, 0x80, 0x80, 0], 4),
        ];
        for (call, len) in calls {
            // The declarations of locals are 3 bytes long, and the code begins with `nop`.
            let bytes = module(&[&[0x01], call, &[0x00, 0x0b]].concat());
            for function in [1, 2] {
                let code = Code::find(&bytes, &HashSet::from([function]));
                let body = code.position(function, 0, false).unwrap();
                assert_eq!(code.position(function, 4, false), Some(body + 4));
                assert_eq!(code.position(function, 4, true), Some(body + 4 + len), "{call:x?}");
                // After the call already.
                let after = 4 + u32::try_from(len).unwrap();
                assert_eq!(code.position(function, after, true), Some(body + 4 + len));
                for unknown in [0, 1, 2] {
                    assert_eq!(code.position(function, unknown, true), Some(body + 1));
                    assert!(code.is_at_entry(function, unknown));
                }
                assert!(!code.is_at_entry(function, 3));
                assert_eq!(code.position(function, 1000, false), None);
                assert!(matches!(code.operator(function, 3), Some(Operator::Nop)));
                assert!(matches!(code.operator(function, after), Some(Operator::Unreachable)));
                assert!(code.operator(function, 0).is_none());
            }
        }
    }

    #[test]
    fn has_no_code_of_imported_and_missing_functions() {
        let bytes = module(&[0x0b]);
        let code = Code::find(&bytes, &HashSet::from([0, 3]));
        assert_eq!((code.position(0, 0, false), code.position(3, 0, false)), (None, None));
    }
}
