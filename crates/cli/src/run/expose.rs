//! Rewrites a module so that its whole state can be dumped, and so that a guest in `memory.atomic.wait` can be stopped.
//!
//! # The problem
//! Without guest debugging, Wasmtime exposes only exported shared memories to an embedder. Of a guest that did not trap,
//! it exposes only exported memories and globals.
//!
//! Wasmtime parks the thread of a guest in `memory.atomic.wait`. Neither epochs nor signals interrupt it there.
//!
//! # The idea
//! - Export each shared memory. For snapshots, export all memories and globals.
//! - With a time limit or snapshots, replace each wait with a call of a function that is added at the end of the module. The
//!   function waits in a loop, in slices of at most 50 ms. Wasmtime checks the epoch at the head of a loop, so the
//!   guest traps at most one slice after the limit, or freezes at most one slice after the request.
//!
//! The function for an instruction WAIT (threads proposal: a negative timeout is infinite; the results are 0 "ok",
//! 1 "not-equal" and 2 "timed-out"):
//!
//! ```wat
//! (func (param $address i32) (param $expected i32) (param $timeout i64) (result i32) (local $result i32)
//!   (loop $next (result i32)
//!     (local.get $address) (local.get $expected)
//!     ;; The unsigned minimum: a negative timeout is greater than any slice.
//!     (select (local.get $timeout) (i64.const SLICE) (i64.lt_u (local.get $timeout) (i64.const SLICE)))
//!     WAIT
//!     ;; Ends if the wait has ended, or if this was the last slice.
//!     (i32.or (i32.ne (local.tee $result) (i32.const 2))
//!             (i64.le_u (local.get $timeout) (i64.const SLICE)))
//!     (if (result i32)
//!       (then (local.get $result))
//!       (else
//!         (if (i64.ge_s (local.get $timeout) (i64.const 0))
//!           (then (local.set $timeout (i64.sub (local.get $timeout) (i64.const SLICE)))))
//!         (br $next)))))
//! ```
//!
//! # The invariants
//! - Waiting in slices has the same result as one wait. Each slice compares the value again, and a notification between
//!   two slices would be lost. The guest cannot observe either: `run` has one guest thread, so the value does not
//!   change and no notification arrives during the wait.
//! - The last slice is as long as the rest of the timeout, so a timeout is exact except for the wake-ups.
//! - All indices and offsets of the module stay the same, so that those in the dump are right. Types, functions and
//!   exports are added at the end. A call is as long as the wait that it replaces, by a padded index and `nop`. The
//!   added functions are the youngest frames of a waiting guest, and are removed from the dump.
//!
//! # The cost
//! A waiting guest wakes up 20 times per second, for microseconds each time. A finite timeout becomes longer by that
//! time.
//!
//! # Alternatives
//! - An imported function instead of an added one would shift the indices of all others.
//! - Notifying the guest at the limit does not work, because the address at which it waits is unknown. Notifying every
//!   address takes 20 ns each, which is minutes for a large, densely touched memory.

use std::ops::Range;

use wasm_encoder::{BlockType, Encode, ExportKind, RawSection, ValType};
use wasmparser::{BinaryReader, MemArgTarget, Operator, Parser, Payload, TypeRef};

/// The prefix of the added exports.
const PREFIX: &str = "corestream:";
/// The maximum time in nanoseconds that a guest waits without a check of the epoch.
const SLICE: i64 = 50_000_000;
/// The result of a wait whose timeout has expired.
const TIMED_OUT: i32 = 2;

/// The ids of the sections after the export section.
const AFTER_EXPORTS: [u8; 5] = [8, 9, 10, 11, 12];
const TYPE: u8 = 1;
const FUNCTION: u8 = 3;
const EXPORT: u8 = 7;
const CODE: u8 = 10;

/// A rewritten module.
pub struct Exposed {
    pub bytes: Vec<u8>,
    /// The index of the first added function.
    pub first_added: u32,
    /// Whether exports were added.
    pub exports: bool,
}

/// The changes to make to a module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// Whether to make waits interruptible.
    pub waits: bool,
    /// Whether to export all memories and globals, and not only the shared memories.
    pub all_state: bool,
}

/// The items added to a section.
#[derive(Default)]
struct Added {
    count: u32,
    bytes: Vec<u8>,
}

/// A wait instruction.
struct Wait {
    /// The offset in bytes from the start of the module.
    at: Range<usize>,
    memory64: bool,
    /// Whether the instruction compares 64 bits.
    wide: bool,
}

/// The facts about a module that the rewrite needs.
#[derive(Default)]
struct Contents {
    /// Whether each memory is shared, and whether it has 64-bit addresses.
    memories: Vec<(bool, bool)>,
    types: u32,
    functions: u32,
    globals: u32,
    /// Whether the module already has an export with the prefix of the added ones.
    taken: bool,
    waits: Vec<Wait>,
}

/// Rewrites a module in the binary or text format.
///
/// Returns `None` if no change is needed, or if the module cannot be read. The engine reports that error.
pub fn expose(module: &[u8], changes: Changes) -> Option<Exposed> {
    let module = wat::parse_bytes(module).ok()?;
    let contents = Contents::read(&module, changes.waits)?;
    let mut exports = Added::default();
    for (index, (shared, _)) in (0..).zip(&contents.memories) {
        // Export names are unique across all kinds.
        if (*shared || changes.all_state) && !contents.taken {
            exports.export(&memory_export(index), ExportKind::Memory, index);
        }
    }
    if changes.all_state && !contents.taken {
        for index in 0..contents.globals {
            exports.export(&format!("{PREFIX}global:{index}"), ExportKind::Global, index);
        }
    }
    let has_exports = exports.count > 0;
    if !has_exports && contents.waits.is_empty() {
        return None;
    }
    let mut bytes = module.to_vec();
    let (mut types, mut functions, mut code) = <(Added, Added, Added)>::default();
    // Instructions with the same bytes share a function.
    let mut kinds: Vec<(Vec<u8>, u32)> = Vec::new();
    for wait in &contents.waits {
        let instruction = module.get(wait.at.clone())?.to_vec();
        let function = match kinds.iter().find(|(other, _)| *other == instruction) {
            Some((_, function)) => *function,
            None => {
                let function = contents.functions.checked_add(functions.count)?;
                contents.types.checked_add(types.count)?.encode(&mut functions.bytes);
                functions.count += 1;
                types.wait_type(wait);
                code.wait_body(&instruction);
                kinds.push((instruction, function));
                function
            }
        };
        call(bytes.get_mut(wait.at.clone())?, function)?;
    }
    let mut changed = wasm_encoder::Module::new();
    let mut exports = Some(exports);
    for payload in Parser::new(0).parse_all(&module) {
        let Some((id, range)) = payload.ok()?.as_section() else { continue };
        let section = bytes.get(to_usize(range)?)?;
        if AFTER_EXPORTS.contains(&id)
            && let Some(exports) = exports.take()
        {
            exports.append_to(&mut changed, EXPORT, &[0])?;
        }
        match id {
            TYPE => types.append_to(&mut changed, id, section)?,
            FUNCTION => functions.append_to(&mut changed, id, section)?,
            CODE => code.append_to(&mut changed, id, section)?,
            EXPORT => exports.take()?.append_to(&mut changed, id, section)?,
            _ => {
                changed.section(&RawSection { id, data: section });
            }
        }
    }
    if let Some(exports) = exports {
        exports.append_to(&mut changed, EXPORT, &[0])?;
    }
    Some(Exposed { bytes: changed.finish(), first_added: contents.functions, exports: has_exports })
}

/// Returns the name of the export for a memory.
pub fn memory_export(index: u32) -> String {
    format!("{PREFIX}memory:{index}")
}

impl Contents {
    fn read(module: &[u8], waits: bool) -> Option<Self> {
        let mut this = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload.ok()? {
                Payload::TypeSection(section) => {
                    for group in section {
                        let count = u32::try_from(group.ok()?.types().len()).ok()?;
                        this.types = this.types.checked_add(count)?;
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        match import.ok()?.ty {
                            TypeRef::Func(_) | TypeRef::FuncExact(_) => {
                                this.functions = this.functions.checked_add(1)?;
                            }
                            TypeRef::Memory(ty) => this.memories.push((ty.shared, ty.memory64)),
                            TypeRef::Global(_) => this.globals = this.globals.checked_add(1)?,
                            _ => {}
                        }
                    }
                }
                Payload::FunctionSection(section) => {
                    this.functions = this.functions.checked_add(section.count())?;
                }
                Payload::MemorySection(section) => {
                    for ty in section {
                        let ty = ty.ok()?;
                        this.memories.push((ty.shared, ty.memory64));
                    }
                }
                Payload::GlobalSection(section) => {
                    this.globals = this.globals.checked_add(section.count())?;
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        this.taken |= export.ok()?.name.starts_with(PREFIX);
                    }
                }
                Payload::CodeSectionEntry(body)
                    if waits && this.memories.iter().any(|(shared, _)| *shared) =>
                {
                    let mut operators = body.get_operators_reader().ok()?;
                    while !operators.eof() {
                        let start = operators.original_position();
                        let (memarg, wide) = match operators.read().ok()? {
                            Operator::MemoryAtomicWait32 { memarg } => (memarg, false),
                            Operator::MemoryAtomicWait64 { memarg } => (memarg, true),
                            _ => continue,
                        };
                        let MemArgTarget::Memory(memory) = memarg.target else { continue };
                        let at = to_usize(start..operators.original_position())?;
                        // A wait on an unshared memory traps, so it needs no change.
                        if let Some((true, memory64)) =
                            this.memories.get(usize::try_from(memory).ok()?).copied()
                        {
                            this.waits.push(Wait { at, memory64, wide });
                        }
                    }
                }
                _ => {}
            }
        }
        Some(this)
    }
}

impl Added {
    fn export(&mut self, name: &str, kind: ExportKind, index: u32) {
        name.encode(&mut self.bytes);
        kind.encode(&mut self.bytes);
        index.encode(&mut self.bytes);
        self.count += 1;
    }

    /// Adds the type of a wait function: address, expected value and timeout, and the result.
    fn wait_type(&mut self, wait: &Wait) {
        const I32: u8 = 0x7f;
        const I64: u8 = 0x7e;
        let address = if wait.memory64 { I64 } else { I32 };
        let expected = if wait.wide { I64 } else { I32 };
        self.bytes.extend([0x60, 3, address, expected, I64, 1, I32]);
        self.count += 1;
    }

    /// Adds the body of a function that waits in slices. The module documentation has its text.
    fn wait_body(&mut self, instruction: &[u8]) {
        const ADDRESS: u32 = 0;
        const EXPECTED: u32 = 1;
        const TIMEOUT: u32 = 2;
        const RESULT: u32 = 3;
        let one_result = BlockType::Result(ValType::I32);
        let mut body = wasm_encoder::Function::new([(1, ValType::I32)]);
        body.instructions()
            .loop_(one_result)
            .local_get(ADDRESS)
            .local_get(EXPECTED)
            .local_get(TIMEOUT)
            .i64_const(SLICE)
            .local_get(TIMEOUT)
            .i64_const(SLICE)
            .i64_lt_u()
            .select();
        body.raw(instruction.iter().copied());
        body.instructions()
            .local_tee(RESULT)
            .i32_const(TIMED_OUT)
            .i32_ne()
            .local_get(TIMEOUT)
            .i64_const(SLICE)
            .i64_le_u()
            .i32_or()
            .if_(one_result)
            .local_get(RESULT)
            .else_()
            .local_get(TIMEOUT)
            .i64_const(0)
            .i64_ge_s()
            .if_(BlockType::Empty)
            .local_get(TIMEOUT)
            .i64_const(SLICE)
            .i64_sub()
            .local_set(TIMEOUT)
            .end()
            // Branches to the loop, which is around the `if`.
            .br(1)
            .end()
            .end()
            .end();
        body.encode(&mut self.bytes);
        self.count += 1;
    }

    /// Adds a section with all items of `section`, followed by the added ones.
    fn append_to(&self, module: &mut wasm_encoder::Module, id: u8, section: &[u8]) -> Option<()> {
        let mut items = BinaryReader::new(section, 0);
        let (count, len) = (items.read_var_u32().ok()?, items.current_position());
        let mut data = Vec::with_capacity(section.len() + self.bytes.len() + 5);
        count.checked_add(self.count)?.encode(&mut data);
        data.extend(section.get(len..)?);
        data.extend(&self.bytes);
        module.section(&RawSection { id, data: &data });
        Some(())
    }
}

/// Replaces a whole instruction with a call.
fn call(instruction: &mut [u8], function: u32) -> Option<()> {
    let index_len = instruction.len().checked_sub(1)?.min(5);
    if index_len < 5 && function >> (7 * index_len) != 0 {
        return None;
    }
    instruction.fill(0x01);
    let (opcode, rest) = instruction.split_first_mut()?;
    *opcode = 0x10;
    let index = rest.get_mut(..index_len)?;
    for (i, byte) in index.iter_mut().enumerate() {
        let more = if i + 1 < index_len { 0x80 } else { 0 };
        *byte = (function >> (7 * i)).to_le_bytes()[0] & 0x7f | more;
    }
    Some(())
}

fn to_usize(range: Range<u64>) -> Option<Range<usize>> {
    Some(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes waits interruptible.
    const WAITS: Changes = Changes { waits: true, all_state: false };
    /// Only exports what cannot be dumped otherwise.
    const NONE: Changes = Changes { waits: false, all_state: false };

    const TEXT: &str = r#"(module (import "" "f" (func)) (memory 1 2 shared) (memory i64 1 2 shared)
        (func $s (drop (memory.atomic.wait32 offset=300 (i32.const 0) (i32.const 0) (i64.const -1))))
        (func (export "run") (result i32) (call $s)
            (drop (memory.atomic.wait64 1 (i64.const 0) (i64.const 0) (i64.const -1)))
            (memory.atomic.wait32 offset=300 (i32.const 0) (i32.const 0) (i64.const -1)))
        (start $s))"#;

    #[test]
    fn keeps_indices_and_offsets() {
        let before = wat::parse_str(TEXT).unwrap();
        let Exposed { bytes, first_added, .. } = expose(TEXT.as_bytes(), WAITS).unwrap();
        assert_eq!(first_added, 3);
        wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all())
            .validate_all(&bytes)
            .unwrap();
        let bodies = |module: &[u8]| {
            let mut bodies = Vec::new();
            for payload in Parser::new(0).parse_all(module) {
                if let Payload::CodeSectionEntry(body) = payload.unwrap() {
                    bodies.push(body.as_bytes().to_vec());
                }
            }
            bodies
        };
        let (before, after) = (bodies(&before), bodies(&bytes));
        // Two kinds of waits need two functions.
        assert_eq!((before.len(), after.len()), (2, 4));
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before.len(), after.len());
            assert_ne!(before, after);
        }
    }

    #[test]
    fn adds_only_exports_without_a_time_limit() {
        let before = wat::parse_str(TEXT).unwrap();
        let Exposed { bytes, .. } = expose(TEXT.as_bytes(), NONE).unwrap();
        let sections = |module: &[u8]| -> Vec<(u8, Vec<u8>)> {
            let sections = Parser::new(0).parse_all(module);
            let sections = sections.filter_map(|payload| payload.unwrap().as_section());
            let of = |(id, range)| (id, module[to_usize(range).unwrap()].to_vec());
            sections.map(of).filter(|(id, _)| *id != EXPORT).collect()
        };
        assert_eq!(sections(&before), sections(&bytes));
        let exports = Parser::new(0).parse_all(&bytes).find_map(|payload| match payload {
            Ok(Payload::ExportSection(section)) => {
                Some(section.into_iter().map(|export| export.unwrap().name).collect::<Vec<_>>())
            }
            _ => None,
        });
        assert_eq!(exports.unwrap(), ["run", "corestream:memory:0", "corestream:memory:1"]);
    }

    #[test]
    fn exports_all_memories_and_globals_for_snapshots() {
        let text = r#"(module (import "" "g" (global i32)) (global $h (mut i64) (i64.const 7))
            (memory 1) (memory i64 1 2 shared) (export "h" (global $h)))"#;
        let all = Changes { waits: false, all_state: true };
        let Exposed { bytes, exports, .. } = expose(text.as_bytes(), all).unwrap();
        assert!(exports);
        wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all())
            .validate_all(&bytes)
            .unwrap();
        let names = Parser::new(0).parse_all(&bytes).find_map(|payload| match payload {
            Ok(Payload::ExportSection(section)) => {
                Some(section.into_iter().map(|export| export.unwrap().name).collect::<Vec<_>>())
            }
            _ => None,
        });
        let expected = ["h", "memory:0", "memory:1", "global:0", "global:1"];
        assert!(names.unwrap().iter().map(|name| name.trim_start_matches(PREFIX)).eq(expected));
    }

    #[test]
    fn adds_no_exports_if_a_name_is_used() {
        let wait = "memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)";
        for (item, functions) in [("(tag (export NAME))", 1), ("(func (export NAME))", 2)] {
            let item = item.replace("NAME", &format!("\"{}\"", memory_export(0)));
            let text = format!("(module (memory 1 1 shared) {item})");
            assert!(expose(text.as_bytes(), WAITS).is_none(), "{text}");
            let text = format!("(module (memory 1 1 shared) {item} (func (drop ({wait}))))");
            let exposed = expose(text.as_bytes(), WAITS).unwrap();
            assert_eq!((exposed.exports, exposed.first_added), (false, functions), "{text}");
        }
    }

    #[test]
    fn keeps_modules_without_shared_memories() {
        for text in ["(module)", "(module (memory 1))", "(module (memory 1) (func (unknown)))"] {
            assert!(expose(text.as_bytes(), NONE).is_none(), "{text}");
        }
    }
}
