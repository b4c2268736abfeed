//! Names a finished file, on every kind of file system.
//!
//! # The problem
//! The finished file must get its name in one step, must not overwrite a file unless it is to replace it, and must not
//! be lost if one way to name it fails. File systems and sandboxes differ:
//!
//! | way | not supported by |
//! |---|---|
//! | `O_TMPFILE` | NFS, vfat, most FUSE file systems |
//! | `linkat` of an unnamed file by `/proc/self/fd/N` | AppArmor, FUSE without `link`, systems without `/proc` |
//! | `linkat` with `AT_EMPTY_PATH` | files opened by others; before Linux 6.10, lack of `CAP_DAC_READ_SEARCH` |
//! | `renameat2` with `RENAME_NOREPLACE` | NFS, many FUSE file systems |
//! | `link` | vfat, exFAT, many FUSE file systems |
//! | `rename` of an open file | CIFS and FUSE mounts of systems that lock open files |
//!
//! # The idea
//! [`UnfinishedFile::new`] makes a trial before the first byte: it links an empty unnamed file under a partial name and
//! removes the name again. If that works, the real file is unnamed too. Otherwise it has a partial name from the start.
//! The trial needs a file of its own, because an unnamed file can be linked only once: the kernel withdraws the
//! permission with the first name.
//!
//! [`FinishedFile`] then tries the ways in order, from the safest to the one that every file system supports. A file
//! that cannot be linked after all is copied to a file with a partial name. A file with a partial name is closed and
//! renamed: with `RENAME_NOREPLACE`, else by a hard link, else over an empty file that `O_EXCL` has created under the
//! final name.
//!
//! In an append-only directory (`chattr +a`), no name can be removed or changed. So there is no trial there: the
//! unnamed file is linked under its final name at the end. If the trial shows that a name cannot be removed for another
//! reason, the file keeps the name of the trial until it is renamed, and hard links are not used, because both names
//! would stay.
//!
//! All names are relative to an open [`Directory`]. If the path leads to another directory when the file is finished,
//! because another process has put a new one there, the file is named in the new one. If that fails, or if the path
//! leads nowhere, the file is named in the old one.
//!
//! # The invariant
//! The file always has a way back: an open descriptor, a partial name, or its final name. Before a rename, the partial
//! name must still refer to the file, which is checked by device and inode number. A partial name that refers to
//! another file is given up, never removed. An error of `rename` or `linkat` is not trusted: on network file systems,
//! only the reply may be lost, so the names are looked up.
//!
//! # The cost
//! Four more system calls for an unnamed file. SIGKILL between two of them leaves an empty file: under a partial name,
//! or on the last way under the final name. Checking that the name is free and then renaming, without a reservation,
//! would leave nothing, but could overwrite a file that appears in between, which is worse.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::directory::{Directory, identity};
use super::mode::make_private;
use super::options::FileOptions;
use super::partial_name::{DEFAULT_BASE, PartialName, create_first_free};
use super::paths::{directory_of, file_name};
use crate::arithmetic::at_most;
use crate::close::check_close;
use crate::held_signal::without_sigxfsz;

/// The number of bytes that are copied at once.
const COPY_BYTES: usize = 1 << 20;

/// A file that is being written.
#[derive(Debug)]
pub(super) enum UnfinishedFile {
    /// It has no name.
    Unnamed(File),
    /// It has a partial name.
    Named(File, PartialName),
}

impl UnfinishedFile {
    /// Creates an empty file in `directory`, which will be named `base_name`.
    pub(super) fn new(directory: &Arc<Directory>, base_name: &OsStr) -> io::Result<Self> {
        if directory.is_append_only() {
            let message = "the directory is append-only and its file system has no unnamed files, so a \
                           finished dump cannot be named there: name a file in another directory";
            let refused = || io::Error::new(io::ErrorKind::PermissionDenied, message);
            return directory.create_unnamed().map(Self::Unnamed).ok_or_else(refused);
        }
        match Self::unnamed(directory) {
            Some(unfinished) => Ok(unfinished),
            None => Self::named(directory, base_name),
        }
    }

    /// Creates a file with a partial name.
    pub(super) fn named(directory: &Arc<Directory>, base_name: &OsStr) -> io::Result<Self> {
        let (file, name) = create_first_free(base_name, |name| directory.create(name))?;
        let name = PartialName::new(directory, name, &file);
        Ok(Self::Named(file, name))
    }

    /// Creates an unnamed file if the trial shows that it can be linked later. Returns the file of the trial if only
    /// its name cannot be removed.
    fn unnamed(directory: &Arc<Directory>) -> Option<Self> {
        let trial = directory.create_unnamed()?;
        let base_name = OsStr::new(DEFAULT_BASE);
        let ((), name) = create_first_free(base_name, |name| directory.link(&trial, name)).ok()?;
        let mut name = PartialName::new(directory, name, &trial);
        match name.remove() {
            Ok(()) => {
                drop(trial);
                directory.create_unnamed().map(Self::Unnamed)
            }
            // The file of the trial has a name already, so it is used.
            Err(_) => Some(Self::Named(trial, name)),
        }
    }

    pub(super) fn file(&self) -> &File {
        match self {
            Self::Unnamed(file) | Self::Named(file, _) => file,
        }
    }

    /// Ends the writing of the file, which is to be named in `home`, where it was created.
    pub(super) fn finish(self, home: Arc<Directory>, options: FileOptions) -> FinishedFile {
        let state = match self {
            Self::Unnamed(file) => FileState::Unnamed(file),
            Self::Named(file, mut name) => match name.hold(&file) {
                // Some file systems cannot rename an open file.
                true => {
                    drop(file);
                    FileState::Named(name)
                }
                // Another process has removed the name, and perhaps the directory too, or has given the name to another
                // file. The open file still has the bytes.
                false => {
                    name.forget();
                    FileState::Unnamed(file)
                }
            },
        };
        let successor = home.successor().map(Arc::new);
        FinishedFile { state, options, home, successor, leftover: None }
    }
}

/// A complete file that has no name yet, or a partial one.
#[derive(Debug)]
pub(super) struct FinishedFile {
    state: FileState,
    options: FileOptions,
    /// The directory in which it was created.
    home: Arc<Directory>,
    /// The directory to which the path of `home` leads now, if that is another one.
    successor: Option<Arc<Directory>>,
    leftover: Option<LeftoverName>,
}

/// A partial name that the file has in addition to its final one, because it could not be removed.
#[derive(Debug)]
pub(super) struct LeftoverName {
    pub(super) path: PathBuf,
    pub(super) why: io::Error,
}

/// Where the bytes of a finished file are.
#[derive(Debug)]
enum FileState {
    /// In an open file without a name.
    Unnamed(File),
    /// In a file with a partial name.
    Named(PartialName),
    /// Nowhere. The file could be neither linked nor copied, for this reason.
    Lost(io::Error),
}

impl FinishedFile {
    /// Gives the file the first free one of `names`, and returns it with its directory.
    pub(super) fn assign_first_free(
        &mut self,
        names: impl IntoIterator<Item = PathBuf>,
    ) -> io::Result<(PathBuf, Arc<Directory>)> {
        let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let mut result = invalid("no name was given");
        for path in names {
            if !self.is_directory_of_file(directory_of(&path)) {
                return invalid("the name is in another directory");
            }
            match self.assign(file_name(&path)?) {
                Ok(directory) => return Ok((path, directory)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => result = Err(error),
                Err(error) => return Err(error),
            }
        }
        result
    }

    /// Returns whether a path leads to the directory of the file, or did when the file was created.
    fn is_directory_of_file(&self, path: &Path) -> bool {
        let successor = self.successor.as_ref();
        path == self.home.path()
            || self.home.is_at(path)
            || successor.is_some_and(|directory| directory.is_at(path))
    }

    /// Gives the file a name in the directory to which the path leads now, or else in the one to which it led at the
    /// start.
    fn assign(&mut self, name: &OsStr) -> io::Result<Arc<Directory>> {
        if let Some(directory) = self.successor.clone() {
            match self.assign_in(&directory, name) {
                Ok(()) => return Ok(directory),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
                // It may be on another file system. The old directory is better than no name.
                Err(_) => {}
            }
        }
        let home = Arc::clone(&self.home);
        self.assign_in(&home, name).map(|()| home)
    }

    /// Gives the file a name in `directory`.
    fn assign_in(&mut self, directory: &Arc<Directory>, name: &OsStr) -> io::Result<()> {
        let replace = self.options.replace;
        if let FileState::Unnamed(file) = &self.state
            && (!replace || directory.is_append_only())
        {
            match directory.link(file, name) {
                // If only the reply was lost, the call returns an error, or is repeated and returns EEXIST.
                Err(_) if is_file(file, directory.identity(name)) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {}
                result => return result,
            }
        }
        self.assign_partial_name(directory, name)?;
        let FileState::Named(partial) = &mut self.state else { return Err(self.lost_error()) };
        if let Err(error) = partial.check() {
            // The name belongs to another file now, so it must not be removed.
            partial.forget();
            self.state = FileState::Lost(io::Error::new(error.kind(), error.to_string()));
            return Err(error);
        }
        if replace {
            partial.rename_over(directory, name)?;
        } else if !partial.rename_to_new(directory, name)? {
            // The file has both names.
            let path = partial.display_path();
            self.leftover = partial.remove().err().map(|why| LeftoverName { path, why });
        }
        partial.forget();
        Ok(())
    }

    /// Gives the file a partial name if it has none: a link in `directory`, or a copy in the directory where it was
    /// created.
    fn assign_partial_name(
        &mut self,
        directory: &Arc<Directory>,
        base_name: &OsStr,
    ) -> io::Result<()> {
        let file = match &self.state {
            FileState::Unnamed(file) => file,
            FileState::Named(_) => return Ok(()),
            FileState::Lost(_) => return Err(self.lost_error()),
        };
        let refused = match create_first_free(base_name, |name| directory.link(file, name)) {
            Ok(((), name)) => {
                let mut name = PartialName::new(directory, name, file);
                name.hold(file);
                self.state = FileState::Named(name);
                return Ok(());
            }
            Err(refused) => refused,
        };
        let copied_to = match &self.successor {
            Some(successor) if self.home.is_removed() => successor,
            _ => &self.home,
        };
        if !Arc::ptr_eq(directory, copied_to) {
            return Err(refused);
        }
        let (state, result) = match copy(file, directory, base_name, self.options) {
            Ok(name) => (FileState::Named(name), Ok(())),
            Err(error) => (FileState::Lost(error), Err(refused)),
        };
        self.state = state;
        result
    }

    /// Returns why the file has no name.
    fn lost_error(&self) -> io::Error {
        match &self.state {
            FileState::Lost(error) => io::Error::new(error.kind(), error.to_string()),
            FileState::Unnamed(_) | FileState::Named(_) => Errno::NOENT.into(),
        }
    }

    /// Returns the partial name that could not be removed, if any.
    pub(super) fn take_leftover(&mut self) -> Option<LeftoverName> {
        self.leftover.take()
    }

    /// Keeps the file under a partial name made of `base_name`, and returns its path.
    pub(super) fn keep(mut self, base_name: &OsStr) -> io::Result<PathBuf> {
        let home = Arc::clone(&self.home);
        if let Err(error) = self.assign_partial_name(&home, base_name) {
            // The final name may be taken there, but a partial one free.
            let successor = self.successor.clone().ok_or(error)?;
            self.assign_partial_name(&successor, base_name)?;
        }
        match self.state {
            FileState::Named(mut name) if !name.is_lost() => {
                let path = name.display_path();
                name.forget();
                Ok(path)
            }
            _ => Err(self.lost_error()),
        }
    }
}

/// Copies a file that cannot be linked to a new file with a partial name.
///
/// It reads the holes too, because some file systems report them wrongly, but writes no parts that are all zero.
fn copy(
    from: &File,
    directory: &Arc<Directory>,
    base_name: &OsStr,
    options: FileOptions,
) -> io::Result<PartialName> {
    let len = from.metadata()?.len();
    let (to, name) = create_first_free(base_name, |name| directory.create(name))?;
    let mut name = PartialName::new(directory, name, &to);
    make_private(&to)?;
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(COPY_BYTES).map_err(|_| io::ErrorKind::OutOfMemory)?;
    buffer.resize(COPY_BYTES, 0);
    without_sigxfsz(|| {
        to.set_len(len)?;
        for at in (0..len).step_by(COPY_BYTES) {
            let left = len.checked_sub(at).ok_or(io::ErrorKind::InvalidData)?;
            let (part, _) = buffer.split_at_mut(at_most(left, COPY_BYTES));
            from.read_exact_at(part, at)?;
            if part.iter().any(|byte| *byte != 0) {
                to.write_all_at(part, at)?;
            }
        }
        Ok::<(), io::Error>(())
    })?;
    check_close(&to)?;
    if options.is_synced() {
        to.sync_all()?;
    }
    name.hold(&to);
    Ok(name)
}

/// Returns whether `named` is the identity of `file`.
fn is_file(file: &File, named: Result<(u64, u64), Errno>) -> bool {
    rustix::fs::fstat(file).is_ok_and(|own| named == Ok(identity(&own)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A rename fails because another process has removed the file, but the old name is gone and the new one exists.
    #[test]
    fn reports_a_failed_rename_although_another_file_has_the_new_name() {
        let directory = tempfile::tempdir().unwrap();
        let directory = Arc::new(Directory::open(directory.path()).unwrap());
        let partial = || match UnfinishedFile::named(&directory, OsStr::new("dump")).unwrap() {
            UnfinishedFile::Named(file, mut name) => {
                assert!(name.hold(&file));
                drop(file);
                fs::remove_file(name.display_path()).unwrap();
                name
            }
            UnfinishedFile::Unnamed(_) => panic!("it has a name"),
        };
        let old = directory.path().join("old");
        fs::write(&old, "old").unwrap();
        let error = partial().rename_over(&directory, OsStr::new("old")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read(&old).unwrap(), b"old");
        let error = partial().rename_over_reserved(&directory, OsStr::new("new")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!directory.path().join("new").exists(), "the empty file is left");
    }

    /// Another process replaces a finished file before it gets its name. That other file is left alone.
    #[test]
    fn rejects_a_replaced_partial_file() {
        let cases = [
            (false, ""),
            (false, "before"),
            (false, "after"),
            (true, ""),
            (true, "before"),
            (true, "after"),
        ];
        for (replace, replaced) in cases {
            let directory = tempfile::tempdir().unwrap();
            let home = Arc::new(Directory::open(directory.path()).unwrap());
            let unfinished = UnfinishedFile::named(&home, OsStr::new("dump")).unwrap();
            let UnfinishedFile::Named(file, name) = &unfinished else { panic!("it has a name") };
            let (partial, new) = (name.display_path(), directory.path().join("dump"));
            file.write_all_at(b"finished", 0).unwrap();
            let replace_partial = |when| {
                if replaced == when {
                    fs::write(directory.path().join("other"), "of others").unwrap();
                    fs::rename(directory.path().join("other"), &partial).unwrap();
                }
            };
            replace_partial("before");
            let mut finished = unfinished.finish(home, FileOptions::new().replace(replace));
            replace_partial("after");
            let named = finished.assign_first_free([new.clone()]);
            if replaced == "after" {
                let message = named.unwrap_err().to_string();
                assert!(message.starts_with("another process has replaced "), "{message}");
                assert!(finished.keep(OsStr::new("dump")).is_err());
                assert!(!new.exists());
                assert_eq!(fs::read(partial).unwrap(), b"of others");
            } else {
                // The bytes are there while the file is open.
                named.unwrap();
                assert_eq!(fs::read(new).unwrap(), b"finished");
                let theirs = (replaced == "before").then(|| b"of others".to_vec());
                assert_eq!(fs::read(partial).ok(), theirs);
            }
        }
    }

    /// A file that could not be copied has no name, whatever is called next.
    #[test]
    fn gives_no_name_to_a_lost_file() {
        let directory = tempfile::tempdir().unwrap();
        let home = Arc::new(Directory::open(directory.path()).unwrap());
        let state = FileState::Lost(io::ErrorKind::StorageFull.into());
        let options = FileOptions::new();
        let mut lost = FinishedFile { state, options, home, successor: None, leftover: None };
        let names = ["a", "b"].map(|name| directory.path().join(name));
        let error = lost.assign_first_free(names).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(lost.keep(OsStr::new("a")).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    /// A directory that was removed and created again, in which the final name is taken but a partial one is free.
    #[test]
    fn keeps_a_file_where_its_path_leads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        fs::create_dir(&path).unwrap();
        let home = Arc::new(Directory::open(&path).unwrap());
        let unfinished = UnfinishedFile::new(&home, OsStr::new("dump")).unwrap();
        unfinished.file().write_all_at(b"finished", 0).unwrap();
        fs::remove_dir_all(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("dump"), "other").unwrap();
        let mut finished = unfinished.finish(home, FileOptions::new());
        let error = finished.assign_first_free([path.join("dump")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        let kept = finished.keep(OsStr::new("dump")).unwrap();
        assert_eq!(kept.parent(), Some(&*path));
        assert_eq!(fs::read(kept).unwrap(), b"finished");
        assert_eq!(fs::read(path.join("dump")).unwrap(), b"other");
    }
}
