//! A child process that supplies pages of this process through a userfaultfd.
//!
//! Source: [ioctl_userfaultfd(2)](https://man7.org/linux/man-pages/man2/ioctl_userfaultfd.2.html).

use std::ffi::c_ulong;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::Duration;

/// `UFFD_USER_MODE_ONLY`, which needs no privilege.
const USER_MODE_ONLY: u32 = 1;
const UFFDIO_API: c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: c_ulong = 0xc020_aa00;
const UFFDIO_COPY: c_ulong = 0xc028_aa03;
const MODE_MISSING: u64 = 1;
/// `UFFD_API`.
const API: u64 = 0xaa;

/// The child. Dropping this value kills it.
pub struct Supplier(libc::pid_t);

impl Supplier {
    /// Makes reads of untouched pages of `range` return `byte`. Returns `None` if there is no userfaultfd. This process
    /// keeps no descriptor of it.
    pub fn start(range: Range<usize>, page: usize, byte: u8) -> Option<Self> {
        let flags = rustix::mm::UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY);
        // SAFETY: the child supplies the pages of the registered range.
        let fd = unsafe { rustix::mm::userfaultfd(flags) }.ok()?;
        ioctl(&fd, UFFDIO_API, &mut [API, 0, 0])?;
        let len = range.len() as u64;
        ioctl(&fd, UFFDIO_REGISTER, &mut [range.start as u64, len, MODE_MISSING, 0])?;
        let source = vec![byte; page];
        let (fd_number, source_address) = (fd.as_raw_fd(), source.as_ptr().addr() as u64);
        // SAFETY: the child only makes system calls, with values from here.
        match unsafe { libc::fork() } {
            0 => supply(fd_number, source_address, page as u64),
            -1 => None,
            child => {
                drop(fd);
                // The kernel copies from the child's memory, so this process can free its copy of the source.
                Some(Self(child))
            }
        }
    }
}

impl Drop for Supplier {
    fn drop(&mut self) {
        // SAFETY: it is a child of this process, and only this value waits for it.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
        // The kernel closes the last descriptor with the child, possibly a moment later.
        thread::sleep(Duration::from_millis(1));
    }
}

fn ioctl(fd: &OwnedFd, request: c_ulong, argument: &mut [u64]) -> Option<()> {
    // SAFETY: each request of this module reads and writes exactly the words of its argument.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, argument.as_mut_ptr()) };
    (result == 0).then_some(())
}

/// Answers page faults until it is killed.
fn supply(fd: RawFd, source: u64, page: u64) -> ! {
    loop {
        // `struct uffd_msg`: the address is its third word.
        let mut message = [0_u64; 4];
        // SAFETY: the buffer has room for one message.
        let read = unsafe { libc::read(fd, message.as_mut_ptr().cast(), 32) };
        let mut copy = [message[2] & !(page - 1), source, page, 0, 0];
        // SAFETY: `UFFDIO_COPY` has five words, and the source is a page of this process.
        let copied = unsafe { libc::ioctl(fd, UFFDIO_COPY, copy.as_mut_ptr()) };
        // The page may already exist.
        if read != 32 || (copied != 0 && copy[4].cast_signed() != -i64::from(libc::EEXIST)) {
            // SAFETY: ends the process without running its exit handlers.
            unsafe { libc::_exit(1) };
        }
    }
}
