//! Files as memory: the one place where a file is mapped.
#![allow(unsafe_code)]

use std::fs::{File, FileType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

use super::backend::leases::open_without_lease;

/// Opens a file for reading; `O_NONBLOCK` so that a FIFO is not waited for, but seen to be one.
///
/// With that flag, a file on which somebody holds a write lease, as Samba does for its clients, fails with `EAGAIN`
/// ([fcntl_locking(2)](https://man7.org/linux/man-pages/man2/F_SETLEASE.2const.html)). The holder has been asked to
/// give the lease up, so this waits for that, as `cat` does: at most for the kernel's `lease-break-time`.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;

    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::AGAIN) => open_without_lease(path),
        result => Ok(result?.into()),
    }
}

/// The length of a regular file, which is to be `role`: an image, a dump.
///
/// # Errors
/// It is no regular file, or one of a file system such as `/proc`, whose files have bytes although their
/// length is 0.
pub(crate) fn regular_len(file: &File, role: &str) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        let what = kind(metadata.file_type());
        let message = format!("{role} must be a regular file, this is {what}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    if metadata.len() == 0 {
        check_empty(file)?;
    }
    Ok(metadata.len())
}

fn kind(file_type: FileType) -> &'static str {
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
        "no regular file"
    }
}

/// Checks that a file of length 0 has no bytes.
fn check_empty(file: &File) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let has_bytes = || {
        let message = "the file has no length although it has bytes, as files of /proc do: copy it \
                       to a regular file first";
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    };
    // Some files of such file systems are never at their end: a regular file never has to be waited for.
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut ready = [PollFd::new(file, PollFlags::IN)];
    if poll(&mut ready, Some(&now)) == Ok(0) {
        return has_bytes();
    }
    loop {
        match rustix::io::pread(file, &mut [0_u8; 1][..], 0) {
            Ok(0) => return Ok(()),
            Ok(_) => return has_bytes(),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A private, read-only mapping of a whole file.
#[derive(Debug)]
pub(crate) struct Map(Option<Mmap>);

impl Map {
    /// Maps the whole of `file`; an empty one needs no mapping.
    ///
    /// # Errors
    /// Returns the errors of `mmap`.
    ///
    /// # Safety
    /// As long as the mapping exists:
    /// - Nobody writes to the file, by whichever name, descriptor or mapping.
    /// - Nobody makes the file shorter. To read past its new end is a SIGBUS, which ends the process by default.
    /// - Its storage stays readable, for the same reason.
    pub(crate) unsafe fn new(file: &File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        if len == 0 {
            return Ok(Self(None));
        }
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // SAFETY: the caller guarantees that the bytes neither change nor vanish as long as the mapping exists. It is
        // private, read-only and owned by `Map`, so that this process neither writes through it nor outlives it.
        let map = unsafe { MmapOptions::new().len(len).map(file) }?;
        Ok(Self(Some(map)))
    }

    /// Returns the mapped bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
