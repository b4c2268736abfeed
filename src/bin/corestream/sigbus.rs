//! SIGBUS: what the kernel sends when a mapped file has become shorter and is read past its new end.
//! The handler puts zeros there and stops the work, which then fails with an error that says what
//! happened.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// What the handler may look at: made before it is installed, and never changed.
struct Files {
    /// The addresses at which files are mapped, whole pages.
    mapped: Vec<Range<usize>>,
    page: usize,
    cancel: Arc<AtomicBool>,
}

static FILES: OnceLock<Files> = OnceLock::new();

/// Survives mapped files that are cut from now on: reading them sets `cancel`.
pub fn survive<'m>(files: impl Iterator<Item = &'m [u8]>, cancel: Arc<AtomicBool>) {
    let page = rustix::param::page_size();
    let mapped = files.filter(|bytes| !bytes.is_empty()).map(|bytes| {
        let start = bytes.as_ptr().addr();
        start..(start + bytes.len()).next_multiple_of(page)
    });
    if FILES.set(Files { mapped: mapped.collect(), page, cancel }).is_err() {
        // It is there already: one process runs one command.
        return;
    }
    let action: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) = handle;
    // SAFETY: `sigaction` is a C struct for which zeros are valid: no flags, an empty mask. The
    // handler does what may be done in one: it reads `FILES`, which is complete and is not written
    // to any more, stores to an atomic, and makes system calls; it neither allocates nor locks, and
    // can't panic. That of the standard library, for stacks that overflow, is replaced and not
    // called: it would take itself and this one away for the next time. Where installing fails, the
    // process is killed, as the library's contract says.
    unsafe {
        let mut new: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = action as *const () as libc::sighandler_t;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &raw const new, std::ptr::null_mut());
    }
}

extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`, and that of a SIGBUS has the address.
    let address = unsafe { (*info).si_addr() };
    if !zeros_from(address) {
        // SAFETY: may be called in a handler. Not about one of the files: the instruction runs again and
        // the process is killed, as it is without a handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Maps zeros from the page of `address` to the end of its file; false if it is in none.
fn zeros_from(address: *mut c_void) -> bool {
    let Some(files) = FILES.get() else { return false };
    let at = address.addr() & !(files.page - 1);
    let Some(file) = files.mapped.iter().find(|file| file.contains(&at)) else { return false };
    files.cancel.store(true, Ordering::Relaxed);
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    // SAFETY: the range lies in the mapping of a file, which lives as long as the work on it; its
    // bytes are gone from the file, and reading them as zeros harms nobody, since the work fails.
    // Nobody writes to the mapping.
    let mapped = unsafe {
        let page = address.with_addr(at);
        mmap_anonymous(page, file.end - at, ProtFlags::READ, flags)
    };
    mapped.is_ok()
}
