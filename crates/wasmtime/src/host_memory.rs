//! Memories for Wasmtime that never move, and that a snapshot can own together with the engine.
//!
//! # The problem
//! A snapshot reads the memory of a guest while the guest runs, so the memory must stay where it is. The engine's own
//! memories may be unmapped, moved, reused for another guest or mapped from a file, depending on its configuration.
//!
//! # The idea
//! [`HostMemories`] makes the memories instead ([`Config::with_host_memory`](wasmtime::Config::with_host_memory)). Each is
//! one reservation of addresses, of which the accessible part grows in place. The engine and the snapshots that were
//! prepared share its ownership, and the last one unmaps it.
//!
//! Source: the contract of [`MemoryCreator`] and `src/runtime/trampoline/memory.rs` of Wasmtime 48.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use corestream::Result;
use corestream::snapshot::{LiveMemory, Preparation, SnapshotOptions};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// The maximum number of addresses for a memory with 64-bit addresses, which cannot grow further: 64 GiB.
const MAX_RESERVATION: usize = 64 << 30;
/// The maximum size of a memory with 32-bit addresses: 4 GiB.
const MAX_MEMORY32: usize = 4 << 30;

/// Makes memories that never move, and prepares snapshots of them.
///
/// Use one value for each guest, because [`prepare`](Self::prepare) protects all memories that it has made. Shared
/// memories of WebAssembly are made by the engine itself.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
///
/// use corestream_wasmtime::HostMemories;
/// use wasmtime::{Config, Engine};
///
/// let memories = Arc::new(HostMemories::new());
/// let mut config = Config::new();
/// // Wasmtime cannot map the initial contents of a module into the memories of a host.
/// config.with_host_memory(memories.clone()).memory_init_cow(false);
/// let engine = Engine::new(&config)?;
/// # Ok(())
/// # }
/// ```
///
/// The pooling allocator ignores them: it has memories of its own.
#[derive(Debug, Default)]
pub struct HostMemories {
    made: Mutex<Vec<Weak<Reservation>>>,
}

impl HostMemories {
    /// Returns a creator that has made no memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn made(&self) -> MutexGuard<'_, Vec<Weak<Reservation>>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Protects all memories that exist now. Apart from the contract it is like [`SnapshotOptions::prepare`].
    ///
    /// # Errors
    /// Returns the errors of [`SnapshotOptions::prepare`].
    ///
    /// # Safety
    /// The memories stay mapped and never move until the snapshot has ended, even if the guest grows them and if its
    /// store is dropped. The rest of the contract of [`SnapshotOptions::prepare`] concerns the host's own code. It must not
    ///
    /// - discard or remap parts of the memories, for example with `MADV_DONTNEED`,
    /// - let the kernel write to pages of the memories that were pinned before: by io_uring with registered buffers, by
    ///   `O_DIRECT`, or by RDMA,
    /// - with [`Faults::Signal`](corestream::snapshot::Faults::Signal), let any system call write to the memories. The
    ///   handler for SIGBUS must be installed.
    pub unsafe fn prepare(&self, options: &SnapshotOptions) -> Result<Preparation> {
        let reservations: Vec<Arc<Reservation>> = {
            let mut made = self.made();
            made.retain(|reservation| reservation.strong_count() > 0);
            made.iter().filter_map(Weak::upgrade).collect()
        };
        let live = reservations.iter().map(|reservation| {
            LiveMemory::new(reservation.start.cast_const(), reservation.len.load(Ordering::Acquire))
        });
        let live: Vec<_> = live.collect();
        let mut options = options.clone();
        for reservation in reservations {
            options = options.keep_alive(reservation);
        }
        // SAFETY: the preparation owns the reservations, which are private anonymous mappings that only `Drop` unmaps.
        // The caller guarantees the rest.
        unsafe { options.prepare(&live) }
    }
}

// SAFETY: every memory is zero and never moves. The addresses after its accessible part, up to the end of the
// reservation, are inaccessible. The reservation has at least `guard` bytes more than the memory can have.
unsafe impl MemoryCreator for HostMemories {
    fn new_memory(
        &self,
        ty: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let most = if ty.is_64() { MAX_RESERVATION } else { MAX_MEMORY32 };
        let wanted = maximum.map_or(most, |maximum| maximum.min(most)).max(minimum);
        let capacity = wanted.max(reserved.unwrap_or(0));
        let reservation = Arc::new(Reservation::new(capacity, guard)?);
        let mut memory = HostMemory { reservation };
        memory.grow_to(minimum).map_err(|error| error.to_string())?;
        self.made().push(Arc::downgrade(&memory.reservation));
        Ok(Box::new(memory))
    }
}

/// A memory of the engine.
struct HostMemory {
    reservation: Arc<Reservation>,
}

// SAFETY: `as_ptr` is the start of the reservation, which exists as long as this value and never moves. The first
// `byte_size` bytes of it are accessible, and growing makes more of it accessible in place, up to `byte_capacity`.
unsafe impl LinearMemory for HostMemory {
    fn byte_size(&self) -> usize {
        self.reservation.len.load(Ordering::Acquire)
    }

    fn byte_capacity(&self) -> usize {
        self.reservation.capacity
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        self.reservation.grow_to(new_size).map_err(wasmtime::Error::msg)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.reservation.start
    }
}

/// Reserved addresses, of which the first part is accessible.
#[derive(Debug)]
struct Reservation {
    start: *mut u8,
    /// The number of reserved bytes, in whole pages.
    reserved: usize,
    /// The maximum number of accessible bytes.
    capacity: usize,
    /// The number of bytes of the memory.
    len: AtomicUsize,
}

// SAFETY: the fields do not change, except the atomic length. Access to the bytes is the business of the engine and of
// snapshots.
unsafe impl Send for Reservation {}
// SAFETY: as above.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `capacity` bytes and inaccessible `guard` bytes after them.
    fn new(capacity: usize, guard: usize) -> Result<Self, String> {
        let page = rustix::param::page_size();
        let reserved =
            capacity.checked_add(guard).and_then(|len| len.checked_next_multiple_of(page));
        let reserved = reserved.ok_or("a memory is larger than the address space")?.max(page);
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), reserved, ProtFlags::empty(), flags) };
        let start = start.map_err(|errno| format!("cannot reserve {reserved} bytes: {errno}"))?;
        Ok(Self { start: start.cast(), reserved, capacity, len: AtomicUsize::new(0) })
    }

    /// Makes the first `len` bytes accessible.
    fn grow_to(&self, len: usize) -> Result<(), String> {
        let old = self.len.load(Ordering::Acquire);
        if len > self.capacity {
            return Err(format!(
                "the memory cannot grow to {len} bytes; it has addresses for {}",
                self.capacity
            ));
        }
        let page = rustix::param::page_size();
        let (from, to) = (old.next_multiple_of(page), len.next_multiple_of(page));
        if to > from {
            let flags = MprotectFlags::READ | MprotectFlags::WRITE;
            // SAFETY: the range lies in the reservation and was inaccessible until now, so no reference to it exists.
            // Only one caller at a time grows a memory, because `LinearMemory::grow_to` takes `&mut`.
            unsafe { mprotect(self.start.add(from).cast(), to - from, flags) }
                .map_err(|errno| format!("cannot grow a memory to {len} bytes: {errno}"))?;
        }
        self.len.store(len, Ordering::Release);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this value. Neither the engine nor a snapshot uses it any more, because each of
        // them owned a part of this value.
        let _ = unsafe { munmap(self.start.cast(), self.reserved) };
    }
}
