//! SIGPIPE: a reader that goes away is an error and never the end of the process.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Does `work`, which may write to a pipe or socket, such that a reader that is gone is only
/// [`io::ErrorKind::BrokenPipe`]. Programs in Rust ignore the signal anyway; one in another language
/// that embeds this crate may not, and what it does with SIGPIPE is left alone.
///
/// The kernel sends the signal to the thread that writes, so it is held back in this thread, and taken
/// away if it came.
pub(super) fn held_back<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(before) = block() else { return work() };
    let was_pending = is_pending();
    let result = work();
    let broken = matches!(&result, Err(error) if error.kind() == io::ErrorKind::BrokenPipe);
    if broken && !was_pending && is_pending() {
        take();
    }
    restore(&before);
    result
}

/// The set that holds SIGPIPE alone.
fn only_sigpipe() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` makes a set of what it is given, to which a valid signal is added.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
        set.assume_init()
    }
}

/// Blocks SIGPIPE in this thread; what was blocked before, or `None` if it can't be done.
fn block() -> Option<libc::sigset_t> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: both point to sets of this function, and `before` is written if the call succeeds.
    unsafe {
        let set = only_sigpipe();
        let failed = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, before.as_mut_ptr());
        (failed == 0).then(|| before.assume_init())
    }
}

/// Whether SIGPIPE waits for this thread.
fn is_pending() -> bool {
    let mut pending = MaybeUninit::uninit();
    // SAFETY: `pending` is written if the call succeeds, and read only then.
    unsafe {
        libc::sigpending(pending.as_mut_ptr()) == 0
            && libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1
    }
}

/// Takes the SIGPIPE that waits for this thread.
fn take() {
    let (set, mut signal) = (only_sigpipe(), 0);
    // SAFETY: both point to variables of this function. It returns at once: the signal is there.
    unsafe { libc::sigwait(&raw const set, &raw mut signal) };
}

/// Blocks again what was blocked before, and nothing else.
fn restore(before: &libc::sigset_t) {
    // SAFETY: the set is one that `pthread_sigmask` gave; the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, ptr::null_mut()) };
}
