//! A file under construction, and the steps of its commit.
//!
//! [`AtomicFile::create`] checks everything that can be checked before the first byte: whether the path can name a
//! file, whether a file exists there, whether the directory permits renames. [`AtomicFile::commit_as`] then takes these
//! steps, in this order:
//!
//! 1. `close` of a duplicate descriptor, and `fsync` if requested. If either fails, the bytes may not have arrived, and
//!    the file is removed. It has no name yet, so nothing else is affected.
//! 2. Naming ([`naming`](super::naming)). If it fails, the finished file is kept under a partial name.
//! 3. `fsync` of the directory if requested, for which the descriptor was opened at the start. If it fails, the file
//!    has its name, but a power cut may remove that.
//! 4. A check that the path still leads to the directory. If not, the file is complete, but elsewhere.
//! 5. A report of a partial name that could not be removed.
//!
//! After step 1, the file is complete and is never removed. Each later failure is a [`CommitError`] with an [`Outcome`]
//! that says where the file is.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::commit_error::{CommitError, Outcome};
use super::directory::{Directory, Syncer};
use super::mode::make_private;
use super::naming::{FinishedFile, LeftoverName, UnfinishedFile};
use super::options::FileOptions;
use super::partial_name::{DEFAULT_BASE, is_default_name};
use super::paths::{base_name, directory_of, file_name};
use crate::close::check_close;

/// A file under construction. It is removed if it is dropped without [`commit`](Self::commit).
#[derive(Debug)]
pub(crate) struct AtomicFile {
    unfinished: UnfinishedFile,
    /// The directory in which it will have its name.
    directory: Arc<Directory>,
    path: PathBuf,
    options: FileOptions,
    /// Syncs its name to disk, if requested.
    syncer: Option<Syncer>,
}

impl AtomicFile {
    /// Creates a file that will be named `path`, readable and writable only for its owner if its file system has modes.
    ///
    /// Unless it is to replace a file, `path` must not exist.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::AlreadyExists`], an error for a name that no file can have, or the errors of `open` in
    /// the directory of `path`.
    pub(crate) fn create(path: &Path, options: FileOptions) -> io::Result<Self> {
        if path.file_name().is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"));
        }
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(_) if !options.replace => return Err(io::ErrorKind::AlreadyExists.into()),
            // If the system rejects the name here, it rejects it after the dump too, however long that takes.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput
                ) =>
            {
                return Err(error);
            }
            _ => {}
        }
        file_name(path)?;
        let directory = Arc::new(Directory::open(directory_of(path))?);
        if options.replace && directory.is_append_only() && path.symlink_metadata().is_ok() {
            let message =
                "the directory is append-only, so no file can be replaced: name a new file";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Self::begin(directory, path.to_path_buf(), options)
    }

    /// Creates a file in the directory `path` that gets its name later ([`commit_as`](Self::commit_as)).
    ///
    /// # Errors
    /// Returns the errors of `open` in the directory.
    pub(crate) fn create_in(path: &Path, options: FileOptions) -> io::Result<Self> {
        let directory = Arc::new(Directory::open(path)?);
        Self::begin(directory, path.join(DEFAULT_BASE), options)
    }

    /// Creates a file in `directory` that never gets a name and is removed when it is closed. On file systems without
    /// unnamed files, it has a partial name for a moment.
    ///
    /// # Errors
    /// Returns the errors of `open` in the directory.
    pub(crate) fn scratch(directory: &Path) -> io::Result<File> {
        let directory = Arc::new(Directory::open(directory)?);
        if let Some(file) = directory.create_unnamed() {
            return Ok(file);
        }
        match UnfinishedFile::new(&directory, OsStr::new(DEFAULT_BASE))? {
            UnfinishedFile::Unnamed(file) => Ok(file),
            UnfinishedFile::Named(file, mut name) => name.remove().map(|()| file),
        }
    }

    /// Returns whether a file of [`create_in`](Self::create_in) can have this name before it is committed.
    pub(crate) fn is_partial_name(name: &OsStr) -> bool {
        is_default_name(name)
    }

    fn begin(directory: Arc<Directory>, path: PathBuf, options: FileOptions) -> io::Result<Self> {
        let unfinished = UnfinishedFile::new(&directory, base_name(&path))?;
        Self::with_unfinished(unfinished, directory, path, options)
    }

    fn with_unfinished(
        unfinished: UnfinishedFile,
        directory: Arc<Directory>,
        path: PathBuf,
        options: FileOptions,
    ) -> io::Result<Self> {
        let syncer = match options.sync {
            true => Some(Syncer::new(&directory, unfinished.file())?),
            false => None,
        };
        make_private(unfinished.file())?;
        Ok(Self { unfinished, directory, path, options, syncer })
    }

    /// Returns the directory in which it will have its name.
    pub(crate) fn directory(&self) -> &Path {
        directory_of(&self.path)
    }

    /// Returns the file to write to.
    pub(crate) fn file(&self) -> &File {
        self.unfinished.file()
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// Returns an error in these cases:
    ///
    /// - `close` or `fsync` fails. The file is removed.
    /// - Its name is taken and it must not replace a file ([`io::ErrorKind::AlreadyExists`]), or `linkat` or `rename`
    ///   fails. The finished file keeps a partial name, and a file under the final name is untouched.
    /// - The file has its name, but `fsync` of the directory fails, the directory was moved, or the partial name cannot
    ///   be removed.
    pub(crate) fn commit(self) -> Result<(), CommitError> {
        let path = self.path.clone();
        self.commit_as([path]).map(drop)
    }

    /// Gives the file the first free one of `names` and returns it. All must be in its directory.
    ///
    /// # Errors
    /// Returns the errors of [`commit`](Self::commit), [`io::ErrorKind::AlreadyExists`] if all names are taken, and
    /// [`io::ErrorKind::InvalidInput`] if there is no name or one in another directory.
    pub(crate) fn commit_as(
        self,
        names: impl IntoIterator<Item = PathBuf>,
    ) -> Result<PathBuf, CommitError> {
        let Self { unfinished, directory: home, path, options, syncer } = self;
        let dropped = |source| CommitError { source, outcome: Outcome::Dropped };
        check_close(unfinished.file()).map_err(dropped)?;
        if options.sync {
            unfinished.file().sync_all().map_err(dropped)?;
        }
        let mut finished = unfinished.finish(Arc::clone(&home), options);
        let (name, directory) = match finished.assign_first_free(names) {
            Ok(named) => named,
            Err(source) => return Err(keep(finished, &home, base_name(&path), source)),
        };
        let synced = match syncer {
            Some(syncer) if Arc::ptr_eq(&directory, &home) => syncer.sync(),
            Some(_) => super::directory::sync(&directory),
            None => Ok(()),
        };
        synced.map_err(|source| CommitError { source, outcome: Outcome::Named(name.clone()) })?;
        if directory.is_not_at(directory_of(&name)) {
            let place = directory.current_path().map(|path| path.join(base_name(&name)));
            let source = io::ErrorKind::NotFound.into();
            return Err(CommitError { source, outcome: Outcome::Moved(place) });
        }
        match finished.take_leftover() {
            None => Ok(name),
            Some(LeftoverName { path, why }) => Err(CommitError {
                source: why,
                outcome: Outcome::NamedTwice { name, leftover: path },
            }),
        }
    }
}

/// Keeps a finished file that could not be named under a partial name.
fn keep(
    finished: FinishedFile,
    home: &Directory,
    base_name: &OsStr,
    source: io::Error,
) -> CommitError {
    let outcome = match finished.keep(base_name) {
        Ok(kept) => Outcome::Kept(kept),
        Err(_) if home.is_removed() => Outcome::Removed,
        Err(error) => Outcome::Lost(error),
    };
    CommitError { source, outcome }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::ffi::OsString;
    use std::fs;
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    fn names(directory: &Path) -> Vec<OsString> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    /// Creates the same file as `create` does where there is no `O_TMPFILE`.
    fn create_named(path: &Path, options: FileOptions) -> io::Result<AtomicFile> {
        let directory = Arc::new(Directory::open(directory_of(path))?);
        let unfinished = UnfinishedFile::named(&directory, base_name(path))?;
        AtomicFile::with_unfinished(unfinished, directory, path.into(), options)
    }

    const NEW: FileOptions = FileOptions { replace: false, sync: true };
    const REPLACE: FileOptions = FileOptions { replace: true, sync: false };

    #[test]
    fn appears_complete_or_not_at_all() {
        for create in [AtomicFile::create, create_named] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("dump");
            let dropped = create(&path, NEW).unwrap();
            dropped.file().write_all(b"half").unwrap();
            assert!(!path.exists());
            drop(dropped);
            assert!(names(directory.path()).is_empty());

            let complete = create(&path, NEW).unwrap();
            complete.file().write_all(b"complete").unwrap();
            complete.commit().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"complete");
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(names(directory.path()).len(), 1);

            let new = create(&path, REPLACE).unwrap();
            new.file().write_all(b"new").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"complete");
            new.commit().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(names(directory.path()).len(), 1);
        }
    }

    #[test]
    fn keeps_an_existing_file_and_the_second_one_under_a_partial_name() {
        for create in [AtomicFile::create, create_named] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("dump");
            let first = create(&path, NEW).unwrap();
            let second = create(&path, NEW).unwrap();
            first.file().write_all(b"first").unwrap();
            first.commit().unwrap();
            second.file().write_all(b"second").unwrap();
            let error = second.commit().unwrap_err();
            assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&path).unwrap(), b"first");
            // The second file was finished, so it is kept.
            let error = error.into_error(&path, "dump", ErrorKind::Output);
            let kept = error.kept_file().unwrap();
            assert_eq!(fs::read(kept).unwrap(), b"second");
            assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(names(directory.path()).len(), 2);
            assert!(error.to_string().contains(&kept.display().to_string()), "{error}");
            let third = AtomicFile::create(&path, NEW).unwrap_err();
            assert_eq!(third.kind(), io::ErrorKind::AlreadyExists);
        }
    }

    #[test]
    fn takes_the_first_free_name() {
        for named_first in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let [a, b] = ["a", "b"].map(|name| directory.path().join(name));
            fs::write(&a, "kept").unwrap();
            let begin = || match named_first {
                true => create_named(&directory.path().join("corestream"), NEW).unwrap(),
                false => AtomicFile::create_in(directory.path(), NEW).unwrap(),
            };
            let file = begin();
            file.file().write_all(b"new").unwrap();
            assert_eq!(file.commit_as([a.clone(), b.clone()]).unwrap(), b);
            assert_eq!(
                (fs::read(&a).unwrap(), fs::read(&b).unwrap()),
                (b"kept".into(), b"new".into())
            );
            let error = begin().commit_as([a, b]).unwrap_err();
            assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
            let error = begin().commit_as([]).unwrap_err();
            assert_eq!(error.source.kind(), io::ErrorKind::InvalidInput);
            // Another directory, and the same one by another path.
            let other = tempfile::tempdir().unwrap();
            let error = begin().commit_as([other.path().join("c")]).unwrap_err();
            assert_eq!(error.source.kind(), io::ErrorKind::InvalidInput);
            assert!(names(other.path()).is_empty());
            let link = other.path().join("link");
            std::os::unix::fs::symlink(directory.path(), &link).unwrap();
            begin().commit_as([link.join("c")]).unwrap();
            fs::remove_file(directory.path().join("c")).unwrap();
            // The three files that found no name.
            let is_partial = |name: &&OsString| name.as_bytes().ends_with(b".partial");
            assert_eq!(names(directory.path()).iter().filter(is_partial).count(), 3);
            assert_eq!(names(directory.path()).len(), 5);
        }
    }

    #[test]
    fn rejects_an_invalid_name_before_the_first_byte() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("there")).unwrap();
        let long = "n".repeat(300);
        for (name, kind) in [
            ("x/", io::ErrorKind::InvalidInput),
            ("x/.", io::ErrorKind::InvalidInput),
            ("a\0b", io::ErrorKind::InvalidInput),
            (&long, io::ErrorKind::InvalidFilename),
            ("there/", io::ErrorKind::IsADirectory),
        ] {
            for options in [NEW, REPLACE] {
                let error = AtomicFile::create(&directory.path().join(name), options).unwrap_err();
                assert_eq!(error.kind(), kind, "{name}: {error}");
            }
        }
        AtomicFile::create(&directory.path().join("n".repeat(255)), NEW).unwrap().commit().unwrap();
        assert_eq!(names(directory.path()).len(), 2);
    }

    #[test]
    fn replaces_a_symbolic_link_without_following_it() {
        let directory = tempfile::tempdir().unwrap();
        let (target, path) = (directory.path().join("target"), directory.path().join("link"));
        fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(AtomicFile::create(&path, NEW).is_err());
        AtomicFile::create(&path, REPLACE).unwrap().commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"kept");
        assert!(path.symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn rejects_the_name_of_a_dangling_link_at_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link");
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        let error = AtomicFile::create(&path, NEW).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(names(directory.path()), ["link"]);
    }
}
