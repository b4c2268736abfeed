//! A file that gets its name once it is complete, for callers that know the name only then.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic_file::{AtomicFile, FileOptions};
use crate::error::{Error, ErrorKind, Result};

/// A file without a name, readable and writable only for its owner. It is removed if it is dropped without
/// [`commit`](Self::commit).
///
/// On file systems without `O_TMPFILE` it has a hidden name that ends in `.partial` until it is committed.
///
/// ```
/// use std::io::Write;
///
/// use corestream::{FileOptions, UnnamedFile};
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let directory = directory.path();
/// let file = UnnamedFile::create_in(directory, FileOptions::new())?;
/// file.file().write_all(b"complete").unwrap();
/// let name = file.commit([directory.join("dump"), directory.join("dump.1")])?;
/// assert_eq!(std::fs::read(name).unwrap(), b"complete");
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping it without `commit` removes it"]
pub struct UnnamedFile(AtomicFile);

impl UnnamedFile {
    /// Creates a file that will have a name in `directory`.
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Output`] if no file can be created there.
    pub fn create_in(directory: impl AsRef<Path>, options: FileOptions) -> Result<Self> {
        let directory = directory.as_ref();
        AtomicFile::create_in(directory, options)
            .map(Self)
            .map_err(|error| create_error(directory, error))
    }

    /// Creates a file in `directory` that never gets a name. It is removed when it is closed.
    ///
    /// On file systems without `O_TMPFILE` it has a partial name for a moment.
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Output`] if no file can be created there.
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
        AtomicFile::scratch(directory).map_err(|error| create_error(directory, error))
    }

    /// Returns whether `name` is a partial name: one that a file of [`create_in`](Self::create_in) has before it is
    /// committed, or keeps if it cannot be renamed.
    ///
    /// No system has unnamed files on every file system.
    ///
    /// ```
    /// use corestream::UnnamedFile;
    ///
    /// assert!(UnnamedFile::is_partial_name(".corestream.4711-3.partial"));
    /// assert!(!UnnamedFile::is_partial_name("guest.partial"));
    /// ```
    pub fn is_partial_name(name: impl AsRef<OsStr>) -> bool {
        AtomicFile::is_partial_name(name.as_ref())
    }

    /// Returns the file to write to.
    pub fn file(&self) -> &File {
        self.0.file()
    }

    /// Gives the file the first free one of `names` and returns it. With [`FileOptions::replace`], that is the first
    /// name. All names must be in the file's directory.
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Output`] if the file system could not store the bytes. Then the file is
    /// removed.
    ///
    /// Returns an error with [`Error::kept_file`], under which the file remains, in these cases:
    ///
    /// - All names are taken, or the file cannot be renamed ([`ErrorKind::Output`]).
    /// - There is no name, or an invalid one, such as a name in another directory ([`ErrorKind::Option`]).
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
    /// let cause = format!("cannot name the finished file, which is kept as {kept}: the name is in another directory");
    /// assert!(error.to_string().ends_with(&cause));
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn commit(self, names: impl IntoIterator<Item = PathBuf>) -> Result<PathBuf> {
        let mut names = names.into_iter().peekable();
        let mut last = names.peek().map_or_else(|| self.0.directory().into(), PathBuf::clone);
        let names = names.inspect(|name| last.clone_from(name));
        self.0.commit_as(names).map_err(|error| {
            // The system's own EINVAL is not a mistake of the caller.
            let is_ours = error.source.raw_os_error().is_none();
            let kind = match error.source.kind() {
                io::ErrorKind::InvalidInput if is_ours => ErrorKind::Option,
                _ => ErrorKind::Output,
            };
            error.into_error(&last, "file", kind)
        })
    }
}

fn create_error(directory: &Path, error: io::Error) -> Error {
    let message = format!("{}: cannot create a file in it", directory.display());
    Error::io(ErrorKind::Output, message, error)
}
