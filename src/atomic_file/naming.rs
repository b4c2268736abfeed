//! How a file gets its name, on every kind of file system.
//!
//! # The problem
//! The finished file must get its name at once and whole, must not take the place of a file that it is not to replace,
//! and must not be lost if a way to name it turns out to be closed. File systems and sandboxes differ:
//!
//! | way | refused by |
//! |---|---|
//! | `O_TMPFILE` | NFS, vfat, most FUSE file systems |
//! | `linkat` of an unnamed file by `/proc/self/fd/N` | AppArmor, FUSE without `link`, no `/proc` |
//! | `linkat` with `AT_EMPTY_PATH` | a file opened by others, before Linux 6.10 whoever lacks `CAP_DAC_READ_SEARCH` |
//! | `renameat2` with `RENAME_NOREPLACE` | NFS, many FUSE file systems |
//! | `link` | vfat, exFAT, many FUSE file systems |
//! | `rename` of an open file | CIFS and FUSE mounts of systems that lock open files |
//!
//! # The idea
//! [`Begun::new`] links an empty unnamed file under a partial name and removes it again, before the first byte of
//! the real one is written. If that works, the real file is unnamed too. Otherwise it has a partial name from the
//! start. An unnamed file can be linked only once (the kernel takes its permission to be linked away with the first
//! name), so the trial needs a file of its own.
//!
//! [`Finished`] then tries what there is, from the safest way to the one that all file systems have. What can't be linked
//! after all is copied to a file with a partial name. A file that has a partial name is closed and renamed:
//! without replacing, else by a hard link, else over an empty file that `O_EXCL` has made under the final name.
//!
//! In an append-only directory (`chattr +a`) no name can be removed or changed, so nothing is tried there: the unnamed
//! file is linked under its final name at the end. Where the trial shows that a name can't be removed for another reason,
//! the file keeps the name of the trial until it is renamed, and hard links are not used: both names would stay.
//!
//! All names are relative to an open [`Directory`]. If the path leads to another directory when the file is finished,
//! because somebody has put a new one in the place of the old one, the file is named in the new one, since that is
//! where the path leads. If that fails, or the path leads nowhere, the file is named in the old one.
//!
//! # The cost
//! Four system calls more for an unnamed file. SIGKILL between two of them leaves an empty file under a partial
//! name; on the last way it leaves one under the final name. To look for the name and then to rename without a
//! reservation would leave nothing, but could overwrite a file that appears in between, which is worse.

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
use super::partial_name::{BASE, PartialName, first_free};
use super::paths::{directory_of, file_name};
use crate::arithmetic::at_most;
use crate::close::check_close;
use crate::held_signal::without_sigxfsz;

/// Bytes that are copied at once.
const COPY_BYTES: usize = 1 << 20;

/// A file that is being written.
#[derive(Debug)]
pub(super) enum Begun {
    Unnamed(File),
    Named(File, PartialName),
}

impl Begun {
    /// Makes an empty file in `directory`, which will be called `base`.
    pub(super) fn new(directory: &Arc<Directory>, base: &OsStr) -> io::Result<Self> {
        if directory.is_append_only() {
            let message = "the directory is append-only and its file system has no unnamed files, so that a \
                           dump cannot appear in it as a whole: name a file in another directory";
            let refused = || io::Error::new(io::ErrorKind::PermissionDenied, message);
            return directory.create_unnamed().map(Self::Unnamed).ok_or_else(refused);
        }
        match Self::unnamed(directory) {
            Some(begun) => Ok(begun),
            None => Self::named(directory, base),
        }
    }

    /// Makes a file with a partial name.
    pub(super) fn named(directory: &Arc<Directory>, base: &OsStr) -> io::Result<Self> {
        let (file, name) = first_free(base, |name| directory.create(name))?;
        let name = PartialName::new(directory, name, &file);
        Ok(Self::Named(file, name))
    }

    /// Makes a file that can be linked later, if the file system has such.
    fn unnamed(directory: &Arc<Directory>) -> Option<Self> {
        let trial = directory.create_unnamed()?;
        let base = OsStr::new(BASE);
        let ((), name) = first_free(base, |name| directory.link(&trial, name)).ok()?;
        let mut name = PartialName::new(directory, name, &trial);
        match name.remove() {
            Ok(()) => {
                drop(trial);
                directory.create_unnamed().map(Self::Unnamed)
            }
            // The file with a name is there, so it is used.
            Err(_) => Some(Self::Named(trial, name)),
        }
    }

    pub(super) fn file(&self) -> &File {
        match self {
            Self::Unnamed(file) | Self::Named(file, _) => file,
        }
    }

    /// All is written: the file is to be named in `home`, where it was begun.
    pub(super) fn finish(self, home: Arc<Directory>, options: FileOptions) -> Finished {
        let state = match self {
            Self::Unnamed(file) => State::Unnamed(file),
            Self::Named(file, mut name) => match name.hold(&file) {
                // Closed: some file systems rename no open file.
                true => {
                    drop(file);
                    State::Named(name)
                }
                // Somebody has removed the name, and perhaps the directory with it, or has given it to another file.
                // The bytes are still there.
                false => {
                    name.forget();
                    State::Unnamed(file)
                }
            },
        };
        let successor = home.successor().map(Arc::new);
        Finished { state, options, home, successor, leftover: None }
    }
}

/// A file that is whole and has no name yet, or a partial one.
#[derive(Debug)]
pub(super) struct Finished {
    state: State,
    options: FileOptions,
    /// Where it was begun.
    home: Arc<Directory>,
    /// Where the path of `home` leads now, if that is another directory.
    successor: Option<Arc<Directory>>,
    leftover: Option<Leftover>,
}

/// A partial name that the file has beside its final one because it could not be removed.
#[derive(Debug)]
pub(super) struct Leftover {
    pub(super) path: PathBuf,
    pub(super) why: io::Error,
}

#[derive(Debug)]
enum State {
    Unnamed(File),
    Named(PartialName),
    /// It could not be linked, and not be copied either, for this reason.
    Lost(io::Error),
}

impl Finished {
    /// Gives the file the first of `names` that nobody has, and returns it with the directory in which it is.
    pub(super) fn name_first(
        &mut self,
        names: impl IntoIterator<Item = PathBuf>,
    ) -> io::Result<(PathBuf, Arc<Directory>)> {
        let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let mut result = invalid("no name was given");
        for path in names {
            if !self.is_here(directory_of(&path)) {
                return invalid("it is in another directory");
            }
            match self.give(file_name(&path)?) {
                Ok(directory) => return Ok((path, directory)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => result = Err(error),
                Err(error) => return Err(error),
            }
        }
        result
    }

    /// Whether a path leads to the directory of the file, or did when it was begun.
    fn is_here(&self, path: &Path) -> bool {
        let successor = self.successor.as_ref();
        path == self.home.path()
            || self.home.is_at(path)
            || successor.is_some_and(|directory| directory.is_at(path))
    }

    /// Gives the file a name where the path leads now, or else where it led at the start.
    fn give(&mut self, name: &OsStr) -> io::Result<Arc<Directory>> {
        if let Some(directory) = self.successor.clone() {
            match self.give_in(&directory, name) {
                Ok(()) => return Ok(directory),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
                // As on another file system: to be there at all is worth more.
                Err(_) => {}
            }
        }
        let home = Arc::clone(&self.home);
        self.give_in(&home, name).map(|()| home)
    }

    fn give_in(&mut self, directory: &Arc<Directory>, name: &OsStr) -> io::Result<()> {
        let replace = self.options.replace;
        if let State::Unnamed(file) = &self.state
            && (!replace || directory.is_append_only())
        {
            match directory.link(file, name) {
                // A link whose reply was lost is reported as an error, or repeated and found to exist.
                Err(_) if is_file(file, directory.identity(name)) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {}
                result => return result,
            }
        }
        self.give_partial_name(directory, name)?;
        let State::Named(partial) = &mut self.state else { return Err(self.lost()) };
        if let Err(error) = partial.check() {
            // It is not this file's name any more, so it is not removed either.
            partial.forget();
            self.state = State::Lost(io::Error::new(error.kind(), error.to_string()));
            return Err(error);
        }
        if replace {
            partial.rename_over(directory, name)?;
        } else if !partial.rename_to_new(directory, name)? {
            // It has both names.
            let path = partial.shown();
            self.leftover = partial.remove().err().map(|why| Leftover { path, why });
        }
        partial.forget();
        Ok(())
    }

    /// Gives the file a partial name if it has none: a link in `directory`, or a copy where it was begun.
    fn give_partial_name(&mut self, directory: &Arc<Directory>, base: &OsStr) -> io::Result<()> {
        let file = match &self.state {
            State::Unnamed(file) => file,
            State::Named(_) => return Ok(()),
            State::Lost(_) => return Err(self.lost()),
        };
        let refused = match first_free(base, |name| directory.link(file, name)) {
            Ok(((), name)) => {
                let mut name = PartialName::new(directory, name, file);
                name.hold(file);
                self.state = State::Named(name);
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
        let (state, result) = match copy(file, directory, base, self.options) {
            Ok(name) => (State::Named(name), Ok(())),
            Err(error) => (State::Lost(error), Err(refused)),
        };
        self.state = state;
        result
    }

    /// Why the file is lost.
    fn lost(&self) -> io::Error {
        match &self.state {
            State::Lost(error) => io::Error::new(error.kind(), error.to_string()),
            State::Unnamed(_) | State::Named(_) => Errno::NOENT.into(),
        }
    }

    /// What is wrong with a file that has its name.
    pub(super) fn take_leftover(&mut self) -> Option<Leftover> {
        self.leftover.take()
    }

    /// Leaves the file under a partial name made of `base`, and returns its path.
    pub(super) fn keep(mut self, base: &OsStr) -> io::Result<PathBuf> {
        let home = Arc::clone(&self.home);
        if let Err(error) = self.give_partial_name(&home, base) {
            // Where the final name is taken, a partial one may be free.
            let successor = self.successor.clone().ok_or(error)?;
            self.give_partial_name(&successor, base)?;
        }
        match self.state {
            State::Named(mut name) if !name.is_lost() => {
                let path = name.shown();
                name.forget();
                Ok(path)
            }
            _ => Err(self.lost()),
        }
    }
}

/// Copies a file that can't be linked to one with a partial name.
///
/// It does not ask where the holes are, because some file systems answer wrongly, but skips parts that are all zero.
fn copy(
    from: &File,
    directory: &Arc<Directory>,
    base: &OsStr,
    options: FileOptions,
) -> io::Result<PartialName> {
    let len = from.metadata()?.len();
    let (to, name) = first_free(base, |name| directory.create(name))?;
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

/// Whether `named` is the identity of `file`.
fn is_file(file: &File, named: Result<(u64, u64), Errno>) -> bool {
    rustix::fs::fstat(file).is_ok_and(|own| named == Ok(identity(&own)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A rename fails whose file others have removed, although the old name is gone and the new one is there.
    #[test]
    fn a_name_that_others_have_is_not_taken_for_a_rename() {
        let directory = tempfile::tempdir().unwrap();
        let directory = Arc::new(Directory::open(directory.path()).unwrap());
        let partial = || match Begun::named(&directory, OsStr::new("dump")).unwrap() {
            Begun::Named(file, mut name) => {
                assert!(name.hold(&file));
                drop(file);
                fs::remove_file(name.shown()).unwrap();
                name
            }
            Begun::Unnamed(_) => panic!("it has a name"),
        };
        let old = directory.path().join("old");
        fs::write(&old, "old").unwrap();
        let error = partial().rename_over(&directory, OsStr::new("old")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read(&old).unwrap(), b"old");
        let error = partial().rename_over_own(&directory, OsStr::new("new")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!directory.path().join("new").exists(), "the empty file is left");
    }

    /// Somebody puts another file in the place of a finished one before it gets its name: that file is left alone.
    #[test]
    fn a_file_that_others_have_put_in_its_place_is_not_taken_for_it() {
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
            let begun = Begun::named(&home, OsStr::new("dump")).unwrap();
            let Begun::Named(file, name) = &begun else { panic!("it has a name") };
            let (partial, new) = (name.shown(), directory.path().join("dump"));
            file.write_all_at(b"finished", 0).unwrap();
            let replace_partial = |when| {
                if replaced == when {
                    fs::write(directory.path().join("other"), "of others").unwrap();
                    fs::rename(directory.path().join("other"), &partial).unwrap();
                }
            };
            replace_partial("before");
            let mut finished = begun.finish(home, FileOptions::new().replace(replace));
            replace_partial("after");
            let named = finished.name_first([new.clone()]);
            if replaced == "after" {
                let said = named.unwrap_err().to_string();
                assert!(said.starts_with("somebody has put another file in place of "), "{said}");
                assert!(finished.keep(OsStr::new("dump")).is_err());
                assert!(!new.exists());
                assert_eq!(fs::read(partial).unwrap(), b"of others");
            } else {
                // As long as the file is open, its bytes are there.
                named.unwrap();
                assert_eq!(fs::read(new).unwrap(), b"finished");
                let theirs = (replaced == "before").then(|| b"of others".to_vec());
                assert_eq!(fs::read(partial).ok(), theirs);
            }
        }
    }

    /// What could not be copied has no name, whatever is asked of it next.
    #[test]
    fn a_file_that_is_lost_gets_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let home = Arc::new(Directory::open(directory.path()).unwrap());
        let state = State::Lost(io::ErrorKind::StorageFull.into());
        let options = FileOptions::new();
        let mut lost = Finished { state, options, home, successor: None, leftover: None };
        let names = ["a", "b"].map(|name| directory.path().join(name));
        let error = lost.name_first(names).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(lost.keep(OsStr::new("a")).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    /// A directory that was removed and made anew, in which the final name is taken: a partial one is free.
    #[test]
    fn a_file_is_kept_where_its_path_leads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        fs::create_dir(&path).unwrap();
        let home = Arc::new(Directory::open(&path).unwrap());
        let begun = Begun::new(&home, OsStr::new("dump")).unwrap();
        begun.file().write_all_at(b"finished", 0).unwrap();
        fs::remove_dir_all(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("dump"), "other").unwrap();
        let mut finished = begun.finish(home, FileOptions::new());
        let error = finished.name_first([path.join("dump")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        let kept = finished.keep(OsStr::new("dump")).unwrap();
        assert_eq!(kept.parent(), Some(&*path));
        assert_eq!(fs::read(kept).unwrap(), b"finished");
        assert_eq!(fs::read(path.join("dump")).unwrap(), b"other");
    }
}
