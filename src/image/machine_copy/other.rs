//! The copy on processors without a file of their own.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU8, Ordering};

/// Copies bytes from `from` to `to`, until one of them ends. Others may write to `from` at the same time.
pub(crate) fn copy(from: &[UnsafeCell<u8>], to: &mut [u8]) {
    for (byte, to) in from.iter().zip(to) {
        // SAFETY: a byte is always aligned, and the reference does not outlive `byte`. Rust code writes to the byte
        // with atomic operations on single bytes, which `SharedBytes` requires on such a processor.
        let byte = unsafe { AtomicU8::from_ptr(byte.get()) };
        *to = byte.load(Ordering::Relaxed);
    }
}
