//! Options for opening a dump: salvage, threads, cancellation and progress.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::file::CoreDumpFile;
use super::read_at::ReadAt;
use crate::control::{Cancel, Control, Progress};
use crate::error::{Error, ErrorKind, Result};
use crate::image::map;

/// Options for opening a dump.
///
/// The threads, the cancel handle and the progress callback also apply to later work on the open dump:
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
    /// The number of threads, or 0 for one per core. Resolved only when the threads are needed, since the query takes
    /// longer than opening a small dump.
    threads: usize,
    control: Control,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenOptions {
    /// Returns the default options: no salvage, one thread per core, no cancel handle, no progress callback.
    pub fn new() -> Self {
        Self { salvage: false, threads: 0, control: Control::default() }
    }

    /// Sets whether to open the readable parts of a damaged dump. [`CoreDumpFile::salvage_slice`] documents which these
    /// are.
    pub fn salvage(mut self, salvage: bool) -> Self {
        self.salvage = salvage;
        self
    }

    /// Sets the number of threads for verifying and restoring, including the caller's. 0 means one per core. Opening
    /// uses only the caller's thread.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets the handle that cancels the work, which then fails with [`ErrorKind::Cancelled`].
    ///
    /// The handle is checked every few megabytes, and every few thousand segments, frames or other items.
    pub fn cancel(mut self, cancel: Option<Cancel>) -> Self {
        self.control.cancel = cancel;
        self
    }

    /// Sets the callback that receives progress reports.
    pub fn progress(mut self, watcher: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.control.watcher = Some(Arc::new(watcher));
        self
    }

    /// Opens the dump at `path`. The file is read, not mapped.
    ///
    /// # Errors
    /// Returns the errors of [`CoreDumpFile::open`], and [`ErrorKind::Cancelled`] if the work was cancelled.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<CoreDumpFile<'static>> {
        let path = path.as_ref();
        let opened = open_file(path).and_then(|file| self.open_source(file));
        opened.map_err(|error| error.at(path.display()))
    }

    /// Opens the dump in `source`.
    ///
    /// # Errors
    /// Returns the errors of [`CoreDumpFile::from_source`], and [`ErrorKind::Cancelled`] if the work was cancelled.
    pub fn open_source<'b>(&self, source: impl ReadAt + 'b) -> Result<CoreDumpFile<'b>> {
        CoreDumpFile::new(Box::new(source), self.salvage, self.threads, self.control.clone())
    }
}

/// Opens a file for reading. [`ReadAt::len`] later rejects a file that is not regular.
pub(super) fn open_file(path: &Path) -> Result<File> {
    map::open(path).map_err(|error| Error::io(ErrorKind::Input, "cannot open", error))
}
