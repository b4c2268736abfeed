//! The partial name of a file or a directory before it gets its final one: `.NAME.PID-N.partial`.
//!
//! A [`PartialName`] owns its file or directory: dropping it removes that. Another process may remove or replace it at
//! any moment, so [`PartialName::check`] compares device and inode number before a rename. A replacement remains
//! possible between the check and the rename, because no system call renames a descriptor.
//!
//! Network file systems add two difficulties. The reply to a rename may be lost, so after an error the directory is
//! listed to see which name the file has. And a client may give a file a new inode number, so files of the same size
//! and modification time count as the same.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use super::directory::{Directory, identity};

/// The maximum number of partial names to try.
const MAX_ATTEMPTS: u32 = 1000;

/// The base of partial names while the final name is not known.
pub(super) const DEFAULT_BASE: &str = "corestream";

/// The end of every partial name.
const SUFFIX: &str = ".partial";

/// The kind of thing that has the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryKind {
    File,
    /// A directory, which must be empty to be removed.
    Directory,
}

/// The partial name of a file or directory, which is removed when this is dropped.
#[derive(Debug)]
pub(super) struct PartialName {
    kind: EntryKind,
    directory: Arc<Directory>,
    /// The name; `None` once the file no longer has it, or is to keep it.
    name: Option<OsString>,
    /// Whether names can be removed from the directory, as far as known.
    is_removable: bool,
    /// The device and inode number of the file.
    identity: Option<(u64, u64)>,
    /// Prevents the reuse of the inode number after the file is closed and another process has removed it.
    held: Option<OwnedFd>,
}

impl PartialName {
    /// Returns the name of `file` in `directory`.
    pub(super) fn new(directory: &Arc<Directory>, name: OsString, file: &File) -> Self {
        Self::of(EntryKind::File, directory, name, file)
    }

    /// Returns the name of `child` in `directory`.
    pub(super) fn of_directory(
        directory: &Arc<Directory>,
        name: OsString,
        child: &Directory,
    ) -> Self {
        Self::of(EntryKind::Directory, directory, name, child)
    }

    fn of(kind: EntryKind, directory: &Arc<Directory>, name: OsString, file: impl AsFd) -> Self {
        let identity = rustix::fs::fstat(file).map(|stat| identity(&stat)).ok();
        let directory = Arc::clone(directory);
        Self { kind, directory, name: Some(name), is_removable: true, identity, held: None }
    }

    /// Keeps a handle of the file, which is about to be closed. Returns whether the name still refers to the file, as
    /// far as can be determined.
    pub(super) fn hold(&mut self, file: &File) -> bool {
        let Some(name) = &self.name else { return false };
        let expected = rustix::fs::fstat(file);
        self.held = self.directory.hold(name);
        let there = match &self.held {
            Some(held) => rustix::fs::fstat(held),
            None => self.directory.stat(name),
        };
        match (expected, there) {
            (Ok(expected), Ok(there)) => is_same(&expected, &there),
            (_, Err(errno)) => errno != Errno::NOENT,
            (Err(_), Ok(_)) => true,
        }
    }

    fn name(&self) -> io::Result<&OsStr> {
        self.name.as_deref().ok_or_else(|| Errno::NOENT.into())
    }

    /// Returns whether another process has removed the name.
    fn is_gone(&self) -> bool {
        let identity = |name: &OsString| self.directory.identity(name);
        self.name.as_ref().is_some_and(|name| identity(name) == Err(Errno::NOENT))
    }

    /// Returns whether no file has the name, even if the kernel's cache still has one.
    pub(super) fn is_lost(&self) -> bool {
        self.name
            .as_ref()
            .is_some_and(|name| self.is_gone() || self.directory.listed_inode(name) == Some(None))
    }

    /// Returns the path to report.
    pub(super) fn display_path(&self) -> PathBuf {
        self.directory.display_path().join(self.name.as_deref().unwrap_or_default())
    }

    /// Gives up the name: the file keeps it.
    pub(super) fn forget(&mut self) {
        self.name = None;
    }

    /// Returns whether the name was given up, so that dropping this removes nothing.
    pub(super) fn is_forgotten(&self) -> bool {
        self.name.is_none()
    }

    /// Removes the file or directory.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        let Some(name) = &self.name else { return Ok(()) };
        let removed = match self.kind {
            EntryKind::File => self.directory.remove(name),
            EntryKind::Directory => self.directory.remove_directory(name),
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

    /// Renames it to its final name, and replaces a file or an empty directory of that name.
    pub(super) fn rename_over(&self, to: &Directory, new: &OsStr) -> io::Result<()> {
        let name = self.name()?;
        match self.directory.rename_to(name, to, new) {
            Err(_) if self.was_renamed(name, to, new) => Ok(()),
            result => result,
        }
    }

    /// Checks that the name still refers to the file.
    ///
    /// Another process can still replace the file before the rename. Checking after the rename would prove nothing,
    /// because others may replace that file at once.
    ///
    /// # Errors
    /// Returns an error if the name refers to another file.
    pub(super) fn check(&self) -> io::Result<()> {
        let name = self.name()?;
        let is_ours = match &self.held {
            Some(held) => match (rustix::fs::fstat(held), self.directory.stat(name)) {
                (Ok(expected), Ok(there)) => is_same(&expected, &there),
                // Unknown. The rename fails if the file is gone.
                _ => true,
            },
            None => {
                self.directory.identity(name).map(Some).is_ok_and(|there| there == self.identity)
            }
        };
        if is_ours || self.is_gone() {
            return Ok(());
        }
        let message = format!("another process has replaced {}", self.display_path().display());
        Err(io::Error::other(message))
    }

    /// Returns whether the name no longer refers to `child`, because another process has removed the directory or
    /// replaced it.
    ///
    /// A directory without links was removed, even if its name leads to one of the same size and time.
    pub(super) fn is_taken_from(&self, child: &Directory) -> bool {
        let Ok(name) = self.name() else { return true };
        match (self.directory.stat(name), rustix::fs::fstat(child)) {
            (Ok(there), Ok(expected)) => {
                let is_removed = expected.st_nlink == 0 && identity(&expected) != identity(&there);
                is_removed || !is_same(&expected, &there)
            }
            (Err(errno), _) => errno == Errno::NOENT,
            // Unknown. The rename fails if the file is gone.
            (Ok(_), Err(_)) => false,
        }
    }

    /// Returns whether a rename took place although it returned an error.
    fn was_renamed(&self, name: &OsStr, to: &Directory, new: &OsStr) -> bool {
        self.identity.is_some_and(|(_, inode)| self.directory.was_renamed(name, to, new, inode))
    }

    /// Renames a closed file unless the new name exists. Returns false if the file keeps the old name too.
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
        self.rename_over_reserved(to, new).map(|()| true)
    }

    /// Reserves the new name with an empty file, which the rename then replaces.
    ///
    /// So the rename cannot overwrite another file, unless that takes the place of the empty one between the last check
    /// and the rename.
    pub(super) fn rename_over_reserved(&self, to: &Directory, new: &OsStr) -> io::Result<()> {
        let stat = rustix::fs::fstat(to.create(new)?);
        let reserved = identity(&stat.inspect_err(|_| drop(to.remove(new)))?);
        let is_ours = || to.identity(new) == Ok(reserved);
        let renamed = match is_ours() {
            true => self.rename_over(to, new),
            false => Err(Errno::EXIST.into()),
        };
        let Err(error) = renamed else { return Ok(()) };
        if !is_ours() {
            return Err(error);
        }
        // Removes only the empty file. If the rename took place despite its error, the name refers to the finished file
        // by now, whatever the kernel's cache says.
        let name = self.name()?;
        let stays = match to.listed_inode(new) {
            Some(inode) => inode == Some(reserved.1),
            // A directory that cannot be listed: the kernel's cache must do.
            None => self.directory.identity(name).is_ok_and(|file| self.identity == Some(file)),
        };
        if stays {
            // The error above is the one to report.
            let _ = to.remove(new);
        }
        match error.kind() {
            // No other process took the name: the file system cannot replace files, and another name would fail too.
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
        // There is no one to report an error to, and nothing else to do.
        let _ = self.remove();
    }
}

/// Returns whether two files are the same file. A network client may give a file a new inode number, so files of the
/// same size and modification time count as the same.
fn is_same(one: &rustix::fs::Stat, other: &rustix::fs::Stat) -> bool {
    let content = |stat: &rustix::fs::Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    identity(one) == identity(other) || content(one) == content(other)
}

/// Calls `create` with partial names made of `base` until one is free.
///
/// # Errors
/// Returns the error of `create`, or an error if all names are taken.
pub(super) fn create_first_free<T>(
    base: &OsStr,
    create: impl Fn(&OsStr) -> io::Result<T>,
) -> io::Result<(T, OsString)> {
    for i in 0..MAX_ATTEMPTS {
        let mut name = OsString::from(".");
        name.push(base);
        name.push(format!(".{}-{i}{SUFFIX}", std::process::id()));
        // A name of nearly 255 bytes leaves no room for the rest.
        if name.len() > 255 {
            name = format!(".{DEFAULT_BASE}.{}-{i}{SUFFIX}", std::process::id()).into();
        }
        match create(&name) {
            Ok(created) => return Ok((created, name)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!(
        "all {MAX_ATTEMPTS} partial names are taken: remove the `.partial` files of earlier processes"
    )))
}

/// Returns whether this is a partial name of a file whose final name is not known.
pub(super) fn is_default_name(name: &OsStr) -> bool {
    let Some(middle) = name
        .as_bytes()
        .strip_prefix(b".")
        .and_then(|name| name.strip_prefix(DEFAULT_BASE.as_bytes()))
        .and_then(|name| name.strip_prefix(b"."))
        .and_then(|name| name.strip_suffix(SUFFIX.as_bytes()))
    else {
        return false;
    };
    // The process id and a number.
    let parts: Vec<_> = middle.split(|byte| *byte == b'-').collect();
    let is_number = |part: &&[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    parts.len() == 2 && parts.iter().all(is_number)
}
