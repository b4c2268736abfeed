//! The parts of a module file that symbols need: the names and bodies of functions, and debugging information.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;

use wasmparser::{
    BinaryReader, FunctionBody, KnownCustom, Name, Operator, OperatorsReader, Parser, Payload,
    Result, TypeRef,
};

use super::limits::{MAX_DECODED_BYTES, MAX_FUNCTIONS};

/// The functions and debugging information of a module file.
#[derive(Default)]
pub struct Guest<'b> {
    /// The name of the module.
    pub name: Option<&'b str>,
    /// The number of imported functions, which have the first indices.
    imported: u32,
    /// The bodies of the defined functions, without their size fields.
    bodies: Vec<&'b [u8]>,
    names: HashMap<u32, &'b str>,
    /// The offset of the contents of the code section in the module.
    code: Option<&'b [u8]>,
    /// The offset of the contents in the file.
    code_offset: Option<u64>,
    /// The DWARF sections by name.
    pub debug: HashMap<&'b str, &'b [u8]>,
    /// The file that has the debugging information, if it is not this one.
    pub external: Option<&'b str>,
    /// The fault after which the file was not read further.
    pub fault: Option<String>,
    decoded: Cell<u64>,
}

/// The code position of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The DWARF address of the current instruction: its offset in bytes from the start of the code section's contents.
    pub address: u64,
    /// The DWARF address of the function's body, after its size field.
    pub body: u64,
}

impl<'b> Guest<'b> {
    /// Reads a module. If it is truncated or malformed, reads everything before the fault.
    pub fn read(bytes: &'b [u8]) -> Self {
        let mut guest = Self::default();
        for payload in Parser::new(0).parse_all(bytes) {
            if let Err(error) = payload.and_then(|payload| guest.payload(bytes, payload)) {
                guest.fault =
                    Some(format!("{} (at offset {:#x})", error.message(), error.offset()));
                break;
            }
        }
        guest
    }

    fn payload(&mut self, bytes: &'b [u8], payload: Payload<'b>) -> Result<()> {
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let function = matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_));
                    self.imported += u32::from(function);
                }
            }
            Payload::CodeSectionStart { unchecked_range, .. } => {
                self.code = slice(bytes, unchecked_range.start..bytes.len() as u64);
                self.code_offset = Some(unchecked_range.start);
            }
            Payload::CodeSectionEntry(body) if self.bodies.len() < MAX_FUNCTIONS => {
                self.bodies.extend(slice(bytes, body.range()));
            }
            Payload::CustomSection(section) => match section.as_known() {
                // Names are optional: keeps those before the first malformed one.
                KnownCustom::Name(names) => {
                    for name in names {
                        let Ok(name) = name else { break };
                        self.name(name);
                    }
                }
                _ if section.name().starts_with(".debug_") => {
                    self.debug.entry(section.name()).or_insert(section.data());
                }
                _ if section.name() == "external_debug_info" => {
                    self.external = BinaryReader::new(section.data(), 0).read_string().ok();
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    fn name(&mut self, name: Name<'b>) {
        match name {
            Name::Module { name, .. } => self.name = Some(name),
            Name::Function(names) => {
                for naming in names.into_iter().take(MAX_FUNCTIONS).flatten() {
                    self.names.insert(naming.index, naming.name);
                }
            }
            _ => {}
        }
    }

    /// Returns the name of a function from the name section.
    pub fn function(&self, function: u32) -> Option<&'b str> {
        self.names.get(&function).copied()
    }

    /// Returns the position of a frame in this module. `caller` says whether the frame called a younger one.
    ///
    /// # Errors
    /// Returns a message if the position does not exist, which means that the frame belongs to another module.
    pub fn place(
        &self,
        function: u32,
        offset: u32,
        caller: bool,
    ) -> std::result::Result<Option<Place>, String> {
        let Some(defined) = function.checked_sub(self.imported) else {
            let n = self.imported;
            return Err(format!("has no code of function {function}, it imports {n}"));
        };
        let Some(body) = self.bodies.get(defined as usize) else {
            let all = self.bodies.len() as u64 + u64::from(self.imported);
            let s = if all == 1 { "" } else { "s" };
            return Err(format!("has no function {function}, only {all} function{s}"));
        };
        if offset as usize >= body.len() {
            return Err(format!(
                "has no offset {offset:#x} in function {function}, which has {:#x} bytes",
                body.len()
            ));
        }
        // A body starts with the declarations of locals, so offset 0 is not an instruction.
        let Some(code) = self.code.filter(|_| offset > 0) else { return Ok(None) };
        let start = (body.as_ptr().addr() - code.as_ptr().addr()) as u64;
        let back = u64::from(caller && self.is_behind_call(body, offset));
        Ok(Some(Place { address: start + u64::from(offset) - back, body: start }))
    }

    /// Returns the position of the byte at `offset` in a module made from text, or `None` if it is not code.
    ///
    /// The line addresses of the crate `wast` start at the first function, after the function count, a LEB128 of
    /// `count` bytes.
    pub fn place_in_text(&self, offset: u64) -> Option<Place> {
        let functions = u64::try_from(self.bodies.len()).ok()?;
        let count = u64::from((64 - functions.leading_zeros()).div_ceil(7).max(1));
        let address = offset.checked_sub(self.code_offset?)?.checked_sub(count)?;
        Some(Place { address, body: 0 })
    }

    /// Returns whether a call returns to the offset.
    ///
    /// For a calling frame, most dumps have the offset of the call. Some have the offset of the next instruction, which
    /// may be on another line. The byte before that offset belongs to the call.
    fn is_behind_call(&self, body: &'b [u8], offset: u32) -> bool {
        self.decoded.set(self.decoded.get() + u64::from(offset));
        if self.decoded.get() > MAX_DECODED_BYTES {
            return false;
        }
        let body = FunctionBody::new(BinaryReader::new(body, 0));
        let Ok(mut reader) = body.get_operators_reader() else { return false };
        let mut behind_call = false;
        while reader.original_position() < u64::from(offset) {
            let Ok(operator) = reader.read() else { return false };
            behind_call = is_call(&operator);
        }
        let here = reader.original_position() == u64::from(offset);
        here && behind_call && !next_is_call(&mut reader)
    }
}

fn next_is_call(reader: &mut OperatorsReader<'_>) -> bool {
    reader.read().is_ok_and(|operator| is_call(&operator))
}

/// Returns whether this instruction can call a function.
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

fn slice(bytes: &[u8], range: Range<u64>) -> Option<&[u8]> {
    bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}
