//! x86-64.
#![allow(unsafe_code)]

use std::arch::asm;
use std::cell::UnsafeCell;

/// Copies the bytes in `from` to `to`, as many as both have. Others may write to `from` meanwhile.
pub(in crate::image) fn copy(from: &[UnsafeCell<u8>], to: &mut [u8]) {
    let len = from.len().min(to.len());
    // SAFETY: `rep movsb` reads `len` bytes at `from` and writes them at `to`. Both have as many, and `to` is borrowed
    // exclusively. The direction flag is clear, as at the beginning of every `asm!`, so addresses count up; no flag is
    // changed, and the stack is not used. The essay of this module says why the reads may race with writes.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from.as_ptr() => _,
            inout("rdi") to.as_mut_ptr() => _,
            options(nostack, preserves_flags),
        );
    }
}
