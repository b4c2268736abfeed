//! The modules of the guest that have files.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use corestream::{CoreDumpFile, Error, ErrorKind, ModuleIndex, Result};
use corestream_symbols::{SymbolFile, Verdict, match_modules};

use super::code::Code;
use super::image::{ImageBytes, has_debug, has_location_lists, refers_to_companion};
use super::limits::MAX_NAME_CHARS;
use super::stacks::{Slot, Stack};

/// The files of a module.
pub(crate) struct GuestModule<'b> {
    /// The path of the file, for messages.
    pub(crate) path: String,
    /// The name of its image.
    pub(crate) name: String,
    pub(crate) file: &'b [u8],
    pub(crate) full: Arc<ImageBytes<'b>>,
    pub(crate) bare: Arc<ImageBytes<'b>>,
    /// Whether the full image has debugging information.
    pub(crate) has_debug: bool,
    pub(crate) has_location_lists: bool,
    pub(crate) code: Code<'b>,
}

/// Reads the modules that have files. The files have no components, only their core modules.
pub(crate) fn read_modules<'b>(
    dump: &CoreDumpFile<'_>,
    files: &[SymbolFile<'b>],
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<ModuleIndex, GuestModule<'b>>> {
    let matches = match_modules(files, dump).map_err(|error| symbol_error(&error))?;
    let mut modules = BTreeMap::new();
    let matched: HashSet<_> =
        matches.iter().flat_map(|found| [found.code, found.debug]).flatten().collect();
    // Most components have core modules that the dump does not have.
    let is_extra = |i: &usize| {
        !matched.contains(i) && files.get(*i).is_some_and(|file| file.core_module().is_none())
    };
    let mut split = files.iter().enumerate().filter(|(i, _)| is_extra(i));
    let has_split_lists = split.any(|(_, file)| has_location_lists(file.bytes()));
    for found in matches {
        let index = found.module;
        let file = |i: Option<usize>| i.and_then(|i| files.get(i));
        let named = |file: Option<&SymbolFile<'_>>| file.map_or(String::new(), ToString::to_string);
        let name = named(file(found.code.or(found.debug)));
        if let Verdict::Mismatch(mismatch) = &found.verdict {
            let name = file(mismatch.file).map_or(name, |file| named(Some(file)));
            let message = format!("{name} is not module {index} of the dump: {mismatch}");
            return Err(Error::new(ErrorKind::Option, message));
        }
        let Some(code) = file(found.code) else {
            warnings.push(format!("{name}: has no code; also pass the module that ran"));
            continue;
        };
        let bytes = code.bytes();
        let companion = file(found.debug.filter(|debug| Some(*debug) != found.code));
        let full = match companion {
            Some(companion) => ImageBytes::with_companion(bytes, companion.bytes()),
            None => ImageBytes::without_reference(bytes),
        };
        if u32::try_from(full.len()).is_err() {
            let message = format!("{name}: the module and its debugging information exceed 4 GiB");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if companion.is_none() && found.debug.is_none() && refers_to_companion(bytes) {
            let what = "its debugging information is in another file; also pass that file";
            warnings.push(format!("{name}: {what}"));
        }
        let debug = companion.unwrap_or(code).bytes();
        let module = GuestModule {
            path: name,
            name: image_name(dump, index, code),
            file: bytes,
            full: Arc::new(full),
            bare: Arc::new(ImageBytes::without_debug(bytes)),
            has_debug: has_debug(debug),
            has_location_lists: has_split_lists || has_location_lists(debug),
            code: Code::default(),
        };
        modules.insert(index, module);
    }
    for (i, file) in files.iter().enumerate() {
        if is_extra(&i) {
            let name = file.path().display();
            warnings.push(format!(
                "{name} is only used to find values that may be wrong: LLDB looks for split DWARF files itself"
            ));
        }
    }
    Ok(modules)
}

/// Returns the error about a file with symbols.
pub(crate) fn symbol_error(error: &corestream_symbols::Error) -> Error {
    Error::new(error.kind(), error.to_string())
}

/// Returns the name of an image: the path of its file below a path that can never be a directory. For a core module of a
/// component, the name of the module in the dump follows.
///
/// LLDB reads a module from a local file with the name of the image, if there is one, and that could be another build by
/// then. It shows the last part of the name. Therefore the name in the dump, such as `outer/inner:module`, becomes one
/// part.
fn image_name(dump: &CoreDumpFile<'_>, module: ModuleIndex, file: &SymbolFile<'_>) -> String {
    let path = file.path();
    let path = path.strip_prefix("/").unwrap_or(path);
    let mut path = Path::new("/dev/null").join(path);
    if let Some(index) = file.core_module() {
        let name = dump.module(module).unwrap_or_default();
        let name = part(&name);
        path.push(if name.is_empty() { format!("#{index}") } else { name });
    }
    path.display().to_string()
}

/// Returns the name of a module as one part of a path: a component can choose a name with any characters.
fn part(name: &str) -> String {
    let harmless = |c: char| match c {
        '/' | '\\' => '.',
        c if c.is_control() => '?',
        c => c,
    };
    let name: String = name.chars().take(MAX_NAME_CHARS).map(harmless).collect();
    match &*name {
        "." | ".." => format!("#{name}"),
        _ => name,
    }
}

/// Finds the functions of all frames in their modules.
pub(crate) fn find_code(
    modules: &mut BTreeMap<ModuleIndex, GuestModule<'_>>,
    slots: &[Slot],
    stacks: &[Stack],
) {
    let mut needed: BTreeMap<ModuleIndex, HashSet<u32>> = BTreeMap::new();
    for site in stacks.iter().flat_map(|stack| &stack.sites) {
        let slot = site.slot.and_then(|slot| slots.get(slot));
        if let Some(module) = slot.and_then(|slot| slot.module) {
            needed.entry(module).or_default().insert(site.function);
        }
    }
    for (index, functions) in needed {
        if let Some(module) = modules.get_mut(&index) {
            module.code = Code::find(module.file, &functions);
        }
    }
}

pub(crate) fn module_of<'m, 'b>(
    modules: &'m BTreeMap<ModuleIndex, GuestModule<'b>>,
    slots: &[Slot],
    slot: Option<usize>,
) -> Option<&'m GuestModule<'b>> {
    modules.get(&slots.get(slot?)?.module?)
}
