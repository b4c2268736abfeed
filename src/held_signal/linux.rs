//! Linux.
#![allow(unsafe_code)]

use std::ptr;

/// Removes a signal of `set` that waits for this thread.
pub(super) fn take(set: &libc::sigset_t) {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `set` and `now` are borrowed until the call has returned, and no information is asked for. It does not
    // wait, not even if another thread has taken a signal that was sent to the whole process.
    unsafe { libc::sigtimedwait(set, ptr::null_mut(), &raw const now) };
}
