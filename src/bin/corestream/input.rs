//! A dump that a subcommand reads: mapped, and watched in case it is cut meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use corestream::{CoreDumpFile, ErrorKind, MemoryImage};

use crate::report::Failure;
use crate::sigbus;

/// A mapped dump.
pub struct Input {
    path: PathBuf,
    file: MemoryImage<'static>,
}

impl Input {
    /// Maps the file at `path`.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        match path.metadata() {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => {
                return Err(Failure::new(format!(
                    "{}: is no regular file, which is needed here",
                    path.display()
                )));
            }
            Err(error) => {
                return Err(Failure::new(format!("{}: cannot open: {error}", path.display())));
            }
        }
        let file = MemoryImage::open(path)?;
        sigbus::survive(file.as_slice().into_iter(), Arc::default());
        Ok(Self { path: path.into(), file })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.file.as_slice().unwrap_or_default()
    }

    /// Opens the dump in it; of a damaged one what can be had.
    pub fn dump(&self) -> Result<CoreDumpFile<'_>, Failure> {
        CoreDumpFile::salvage_slice(self.bytes()).map_err(|error| self.failed(error))
    }

    /// Fails if the file is shorter than it was: then zeros were read in place of its end.
    pub fn check_uncut(&self) -> Result<(), Failure> {
        let len = self.file.len();
        match self.path.metadata() {
            Ok(metadata) if metadata.len() < len => Err(Failure::damaged(format!(
                "{}: was cut from {len} to {} bytes while it was read",
                self.path.display(),
                metadata.len()
            ))),
            _ => Ok(()),
        }
    }

    /// What to say of an error of this dump.
    pub fn failed(&self, error: corestream::Error) -> Failure {
        failed(&self.path.display().to_string(), &error)
    }

    /// The line that says that the dump is damaged.
    pub fn damaged(&self, why: impl std::fmt::Display) -> Failure {
        Failure::damaged(format!("{}: {why}", self.path.display()))
    }
}

/// What to say of an error of the dump called `name`.
pub fn failed(name: &str, error: &corestream::Error) -> Failure {
    let line = format!("{name}: {error}");
    match error.kind() {
        ErrorKind::Damaged | ErrorKind::CutOff | ErrorKind::Format => Failure::damaged(line),
        _ => Failure::new(line),
    }
}
