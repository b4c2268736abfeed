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
//! # The cost
//! Four system calls more for an unnamed file. SIGKILL between two of them leaves an empty file under a partial
//! name; on the last way it leaves one under the final name. To look for the name and then to rename without a
//! reservation would leave nothing, but could overwrite a file that appears in between, which is worse.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::{FileOptions, folder};
use crate::close::check_close;
use crate::held_signal::without_sigxfsz;

/// Tries for a name that nobody has.
const TRIES: u32 = 1000;

/// Bytes that are copied at once.
const COPY_BYTES: usize = 1 << 20;

/// A file that is being written.
#[derive(Debug)]
pub(super) enum Begun {
    Unnamed(File),
    Named(File, PartialName),
}

impl Begun {
    /// Makes an empty file in the folder of `path`.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        match Self::unnamed(folder(path)) {
            Some(begun) => Ok(begun),
            None => Self::named(path),
        }
    }

    /// Makes a file with a partial name.
    pub(super) fn named(path: &Path) -> io::Result<Self> {
        let (file, name) = first_free(path, named)?;
        Ok(Self::Named(file, PartialName(Some(name))))
    }

    /// Makes a file that can be linked later, if the file system has such.
    fn unnamed(folder: &Path) -> Option<Self> {
        let file = open_unnamed(folder)?;
        let trial = open_unnamed(folder)?;
        let ((), name) = first_free(&folder.join("corestream"), |name| link(&trial, name)).ok()?;
        Some(match retry(|| fs::remove_file(&name)) {
            Ok(()) => Self::Unnamed(file),
            // As in a folder that may only be added to: the file with a name is there, so it is used.
            Err(_) => Self::Named(trial, PartialName(Some(name))),
        })
    }

    pub(super) fn file(&self) -> &File {
        match self {
            Self::Unnamed(file) | Self::Named(file, _) => file,
        }
    }

    /// All is written.
    pub(super) fn finish(self, options: FileOptions) -> Finished {
        let state = match self {
            Self::Unnamed(file) => State::Unnamed(file),
            // Closed: some file systems rename no open file.
            Self::Named(_, name) => State::Named(name),
        };
        Finished { state, options }
    }
}

/// A file that is whole and has no name yet, or a partial one.
#[derive(Debug)]
pub(super) struct Finished {
    state: State,
    options: FileOptions,
}

#[derive(Debug)]
enum State {
    Unnamed(File),
    Named(PartialName),
    /// It could not be linked, and not be copied either, for this reason.
    Lost(io::Error),
}

impl Finished {
    /// Gives the file the first of `names` that nobody has, which must be in the folder of `path`.
    pub(super) fn name_first(
        &mut self,
        path: &Path,
        names: impl IntoIterator<Item = PathBuf>,
    ) -> io::Result<PathBuf> {
        let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let mut result = invalid("no name was given");
        for name in names {
            if !is_same_folder(folder(&name), folder(path)) {
                return invalid("it is in another folder");
            }
            match self.give(&name) {
                Ok(()) => return Ok(name),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => result = Err(error),
                Err(error) => return Err(error),
            }
        }
        result
    }

    fn give(&mut self, path: &Path) -> io::Result<()> {
        let replace = self.options.replace;
        if let State::Unnamed(file) = &self.state
            && !replace
        {
            match link(file, path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {}
                result => return result,
            }
        }
        self.give_partial_name(path)?;
        let State::Named(name) = &mut self.state else { return Ok(()) };
        let Some(partial) = name.path() else { return Ok(()) };
        if replace {
            retry(|| fs::rename(partial, path))?;
        } else if !rename_to_new(partial, path)? {
            // It has both names.
            name.remove();
        }
        name.0 = None;
        Ok(())
    }

    /// Gives the file a partial name if it has none.
    fn give_partial_name(&mut self, path: &Path) -> io::Result<()> {
        let State::Unnamed(file) = &self.state else { return Ok(()) };
        let (state, result) = match first_free(path, |name| link(file, name)) {
            Ok(((), name)) => (State::Named(PartialName(Some(name))), Ok(())),
            Err(refused) => match copy(file, path, self.options) {
                Ok(name) => (State::Named(name), Ok(())),
                Err(error) => (State::Lost(error), Err(refused)),
            },
        };
        self.state = state;
        result
    }

    /// Leaves the file under a partial name, which it gives.
    pub(super) fn keep(mut self, path: &Path) -> io::Result<PathBuf> {
        self.give_partial_name(path)?;
        match self.state {
            State::Named(mut name) => name.0.take().ok_or_else(|| Errno::NOENT.into()),
            State::Lost(error) => Err(error),
            State::Unnamed(_) => Err(Errno::NOENT.into()),
        }
    }
}

/// The name of a file until it has its final one. Dropped, the file is removed.
#[derive(Debug)]
pub(super) struct PartialName(Option<PathBuf>);

impl PartialName {
    fn path(&self) -> Option<&Path> {
        self.0.as_deref()
    }

    fn remove(&mut self) {
        if let Some(path) = self.0.take() {
            // There is nobody to tell, and nothing else to do.
            let _ = retry(|| fs::remove_file(&path));
        }
    }
}

impl Drop for PartialName {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Renames a file, closed by now, unless something has the new name. `false` if it keeps the old name too.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<bool> {
    match rename_noreplace(from, to) {
        Ok(()) => return Ok(true),
        Err(Errno::EXIST) => return Err(Errno::EXIST.into()),
        Err(_) => {}
    }
    match fs::hard_link(from, to) {
        Ok(()) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        Err(_) => {}
    }
    rename_over_own(from, to).map(|()| true)
}

fn rename_noreplace(from: &Path, to: &Path) -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    return rustix::io::retry_on_intr(|| {
        rustix::fs::renameat_with(CWD, from, CWD, to, rustix::fs::RenameFlags::NOREPLACE)
    });
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (from, to);
        Err(Errno::NOSYS)
    }
}

/// Reserves the new name by an empty file, which the rename then replaces: that can't be another's, unless it is put
/// in the place of the empty one between the last look and the rename.
fn rename_over_own(from: &Path, to: &Path) -> io::Result<()> {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let reserved = named(to)?.metadata().inspect_err(|_| drop(fs::remove_file(to)));
    let own = identity(reserved?);
    let is_own = || to.symlink_metadata().is_ok_and(|metadata| identity(metadata) == own);
    let renamed = match is_own() {
        true => retry(|| fs::rename(from, to)),
        false => Err(Errno::EXIST.into()),
    };
    if renamed.is_err() && is_own() {
        // The error above is the one to tell.
        let _ = fs::remove_file(to);
    }
    renamed
}

/// Copies a file that can't be linked to one with a partial name.
///
/// It does not ask where the holes are, because some file systems answer wrongly, but skips parts that are all zero.
fn copy(from: &File, path: &Path, options: FileOptions) -> io::Result<PartialName> {
    let len = from.metadata()?.len();
    let (to, name) = first_free(path, named)?;
    let name = PartialName(Some(name));
    super::make_private(&to)?;
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(COPY_BYTES).map_err(|_| io::ErrorKind::OutOfMemory)?;
    buffer.resize(COPY_BYTES, 0);
    without_sigxfsz(|| {
        to.set_len(len)?;
        let mut at = 0;
        while at < len {
            let left = usize::try_from(len.saturating_sub(at)).unwrap_or(COPY_BYTES);
            let (part, _) = buffer.split_at_mut(left.min(COPY_BYTES));
            from.read_exact_at(part, at)?;
            if part.iter().any(|byte| *byte != 0) {
                to.write_all_at(part, at)?;
            }
            at = at.saturating_add(part.len() as u64);
        }
        Ok::<(), io::Error>(())
    })?;
    check_close(&to)?;
    if options.is_synced() {
        to.sync_all()?;
    }
    Ok(name)
}

/// Whether two paths lead to one folder.
fn is_same_folder(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| path.metadata().map(|m| (m.dev(), m.ino())).ok();
    a == b || place(a).is_some_and(|a| Some(a) == place(b))
}

/// A file without a name. It can be read, so that it can be copied if it can't be linked.
#[cfg(target_os = "linux")]
fn open_unnamed(folder: &Path) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Some(rustix::fs::openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR).ok()?.into())
}

#[cfg(not(target_os = "linux"))]
fn open_unnamed(_: &Path) -> Option<File> {
    None
}

/// Links an unnamed file by the name under which /proc shows it, or else by its descriptor.
fn link(file: &File, name: &Path) -> io::Result<()> {
    let shown = format!("/proc/self/fd/{}", file.as_raw_fd());
    let by_proc = || rustix::fs::linkat(CWD, &shown, CWD, name, AtFlags::SYMLINK_FOLLOW);
    let errno = match rustix::io::retry_on_intr(by_proc) {
        Ok(()) => return Ok(()),
        Err(Errno::EXIST) => return Err(Errno::EXIST.into()),
        Err(errno) => errno,
    };
    #[cfg(target_os = "linux")]
    {
        let by_descriptor = || rustix::fs::linkat(file, "", CWD, name, AtFlags::EMPTY_PATH);
        match rustix::io::retry_on_intr(by_descriptor) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => return Err(Errno::EXIST.into()),
            // The first error says more: this way may not even be there.
            Err(_) => {}
        }
    }
    Err(errno.into())
}

/// A new file of this name; never one that is there, nor through a symbolic link.
fn named(name: &Path) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(CWD, name, flags, Mode::RUSR | Mode::WUSR);
    Ok(rustix::io::retry_on_intr(open)?.into())
}

/// Repeats a call that a signal interrupts, which network file systems let happen.
fn retry(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
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
