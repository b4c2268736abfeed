//! The copy on x86-64.
#![allow(unsafe_code)]

use std::arch::asm;
use std::cell::UnsafeCell;

/// Copies bytes from `from` to `to`, until one of them ends. Others may write to `from` at the same time.
pub(crate) fn copy(from: &[UnsafeCell<u8>], to: &mut [u8]) {
    let len = from.len().min(to.len());
    // SAFETY: `rep movsb` reads `len` bytes from `from` and writes them to `to`. Both have at least `len` bytes, and
    // `to` is borrowed exclusively. The direction flag is clear at the start of every `asm!`, so addresses increase.
    // No flag is changed, and the stack is not used. The essay of the parent module explains why the reads may race
    // with writes.
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
