//! The bytes of a guest: exports for everything that a dump needs, and the ranges of its functions.

use std::ops::Range;

use wasm_encoder::{ExportKind, ExportSection, RawSection, SectionId};
use wasmparser::{ExternalKind, Parser, Payload};

use super::Result;

/// A module whose memories and globals are all exported.
pub struct Exposed {
    pub wasm: Vec<u8>,
    /// The name of an export for each memory, in the order of the indices.
    pub memories: Vec<String>,
    /// The name of an export for each global, in the order of the indices.
    pub globals: Vec<String>,
    /// The number of imported functions, whose indices come first.
    imported_functions: u32,
    /// The range of each function's body in `wasm`, after its size field.
    bodies: Vec<Range<u64>>,
}

impl Exposed {
    /// Returns the code offset of a dump, from the start of the function's body after its size field, for the offset of
    /// an instruction in the module. Returns `None` for the final `end` of the body, where nothing can trap.
    pub fn code_offset(&self, function: u32, module_offset: usize) -> Option<u32> {
        let defined = usize::try_from(function.checked_sub(self.imported_functions)?).ok()?;
        let module_offset = u64::try_from(module_offset).ok()?;
        let body = self.bodies.get(defined)?;
        let code = body.start..body.end.checked_sub(1)?;
        let module_offset = Some(module_offset).filter(|offset| code.contains(offset))?;
        u32::try_from(module_offset.checked_sub(body.start)?).ok()
    }
}

/// Adds an export for each memory and each global that the module defines.
///
/// All other sections stay as they are, so indices and code do not change. The guests here import neither memories nor
/// globals.
pub fn expose(wasm: &[u8]) -> Result<Exposed> {
    let (mut memories, mut globals) = (0, 0);
    let (mut exports, mut sections) = (ExportSection::new(), Vec::new());
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        match &payload {
            Payload::MemorySection(section) => memories = section.count(),
            Payload::GlobalSection(section) => globals = section.count(),
            Payload::ExportSection(section) => {
                for export in section.clone() {
                    let export = export?;
                    exports.export(export.name, kind(export.kind)?, export.index);
                }
                continue;
            }
            _ => {}
        }
        sections.extend(payload.as_section());
    }
    let names = |what: &str, count| {
        (0..count).map(|i: u32| format!("corestream {what} {i}")).collect::<Vec<_>>()
    };
    let (memories, globals) = (names("memory", memories), names("global", globals));
    for (names, kind) in [(&memories, ExportKind::Memory), (&globals, ExportKind::Global)] {
        for (name, index) in names.iter().zip(0..) {
            exports.export(name, kind, index);
        }
    }

    let mut module = wasm_encoder::Module::new();
    let mut exports = Some(exports);
    for (id, range) in sections {
        // These follow the export section. Custom sections can be anywhere.
        let after = [
            SectionId::Start,
            SectionId::Element,
            SectionId::DataCount,
            SectionId::Code,
            SectionId::Data,
        ];
        if after.iter().any(|after| *after as u8 == id)
            && let Some(exports) = exports.take()
        {
            module.section(&exports);
        }
        let range = usize::try_from(range.start)?..usize::try_from(range.end)?;
        let data = wasm.get(range).ok_or("a section is outside of the module")?;
        module.section(&RawSection { id, data });
    }
    if let Some(exports) = exports {
        module.section(&exports);
    }
    let wasm = module.finish();

    let (mut imported_functions, mut bodies) = (0, Vec::new());
    for payload in Parser::new(0).parse_all(&wasm) {
        match payload? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if matches!(import?.ty, wasmparser::TypeRef::Func(_)) {
                        imported_functions += 1;
                    }
                }
            }
            Payload::CodeSectionEntry(body) => bodies.push(body.range()),
            _ => {}
        }
    }
    Ok(Exposed { wasm, memories, globals, imported_functions, bodies })
}

fn kind(kind: ExternalKind) -> Result<ExportKind> {
    Ok(match kind {
        ExternalKind::Func => ExportKind::Func,
        ExternalKind::Table => ExportKind::Table,
        ExternalKind::Memory => ExportKind::Memory,
        ExternalKind::Global => ExportKind::Global,
        ExternalKind::Tag => ExportKind::Tag,
        other => return Err(format!("an export of the kind {other:?}").into()),
    })
}
