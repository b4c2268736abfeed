//! Write protection of this process's own memory by userfaultfd.
//!
//! A userfaultfd of this module never supplies pages: it is registered for write protection only. So reading memory that
//! it protects returns the contents of the memory, and queries for untouched pages may ignore it ([`is_own`]).
//!
//! Source: `Documentation/admin-guide/mm/userfaultfd.rst` and `include/uapi/linux/userfaultfd.h` of Linux,
//! [ioctl_userfaultfd(2)](https://man7.org/linux/man-pages/man2/ioctl_userfaultfd.2.html).

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(not(target_os = "linux"))]
use other as platform;

pub(crate) use platform::{Userfaultfd, is_own};

/// How a write to a protected page is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// As a [`Message`]. The writer waits until the page is unprotected, also within a system call.
    Message,
    /// As a SIGBUS in the writer. A system call that writes to the page fails with `EFAULT`.
    Signal,
}

/// A message of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A thread waits to write to the page at this address.
    Write {
        /// An address in the page.
        address: u64,
    },
    /// Memory is about to lose its contents, or has lost it: by `madvise`, `munmap` or `mremap`.
    Removed,
    /// A message that this module does not request.
    Unknown,
}
