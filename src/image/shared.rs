//! Memories that change while they are read: copied with relaxed atomics, never a `&[u8]`.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// An owned handle of memory that other threads may write at any time, such as a shared memory of
/// WebAssembly.
///
/// # Safety
/// Who implements this makes sure that, as long as the handle lives:
/// - [`bytes`](Self::bytes) gives the same memory each time, at the same addresses and readable; it
///   may have grown.
/// - What writes to it from Rust does so with atomic operations: on whole aligned words of 8 bytes,
///   or with synchronisation that makes sure that no dump is reading. Compiled guests and others
///   outside of Rust may write as they like.
pub unsafe trait SharedBytes: Send + Sync {
    /// Its bytes. Nobody may take a reference to what is in the cells.
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

    /// The address of its first byte, and its length in bytes, when the image was made. Who asks the
    /// kernel about these addresses looks at no byte.
    pub(super) fn location(&self) -> (usize, usize) {
        (self.memory.bytes().as_ptr().addr(), self.len)
    }

    /// Its length in bytes, when the image was made.
    pub(super) fn len(&self) -> u64 {
        self.len as u64
    }

    /// Fills `buffer` with what stands from `at` on, each byte as it is at some time of the call.
    ///
    /// # Errors
    /// It ends before the buffer is full.
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

/// Copies `bytes` to `buffer`, which is as long, by words where they are aligned.
fn copy(bytes: &[UnsafeCell<u8>], buffer: &mut [u8]) {
    // SAFETY: atomics are cells too: any bytes are valid ones, and `align_to` takes care of size and
    // alignment. That others who write meanwhile are atomic or not Rust is the contract of
    // `SharedBytes`.
    let (head, words, tail) = unsafe { bytes.align_to::<AtomicU64>() };
    let (first, rest) = buffer.split_at_mut(head.len());
    let (middle, last) = rest.split_at_mut(size_of_val(words));
    copy_bytes(head, first);
    for (word, to) in words.iter().zip(middle.as_chunks_mut().0) {
        *to = word.load(Ordering::Relaxed).to_ne_bytes();
    }
    copy_bytes(tail, last);
}

/// Copies fewer bytes than a word.
fn copy_bytes(bytes: &[UnsafeCell<u8>], buffer: &mut [u8]) {
    for (byte, to) in bytes.iter().zip(buffer) {
        // SAFETY: as in `copy`; a byte is always aligned, and the reference does not outlive `byte`.
        let byte = unsafe { AtomicU8::from_ptr(byte.get()) };
        *to = byte.load(Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alignment_and_length_is_copied() {
        let cells: Vec<_> = (0..80).map(UnsafeCell::new).collect();
        for start in 0..20 {
            for len in 0..60 {
                let mut buffer = vec![0xff; len];
                copy(&cells[start..start + len], &mut buffer);
                assert!((start..start + len).eq(buffer.iter().map(|b| usize::from(*b))));
            }
        }
    }

    struct Cells(Vec<UnsafeCell<u8>>);

    // SAFETY: nobody writes to them.
    unsafe impl Sync for Cells {}

    // SAFETY: they live as long as the handle, and nobody writes to them.
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
