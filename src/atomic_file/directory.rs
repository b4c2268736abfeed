//! The directory of a file, held open, so that it stays the same directory even if its path changes.
//!
//! A dump may take minutes. Scripts that rotate or hand over dumps may rename its directory in the meantime. Then the
//! old path leads nowhere, or to a new directory of that name. So every call that names, renames or removes the file is
//! relative to the descriptor. On Linux it is opened with `O_PATH`, which requires no permission to read the directory
//! ([open(2)](https://man7.org/linux/man-pages/man2/open.2.html)).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::backend;

/// An open directory.
#[derive(Debug)]
pub(super) struct Directory {
    /// The path by which it was opened.
    path: PathBuf,
    fd: OwnedFd,
    is_append_only: bool,
}

impl Directory {
    /// Opens the directory at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = backend::DIRECTORY_ACCESS | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))?;
        Ok(Self::of(path.into(), fd))
    }

    /// Opens a directory in this one, without following a symbolic link.
    pub(super) fn open_child(&self, name: &OsStr) -> io::Result<Self> {
        let flags =
            backend::DIRECTORY_ACCESS | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::openat(&self.fd, name, flags, Mode::empty()))?;
        Ok(Self::of(self.path.join(name), fd))
    }

    fn of(path: PathBuf, fd: OwnedFd) -> Self {
        let is_append_only = backend::is_append_only(&fd, Path::new(""));
        Self { path, fd, is_append_only }
    }

    /// Returns whether names can be added to it, but neither removed nor changed (`chattr +a`).
    pub(super) fn is_append_only(&self) -> bool {
        self.is_append_only
    }

    /// Returns whether `path` leads to this directory.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.leads_here(path) == Some(true)
    }

    /// Returns whether `path` leads elsewhere or nowhere.
    pub(super) fn is_not_at(&self, path: &Path) -> bool {
        self.leads_here(path) == Some(false)
    }

    /// Returns whether `path` leads to this directory, or `None` if that is unknown, as after an I/O error.
    fn leads_here(&self, path: &Path) -> Option<bool> {
        let this = retry_on_intr(|| rustix::fs::fstat(&self.fd)).ok()?;
        match retry_on_intr(|| rustix::fs::stat(path)) {
            Ok(there) => Some(identity(&there) == identity(&this)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Some(false),
            Err(_) => None,
        }
    }

    /// Opens the directory to which the path leads now, if that is another one.
    pub(super) fn successor(&self) -> Option<Self> {
        if self.is_not_at(&self.path) { Self::open(&self.path).ok() } else { None }
    }

    /// Returns whether it was removed, so that nothing can be named in it.
    pub(super) fn is_removed(&self) -> bool {
        // Some file systems do not count links, so a count of zero alone proves nothing.
        let has_no_link = rustix::fs::fstat(&self.fd).is_ok_and(|stat| stat.st_nlink == 0);
        has_no_link && self.is_not_at(&self.path)
    }

    /// Returns a path that leads to it now, or else the path by which it was opened.
    pub(super) fn display_path(&self) -> PathBuf {
        if self.is_not_at(&self.path) {
            self.current_path().unwrap_or_else(|| self.path.clone())
        } else {
            self.path.clone()
        }
    }

    /// Returns a path that leads to it, if there is one. No path leads to a directory on a detached file system.
    pub(super) fn current_path(&self) -> Option<PathBuf> {
        let link = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        std::fs::read_link(link).ok().filter(|path| self.is_at(path))
    }

    /// Returns the path by which it was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it for reading, which `fsync` requires.
    fn open_to_read(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(retry_on_intr(|| rustix::fs::openat(&self.fd, ".", flags, Mode::empty()))?.into())
    }

    /// Creates a file without a name, if the file system supports it. It is readable, so that it can be copied if it
    /// cannot be linked.
    pub(super) fn create_unnamed(&self) -> Option<File> {
        backend::create_unnamed(self.fd.as_fd())
    }

    /// Creates a new file of this name, which is also readable. Never opens an existing file or follows a symbolic
    /// link.
    pub(super) fn create(&self, name: &OsStr) -> io::Result<File> {
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR);
        Ok(retry_on_intr(open)?.into())
    }

    /// Creates a new directory of this name. Does not retry after EINTR, because the directory may already exist.
    pub(super) fn create_child(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.fd, name, Mode::RWXU)?)
    }

    /// Changes the mode of the file of this name.
    pub(super) fn change_mode(&self, name: &OsStr, mode: Mode) -> Result<(), Errno> {
        retry_on_intr(|| rustix::fs::chmodat(&self.fd, name, mode, AtFlags::empty()))
    }

    /// Gives an unnamed file a name: by its path in `/proc`, or else by its descriptor.
    pub(super) fn link(&self, file: &File, name: &OsStr) -> io::Result<()> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let by_proc = || rustix::fs::linkat(CWD, &path, &self.fd, name, AtFlags::SYMLINK_FOLLOW);
        let errno = match retry_on_intr(by_proc) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => return Err(Errno::EXIST.into()),
            Err(errno) => errno,
        };
        match backend::link_by_descriptor(file.as_fd(), self.fd.as_fd(), name) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => return Err(Errno::EXIST.into()),
            // The first error is more useful: this way may not even exist.
            Err(_) => {}
        }
        Err(errno.into())
    }

    /// Gives the file `name` of this directory a second name.
    pub(super) fn link_to(&self, name: &OsStr, to: &Self, new: &OsStr) -> io::Result<()> {
        let link = || rustix::fs::linkat(&self.fd, name, &to.fd, new, AtFlags::empty());
        Ok(retry_on_intr(link)?)
    }

    /// Renames the file `name` of this directory, and replaces a file of the new name.
    pub(super) fn rename_to(&self, name: &OsStr, to: &Self, new: &OsStr) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::renameat(&self.fd, name, &to.fd, new))?)
    }

    /// Renames the file `name` of this directory unless the new name exists.
    pub(super) fn rename_to_new(&self, name: &OsStr, to: &Self, new: &OsStr) -> Result<(), Errno> {
        backend::rename_to_new(self.fd.as_fd(), name, to.fd.as_fd(), new)
    }

    /// Returns whether a rename of the file with this inode number took place although it returned an error.
    ///
    /// On network file systems, only the reply may be lost. The inode number decides, because another file may have had
    /// the new name before, and another process may have removed the old one.
    pub(super) fn was_renamed(&self, name: &OsStr, to: &Self, new: &OsStr, inode: u64) -> bool {
        self.listed_inode(name) == Some(None) && to.listed_inode(new) == Some(Some(inode))
    }

    /// Returns the inode number of the file of this name as the directory lists it, or `Some(None)` if it lists no such
    /// file. Returns `None` if the directory cannot be listed.
    ///
    /// After a failed operation, lookups may still return names from the kernel's cache. A listing does not.
    pub(super) fn listed_inode(&self, name: &OsStr) -> Option<Option<u64>> {
        let entries = rustix::fs::Dir::new(self.open_to_read().ok()?).ok()?;
        for entry in entries {
            let entry = entry.ok()?;
            if entry.file_name().to_bytes() == name.as_bytes() {
                return Some(Some(entry.ino()));
            }
        }
        Some(None)
    }

    /// Removes the file of this name.
    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()))?)
    }

    /// Removes the empty directory of this name.
    pub(super) fn remove_directory(&self, name: &OsStr) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR))?)
    }

    /// Returns a handle of the file of this name that can neither read nor write it.
    ///
    /// While the handle exists, no other file gets the inode number, and systems that lock open files do not count the
    /// file as open.
    pub(super) fn hold(&self, name: &OsStr) -> Option<OwnedFd> {
        backend::hold(self.fd.as_fd(), name)
    }

    /// Returns the metadata of the file of this name.
    pub(super) fn stat(&self, name: &OsStr) -> Result<rustix::fs::Stat, Errno> {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Returns the device and inode number of the file of this name.
    pub(super) fn identity(&self, name: &OsStr) -> Result<(u64, u64), Errno> {
        self.stat(name).map(|stat| identity(&stat))
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns the device and inode number of a file, which identify it.
#[allow(clippy::useless_conversion, reason = "their types differ between systems")]
pub(super) fn identity(stat: &rustix::fs::Stat) -> (u64, u64) {
    (stat.st_dev.into(), stat.st_ino.into())
}

/// A handle that syncs the names in a directory to disk.
#[derive(Debug)]
pub(super) enum Syncer {
    /// The directory.
    Directory(File),
    /// A file of the directory's file system, if the directory may not be read.
    FileSystem(File),
}

impl Syncer {
    /// Prepares to sync `directory`. `file` is on its file system.
    pub(super) fn new(directory: &Directory, file: &File) -> io::Result<Self> {
        match directory.open_to_read() {
            Ok(directory) => Ok(Self::Directory(directory)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Ok(Self::FileSystem(file.try_clone()?))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Self::Directory(directory) => sync_directory(directory),
            Self::FileSystem(file) => backend::sync_file_system(file),
        }
    }
}

/// Syncs the names in a directory for which no [`Syncer`] was prepared.
pub(super) fn sync(directory: &Directory) -> io::Result<()> {
    sync_directory(&directory.open_to_read()?)
}

fn sync_directory(directory: &File) -> io::Result<()> {
    match directory.sync_all() {
        // Some file systems cannot sync a directory.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_not_follow_a_link_to_a_child() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::create_dir(parent.path().join("child")).unwrap();
        std::os::unix::fs::symlink("child", parent.path().join("link")).unwrap();
        let directory = Directory::open(parent.path()).unwrap();
        assert!(directory.open_child(OsStr::new("child")).is_ok());
        assert!(directory.open_child(OsStr::new("link")).is_err());
    }
}
