//! A directory that appears under its name when everything is in it, or not at all.
//!
//! No system has unnamed directories, so it has a partial name until then. Files can't be made in it by its descriptor
//! alone, because whoever writes them wants a path. So [`NewDirectory::add`] notes the name of each: nothing else is
//! removed from the directory if it is dropped.

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
use super::partial_name::{BASE, PartialName, first_free};
use super::paths::{base, directory_of};
use crate::error::{Error, ErrorKind, Result};

/// A directory under construction, accessible for its owner only if its file system has modes. Dropped without
/// [`commit`](Self::commit), it is removed with the files that were added to it.
///
/// Until then it is in the same directory under a hidden name that ends in `.partial`. The directory around it is held
/// open: if that gets another name, the new directory is finished or removed there.
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
    /// What it will be called.
    path: PathBuf,
    /// The directory around it.
    parent: Arc<Directory>,
    name: PartialName,
    directory: Directory,
    /// The files in it that are removed with it.
    files: Vec<OsString>,
}

impl NewDirectory {
    /// Checks whether a directory can be made at `path`, as far as can be told without making one:
    /// [`create`](Self::create) checks again, since anything may happen in between. An empty directory
    /// may be there.
    ///
    /// # Errors
    /// Returns an error if `path` ends with no name ([`ErrorKind::Option`]), if it leads to a symbolic link, a file or
    /// a directory with entries, or if the directory around it is append-only ([`ErrorKind::Output`]).
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
            return Err(Error::new(ErrorKind::Option, format!("{shown}: names no directory")));
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
                let message = format!("{shown}: cannot look into it");
                return Err(Error::io(ErrorKind::Output, message, error));
            }
        }
        let parent = directory_of(path);
        if is_append_only(CWD, parent) {
            let parent = parent.display();
            return failed(&format!(
                "{parent} is append-only, where no finished directory can be renamed; name a directory elsewhere"
            ));
        }
        Ok(())
    }

    /// Makes a directory that will be called `path`.
    ///
    /// # Errors
    /// Returns the errors of [`check`](Self::check), and an error if no directory can be made beside `path`
    /// ([`ErrorKind::Output`]).
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::check(path)?;
        Self::make(path).map_err(|error| {
            let message = format!("{}: cannot make it", path.display());
            Error::io(ErrorKind::Output, message, error)
        })
    }

    fn make(path: &Path) -> io::Result<Self> {
        let parent = Arc::new(Directory::open(directory_of(path))?);
        let ((), name) = first_free(OsStr::new(BASE), |name| parent.create_child(name))?;
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

    /// Returns the path for a new file in it, which the caller makes. The file is removed with the directory.
    ///
    /// The path is that of the directory while it is under construction. It leads nowhere if the directory around it
    /// was moved ([`is_moved`](Self::is_moved)).
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Option`] unless `name` is that of a file in the directory itself.
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
            let message =
                format!("{}: {name} is not the name of a file in it", self.path.display());
            return Err(Error::new(ErrorKind::Option, message));
        }
        self.files.push(name.into());
        Ok(self.directory.path().join(name))
    }

    /// Returns whether the path of the directory around it leads elsewhere by now, or nowhere.
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

    /// Gives it its name, in place of an empty directory that has the name.
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Output`]:
    ///
    /// - Somebody has removed the directory, or has put another in its place.
    /// - It can't be renamed. Everything is in it, so it keeps its partial name ([`Error::kept_file`]).
    /// - It has its name, but the directory around it was moved or unmounted. [`Error::kept_file`] says where it is, if
    ///   a path leads to it.
    pub fn commit(mut self) -> Result<()> {
        let failed = |path: &Path, source, outcome| {
            let error = CommitError { source, outcome };
            Err(error.at(path, "directory", ErrorKind::Output))
        };
        if self.name.is_taken_from(&self.directory) {
            let taken = self.name.shown();
            self.name.forget();
            return failed(&self.path, io::ErrorKind::NotFound.into(), Outcome::Taken(taken));
        }
        let renamed = self.name.rename_over(&self.parent, base(&self.path));
        let shown = self.name.shown();
        self.name.forget();
        if let Err(error) = renamed {
            return failed(&self.path, error, Outcome::Kept(shown));
        }
        if self.is_moved() {
            let place = self.parent.place().map(|place| place.join(base(&self.path)));
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
        // Nobody can be told, and there is nothing else to do. The name is removed after this.
        for file in &self.files {
            let _ = self.directory.remove(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody takes away the finished directory before it gets its name, or puts another in its place.
    #[test]
    fn rejects_a_directory_that_others_have_put_in_its_place() {
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
                    "{}: somebody has taken away the finished directory {}",
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
    fn leaves_nothing_when_it_is_dropped() {
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
    fn says_where_a_directory_is_whose_parent_was_moved() {
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
    fn rejects_names_of_files_elsewhere() {
        let parent = tempfile::tempdir().unwrap();
        let mut new = NewDirectory::create(parent.path().join("out")).unwrap();
        for name in ["", ".", "..", "/", "/a", "a/b", "a/", "a/.", "../a", "./a"] {
            assert_eq!(new.add(name).unwrap_err().kind(), ErrorKind::Option, "{name}");
        }
        assert!(new.files.is_empty());
        new.add("..a").unwrap();
    }
}
