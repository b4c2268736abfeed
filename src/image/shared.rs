//! Memories that change while they are read: copied, never a `&[u8]`.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use super::machine_copy::copy;
use crate::error::{Error, ErrorKind, Result};

/// An owned handle of memory that others may write at any time, such as a shared memory of WebAssembly.
///
/// [`bytes`](Self::bytes) returns the same memory at each call. The memory may have grown. If it is shorter than it was
/// when its image was made, a dump of it fails.
///
/// # How the memory is read
/// The library makes no reference to what is in the cells. It copies the bytes into a buffer of its own, by machine
/// instructions that the compiler knows nothing of (`asm!`), as another thread of the guest would load them. Each byte of
/// the copy is a value that the byte had at some time during the copy.
///
/// # Safety
/// The implementation guarantees, as long as the handle exists:
/// - The bytes that `bytes` has returned stay at their addresses and readable.
/// - No exclusive reference (`&mut`) and no shared reference (`&[u8]`) to any of these bytes exists while others may write
///   to them: everybody uses cells, atomics or raw pointers.
/// - Rust code that writes to a byte uses an atomic operation, of any width, or is synchronized with the dumps that read
///   the memory, so that it writes before or after them.
/// - Code outside of Rust may write as it likes: a compiled guest, another process, the kernel. So may an engine in the
///   place of its guest (`memory.copy`, a system call of WASI), in whichever language, if the engine allows that others
///   load the bytes by atomic operations at the same time.
///
/// On processors other than x86-64 and AArch64 the library reads by relaxed atomic loads of single bytes. There the
/// atomic operations of the third rule must be operations of single bytes.
pub unsafe trait SharedBytes: Send + Sync {
    /// Returns the bytes of the memory. Nobody may take a reference to what is in the cells.
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

    /// Returns the address of its first byte, and its length in bytes when the image was made. To ask the kernel about
    /// these addresses reads no byte.
    pub(super) fn location(&self) -> (usize, usize) {
        (self.memory.bytes().as_ptr().addr(), self.len)
    }

    /// Returns its length in bytes when the image was made.
    pub(super) fn len(&self) -> u64 {
        self.len as u64
    }

    /// Fills `buffer` with the bytes from `at` on, each as it is at some time during the call.
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
                    "a shared memory ends at {:#x}, before {:#x} + {} bytes",
                    bytes.len(),
                    at,
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

    // SAFETY: nobody writes to the cells.
    unsafe impl Sync for Cells {}

    // SAFETY: the cells live as long as the handle, and nobody writes to them.
    unsafe impl SharedBytes for Cells {
        fn bytes(&self) -> &[UnsafeCell<u8>] {
            &self.0
        }
    }

    #[test]
    fn reading_beyond_the_end_is_an_error() {
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
