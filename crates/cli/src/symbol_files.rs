//! The files of a dump's modules, named with `--symbols`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use corestream::{CoreDumpFile, ErrorKind, ModuleIndex};
use corestream_symbols::{Component, Symbols, ValueLimits};

use crate::limits::MAX_MODULE_BYTES;
use crate::module_file::{self, Components, Form};
use crate::report::{self, Failure};
#[cfg(feature = "run")]
use crate::wat_text;

/// How components are read.
#[cfg(feature = "run")]
const COMPONENTS: Components = Components::Accepted;
#[cfg(not(feature = "run"))]
const COMPONENTS: Components = Components::TextRefused(
    "is a component in WebAssembly text format; convert it with `wasm-tools parse`, or install corestream-cli with the \
     feature `run`",
);

/// The argument of `--symbols`: a file with symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolFile {
    /// The index of the module, if the argument has one.
    module: Option<ModuleIndex>,
    path: PathBuf,
}

impl FromStr for SymbolFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = |index: &str| !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit());
        let (module, path) = match text.split_once('=') {
            Some((index, path)) if digits(index) => {
                let out_of_range = |_| format!("module index {index} is out of range");
                let module = index.parse().map_err(out_of_range)?;
                (Some(ModuleIndex(module)), path)
            }
            _ => (None, text),
        };
        match path {
            "" => Err("missing file name".into()),
            path => Ok(Self { module, path: path.into() }),
        }
    }
}

impl SymbolFile {
    /// Returns the file with an absolute path, which does not depend on the working directory.
    ///
    /// # Errors
    /// Returns an error if the working directory is not known.
    pub fn absolute(&self) -> Result<Self, Failure> {
        let path = std::path::absolute(&self.path);
        let failed = |error| Failure::new(format!("{}: {error}", self.path.display()));
        Ok(Self { module: self.module, path: path.map_err(failed)? })
    }
}

/// The content of the files. [`Symbols`] borrows it.
pub struct SymbolFiles(Vec<(SymbolFile, Content)>);

/// The content of a file.
struct Content {
    /// The file in the binary format.
    bytes: Vec<u8>,
    /// The SHA-256 of each core module without the lines of the text, if the file is a component in the text format.
    without_lines: Vec<[u8; 32]>,
}

impl SymbolFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read, is too large, or is neither a module nor a component.
    pub fn read(files: &[SymbolFile]) -> Result<Self, Failure> {
        let read = files.iter().map(|file| Ok((file.clone(), read(&file.path)?)));
        read.collect::<Result<_, Failure>>().map(Self)
    }

    /// Returns the files.
    pub fn files(&self) -> Vec<corestream_symbols::SymbolFile<'_>> {
        let mut files = Vec::new();
        for (file, content) in &self.0 {
            let of = corestream_symbols::SymbolFile::new(&file.path, &content.bytes);
            let of = file.module.map_or(of, |module| of.with_module(module));
            match Component::read(&of).filter(|_| !content.without_lines.is_empty()) {
                Some(component) => {
                    let modules = component.modules().iter().zip(&content.without_lines);
                    files.extend(modules.map(|(module, sha256)| module.with_sha256(*sha256)));
                }
                None => files.push(of),
            }
        }
        files
    }

    /// Matches the files with the dump's modules. Warns about files and parts of files that are not used.
    ///
    /// # Errors
    /// Returns an error if a file matches no module of the dump, or if the dump cannot be read.
    pub fn symbols<'s>(
        &'s self,
        dump: &'s CoreDumpFile<'s>,
        limits: ValueLimits,
    ) -> Result<Symbols<'s>, Failure> {
        let symbols = Symbols::new(&self.files(), dump).map_err(failure)?;
        symbols.warnings().for_each(|warning| report::line(&format!("warning: {warning}")));
        Ok(symbols.with_limits(limits))
    }
}

/// Returns the failure for a file that cannot be used.
fn failure(error: corestream_symbols::Error) -> Failure {
    match error.kind() {
        ErrorKind::Option => Failure::usage(error),
        ErrorKind::Damaged | ErrorKind::Truncated | ErrorKind::Format => Failure::damaged(error),
        _ => Failure::new(error),
    }
}

fn read(path: &Path) -> Result<Content, Failure> {
    let at = |error| Failure::new(format!("{}: {error}", path.display()));
    // Opening a FIFO can block forever, and reading a device may never end.
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(at("not a regular file".into()));
    }
    let file = File::open(path).map_err(|error| at(format!("cannot open: {error}")))?;
    let too_large =
        || at(format!("is larger than {MAX_MODULE_BYTES} bytes, the maximum for a symbol file"));
    if file.metadata().is_ok_and(|metadata| metadata.len() > MAX_MODULE_BYTES) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let read = file.take(MAX_MODULE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| at(format!("cannot read: {error}")))?;
    // The file may have grown since.
    if bytes.len() as u64 > MAX_MODULE_BYTES {
        return Err(too_large());
    }
    let without_lines = Vec::new();
    match module_file::form(&bytes, COMPONENTS).map_err(at)? {
        Form::Binary => Ok(Content { bytes, without_lines }),
        #[cfg(feature = "run")]
        Form::Text => {
            let binary = wat_text::module(path, &bytes, true).map_err(Failure::new)?;
            // The identity in the dump is that of the core module before the lines were added.
            let without_lines =
                wat_text::core_module_hashes(path, &bytes, &binary).map_err(Failure::new)?;
            Ok(Content { bytes: binary, without_lines })
        }
        #[cfg(not(feature = "run"))]
        Form::Text => {
            Err(at("is in WebAssembly text format; convert it with `wat2wasm --debug-names`, or \
                              install corestream-cli with the feature `run`"
                .into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_symbol_files() {
        let file = |text: &str| {
            text.parse::<SymbolFile>().map(|f| (f.module.map(|module| module.0), f.path))
        };
        assert_eq!(file("a.wasm"), Ok((None, "a.wasm".into())));
        assert_eq!(file("12=b=c.wasm"), Ok((Some(12), "b=c.wasm".into())));
        assert_eq!(file("a=b.wasm"), Ok((None, "a=b.wasm".into())));
        assert_eq!(file("=b"), Ok((None, "=b".into())));
        assert!(file("").is_err() && file("0=").is_err() && file("4294967296=x").is_err());
    }
}
