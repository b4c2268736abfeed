//! Removes a pending signal with `sigtimedwait`.
#![allow(unsafe_code)]

use std::ptr;

/// Removes a pending signal of `set` from this thread.
pub(super) fn consume(set: &libc::sigset_t) {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `set` and `now` are borrowed until the call returns, and a null pointer requests no information. With a
    // zero timeout the call never waits, not even if another thread has taken a signal that was sent to the process.
    unsafe { libc::sigtimedwait(set, ptr::null_mut(), &raw const now) };
}
