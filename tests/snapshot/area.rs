//! Raw mappings, which the tests write to by address.

use std::ptr;

use corestream::snapshot::LiveMemory;
use corestream::{CoreDump, CoreDumpFile, Memory, MemoryImage, MemoryType};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// The size in bytes of a page of the host.
pub const PAGE: usize = 4096;

/// A private anonymous mapping, of which the first part is accessible.
pub struct Area {
    pub start: *mut u8,
    reserved: usize,
    pub len: usize,
}

// SAFETY: the tests write to an area from one thread at a time.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    /// Returns an area of `len` accessible bytes, which are untouched.
    pub fn new(len: usize) -> Self {
        Self::reserve(len, len)
    }

    /// Returns an area of `len` accessible bytes in `reserved` bytes of addresses.
    pub fn reserve(reserved: usize, len: usize) -> Self {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping replaces nothing.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), reserved, ProtFlags::empty(), flags) };
        let mut this = Self { start: start.unwrap().cast(), reserved, len: 0 };
        this.grow(len);
        this
    }

    /// Gives up the addresses after the first `len` bytes. The caller has unmapped them, so other threads may use them.
    pub fn give_up(&mut self, len: usize) {
        self.reserved = len;
        self.len = len;
    }

    /// Makes the first `len` bytes accessible.
    pub fn grow(&mut self, len: usize) {
        let flags = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the range lies in the mapping.
        unsafe { mprotect(self.start.cast(), len, flags) }.unwrap();
        self.len = len;
    }

    pub fn live(&self) -> LiveMemory {
        LiveMemory::new(self.start, self.len)
    }

    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len);
        // SAFETY: the offset lies in the mapping.
        unsafe { self.start.add(offset) }
    }

    pub fn write(&self, offset: usize, value: u8) {
        // SAFETY: the byte is accessible, and only a snapshot accesses it besides.
        unsafe { self.at(offset).write_volatile(value) };
    }

    pub fn read(&self, offset: usize) -> u8 {
        // SAFETY: as above.
        unsafe { self.at(offset).read_volatile() }
    }

    /// Returns the bytes. They must not be written to as long as they are borrowed.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the bytes are accessible, and the caller does not write to them.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// Returns the bytes for system calls that write to them.
    #[allow(clippy::mut_from_ref, reason = "the tests borrow one part at a time")]
    pub fn part(&self, offset: usize, len: usize) -> &mut [u8] {
        assert!(offset + len <= self.len);
        // SAFETY: the part is accessible, and borrowed only once.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset), len) }
    }

    /// Describes a guest with these areas as its memories.
    pub fn dump<'a>(areas: &[&'a Self]) -> CoreDump<'a> {
        let mut dump = CoreDump::new("guest");
        for area in areas {
            let ty = MemoryType::wasm64(area.len as u64).with_page_size(1);
            dump.add_memory(Memory::new(ty, MemoryImage::from_slice(area.bytes())));
        }
        dump
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: no thread uses the mapping any more.
        let _ = unsafe { munmap(self.start.cast(), self.reserved) };
    }
}

/// Returns a byte of a memory of a dump.
pub fn byte(core: &[u8], memory: u32, offset: usize) -> u8 {
    let mut byte = [0];
    let dump = CoreDumpFile::from_slice(core).unwrap();
    dump.memory(memory.into()).unwrap().read(offset as u64, &mut byte).unwrap();
    byte[0]
}
