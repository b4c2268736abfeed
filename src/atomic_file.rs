//! A file that appears whole under its name, or not at all.
//!
//! Where the file system has them, an unnamed file (`O_TMPFILE`) is written and then given its name
//! by `linkat`, so that not even SIGKILL leaves anything behind
//! ([open(2)](https://man7.org/linux/man-pages/man2/open.2.html)). Elsewhere it is a file in the
//! same folder under another name.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// Tries for a name that nobody has.
const TRIES: u32 = 1000;

/// How a dump becomes a file.
///
/// ```
/// # use corestream::{CoreDump, Dumper, FileOptions};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("guest.core");
/// let dump = CoreDump::new("guest.wasm");
/// let plan = Dumper::new().plan(&dump)?;
/// plan.write_file_with(&path, FileOptions::new().sync(true))?;
/// plan.write_file_with(&path, FileOptions::new().replace(true))?;
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct FileOptions {
    replace: bool,
    sync: bool,
}

impl FileOptions {
    /// A new file, left to the kernel to bring to disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a file that exists is replaced, once the new one is whole.
    pub fn replace(self, replace: bool) -> Self {
        Self { replace, ..self }
    }

    /// Whether the file and its name are on disk before it is done (`fsync`).
    pub fn sync(self, sync: bool) -> Self {
        Self { sync, ..self }
    }

    pub(crate) fn is_synced(self) -> bool {
        self.sync
    }
}

/// A file under construction. Dropped without [`commit`](Self::commit), it is gone.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    file: File,
    path: PathBuf,
    /// The name that it has until it is whole, if it needs one.
    temporary: Option<PathBuf>,
    options: FileOptions,
}

impl AtomicFile {
    /// Begins a file that will be called `path`, readable and writable for its owner only.
    ///
    /// If it is not to replace one, `path` must not exist.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], a name that no file can have, or those of `open` in the folder of
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
        let bytes = path.as_os_str().as_bytes();
        if bytes.ends_with(b"/") || bytes.ends_with(b"/.") {
            let message = "the path names a folder, and the name of a file is needed";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Self::begin(path.to_path_buf(), options)
    }

    /// Begins a file in `folder` whose name is not known yet ([`commit_as`](Self::commit_as)).
    ///
    /// # Errors
    /// Those of `open` in the folder.
    pub(crate) fn create_in(folder: &Path, options: FileOptions) -> io::Result<Self> {
        Self::begin(folder.join("corestream"), options)
    }

    fn begin(path: PathBuf, options: FileOptions) -> io::Result<Self> {
        let (file, temporary) = match unnamed(folder(&path)) {
            Some(file) => (file, None),
            None => {
                let (file, name) = first_free(&path, named)?;
                (file, Some(name))
            }
        };
        let this = Self { file, path, temporary, options };
        // Whatever the umask is.
        rustix::io::retry_on_intr(|| rustix::fs::fchmod(&this.file, Mode::RUSR | Mode::WUSR))?;
        Ok(this)
    }

    /// The file to write to.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if somebody was faster and it must not replace; those of
    /// `fsync`, `linkat` and `rename`. The name is then what it was before, but for a file system that
    /// can't exchange names: there an old file is gone if the last `fsync` fails.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        self.commit_once()
    }

    /// Gives the file the first of `names` that nobody has, all in its folder, and says which.
    ///
    /// # Errors
    /// Those of [`commit`](Self::commit); the names are used up; one is in another folder, or there is
    /// none, which is [`io::ErrorKind::InvalidInput`].
    pub(crate) fn commit_as(
        mut self,
        names: impl IntoIterator<Item = PathBuf>,
    ) -> io::Result<PathBuf> {
        let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let mut result = invalid("no name was given");
        for name in names {
            if !is_same_folder(folder(&name), folder(&self.path)) {
                return invalid("it is in another folder");
            }
            self.path = name;
            match self.commit_once() {
                Ok(()) => return Ok(std::mem::take(&mut self.path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => result = Err(error),
                Err(error) => return Err(error),
            }
        }
        result
    }

    fn commit_once(&mut self) -> io::Result<()> {
        if !self.options.sync {
            self.give_name()?;
            return Ok(());
        }
        // First, because nothing is to be taken back if it fails.
        let folder = File::open(folder(&self.path))?;
        self.file.sync_all()?;
        let before = self.give_name()?;
        sync_folder(&folder).inspect_err(|_| self.take_back(before))
    }

    /// Gives the file its name, and says what had it before.
    fn give_name(&mut self) -> io::Result<Before> {
        if self.options.replace {
            return self.replace();
        }
        match &self.temporary {
            None => link(&self.file, &self.path)?,
            Some(name) if rename_to_new(name, &self.path).is_ok() => {
                self.temporary = None;
            }
            // The drop removes the temporary name; this fails where the new one exists.
            Some(name) => std::fs::hard_link(name, &self.path)?,
        }
        Ok(Before::Nothing)
    }

    fn replace(&mut self) -> io::Result<Before> {
        if self.temporary.is_none() {
            // A link can't replace: give it another name first.
            let ((), name) = first_free(&self.path, |name| link(&self.file, name))?;
            self.temporary = Some(name);
        }
        let Some(name) = &self.temporary else { return Ok(Before::Nothing) };
        let mut before = Before::Lost;
        if self.options.sync {
            match exchange(name, &self.path) {
                Ok(()) => return Ok(Before::Exchanged),
                Err(Errno::NOENT) => before = Before::Nothing,
                Err(_) => {}
            }
        }
        std::fs::rename(name, &self.path)?;
        self.temporary = None;
        Ok(before)
    }

    /// Makes the name what it was, as far as that can be had.
    fn take_back(&self, before: Before) {
        // There is an error already, which is the one to tell.
        let _ = match (before, &self.temporary) {
            (Before::Nothing, _) => std::fs::remove_file(&self.path),
            (Before::Exchanged, Some(old)) => std::fs::rename(old, &self.path),
            (Before::Exchanged, None) | (Before::Lost, _) => Ok(()),
        };
    }
}

/// What had the name of a file before it did.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    /// An old file, which now has the temporary name.
    Exchanged,
    /// An old file, maybe, which is gone.
    Lost,
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // There is nobody to tell, and nothing else to do.
            let _ = std::fs::remove_file(name);
        }
    }
}

/// The folder of a path.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether two paths lead to one folder.
fn is_same_folder(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| path.metadata().map(|m| (m.dev(), m.ino())).ok();
    a == b || place(a).is_some_and(|a| Some(a) == place(b))
}

/// A file without a name that can be given one, if the file system has such.
#[cfg(target_os = "linux")]
fn unnamed(folder: &Path) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR).ok()?);
    // Without /proc it could not be given its name later.
    Path::new(&proc_name(&file)).exists().then_some(file)
}

#[cfg(not(target_os = "linux"))]
fn unnamed(_: &Path) -> Option<File> {
    None
}

/// The name under which /proc shows an open file.
fn proc_name(file: &File) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn link(file: &File, name: &Path) -> io::Result<()> {
    let linked = rustix::fs::linkat(CWD, proc_name(file), CWD, name, AtFlags::SYMLINK_FOLLOW);
    linked.map_err(Into::into)
}

/// Renames a file, unless something has the new name. Unlike links, all common file systems have it.
fn rename_to_new(from: &Path, to: &Path) -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    return rustix::fs::renameat_with(CWD, from, CWD, to, rustix::fs::RenameFlags::NOREPLACE);
    #[cfg(not(target_os = "linux"))]
    Err(Errno::NOSYS)
}

/// Exchanges two names.
fn exchange(a: &Path, b: &Path) -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    return rustix::fs::renameat_with(CWD, a, CWD, b, rustix::fs::RenameFlags::EXCHANGE);
    #[cfg(not(target_os = "linux"))]
    Err(Errno::NOSYS)
}

/// Brings the names in a folder to disk, where the file system knows of that.
fn sync_folder(folder: &File) -> io::Result<()> {
    match folder.sync_all() {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
        result => result,
    }
}

/// A new file of this name; never one that is there, nor through a symbolic link.
fn named(name: &Path) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    let open = || rustix::fs::open(name, flags, Mode::RUSR | Mode::WUSR);
    Ok(rustix::io::retry_on_intr(open)?.into())
}

/// Calls `make` with names beside `path` until one is free.
fn first_free<T>(path: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(T, PathBuf)> {
    let base = path.file_name().unwrap_or(OsStr::new("corestream"));
    for i in 0..TRIES {
        let mut name = OsString::from(".");
        name.push(base);
        name.push(format!(".{}-{i}.partial", std::process::id()));
        // A name of nearly 255 bytes has no room for more.
        if name.len() > 255 {
            name = format!(".corestream.{}-{i}.partial", std::process::id()).into();
        }
        let name = folder(path).join(name);
        match make(&name) {
            Ok(made) => return Ok((made, name)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EXIST.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    fn names(folder: &Path) -> Vec<OsString> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    /// The same file as `create` makes it where there is no `O_TMPFILE`.
    fn create_named(path: &Path, options: FileOptions) -> io::Result<AtomicFile> {
        let (file, name) = first_free(path, named)?;
        Ok(AtomicFile { file, path: path.into(), temporary: Some(name), options })
    }

    const NEW: FileOptions = FileOptions { replace: false, sync: true };
    const REPLACE: FileOptions = FileOptions { replace: true, sync: false };

    #[test]
    fn appears_whole_or_not_at_all() {
        for create in [AtomicFile::create, create_named] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("dump");
            let dropped = create(&path, NEW).unwrap();
            dropped.file().write_all(b"half").unwrap();
            assert!(!path.exists());
            drop(dropped);
            assert!(names(folder.path()).is_empty());

            let whole = create(&path, NEW).unwrap();
            whole.file().write_all(b"whole").unwrap();
            whole.commit().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"whole");
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(names(folder.path()).len(), 1);

            let new = create(&path, REPLACE).unwrap();
            new.file().write_all(b"new").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"whole");
            new.commit().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(names(folder.path()).len(), 1);
        }
    }

    #[test]
    fn the_second_of_two_fails_and_harms_nothing() {
        for create in [AtomicFile::create, create_named] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("dump");
            let first = create(&path, NEW).unwrap();
            let second = create(&path, NEW).unwrap();
            first.file().write_all(b"first").unwrap();
            first.commit().unwrap();
            let error = second.commit().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&path).unwrap(), b"first");
            assert_eq!(names(folder.path()).len(), 1);
            let third = AtomicFile::create(&path, NEW).unwrap_err();
            assert_eq!(third.kind(), io::ErrorKind::AlreadyExists);
        }
    }

    #[test]
    fn the_first_free_name_is_taken() {
        for named_first in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
            fs::write(&a, "kept").unwrap();
            let begin = || match named_first {
                true => create_named(&folder.path().join("corestream"), NEW).unwrap(),
                false => AtomicFile::create_in(folder.path(), NEW).unwrap(),
            };
            let file = begin();
            file.file().write_all(b"new").unwrap();
            assert_eq!(file.commit_as([a.clone(), b.clone()]).unwrap(), b);
            assert_eq!(
                (fs::read(&a).unwrap(), fs::read(&b).unwrap()),
                (b"kept".into(), b"new".into())
            );
            let error = begin().commit_as([a, b]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            let error = begin().commit_as([]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            // Another one, and the same by another path.
            let other = tempfile::tempdir().unwrap();
            let error = begin().commit_as([other.path().join("c")]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(names(other.path()).is_empty());
            let link = other.path().join("link");
            std::os::unix::fs::symlink(folder.path(), &link).unwrap();
            begin().commit_as([link.join("c")]).unwrap();
            fs::remove_file(folder.path().join("c")).unwrap();
            assert_eq!(names(folder.path()).len(), 2);
        }
    }

    #[test]
    fn a_name_that_no_file_can_have_fails_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("there")).unwrap();
        let long = "n".repeat(300);
        for (name, kind) in [
            ("x/", io::ErrorKind::InvalidInput),
            ("x/.", io::ErrorKind::InvalidInput),
            ("a\0b", io::ErrorKind::InvalidInput),
            (&long, io::ErrorKind::InvalidFilename),
            ("there/", io::ErrorKind::IsADirectory),
        ] {
            for options in [NEW, REPLACE] {
                let error = AtomicFile::create(&folder.path().join(name), options).unwrap_err();
                assert_eq!(error.kind(), kind, "{name}: {error}");
            }
        }
        AtomicFile::create(&folder.path().join("n".repeat(255)), NEW).unwrap().commit().unwrap();
        assert_eq!(names(folder.path()).len(), 2);
    }

    #[test]
    fn a_symbolic_link_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (target, path) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(AtomicFile::create(&path, NEW).is_err());
        AtomicFile::create(&path, REPLACE).unwrap().commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"kept");
        assert!(path.symlink_metadata().unwrap().is_file());
    }
}
