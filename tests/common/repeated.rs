//! Memories of many gigabytes that take little memory.
#![allow(unsafe_code, reason = "mappings of one memfd")]
#![allow(dead_code, reason = "each test uses its part")]

use std::ffi::c_void;
use std::fs::File;
use std::io::Write;
use std::ptr;

use rustix::mm::{MapFlags, ProtFlags};

/// A memory of `len` bytes that repeats the bytes of one memfd.
pub struct Repeated {
    start: *mut c_void,
    len: usize,
}

impl Repeated {
    /// Returns a memory that repeats `part`.
    pub fn new(part: &[u8], len: usize) -> Self {
        Self::between(part, part, part, len)
    }

    /// Returns a memory that begins with `first`, ends with `last` if its length is a multiple of that of the parts, and
    /// repeats `part` between them. All parts have the same length.
    pub fn between(first: &[u8], part: &[u8], last: &[u8], len: usize) -> Self {
        assert!(first.len() == part.len() && last.len() == part.len());
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let mut memfd = File::from(rustix::fs::memfd_create("repeated", flags).unwrap());
        for part in [first, part, last] {
            memfd.write_all(part).unwrap();
        }
        let (none, private) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: reserves a new range of addresses.
        let start =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, none, private) }.unwrap();
        for offset in (0..len).step_by(part.len()) {
            let part_len = part.len().min(len - offset);
            let index = match offset {
                0 => 0,
                _ if offset + part.len() == len => 2,
                _ => 1,
            };
            let at_part = index * part.len() as u64;
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            // SAFETY: replaces a part of the range that was reserved above.
            let mapped = unsafe {
                let at = start.cast::<u8>().add(offset).cast();
                rustix::mm::mmap(at, part_len, ProtFlags::READ, flags, &memfd, at_part)
            };
            mapped.unwrap();
        }
        Self { start, len }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` are mapped for reading while `self` lives. The descriptor that could write
        // to them is closed.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }
}

impl Drop for Repeated {
    fn drop(&mut self) {
        // SAFETY: `self` owns the range, and no borrow of it outlives `self`.
        unsafe { rustix::mm::munmap(self.start, self.len) }.unwrap();
    }
}
