//! Systems without `sigtimedwait`.
#![allow(unsafe_code)]

/// Removes a signal of `set` that waits for this thread.
pub(super) fn take(set: &libc::sigset_t) {
    let mut taken = 0;
    // SAFETY: `set` is borrowed until the call has returned, and `taken` is a variable of this function. It returns at
    // once: the signal is there.
    unsafe { libc::sigwait(set, &raw mut taken) };
}
