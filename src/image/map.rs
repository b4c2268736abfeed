//! Opens and maps files. This is the only place of the library that maps a file.
#![allow(unsafe_code)]

use std::fs::{File, FileType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

use super::backend::leases::open_without_lease;

/// Opens a file for reading. The open uses `O_NONBLOCK`, so that it does not wait for the writer of a FIFO, which the
/// caller then rejects.
///
/// With this flag, opening a file that has a write lease fails with `EAGAIN`
/// ([fcntl_locking(2)](https://man7.org/linux/man-pages/man2/F_SETLEASE.2const.html)). Samba, for example, holds such
/// leases for its clients. The failed open has asked the holder to release the lease. This function waits for the
/// release, as `cat` does, for at most the kernel's `lease-break-time`.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;

    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::AGAIN) => open_without_lease(path),
        result => Ok(result?.into()),
    }
}

/// Returns the length of a regular file in bytes.
///
/// # Errors
/// Returns an error if the file is not a regular file, or has content but reports a length of 0. Files of file
/// systems such as `/proc` do that.
pub(crate) fn regular_len(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        let name = file_type_name(metadata.file_type());
        let message = format!("is {name}, not a regular file");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    if metadata.len() == 0 {
        check_empty(file)?;
    }
    Ok(metadata.len())
}

fn file_type_name(file_type: FileType) -> &'static str {
    if file_type.is_dir() {
        "a directory"
    } else if file_type.is_char_device() {
        "a character device"
    } else if file_type.is_block_device() {
        "a block device"
    } else if file_type.is_fifo() {
        "a FIFO"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "a special file"
    }
}

/// Checks that a file whose length is reported as 0 is empty.
fn check_empty(file: &File) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let not_empty = || {
        let message = "the file has content but reports a length of 0, as files of /proc do; copy \
                       it to a regular file first";
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    };
    // Some files of such file systems never reach their end and block instead. A true regular file is always ready.
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut ready = [PollFd::new(file, PollFlags::IN)];
    if poll(&mut ready, Some(&now)) == Ok(0) {
        return not_empty();
    }
    loop {
        match rustix::io::pread(file, &mut [0_u8; 1][..], 0) {
            Ok(0) => return Ok(()),
            Ok(_) => return not_empty(),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A private, read-only mapping of a whole file.
#[derive(Debug)]
pub(crate) struct Map(Option<Mmap>);

impl Map {
    /// Maps the whole of `file`. An empty file needs no mapping.
    ///
    /// # Errors
    /// Returns the errors of `mmap`.
    ///
    /// # Safety
    /// The caller guarantees the following for as long as the mapping exists:
    /// - No process writes to the file, under any name, through any descriptor or mapping.
    /// - No process truncates the file. Reading past its new end is a SIGBUS, which kills the process by default.
    /// - The storage of the file stays readable. A failure is a SIGBUS as well.
    pub(crate) unsafe fn new(file: &File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        if len == 0 {
            return Ok(Self(None));
        }
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // SAFETY: the caller guarantees that the bytes neither change nor vanish while the mapping exists. The
        // mapping is private and read-only, and `Map` owns it, so this process neither writes through it nor uses it
        // after it is unmapped.
        let map = unsafe { MmapOptions::new().len(len).map(file) }?;
        Ok(Self(Some(map)))
    }

    /// Returns the mapped bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
