//! Holes of the files behind shared mappings: memfds, `/dev/shm`, shared anonymous memory.
//!
//! # The problem
//! Reading a page of such a mapping allocates it, also where the file has a hole. The pagemap and
//! `mincore` do not tell holes from pages that another process has touched or that were swapped out. The
//! file itself knows, by `SEEK_DATA`, but a process need not have it open any more.
//!
//! # The idea
//! The kernel names device and inode of the file. It is opened again by the first way that leads to a
//! regular file with these two numbers, in a tmpfs:
//! - `/proc/self/map_files`, which finds files without a name and those whose descriptors are closed,
//!   and takes `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN`;
//! - the path that the mapping has;
//! - a descriptor of this process, by `/proc/self/fd`.
//!
//! It is always opened anew, because `lseek` on a descriptor of the host would move the host's offset.
//!
//! # What is not possible
//! A file that none of these ways reaches is read through the mapping: shared anonymous memory and a memfd
//! whose descriptors are closed, without the capability. So is a private mapping of a file, whose pages
//! are partly the file's and partly the process's, and hugetlbfs, which cannot tell its holes.

use std::fs::File;
use std::ops::Range;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, open, openat, readlinkat, statat,
};
use rustix::path::Arg;

use super::file_system::is_in_tmpfs;
use super::mappings::Backing;
use crate::image::backend::seek_data as seek;

/// The file behind a mapping, open for `SEEK_DATA`.
pub(super) struct Tmpfs {
    file: File,
    backing: Backing,
}

impl Tmpfs {
    /// Opens the file behind `backing`, again or for the first time; `None` if that is not possible.
    pub(super) fn open(backing: Backing, before: Option<Self>) -> Option<Self> {
        let same = |before: &Self| {
            (before.backing.device, before.backing.inode) == (backing.device, backing.inode)
        };
        let file = match before.filter(same) {
            Some(before) => before.file,
            None => by_mapping(&backing).or_else(|| by_descriptor(&backing))?,
        };
        Some(Self { file, backing })
    }

    /// The first part of `range`, addresses of the mapping, that may hold data; `None` if there is none.
    pub(super) fn next(&self, range: Range<u64>) -> Option<Range<u64>> {
        let Backing { start, offset, .. } = self.backing;
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

/// By `/proc/self/map_files`, else by the path that is behind the link there.
fn by_mapping(backing: &Backing) -> Option<File> {
    let link = format!("/proc/self/map_files/{:x}-{:x}", backing.start, backing.end);
    open_same(CWD, &link, backing).or_else(|| {
        let path = readlinkat(CWD, &link, Vec::new()).ok()?;
        open_same(CWD, &path, backing)
    })
}

/// By a descriptor of this process.
fn by_descriptor(backing: &Backing) -> Option<File> {
    let (flags, mode) = (OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let directory = open("/proc/self/fd", flags, mode).ok()?;
    let descriptors = Dir::read_from(&directory).ok()?;
    let mut descriptors = descriptors.flatten();
    descriptors.find_map(|entry| open_same(directory.as_fd(), entry.file_name(), backing))
}

/// Opens what is at `path`, if that is the regular file behind the mapping, in a tmpfs.
fn open_same<P: Arg + Copy>(directory: BorrowedFd<'_>, path: P, backing: &Backing) -> Option<File> {
    let is_same = |stat: &rustix::fs::Stat| {
        let device = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && (device, stat.st_ino) == (backing.device, backing.inode)
    };
    // Before it is opened: opening a device or a FIFO can do something.
    if !is_same(&statat(directory, path, AtFlags::empty()).ok()?) {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(openat(directory, path, flags, Mode::empty()).ok()?);
    (is_same(&fstat(&file).ok()?) && is_in_tmpfs(&file)).then_some(file)
}
