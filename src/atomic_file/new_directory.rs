//! A directory that appears under its name once all its files are complete, or not at all.
//!
//! No system has unnamed directories, so the directory has a partial name until then. The code that writes a file needs
//! a path, so files cannot be created by the directory's descriptor alone. [`NewDirectory::add`] therefore records the
//! name of each file. Dropping the directory removes these files and nothing else.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::CWD;

use super::backend::is_append_only;
use super::commit_error::{CommitError, Outcome};
use super::directory::Directory;
use super::mode::make_directory_private;
use super::partial_name::{DEFAULT_BASE, PartialName, create_first_free};
use super::paths::{base_name, directory_of};
use crate::error::{Error, ErrorKind, Result};

/// A directory under construction, accessible only for its owner if its file system has modes. Dropping it without
/// [`commit`](Self::commit) removes it and the files that were added to it.
///
/// Until then it has a hidden name that ends in `.partial`, in the directory that will contain it. That parent
/// directory is held open: if it is renamed, the new directory is finished or removed there.
///
/// ```
/// use std::fs;
///
/// use corestream::NewDirectory;
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let directory = directory.path();
/// let path = directory.join("all");
/// let mut directory = NewDirectory::create(&path)?;
/// fs::write(directory.add("one")?, "1").unwrap();
/// fs::write(directory.add("two")?, "2").unwrap();
/// assert!(!path.exists());
/// directory.commit()?;
/// assert_eq!(fs::read(path.join("two")).unwrap(), b"2");
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping it without `commit` removes it"]
pub struct NewDirectory {
    /// The path that it will have.
    path: PathBuf,
    /// Its parent directory.
    parent: Arc<Directory>,
    name: PartialName,
    directory: Directory,
    /// The names of the files in it, which are removed with it.
    files: Vec<OsString>,
}

impl NewDirectory {
    /// Checks whether a directory can be created at `path`, as far as possible without creating one. An empty directory
    /// may exist there.
    ///
    /// [`create`](Self::create) checks again, because anything may happen in between.
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Option`] if `path` does not end with a name. Returns an error of
    /// [`ErrorKind::Output`] if `path` is a symbolic link, a file or a directory with entries, or if the parent
    /// directory is append-only.
    ///
    /// ```
    /// use corestream::NewDirectory;
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let directory = directory.path();
    /// NewDirectory::check(directory)?;
    /// std::fs::write(directory.join("one"), "1").unwrap();
    /// let error = NewDirectory::check(directory).unwrap_err();
    /// assert!(error.to_string().ends_with(": is not empty; name a new directory"));
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn check(path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let shown = path.display();
        let failed = |why: &str| Err(Error::new(ErrorKind::Output, format!("{shown}: {why}")));
        if path.file_name().is_none() {
            return Err(Error::new(
                ErrorKind::Option,
                format!("{shown}: does not name a directory"),
            ));
        }
        if path.is_symlink() {
            return failed("is a symbolic link; name a new directory");
        }
        match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(true) => return failed("is not empty; name a new directory"),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return failed("is not a directory; name a new one");
            }
            Err(error) => {
                let message = format!("{shown}: cannot list the directory");
                return Err(Error::io(ErrorKind::Output, message, error));
            }
        }
        let parent = directory_of(path);
        if is_append_only(CWD, parent) {
            let parent = parent.display();
            return failed(&format!(
                "{parent} is append-only, so no finished directory can be renamed there; name a directory elsewhere"
            ));
        }
        Ok(())
    }

    /// Creates a directory that will be named `path`.
    ///
    /// # Errors
    /// Returns the errors of [`check`](Self::check), and an error of [`ErrorKind::Output`] if no directory can be
    /// created next to `path`.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::check(path)?;
        Self::make(path).map_err(|error| {
            let message = format!("{}: cannot create the directory", path.display());
            Error::io(ErrorKind::Output, message, error)
        })
    }

    fn make(path: &Path) -> io::Result<Self> {
        let parent = Arc::new(Directory::open(directory_of(path))?);
        let ((), name) =
            create_first_free(OsStr::new(DEFAULT_BASE), |name| parent.create_child(name))?;
        let directory = parent.open_child(&name).inspect_err(|_| {
            // The error above is the one to report.
            let _ = parent.remove_directory(&name);
        })?;
        let partial = PartialName::of_directory(&parent, name.clone(), &directory);
        let path = path.to_path_buf();
        let new = Self { path, parent, name: partial, directory, files: Vec::new() };
        make_directory_private(&new.parent, &name)?;
        Ok(new)
    }

    /// Returns the path for a new file in the directory, which the caller creates. The file is removed with the
    /// directory.
    ///
    /// The path is within the directory under construction. It leads nowhere if the parent directory was moved
    /// ([`is_moved`](Self::is_moved)).
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Option`] unless `name` names a file in the directory itself.
    ///
    /// ```
    /// use corestream::{ErrorKind, NewDirectory};
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// let mut directory = NewDirectory::create(directory.path().join("all"))?;
    /// let error = directory.add("../one").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Option);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn add(&mut self, name: impl AsRef<OsStr>) -> Result<PathBuf> {
        let name = name.as_ref();
        let mut components = Path::new(name).components();
        let is_name = matches!(components.next(), Some(Component::Normal(first)) if first == name);
        if !is_name {
            let name = name.display();
            let message = format!(
                "{}: {name} is not the name of a file in this directory",
                self.path.display()
            );
            return Err(Error::new(ErrorKind::Option, message));
        }
        self.files.push(name.into());
        Ok(self.directory.path().join(name))
    }

    /// Returns whether the path of the parent directory leads elsewhere now, or nowhere.
    ///
    /// ```
    /// use corestream::NewDirectory;
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// let (before, after) = (directory.path().join("before"), directory.path().join("after"));
    /// std::fs::create_dir(&before).unwrap();
    /// let directory = NewDirectory::create(before.join("all"))?;
    /// assert!(!directory.is_moved());
    /// std::fs::rename(before, after).unwrap();
    /// assert!(directory.is_moved());
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn is_moved(&self) -> bool {
        self.parent.is_not_at(directory_of(&self.path))
    }

    /// Gives the directory its name, and replaces an empty directory of that name.
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Output`] in these cases:
    ///
    /// - Another process has removed the directory or replaced it.
    /// - It cannot be renamed. It is complete, so it keeps its partial name ([`Error::kept_file`]).
    /// - It has its name, but the parent directory was moved or unmounted. [`Error::kept_file`] is its path, if any
    ///   path leads to it.
    pub fn commit(mut self) -> Result<()> {
        let failed = |path: &Path, source, outcome| {
            let error = CommitError { source, outcome };
            Err(error.into_error(path, "directory", ErrorKind::Output))
        };
        if self.name.is_taken_from(&self.directory) {
            let taken = self.name.display_path();
            self.name.forget();
            return failed(&self.path, io::ErrorKind::NotFound.into(), Outcome::Taken(taken));
        }
        let renamed = self.name.rename_over(&self.parent, base_name(&self.path));
        let kept = self.name.display_path();
        self.name.forget();
        if let Err(error) = renamed {
            return failed(&self.path, error, Outcome::Kept(kept));
        }
        if self.is_moved() {
            let place = self.parent.current_path().map(|path| path.join(base_name(&self.path)));
            return failed(&self.path, io::ErrorKind::NotFound.into(), Outcome::Moved(place));
        }
        Ok(())
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        if self.name.is_forgotten() {
            return;
        }
        // There is no one to report an error to. The partial name is removed after this.
        for file in &self.files {
            let _ = self.directory.remove(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another process removes the finished directory before it gets its name, or replaces it.
    #[test]
    fn rejects_a_removed_or_replaced_partial_directory() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("out");
        for (is_removed, is_replaced) in [(false, false), (true, false), (true, true)] {
            let mut new = NewDirectory::create(&path).unwrap();
            let hidden = new.directory.path().to_path_buf();
            fs::write(new.add("file").unwrap(), "content").unwrap();
            if is_removed {
                fs::remove_dir_all(&hidden).unwrap();
            }
            if is_replaced {
                fs::create_dir(&hidden).unwrap();
            }
            let committed = new.commit();
            if is_removed {
                let error = committed.unwrap_err();
                let expected = format!(
                    "{}: another process removed or replaced the finished directory {}",
                    path.display(),
                    hidden.display()
                );
                assert_eq!((error.to_string(), error.kept_file()), (expected, None));
                assert_eq!(hidden.exists(), is_replaced);
                assert!(!path.exists());
                let _ = fs::remove_dir(&hidden);
            } else {
                committed.unwrap();
                assert_eq!(fs::read(path.join("file")).unwrap(), b"content");
                fs::remove_dir_all(&path).unwrap();
            }
        }
    }

    #[test]
    fn removes_everything_when_dropped() {
        let parent = tempfile::tempdir().unwrap();
        let [old, moved] = ["old", "moved"].map(|name| parent.path().join(name));
        for is_moved in [false, true] {
            fs::create_dir(&old).unwrap();
            let mut new = NewDirectory::create(old.join("out")).unwrap();
            fs::write(new.add("file").unwrap(), "content").unwrap();
            new.add("never made").unwrap();
            if is_moved {
                fs::rename(&old, &moved).unwrap();
            }
            assert_eq!(new.is_moved(), is_moved);
            drop(new);
            // Only an empty directory can be removed.
            fs::remove_dir(if is_moved { &moved } else { &old }).unwrap();
        }
    }

    #[test]
    fn keeps_a_finished_directory_that_cannot_be_renamed() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("out");
        let mut new = NewDirectory::create(&path).unwrap();
        fs::write(new.add("file").unwrap(), "content").unwrap();
        fs::create_dir_all(path.join("of others")).unwrap();
        let error = new.commit().unwrap_err();
        assert!(
            error.to_string().contains("cannot name the finished directory, which is kept as ")
        );
        assert_eq!(fs::read(error.kept_file().unwrap().join("file")).unwrap(), b"content");
        assert!(NewDirectory::create(&path).is_err());
    }

    #[test]
    fn reports_the_new_path_if_the_parent_was_moved() {
        let parent = tempfile::tempdir().unwrap();
        let [old, moved] = ["old", "moved"].map(|name| parent.path().join(name));
        fs::create_dir(&old).unwrap();
        let new = NewDirectory::create(old.join("out")).unwrap();
        fs::rename(&old, &moved).unwrap();
        let error = new.commit().unwrap_err();
        let place = moved.canonicalize().unwrap().join("out");
        assert_eq!(error.kept_file(), Some(&*place), "{error}");
        assert!(place.is_dir());
    }

    #[test]
    fn rejects_names_outside_the_directory() {
        let parent = tempfile::tempdir().unwrap();
        let mut new = NewDirectory::create(parent.path().join("out")).unwrap();
        for name in ["", ".", "..", "/", "/a", "a/b", "a/", "a/.", "../a", "./a"] {
            assert_eq!(new.add(name).unwrap_err().kind(), ErrorKind::Option, "{name}");
        }
        assert!(new.files.is_empty());
        new.add("..a").unwrap();
    }
}
