//! Holds back the signals that a write raises, so that a failed write is only an error.
//!
//! A write to a pipe without a reader raises SIGPIPE, and a write beyond `RLIMIT_FSIZE` raises SIGXFSZ. The default
//! action of both terminates the process, which belongs to the embedder. Changing the action of a signal would affect
//! the whole process. But the kernel sends both signals to the thread that writes. So that thread blocks the signal
//! during the write, and then removes it if it is pending.
#![allow(unsafe_code)]

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

use std::mem::MaybeUninit;
use std::ptr;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(not(target_os = "linux"))]
use other as platform;

pub(crate) use platform::ErrorNumber;

/// Calls `work`, which may write to a pipe or socket. A missing reader is only
/// [`BrokenPipe`](std::io::ErrorKind::BrokenPipe).
pub(crate) fn without_sigpipe<T>(work: impl FnOnce() -> T) -> T {
    with_blocked(libc::SIGPIPE, work)
}

/// Calls `work`, which may write to a regular file. A file that may not grow is only
/// [`FileTooLarge`](std::io::ErrorKind::FileTooLarge).
pub(crate) fn without_sigxfsz<T>(work: impl FnOnce() -> T) -> T {
    with_blocked(libc::SIGXFSZ, work)
}

/// Blocks all signals in this thread from now on, so that other threads handle those sent to the process.
pub(crate) fn block_all() {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigfillset` initializes the set, and the pointer for the old mask may be null.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut());
    }
}

/// Calls `work` with `signal` blocked, and then removes the signal if it is pending.
///
/// It does so whatever `work` returns: a custom sink may hide the error of the write, or return another one.
fn with_blocked<T>(signal: libc::c_int, work: impl FnOnce() -> T) -> T {
    let _blocked = BlockedSignal::new(signal);
    work()
}

/// A signal that is blocked until this is dropped, even if a custom sink panics.
struct BlockedSignal {
    signal: libc::c_int,
    /// The signal mask before.
    old_mask: libc::sigset_t,
    was_pending: bool,
}

impl BlockedSignal {
    fn new(signal: libc::c_int) -> Option<Self> {
        let old_mask = block(signal)?;
        Some(Self { signal, old_mask, was_pending: is_pending(signal) })
    }
}

impl Drop for BlockedSignal {
    fn drop(&mut self) {
        if !self.was_pending && is_pending(self.signal) {
            platform::consume(&signal_set(self.signal));
        }
        restore(&self.old_mask);
    }
}

/// Returns the set that contains only `signal`.
fn signal_set(signal: libc::c_int) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initializes the set, and `sigaddset` adds a valid signal to it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        set.assume_init()
    }
}

/// Blocks `signal` in this thread. Returns the mask before, or `None` if it could not be changed.
fn block(signal: libc::c_int) -> Option<libc::sigset_t> {
    let mut old_mask = MaybeUninit::uninit();
    // SAFETY: both pointers point to sets of this function. `old_mask` is initialized if the call succeeds.
    unsafe {
        let set = signal_set(signal);
        let failed = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, old_mask.as_mut_ptr());
        (failed == 0).then(|| old_mask.assume_init())
    }
}

/// Returns whether `signal` is pending for this thread.
fn is_pending(signal: libc::c_int) -> bool {
    let mut pending = MaybeUninit::uninit();
    // SAFETY: `pending` is initialized if `sigpending` succeeds, and is read only then.
    unsafe {
        libc::sigpending(pending.as_mut_ptr()) == 0
            && libc::sigismember(pending.as_ptr(), signal) == 1
    }
}

/// Restores the signal mask.
fn restore(old_mask: &libc::sigset_t) {
    // SAFETY: `pthread_sigmask` returned this set. The pointer for the current mask may be null.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old_mask, ptr::null_mut()) };
}
