//! The bytes of a module as a client reads them.
//!
//! **Problem.** LLDB reads a module's DWARF from the module itself. But the debugging information of a stripped guest is
//! in a companion file, and the frames whose values LLDB would get wrong need a module without any.
//!
//! **Idea.** Custom sections can be removed and appended without effect on the others. DWARF counts code offsets from the
//! contents of the code section, so it stays right if sections in front of that section are removed. An image is
//! therefore a list of slices of the files, and nothing is copied. Program counters count from the start of the image.

use std::ops::Range;

use wasmparser::BinaryReader;

/// The header of a module.
const HEADER_BYTES: usize = 8;

/// The section that refers to a companion with debugging information.
const EXTERNAL: &str = "external_debug_info";

/// A section of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Section<'b> {
    /// The name if it is a custom section.
    custom: Option<&'b str>,
    /// The range in the file, with the id and the size.
    range: Range<usize>,
}

impl Section<'_> {
    fn is_debug(&self) -> bool {
        self.custom.is_some_and(|name| name.starts_with(".debug_"))
    }

    fn is_named(&self, name: &str) -> bool {
        self.custom == Some(name)
    }
}

/// Returns the sections of a module, up to the first that is malformed.
fn sections(bytes: &[u8]) -> Vec<Section<'_>> {
    let mut sections = Vec::new();
    let Some(rest) = bytes.get(HEADER_BYTES..) else { return sections };
    let mut reader = BinaryReader::new(rest, 0);
    let mut start = HEADER_BYTES;
    while let Some((id, body)) = read_section(&mut reader) {
        let custom = match id {
            0 => BinaryReader::new(body, 0).read_unlimited_string().ok(),
            _ => None,
        };
        let end = bytes.len() - reader.bytes_remaining();
        sections.push(Section { custom, range: start..end });
        start = end;
    }
    sections
}

fn read_section<'b>(reader: &mut BinaryReader<'b>) -> Option<(u8, &'b [u8])> {
    let id = reader.read_u8().ok()?;
    let len = reader.read_var_u32().ok()?;
    Some((id, reader.read_bytes(usize::try_from(len).ok()?).ok()?))
}

/// A part of an image.
#[derive(Clone, Debug)]
struct Part<'b> {
    /// The offset in the image.
    start: u64,
    bytes: &'b [u8],
    /// The offset in the file with the code, if the part is from there.
    offset: Option<u64>,
}

/// The bytes of a module as served.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImageBytes<'b> {
    parts: Vec<Part<'b>>,
    len: u64,
}

impl<'b> ImageBytes<'b> {
    /// Returns the file without a reference to a companion, which LLDB would load without a check.
    pub(crate) fn without_reference(code: &'b [u8]) -> Self {
        if refers_to_companion(code) {
            return Self::without(code, |section| section.is_named(EXTERNAL));
        }
        let mut image = Self::default();
        image.push(code, Some(0));
        image
    }

    /// Returns the file with the debugging information of a companion instead of its own. The name section of the
    /// companion is used only if the file has none.
    pub(crate) fn with_companion(code: &'b [u8], companion: &'b [u8]) -> Self {
        let mut image = Self::without_debug(code);
        let has_names = sections(code).iter().any(|section| section.is_named("name"));
        for section in sections(companion) {
            if section.is_debug() || (section.is_named("name") && !has_names) {
                image.push(companion.get(section.range).unwrap_or_default(), None);
            }
        }
        image
    }

    /// Returns the file without debugging information, and without a reference to any.
    pub(crate) fn without_debug(code: &'b [u8]) -> Self {
        Self::without(code, |section| section.is_debug() || section.is_named(EXTERNAL))
    }

    /// Returns the file without some of its sections.
    fn without(code: &'b [u8], is_omitted: impl Fn(&Section<'_>) -> bool) -> Self {
        let mut image = Self::default();
        let mut kept = 0..code.len().min(HEADER_BYTES);
        for section in sections(code) {
            if !is_omitted(&section) {
                if section.range.start != kept.end {
                    image.push_range(code, kept);
                    kept = section.range.clone();
                }
                kept.end = section.range.end;
            }
        }
        image.push_range(code, kept);
        image
    }

    fn push_range(&mut self, code: &'b [u8], range: Range<usize>) {
        let offset = range.start as u64;
        self.push(code.get(range).unwrap_or_default(), Some(offset));
    }

    fn push(&mut self, bytes: &'b [u8], offset: Option<u64>) {
        if !bytes.is_empty() {
            self.parts.push(Part { start: self.len, bytes, offset });
            self.len += bytes.len() as u64;
        }
    }

    /// Returns the length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the offset in the image of an offset in the file with the code.
    pub(crate) fn offset_of(&self, in_file: u64) -> Option<u64> {
        self.parts.iter().find_map(|part| {
            let within = in_file.checked_sub(part.offset?)?;
            (within < part.bytes.len() as u64).then(|| part.start + within)
        })
    }

    /// Appends at most `len` bytes from `offset` on. Appends none past the end.
    pub(crate) fn read(&self, offset: u64, len: usize, out: &mut Vec<u8>) {
        let mut left = len;
        let first =
            self.parts.partition_point(|part| part.start + part.bytes.len() as u64 <= offset);
        for part in self.parts.iter().skip(first) {
            let skip = usize::try_from(offset.saturating_sub(part.start)).unwrap_or(usize::MAX);
            let bytes = part.bytes.get(skip..).unwrap_or_default();
            let bytes = bytes.get(..left).unwrap_or(bytes);
            out.extend_from_slice(bytes);
            left -= bytes.len();
            if left == 0 {
                break;
            }
        }
    }
}

/// Returns whether a module refers to a companion with its debugging information.
pub(crate) fn refers_to_companion(bytes: &[u8]) -> bool {
    sections(bytes).iter().any(|section| section.is_named(EXTERNAL))
}

/// Returns whether a module has debugging information.
pub(crate) fn has_debug(bytes: &[u8]) -> bool {
    sections(bytes).iter().any(|section| section.is_named(".debug_info"))
}

/// Returns whether a module has DWARF with lists of locations, which optimizing compilers write.
pub(crate) fn has_location_lists(bytes: &[u8]) -> bool {
    let names = [".debug_loc", ".debug_loclists", ".debug_loc.dwo", ".debug_loclists.dwo"];
    sections(bytes).iter().any(|section| names.iter().any(|name| section.is_named(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasm_encoder::{
        CodeSection, CustomSection, Function, FunctionSection, Module, RawSection, TypeSection,
    };
    use wasmparser::{Parser, Payload, Validator};

    fn custom(module: &mut Module, name: &str, data: &[u8]) {
        module.section(&CustomSection { name: name.into(), data: data.into() });
    }

    /// Returns a module with a function and custom sections on both sides of the code.
    fn module(before: &[&str], after: &[&str]) -> Vec<u8> {
        let mut module = Module::new();
        for name in before {
            custom(&mut module, name, b"before");
        }
        let (mut types, mut functions, mut code) =
            (TypeSection::new(), FunctionSection::new(), CodeSection::new());
        types.ty().function([], []);
        functions.function(0);
        let mut body = Function::new([]);
        body.instructions().nop().unreachable().end();
        code.function(&body);
        module.section(&types).section(&functions).section(&code);
        for name in after {
            custom(&mut module, name, &[7; 300]);
        }
        module.finish()
    }

    fn all(image: &ImageBytes<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        image.read(0, usize::MAX, &mut bytes);
        assert_eq!(bytes.len() as u64, image.len());
        bytes
    }

    /// Returns the names of custom sections, and the start and the bytes of the only function.
    fn parse(bytes: &[u8]) -> (Vec<String>, u64, Vec<u8>) {
        Validator::new().validate_all(bytes).unwrap();
        let (mut names, mut found) = (Vec::new(), None);
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.unwrap() {
                Payload::CustomSection(section) => names.push(section.name().to_string()),
                Payload::CodeSectionEntry(body) => {
                    found = Some((body.range().start, body.as_bytes().to_vec()))
                }
                _ => {}
            }
        }
        let (start, body) = found.unwrap();
        (names, start, body)
    }

    #[test]
    fn removes_debugging_information_and_keeps_the_code() {
        let file =
            module(&[".debug_line", "a", EXTERNAL], &[".debug_info", "name", "b", ".debug_str"]);
        let (_, start, body) = parse(&file);
        let image = ImageBytes::without_debug(&file);
        let (names, moved, same) = parse(&all(&image));
        assert_eq!((names, &same), (vec!["a".into(), "name".into(), "b".into()], &body));
        assert!(moved < start);
        assert_eq!(image.offset_of(start), Some(moved));
        assert_eq!(image.offset_of(start + 1), Some(moved + 1));
        assert_eq!(image.offset_of(file.len() as u64), None);

        let file = module(&["a"], &["b", ".debug_info"]);
        let (_, start, _) = parse(&file);
        assert_eq!(all(&ImageBytes::without_reference(&file)), file);
        assert_eq!(ImageBytes::without_reference(&file).offset_of(start), Some(start));
        let file = module(&[EXTERNAL], &[".debug_info"]);
        let (names, ..) = parse(&all(&ImageBytes::without_reference(&file)));
        assert_eq!(names, [".debug_info"]);
    }

    #[test]
    fn joins_a_companion() {
        let file = module(&[EXTERNAL], &["b", ".debug_old"]);
        let companion = module(&["z"], &["name", ".debug_info", ".debug_line"]);
        let (_, start, body) = parse(&file);
        let image = ImageBytes::with_companion(&file, &companion);
        let (names, moved, same) = parse(&all(&image));
        assert_eq!(names, ["b", "name", ".debug_info", ".debug_line"]);
        assert_eq!((same, image.offset_of(start)), (body, Some(moved)));

        let named = module(&[], &["name"]);
        let (names, ..) = parse(&all(&ImageBytes::with_companion(&named, &companion)));
        assert_eq!(names, ["name", ".debug_info", ".debug_line"]);
    }

    #[test]
    fn reads_any_range() {
        let file = module(&["a"], &[".debug_info", "b"]);
        let companion = module(&[], &[".debug_line"]);
        let image = ImageBytes::with_companion(&file, &companion);
        let bytes = all(&image);
        for start in 0..bytes.len() + 2 {
            for len in [0, 1, 7, 200, 1000] {
                let mut read = Vec::new();
                image.read(start as u64, len, &mut read);
                let expected = bytes.get(start..).unwrap_or_default();
                assert_eq!(read, &expected[..expected.len().min(len)]);
            }
        }
    }

    #[test]
    fn cuts_a_malformed_file_only_without_debugging_information() {
        let mut module = Module::new();
        module.section(&RawSection { id: 1, data: &[0] });
        let mut file = module.finish();
        let len = file.len() as u64;
        file.extend([0, 0xff]);
        assert_eq!(ImageBytes::without_reference(&file).len(), len + 2);
        assert_eq!(ImageBytes::without_debug(&file).len(), len);
        assert_eq!(ImageBytes::without_debug(b"\0as").len(), 3);
        assert_eq!(ImageBytes::without_debug(b"").len(), 0);
    }
}
