//! A child process that supplies the pages of a range of this one by a userfaultfd.
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

/// The child, which lives as long as this.
pub struct Supplier(libc::pid_t);

impl Supplier {
    /// Has pages of `range` that were not touched before filled with `byte` when they are read; `None` if
    /// there is no userfaultfd here. This process keeps no descriptor of it.
    pub fn start(range: Range<usize>, page: usize, byte: u8) -> Option<Self> {
        let flags = rustix::mm::UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY);
        // SAFETY: what it is registered for is supplied by the child.
        let fd = unsafe { rustix::mm::userfaultfd(flags) }.ok()?;
        ioctl(&fd, UFFDIO_API, &mut [API, 0, 0])?;
        let len = range.len() as u64;
        ioctl(&fd, UFFDIO_REGISTER, &mut [range.start as u64, len, MODE_MISSING, 0])?;
        let source = vec![byte; page];
        let (fd_number, source_address) = (fd.as_raw_fd(), source.as_ptr().addr() as u64);
        // SAFETY: the child makes system calls only, on what it has from here.
        match unsafe { libc::fork() } {
            0 => supply(fd_number, source_address, page as u64),
            -1 => None,
            child => {
                drop(fd);
                // The source is in the child's copy of this memory, but the kernel copies from there.
                Some(Self(child))
            }
        }
    }
}

impl Drop for Supplier {
    fn drop(&mut self) {
        // SAFETY: a child of this process that nobody else waits for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
        // The last descriptor is closed with the child.
        thread::sleep(Duration::from_millis(1));
    }
}

fn ioctl(fd: &OwnedFd, request: c_ulong, argument: &mut [u64]) -> Option<()> {
    // SAFETY: each request here reads and writes as many words as the argument has.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, argument.as_mut_ptr()) };
    (result == 0).then_some(())
}

/// Answers page faults until it is killed.
fn supply(fd: RawFd, source: u64, page: u64) -> ! {
    loop {
        // `struct uffd_msg`: the address is its third word.
        let mut message = [0_u64; 4];
        // SAFETY: the message has room for one.
        let read = unsafe { libc::read(fd, message.as_mut_ptr().cast(), 32) };
        let mut copy = [message[2] & !(page - 1), source, page, 0, 0];
        // SAFETY: `UFFDIO_COPY` has five words, and the source is a page of this process.
        let copied = unsafe { libc::ioctl(fd, UFFDIO_COPY, copy.as_mut_ptr()) };
        // A page that is there already is no failure.
        if read != 32 || (copied != 0 && copy[4].cast_signed() != -i64::from(libc::EEXIST)) {
            // SAFETY: nothing of this process is to be run at its end.
            unsafe { libc::_exit(1) };
        }
    }
}
