//! Holes of the files behind shared mappings: memfds, `/dev/shm`, shared anonymous memory.
//!
//! # The problem
//! Reading a page of such a mapping allocates it, even if the file has a hole there. The pagemap and `mincore` do not
//! distinguish holes from pages that another process has touched or that were swapped out. The file itself does,
//! through `SEEK_DATA`, but a process need not have the file open any more.
//!
//! # The idea
//! The kernel reports the device and inode of the file. The file is opened again in one of these ways. The first one
//! that leads to a regular file with these two numbers, in a tmpfs, is used:
//! - `/proc/self/map_files`, which also finds files without a name and files whose descriptors are closed. It
//!   requires `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN`.
//! - The path of the mapping.
//! - A descriptor of this process, through `/proc/self/fd`.
//!
//! The file is always opened again, because `lseek` on a descriptor of the host would move the host's file position.
//!
//! # Limits
//! A file that none of these ways reaches is read through the mapping. Without the capability, these are shared
//! anonymous memory and memfds whose descriptors are closed. Private mappings of files are also read, because some of
//! their pages belong to the file and some to the process. So is hugetlbfs, which cannot report its holes.

use std::fs::File;
use std::ops::Range;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, open, openat, readlinkat, statat,
};
use rustix::path::Arg;

use super::file_system::is_in_tmpfs;
use super::mappings::BackingFile;
use crate::image::backend::seek_data as seek;

/// The file behind a mapping, open for `SEEK_DATA`.
pub(super) struct TmpfsFile {
    file: File,
    backing: BackingFile,
}

impl TmpfsFile {
    /// Opens the file behind `backing`, or reuses `previous` if it is the same file. Returns `None` if that is not
    /// possible.
    pub(super) fn open(backing: BackingFile, previous: Option<Self>) -> Option<Self> {
        let same = |previous: &Self| {
            (previous.backing.device, previous.backing.inode) == (backing.device, backing.inode)
        };
        let file = match previous.filter(same) {
            Some(previous) => previous.file,
            None => open_by_mapping(&backing).or_else(|| open_by_descriptor(&backing))?,
        };
        Some(Self { file, backing })
    }

    /// Returns the first part of `range` that may contain data, or `None` if there is none. `range` consists of
    /// addresses of the mapping.
    pub(super) fn next_data(&self, range: Range<u64>) -> Option<Range<u64>> {
        let BackingFile { start, offset, .. } = self.backing;
        let position = |at: u64| at.checked_sub(start)?.checked_add(offset);
        let (Some(from), Some(to)) = (position(range.start), position(range.end)) else {
            return Some(range);
        };
        let data = match seek::data(&self.file, from) {
            Ok(Some(data)) if data < to => data.max(from),
            Ok(_) => return None,
            Err(()) => return Some(range),
        };
        let hole = seek::hole(&self.file, data).filter(|hole| *hole > data).unwrap_or(to).min(to);
        let address = |position: u64| position.checked_sub(offset)?.checked_add(start);
        match (address(data), address(hole)) {
            (Some(data), Some(hole)) if data < hole => Some(data..hole),
            _ => Some(range),
        }
    }
}

/// Opens the file through `/proc/self/map_files`, or by the path to which the link there points.
fn open_by_mapping(backing: &BackingFile) -> Option<File> {
    let link = format!("/proc/self/map_files/{:x}-{:x}", backing.start, backing.end);
    open_if_same(CWD, &link, backing).or_else(|| {
        let path = readlinkat(CWD, &link, Vec::new()).ok()?;
        open_if_same(CWD, &path, backing)
    })
}

/// Opens the file through a descriptor of this process.
fn open_by_descriptor(backing: &BackingFile) -> Option<File> {
    let (flags, mode) = (OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let directory = open("/proc/self/fd", flags, mode).ok()?;
    let descriptors = Dir::read_from(&directory).ok()?;
    let mut descriptors = descriptors.flatten();
    descriptors.find_map(|entry| open_if_same(directory.as_fd(), entry.file_name(), backing))
}

/// Opens the file at `path` if it is the regular file behind the mapping, in a tmpfs.
fn open_if_same<P: Arg + Copy>(
    directory: BorrowedFd<'_>,
    path: P,
    backing: &BackingFile,
) -> Option<File> {
    let is_same = |stat: &rustix::fs::Stat| {
        let device = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && (device, stat.st_ino) == (backing.device, backing.inode)
    };
    // Check before opening: opening a device or a FIFO can have side effects.
    if !is_same(&statat(directory, path, AtFlags::empty()).ok()?) {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(openat(directory, path, flags, Mode::empty()).ok()?);
    (is_same(&fstat(&file).ok()?) && is_in_tmpfs(&file)).then_some(file)
}
