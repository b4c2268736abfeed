//! The name that a file or a directory has until it gets its final one: `.NAME.PID-N.partial`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use super::directory::{Directory, identity};

/// Tries for a name that nobody has.
const TRIES: u32 = 1000;

/// The name on which partial names are based where no other is known.
pub(super) const BASE: &str = "corestream";

/// Ends every partial name.
const END: &str = ".partial";

/// What has the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    /// Must be empty to be removed.
    Directory,
}

/// The name of a file or directory until it has its final one. Dropped, the file is removed.
#[derive(Debug)]
pub(super) struct PartialName {
    kind: Kind,
    directory: Arc<Directory>,
    /// `None` once the file has lost it, or is to keep it.
    name: Option<OsString>,
    /// Whether names can be removed from the directory, as far as is known.
    is_removable: bool,
    /// Device and inode number of the file.
    identity: Option<(u64, u64)>,
    /// Keeps that number from being used for another file when this one is closed and others have removed it.
    held: Option<OwnedFd>,
}

impl PartialName {
    /// The name of `file` in `directory`.
    pub(super) fn new(directory: &Arc<Directory>, name: OsString, file: &File) -> Self {
        Self::of(Kind::File, directory, name, file)
    }

    /// The name of `child` in `directory`.
    pub(super) fn of_directory(
        directory: &Arc<Directory>,
        name: OsString,
        child: &Directory,
    ) -> Self {
        Self::of(Kind::Directory, directory, name, child)
    }

    fn of(kind: Kind, directory: &Arc<Directory>, name: OsString, own: impl AsFd) -> Self {
        let identity = rustix::fs::fstat(own).map(|own| identity(&own)).ok();
        let directory = Arc::clone(directory);
        Self { kind, directory, name: Some(name), is_removable: true, identity, held: None }
    }

    /// Holds on to the file, which is about to be closed. Returns whether the name is still that of the file, as far as
    /// can be told.
    pub(super) fn hold(&mut self, file: &File) -> bool {
        let Some(name) = &self.name else { return false };
        let own = rustix::fs::fstat(file);
        self.held = self.directory.hold(name);
        let there = match &self.held {
            Some(held) => rustix::fs::fstat(held),
            None => self.directory.stat(name),
        };
        match (own, there) {
            (Ok(own), Ok(there)) => is_same(&own, &there),
            (_, Err(errno)) => errno != Errno::NOENT,
            (Err(_), Ok(_)) => true,
        }
    }

    fn name(&self) -> io::Result<&OsStr> {
        self.name.as_deref().ok_or_else(|| Errno::NOENT.into())
    }

    /// Whether somebody has removed it.
    fn is_gone(&self) -> bool {
        let identity = |name: &OsString| self.directory.identity(name);
        self.name.as_ref().is_some_and(|name| identity(name) == Err(Errno::NOENT))
    }

    /// Whether no file has it, also if the kernel remembers one.
    pub(super) fn is_lost(&self) -> bool {
        self.name
            .as_ref()
            .is_some_and(|name| self.is_gone() || self.directory.listed(name) == Some(None))
    }

    pub(super) fn shown(&self) -> PathBuf {
        self.directory.shown().join(self.name.as_deref().unwrap_or_default())
    }

    /// Lets the file keep the name.
    pub(super) fn forget(&mut self) {
        self.name = None;
    }

    /// Returns whether the name was given up: then `Drop` removes nothing.
    pub(super) fn is_forgotten(&self) -> bool {
        self.name.is_none()
    }

    pub(super) fn remove(&mut self) -> io::Result<()> {
        let Some(name) = &self.name else { return Ok(()) };
        let removed = match self.kind {
            Kind::File => self.directory.remove(name),
            Kind::Directory => self.directory.remove_directory(name),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.is_removable = false;
                Err(error)
            }
            _ => {
                self.name = None;
                Ok(())
            }
        }
    }

    /// Gives it a final name, over a file or an empty directory that has that name.
    pub(super) fn rename_over(&self, to: &Directory, new: &OsStr) -> io::Result<()> {
        let name = self.name()?;
        match self.directory.rename_to(name, to, new) {
            Err(_) if self.was_renamed(name, to, new) => Ok(()),
            result => result,
        }
    }

    /// Checks that what has the name is the file, and not another that somebody has put in its place. That can still
    /// happen until the rename; what has the new name after it tells nothing, since others may replace that at once.
    pub(super) fn check(&self) -> io::Result<()> {
        let name = self.name()?;
        let is_own = match &self.held {
            Some(held) => match (rustix::fs::fstat(held), self.directory.stat(name)) {
                (Ok(own), Ok(there)) => is_same(&own, &there),
                // Unknown: the rename decides.
                _ => true,
            },
            None => {
                self.directory.identity(name).map(Some).is_ok_and(|there| there == self.identity)
            }
        };
        if is_own || self.is_gone() {
            return Ok(());
        }
        let what = format!("somebody has put another file in place of {}", self.shown().display());
        Err(io::Error::other(what))
    }

    /// Returns whether this is no longer the name of `child`: somebody has removed the directory, or has put another in
    /// its place. One that has no links is removed, also where its name leads to one with the same size and time.
    pub(super) fn is_taken_from(&self, child: &Directory) -> bool {
        let Ok(name) = self.name() else { return true };
        match (self.directory.stat(name), rustix::fs::fstat(child)) {
            (Ok(there), Ok(own)) => {
                let is_removed = own.st_nlink == 0 && identity(&own) != identity(&there);
                is_removed || !is_same(&own, &there)
            }
            (Err(errno), _) => errno == Errno::NOENT,
            // Unknown: the rename decides.
            (Ok(_), Err(_)) => false,
        }
    }

    /// Whether a rename that failed was carried out all the same.
    fn was_renamed(&self, name: &OsStr, to: &Directory, new: &OsStr) -> bool {
        self.identity.is_some_and(|(_, inode)| self.directory.was_renamed(name, to, new, inode))
    }

    /// Renames a file, closed by now, unless something has the new name. `false` if it keeps the old name too.
    pub(super) fn rename_to_new(&self, to: &Directory, new: &OsStr) -> io::Result<bool> {
        let error = match self.try_rename_to_new(to, new) {
            Err(error) => error,
            result => return result,
        };
        match self.was_renamed(self.name()?, to, new) {
            true => Ok(true),
            false => Err(error),
        }
    }

    fn try_rename_to_new(&self, to: &Directory, new: &OsStr) -> io::Result<bool> {
        let name = self.name()?;
        match self.directory.rename_to_new(name, to, new) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) => return Err(Errno::EXIST.into()),
            Err(errno) if !self.is_removable => return Err(errno.into()),
            Err(_) => {}
        }
        match self.directory.link_to(name, to, new) {
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) => {}
        }
        self.rename_over_own(to, new).map(|()| true)
    }

    /// Reserves the new name by an empty file, which the rename then replaces: that can't be another's, unless it is
    /// put in the place of the empty one between the last look and the rename.
    pub(super) fn rename_over_own(&self, to: &Directory, new: &OsStr) -> io::Result<()> {
        let reserved = rustix::fs::fstat(to.create(new)?);
        let own = identity(&reserved.inspect_err(|_| drop(to.remove(new)))?);
        let is_own = || to.identity(new) == Ok(own);
        let renamed = match is_own() {
            true => self.rename_over(to, new),
            false => Err(Errno::EXIST.into()),
        };
        let Err(error) = renamed else { return Ok(()) };
        if !is_own() {
            return Err(error);
        }
        // Only what is known to be the empty file: if the rename was carried out in spite of its error, the name is that
        // of the file by now, whatever the kernel remembers.
        let name = self.name()?;
        let stays = match to.listed(new) {
            Some(inode) => inode == Some(own.1),
            // What the kernel remembers of a directory that can't be listed has to do.
            None => self.directory.identity(name).is_ok_and(|file| self.identity == Some(file)),
        };
        if stays {
            // The error above is the one to tell.
            let _ = to.remove(new);
        }
        match error.kind() {
            // The name was not taken by others: the file system replaces no file, and another name is of no use.
            io::ErrorKind::AlreadyExists => {
                let message =
                    "its file system has neither hard links nor a rename that replaces a file";
                Err(io::Error::new(io::ErrorKind::Unsupported, message))
            }
            _ => Err(error),
        }
    }
}

impl Drop for PartialName {
    fn drop(&mut self) {
        // There is nobody to tell, and nothing else to do.
        let _ = self.remove();
    }
}

/// Returns whether two files are the same file. A network client may give a file a new inode number, so the same size and
/// modification time count as the same file too.
fn is_same(one: &rustix::fs::Stat, other: &rustix::fs::Stat) -> bool {
    let content = |stat: &rustix::fs::Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    identity(one) == identity(other) || content(one) == content(other)
}

/// Calls `make` with partial names made of `base` until one is free.
pub(super) fn first_free<T>(
    base: &OsStr,
    make: impl Fn(&OsStr) -> io::Result<T>,
) -> io::Result<(T, OsString)> {
    for i in 0..TRIES {
        let mut name = OsString::from(".");
        name.push(base);
        name.push(format!(".{}-{i}{END}", std::process::id()));
        // A name of nearly 255 bytes has no room for more.
        if name.len() > 255 {
            name = format!(".{BASE}.{}-{i}{END}", std::process::id()).into();
        }
        match make(&name) {
            Ok(made) => return Ok((made, name)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!(
        "all {TRIES} partial names are taken, remove what an earlier process has left"
    )))
}

/// Returns whether a file whose final name is not known yet may have this name.
pub(super) fn is_without_base(name: &OsStr) -> bool {
    let Some(middle) = name
        .as_bytes()
        .strip_prefix(b".")
        .and_then(|name| name.strip_prefix(BASE.as_bytes()))
        .and_then(|name| name.strip_prefix(b"."))
        .and_then(|name| name.strip_suffix(END.as_bytes()))
    else {
        return false;
    };
    // The process id and a number.
    let parts: Vec<_> = middle.split(|byte| *byte == b'-').collect();
    let is_number = |part: &&[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    parts.len() == 2 && parts.iter().all(is_number)
}
