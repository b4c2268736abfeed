//! SIGBUS: what the kernel sends when a page of a mapped file can't be read. The handler puts a page of zeros
//! there and notes where it did, so that the work goes on or ends with an error that says what happened.
//!
//! There are two causes, which the signal does not tell apart: the file has become shorter, or its medium
//! fails. [`lost`] gives the places, and who asks looks at the file. One page is replaced at a time, so that
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
    /// Their first addresses and the bytes that were replaced from there on.
    pages: Box<[(AtomicUsize, AtomicUsize)]>,
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
    // One more for what is replaced at once.
    let pages = (0..=MOST).map(|_| Default::default()).collect();
    let count = AtomicUsize::new(0);
    if FILES.set(Files { mapped, page, stop, count, pages }).is_err() {
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
    let known = files.count.load(Ordering::Acquire).min(files.pages.len());
    let entries = files.pages.iter().take(known).filter_map(|(start, len)| {
        let (start, len) = (start.load(Ordering::Acquire), len.load(Ordering::Acquire));
        let from = start.max(base).checked_sub(base)?;
        let to = (start + len).checked_sub(base)?.min(file.len());
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
    let Some(file) = files.mapped.iter().find(|file| file.contains(&at)) else { return false };
    let entry = files.count.fetch_add(1, Ordering::AcqRel);
    let (mut start, mut len) = (at, files.page);
    let mut done = entry < MOST && map_zeros(address, start, len);
    for huge in HUGE {
        if !done && entry < MOST {
            (start, len) = (at & !(huge - 1), huge);
            done = file.start <= start && map_zeros(address, start, len);
        }
    }
    if !done {
        (start, len) = (at, file.end - at);
        done = map_zeros(address, start, len);
    }
    if let Some((known, bytes)) = files.pages.get(entry.min(MOST)) {
        // Of several at once, the one that begins first.
        let first = match known.load(Ordering::Acquire) {
            0 => start,
            first => first.min(start),
        };
        known.store(first, Ordering::Release);
        bytes.store(bytes.load(Ordering::Acquire).max(start + len - first), Ordering::Release);
    }
    if let Some(stop) = &files.stop {
        stop.store(true, Ordering::Release);
    }
    done
}

/// Maps zeros from `start` on, an address in the mapping of a file.
fn map_zeros(address: *mut c_void, start: usize, len: usize) -> bool {
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    // SAFETY: the range lies in the mapping of a file, which lives as long as the work on it, and of which
    // a mapping of huge pages is a multiple of them long. Its bytes can't be read, and zeros in their place
    // harm nobody: the mapping is read as bytes, nobody writes to it, and where zeros are is told.
    let mapped = unsafe { mmap_anonymous(address.with_addr(start), len, ProtFlags::READ, flags) };
    mapped.is_ok()
}
