//! Removes a pending signal with `sigtimedwait`.
#![allow(unsafe_code)]

use std::ptr;

/// The error number (`errno`) of this thread, which a signal handler must preserve.
pub(crate) struct ErrorNumber(libc::c_int);

impl ErrorNumber {
    pub(crate) fn save() -> Self {
        // SAFETY: the function returns the address of the error number of this thread.
        Self(unsafe { *libc::__errno_location() })
    }

    pub(crate) fn restore(self) {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = self.0 };
    }
}

/// Removes a pending signal of `set` from this thread.
pub(super) fn consume(set: &libc::sigset_t) {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `set` and `now` are borrowed until the call returns, and a null pointer requests no information. With a
    // zero timeout the call never waits, not even if another thread has taken a signal that was sent to the process.
    unsafe { libc::sigtimedwait(set, ptr::null_mut(), &raw const now) };
}
