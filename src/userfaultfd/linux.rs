//! The system call `userfaultfd` and its ioctls.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
use rustix::mm::{UserfaultfdFlags, userfaultfd};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::{Delivery, Message};

/// `UFFD_USER_MODE_ONLY`.
const USER_MODE_ONLY: u32 = 1;
/// `UFFD_API`.
const API: u64 = 0xaa;
/// `UFFD_FEATURE_PAGEFAULT_FLAG_WP`, `UFFD_FEATURE_EVENT_REMAP`, `UFFD_FEATURE_EVENT_REMOVE` and
/// `UFFD_FEATURE_EVENT_UNMAP`.
const FEATURES: u64 = 1 | 1 << 2 | 1 << 3 | 1 << 6;
/// `UFFD_FEATURE_SIGBUS`.
const SIGBUS: u64 = 1 << 7;
/// `UFFDIO_REGISTER_MODE_WP`.
const REGISTER_WRITE_PROTECTION: u64 = 1 << 1;
/// `_UFFDIO_WRITEPROTECT`, a bit of the ioctls that a registered range supports.
const CAN_WRITE_PROTECT: u64 = 1 << 6;
/// `UFFDIO_WRITEPROTECT_MODE_WP`.
const PROTECT: u64 = 1;
/// `UFFD_EVENT_PAGEFAULT`, `UFFD_EVENT_REMAP`, `UFFD_EVENT_REMOVE` and `UFFD_EVENT_UNMAP`.
const PAGEFAULT: u8 = 0x12;
const REMOVALS: [u8; 3] = [0x14, 0x15, 0x16];
/// The number of messages that one read returns at most.
const MAX_MESSAGES: usize = 16;

/// The open descriptors of this module.
static OWN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

fn own() -> MutexGuard<'static, Vec<RawFd>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether this descriptor of the process is a [`Userfaultfd`] of this module.
pub(crate) fn is_own(descriptor: RawFd) -> bool {
    own().contains(&descriptor)
}

/// A userfaultfd for write protection.
#[derive(Debug)]
pub(crate) struct Userfaultfd(OwnedFd);

impl Userfaultfd {
    /// Opens a userfaultfd whose faults are delivered by `delivery`.
    ///
    /// # Errors
    /// Returns an error if the kernel does not support write protection, or does not permit it to this process. A
    /// process without privileges gets a userfaultfd only for signals.
    pub(crate) fn open(delivery: Delivery) -> io::Result<Self> {
        let fd = match open_device().or_else(|_| open_by_call(UserfaultfdFlags::empty())) {
            // A signal never makes a system call wait, so this needs no privileges.
            Err(_) if delivery == Delivery::Signal => {
                open_by_call(UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY))
            }
            result => result,
        }?;
        let features = match delivery {
            Delivery::Message => FEATURES,
            Delivery::Signal => FEATURES | SIGBUS,
        };
        let mut arg = ApiArg { api: API, features, ioctls: 0 };
        let request = Request { code: opcode::read_write::<ApiArg>(0xaa, 0x3f), arg: &mut arg };
        // SAFETY: the descriptor is a userfaultfd, so the code means UFFDIO_API. The call reads and writes `arg`, which
        // has the layout of `struct uffdio_api`.
        unsafe { rustix::ioctl::ioctl(&fd, request) }?;
        own().push(fd.as_raw_fd());
        Ok(Self(fd))
    }

    /// Registers whole pages for write protection. None of them is protected yet.
    ///
    /// # Errors
    /// Returns `EINVAL` for a mapping without write protection, such as a private mapping of a file on disk, and
    /// `EBUSY` if another userfaultfd is registered.
    pub(crate) fn register(&self, pages: &Range<u64>) -> Result<(), Errno> {
        let mut arg =
            RegisterArg { pages: pages.into(), mode: REGISTER_WRITE_PROTECTION, ioctls: 0 };
        let request = Request { code: opcode::read_write::<RegisterArg>(0xaa, 0), arg: &mut arg };
        // SAFETY: the descriptor is a userfaultfd, so the code means UFFDIO_REGISTER. The call reads and writes `arg`,
        // which has the layout of `struct uffdio_register`. It changes no contents of memory: pages that are missing
        // are not registered, so no read ever waits for this process.
        unsafe { rustix::ioctl::ioctl(&self.0, request) }?;
        if arg.ioctls & CAN_WRITE_PROTECT == 0 {
            return Err(Errno::INVAL);
        }
        Ok(())
    }

    /// Ends the registration and the protection of whole pages, and wakes all threads that wait to write to them.
    ///
    /// # Errors
    /// Returns an error if the pages are not mapped any more.
    pub(crate) fn unregister(&self, pages: &Range<u64>) -> Result<(), Errno> {
        let mut arg = PagesArg::from(pages);
        let request = Request { code: opcode::read::<PagesArg>(0xaa, 1), arg: &mut arg };
        // SAFETY: the descriptor is a userfaultfd, so the code means UFFDIO_UNREGISTER. The call reads `arg`, which has
        // the layout of `struct uffdio_range`. It changes no contents of memory.
        unsafe { rustix::ioctl::ioctl(&self.0, request) }?;
        Ok(())
    }

    /// Protects the pages of a registered range that are populated. When the call has returned, no thread can write to
    /// them.
    ///
    /// # Errors
    /// Returns `EAGAIN` while a message about removed memory waits to be read, and `ENOENT` if the pages are not
    /// registered any more.
    pub(crate) fn protect(&self, pages: &Range<u64>) -> Result<(), Errno> {
        self.write_protect(pages, PROTECT)
    }

    /// Ends the protection of pages, and wakes all threads that wait to write to them.
    ///
    /// # Errors
    /// Returns the errors of [`protect`](Self::protect).
    pub(crate) fn unprotect(&self, pages: &Range<u64>) -> Result<(), Errno> {
        self.write_protect(pages, 0)
    }

    fn write_protect(&self, pages: &Range<u64>, mode: u64) -> Result<(), Errno> {
        let mut arg = WriteProtectArg { pages: pages.into(), mode };
        let code = opcode::read_write::<WriteProtectArg>(0xaa, 6);
        let request = Request { code, arg: &mut arg };
        // SAFETY: the descriptor is a userfaultfd, so the code means UFFDIO_WRITEPROTECT. The call reads `arg`, which
        // has the layout of `struct uffdio_writeprotect`. It changes no contents of memory.
        unsafe { rustix::ioctl::ioctl(&self.0, request) }?;
        Ok(())
    }

    /// Calls `on_message` for each message that waits to be read, and returns their number. Does not block.
    ///
    /// # Errors
    /// Returns an error if reading fails.
    pub(crate) fn read(&self, mut on_message: impl FnMut(Message)) -> Result<usize, Errno> {
        let mut buffer = [RawMessage::new_zeroed(); MAX_MESSAGES];
        let bytes = buffer.as_mut_bytes();
        let read = loop {
            match rustix::io::read(&self.0, &mut *bytes) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(0),
                result => break result?,
            }
        };
        // A read returns whole messages.
        let count = read.checked_div(mem::size_of::<RawMessage>()).unwrap_or(0);
        for message in buffer.iter().take(count) {
            on_message(match message.event {
                PAGEFAULT => Message::Write { address: message.argument[1] },
                event if REMOVALS.contains(&event) => Message::Removed,
                _ => Message::Unknown,
            });
        }
        Ok(count)
    }
}

impl Drop for Userfaultfd {
    fn drop(&mut self) {
        let descriptor = self.0.as_raw_fd();
        // Before the descriptor is closed and its number can be used again.
        own().retain(|own| *own != descriptor);
    }
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens a userfaultfd by its device, which needs no privileges beyond the permissions of the device.
fn open_device() -> io::Result<OwnedFd> {
    let device = File::open("/dev/userfaultfd")?;
    let flags = (UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK).bits();
    // `USERFAULTFD_IOC_NEW`, whose argument is the number itself.
    // SAFETY: the device is the one that the kernel documents for this code, which reads no memory. On another device
    // it fails, because no driver in Linux uses this code.
    let descriptor = unsafe { libc::ioctl(device.as_raw_fd(), 0xaa00, flags) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has returned a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn open_by_call(flags: UserfaultfdFlags) -> io::Result<OwnedFd> {
    let flags = flags | UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
    // SAFETY: the call opens a descriptor and has no other effect. All later uses of it are in this file.
    Ok(unsafe { userfaultfd(flags) }?)
}

/// `struct uffdio_api`.
#[repr(C)]
struct ApiArg {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
struct PagesArg {
    start: u64,
    len: u64,
}

impl From<&Range<u64>> for PagesArg {
    fn from(pages: &Range<u64>) -> Self {
        // The kernel rejects an empty range.
        Self { start: pages.start, len: pages.end.saturating_sub(pages.start) }
    }
}

/// `struct uffdio_register`.
#[repr(C)]
struct RegisterArg {
    pages: PagesArg,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
struct WriteProtectArg {
    pages: PagesArg,
    mode: u64,
}

/// `struct uffd_msg`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawMessage {
    event: u8,
    reserved: [u8; 7],
    /// For a page fault: flags, the address, and the thread.
    argument: [u64; 3],
}

const _: () = assert!(mem::size_of::<RawMessage>() == 32);

/// An ioctl that reads and writes an argument.
struct Request<'a, T> {
    code: Opcode,
    arg: &'a mut T,
}

// SAFETY: the code and the argument are passed on unchanged. Each call shows that they belong together.
unsafe impl<T> Ioctl for Request<'_, T> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.code
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut *self.arg).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> Result<(), Errno> {
        Ok(())
    }
}
