//! A dump that a subcommand reads: mapped, and watched in case it is changed meanwhile.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use corestream::{CoreDumpFile, ErrorKind, MemoryImage};

use crate::report::Failure;
use crate::sigbus;

/// A mapped dump.
pub struct Input {
    path: PathBuf,
    file: MemoryImage<'static>,
    watch: Watch,
}

/// Says whether a file is what it was.
#[derive(Clone)]
pub struct Watch {
    path: PathBuf,
    before: Version,
    /// Set when bytes were read that are not there any more.
    gone: Arc<AtomicBool>,
}

/// What changes with every write to a file: device and inode, length, and times of change.
type Version = (u64, u64, u64, (i64, i64), (i64, i64));

fn version(m: &Metadata) -> Version {
    (m.dev(), m.ino(), m.len(), (m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()))
}

impl Watch {
    /// Watches the file at `path` from now on.
    pub fn new(path: &Path, gone: Arc<AtomicBool>) -> std::io::Result<Self> {
        Ok(Self { path: path.into(), before: version(&path.metadata()?), gone })
    }

    /// Whether the file is not what it was: written to, cut, or another one.
    pub fn has_changed(&self) -> bool {
        let now = self.path.metadata().map(|metadata| version(&metadata));
        self.gone.load(Ordering::Relaxed) || now.is_ok_and(|now| now != self.before)
    }
}

impl Input {
    /// Maps the file at `path`.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let name = path.display();
        if path == Path::new("-") {
            return Err(Failure::usage(
                "-: standard input can't be mapped: name a file; only `verify` takes a pipe",
            ));
        }
        let gone = Arc::new(AtomicBool::new(false));
        let watch = Watch::new(path, gone.clone());
        let watch = watch.map_err(|error| Failure::new(format!("{name}: cannot open: {error}")))?;
        if !path.is_file() {
            return Err(Failure::new(format!("{name}: is no regular file, which is needed here")));
        }
        let file = MemoryImage::open(path)?;
        sigbus::survive(file.as_slice().into_iter(), gone);
        Ok(Self { path: path.into(), file, watch })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.file.as_slice().unwrap_or_default()
    }

    /// What says whether it has changed.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Opens the dump in it; of a damaged one what can be had.
    pub fn dump(&self) -> Result<CoreDumpFile<'_>, Failure> {
        CoreDumpFile::salvage_slice(self.bytes()).map_err(|error| self.failed(&error))
    }

    /// Fails if the file is not what it was: what was read of it is worth nothing.
    pub fn check_unchanged(&self) -> Result<(), Failure> {
        match self.watch.has_changed() {
            true => Err(self.damaged("was changed while it was read")),
            false => Ok(()),
        }
    }

    /// What to say of an error of this dump.
    pub fn failed(&self, error: &corestream::Error) -> Failure {
        failed(&self.path.display().to_string(), error)
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
