//! The core modules in a component.
//!
//! A component in the binary format is a list of sections, like a core module. Two kinds of section contain a whole core
//! module and a whole component, so no other section needs to be decoded
//! ([Component Model, "Binary Format"](https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md)).
//!
//! **Cost.** One step for each section. The ranges of core modules do not overlap, so reading all of them reads no byte
//! twice. A file can have a section in two bytes and components in components, so their number and depth have limits.

use wasmparser::BinaryReader;

use super::limits::{MAX_COMPONENT_DEPTH, MAX_CORE_MODULES};
use super::symbol_file::{Error, SymbolFile, mismatch};

/// The length in bytes of the magic bytes, the version and the layer.
const HEADER_BYTES: usize = 8;
/// The layer of a component. That of a core module is 0.
const COMPONENT_LAYER: [u8; 2] = [1, 0];

/// The id of a section with a core module.
const CORE_MODULE: u8 = 1;
/// The id of a section with a component.
const COMPONENT: u8 = 4;

/// A component, as a list of the core modules in it.
///
/// [`Symbols::new`](crate::Symbols::new) and [`match_modules`](crate::match_modules) find the core modules of a component
/// themselves. Read the component to learn which of them a module of the dump is, or to use its bytes.
///
/// ```
/// use corestream_symbols::{Component, SymbolFile};
///
/// # let core_module = b"\0asm\x01\0\0\0";
/// # let mut wasm = b"\0asm\x0d\0\x01\0".to_vec();
/// # for _ in 0..2 {
/// #     wasm.extend([1, 8]);
/// #     wasm.extend(core_module);
/// # }
/// // A component with two core modules.
/// let component = Component::read(&SymbolFile::new("guest.wasm", &wasm)).unwrap();
/// assert_eq!(component.modules().len(), 2);
/// assert_eq!(component.modules()[1].bytes(), core_module);
/// assert_eq!(component.modules()[1].to_string(), "guest.wasm, core module 1");
/// assert_eq!(component.fault(), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component<'b> {
    modules: Vec<SymbolFile<'b>>,
    fault: Option<String>,
}

impl<'b> Component<'b> {
    /// Finds the core modules in a component in the binary format, also those of nested components. Returns `None` if the
    /// file is not a component.
    ///
    /// The core modules have the path of the component and, if it is set, its module index.
    pub fn read(file: &SymbolFile<'b>) -> Option<Self> {
        if file.part.is_some() || !is_component(file.bytes) {
            return None;
        }
        let mut walk = Walk { bytes: file.bytes, modules: Vec::new(), fault: None };
        if let Err(fault) = walk.run() {
            walk.fault.get_or_insert(fault);
        }
        let modules = walk.modules.into_iter().enumerate();
        let modules = modules.map(|(index, module)| file.part(index, module)).collect();
        Some(Self { modules, fault: walk.fault })
    }

    /// Returns the core modules, in the order of the file. Those of nested components are in the place of the component.
    pub fn modules(&self) -> &[SymbolFile<'b>] {
        &self.modules
    }

    /// Returns the first fault, if the component is damaged or exceeds a limit. Core modules after it may be missing.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }
}

/// Returns whether a file is a component in the binary format.
fn is_component(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\0asm") && bytes.get(6..HEADER_BYTES) == Some(&COMPONENT_LAYER)
}

/// The search for core modules.
struct Walk<'b> {
    bytes: &'b [u8],
    modules: Vec<&'b [u8]>,
    /// The first fault that does not end the search.
    fault: Option<String>,
}

impl<'b> Walk<'b> {
    /// Goes through the sections of the component and of nested ones. Returns the fault that ends the search, if there is
    /// one.
    fn run(&mut self) -> Result<(), String> {
        // The ends of the component and of the nested ones around the current section.
        let mut ends = vec![self.bytes.len()];
        let mut at = HEADER_BYTES;
        while let Some(end) = ends.last().copied() {
            if at == end {
                ends.pop();
                continue;
            }
            let (id, content) = self.section(at, end)?;
            if content.end > end {
                self.fault(format!("unexpected end of a section (at offset {at:#x})"));
            }
            let content = content.start..content.end.min(end);
            let bytes = self.bytes.get(content.clone()).unwrap_or_default();
            at = content.end;
            match id {
                CORE_MODULE if self.modules.len() >= MAX_CORE_MODULES => {
                    return Err(format!("it has more than {MAX_CORE_MODULES} core modules"));
                }
                CORE_MODULE => self.modules.push(bytes),
                COMPONENT if !is_component(bytes) => {
                    self.fault(format!("invalid component (at offset {:#x})", content.start));
                }
                COMPONENT if ends.len() >= MAX_COMPONENT_DEPTH => {
                    self.fault(format!("it nests components over {MAX_COMPONENT_DEPTH} deep"));
                }
                COMPONENT => {
                    ends.push(content.end);
                    at = content.start + HEADER_BYTES;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads the start of a section. Returns its id and the range of its content, which may be past the end.
    fn section(&self, at: usize, end: usize) -> Result<(u8, std::ops::Range<usize>), String> {
        let rest = self.bytes.get(at..end).unwrap_or_default();
        let mut reader = BinaryReader::new(rest, at as u64);
        let read = reader.read_u8().and_then(|id| Ok((id, reader.read_var_u32()?)));
        let (id, len) =
            read.map_err(|error| format!("{} (at offset {:#x})", error.message(), error.offset()))?;
        let start = end - reader.bytes_remaining();
        let content = usize::try_from(len).ok().and_then(|len| start.checked_add(len));
        Ok((id, start..content.unwrap_or(usize::MAX)))
    }

    fn fault(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }
}

/// Files without components: each component is replaced by its core modules ([`expand_components`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpandedFiles<'b> {
    files: Vec<SymbolFile<'b>>,
    /// The index of the original file of each file.
    origins: Vec<usize>,
    warnings: Vec<String>,
}

impl<'b> ExpandedFiles<'b> {
    /// Returns the files, in the order of the original ones.
    pub fn files(&self) -> &[SymbolFile<'b>] {
        &self.files
    }

    /// Returns a message for each component with a fault, with its path.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the index of the original file of a file: the file itself, or the component that it is in. Returns `None`
    /// if there is no such file.
    pub fn origin(&self, file: usize) -> Option<usize> {
        self.origins.get(file).copied()
    }
}

/// Replaces the components in a list of files by their core modules.
///
/// [`Symbols::new`](crate::Symbols::new) and [`match_modules`](crate::match_modules) do the same. Call this function first
/// to learn which core module of a component a module of the dump is.
///
/// ```
/// use corestream_symbols::{SymbolFile, expand_components};
///
/// # let core_module = b"\0asm\x01\0\0\0";
/// # let mut wasm = b"\0asm\x0d\0\x01\0".to_vec();
/// # for _ in 0..2 {
/// #     wasm.extend([1, 8]);
/// #     wasm.extend(core_module);
/// # }
/// // A core module, and a component with two core modules.
/// let files = [SymbolFile::new("lib.wasm", core_module), SymbolFile::new("guest.wasm", &wasm)];
/// let expanded = expand_components(&files)?;
/// let names: Vec<_> = expanded.files().iter().map(ToString::to_string).collect();
/// assert_eq!(names, ["lib.wasm", "guest.wasm, core module 0", "guest.wasm, core module 1"]);
/// assert_eq!(expanded.origin(2), Some(1));
/// assert!(expanded.warnings().is_empty());
/// # Ok::<(), corestream_symbols::Error>(())
/// ```
///
/// # Errors
/// Returns an error if a component has no core modules.
pub fn expand_components<'b>(files: &[SymbolFile<'b>]) -> Result<ExpandedFiles<'b>, Error> {
    let mut expanded =
        ExpandedFiles { files: Vec::new(), origins: Vec::new(), warnings: Vec::new() };
    for (origin, file) in files.iter().enumerate() {
        let Some(component) = Component::read(file) else {
            expanded.files.push(*file);
            expanded.origins.push(origin);
            continue;
        };
        if component.modules.is_empty() {
            let cause = match component.fault {
                Some(fault) => format!("has no core module before a fault: {fault}"),
                None => "is a component without core modules".into(),
            };
            return Err(Error::new(file.path, mismatch(cause)));
        }
        if let Some(fault) = component.fault {
            expanded.warnings.push(format!("{file}: only partly read: {fault}"));
        }
        expanded.origins.extend(component.modules.iter().map(|_| origin));
        expanded.files.extend(component.modules);
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasm_encoder::Encode;

    /// Returns a component with these sections.
    fn component(sections: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        for (id, content) in sections {
            bytes.push(*id);
            content.encode(&mut bytes);
        }
        bytes
    }

    /// Returns a core module with an empty custom section of this name.
    fn core_module(name: &str) -> Vec<u8> {
        let mut module = wasm_encoder::Module::new();
        module.section(&wasm_encoder::CustomSection { name: name.into(), data: (&[]).into() });
        module.finish()
    }

    /// Returns the names of the custom sections of the core modules, and the fault.
    fn read(bytes: &[u8]) -> (Vec<String>, Option<String>) {
        let file = SymbolFile::new("c.wasm", bytes);
        let component = Component::read(&file).unwrap();
        let name = |module: &SymbolFile<'_>| {
            String::from_utf8_lossy(module.bytes.get(11..).unwrap_or_default()).into_owned()
        };
        (component.modules.iter().map(name).collect(), component.fault)
    }

    #[test]
    fn lists_core_modules_of_nested_components_in_their_places() {
        let inner = component(&[(CORE_MODULE, &core_module("b"))]);
        let bytes = component(&[
            (CORE_MODULE, &core_module("a")),
            (COMPONENT, &component(&[(COMPONENT, &inner)])),
            (COMPONENT, &component(&[])),
            // An unknown section, as a later version of the format may add it.
            (77, b"\0asm"),
            (CORE_MODULE, &core_module("c")),
        ]);
        assert_eq!(read(&bytes), (vec!["a".into(), "b".into(), "c".into()], None));
        let expanded = expand_components(&[
            SymbolFile::new("a.wasm", b"\0asm\x01\0\0\0"),
            SymbolFile::new("c.wasm", &bytes),
        ]);
        let expanded = expanded.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(expanded.origins, [0, 1, 1, 1]);
        assert_eq!(expanded.files[3].to_string(), "c.wasm, core module 2");
        // A core module of a component is no component.
        assert!(Component::read(&expanded.files[1]).is_none());
    }

    #[test]
    fn reads_a_damaged_component_up_to_the_fault() {
        let inner = component(&[(CORE_MODULE, &core_module("b"))]);
        let whole = component(&[(CORE_MODULE, &core_module("a")), (COMPONENT, &inner)]);
        let names = ["a".to_owned(), "b".to_owned()];
        for len in HEADER_BYTES..whole.len() {
            let (found, fault) = read(&whole[..len]);
            assert!(found.iter().zip(&names).all(|(found, name)| name.starts_with(found)), "{len}");
            // The first module ends at 22.
            assert_eq!(fault.is_none(), [8, 22].contains(&len), "{len}: {fault:?}");
        }
        let mut garbled = whole.clone();
        garbled[24] = b'x';
        let fault = Some("invalid component (at offset 0x18)".into());
        assert_eq!(read(&garbled), (vec!["a".into()], fault));
    }

    #[test]
    fn limits_hold() {
        let module = core_module("a");
        let deep = |depth: usize| {
            let innermost = component(&[(CORE_MODULE, &module)]);
            (1..depth).fold(innermost, |inner, _| component(&[(COMPONENT, &inner)]))
        };
        assert_eq!(read(&deep(MAX_COMPONENT_DEPTH)), (vec!["a".into()], None));
        let (found, fault) = read(&deep(MAX_COMPONENT_DEPTH + 1));
        assert_eq!((found.len(), &*fault.unwrap()), (0, "it nests components over 100 deep"));

        let many = |count| component(&vec![(CORE_MODULE, &module[..]); count]);
        assert_eq!(read(&many(MAX_CORE_MODULES)).1, None);
        let (found, fault) = read(&many(MAX_CORE_MODULES + 1));
        assert_eq!(found.len(), MAX_CORE_MODULES);
        assert_eq!(fault.as_deref(), Some("it has more than 10000 core modules"));
    }
}
