//! Functions, lines, inlined calls and variables for the frames of a WebAssembly core dump, from the name sections and
//! DWARF of the guest's modules.
//!
//! A dump has function indices and code offsets. This crate looks them up in the files of the guest's modules:
//!
//! ```
//! use corestream::{CoreDump, CoreDumpFile, Dumper, Frame, Instance, Thread};
//! use corestream_symbols::{ModuleFile, Symbols};
//!
//! # fn module() -> Vec<u8> {
//! #     use wasm_encoder::*;
//! #     let (mut types, mut functions, mut code) =
//! #         (TypeSection::new(), FunctionSection::new(), CodeSection::new());
//! #     types.ty().function([], []);
//! #     functions.function(0);
//! #     let mut body = Function::new([]);
//! #     body.instructions().unreachable().end();
//! #     code.function(&body);
//! #     let (mut names, mut map) = (NameSection::new(), NameMap::new());
//! #     map.append(0, "_ZN5guest4main17h0123456789abcdefE");
//! #     names.functions(&map);
//! #     let mut module = Module::new();
//! #     module.section(&types).section(&functions).section(&code).section(&names);
//! #     module.finish()
//! # }
//! // A module with one function, and the dump of a guest that trapped in it.
//! let wasm: Vec<u8> = module();
//! let mut dump = CoreDump::new("guest.wasm");
//! let module = dump.add_module("guest.wasm");
//! let instance = dump.add_instance(Instance::new(module));
//! dump.add_thread(Thread::new("main").with_frames([Frame::new(instance, 0, 1)]));
//! let bytes = Dumper::new().plan(&dump)?.to_vec()?;
//!
//! let dump = CoreDumpFile::from_slice(&bytes)?;
//! let files = [ModuleFile::new("guest.wasm", &wasm)];
//! let symbols = Symbols::new(&files, &dump)?;
//! let thread = dump.thread(0)?;
//! for (i, frame) in thread.frames().enumerate() {
//!     let resolved = symbols.resolve(&frame?, i)?.unwrap();
//!     assert_eq!(resolved.name.as_deref(), Some("guest::main"));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Module files are as untrusted as dumps. Of a malformed file the crate uses everything before the fault, and
//! [`limits`] bounds the work that debugging information can cause.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod counted;
mod demangle;
mod dwarf;
mod guest;
mod instances;
mod known;
pub mod limits;
mod value;
mod variables;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use corestream::{CoreDumpFile, ErrorKind, Frame, ModuleIndex};

use dwarf::Debug;
use guest::Guest;
use instances::Instances;
use value::GuestState;

pub use demangle::demangle;
pub use dwarf::Position;
pub use known::Known;
pub use variables::Variable;

/// The file of one of the dump's modules, in the binary format.
///
/// ```
/// use corestream::ModuleIndex;
/// use corestream_symbols::ModuleFile;
///
/// let wasm = b"\0asm\x01\0\0\0";
/// let by_name = ModuleFile::new("guest.wasm", wasm);
/// let by_index = ModuleFile::new("guest.wasm", wasm).with_module(ModuleIndex(2));
/// assert_ne!(by_name, by_index);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct ModuleFile<'b> {
    module: Option<ModuleIndex>,
    path: &'b Path,
    bytes: &'b [u8],
}

impl<'b> ModuleFile<'b> {
    /// Returns a file with these bytes. [`Symbols::new`] matches it with a module by its path or its name section.
    pub fn new(path: &'b (impl AsRef<Path> + ?Sized), bytes: &'b [u8]) -> Self {
        Self { module: None, path: path.as_ref(), bytes }
    }

    /// Sets the module to which the file belongs.
    pub fn with_module(self, module: ModuleIndex) -> Self {
        Self { module: Some(module), ..self }
    }
}

/// The error for a file that does not match any module of the dump, or for a dump that cannot be read.
///
/// ```
/// # use corestream::{CoreDump, CoreDumpFile, Dumper, ModuleIndex};
/// # use corestream_symbols::{ModuleFile, Symbols};
/// # let bytes = Dumper::new().plan(&CoreDump::new("guest.wasm"))?.to_vec()?;
/// let dump = CoreDumpFile::from_slice(&bytes)?; // without modules
/// let file = ModuleFile::new("guest.wasm", b"\0asm\x01\0\0\0").with_module(ModuleIndex(2));
/// let error = Symbols::new(&[file], &dump).unwrap_err();
/// assert_eq!(error.path().to_str(), Some("guest.wasm"));
/// assert_eq!(error.to_string(), "guest.wasm: there is no module 2; the dump has 0");
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    path: PathBuf,
    cause: String,
    kind: ErrorKind,
}

impl Error {
    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns [`ErrorKind::Option`] if the file does not match a module of the dump, otherwise the kind of the dump's
    /// error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// The message and kind of an error, without the path of the file.
type Cause = (ErrorKind, String);

/// Returns the cause for a file that does not match the dump.
fn mismatch(cause: impl Into<String>) -> Cause {
    (ErrorKind::Option, cause.into())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.cause)
    }
}

impl std::error::Error for Error {}

/// A module of the dump, with its file.
struct Symbolic<'b> {
    path: String,
    guest: Guest<'b>,
    debug: Option<Debug<'b>>,
}

/// The symbols of a dump, from the files of its modules. The [crate] documentation has an example.
pub struct Symbols<'b> {
    instances: RefCell<Instances<'b>>,
    /// The number of modules in the dump: up to a million.
    count: usize,
    /// The files by module.
    modules: BTreeMap<usize, Symbolic<'b>>,
    warnings: Vec<String>,
}

impl fmt::Debug for Symbols<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = self.modules.iter().map(|(index, of)| (index, &of.path));
        f.debug_map().entries(paths).finish()
    }
}

/// The function, the lines and the variables of a frame ([`Symbols::resolve`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// The function of the frame.
    pub name: Option<String>,
    /// The source positions, from the innermost inlined function to the function of the frame.
    pub positions: Vec<Position>,
    /// The reason why other information is missing, if it is.
    pub problem: Option<String>,
}

impl<'b> Symbols<'b> {
    /// Matches files with the modules of a dump.
    ///
    /// # Errors
    /// Returns an error if a file matches no module, if two files match the same module, or if the dump cannot be read.
    pub fn new(files: &[ModuleFile<'b>], dump: &'b CoreDumpFile<'b>) -> Result<Self, Error> {
        let mut modules = BTreeMap::new();
        let mut warnings = Vec::new();
        for file in files {
            let path = file.path.display().to_string();
            let guest = Guest::read(file.bytes);
            let failed = |(kind, cause)| Error { path: file.path.into(), cause, kind };
            let index = which(file, &guest, files.len(), dump).map_err(failed)?;
            if modules.contains_key(&index) {
                return Err(failed(mismatch(format!("module {index} already has a file"))));
            }
            if let Some(fault) = &guest.fault {
                warnings.push(format!("{path}: only partly read: {fault}"));
            }
            let debug = Debug::read(&guest.debug).unwrap_or_else(|cause| {
                let what = "cannot use its debugging information";
                warnings.push(format!("{path}: {what}: {cause}"));
                None
            });
            if let (None, Some(external)) = (&debug, guest.external) {
                let line = "its debugging information is in another file; pass that file instead";
                warnings.push(format!("{path}: {line}: {external}"));
            }
            modules.insert(index, Symbolic { path, guest, debug });
        }
        let (instances, count) = (RefCell::new(Instances::new(dump)), dump.modules().len());
        Ok(Self { instances, count, modules, warnings })
    }

    /// Returns warnings about parts of the files that cannot be used, one line each.
    pub fn warnings(&self) -> impl ExactSizeIterator<Item = &str> {
        self.warnings.iter().map(String::as_str)
    }

    /// Returns the function, lines and variables of a frame, or `None` if its module has no file.
    ///
    /// `index` is the position of the frame in its thread. The youngest frame is 0.
    ///
    /// Parts that a damaged dump has lost are unknown. They are not an error.
    ///
    /// # Errors
    /// Returns an error if the source of the dump fails ([`ErrorKind::Input`]), if memory runs out, or if the operation
    /// was cancelled.
    pub fn resolve(&self, frame: &Frame, index: usize) -> corestream::Result<Option<Resolved>> {
        if self.modules.is_empty() {
            return Ok(None);
        }
        let caller = index > 0;
        let module = match frame.instance {
            Some(instance) => match self.instances.borrow_mut().module(instance)? {
                Ok(module) => module.map(|module| module.0 as usize),
                Err(problem) => {
                    let problem = Some(problem);
                    return Ok(Some(Resolved { problem, ..Resolved::default() }));
                }
            },
            // The instance is unknown, but the dump has only one module.
            None => (self.count == 1).then_some(0),
        };
        let Some(of) = module.and_then(|module| self.modules.get(&module)) else { return Ok(None) };
        let mut resolved = Resolved::default();
        match of.guest.place(frame.function, frame.offset, caller) {
            Ok(place) => {
                resolved.name = of.guest.function(frame.function).map(demangle::demangle);
                if let (Some(debug), Some(place)) = (&of.debug, place) {
                    match debug.positions(place) {
                        Ok(positions) => resolved.positions = positions,
                        Err(cause) => {
                            let what = "debugging information";
                            resolved.problem = Some(format!("{}: {what}: {cause}", of.path));
                        }
                    }
                }
            }
            Err(cause) => resolved.problem = Some(format!("{}: {cause}", of.path)),
        }
        let state = GuestState { instances: &self.instances, frame, caller };
        for variable in resolved.positions.iter_mut().flat_map(|position| &mut position.variables) {
            variable.known = state.known(variable)?;
        }
        let outer = resolved.positions.last();
        resolved.name = resolved.name.or_else(|| outer?.function.clone());
        Ok(Some(resolved))
    }
}

/// Returns the source position of the instruction at `offset` (in bytes) of a module in the binary format, or `None` if
/// the debugging information has none.
///
/// ```
/// use corestream_symbols::position_at;
///
/// assert_eq!(position_at(b"\0asm\x01\0\0\0", 8), None);
/// ```
pub fn position_at(wasm: &[u8], offset: u64) -> Option<Position> {
    let guest = Guest::read(wasm);
    let debug = Debug::read(&guest.debug).ok()??;
    debug.positions(guest.place_in_text(offset)?).ok()?.into_iter().next()
}

/// Returns the module to which a file belongs: the given one, the only one, or the one with a matching name.
fn which(
    file: &ModuleFile<'_>,
    guest: &Guest<'_>,
    files: usize,
    dump: &CoreDumpFile<'_>,
) -> Result<usize, Cause> {
    let count = dump.modules().len();
    let failed = |error: &corestream::Error| (error.kind(), error.to_string());
    if let Some(index) = file.module {
        return dump.module(index).map(|_| index.0 as usize).map_err(|error| failed(&error));
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
    let mut matching = Vec::new();
    for (i, name) in dump.modules().enumerate() {
        if same(&name.map_err(|error| failed(&error))?) {
            matching.push(i);
        }
    }
    match matching[..] {
        [index] => Ok(index),
        [] => Err(mismatch("no module of the dump has this name; pass INDEX=FILE")),
        _ => Err(mismatch("several modules of the dump have this name; pass INDEX=FILE")),
    }
}

/// Runs the Rust examples of README.md as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
