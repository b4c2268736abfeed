//! Leases: whether a file is open for writing, by one that is held for a moment, and files on which others hold one.
//!
//! A read lease can be had only while nobody has the file open for writing, a writable shared mapping
//! included, which keeps its file open after `close`. So asking for one answers the question, and
//! nothing else does: `/proc` shows other users' descriptors to root alone.
//!
//! Whoever opens the file for writing while somebody holds a lease waits, and the holder gets a
//! signal, by default SIGIO, which kills it. The lease is therefore released at once, and its signal is
//! SIGURG, which is ignored by default. It belongs to a file description that is opened for it: that of the
//! image may be the caller's too.
//!
//! This is not free of side effects. A running process holds the lease for a few microseconds. A process that is
//! stopped in between (SIGSTOP, a cgroup that is frozen or out of CPU time) holds it longer, and a writer's `open`
//! then waits until the process goes on or the kernel breaks the lease, after `/proc/sys/fs/lease-break-time`, 45
//! seconds by default. A writer that opens the file with `O_NONBLOCK` in that time does not wait but gets `EAGAIN`.
//!
//! The kernel does not count the descriptor that `memfd_create` returns, nor mappings made from it, as
//! writers. So this is no question to ask of memory files that have no name from the beginning: unless they are
//! sealed, they always count as open for writing.
//!
//! Source: [F_SETLEASE(2const)](https://man7.org/linux/man-pages/man2/F_SETLEASE.2const.html).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, retry_on_intr};

use super::file_system::is_on_local_file_system;
use super::reopen::reopen;
use crate::image::backend::answers::Writers;

/// The fcntl command that chooses the signal of a lease; the libc crate lacks it.
const F_SETSIG: libc::c_int = 10;

/// Asks who has `file` open for writing at this moment.
pub(in crate::image) fn writers_of(file: &File) -> Writers {
    let Ok(own) = reopen(file) else { return Writers::Unknown };
    let fd = own.as_raw_fd();
    // SAFETY: these commands take an integer and a descriptor that is open; they touch no memory
    // of this process.
    let lease = |kind: libc::c_int| unsafe { libc::fcntl(fd, libc::F_SETLEASE, kind) };
    // SAFETY: as above.
    let signal = unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) };
    if signal != 0 {
        return Writers::Unknown;
    }
    if lease(libc::F_RDLCK) != 0 {
        let error = io::Error::last_os_error().raw_os_error();
        return if error == Some(libc::EAGAIN) { Writers::Some } else { Writers::Unknown };
    }
    // Closing the descriptor would release it as well.
    lease(libc::F_UNLCK);
    if is_on_local_file_system(file) { Writers::None } else { Writers::Unknown }
}

/// Opens a regular file on which somebody holds a lease, once the lease is given up.
///
/// # Errors
/// Returns the errors of `open`, and [`Errno::AGAIN`] for anything that is not a regular file.
pub(in crate::image) fn open_without_lease(path: &Path) -> io::Result<File> {
    let place = File::from(open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?);
    if !place.metadata()?.is_file() {
        return Err(Errno::AGAIN.into());
    }
    // By the descriptor: the path may lead to a FIFO by now, which would be waited for without end.
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(retry_on_intr(|| open(&path, flags, Mode::empty()))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of this process, its handle for writing closed.
    fn file() -> (tempfile::TempPath, File) {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        std::fs::write(&path, [1; 8192]).unwrap();
        let file = File::open(&path).unwrap();
        (path, file)
    }

    #[test]
    fn finds_descriptors_and_mappings() {
        let (path, file) = file();
        if writers_of(&file) == Writers::Unknown {
            // This file system does not tell.
            return;
        }
        assert_eq!(writers_of(&file), Writers::None);
        let writer = File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(writers_of(&file), Writers::Some);
        let map = memmap2::MmapRaw::map_raw(&writer).unwrap();
        drop(writer);
        assert_eq!(writers_of(&file), Writers::Some);
        drop(map);
        assert_eq!(writers_of(&file), Writers::None);
    }

    #[test]
    fn a_handle_for_writing_is_a_writer_itself() {
        let file = tempfile::tempfile().unwrap();
        assert_ne!(writers_of(&file), Writers::None);
    }
}
