//! SIGBUS: what the kernel sends when a page of a mapped file can't be read. The handler puts a page of zeros
//! there and notes where it did, so that the work goes on or ends with an error that says what happened.
//!
//! There are two causes, which the signal does not tell apart: the file has become shorter, or its medium
//! fails. [`lost`] returns the ranges; the caller examines the file to tell the causes apart. One page is replaced at a time, so that
//! a bad sector costs no more than itself. After [`MOST`] of them the rest of the file is replaced at once:
//! each may cost a mapping, and a process may have no more than some ten thousands.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// Pages that are replaced one by one: 64 MiB, or more where pages are huge.
const MOST: usize = 16_384;

/// Sizes of pages that a file of hugetlbfs may have: its mapping can't be replaced in smaller parts.
const HUGE: [usize; 2] = [2 << 20, 1 << 30];

/// What the handler may look at: made before it is installed, and changed only by its atomics.
struct Files {
    /// The addresses at which files are mapped, whole pages.
    mapped: Vec<Range<usize>>,
    page: usize,
    /// Set when a page was replaced, if that is to end the work.
    stop: Option<Arc<AtomicBool>>,
    /// Pages that were replaced.
    count: AtomicUsize,
    /// The addresses of what was replaced: [`MOST`] single pages, and what was replaced at once of each file.
    replaced: Box<[Replaced]>,
}

/// Addresses that were replaced; none at first.
struct Replaced {
    start: AtomicUsize,
    end: AtomicUsize,
}

impl Replaced {
    fn new() -> Self {
        Self { start: AtomicUsize::new(usize::MAX), end: AtomicUsize::new(0) }
    }

    /// Adds what lies between the addresses too. Two threads may do so at once.
    fn extend(&self, addresses: &Range<usize>) {
        self.start.fetch_min(addresses.start, Ordering::AcqRel);
        self.end.fetch_max(addresses.end, Ordering::AcqRel);
    }

    fn addresses(&self) -> Range<usize> {
        self.start.load(Ordering::Acquire)..self.end.load(Ordering::Acquire)
    }
}

static FILES: OnceLock<Files> = OnceLock::new();

/// Survives mapped files that can't be read from now on: a page that can't be reads as zeros, and sets
/// `stop`.
pub fn survive<'m>(files: impl Iterator<Item = &'m [u8]>, stop: Option<Arc<AtomicBool>>) {
    let page = rustix::param::page_size();
    let mapped = files.filter(|bytes| !bytes.is_empty()).map(|bytes| {
        let start = bytes.as_ptr().addr();
        start..(start + bytes.len()).next_multiple_of(page)
    });
    let mapped: Vec<_> = mapped.collect();
    let replaced = (0..MOST).chain(0..mapped.len()).map(|_| Replaced::new()).collect();
    let count = AtomicUsize::new(0);
    if FILES.set(Files { mapped, page, stop, count, replaced }).is_err() {
        // It is there already: one process runs one command.
        return;
    }
    let action: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) = handle;
    // SAFETY: `sigaction` is a C struct for which zeros are valid: no flags, an empty mask. The
    // handler does what may be done in one: it reads `FILES`, which is complete and of which only
    // atomics are written to any more, and makes system calls; it neither allocates nor locks, and
    // can't panic. That of the standard library, for stacks that overflow, is replaced and not
    // called: it would take itself and this one away for the next time. Where installing fails, the
    // process is killed, as the library's contract says.
    unsafe {
        let mut new: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = action as *const () as libc::sighandler_t;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &raw const new, std::ptr::null_mut());
    }
}

/// Returns whether any page of any file was replaced.
pub fn has_lost() -> bool {
    FILES.get().is_some_and(|files| files.count.load(Ordering::Acquire) > 0)
}

/// Returns the bytes of a mapped file that were replaced by zeros, in order; ranges that touch are one.
pub fn lost(file: &[u8]) -> Vec<Range<u64>> {
    let Some(files) = FILES.get() else { return Vec::new() };
    let base = file.as_ptr().addr();
    let entries =
        files.replaced.iter().map(Replaced::addresses).filter_map(|Range { start, end }| {
            let from = start.max(base).checked_sub(base)?;
            let to = end.checked_sub(base)?.min(file.len());
            (from < to).then_some(from as u64..to as u64)
        });
    let mut ranges: Vec<Range<u64>> = entries.collect();
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    ranges.dedup_by(|next, range| {
        let one = next.start <= range.end;
        if one {
            range.end = range.end.max(next.end);
        }
        one
    });
    ranges
}

extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`, and that of a SIGBUS has the address.
    let address = unsafe { (*info).si_addr() };
    if !replace(address) {
        // SAFETY: may be called in a handler. Not about one of the files: the instruction runs again and
        // the process is killed, as it is without a handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Maps zeros over the page of `address`; false if it is in no file.
fn replace(address: *mut c_void) -> bool {
    let Some(files) = FILES.get() else { return false };
    let at = address.addr() & !(files.page - 1);
    let Some(i) = files.mapped.iter().position(|file| file.contains(&at)) else { return false };
    let file = &files.mapped[i];
    let number = files.count.fetch_add(1, Ordering::AcqRel);
    let mut addresses = at..at + files.page;
    let mut done = number < MOST && map_zeros(address, &addresses);
    for huge in HUGE {
        if !done
            && number < MOST
            && let Some(page) = huge_page(file, at, huge)
        {
            addresses = page;
            done = map_zeros(address, &addresses);
        }
    }
    let mut entry = number;
    if !done {
        (addresses, entry) = (at..file.end, MOST + i);
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

/// The huge page of `at`, unless it reaches beyond the mapping of the file: then it is none, because files of hugetlbfs
/// are whole pages long.
fn huge_page(file: &Range<usize>, at: usize, len: usize) -> Option<Range<usize>> {
    let start = at & !(len - 1);
    let end = start.checked_add(len)?;
    (file.start <= start && end <= file.end).then_some(start..end)
}

/// Maps zeros at `addresses`, which lie in the mapping of a file.
fn map_zeros(address: *mut c_void, addresses: &Range<usize>) -> bool {
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    // SAFETY: the range lies in the mapping of a file, which lives as long as the work on it. Its bytes can't be read,
    // and zeros in their place harm nobody: the mapping is read as bytes, nobody writes to it, and `lost` reports the
    // zeros.
    let mapped = unsafe {
        mmap_anonymous(address.with_addr(addresses.start), addresses.len(), ProtFlags::READ, flags)
    };
    mapped.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_huge_page_reaches_beyond_its_file() {
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
