//! Which pages of private anonymous memory may hold data: those that are present or swapped.
//!
//! Source: `Documentation/admin-guide/mm/pagemap.rst` of Linux.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "addresses are those of memory that is there, in ranges that hold them: far below 2^64; \
              a page has bytes"
)]

use std::ops::Range;

use rustix::io::Errno;

use super::proc::{Pagemap, Region};
use crate::arithmetic::at_most;
use crate::image::method::ExtentMethod;

/// Regions that one `PAGEMAP_SCAN` gives at most; the kernel collects no more at once either.
const REGIONS: usize = 512;
/// Pages that one `PAGEMAP_SCAN` finds at most: those of a batch of the scan. The other threads wait
/// for the call, and it is short beside the time in which they scan one.
const FOUND_PAGES: u64 = 512;
/// Bytes that one `PAGEMAP_SCAN` looks at, so that it does not take long either where page tables
/// say that there is nothing.
const WINDOW: u64 = 1 << 30;
/// Bytes of entries that are read from the pagemap at once: those of 32 MiB.
const ENTRY_BYTES: usize = 64 << 10;
/// Bits of an entry of the pagemap: the page is present, or swapped.
const PRESENT_OR_SWAPPED: u64 = 1 << 63 | 1 << 62;

/// Finds the pages that may hold data, in the order of their addresses.
pub(super) struct Pages<'k> {
    pagemap: &'k Pagemap,
    method: ExtentMethod,
    page_size: u64,
    /// What the kernel has told and was not asked for yet, in order.
    told: Vec<Region>,
    next: usize,
    /// Up to which address it has told.
    told_to: u64,
    entries: Vec<u8>,
}

impl<'k> Pages<'k> {
    /// By `method`, which is one for pages; of `page_size` bytes each.
    pub(super) fn new(pagemap: &'k Pagemap, method: ExtentMethod, page_size: u64) -> Self {
        let (told, entries) = (Vec::new(), Vec::new());
        Self { pagemap, method, page_size, told, next: 0, told_to: 0, entries }
    }

    /// The first part of `range`, which lies in one mapping and does not start below the one before,
    /// that may hold data; `None` if there is none.
    pub(super) fn next(&mut self, range: Range<u64>) -> Option<Range<u64>> {
        loop {
            while let Some(region) = self.told.get(self.next) {
                let part = region.start.max(range.start)..region.end.min(range.end);
                if !part.is_empty() {
                    return Some(part);
                }
                // The kernel may tell of a page twice.
                self.next += 1;
            }
            let start = self.told_to.max(range.start - range.start % self.page_size);
            if start >= range.end {
                return None;
            }
            let end = range.end.min(start + WINDOW);
            self.ask(start..end.next_multiple_of(self.page_size));
        }
    }

    /// Frees the buffers.
    pub(super) fn close(&mut self) {
        (self.told, self.entries) = (Vec::new(), Vec::new());
    }

    /// Asks about whole pages; what the kernel doesn't tell is data.
    fn ask(&mut self, pages: Range<u64>) {
        self.next = 0;
        let told_to = match self.method {
            ExtentMethod::PagemapScan => self.scan(&pages),
            _ => self.read(&pages),
        };
        self.told_to = match told_to {
            Some(told_to) if told_to > pages.start => told_to.min(pages.end),
            _ => {
                self.told.clear();
                self.told.push(pages.clone().into());
                pages.end
            }
        };
    }

    /// Fills `told` by `PAGEMAP_SCAN`; gives up to where, `None` if it failed.
    fn scan(&mut self, pages: &Range<u64>) -> Option<u64> {
        self.told.clear();
        self.told.resize(REGIONS, Region::default());
        let (count, walk_end) = loop {
            match self.pagemap.scan(pages.clone(), FOUND_PAGES, &mut self.told) {
                Err(Errno::INTR) => {}
                other => break other.ok()?,
            }
        };
        self.told.truncate(count);
        if walk_end >= pages.end {
            return Some(pages.end);
        }
        // It stopped because it had found enough: what follows the last was not looked at.
        self.told.last().map(|last| walk_end.min(last.end))
    }

    /// Fills `told` from the entries of the pagemap; gives up to where, `None` if it failed.
    fn read(&mut self, pages: &Range<u64>) -> Option<u64> {
        self.told.clear();
        // Without room for them, all of it is data.
        self.entries.try_reserve_exact(ENTRY_BYTES - self.entries.len()).ok()?;
        self.entries.resize(ENTRY_BYTES, 0);
        let page = pages.start / self.page_size;
        let wanted = at_most(pages.end / self.page_size - page, ENTRY_BYTES / 8) * 8;
        let read = loop {
            match self.pagemap.read(page, self.entries.get_mut(..wanted).unwrap_or_default()) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other.ok()?,
            }
        };
        let (entries, _) = self.entries.get(..read).unwrap_or_default().as_chunks::<8>();
        let address = |index: usize| pages.start + index as u64 * self.page_size;
        let mut at = 0;
        // By ranges that are alike: most of a memory is, one way or the other.
        for alike in entries.chunk_by(|a, b| is_somewhere(*a) == is_somewhere(*b)) {
            let range = address(at)..address(at + alike.len());
            at += alike.len();
            if alike.first().is_some_and(|entry| is_somewhere(*entry)) {
                self.told.push(range.into());
            }
        }
        Some(address(at))
    }
}

/// Whether the page of an entry is present or swapped.
pub(super) fn is_somewhere(entry: [u8; 8]) -> bool {
    u64::from_ne_bytes(entry) & PRESENT_OR_SWAPPED != 0
}
