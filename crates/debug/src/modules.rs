//! The modules of the guest that have files.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use corestream::{CoreDumpFile, Error, ErrorKind, ModuleIndex, Result};
use corestream_symbols::{SymbolFile, Verdict, match_modules};

use super::code::Code;
use super::image::{ImageBytes, has_location_lists, refers_to_companion};
use super::stacks::{Slot, Stack};
use super::target::Options;

/// The files of a module.
pub(crate) struct GuestModule<'b> {
    pub(crate) name: String,
    pub(crate) file: &'b [u8],
    pub(crate) full: Arc<ImageBytes<'b>>,
    pub(crate) bare: Arc<ImageBytes<'b>>,
    pub(crate) has_location_lists: bool,
    pub(crate) code: Code<'b>,
}

/// Reads the modules that have files.
pub(crate) fn read_modules<'b>(
    dump: &CoreDumpFile<'_>,
    files: &[SymbolFile<'b>],
    options: &Options,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<ModuleIndex, GuestModule<'b>>> {
    let matches =
        match_modules(files, dump).map_err(|error| Error::new(error.kind(), error.to_string()))?;
    let mut modules = BTreeMap::new();
    let mut used = HashSet::new();
    for found in matches {
        let index = found.module;
        used.extend(found.code);
        used.extend(found.debug);
        let file = |i: Option<usize>| i.and_then(|i| files.get(i));
        let named = file(found.code.or(found.debug)).map_or(Path::new(""), |file| file.path());
        let name = named.display();
        if let Verdict::Mismatch(mismatch) = &found.verdict {
            let path = file(mismatch.file).map_or(named, |file| file.path());
            let name = path.display();
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
            None => ImageBytes::whole(bytes),
        };
        if u32::try_from(full.len()).is_err() {
            let message = format!("{name}: the module and its debugging information exceed 4 GiB");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if companion.is_none() && found.debug.is_none() && refers_to_companion(bytes) {
            let what = "its debugging information is in another file; also pass that file";
            warnings.push(format!("{name}: {what}"));
        }
        // LLDB looks for a file with the name of the module, from its own working directory.
        let is_file = companion.is_none() && code.path().is_absolute() && !options.remote;
        let tag = if is_file { "" } else { "@dump" };
        let debug = companion.unwrap_or(code).bytes();
        let module = GuestModule {
            name: format!("{name}{tag}"),
            file: bytes,
            full: Arc::new(full),
            bare: Arc::new(ImageBytes::without_debug(bytes)),
            has_location_lists: has_location_lists(debug),
            code: Code::default(),
        };
        modules.insert(index, module);
    }
    for (i, file) in files.iter().enumerate() {
        if !used.contains(&i) {
            let name = file.path().display();
            warnings.push(format!("{name} is not served: LLDB looks for split DWARF files itself"));
        }
    }
    Ok(modules)
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
