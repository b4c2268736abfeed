//! A range of addresses in which a test can map anything.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr;

use rustix::mm::{Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags};

use super::page;

/// A range of addresses between two guard pages.
pub struct Area {
    pub start: *mut u8,
    pub len: usize,
}

impl Area {
    /// Maps private anonymous memory, and does not touch it.
    pub fn new(len: usize) -> Self {
        let len = len.next_multiple_of(page());
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let whole = len + 2 * page();
        // SAFETY: maps a new range of addresses.
        let start = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), whole, ProtFlags::empty(), flags).unwrap()
        };
        // SAFETY: the range that was just mapped.
        let area = Self { start: unsafe { start.cast::<u8>().add(page()) }, len };
        // SAFETY: nothing borrows the area yet.
        unsafe { area.protect(0..len, MprotectFlags::READ | MprotectFlags::WRITE) };
        area
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` are mapped for reading, and no test changes them while it borrows them.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.len);
        // SAFETY: within the area or at its end.
        unsafe { self.start.add(offset) }
    }

    /// Writes `byte` to every byte of `range`.
    pub fn fill(&self, range: Range<usize>, byte: u8) {
        assert!(range.end <= self.len);
        // SAFETY: within the area, and not borrowed while it is written.
        unsafe { self.at(range.start).write_bytes(byte, range.len()) };
    }

    /// Reads one byte of each page of `range`.
    pub fn touch(&self, range: Range<usize>) {
        for offset in range.step_by(page()) {
            // SAFETY: within the area.
            unsafe { self.at(offset).read_volatile() };
        }
    }

    pub fn advise(&self, range: Range<usize>, advice: Advice) -> io::Result<()> {
        // SAFETY: within the area, and not borrowed.
        Ok(unsafe { rustix::mm::madvise(self.at(range.start).cast(), range.len(), advice) }?)
    }

    pub unsafe fn protect(&self, range: Range<usize>, flags: MprotectFlags) {
        // SAFETY: within the area, and not borrowed.
        unsafe { rustix::mm::mprotect(self.at(range.start).cast(), range.len(), flags).unwrap() };
    }

    /// Replaces the mappings in `range` with new anonymous memory.
    pub fn map_anonymous(&self, range: Range<usize>, flags: MapFlags) {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = flags | MapFlags::FIXED | MapFlags::NORESERVE;
        let at = self.at(range.start).cast();
        // SAFETY: within the area, and not borrowed.
        unsafe { rustix::mm::mmap_anonymous(at, range.len(), protection, flags).unwrap() };
    }

    /// Replaces the mappings in `range` with a part of a file.
    pub fn map_file(&self, range: Range<usize>, file: impl AsFd, offset: usize, flags: MapFlags) {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let (at, flags) = (self.at(range.start).cast(), flags | MapFlags::FIXED);
        // SAFETY: within the area, and not borrowed.
        unsafe {
            rustix::mm::mmap(at, range.len(), protection, flags, file, offset as u64).unwrap()
        };
    }

    /// Moves the mapping at `from` to `to`, and maps new memory in its place.
    pub fn remap(&self, from: Range<usize>, to: usize) -> io::Result<()> {
        assert!(to + from.len() <= self.len);
        // SAFETY: both ranges are within the area, and not borrowed.
        unsafe {
            rustix::mm::mremap_fixed(
                self.at(from.start).cast(),
                from.len(),
                from.len(),
                MremapFlags::MAYMOVE,
                self.at(to).cast(),
            )?;
        }
        self.map_anonymous(from, MapFlags::PRIVATE);
        Ok(())
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the area and its two guard pages, which no borrow outlives.
        unsafe {
            let start = self.start.sub(page()).cast();
            rustix::mm::munmap(start, self.len + 2 * page()).unwrap();
        }
    }
}

// SAFETY: an area is a range of addresses, which are the same for every thread. A test uses it in one thread at a time.
unsafe impl Send for Area {}
