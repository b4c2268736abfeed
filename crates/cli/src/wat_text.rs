//! Modules and components in the WebAssembly text format.

use std::collections::BTreeMap;
use std::path::Path;

use corestream_symbols::{Component, SymbolFile};
use corestream_wasmtime::module_identity;
use gimli::write::{self, Address, EndianVec, Sections};
use gimli::{EndianSlice, LittleEndian, SectionId};
use wasm_encoder::{CustomSection, Encode, Module, RawSection};
use wasmparser::{BinaryReader, Payload};
use wat::{GenerateDwarf, Parser};

/// Compiles a module or a component in text form to binary form. With `lines`, adds debugging information about the lines
/// of the text to each core module; the rest is the same.
///
/// # Errors
/// Returns the first error in the text as one line, `PATH:LINE:COLUMN: cause`.
pub fn module(path: &Path, text: &[u8], lines: bool) -> Result<Vec<u8>, String> {
    let name = path.display();
    let text = std::str::from_utf8(text).map_err(|error| {
        format!("{name}: the text is not valid UTF-8 at offset {:#x}", error.valid_up_to())
    })?;
    let mut parser = Parser::new();
    if lines {
        parser.generate_dwarf(GenerateDwarf::Lines);
    }
    let wasm = parser.parse_str(Some(path), text);
    let wasm = wasm.map_err(|error| one_line(path, &error.to_string()))?;
    let corrected = match lines {
        true if wasmparser::Parser::is_component(&wasm) => correct_component(&wasm),
        true => correct_lines(&wasm),
        false => None,
    };
    Ok(corrected.unwrap_or(wasm))
}

/// Returns the SHA-256 of each core module without debugging information about lines, for a component in text form.
/// `with_lines` is the same component in binary form. For a core module, there are none.
///
/// # Errors
/// Returns an error as [`module`] does.
pub fn core_module_hashes(
    path: &Path,
    text: &[u8],
    with_lines: &[u8],
) -> Result<Vec<[u8; 32]>, String> {
    if !wasmparser::Parser::is_component(with_lines) {
        return Ok(Vec::new());
    }
    let wasm = module(path, text, false)?;
    let component = Component::read(&SymbolFile::new(path, &wasm));
    let modules = component.iter().flat_map(Component::modules);
    Ok(modules.filter_map(|module| module_identity(module.bytes()).sha256).collect())
}

/// Corrects the debugging information in the core modules of a component, which the crate `wast` has made from text. Its
/// parser limits the depth of nested components.
fn correct_component(wasm: &[u8]) -> Option<Vec<u8>> {
    const HEADER_BYTES: usize = 8;
    const CORE_MODULE: u8 = 1;
    const COMPONENT: u8 = 4;
    let (header, sections) = wasm.split_at_checked(HEADER_BYTES)?;
    let mut corrected = header.to_vec();
    let mut reader = BinaryReader::new(sections, 0);
    while !reader.eof() {
        let id = reader.read_u8().ok()?;
        let len = usize::try_from(reader.read_var_u32().ok()?).ok()?;
        let content = reader.read_bytes(len).ok()?;
        let changed = match id {
            CORE_MODULE => correct_lines(content),
            COMPONENT => correct_component(content),
            _ => None,
        };
        corrected.push(id);
        changed.as_deref().unwrap_or(content).encode(&mut corrected);
    }
    Some(corrected)
}

/// Corrects the debugging information that the crate `wast` makes.
///
/// Its addresses begin after the number of functions, a LEB128 at the start of the code section, and not before it. Its
/// line table lists one file, which in DWARF 5 is file 0, while the rows are of file 1; and by offsets into `.debug_str`,
/// which LLDB does not read in a line table. Returns `None` if the information has another form than expected.
fn correct_lines(wasm: &[u8]) -> Option<Vec<u8>> {
    let mut sections = BTreeMap::new();
    let mut count_len = 0;
    let mut module = Module::new();
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        let payload = payload.ok()?;
        if let Payload::CustomSection(section) = &payload
            && section.name().starts_with(".debug_")
        {
            sections.insert(section.name().to_owned(), section.data());
            continue;
        }
        if let Payload::CodeSectionStart { count, .. } = &payload {
            count_len = u64::from((32 - count.leading_zeros()).div_ceil(7).max(1));
        }
        if let Some((id, range)) = payload.as_section() {
            let range = usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?;
            module.section(&RawSection { id, data: wasm.get(range)? });
        }
    }
    let strings = sections.get(".debug_str").copied().unwrap_or_default();
    let lines = with_listed_files(sections.get(".debug_line")?, strings)?;
    let load = |id: SectionId| {
        let bytes = match id {
            SectionId::DebugLine => &lines[..],
            _ => sections.get(id.name()).copied().unwrap_or_default(),
        };
        Ok::<_, gimli::Error>(EndianSlice::new(bytes, LittleEndian))
    };
    let read = gimli::Dwarf::load(load).ok()?;
    let shift = |address: u64| Some(Address::Constant(address.checked_add(count_len)?));
    let mut written = write::Dwarf::from(&read, &shift).ok()?;
    let mut corrected = Sections::new(EndianVec::new(LittleEndian));
    written.write(&mut corrected).ok()?;
    corrected
        .for_each(|id, data| {
            if !data.slice().is_empty() {
                let data = data.slice().into();
                module.section(&CustomSection { name: id.name().into(), data });
            }
            Ok::<_, gimli::write::Error>(())
        })
        .ok()?;
    Some(module.finish())
}

/// Returns a line table of DWARF 5 that lists one directory and one file, with their names in the table, and the file
/// twice.
fn with_listed_files(table: &[u8], strings: &[u8]) -> Option<Vec<u8>> {
    // The length of the table, the version, the sizes of addresses and segment selectors, and the length of the header.
    const BEFORE_HEADER: usize = 12;
    // One directory, whose path has the form DW_FORM_strp, and one file with such a path and the index of a directory.
    const DIRECTORY: [u8; 4] = [1, 1, 0x0e, 1];
    const FILE: [u8; 6] = [2, 1, 0x0e, 2, 0x0f, 1];
    let number =
        |bytes: &[u8], at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let name = |offset: u32| {
        let rest = strings.get(usize::try_from(offset).ok()?..)?;
        rest.get(..=rest.iter().position(|byte| *byte == 0)?)
    };
    let (len, header_len) = (number(table, 0)?, number(table, 8)?);
    let end = usize::try_from(header_len).ok()?.checked_add(BEFORE_HEADER)?;
    let (header, rows) = table.split_at_checked(end)?;
    let tail = DIRECTORY.len() + 4 + FILE.len() + 5;
    let (before, tail) = header.split_at_checked(end.checked_sub(tail)?)?;
    let (directory, file) = tail.strip_prefix(&DIRECTORY)?.split_at_checked(4)?;
    let file = file.strip_prefix(&FILE)?;
    if table.get(4..6)? != [5, 0] || file.last() != Some(&0) {
        return None;
    }
    let (directory, file) = (name(number(directory, 0)?)?, name(number(file, 0)?)?);
    // DW_FORM_string is 8. The index of the directory follows each name.
    let list = [&[1, 1, 8, 1], directory, &[2, 1, 8, 2, 0x0f, 2], file, &[0], file, &[0]].concat();
    let more = u32::try_from(list.len().checked_sub(tail.len())?).ok()?;
    let mut repaired = [before, &list, rows].concat();
    repaired.get_mut(..4)?.copy_from_slice(&len.checked_add(more)?.to_le_bytes());
    repaired.get_mut(8..12)?.copy_from_slice(&header_len.checked_add(more)?.to_le_bytes());
    Some(repaired)
}

/// Reformats an error of the parser as one line with place and cause. Omits the excerpt of the text.
fn one_line(path: &Path, message: &str) -> String {
    let name = path.display();
    let (cause, rest) = message.split_once(&format!("\n     --> {name}:")).unwrap_or((message, ""));
    let cause = cause.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    match rest.lines().next().filter(|place| !place.is_empty()) {
        Some(place) => format!("{name}:{place}: {cause}"),
        None => format!("{name}: {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each instruction is on a line of its own, and takes one byte.
    #[test]
    fn every_instruction_has_its_line() {
        let text = b"(module\n  (func\n    unreachable\n    nop\n    drop\n    return)\n  (func\n    nop))";
        let wasm = module(Path::new("a b.wat"), text, true).unwrap();
        let lines: Vec<_> = wasmparser::Parser::new(0)
            .parse_all(&wasm)
            .filter_map(|payload| match payload.unwrap() {
                Payload::CodeSectionEntry(body) => Some(body.get_operators_reader().unwrap()),
                _ => None,
            })
            .flat_map(|reader| reader.into_iter_with_offsets())
            .map(|operator| {
                let position = corestream_symbols::position_at(&wasm, operator.unwrap().1).unwrap();
                assert!(position.file.unwrap().ends_with("a b.wat"));
                position.line.unwrap()
            })
            .collect();
        // The ends of the functions belong to their last lines.
        assert_eq!(lines, [3, 4, 5, 6, 6, 8, 8]);
    }

    #[test]
    fn reports_the_place_of_an_error() {
        let fails = |text: &[u8]| module(Path::new("a b.wat"), text, false).unwrap_err();
        assert_eq!(fails(b"(module\n  (funk))"), "a b.wat:2:4: expected valid module field");
        assert_eq!(
            fails(b"(module\n  (func (call $none)))"),
            "a b.wat:2:15: unknown func: failed to find name `$none`"
        );
        assert!(fails(b"(module").starts_with("a b.wat:1:8: "), "{}", fails(b"(module"));
        assert_eq!(fails(b"(module \xff)"), "a b.wat: the text is not valid UTF-8 at offset 0x8");
    }
}
