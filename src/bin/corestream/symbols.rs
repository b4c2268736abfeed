//! What the frames of a dump are called: names, lines and variables by the files of its modules.

mod counted;
pub mod demangle;
mod dwarf;
mod guest;
#[cfg(feature = "run")]
pub mod text;
mod value;
mod variables;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use corestream::read::FrameView;
use corestream::{CoreDumpFile, ModuleIndex};

use crate::module_file::{self, Form};
use crate::report::{self, Failure};
use dwarf::Debug;
pub use dwarf::Position;
use guest::Guest;
pub use value::Known;
use value::State;
pub use variables::Variable;

/// Bytes of a file at most: it is read whole.
const MAX_FILE: u64 = 1 << 30;
/// The message for a component.
const COMPONENT: &str =
    "is a component, whose symbols are not supported: name the core module in it";

/// The file of a module, as it is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolFile {
    /// Which module it is, where that is said.
    module: Option<u32>,
    path: PathBuf,
}

impl FromStr for SymbolFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = |index: &str| !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit());
        let (module, path) = match text.split_once('=') {
            Some((index, path)) if digits(index) => {
                let module = index.parse().map_err(|_| format!("there is no module {index}"))?;
                (Some(module), path)
            }
            _ => (None, text),
        };
        match path {
            "" => Err("names no file".into()),
            path => Ok(Self { module, path: path.into() }),
        }
    }
}

/// The bytes of the files, which [`Symbols`] borrow.
pub struct SymbolFiles(Vec<(SymbolFile, Vec<u8>)>);

impl SymbolFiles {
    /// Reads them.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read, is too large, or is not a module.
    pub fn read(files: &[SymbolFile]) -> Result<Self, Failure> {
        let read = files.iter().map(|file| Ok((file.clone(), read(&file.path)?)));
        read.collect::<Result<_, Failure>>().map(Self)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let at = |error| Failure::new(format!("{}: {error}", path.display()));
    // To open a FIFO may never end, and neither may a device.
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(at("not a regular file".into()));
    }
    let file = File::open(path).map_err(|error| at(format!("cannot open: {error}")))?;
    let too_large =
        || at(format!("is larger than {MAX_FILE} bytes, which is the most that is read"));
    if file.metadata().is_ok_and(|metadata| metadata.len() > MAX_FILE) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE + 1).read_to_end(&mut bytes);
    read.map_err(|error| at(format!("cannot read: {error}")))?;
    // It may have grown meanwhile.
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large());
    }
    match module_file::form(&bytes, COMPONENT).map_err(at)? {
        Form::Binary => Ok(bytes),
        #[cfg(feature = "run")]
        Form::Text => text::module(path, &bytes, true).map_err(Failure::new),
        #[cfg(not(feature = "run"))]
        Form::Text => {
            Err(at("is WebAssembly text: name what `wat2wasm --debug-names` makes of it, \
                              or install corestream with the feature `run`"
                .into()))
        }
    }
}

/// A module of the dump, with its file.
struct Symbolic<'b> {
    path: String,
    guest: Guest<'b>,
    debug: Option<Debug<'b>>,
}

/// The files of a dump's modules.
pub struct Symbols<'b> {
    /// The file of each module that has one.
    modules: Vec<Option<Symbolic<'b>>>,
}

/// What is known of a frame.
#[derive(Default)]
pub struct Named {
    /// The function of the frame.
    pub name: Option<String>,
    /// Where it is: the innermost function that is inlined into it first, itself last.
    pub positions: Vec<Position>,
    /// Why there is no more.
    pub problem: Option<String>,
}

impl<'b> Symbols<'b> {
    /// Finds out which file is which module's.
    ///
    /// # Errors
    /// A file is none of the dump's modules.
    pub fn of(files: &'b SymbolFiles, dump: &CoreDumpFile<'_>) -> Result<Self, Failure> {
        let mut modules: Vec<Option<Symbolic<'b>>> = dump.modules().map(|_| None).collect();
        for (file, bytes) in &files.0 {
            let path = file.path.display().to_string();
            let guest = Guest::read(bytes);
            let index = which(file, &guest, files.0.len(), dump)
                .map_err(|cause| Failure::usage(format!("{path}: {cause}")))?;
            if modules[index].is_some() {
                return Err(Failure::usage(format!("{path}: module {index} has a file already")));
            }
            if let Some(fault) = &guest.fault {
                report::line(&format!("warning: {path}: read in part: {fault}"));
            }
            let debug = Debug::read(&guest.debug).unwrap_or_else(|cause| {
                let what = "its debugging information is not used";
                report::line(&format!("warning: {path}: {what}: {cause}"));
                None
            });
            if let (None, Some(external)) = (&debug, guest.external) {
                let line = "has its debugging information in another file, name that one instead";
                report::line(&format!("warning: {path}: {line}: {external}"));
            }
            modules[index] = Some(Symbolic { path, guest, debug });
        }
        Ok(Self { modules })
    }

    /// What is known of a frame; nothing where its module has no file. `caller` says that it waits for
    /// another one.
    pub fn name(
        &self,
        dump: &CoreDumpFile<'_>,
        frame: &FrameView<'_>,
        caller: bool,
    ) -> Option<Named> {
        let module = match frame.instance {
            Some(instance) => dump.instance(instance)?.module()?.0 as usize,
            // Whichever instance it is of, there is only one module that it can be of.
            None if self.modules.len() == 1 => 0,
            None => return None,
        };
        let of = self.modules.get(module)?.as_ref()?;
        let mut named = Named::default();
        match of.guest.place(frame.function, frame.offset, caller) {
            Ok(place) => {
                named.name = of.guest.function(frame.function).map(demangle::demangled);
                if let (Some(debug), Some(place)) = (&of.debug, place) {
                    match debug.positions(place) {
                        Ok(positions) => named.positions = positions,
                        Err(cause) => {
                            let what = "debugging information";
                            named.problem = Some(format!("{}: {what}: {cause}", of.path));
                        }
                    }
                }
            }
            Err(cause) => named.problem = Some(format!("{}: {cause}", of.path)),
        }
        let state = State { dump, frame, caller };
        for variable in named.positions.iter_mut().flat_map(|position| &mut position.variables) {
            variable.known = state.known(variable);
        }
        let outer = named.positions.last();
        named.name = named.name.or_else(|| outer?.function.clone());
        Some(named)
    }
}

/// Returns the line and the column of the instruction at `offset` of a module that [`text::module`] made with
/// lines.
#[cfg(feature = "run")]
pub fn line_at(wasm: &[u8], offset: u64) -> Option<(u32, u32)> {
    let guest = Guest::read(wasm);
    let debug = Debug::read(&guest.debug).ok()??;
    let position = debug.positions(guest.place_in_text(offset)?).ok()?.into_iter().next()?;
    Some((position.line?, position.column?))
}

/// The module that a file is of: the one that is said, the only one, or the one that is called so.
fn which(
    file: &SymbolFile,
    guest: &Guest<'_>,
    files: usize,
    dump: &CoreDumpFile<'_>,
) -> Result<usize, String> {
    let count = dump.modules().len();
    if let Some(index) = file.module {
        let module = dump.module(ModuleIndex(index)).map(|_| index as usize);
        return module.ok_or_else(|| format!("there is no module {index}, the dump has {count}"));
    }
    if (count, files) == (1, 1) {
        return Ok(0);
    }
    let name = |path: &str| Path::new(path).file_name().map(|name| name.to_os_string());
    let of_file = file.path.file_name();
    let same = |module: &str| {
        let module_name = name(module);
        (module_name.is_some() && module_name.as_deref() == of_file) || guest.name == Some(module)
    };
    let matching: Vec<usize> =
        dump.modules().enumerate().filter(|(_, name)| same(name)).map(|(i, _)| i).collect();
    match matching[..] {
        [index] => Ok(index),
        [] => Err("is called as none of the dump's modules; say which with INDEX=FILE".into()),
        _ => Err("is called as several of the dump's modules; say which with INDEX=FILE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_on_the_command_line() {
        let file = |text: &str| text.parse::<SymbolFile>().map(|f| (f.module, f.path));
        assert_eq!(file("a.wasm"), Ok((None, "a.wasm".into())));
        assert_eq!(file("12=b=c.wasm"), Ok((Some(12), "b=c.wasm".into())));
        assert_eq!(file("a=b.wasm"), Ok((None, "a=b.wasm".into())));
        assert_eq!(file("=b"), Ok((None, "=b".into())));
        assert!(file("").is_err() && file("0=").is_err() && file("4294967296=x").is_err());
    }
}
