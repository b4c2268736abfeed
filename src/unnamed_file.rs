//! A file that gets its name when it is whole, where only then the name is known.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic_file::{AtomicFile, FileOptions};
use crate::error::{Error, ErrorKind, Result};

/// A file without a name, readable and writable for its owner only. Dropped without
/// [`commit`](Self::commit), it is gone.
///
/// On file systems without `O_TMPFILE` it has a hidden name that ends in `.partial` until then.
///
/// ```
/// use std::io::Write;
///
/// use corestream::{FileOptions, UnnamedFile};
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let directory = directory.path();
/// let file = UnnamedFile::create_in(directory, FileOptions::new())?;
/// file.file().write_all(b"whole").unwrap();
/// let name = file.commit([directory.join("dump"), directory.join("dump.1")])?;
/// assert_eq!(std::fs::read(name).unwrap(), b"whole");
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "without `commit` it is gone"]
pub struct UnnamedFile(AtomicFile);

impl UnnamedFile {
    /// Begins a file that will have a name in `directory`.
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Output`] if no file can be made there.
    pub fn create_in(directory: impl AsRef<Path>, options: FileOptions) -> Result<Self> {
        let directory = directory.as_ref();
        AtomicFile::create_in(directory, options)
            .map(Self)
            .map_err(|error| refused(directory, error))
    }

    /// Makes a file in `directory` that never gets a name: it is gone when it is closed.
    ///
    /// On file systems without `O_TMPFILE` it briefly has a partial name.
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Output`] if no file can be made there.
    ///
    /// ```
    /// use corestream::UnnamedFile;
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let directory = directory.path();
    /// let file = UnnamedFile::scratch(directory)?;
    /// assert_eq!(file.metadata().unwrap().len(), 0);
    /// assert_eq!(std::fs::read_dir(directory).unwrap().count(), 0);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn scratch(directory: impl AsRef<Path>) -> Result<File> {
        let directory = directory.as_ref();
        AtomicFile::scratch(directory).map_err(|error| refused(directory, error))
    }

    /// Returns whether a file of [`create_in`](Self::create_in) may have this name until it is committed, or if it can't
    /// be given another. No system has unnamed files everywhere.
    ///
    /// ```
    /// use corestream::UnnamedFile;
    ///
    /// assert!(UnnamedFile::is_partial_name(".corestream.4711-3.partial"));
    /// assert!(!UnnamedFile::is_partial_name("guest.partial"));
    /// ```
    pub fn is_partial_name(name: impl AsRef<OsStr>) -> bool {
        AtomicFile::is_name_until_commit(name.as_ref())
    }

    /// Returns the file to write to.
    pub fn file(&self) -> &File {
        self.0.file()
    }

    /// Gives the file the first of `names` that nothing has, and says which; if it is to replace, the
    /// first one. All must be in its directory.
    ///
    /// # Errors
    /// What was written did not arrive ([`ErrorKind::Output`]): then nothing is left. All names are taken, or the
    /// file can't be given one ([`ErrorKind::Output`]); there is no name, or one that can't be, such as one in
    /// another directory ([`ErrorKind::Option`]): then the file is kept under another name
    /// ([`Error::kept_file`]).
    ///
    /// ```
    /// use corestream::{ErrorKind, FileOptions, UnnamedFile};
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let directory = directory.path();
    /// let file = UnnamedFile::create_in(directory, FileOptions::new())?;
    /// let error = file.commit([directory.join("elsewhere/dump")]).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Option);
    /// let kept = error.kept_file().unwrap().display();
    /// let cause = format!("cannot name the finished file, which is kept as {kept}: it is in another directory");
    /// assert!(error.to_string().ends_with(&cause));
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn commit(self, names: impl IntoIterator<Item = PathBuf>) -> Result<PathBuf> {
        let mut names = names.into_iter().peekable();
        let mut last = names.peek().map_or_else(|| self.0.directory().into(), PathBuf::clone);
        let names = names.inspect(|name| last.clone_from(name));
        self.0.commit_as(names).map_err(|error| {
            // An EINVAL of the system is none of the caller's.
            let is_own = error.source.raw_os_error().is_none();
            let kind = match error.source.kind() {
                io::ErrorKind::InvalidInput if is_own => ErrorKind::Option,
                _ => ErrorKind::Output,
            };
            error.at(&last, "file", kind)
        })
    }
}

fn refused(directory: &Path, error: io::Error) -> Error {
    let message = format!("{}: cannot make a file in it", directory.display());
    Error::io(ErrorKind::Output, message, error)
}
