//! How a file is given its name.

/// How a dump becomes a file.
///
/// ```
/// # use corestream::{CoreDump, Dumper, FileOptions};
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("guest.core");
/// let dump = CoreDump::new("guest.wasm");
/// let plan = Dumper::new().plan(&dump)?;
/// plan.write_file_with(&path, FileOptions::new().sync(true))?;
/// plan.write_file_with(&path, FileOptions::new().replace(true))?;
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[must_use]
pub struct FileOptions {
    pub(super) replace: bool,
    pub(super) sync: bool,
}

impl FileOptions {
    /// Returns the options of a new file, left to the kernel to bring to disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether a file that exists is replaced, once the new one is whole.
    pub fn replace(self, replace: bool) -> Self {
        Self { replace, ..self }
    }

    /// Sets whether the file and its name are on disk before it is done (`fsync`).
    ///
    /// In a directory that the process may write to but not read, `syncfs` of its file system brings the name to disk.
    pub fn sync(self, sync: bool) -> Self {
        Self { sync, ..self }
    }

    pub(crate) fn is_synced(self) -> bool {
        self.sync
    }
}
