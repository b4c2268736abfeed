//! The file: where it is written, and the steps by which it gets its name.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::commit_error::{CommitError, Outcome};
use super::directory::{Directory, Syncer};
use super::mode::make_private;
use super::naming::{Begun, Finished, Leftover};
use super::options::FileOptions;
use super::partial_name::{BASE, is_without_base};
use super::paths::{base, directory_of, file_name};
use crate::close::check_close;

/// A file under construction. Dropped without [`commit`](Self::commit), it is gone.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    begun: Begun,
    /// Where it will have its name.
    directory: Arc<Directory>,
    path: PathBuf,
    options: FileOptions,
    /// What brings its name to disk, if that is wanted.
    syncer: Option<Syncer>,
}

impl AtomicFile {
    /// Begins a file that will be called `path`, readable and writable for its owner only, unless its
    /// file system has no modes.
    ///
    /// If it is not to replace one, `path` must not exist.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], a name that no file can have, or those of `open` in the directory of
    /// `path`.
    pub(crate) fn create(path: &Path, options: FileOptions) -> io::Result<Self> {
        if path.file_name().is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"));
        }
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(_) if !options.replace => return Err(io::ErrorKind::AlreadyExists.into()),
            // What can't be looked at by this name can't be given it either, however long it was written.
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
                "the directory is append-only, where no file can be replaced: name a new file";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Self::begin(directory, path.to_path_buf(), options)
    }

    /// Begins a file in the directory `path` whose name is not known yet ([`commit_as`](Self::commit_as)).
    ///
    /// # Errors
    /// Those of `open` in the directory.
    pub(crate) fn create_in(path: &Path, options: FileOptions) -> io::Result<Self> {
        let directory = Arc::new(Directory::open(path)?);
        Self::begin(directory, path.join(BASE), options)
    }

    /// Makes a file in `directory` that will never have a name, and is gone when it is closed. On file systems without
    /// unnamed files it has a partial name for a moment.
    ///
    /// # Errors
    /// Those of `open` in the directory.
    pub(crate) fn scratch(directory: &Path) -> io::Result<File> {
        let directory = Arc::new(Directory::open(directory)?);
        if let Some(file) = directory.create_unnamed() {
            return Ok(file);
        }
        match Begun::new(&directory, OsStr::new(BASE))? {
            Begun::Unnamed(file) => Ok(file),
            Begun::Named(file, mut name) => name.remove().map(|()| file),
        }
    }

    /// Returns whether a file of [`create_in`](Self::create_in) may have this name until it is committed.
    pub(crate) fn is_name_until_commit(name: &OsStr) -> bool {
        is_without_base(name)
    }

    fn begin(directory: Arc<Directory>, path: PathBuf, options: FileOptions) -> io::Result<Self> {
        let begun = Begun::new(&directory, base(&path))?;
        Self::with(begun, directory, path, options)
    }

    fn with(
        begun: Begun,
        directory: Arc<Directory>,
        path: PathBuf,
        options: FileOptions,
    ) -> io::Result<Self> {
        let syncer = match options.sync {
            true => Some(Syncer::new(&directory, begun.file())?),
            false => None,
        };
        make_private(begun.file())?;
        Ok(Self { begun, directory, path, options, syncer })
    }

    /// The directory in which it will have its name.
    pub(crate) fn directory(&self) -> &Path {
        directory_of(&self.path)
    }

    /// The file to write to.
    pub(crate) fn file(&self) -> &File {
        self.begun.file()
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// The errors of `close` and `fsync`, after which nothing is left. Then [`io::ErrorKind::AlreadyExists`] if
    /// somebody was faster and it must not replace, and the errors of `linkat` and `rename`: the finished file keeps
    /// a partial name, and what had the name is untouched. Last those of a file that has its name: `fsync` of the
    /// directory fails, the directory has been moved, or the partial name can't be removed.
    pub(crate) fn commit(self) -> Result<(), CommitError> {
        let path = self.path.clone();
        self.commit_as([path]).map(drop)
    }

    /// Gives the file the first of `names` that nobody has, all in its directory, and says which.
    ///
    /// # Errors
    /// Those of [`commit`](Self::commit); the names are used up; one is in another directory, or there is
    /// none, which is [`io::ErrorKind::InvalidInput`].
    pub(crate) fn commit_as(
        self,
        names: impl IntoIterator<Item = PathBuf>,
    ) -> Result<PathBuf, CommitError> {
        let Self { begun, directory: home, path, options, syncer } = self;
        let dropped = |source| CommitError { source, outcome: Outcome::Dropped };
        check_close(begun.file()).map_err(dropped)?;
        if options.sync {
            begun.file().sync_all().map_err(dropped)?;
        }
        let mut finished = begun.finish(Arc::clone(&home), options);
        let named = finished.name_first(names);
        let (name, directory) = match named {
            Ok(named) => named,
            Err(source) => return Err(keep(finished, &home, base(&path), source)),
        };
        let synced = match syncer {
            Some(syncer) if Arc::ptr_eq(&directory, &home) => syncer.sync(),
            Some(_) => super::directory::sync(&directory),
            None => Ok(()),
        };
        synced.map_err(|source| CommitError { source, outcome: Outcome::Named(name.clone()) })?;
        if directory.is_not_at(directory_of(&name)) {
            let place = directory.place().map(|place| place.join(base(&name)));
            let source = io::ErrorKind::NotFound.into();
            return Err(CommitError { source, outcome: Outcome::Moved(place) });
        }
        match finished.take_leftover() {
            None => Ok(name),
            Some(Leftover { path, why }) => {
                Err(CommitError { source: why, outcome: Outcome::Twice { name, leftover: path } })
            }
        }
    }
}

/// Keeps a finished file that could not be named under its partial name.
fn keep(finished: Finished, home: &Directory, base: &OsStr, source: io::Error) -> CommitError {
    let outcome = match finished.keep(base) {
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

    /// The same file as `create` makes it where there is no `O_TMPFILE`.
    fn create_named(path: &Path, options: FileOptions) -> io::Result<AtomicFile> {
        let directory = Arc::new(Directory::open(directory_of(path))?);
        let begun = Begun::named(&directory, base(path))?;
        AtomicFile::with(begun, directory, path.into(), options)
    }

    const NEW: FileOptions = FileOptions { replace: false, sync: true };
    const REPLACE: FileOptions = FileOptions { replace: true, sync: false };

    #[test]
    fn appears_whole_or_not_at_all() {
        for create in [AtomicFile::create, create_named] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("dump");
            let dropped = create(&path, NEW).unwrap();
            dropped.file().write_all(b"half").unwrap();
            assert!(!path.exists());
            drop(dropped);
            assert!(names(directory.path()).is_empty());

            let whole = create(&path, NEW).unwrap();
            whole.file().write_all(b"whole").unwrap();
            whole.commit().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"whole");
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(names(directory.path()).len(), 1);

            let new = create(&path, REPLACE).unwrap();
            new.file().write_all(b"new").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"whole");
            new.commit().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(names(directory.path()).len(), 1);
        }
    }

    #[test]
    fn the_second_of_two_fails_and_harms_nothing() {
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
            // It was finished, so it stays.
            let error = error.at(&path, "dump", ErrorKind::Output);
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
    fn the_first_free_name_is_taken() {
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
            // Another one, and the same by another path.
            let other = tempfile::tempdir().unwrap();
            let error = begin().commit_as([other.path().join("c")]).unwrap_err();
            assert_eq!(error.source.kind(), io::ErrorKind::InvalidInput);
            assert!(names(other.path()).is_empty());
            let link = other.path().join("link");
            std::os::unix::fs::symlink(directory.path(), &link).unwrap();
            begin().commit_as([link.join("c")]).unwrap();
            fs::remove_file(directory.path().join("c")).unwrap();
            // And the three that found no name.
            let is_partial = |name: &&OsString| name.as_bytes().ends_with(b".partial");
            assert_eq!(names(directory.path()).iter().filter(is_partial).count(), 3);
            assert_eq!(names(directory.path()).len(), 5);
        }
    }

    #[test]
    fn a_name_that_no_file_can_have_fails_at_the_start() {
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
    fn a_symbolic_link_is_replaced_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (target, path) = (directory.path().join("target"), directory.path().join("link"));
        fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(AtomicFile::create(&path, NEW).is_err());
        AtomicFile::create(&path, REPLACE).unwrap().commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"kept");
        assert!(path.symlink_metadata().unwrap().is_file());
    }
}
