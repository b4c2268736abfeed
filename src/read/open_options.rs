//! How a dump is opened: from where, how leniently, and who watches and stops the work on it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::file::CoreDumpFile;
use super::read_at::ReadAt;
use crate::control::{Cancel, Control, Progress};
use crate::error::{Error, ErrorKind, Result};
use crate::image::map;

/// Opens dumps. What it says of threads, cancelling and progress also holds for the work on a dump that it opens:
/// [`CoreDumpFile::verify`] and [`MemoryView::restore`](super::MemoryView::restore).
///
/// ```
/// use corestream::read::OpenOptions;
/// use corestream::{CoreDump, Dumper, ErrorKind};
///
/// # let bytes = Dumper::new().plan(&CoreDump::new("guest.wasm"))?.to_vec()?;
/// let cut = &bytes[..bytes.len() - 1];
/// let error = OpenOptions::new().open_source(cut).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Truncated);
///
/// let dump = OpenOptions::new().salvage(true).threads(1).open_source(cut)?;
/// assert_eq!(dump.name(), "guest.wasm");
/// assert_eq!(dump.damage().unwrap().kind(), ErrorKind::Truncated);
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is opened yet"]
pub struct OpenOptions {
    salvage: bool,
    /// 0 stands for the number of cores, which only the work that needs it asks for.
    threads: usize,
    control: Control,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenOptions {
    /// Returns the default: only dumps that are not damaged, one thread per core, no progress callback.
    pub fn new() -> Self {
        Self { salvage: false, threads: 0, control: Control::default() }
    }

    /// Sets whether the readable parts of a damaged dump are opened ([`CoreDumpFile::salvage_slice`] says which).
    pub fn salvage(mut self, salvage: bool) -> Self {
        self.salvage = salvage;
        self
    }

    /// Sets how many threads verify and restore, the caller's included; 0 is one per core. Opening takes one.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets what stops the work: it then fails with [`ErrorKind::Cancelled`]. The work looks at it every few megabytes,
    /// and every few thousand segments, frames, or other items.
    pub fn cancel(mut self, cancel: Option<Cancel>) -> Self {
        self.control.cancel = cancel;
        self
    }

    /// Sets the callback for progress.
    pub fn progress(mut self, watcher: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.control.watcher = Some(Arc::new(watcher));
        self
    }

    /// Opens the dump at `path`, which is read and not mapped.
    ///
    /// # Errors
    /// Returns the errors of [`CoreDumpFile::open`], and one of [`ErrorKind::Cancelled`] if the work was cancelled.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<CoreDumpFile<'static>> {
        let path = path.as_ref();
        let opened = open_file(path).and_then(|file| self.open_source(file));
        opened.map_err(|error| error.at(path.display()))
    }

    /// Opens the dump in `source`.
    ///
    /// # Errors
    /// Returns the errors of [`CoreDumpFile::from_source`], and one of [`ErrorKind::Cancelled`] if the work was cancelled.
    pub fn open_source<'b>(&self, source: impl ReadAt + 'b) -> Result<CoreDumpFile<'b>> {
        CoreDumpFile::new(Box::new(source), self.salvage, self.threads, self.control.clone())
    }
}

/// Opens a file to be read. That it is a regular one, its length as a source says.
pub(super) fn open_file(path: &Path) -> Result<File> {
    map::open(path).map_err(|error| Error::io(ErrorKind::Input, "cannot open", error))
}
