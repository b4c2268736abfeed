//! The copy on AArch64.
#![allow(unsafe_code)]

use std::arch::asm;
use std::cell::UnsafeCell;

/// Copies bytes from `from` to `to`, until one of them ends. Others may write to `from` at the same time.
pub(crate) fn copy(from: &[UnsafeCell<u8>], to: &mut [u8]) {
    let len = from.len().min(to.len());
    // SAFETY: the first loop copies 16 bytes while at least 16 are left, and the second loop copies the remaining
    // bytes one at a time. So `len` bytes are read from `from` and written to `to`. Both have at least `len` bytes,
    // and `to` is borrowed exclusively. The memory is normal memory, where accesses need no alignment. The stack is
    // not used. The essay of the parent module explains why the reads may race with writes.
    unsafe {
        asm!(
            "b 3f",
            "2:",
            "ldp {low}, {high}, [{from}], #16",
            "stp {low}, {high}, [{to}], #16",
            "3:",
            "subs {len}, {len}, #16",
            "b.hs 2b",
            "add {len}, {len}, #16",
            "b 5f",
            "4:",
            "ldrb {low:w}, [{from}], #1",
            "strb {low:w}, [{to}], #1",
            "sub {len}, {len}, #1",
            "5:",
            "cbnz {len}, 4b",
            len = inout(reg) len => _,
            from = inout(reg) from.as_ptr() => _,
            to = inout(reg) to.as_mut_ptr() => _,
            low = out(reg) _,
            high = out(reg) _,
            options(nostack),
        );
    }
}
