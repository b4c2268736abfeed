//! A handler for SIGBUS that passes faults to the snapshots.
#![allow(unsafe_code, reason = "installs a signal handler")]

use std::ffi::c_void;
use std::sync::Once;

use corestream::snapshot::handle_sigbus;

/// Installs the handler. Only the first call has an effect.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let action: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) = on_sigbus;
        // SAFETY: zeros are valid for `sigaction`, and the handler only calls `handle_sigbus` and `abort`.
        unsafe {
            let mut new: libc::sigaction = std::mem::zeroed();
            new.sa_sigaction = action as *const () as libc::sighandler_t;
            new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            assert_eq!(libc::sigaction(libc::SIGBUS, &raw const new, std::ptr::null_mut()), 0);
        }
    });
}

extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` with an address.
    let address = unsafe { (*info).si_addr() };
    if !handle_sigbus(address.addr()) {
        // SAFETY: `abort` may be called in a signal handler.
        unsafe { libc::abort() };
    }
}
