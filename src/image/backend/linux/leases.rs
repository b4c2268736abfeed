//! Uses file leases to detect whether a file is open for writing, and opens files that other processes have leased.
//!
//! # The problem
//! A dump must know whether a process has its image open for writing. `/proc` cannot answer that: it shows the
//! descriptors of other users to root alone.
//!
//! # The idea
//! The kernel grants a read lease only while no process has the file open for writing. A writable shared mapping
//! counts as well, because it keeps the file open after `close`. So requesting a lease answers the question, and the
//! lease is released at once.
//!
//! # Side effects
//! If a process opens a leased file for writing, the open waits, and the holder gets a signal. By default that is
//! SIGIO, which kills the holder. So the signal is set to SIGURG, which is ignored by default. The lease belongs to
//! an open file description. The description of the image may be shared with the caller, so a new one is opened for
//! the lease.
//!
//! A running process holds the lease for a few microseconds. A process that is stopped in between (by SIGSTOP, or in
//! a cgroup that is frozen or out of CPU time) holds it longer. A writer's `open` then waits until the process
//! continues or the kernel breaks the lease, after `/proc/sys/fs/lease-break-time`, 45 seconds by default. A writer
//! that opens the file with `O_NONBLOCK` in that time gets `EAGAIN` instead.
//!
//! # Limits
//! The kernel does not count the descriptor that `memfd_create` returns, nor mappings made from it, as writers. So
//! leases give no answer for memory files that never had a name. Unless sealed, they always count as open for
//! writing.
//!
//! # Sources
//! [F_SETLEASE(2const)](https://man7.org/linux/man-pages/man2/F_SETLEASE.2const.html).
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

/// The fcntl command that sets the signal of a lease. The libc crate does not define it.
const F_SETSIG: libc::c_int = 10;

/// Returns whether anybody has `file` open for writing at this moment.
pub(in crate::image) fn writers_of(file: &File) -> Writers {
    let Ok(reopened) = reopen(file) else { return Writers::Unknown };
    let fd = reopened.as_raw_fd();
    // SAFETY: `F_SETLEASE` takes an integer and an open descriptor. It accesses no memory of this process.
    let lease = |kind: libc::c_int| unsafe { libc::fcntl(fd, libc::F_SETLEASE, kind) };
    // SAFETY: `F_SETSIG` takes an integer and an open descriptor. It accesses no memory of this process.
    let signal = unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) };
    if signal != 0 {
        return Writers::Unknown;
    }
    if lease(libc::F_RDLCK) != 0 {
        let error = io::Error::last_os_error().raw_os_error();
        return if error == Some(libc::EAGAIN) { Writers::Present } else { Writers::Unknown };
    }
    // Closing the descriptor would release the lease as well.
    lease(libc::F_UNLCK);
    if is_on_local_file_system(file) { Writers::Absent } else { Writers::Unknown }
}

/// Opens a regular file on which a process holds a lease, after the lease is released.
///
/// # Errors
/// Returns the errors of `open`, and [`Errno::AGAIN`] if this is not a regular file.
pub(in crate::image) fn open_without_lease(path: &Path) -> io::Result<File> {
    let place = File::from(open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?);
    if !place.metadata()?.is_file() {
        return Err(Errno::AGAIN.into());
    }
    // Open it through the descriptor: by now the path may lead to a FIFO, for which `open` would wait forever.
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(retry_on_intr(|| open(&path, flags, Mode::empty()))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a file of this process and closes the handle for writing.
    fn file() -> (tempfile::TempPath, File) {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        std::fs::write(&path, [1; 8192]).unwrap();
        let file = File::open(&path).unwrap();
        (path, file)
    }

    #[test]
    fn detects_descriptors_and_mappings() {
        let (path, file) = file();
        if writers_of(&file) == Writers::Unknown {
            // This file system does not tell.
            return;
        }
        assert_eq!(writers_of(&file), Writers::Absent);
        let writer = File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(writers_of(&file), Writers::Present);
        let map = memmap2::MmapRaw::map_raw(&writer).unwrap();
        drop(writer);
        assert_eq!(writers_of(&file), Writers::Present);
        drop(map);
        assert_eq!(writers_of(&file), Writers::Absent);
    }

    #[test]
    fn counts_a_writable_handle_as_a_writer() {
        let file = tempfile::tempfile().unwrap();
        assert_ne!(writers_of(&file), Writers::Absent);
    }
}
