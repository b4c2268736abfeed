//! An allocator that counts the bytes of each thread.
#![allow(unsafe_code, reason = "implements an allocator on top of the system allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// The bytes that this thread has allocated and not freed.
    static HELD: Cell<i64> = const { Cell::new(0) };
    /// The peak of these bytes.
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

/// The system allocator with counts.
pub struct Counting;

/// Adds to the bytes of this thread.
fn add(bytes: i64) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

/// Converts a size for [`add`].
fn size(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

// SAFETY: passes every call on to the system allocator. Counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(size(layout.size()));
        // SAFETY: the caller's duties are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(size(layout.size()));
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        add(-size(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        // While the bytes are moved, both allocations exist.
        add(size(new));
        // SAFETY: as above.
        let moved = unsafe { System.realloc(ptr, layout, new) };
        add(-size(layout.size()));
        moved
    }
}

/// Runs `work`. Returns its result, and the peak of the bytes that it has allocated in this thread, which is 0 if
/// [`Counting`] is not the allocator.
pub fn peak<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = HELD.get();
    PEAK.set(before);
    let value = work();
    (value, (PEAK.get() - before).unsigned_abs())
}
