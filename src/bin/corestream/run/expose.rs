//! Modules with shared memories, made such that the memories can be reached from outside.
//!
//! A guest that waits in `memory.atomic.wait` at the time limit is woken by a notification, for which
//! its memory must be at hand, exported or not, and before its start function runs. So each shared
//! memory is exported, and the start function too, which is called after instantiation instead.
//! Functions, and so all offsets in a dump, stay as they are.

use wasm_encoder::{Encode, ExportKind, RawSection};
use wasmparser::{Parser, Payload};

/// What the added exports begin with.
const PREFIX: &str = "corestream:";
/// The export of the start function.
pub const START: &str = "corestream:start";
/// The exports of shared memories, before their indices.
const MEMORY: &str = "corestream:memory:";

/// The ids of the sections that come after the exports.
const AFTER_EXPORTS: [u8; 5] = [8, 9, 10, 11, 12];
const EXPORT: u8 = 7;

/// A module, changed.
pub struct Exposed {
    pub bytes: Vec<u8>,
    /// Whether it has a start function, which is to be called.
    pub start: bool,
}

/// Exports the shared memories of a module, in binary or text form; `None` if it has none, or if it can't
/// be read: then it is the engine that says why.
pub fn expose(module: &[u8]) -> Option<Exposed> {
    let module = wat::parse_bytes(module).ok()?;
    let (mut memories, mut start, mut exports) = (Vec::new(), None, None);
    for payload in Parser::new(0).parse_all(&module) {
        match payload.ok()? {
            Payload::MemorySection(section) => {
                for (index, ty) in (0..).zip(section) {
                    if ty.ok()?.shared {
                        memories.push(index);
                    }
                }
            }
            Payload::ExportSection(section) => {
                for export in section.clone() {
                    if export.ok()?.name.starts_with(PREFIX) {
                        return None;
                    }
                }
                let count = section.count();
                let bytes = module.get(range(section.range())?)?;
                // After the count, however it is encoded.
                let end = bytes.iter().position(|byte| byte & 0x80 == 0)?;
                exports = Some((count, bytes.get(end.checked_add(1)?..)?));
            }
            Payload::StartSection { func, .. } => start = Some(func),
            // Imports come first in the index space; `run` has no memory to import.
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if matches!(import.ok()?.ty, wasmparser::TypeRef::Memory(_)) {
                        return None;
                    }
                }
            }
            _ => {}
        }
    }
    if memories.is_empty() {
        return None;
    }
    let (count, old) = exports.unwrap_or_default();
    let added = u32::try_from(memories.len()).ok()?.checked_add(u32::from(start.is_some()))?;
    let mut exports = Vec::new();
    count.checked_add(added)?.encode(&mut exports);
    exports.extend(old);
    for memory in memories {
        export(&mut exports, &format!("{MEMORY}{memory}"), ExportKind::Memory, memory);
    }
    if let Some(function) = start {
        export(&mut exports, START, ExportKind::Func, function);
    }
    let mut exports = Some(RawSection { id: EXPORT, data: &exports });
    let mut bytes = wasm_encoder::Module::new();
    for payload in Parser::new(0).parse_all(&module) {
        let Some((id, range_)) = payload.ok()?.as_section() else { continue };
        if id == EXPORT || AFTER_EXPORTS.contains(&id) {
            if let Some(exports) = exports.take() {
                bytes.section(&exports);
            }
        }
        // The start function is an export now.
        if id != EXPORT && id != 8 {
            bytes.section(&RawSection { id, data: module.get(range(range_)?)? });
        }
    }
    if let Some(exports) = exports {
        bytes.section(&exports);
    }
    Some(Exposed { bytes: bytes.finish(), start: start.is_some() })
}

fn export(section: &mut Vec<u8>, name: &str, kind: ExportKind, index: u32) {
    name.encode(section);
    kind.encode(section);
    index.encode(section);
}

fn range(range: std::ops::Range<u64>) -> Option<std::ops::Range<usize>> {
    Some(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}
