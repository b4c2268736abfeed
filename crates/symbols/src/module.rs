//! The parts of a module file that symbols need: the names, types and bodies of functions, and debugging information.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use wasmparser::{
    BinaryReader, CustomSectionReader, FunctionBody, KnownCustom, Operator, OperatorsReader,
    Parser, Payload, Result, TypeRef, ValType,
};

use super::limits::{
    MAX_CACHED_ASSIGNMENTS, MAX_CACHED_RETURNS, MAX_DECODED_BYTES, MAX_FUNCTIONS, MAX_LOCALS,
};
use super::value::Unknown;

/// The maximum length in bytes of the size field before a function's body. Some producers count it as part of the
/// function.
pub const SIZE_FIELD: u64 = 5;

/// The functions and debugging information of a module file.
#[derive(Default)]
pub struct Module<'b> {
    /// The name in the name section, as bytes.
    pub name: Option<&'b [u8]>,
    /// The build id, from the section of that name.
    pub build_id: Option<&'b [u8]>,
    /// The parameters of each function type; `None` for other types.
    types: Vec<Option<Box<[ValType]>>>,
    /// The types of the defined functions.
    signatures: Vec<u32>,
    /// The number of imported functions, which have the first indices.
    imported: u32,
    /// The bodies of the defined functions, without their size fields.
    bodies: Vec<&'b [u8]>,
    names: HashMap<u32, &'b [u8]>,
    /// The file from the contents of the code section on.
    code: Option<&'b [u8]>,
    /// The offset in the file of the contents of the code section.
    code_offset: Option<u64>,
    /// The DWARF sections by name.
    pub debug: HashMap<&'b str, &'b [u8]>,
    /// The file that has the debugging information, if it is not this one.
    pub external: Option<&'b str>,
    /// The fault after which the file was not read further.
    pub fault: Option<String>,
    /// The number of bytes of code decoded so far.
    decoded: Cell<u64>,
    assignments: RefCell<HashMap<u32, Arc<Assignments>>>,
    /// The number of entries and assignments in `assignments`.
    cached_assignments: Cell<usize>,
    /// Whether a call returns to an offset of a function.
    returns: RefCell<HashMap<(u32, u32), bool>>,
}

/// The instructions of a function that assign to locals.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Assignments {
    /// The locals and the DWARF addresses of the instructions, in ascending order.
    sorted: Vec<(u32, u64)>,
}

impl Assignments {
    /// Returns whether an instruction in a range of DWARF addresses assigns to a local.
    pub fn has(&self, local: u32, range: Range<u64>) -> bool {
        let begin = self.sorted.partition_point(|at| *at < (local, range.start));
        self.sorted.get(begin).is_some_and(|(of, at)| *of == local && *at < range.end)
    }

    /// Returns the number of instructions that assign to a local.
    pub fn count(&self, local: u32) -> usize {
        let end = self.sorted.partition_point(|(of, _)| *of <= local);
        end - self.sorted.partition_point(|(of, _)| *of < local)
    }
}

/// The types of a function's locals.
#[derive(Debug, PartialEq, Eq)]
pub struct Locals {
    /// The types of the parameters and of the other locals.
    pub types: Vec<ValType>,
    /// The number of parameters.
    pub params: usize,
}

/// The code position of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The DWARF address of the current instruction: its offset in bytes from the start of the code section's contents.
    pub address: u64,
    /// The DWARF address of the function's body, after its size field, if it is known.
    pub body: Option<u64>,
}

impl<'b> Module<'b> {
    /// Reads a module. If it is truncated or malformed, reads everything before the fault.
    pub fn read(bytes: &'b [u8]) -> Self {
        let mut module = Self::default();
        for payload in Parser::new(0).parse_all(bytes) {
            if let Err(error) = payload.and_then(|payload| module.add(bytes, payload)) {
                module.fault =
                    Some(format!("{} (at offset {:#x})", error.message(), error.offset()));
                break;
            }
        }
        module
    }

    fn add(&mut self, bytes: &'b [u8], payload: Payload<'b>) -> Result<()> {
        match payload {
            Payload::TypeSection(section) => {
                for group in section {
                    for ty in group?.into_types() {
                        let function = match ty.composite_type.inner {
                            wasmparser::CompositeInnerType::Func(function) => Some(function),
                            _ => None,
                        };
                        self.types.push(function.map(|function| function.params().into()));
                    }
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let function = matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_));
                    self.imported += u32::from(function);
                }
            }
            Payload::FunctionSection(section) => {
                for ty in section.into_iter().take(MAX_FUNCTIONS) {
                    self.signatures.push(ty?);
                }
            }
            Payload::CodeSectionStart { unchecked_range, .. } => {
                self.code = slice(bytes, unchecked_range.start..bytes.len() as u64);
                self.code_offset = Some(unchecked_range.start);
            }
            Payload::CodeSectionEntry(body) if self.bodies.len() < MAX_FUNCTIONS => {
                self.bodies.extend(slice(bytes, body.range()));
            }
            Payload::CustomSection(section) => self.add_custom(&section),
            _ => {}
        }
        Ok(())
    }

    fn add_custom(&mut self, section: &CustomSectionReader<'b>) {
        match section.as_known() {
            KnownCustom::Name(_) => {
                let _ = self.read_names(section.data());
            }
            _ if section.name().starts_with(".debug_") => {
                self.debug.entry(section.name()).or_insert(section.data());
            }
            _ if section.name() == "external_debug_info" => {
                self.external = BinaryReader::new(section.data(), 0).read_string().ok();
            }
            _ if section.name() == "build_id" => {
                let mut reader = BinaryReader::new(section.data(), 0);
                let read = reader.read_var_u32().and_then(|len| reader.read_bytes(len as usize));
                self.build_id = read.ok().filter(|id| !id.is_empty() && reader.eof());
            }
            _ => {}
        }
    }

    /// Reads the names of the module and of its functions. Names are optional, so this keeps those before a malformed
    /// one. A name that is not UTF-8 is only a bad name, so names are kept as bytes.
    fn read_names(&mut self, section: &'b [u8]) -> Result<()> {
        const MODULE: u8 = 0;
        const FUNCTION: u8 = 1;
        let mut subsections = BinaryReader::new(section, 0);
        while !subsections.eof() {
            let id = subsections.read_u8()?;
            let len = subsections.read_var_u32()? as usize;
            let mut reader = BinaryReader::new(subsections.read_bytes(len)?, 0);
            match id {
                MODULE => {
                    let len = reader.read_var_u32()? as usize;
                    self.name = Some(reader.read_bytes(len)?);
                }
                FUNCTION => {
                    let count = reader.read_var_u32()? as usize;
                    for _ in 0..count.min(MAX_FUNCTIONS) {
                        let index = reader.read_var_u32()?;
                        let len = reader.read_var_u32()? as usize;
                        self.names.insert(index, reader.read_bytes(len)?);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns whether the file has code, which a companion with only debugging information does not have.
    pub fn has_code(&self) -> bool {
        self.code.is_some()
    }

    /// Returns the name of a function from the name section. Bytes that are not UTF-8 become replacement characters.
    pub fn function_name(&self, function: u32) -> Option<String> {
        self.names.get(&function).map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// Returns the function whose body, or the size field before it, begins at a DWARF address.
    pub fn function_at(&self, address: u64) -> Option<u32> {
        let code = self.code?.as_ptr().addr();
        let start = |body: &&[u8]| (body.as_ptr().addr() - code) as u64;
        let found = self.bodies.partition_point(|body| start(body) < address);
        let before = start(self.bodies.get(found)?) - address;
        let index = u32::try_from(found).ok()?.checked_add(self.imported)?;
        (before <= SIZE_FIELD).then_some(index)
    }

    /// Returns the types of a function's parameters and locals, or `None` if they cannot be decoded.
    pub fn locals(&self, function: u32) -> Option<Locals> {
        let defined = function.checked_sub(self.imported)? as usize;
        let ty = *self.signatures.get(defined)? as usize;
        let mut types = self.types.get(ty)?.as_deref()?.to_vec();
        let params = types.len();
        let body = FunctionBody::new(BinaryReader::new(self.bodies.get(defined)?, 0));
        for local in body.get_locals_reader().ok()? {
            let (count, ty) = local.ok()?;
            let count = count as usize;
            if count > MAX_LOCALS.saturating_sub(types.len()) {
                return None;
            }
            types.resize(types.len() + count, ty);
        }
        Some(Locals { types, params })
    }

    /// Returns the body of a function.
    ///
    /// # Errors
    /// Returns a message if this module has no code of the function.
    fn body(&self, function: u32) -> std::result::Result<&'b [u8], String> {
        let Some(defined) = function.checked_sub(self.imported) else {
            let n = self.imported;
            return Err(format!("has no code of function {function}, it imports {n}"));
        };
        self.bodies.get(defined as usize).copied().ok_or_else(|| {
            let all = self.bodies.len() as u64 + u64::from(self.imported);
            let s = if all == 1 { "" } else { "s" };
            format!("has no function {function}, only {all} function{s}")
        })
    }

    /// Returns the position of a frame in this module. `caller` says whether the frame called a younger one.
    ///
    /// # Errors
    /// Returns a message if the position does not exist, which means that the frame belongs to another module, or if too
    /// much code would have to be decoded.
    pub fn place(
        &self,
        function: u32,
        offset: u32,
        caller: bool,
    ) -> std::result::Result<Option<Place>, String> {
        let body = self.body(function)?;
        check_offset(body, function, offset)?;
        // A body starts with the declarations of locals, so offset 0 is not an instruction.
        let Some(code) = self.code.filter(|_| offset > 0) else { return Ok(None) };
        let start = (body.as_ptr().addr() - code.as_ptr().addr()) as u64;
        let back = u64::from(caller && self.is_return(body, function, offset)?);
        Ok(Some(Place { address: start + u64::from(offset) - back, body: Some(start) }))
    }

    /// Returns the instructions of a function that assign to locals.
    ///
    /// # Errors
    /// Returns the reason why they are not known.
    pub fn assignments(&self, function: u32) -> std::result::Result<Arc<Assignments>, Unknown> {
        if let Some(found) = self.assignments.borrow().get(&function) {
            return Ok(found.clone());
        }
        let body = self.body(function).map_err(Unknown::Malformed)?;
        let Some(code) = self.code else { return Ok(Arc::default()) };
        if !self.may_decode(body.len()) {
            return Err(Unknown::TooMuchWork);
        }
        let start = (body.as_ptr().addr() - code.as_ptr().addr()) as u64;
        let found = find_assignments(body, start)
            .map_err(|error| Unknown::Unsupported(error.message().into()))?;
        let found = Arc::new(found);
        let mut cache = self.assignments.borrow_mut();
        let weight = found.sorted.len() + 1;
        let more = self.cached_assignments.get() + weight;
        if more > MAX_CACHED_ASSIGNMENTS {
            cache.clear();
            self.cached_assignments.set(weight);
        } else {
            self.cached_assignments.set(more);
        }
        cache.insert(function, found.clone());
        Ok(found)
    }

    /// Returns the number of bytes of code decoded so far.
    pub fn decoded(&self) -> u64 {
        self.decoded.get()
    }

    /// Returns whether `len` more bytes of code may be decoded, and counts them if so.
    fn may_decode(&self, len: usize) -> bool {
        let all = self.decoded.get().saturating_add(len as u64);
        if all > MAX_DECODED_BYTES {
            return false;
        }
        self.decoded.set(all);
        true
    }

    /// Returns whether another module has the same functions, with the same indices.
    pub fn has_same_functions(&self, other: &Self) -> bool {
        self.imported == other.imported && self.bodies == other.bodies
    }

    /// Returns the DWARF address of the end of a function, if the code has it.
    pub fn function_end(&self, function: u32) -> Option<u64> {
        let body = self.body(function).ok()?;
        let start = (body.as_ptr().addr() - self.code?.as_ptr().addr()) as u64;
        Some(start + body.len() as u64)
    }

    /// Returns the position of the byte at `offset` of the module, or `None` if it is before the code.
    pub fn place_at(&self, offset: u64) -> Option<Place> {
        Some(Place { address: offset.checked_sub(self.code_offset?)?, body: None })
    }

    /// Checks that code offsets of frames can be those of this function, and returns the first one that cannot, with a
    /// message. `offsets` is sorted and yields each offset with whether its frame called a younger one.
    ///
    /// With `exact`, each offset must be that of an instruction: of a call, or of the instruction after a call, if the
    /// frame called a younger one. Dumps of other tools may count offsets differently. Code over the limit of work is not
    /// decoded, and is not a fault.
    pub fn find_foreign_offset(
        &self,
        function: u32,
        offsets: &[(u32, bool)],
        exact: bool,
    ) -> Option<((u32, bool), String)> {
        let first = *offsets.first()?;
        let body = match self.body(function) {
            Ok(body) => body,
            Err(message) => return Some((first, message)),
        };
        if let Some((offset, message)) = offsets.iter().find_map(|(offset, caller)| {
            Some(((*offset, *caller), check_offset(body, function, *offset).err()?))
        }) {
            return Some((offset, message));
        }
        if !exact || !self.may_decode(body.len()) {
            return None;
        }
        // Code that this parser does not know proves nothing.
        let mut reader =
            FunctionBody::new(BinaryReader::new(body, 0)).get_operators_reader().ok()?;
        let begin = reader.original_position();
        let mut follows_call = false;
        for (offset, caller) in offsets {
            // Before the first instruction are the declarations of locals: some engines give such an offset for a guest
            // that stops when it enters the function.
            if u64::from(*offset) < begin {
                continue;
            }
            while reader.original_position() < u64::from(*offset) {
                follows_call = is_call(&reader.read().ok()?);
            }
            if reader.original_position() > u64::from(*offset) {
                let message = format!("function {function} has no instruction at {offset:#x}");
                return Some(((*offset, *caller), message));
            }
            if *caller && !follows_call && !next_is_call(&mut reader.clone()) {
                let message = format!("function {function} has no call at {offset:#x}");
                return Some(((*offset, *caller), message));
            }
        }
        None
    }

    /// Returns whether a call returns to the offset.
    ///
    /// For a calling frame, most dumps have the offset of the call. Some have the offset of the next instruction, which
    /// may be on another line. The byte before that offset belongs to the call.
    ///
    /// # Errors
    /// Returns a message if too much code would have to be decoded.
    fn is_return(
        &self,
        body: &'b [u8],
        function: u32,
        offset: u32,
    ) -> std::result::Result<bool, String> {
        let mut cache = self.returns.borrow_mut();
        if let Some(found) = cache.get(&(function, offset)) {
            return Ok(*found);
        }
        if !self.may_decode(offset as usize) {
            return Err("exceeds the limit of work for code".into());
        }
        let found = follows_call(body, offset);
        if cache.len() >= MAX_CACHED_RETURNS {
            cache.clear();
        }
        cache.insert((function, offset), found);
        Ok(found)
    }
}

/// Returns whether the instruction before an offset of a body is a call, and the one at the offset is not.
fn follows_call(body: &[u8], offset: u32) -> bool {
    let body = FunctionBody::new(BinaryReader::new(body, 0));
    let Ok(mut reader) = body.get_operators_reader() else { return false };
    let mut follows_call = false;
    while reader.original_position() < u64::from(offset) {
        let Ok(operator) = reader.read() else { return false };
        follows_call = is_call(&operator);
    }
    let here = reader.original_position() == u64::from(offset);
    here && follows_call && !next_is_call(&mut reader)
}

/// Returns the instructions of a body that assign to locals. `start` is the DWARF address of the body.
fn find_assignments(body: &[u8], start: u64) -> Result<Assignments> {
    let mut reader = FunctionBody::new(BinaryReader::new(body, 0)).get_operators_reader()?;
    let mut sorted = Vec::new();
    while !reader.eof() {
        let address = start + reader.original_position();
        if let Operator::LocalSet { local_index } | Operator::LocalTee { local_index } =
            reader.read()?
        {
            sorted.push((local_index, address));
        }
    }
    sorted.sort_unstable();
    Ok(Assignments { sorted })
}

/// Checks that a function's body has an offset.
fn check_offset(body: &[u8], function: u32, offset: u32) -> std::result::Result<(), String> {
    if (offset as usize) < body.len() {
        return Ok(());
    }
    let len = body.len();
    Err(format!("has no offset {offset:#x} in function {function}, which has {len:#x} bytes"))
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
