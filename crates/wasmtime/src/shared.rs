//! Shared memories as the library reads them.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use corestream::SharedBytes;
use wasmtime::SharedMemory;

/// A handle of a shared memory.
pub(crate) struct SharedHandle(pub(crate) SharedMemory);

// SAFETY: Wasmtime reserves the whole range of a shared memory when it is made, never moves it, and
// keeps it as long as a handle lives. The second half of the contract is not met to the letter: other
// threads' guests write these bytes, outside of Rust's rules, and Wasmtime does so on their behalf
// from Rust (`memory.copy`, host functions), not always with atomic operations. What is relied on is
// that a relaxed load of memory that is mapped gives some value on every target of Wasmtime's: one
// that is torn or mixed is acceptable, no byte decides over anything but the dump's contents, and the
// dump's coverage says that the memory was changing.
unsafe impl SharedBytes for SharedHandle {
    fn bytes(&self) -> &[UnsafeCell<u8>] {
        self.0.data()
    }
}
