//! AArch64.
#![allow(unsafe_code)]

use std::arch::asm;
use std::cell::UnsafeCell;

/// Copies the bytes in `from` to `to`, as many as both have. Others may write to `from` meanwhile.
pub(in crate::image) fn copy(from: &[UnsafeCell<u8>], to: &mut [u8]) {
    let len = from.len().min(to.len());
    // SAFETY: the first loop copies 16 bytes as long as at least 16 are left, and the second loop single bytes until none
    // is left: `len` bytes are read at `from` and written at `to`. Both have as many, and `to` is borrowed exclusively.
    // The memory is normal memory, where accesses need no alignment. The stack is not used. The essay of this module says
    // why the reads may race with writes.
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
