//! The files of a dump's modules, named with `--symbols`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use corestream::{CoreDumpFile, ErrorKind, ModuleIndex};
use corestream_symbols::{Symbols, ValueLimits};

use crate::limits::MAX_MODULE_BYTES;
use crate::module_file::{self, Components, Form};
use crate::report::{self, Failure};
#[cfg(feature = "run")]
use crate::wat_text;

/// The message for a component.
const COMPONENT: &str =
    "is a component, whose symbols are not supported; name its core module instead";

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
pub struct SymbolFiles(Vec<(SymbolFile, Vec<u8>)>);

impl SymbolFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read, is too large, or is not a module.
    pub fn read(files: &[SymbolFile]) -> Result<Self, Failure> {
        let read = files.iter().map(|file| Ok((file.clone(), read(&file.path)?)));
        read.collect::<Result<_, Failure>>().map(Self)
    }

    /// Returns the files.
    pub fn files(&self) -> Vec<corestream_symbols::SymbolFile<'_>> {
        let files = self.0.iter().map(|(file, bytes)| {
            let of = corestream_symbols::SymbolFile::new(&file.path, bytes);
            file.module.map_or(of, |module| of.with_module(module))
        });
        files.collect()
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

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
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
    match module_file::form(&bytes, Components::Refused(COMPONENT)).map_err(at)? {
        Form::Binary => Ok(bytes),
        #[cfg(feature = "run")]
        Form::Text => wat_text::module(path, &bytes, true).map_err(Failure::new),
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
