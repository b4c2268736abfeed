//! Signals that a write raises: held back in the writing thread, so that a failed write is only an error.
//!
//! A reader that went away raises SIGPIPE, and a file that passes `RLIMIT_FSIZE` raises SIGXFSZ. The default action
//! of both ends the process, and an embedder's process is not this crate's to end. What the embedder does with
//! the signals is left alone. The kernel sends both to the thread that writes, so that thread blocks the signal
//! during the write and then removes it if it came.
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

/// Calls `work`, which may write to a pipe or socket: a reader that went away is only
/// [`BrokenPipe`](std::io::ErrorKind::BrokenPipe).
pub(crate) fn without_sigpipe<T>(work: impl FnOnce() -> T) -> T {
    held_back(libc::SIGPIPE, work)
}

/// Calls `work`, which may write to a regular file: a file that may not grow is only
/// [`FileTooLarge`](std::io::ErrorKind::FileTooLarge).
pub(crate) fn without_sigxfsz<T>(work: impl FnOnce() -> T) -> T {
    held_back(libc::SIGXFSZ, work)
}

/// Calls `work` with `signal` blocked, and removes the signal if it came, whatever `work` says: the error may have been
/// hidden, by a sink of the embedder's or because another one came after it.
fn held_back<T>(signal: libc::c_int, work: impl FnOnce() -> T) -> T {
    let _held = Held::new(signal);
    work()
}

/// A signal that is blocked until this is dropped, also by a panic of an embedder's sink.
struct Held {
    signal: libc::c_int,
    /// What was blocked before.
    before: libc::sigset_t,
    was_pending: bool,
}

impl Held {
    fn new(signal: libc::c_int) -> Option<Self> {
        let before = block(signal)?;
        Some(Self { signal, before, was_pending: is_pending(signal) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.was_pending && is_pending(self.signal) {
            platform::take(&only(self.signal));
        }
        restore(&self.before);
    }
}

/// The set that holds `signal` alone.
fn only(signal: libc::c_int) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` makes a set of what it is given, to which a valid signal is added.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        set.assume_init()
    }
}

/// Blocks `signal` in this thread; what was blocked before, or `None` if it can't be done.
fn block(signal: libc::c_int) -> Option<libc::sigset_t> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: both point to sets of this function, and `before` is written if the call succeeds.
    unsafe {
        let set = only(signal);
        let failed = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, before.as_mut_ptr());
        (failed == 0).then(|| before.assume_init())
    }
}

/// Whether `signal` waits for this thread.
fn is_pending(signal: libc::c_int) -> bool {
    let mut pending = MaybeUninit::uninit();
    // SAFETY: `pending` is written if the call succeeds, and read only then.
    unsafe {
        libc::sigpending(pending.as_mut_ptr()) == 0
            && libc::sigismember(pending.as_ptr(), signal) == 1
    }
}

/// Blocks again what was blocked before, and nothing else.
fn restore(before: &libc::sigset_t) {
    // SAFETY: the set is one that `pthread_sigmask` gave; the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, ptr::null_mut()) };
}
