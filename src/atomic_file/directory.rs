//! The directory of a file, held by a descriptor, so that it stays the same directory whatever its path is by now.
//!
//! A dump may take minutes. If its directory is renamed meanwhile, as scripts do that rotate or hand over dumps, its old
//! path leads nowhere, or to a new directory of that name. Every call that names, renames or removes the file is
//! therefore relative to the descriptor. On Linux it is opened with `O_PATH`, which needs no permission to read the
//! directory ([open(2)](https://man7.org/linux/man-pages/man2/open.2.html)).

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
    /// The path that led to it when it was opened.
    path: PathBuf,
    fd: OwnedFd,
    is_append_only: bool,
}

impl Directory {
    /// Opens the directory at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = backend::ACCESS | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))?;
        Ok(Self::of(path.into(), fd))
    }

    /// Opens a directory in this one. Never follows a symbolic link.
    pub(super) fn open_child(&self, name: &OsStr) -> io::Result<Self> {
        let flags = backend::ACCESS | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
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

    /// Returns whether `path` leads elsewhere, or nowhere.
    pub(super) fn is_not_at(&self, path: &Path) -> bool {
        self.leads_here(path) == Some(false)
    }

    /// Returns whether `path` leads here; `None` if that cannot be found out, as after an I/O error.
    fn leads_here(&self, path: &Path) -> Option<bool> {
        let own = retry_on_intr(|| rustix::fs::fstat(&self.fd)).ok()?;
        match retry_on_intr(|| rustix::fs::stat(path)) {
            Ok(there) => Some(identity(&there) == identity(&own)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Some(false),
            Err(_) => None,
        }
    }

    /// Opens the directory to which the path leads by now, if that is another one.
    pub(super) fn successor(&self) -> Option<Self> {
        if self.is_not_at(&self.path) { Self::open(&self.path).ok() } else { None }
    }

    /// Returns whether it was removed: nothing can be named in it any more.
    pub(super) fn is_removed(&self) -> bool {
        // Some file systems count no links, so an empty count alone is no proof.
        let has_no_link = rustix::fs::fstat(&self.fd).is_ok_and(|stat| stat.st_nlink == 0);
        has_no_link && self.is_not_at(&self.path)
    }

    /// Returns a path that leads to it now, or else by which the caller knows it.
    pub(super) fn shown(&self) -> PathBuf {
        if self.is_not_at(&self.path) {
            self.place().unwrap_or_else(|| self.path.clone())
        } else {
            self.path.clone()
        }
    }

    /// Returns a path that leads to it, if there is one: none does to a directory of a file system that was detached.
    pub(super) fn place(&self) -> Option<PathBuf> {
        let link = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        std::fs::read_link(link).ok().filter(|path| self.is_at(path))
    }

    /// Returns the path by which the caller knows it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it for reading, as `fsync` needs it.
    fn open_to_read(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(retry_on_intr(|| rustix::fs::openat(&self.fd, ".", flags, Mode::empty()))?.into())
    }

    /// Makes a file without a name. It can be read, so that it can be copied if it can't be linked.
    pub(super) fn create_unnamed(&self) -> Option<File> {
        backend::create_unnamed(self.fd.as_fd())
    }

    /// Makes a new file of this name, which can be read too. Never opens one that exists, nor follows a symbolic link.
    pub(super) fn create(&self, name: &OsStr) -> io::Result<File> {
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR);
        Ok(retry_on_intr(open)?.into())
    }

    /// Makes a new directory of this name. Does not retry after `EINTR`: the directory may exist already.
    pub(super) fn create_child(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.fd, name, Mode::RWXU)?)
    }

    /// Changes the mode of the file of this name.
    pub(super) fn change_mode(&self, name: &OsStr, mode: Mode) -> Result<(), Errno> {
        retry_on_intr(|| rustix::fs::chmodat(&self.fd, name, mode, AtFlags::empty()))
    }

    /// Links an unnamed file by the name under which /proc shows it, or else by its descriptor.
    pub(super) fn link(&self, file: &File, name: &OsStr) -> io::Result<()> {
        let shown = format!("/proc/self/fd/{}", file.as_raw_fd());
        let by_proc = || rustix::fs::linkat(CWD, &shown, &self.fd, name, AtFlags::SYMLINK_FOLLOW);
        let errno = match retry_on_intr(by_proc) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => return Err(Errno::EXIST.into()),
            Err(errno) => errno,
        };
        match backend::link_by_descriptor(file.as_fd(), self.fd.as_fd(), name) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => return Err(Errno::EXIST.into()),
            // The first error says more: this way may not even be there.
            Err(_) => {}
        }
        Err(errno.into())
    }

    /// Gives the file `name` of this directory a second name.
    pub(super) fn link_to(&self, name: &OsStr, to: &Self, new: &OsStr) -> io::Result<()> {
        let link = || rustix::fs::linkat(&self.fd, name, &to.fd, new, AtFlags::empty());
        Ok(retry_on_intr(link)?)
    }

    /// Renames the file `name` of this directory, over a file that has the new name.
    pub(super) fn rename_to(&self, name: &OsStr, to: &Self, new: &OsStr) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::renameat(&self.fd, name, &to.fd, new))?)
    }

    /// Renames the file `name` of this directory, unless something has the new name.
    pub(super) fn rename_to_new(&self, name: &OsStr, to: &Self, new: &OsStr) -> Result<(), Errno> {
        backend::rename_to_new(self.fd.as_fd(), name, to.fd.as_fd(), new)
    }

    /// Returns whether a rename of the file with this inode number that failed was carried out all the same, because only
    /// its reply was lost, as may happen on network file systems. The new name may have been another file's before, and
    /// the old one may have been removed by others, so the number decides.
    pub(super) fn was_renamed(&self, name: &OsStr, to: &Self, new: &OsStr, inode: u64) -> bool {
        self.listed(name) == Some(None) && to.listed(new) == Some(Some(inode))
    }

    /// Returns the inode number of the file of this name, if there is one, as its file system lists it, and `None` where
    /// it can't be listed. After an operation that failed, the kernel may still remember the names of before.
    pub(super) fn listed(&self, name: &OsStr) -> Option<Option<u64>> {
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

    /// Returns a handle of the file of this name by which nothing can be read or written: its inode number is not used for
    /// another file while the handle is there, and systems that lock open files do not count it as open.
    pub(super) fn hold(&self, name: &OsStr) -> Option<OwnedFd> {
        backend::hold(self.fd.as_fd(), name)
    }

    /// Returns what the file system says of the file of this name.
    pub(super) fn stat(&self, name: &OsStr) -> Result<rustix::fs::Stat, Errno> {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Returns what identifies the file of this name: its device and inode number.
    pub(super) fn identity(&self, name: &OsStr) -> Result<(u64, u64), Errno> {
        self.stat(name).map(|stat| identity(&stat))
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns what identifies a file: its device and inode number.
#[allow(clippy::useless_conversion, reason = "their types differ between systems")]
pub(super) fn identity(stat: &rustix::fs::Stat) -> (u64, u64) {
    (stat.st_dev.into(), stat.st_ino.into())
}

/// What brings the names in a directory to disk.
#[derive(Debug)]
pub(super) enum Syncer {
    Directory(File),
    /// The directory may not be read: a file of its file system.
    FileSystem(File),
}

impl Syncer {
    /// Prepares for a sync of `directory`, in whose file system `file` is.
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

/// Syncs the names of a directory for which no [`Syncer`] was prepared.
pub(super) fn sync(directory: &Directory) -> io::Result<()> {
    sync_directory(&directory.open_to_read()?)
}

fn sync_directory(directory: &File) -> io::Result<()> {
    match directory.sync_all() {
        // Some file systems know of no such thing.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}
