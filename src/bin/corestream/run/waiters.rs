//! Guests that wait in `memory.atomic.wait` at the time limit: they are woken, and stop at once (see
//! [`expose`](super::expose)).
//!
//! A parked thread goes on only when its address is notified. Nobody says which address that is, so all
//! of them are, on all pages that were ever touched: the guest has read where it waits. A notification
//! takes about 20 ns and touches no memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use wasmtime::{AsContextMut, Extern, Instance, SharedMemory};

/// How long to wait before the guest is woken again: it may have been about to wait.
const PAUSE: Duration = Duration::from_millis(20);
/// How many pages the kernel is asked about at once.
const PAGES: usize = 4096;

/// The shared memories that a guest may wait on.
#[derive(Clone, Default)]
pub struct Waiters {
    memories: Arc<Mutex<Vec<SharedMemory>>>,
}

impl Waiters {
    /// Adds the shared memories that an instance exports.
    pub fn add(&self, store: &mut impl AsContextMut, instance: Instance) {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        for export in instance.exports(store) {
            if let Extern::SharedMemory(memory) = export.into_extern() {
                memories.push(memory);
            }
        }
    }

    /// Wakes a guest that waits, again and again, until it is `over` or `end` has come.
    pub fn wake(&self, over: &AtomicBool, end: Instant) {
        let ends = || over.load(Ordering::Acquire) || Instant::now() >= end;
        while !ends() {
            let memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for memory in &memories {
                wake_on(memory, &ends);
            }
            thread::sleep(PAUSE);
        }
    }
}

fn wake_on(memory: &SharedMemory, ends: &impl Fn() -> bool) {
    let page = rustix::param::page_size();
    let (start, len) = (memory.data().as_ptr().addr(), memory.data_size());
    let pages = len.div_ceil(page);
    for first in (0..pages).step_by(PAGES) {
        let count = PAGES.min(pages - first);
        let touched = touched(start / page + first, count);
        for at in (0..count).filter(|at| touched.get(*at).copied().unwrap_or(true)) {
            if ends() {
                return;
            }
            let begin = (first + at) * page;
            // A wait is for 4 or 8 bytes at their natural alignment.
            for address in (begin..len.min(begin + page)).step_by(4) {
                let _ = memory.atomic_notify(address as u64, u32::MAX);
            }
        }
    }
}

/// Which of these pages of the process, by their numbers, were ever touched; empty if that is not known.
fn touched(first: usize, count: usize) -> Vec<bool> {
    let mut entries = vec![0; count * size_of::<u64>()];
    let read = File::open("/proc/self/pagemap")
        .and_then(|file| file.read_exact_at(&mut entries, (first * size_of::<u64>()) as u64));
    if read.is_err() {
        return Vec::new();
    }
    let (entries, _) = entries.as_chunks();
    // Bit 63: present, bit 62: swapped.
    entries.iter().map(|entry| u64::from_ne_bytes(*entry) >> 62 != 0).collect()
}
