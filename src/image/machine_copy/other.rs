//! Processors without a file of their own.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU8, Ordering};

/// Copies the bytes in `from` to `to`, as many as both have. Others may write to `from` meanwhile.
pub(in crate::image) fn copy(from: &[UnsafeCell<u8>], to: &mut [u8]) {
    for (byte, to) in from.iter().zip(to) {
        // SAFETY: a byte is always aligned, the reference does not outlive `byte`, and Rust code writes to it by atomic
        // operations of single bytes, as `SharedBytes` demands for such a processor.
        let byte = unsafe { AtomicU8::from_ptr(byte.get()) };
        *to = byte.load(Ordering::Relaxed);
    }
}
