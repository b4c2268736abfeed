//! The files that symbols come from, and the errors about them.

use std::fmt;
use std::path::{Path, PathBuf};

use corestream::{ErrorKind, ModuleIndex};

/// A file with symbols, in the binary format: a module of the dump, a companion with its debugging information, a split
/// DWARF file (`.dwo` or `.dwp`), a component, or a core module in a component ([`Component`](crate::Component)).
///
/// ```
/// use corestream::ModuleIndex;
/// use corestream_symbols::SymbolFile;
///
/// let wasm = b"\0asm\x01\0\0\0";
/// let by_content = SymbolFile::new("guest.wasm", wasm);
/// let by_index = SymbolFile::new("guest.wasm", wasm).with_module(ModuleIndex(2));
/// assert_ne!(by_content, by_index);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct SymbolFile<'b> {
    pub(crate) module: Option<ModuleIndex>,
    pub(crate) path: &'b Path,
    pub(crate) bytes: &'b [u8],
    /// The SHA-256 of the module that ran, if it is not that of the bytes.
    pub(crate) sha256: Option<[u8; 32]>,
    /// The place of a core module in its component.
    pub(crate) part: Option<Part<'b>>,
}

/// The place of a core module in a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Part<'b> {
    /// The bytes of the component.
    pub(crate) component: &'b [u8],
    /// The position of the core module among those of the component.
    pub(crate) index: usize,
}

impl<'b> SymbolFile<'b> {
    /// Returns a file with these bytes. [`match_modules`](crate::match_modules) finds its module.
    pub fn new(path: &'b (impl AsRef<Path> + ?Sized), bytes: &'b [u8]) -> Self {
        Self { module: None, path: path.as_ref(), bytes, sha256: None, part: None }
    }

    /// Sets the module to which the file belongs. For a component, [`match_modules`](crate::match_modules) finds which of
    /// its core modules that is.
    pub fn with_module(self, module: ModuleIndex) -> Self {
        Self { module: Some(module), ..self }
    }

    /// Sets the SHA-256 of the module that ran. By default it is that of the bytes. Use it for bytes that are known to be
    /// this module with debugging information added, for example about the lines of a text that was compiled again. It has
    /// no effect on a component.
    pub fn with_sha256(self, sha256: [u8; 32]) -> Self {
        Self { sha256: Some(sha256), ..self }
    }

    /// Returns the core module at a position in this component.
    pub(crate) fn part(&self, index: usize, bytes: &'b [u8]) -> Self {
        let part = Some(Part { component: self.bytes, index });
        Self { bytes, sha256: None, part, ..*self }
    }

    /// Returns the path. That of a core module in a component is the path of the component.
    pub fn path(&self) -> &'b Path {
        self.path
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &'b [u8] {
        self.bytes
    }

    /// Returns the position of a core module among those of its component, or `None` for another file.
    pub fn core_module(&self) -> Option<usize> {
        self.part.map(|part| part.index)
    }
}

/// Writes the path and, for a core module in a component, its position.
impl fmt::Display for SymbolFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match self.part {
            Some(part) => write!(f, ", core module {}", part.index),
            None => Ok(()),
        }
    }
}

/// The error for a file that does not match any module of the dump, or for a dump that cannot be read.
///
/// ```
/// # use corestream::{CoreDump, CoreDumpFile, Dumper, ModuleIndex};
/// # use corestream_symbols::{SymbolFile, Symbols};
/// # let bytes = Dumper::new().plan(&CoreDump::new("guest.wasm"))?.to_vec()?;
/// let dump = CoreDumpFile::from_slice(&bytes)?; // without modules
/// let file = SymbolFile::new("guest.wasm", b"\0asm\x01\0\0\0").with_module(ModuleIndex(2));
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
    pub(crate) fn new(path: &Path, (kind, cause): Cause) -> Self {
        Self { path: path.into(), cause, kind }
    }

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

/// The kind and message of an error, without the path of the file.
pub(crate) type Cause = (ErrorKind, String);

/// Returns the cause for a file that does not match the dump.
pub(crate) fn mismatch(cause: impl Into<String>) -> Cause {
    (ErrorKind::Option, cause.into())
}

/// Returns the cause for a dump that cannot be read.
pub(crate) fn dump_error(error: &corestream::Error) -> Cause {
    (error.kind(), error.to_string())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.cause)
    }
}

impl std::error::Error for Error {}
