//! Access to shared memories.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use corestream::SharedBytes;
use wasmtime::SharedMemory;

/// A handle of a shared memory, which keeps its bytes valid.
pub(crate) struct SharedHandle(pub(crate) SharedMemory);

// SAFETY: the rules of the contract in order, based on the documentation of `SharedMemory::data`:
// - The base pointer of a shared memory does not change. The pointer that `data` returns is valid as long as the handle
//   exists, and `self` owns the handle.
// - `data` returns cells, and Rust code has no other access to the bytes.
// - Host code must access them through the `Atomic*` types. It may take any of them, and so it may by the contract on
//   x86-64 and AArch64. On other processors the contract asks for operations of single bytes: there host code must not
//   write by others while a dump is made.
// - Guests write by compiled code. Where Wasmtime writes for them from Rust without atomic operations (`memory.copy`,
//   `memory.fill`; <https://github.com/bytecodealliance/wasmtime/issues/4203>), it writes in the place of a guest, and
//   the documentation allows atomic loads meanwhile: "Concurrent modifications may be happening to the data returned on
//   other threads. [...] The memory returned must be accessed safely through the `Atomic*` types".
unsafe impl SharedBytes for SharedHandle {
    fn bytes(&self) -> &[UnsafeCell<u8>] {
        self.0.data()
    }
}
