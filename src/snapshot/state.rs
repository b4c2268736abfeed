//! The state of every page of a snapshot, and the rules by which it changes. No system calls and no locks.
//!
//! # The problem
//! A write to a protected page stops its thread and produces a fault. When a fault is handled, the page may be in
//! another state than when the fault was raised: the freeze may lie between the two, another thread may have written to
//! the same page, a signal may have raised the fault twice. A rule that trusts the fault lets a write through without a
//! copy, and the dump is a mixture of two moments.
//!
//! # The idea
//! A fault only says that a thread tries to write to a page. The state of the page at that time, under the mutex of the
//! snapshot, decides what happens:
//!
//! | phase | state | in the tables | a fault |
//! |---|---|---|---|
//! | preparing | protected | present | makes the page dirty, and unprotects it *before* the mutex is unlocked |
//! | preparing | dirty | present and open | unprotects it |
//! | frozen | protected | present | copies the page aside, and unprotects it after the mutex is unlocked |
//! | frozen | copied | present, open and in the copies | unprotects it |
//! | frozen | sent | present and open | unprotects it |
//! | any | not present | | unprotects it: the page is zero in the snapshot, or not a part of it |
//! | ended | | | unprotects it |
//!
//! While preparing, the decision and the unprotection must be one critical section. Otherwise the freeze could come
//! between them and see a dirty page, protect it again, and the late unprotection would let a write through.
//!
//! A page that is pinned by a reader does not change its state until the pin is gone, so the reader copies contents
//! that no thread changes.
//!
//! # The invariant
//! In the phase `Frozen`, a page that is present and not open has the contents of the moment of the freeze in place, and
//! is protected. A page that is open and not sent has them in the copies.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "page numbers are addresses divided by the page size; indices of memories come from this module"
)]

use std::ops::Range;

use rustix::io::Errno;

use super::bitmap::Bitmap;
use super::copies::Copies;
use super::options::AtLimit;
use crate::error::Result;

/// The maximum number of pages that one fault releases, when a thread writes pages one after the other.
const MAX_PAGES_PER_FAULT: u64 = 64;

/// At the freeze, dirty pages are copied aside one by one, unless this many are adjacent. One call protects adjacent
/// pages in less time than copying them takes.
const MIN_PROTECTED_RUN: usize = 8;

/// Reads pages of the live memory.
pub(super) trait PageReader {
    /// Copies page number `page` to `to`, which has the length of a page.
    fn read(&self, page: u64, to: &mut [u8]);
}

/// The phase of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// The memory is being protected, and the guest runs.
    Preparing,
    /// The view is fixed, and the guest runs.
    Frozen,
    /// Nothing may be read any more.
    Ended,
}

/// The reason for which a snapshot has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Failure {
    /// The guest wrote to more pages than there is room for.
    CopyLimit,
    /// Memory was unmapped, moved or discarded.
    Removed,
    /// The kernel refused to change a protection.
    Kernel(Errno),
    /// The thread that handles faults has ended.
    HandlerDied,
}

impl Failure {
    /// Returns the reason of a failed change of protection.
    pub(super) fn of(errno: Errno) -> Self {
        match errno {
            // A message about removed memory waits, or the mapping is gone.
            Errno::AGAIN | Errno::NOENT | Errno::INVAL => Self::Removed,
            errno => Self::Kernel(errno),
        }
    }
}

/// The response to a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The page belongs to no memory of the snapshot.
    Foreign,
    /// Unprotect these pages before the mutex is unlocked.
    UnprotectLocked(Range<u64>),
    /// Unprotect these pages after the mutex is unlocked.
    Unprotect(Range<u64>),
    /// Wait until the state changes, and judge the fault again.
    Wait,
    /// The snapshot has just failed. Judge the fault again.
    Failed,
}

/// A part of a memory that a reader may read in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stretch {
    /// Pages that are zero.
    Zeros(usize),
    /// Pages to read in place. They are pinned until [`State::unpin`].
    Pinned(usize, Pin),
    /// One page, whose contents are in the copies.
    Copied,
    /// Pages whose contents have been released.
    Released,
    /// All pins are in use.
    Busy,
}

/// The number of a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pin(usize);

/// The pages of one memory. They are numbered from 0 in the tables, and by address elsewhere.
pub(super) struct MemoryPages {
    /// The page numbers.
    pub(super) pages: Range<u64>,
    /// The pages with contents of the guest. All other pages are zero.
    pub(super) present: Bitmap,
    /// The pages that are not protected: dirty, copied or sent.
    pub(super) open: Bitmap,
    /// The pages before this index were released.
    released: usize,
    /// Whether the dump contains the memory.
    is_dumped: bool,
}

impl MemoryPages {
    pub(super) fn new(pages: Range<u64>) -> Result<Self> {
        let len = to_index(pages.end - pages.start);
        let (present, open) = (Bitmap::new(len)?, Bitmap::new(len)?);
        Ok(Self { pages, present, open, released: 0, is_dumped: true })
    }

    /// Records that all of these pages contain data, although they may not be populated.
    pub(super) fn add_data(&mut self, numbers: &Range<u64>) {
        self.present.insert(self.index(numbers.start)..self.index(numbers.end));
    }

    /// Forgets all pages, because the dump does not contain the memory. A write to them is not copied.
    pub(super) fn forget(&mut self) {
        self.is_dumped = false;
        self.present.remove(0..self.len());
        self.open.remove(0..self.len());
    }

    /// Returns whether the dump contains the memory.
    pub(super) fn is_dumped(&self) -> bool {
        self.is_dumped
    }

    /// Returns the number of pages.
    pub(super) fn len(&self) -> usize {
        to_index(self.pages.end - self.pages.start)
    }

    /// Extends the memory to the page number `end`.
    pub(super) fn grow(&mut self, end: u64) -> Result<()> {
        let len = to_index(end - self.pages.start);
        (self.present, self.open) = (self.present.grown(len)?, self.open.grown(len)?);
        self.pages.end = end;
        Ok(())
    }

    /// Returns the index of a page number.
    pub(super) fn index(&self, page: u64) -> usize {
        to_index(page - self.pages.start)
    }

    /// Returns the page numbers of indices.
    pub(super) fn numbers(&self, indices: &Range<usize>) -> Range<u64> {
        self.pages.start + indices.start as u64..self.pages.start + indices.end as u64
    }
}

/// Returns a page number or a count of pages as an index. A process has fewer pages than addresses.
pub(super) fn to_index(pages: u64) -> usize {
    usize::try_from(pages).unwrap_or(usize::MAX)
}

/// The state of a snapshot.
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) failure: Option<Failure>,
    pub(super) memories: Vec<MemoryPages>,
    pub(super) copies: Copies,
    at_limit: AtLimit,
    /// The pinned page numbers.
    pins: Vec<Option<Range<u64>>>,
    /// The page after those that the last fault has released since the freeze, and their number.
    last_fault: (u64, u64),
    /// The number of pages that faults have copied aside since the freeze.
    pub(super) copied_by_faults: u64,
}

impl State {
    pub(super) fn new(
        memories: Vec<MemoryPages>,
        copies: Copies,
        at_limit: AtLimit,
        pins: usize,
    ) -> Self {
        Self {
            phase: Phase::Preparing,
            failure: None,
            memories,
            copies,
            at_limit,
            pins: vec![None; pins],
            last_fault: (u64::MAX, 1),
            copied_by_faults: 0,
        }
    }

    /// Ends the snapshot, with the reason if it has failed. Only the first reason is kept.
    pub(super) fn end(&mut self, failure: Option<Failure>) {
        if self.phase != Phase::Ended {
            self.phase = Phase::Ended;
            self.failure = failure;
        }
    }

    /// Returns the index of the memory that has the page number `page`.
    fn memory_of(&self, page: u64) -> Option<usize> {
        self.memories.iter().position(|memory| memory.pages.contains(&page))
    }

    /// Records pages of a memory that a scan has found populated, by index. `is_written` says whether they are writable.
    /// Pages that are known already stay as they are.
    pub(super) fn add_pages(&mut self, memory: usize, indices: Range<usize>, is_written: bool) {
        let memory = &mut self.memories[memory];
        let mut at = indices.start;
        while at < indices.end {
            at = memory.present.next_out(at, indices.end);
            let next = memory.present.next_in(at, indices.end).unwrap_or(indices.end);
            memory.present.insert(at..next);
            if is_written {
                memory.open.insert(at..next);
            }
            at = next;
        }
    }

    /// Protects dirty pages of a memory again, from the index `at` on and at most `most` pages. Returns the index after
    /// the last one, or `None` if there are no others.
    ///
    /// # Errors
    /// Returns an error of `protect`. The snapshot has ended then.
    pub(super) fn protect_again(
        &mut self,
        memory: usize,
        mut at: usize,
        most: usize,
        mut protect: impl FnMut(&Range<u64>) -> Result<(), Errno>,
    ) -> Result<Option<usize>, Errno> {
        let mut left = most;
        while left > 0 {
            let Some(run) = self.next_open(memory, at) else { return Ok(None) };
            let run = run.start..run.end.min(run.start + left);
            let numbers = self.memories[memory].numbers(&run);
            protect(&numbers).inspect_err(|errno| self.end(Some(Failure::of(*errno))))?;
            self.memories[memory].open.remove(run.clone());
            left -= run.len();
            at = run.end;
        }
        Ok(Some(at))
    }

    /// Fixes the view of a stopped guest: copies dirty pages aside, or protects them again if many are adjacent or the
    /// room for copies is short. Returns the number of pages that it has protected.
    ///
    /// # Errors
    /// Returns an error of `protect`. The snapshot has ended then.
    pub(super) fn freeze(
        &mut self,
        reader: &impl PageReader,
        mut protect: impl FnMut(&Range<u64>) -> Result<(), Errno>,
    ) -> Result<u64, Errno> {
        let dirty: usize = self.memories.iter().map(|memory| memory.open.len()).sum();
        // Half of the room stays free for the writes after the freeze.
        let has_room = dirty <= self.copies.room() / 2;
        let mut protected = 0;
        for memory in 0..self.memories.len() {
            let mut at = 0;
            while let Some(run) = self.next_open(memory, at) {
                at = run.end;
                let numbers = self.memories[memory].numbers(&run);
                let is_copied = has_room
                    && run.len() < MIN_PROTECTED_RUN
                    && numbers.clone().all(|page| self.copy(memory, page, reader));
                if !is_copied {
                    protect(&numbers).inspect_err(|errno| self.end(Some(Failure::of(*errno))))?;
                    self.memories[memory].open.remove(run.clone());
                    protected += run.len() as u64;
                }
            }
        }
        self.phase = Phase::Frozen;
        Ok(protected)
    }

    /// Returns the next run of open pages of a memory at or after the index `at`.
    pub(super) fn next_open(&self, memory: usize, at: usize) -> Option<Range<usize>> {
        let memory = &self.memories[memory];
        memory.open.runs(at..memory.len()).next()
    }

    /// Decides about a write to the page number `page`.
    pub(super) fn judge(&mut self, page: u64, reader: &impl PageReader) -> Verdict {
        let Some(memory) = self.memory_of(page) else { return Verdict::Foreign };
        let this_page = page..page + 1;
        match self.phase {
            Phase::Ended => Verdict::Unprotect(this_page),
            // Only this page, even if the guest writes one page after the other: each dirty page prolongs the freeze.
            Phase::Preparing => {
                let pages = &mut self.memories[memory];
                let index = pages.index(page);
                // A fault proves that the page is populated, even if no scan has seen it yet.
                pages.present.insert(index..index + 1);
                pages.open.insert(index..index + 1);
                Verdict::UnprotectLocked(this_page)
            }
            Phase::Frozen => {
                let pages = &self.memories[memory];
                let index = pages.index(page);
                if !pages.present.contains(index) || pages.open.contains(index) {
                    return Verdict::Unprotect(this_page);
                }
                if self.is_pinned(page) {
                    return Verdict::Wait;
                }
                let wanted = self.run_of_fault(memory, page);
                let mut end = page;
                while end < wanted.end
                    && !(end > page && self.is_pinned(end))
                    && self.copy(memory, end, reader)
                {
                    end += 1;
                }
                if end > page {
                    self.copied_by_faults += end - page;
                    self.last_fault = (end, end - page);
                    return Verdict::Unprotect(page..end);
                }
                match self.at_limit {
                    AtLimit::Wait => Verdict::Wait,
                    AtLimit::Fail => {
                        self.end(Some(Failure::CopyLimit));
                        Verdict::Failed
                    }
                }
            }
        }
    }

    /// Returns the pages to release for a write to `page`, which is present and protected: twice as many as last time if
    /// the writes are adjacent. The others are present and protected too.
    fn run_of_fault(&self, memory: usize, page: u64) -> Range<u64> {
        let (next, last) = self.last_fault;
        let wanted = if page == next { (2 * last).min(MAX_PAGES_PER_FAULT) } else { 1 };
        let pages = &self.memories[memory];
        let first = pages.index(page);
        let most = (first + to_index(wanted)).min(pages.len());
        let present = pages.present.next_out(first + 1, most);
        let end = pages.open.next_in(first + 1, present).unwrap_or(present);
        pages.numbers(&(first..end.max(first + 1)))
    }

    /// Returns whether a reader has pinned pages.
    pub(super) fn has_pins(&self) -> bool {
        self.pins.iter().any(Option::is_some)
    }

    fn is_pinned(&self, page: u64) -> bool {
        self.pins.iter().flatten().any(|pin| pin.contains(&page))
    }

    /// Copies a protected or dirty page aside and marks it as open. Returns `false` if there is no room.
    fn copy(&mut self, memory: usize, page: u64, reader: &impl PageReader) -> bool {
        let Some(room) = self.copies.add(page) else { return false };
        reader.read(page, room);
        let pages = &mut self.memories[memory];
        let index = pages.index(page);
        pages.open.insert(index..index + 1);
        true
    }

    /// Begins to read at index `first` of a memory. Returns the way to read there, for at most `most` pages.
    pub(super) fn begin_read(&mut self, memory: usize, first: usize, most: usize) -> Stretch {
        let pages = &self.memories[memory];
        let end = first.saturating_add(most).min(pages.len());
        if !pages.present.contains(first) {
            let next = pages.present.next_in(first, end).unwrap_or(end);
            return Stretch::Zeros(next - first);
        }
        if pages.open.contains(first) {
            let number = pages.pages.start + first as u64;
            return match self.copies.get(number) {
                Some(_) => Stretch::Copied,
                None => Stretch::Released,
            };
        }
        let end = pages.present.next_out(first, end);
        let end = pages.open.next_in(first, end).unwrap_or(end);
        let numbers = pages.numbers(&(first..end));
        let Some(at) = self.pins.iter().position(Option::is_none) else { return Stretch::Busy };
        self.pins[at] = Some(numbers);
        Stretch::Pinned(end - first, Pin(at))
    }

    /// Removes a pin. Returns whether the pages had the contents of the freeze all the time.
    pub(super) fn unpin(&mut self, memory: usize, pin: Pin) -> bool {
        let Some(numbers) = self.pins[pin.0].take() else { return false };
        let pages = &self.memories[memory];
        self.phase == Phase::Frozen && pages.index(numbers.start) >= pages.released
    }

    /// Releases the pages of a memory before the index `end`, which no reader needs any more. Returns the page numbers
    /// to unprotect after the mutex is unlocked.
    pub(super) fn release(&mut self, memory: usize, end: usize) -> Option<Range<u64>> {
        if self.phase != Phase::Frozen {
            return None;
        }
        let pages = &mut self.memories[memory];
        let indices = pages.released..end.min(pages.len());
        if indices.is_empty() {
            return None;
        }
        for run in pages.open.runs(indices.clone()) {
            for number in pages.numbers(&run) {
                self.copies.remove(number);
            }
        }
        pages.open.insert(indices.clone());
        pages.released = indices.end;
        Some(pages.numbers(&indices))
    }
}

#[cfg(test)]
mod tests;
