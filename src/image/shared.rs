//! Memories that other threads write while they are read.
//!
//! # The problem
//! A shared memory of WebAssembly can be written at any moment. A `&[u8]` of it promises the compiler that its bytes
//! do not change, so even creating one would be undefined behavior. A plain load through a raw pointer is no better:
//! it is a data race with the guest's stores. The compiler may also repeat a plain load and assume that both loads
//! return the same value.
//!
//! # The idea
//! The memory is only accessible as cells ([`SharedBytes`]). The library never creates a reference to the content of
//! a cell. It copies each range once into a buffer of its own, with machine instructions that the compiler cannot see
//! into ([`machine_copy`](super::machine_copy)). The scan, the checksums and the sink use only that copy.
//!
//! # The invariant
//! No plain Rust load reads a shared byte. Everything else about the memory (its address, its length, its untouched
//! pages) is known without reading a byte.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use super::machine_copy::copy;
use crate::error::{Error, ErrorKind, Result};

/// An owned handle to a memory that others may write at any time, such as a shared memory of WebAssembly.
///
/// Every call of [`bytes`](Self::bytes) returns the same memory, which may have grown since the last call. If it is
/// shorter than it was when its image was created, a dump of it fails.
///
/// # How the memory is read
/// The library creates no reference to the content of the cells. It copies the bytes into a buffer of its own, with
/// machine instructions that the compiler cannot see into (`asm!`), as another thread of the guest would load them.
/// Each byte of the copy is a value that the byte had at some time during the copy.
///
/// # Safety
/// The implementation guarantees the following for as long as the handle exists:
/// - The bytes that `bytes` has returned stay readable at their addresses.
/// - No exclusive reference (`&mut`) and no shared reference (`&[u8]`) to any of these bytes exists while others may
///   write to them. All code uses cells, atomics or raw pointers.
/// - Rust code that writes to a byte uses an atomic operation of any width, or is synchronized with the dumps that
///   read the memory, so that it writes before or after them.
/// - Code outside of Rust may write in any way: a compiled guest, another process, the kernel. So may an engine that
///   writes on behalf of its guest (`memory.copy`, a system call of WASI), in any language, if the engine permits
///   concurrent atomic loads of these bytes.
///
/// On processors other than x86-64 and AArch64, the library reads with relaxed atomic loads of single bytes. There,
/// the atomic operations of the third rule must be operations on single bytes.
pub unsafe trait SharedBytes: Send + Sync {
    /// Returns the bytes of the memory. The caller must not create a reference to the content of the cells.
    fn bytes(&self) -> &[UnsafeCell<u8>];
}

/// The image of a shared memory.
pub(crate) struct SharedImage {
    memory: Box<dyn SharedBytes>,
    len: usize,
}

impl SharedImage {
    pub(super) fn new(memory: Box<dyn SharedBytes>) -> Self {
        let len = memory.bytes().len();
        Self { memory, len }
    }

    /// Returns the address of the first byte, and the length in bytes at the time when the image was created. The
    /// kernel can be queried about these addresses without reading a byte.
    pub(super) fn location(&self) -> (usize, usize) {
        (self.memory.bytes().as_ptr().addr(), self.len)
    }

    /// Returns the length in bytes at the time when the image was created.
    pub(super) fn len(&self) -> u64 {
        self.len as u64
    }

    /// Fills `buffer` with the bytes starting at `at`. Each byte has a value from some time during the call.
    ///
    /// # Errors
    /// Returns an error if the memory ends before the buffer is full.
    pub(super) fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<()> {
        let bytes = self.memory.bytes();
        let rest = usize::try_from(at).ok().and_then(|start| bytes.get(start..));
        match rest.and_then(|rest| rest.get(..buffer.len())) {
            Some(bytes) => {
                copy(bytes, buffer);
                Ok(())
            }
            None => {
                let message = format!(
                    "a shared memory ends at {:#x}; cannot read {} bytes at {at:#x}",
                    bytes.len(),
                    buffer.len()
                );
                Err(Error::new(ErrorKind::Image, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Cells(Vec<UnsafeCell<u8>>);

    // SAFETY: no thread writes to the cells.
    unsafe impl Sync for Cells {}

    // SAFETY: the cells live as long as the handle, and no thread writes to them.
    unsafe impl SharedBytes for Cells {
        fn bytes(&self) -> &[UnsafeCell<u8>] {
            &self.0
        }
    }

    #[test]
    fn rejects_reads_past_the_end() {
        let image = SharedImage::new(Box::new(Cells((0..80).map(UnsafeCell::new).collect())));
        assert_eq!(image.len(), 80);
        let mut buffer = [0; 4];
        image.read_at(&mut buffer, 76).unwrap();
        assert_eq!(buffer, [76, 77, 78, 79]);
        image.read_at(&mut [], 80).unwrap();
        for at in [77, 80, 81, u64::MAX] {
            assert_eq!(image.read_at(&mut buffer, at).unwrap_err().kind(), ErrorKind::Image);
        }
    }
}
