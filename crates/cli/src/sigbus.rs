//! The handler for SIGBUS, which the kernel sends when a page of a mapped file cannot be read, and when a guest writes to
//! a page of a snapshot.
//!
//! # Problem
//!
//! The tool maps large files. If another process truncates such a file, or a sector of its disk is bad, the next access
//! to the page raises SIGBUS and kills the process, without a message and without cleaning up. Checking the file first
//! is no protection: it can change at any time.
//!
//! # Solution
//!
//! The handler maps a page of zeros over the page that failed and records its address. The access runs again and
//! succeeds, and the work continues until it checks for lost pages. [`lost_ranges`] then returns the replaced ranges,
//! so that the caller can fail or, when salvaging, report them. The signal does not tell the cause. The caller examines
//! the file to find out whether it was truncated or cannot be read ([`Watch::cause`](crate::input::Watch::cause)).
//!
//! The handler runs at any instruction, so it must not allocate, lock or panic. All of its state is in [`MappedFiles`],
//! which is built before the handler is installed. Afterwards only atomics in it change.
//!
//! # Snapshots
//!
//! A fault in a snapshot comes first: the library copies the page aside and the write runs again
//! ([`corestream::snapshot::handle_sigbus`]). It also recognizes a fault whose snapshot has just ended.
//!
//! # Cost
//!
//! Pages are replaced one at a time, so that a bad sector costs only its own page. If that fails, the handler tries the
//! sizes of huge pages, because the mapping of a hugetlbfs file can only be replaced in huge pages.
//!
//! Each replaced page can split a mapping, and the number of mappings of a process is limited (`vm.max_map_count`,
//! 65,530 by default). After [`MAX_SINGLE_PAGES`] pages, or if no single page can be replaced, the handler therefore
//! replaces the rest of the file at once.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// The maximum number of pages that are replaced one at a time: 64 MiB, or more with huge pages.
const MAX_SINGLE_PAGES: usize = 16_384;

/// The page sizes that a file of hugetlbfs can have. Its mapping cannot be replaced in smaller parts.
const HUGE_PAGE_SIZES: [usize; 2] = [2 << 20, 1 << 30];

/// The state of the handler. It is built before the handler is installed; afterwards only its atomics change.
struct MappedFiles {
    /// The addresses of the mapped files, in whole pages.
    mapped: Vec<Range<usize>>,
    page: usize,
    /// A flag to set when a page is replaced.
    stop: Option<Arc<AtomicBool>>,
    /// The number of times that the handler replaced pages.
    count: AtomicUsize,
    /// The replaced ranges: [`MAX_SINGLE_PAGES`] entries for single pages, then one entry per file for the rest of it.
    replaced: Box<[ReplacedRange]>,
}

/// A range of replaced addresses, empty at first.
struct ReplacedRange {
    start: AtomicUsize,
    end: AtomicUsize,
}

impl ReplacedRange {
    fn new() -> Self {
        Self { start: AtomicUsize::new(usize::MAX), end: AtomicUsize::new(0) }
    }

    /// Extends the range to include `addresses`, and all addresses between. Two threads may call this at once.
    fn extend(&self, addresses: &Range<usize>) {
        self.start.fetch_min(addresses.start, Ordering::AcqRel);
        self.end.fetch_max(addresses.end, Ordering::AcqRel);
    }

    fn addresses(&self) -> Range<usize> {
        self.start.load(Ordering::Acquire)..self.end.load(Ordering::Acquire)
    }
}

static FILES: OnceLock<MappedFiles> = OnceLock::new();

/// Installs the handler for these mapped files. From now on, a page that cannot be read contains zeros, and sets
/// `stop`.
///
/// Only the first call in a process has an effect.
pub fn install<'m>(files: impl Iterator<Item = &'m [u8]>, stop: Option<Arc<AtomicBool>>) {
    let page = rustix::param::page_size();
    let mapped = files.filter(|bytes| !bytes.is_empty()).map(|bytes| {
        let start = bytes.as_ptr().addr();
        start..(start + bytes.len()).next_multiple_of(page)
    });
    let mapped: Vec<_> = mapped.collect();
    let entries = (0..MAX_SINGLE_PAGES).chain(0..mapped.len());
    let replaced = entries.map(|_| ReplacedRange::new()).collect();
    let count = AtomicUsize::new(0);
    if FILES.set(MappedFiles { mapped, page, stop, count, replaced }).is_err() {
        // The handler is installed already: a process runs one command.
        return;
    }
    install_handler();
}

/// Installs the handler for the snapshots of a guest. From now on, `Faults::Signal` may be used.
#[cfg(feature = "run")]
pub fn install_for_snapshots() {
    install(std::iter::empty(), None);
}

fn install_handler() {
    let action: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) = on_sigbus;
    // SAFETY: `sigaction` is a C struct for which zeros are valid: no flags, an empty mask. The handler is
    // async-signal-safe: `handle_sigbus` may be called in a handler. Otherwise it reads `FILES`, which is initialized and
    // in which only atomics change, and makes system calls; it neither allocates nor locks, and cannot panic. It replaces the standard library's handler, which
    // reports stack overflows, and does not call it: that handler would restore the default action and so remove this
    // handler too. If `sigaction` fails, a SIGBUS kills the process, as the contract of the library allows.
    unsafe {
        let mut new: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = action as *const () as libc::sighandler_t;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &raw const new, std::ptr::null_mut());
    }
}

/// Returns whether any page of any file was replaced.
pub fn has_lost_pages() -> bool {
    FILES.get().is_some_and(|files| files.count.load(Ordering::Acquire) > 0)
}

/// Returns the ranges of a mapped file that were replaced by zeros, in order. Adjacent ranges are merged.
pub fn lost_ranges(file: &[u8]) -> Vec<Range<u64>> {
    let Some(files) = FILES.get() else { return Vec::new() };
    let base = file.as_ptr().addr();
    let entries =
        files.replaced.iter().map(ReplacedRange::addresses).filter_map(|Range { start, end }| {
            let from = start.max(base).checked_sub(base)?;
            let to = end.checked_sub(base)?.min(file.len());
            (from < to).then_some(from as u64..to as u64)
        });
    let mut ranges: Vec<Range<u64>> = entries.collect();
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    ranges.dedup_by(|next, range| {
        let touches = next.start <= range.end;
        if touches {
            range.end = range.end.max(next.end);
        }
        touches
    });
    ranges
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`, which contains the address for a SIGBUS.
    let address = unsafe { (*info).si_addr() };
    if corestream::snapshot::handle_sigbus(address.addr()) {
        return;
    }
    if !replace_page(address) {
        // The fault is not in one of the files: restore the default action. The instruction runs again, and the signal
        // kills the process as it would without a handler.
        // SAFETY: `signal` is async-signal-safe.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Maps zeros over the page of `address`. Returns whether that succeeded; it fails if no file contains the address.
fn replace_page(address: *mut c_void) -> bool {
    let Some(files) = FILES.get() else { return false };
    let at = address.addr() & !(files.page - 1);
    let Some(i) = files.mapped.iter().position(|file| file.contains(&at)) else { return false };
    let file = &files.mapped[i];
    let number = files.count.fetch_add(1, Ordering::AcqRel);
    let mut addresses = at..at + files.page;
    let mut done = number < MAX_SINGLE_PAGES && map_zeros(address, &addresses);
    for huge in HUGE_PAGE_SIZES {
        if !done
            && number < MAX_SINGLE_PAGES
            && let Some(page) = huge_page(file, at, huge)
        {
            addresses = page;
            done = map_zeros(address, &addresses);
        }
    }
    let mut entry = number;
    if !done {
        (addresses, entry) = (at..file.end, MAX_SINGLE_PAGES + i);
        done = map_zeros(address, &addresses);
    }
    if let Some(entry) = files.replaced.get(entry) {
        entry.extend(&addresses);
    }
    if let Some(stop) = &files.stop {
        stop.store(true, Ordering::Release);
    }
    done
}

/// Returns the huge page of `at`, or `None` if it extends past the mapping of the file. Such a page is not a huge page:
/// the length of a file of hugetlbfs is a multiple of its page size.
fn huge_page(file: &Range<usize>, at: usize, len: usize) -> Option<Range<usize>> {
    let start = at & !(len - 1);
    let end = start.checked_add(len)?;
    (file.start <= start && end <= file.end).then_some(start..end)
}

/// Maps zeros at `addresses`, which must lie in the mapping of a file. Returns whether that succeeded.
fn map_zeros(address: *mut c_void, addresses: &Range<usize>) -> bool {
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    // SAFETY: the range lies in the mapping of a file, which lives as long as the work on it, so no other memory is
    // replaced. The mapping is read-only and is only read as bytes, for which zeros are valid. `lost_ranges` reports
    // them.
    let mapped = unsafe {
        mmap_anonymous(address.with_addr(addresses.start), addresses.len(), ProtFlags::READ, flags)
    };
    mapped.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_a_huge_page_that_extends_past_the_file() {
        const HUGE: usize = 2 << 20;
        let file = 3 * HUGE..5 * HUGE + 4096;
        assert_eq!(huge_page(&file, 3 * HUGE, HUGE), Some(3 * HUGE..4 * HUGE));
        assert_eq!(huge_page(&file, 5 * HUGE - 4096, HUGE), Some(4 * HUGE..5 * HUGE));
        // At the end of the file, and at its start.
        assert_eq!(huge_page(&file, 5 * HUGE, HUGE), None);
        assert_eq!(huge_page(&(3 * HUGE + 4096..5 * HUGE), 3 * HUGE + 4096, HUGE), None);
        assert_eq!(huge_page(&(0..usize::MAX), usize::MAX - 4096, HUGE), None);
    }
}
