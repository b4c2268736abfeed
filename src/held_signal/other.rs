//! Removes a pending signal on systems without `sigtimedwait`.
#![allow(unsafe_code)]

/// The error number of this thread. On these systems no handler needs it.
pub(crate) struct ErrorNumber;

impl ErrorNumber {
    pub(crate) fn save() -> Self {
        Self
    }

    pub(crate) fn restore(self) {}
}

/// Removes a pending signal of `set` from this thread.
pub(super) fn consume(set: &libc::sigset_t) {
    let mut signal = 0;
    // SAFETY: `set` is borrowed until the call returns, and `signal` is a variable of this function. The call returns
    // at once, because the signal is pending.
    unsafe { libc::sigwait(set, &raw mut signal) };
}
