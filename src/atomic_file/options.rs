//! The options of a file that appears under its name once it is complete.

/// The options of a new file.
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
    /// Returns the defaults: the file must not exist, and the kernel decides when it reaches the disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether to replace an existing file once the new one is complete.
    pub fn replace(self, replace: bool) -> Self {
        Self { replace, ..self }
    }

    /// Sets whether the file and its name must be on disk when the operation returns (`fsync`).
    ///
    /// If the process may write to the directory but not read it, `syncfs` of its file system syncs the name.
    pub fn sync(self, sync: bool) -> Self {
        Self { sync, ..self }
    }

    pub(crate) fn is_synced(self) -> bool {
        self.sync
    }
}
