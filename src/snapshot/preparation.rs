//! Preparing: protects the memories while the guest runs, and freezes them.
#![allow(unsafe_code)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "addresses lie in existing memory, far below 2^64; each memory has an element in each list"
)]

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use super::copies::Copies;
use super::engine::{Engine, snapshot_error};
use super::frozen::FrozenMemory;
use super::guard::Guard;
use super::live_memory::LiveMemory;
use super::options::{Faults, SnapshotOptions};
use super::state::{Failure, MemoryPages, State, to_index};
use super::{Snapshot, SnapshotStats};
use crate::arithmetic::exact;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{ExtentFinder, ExtentOptions, MemoryImage, MemoryKind, TrackedPages};
use crate::model::CoreDump;
use crate::threads::cores;
use crate::userfaultfd::{Delivery, Userfaultfd};

/// The number of pages that are protected again under one lock.
const REPROTECTED_PER_LOCK: usize = 32;
/// The size in bytes of the blocks that are searched for new pages at the freeze unless they are complete.
const BLOCK_BYTES: u64 = 2 << 20;

impl SnapshotOptions {
    /// Protects `memories` while their guest runs. Threads that write to them meanwhile wait for a few microseconds at
    /// each page.
    ///
    /// Protecting takes about 25 ms for each GiB in pages of 4 KiB, and 0.1 ms in huge pages. The room for copies is
    /// allocated here too.
    ///
    /// ```
    /// use corestream::snapshot::{LiveMemory, SnapshotOptions};
    /// use corestream::{CoreDump, CoreDumpFile, Dumper, Memory, MemoryImage, MemoryType};
    ///
    /// let mut bytes = memmap2::MmapMut::map_anon(1 << 20).unwrap();
    /// bytes[70_000] = 1;
    /// let memory = LiveMemory::new(bytes.as_ptr(), bytes.len());
    /// // SAFETY: the mapping is private and anonymous, and lives longer than the snapshot. Only this thread writes to it,
    /// // by ordinary stores.
    /// let prepared = match unsafe { SnapshotOptions::new().prepare(&[memory]) } {
    ///     Ok(prepared) => prepared,
    ///     Err(_) => return Ok(()), // this system has no userfaultfd, or does not permit it
    /// };
    /// bytes[70_000] = 2; // the guest runs
    ///
    /// // The guest is stopped for a moment, and described.
    /// let mut dump = CoreDump::new("guest.wasm");
    /// dump.add_memory(Memory::new(MemoryType::wasm32(16), MemoryImage::from_slice(&bytes)));
    /// let snapshot = prepared.freeze(dump)?;
    ///
    /// bytes[70_000] = 3; // the guest runs again
    /// let core = Dumper::new().plan(&snapshot.dump)?.to_vec()?;
    /// assert_eq!(snapshot.finish()?.copied_pages, 1);
    ///
    /// let mut byte = [0];
    /// CoreDumpFile::from_slice(&core)?.memory(0.into())?.read(70_000, &mut byte)?;
    /// assert_eq!(byte, [2]);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Image`] if the system does not provide a userfaultfd (with
    /// [`Faults::Thread`], an unprivileged process needs `vm.unprivileged_userfaultfd` or `/dev/userfaultfd`) or
    /// `PAGEMAP_SCAN` (Linux 6.7), or if a memory cannot be protected: it does not start at a page boundary, is shared
    /// with other processes, has huge pages of hugetlbfs, or is a private mapping of a file on disk. Then dump the
    /// guest while it is stopped, or [copy](super::copy) it.
    ///
    /// # Safety
    /// The caller guarantees the following until the snapshot has ended, which is when the [`Preparation`], the
    /// [`Snapshot`] and all its images are dropped or [finished](Snapshot::finish):
    ///
    /// - The memories do not overlap. They stay mapped and readable at their addresses, including the rest of their last
    ///   page, and the part by which they have grown at the freeze. Nothing moves, unmaps or discards them (`mremap`,
    ///   `munmap`, `MADV_DONTNEED`). Protecting more of them for writing (`mprotect`) is permitted, which is how an
    ///   engine grows a memory in place.
    /// - All writes are made by the threads of this process, directly or in system calls. The kernel does not write to
    ///   pages that were pinned before: no io_uring with registered buffers, no `O_DIRECT` and no RDMA into the memories.
    /// - With [`Faults::Signal`], no system call writes to the memories, and the handler for SIGBUS is installed.
    pub unsafe fn prepare(&self, memories: &[LiveMemory]) -> Result<Preparation> {
        let page_size = rustix::param::page_size() as u64;
        let unsupported = |what: &str, error| Error::io(ErrorKind::Image, what, error);
        let tracked =
            TrackedPages::open().map_err(|e| unsupported("cannot use PAGEMAP_SCAN", e))?;
        let delivery = match self.faults {
            Faults::Thread => Delivery::Message,
            Faults::Signal => Delivery::Signal,
        };
        let uffd = Userfaultfd::open(delivery);
        let uffd = uffd.map_err(|e| unsupported("cannot use userfaultfd", e))?;

        let mut pages: Vec<MemoryPages> = Vec::new();
        for (i, memory) in memories.iter().enumerate() {
            if memory.address() % page_size != 0 {
                let message = format!(
                    "memory {i}: cannot protect the memory: it does not start at a page boundary"
                );
                return Err(Error::new(ErrorKind::Image, message));
            }
            let numbers = page_numbers(*memory, page_size);
            let overlaps = |other: &MemoryPages| {
                numbers.start < other.pages.end && other.pages.start < numbers.end
            };
            if let Some(other) = pages.iter().position(overlaps) {
                let message = format!("memory {i}: it overlaps memory {other}");
                return Err(Error::new(ErrorKind::Image, message));
            }
            let data = register(&uffd, &tracked, &numbers, page_size)
                .map_err(|error| error.at(format_args!("memory {i}")))?;
            let mut memory = MemoryPages::new(numbers)?;
            data.iter().for_each(|numbers| memory.add_data(numbers));
            pages.push(memory);
        }
        // The room does not depend on the memories, which may grow until the freeze. Only the touched part costs memory.
        let copies = Copies::new(exact(self.copy_limit / page_size)?, exact(page_size)?)?;
        // A page is copied at most once.
        copies.touch(exact(count_pages(&tracked, &pages, page_size)?)?)?;
        // A pin for each thread of a scan and of a few writers.
        let state = State::new(pages, copies, self.at_limit, cores().saturating_add(8));
        let engine = Engine::new(uffd, page_size, memories.to_vec(), state)?;
        let guard = Guard::start(engine, self)?;
        let this =
            Preparation { guard, tracked, memories: memories.to_vec(), options: self.clone() };
        this.protect_all()?;
        Ok(this)
    }
}

/// Memories that are protected while their guest runs. [`SnapshotOptions::prepare`] returns it.
///
/// Dropping it ends the protection.
#[must_use = "the protection ends when this is dropped"]
pub struct Preparation {
    guard: Arc<Guard>,
    tracked: TrackedPages,
    memories: Vec<LiveMemory>,
    options: SnapshotOptions,
}

impl Preparation {
    fn engine(&self) -> &Engine {
        self.guard.engine()
    }

    /// Protects all memories in steps.
    fn protect_all(&self) -> Result<()> {
        let engine = self.engine();
        for i in 0..self.memories.len() {
            let pages = engine.state().memories[i].pages.clone();
            for step in engine.steps(pages) {
                let addresses = engine.addresses(&step);
                self.protect(&addresses)?;
                // Pages that became present after the protection are found at the freeze.
                let scanned = self.tracked.scan(addresses, |found, is_written| {
                    let mut state = engine.state();
                    let numbers = engine.pages(&found);
                    let memory = &state.memories[i];
                    let indices = memory.index(numbers.start)..memory.index(numbers.end);
                    state.add_pages(i, indices, is_written);
                });
                scanned.map_err(|errno| snapshot_error("PAGEMAP_SCAN failed", errno))?;
                // Lets the guest and the thread that handles its faults run, if there is no core for each.
                std::thread::yield_now();
            }
        }
        self.engine().state().check()
    }

    fn protect(&self, addresses: &Range<u64>) -> Result<()> {
        let result = self.engine().userfaultfd().protect(addresses);
        result.or_else(|errno| {
            self.engine().fail(Failure::of(errno));
            self.engine().state().check()
        })
    }

    /// Returns the number of pages that the guest has written to since they were protected. The
    /// [freeze](Self::freeze) copies or protects them, in about one microsecond for each.
    pub fn dirty_pages(&self) -> u64 {
        self.engine().state().memories.iter().map(|memory| memory.open.len() as u64).sum()
    }

    /// Protects the dirty pages again. Returns the number of pages that have become dirty meanwhile.
    ///
    /// Call it while the freeze is not possible yet, if the guest writes slowly. A page takes 1 to 10 microseconds, so a
    /// guest that writes more than 100,000 pages in a second dirties pages as fast as this call protects them.
    ///
    /// # Errors
    /// Returns an error if the preparation has failed, because memory was unmapped, moved or discarded.
    pub fn protect_again(&self) -> Result<u64> {
        let engine = self.engine();
        for i in 0..self.memories.len() {
            let mut next = Some(0);
            while let Some(at) = next {
                let mut state = engine.state();
                state.check()?;
                let protect = |pages: &_| engine.userfaultfd().protect(&engine.addresses(pages));
                next = match state.protect_again(i, at, REPROTECTED_PER_LOCK, protect) {
                    Ok(next) => next,
                    Err(errno) => return Err(snapshot_error("cannot protect memory", errno)),
                };
            }
        }
        Ok(self.dirty_pages())
    }

    /// Freezes the memories of a stopped guest. The guest may continue when this returns. The snapshot does not contain
    /// its later writes, and no prepared memory that `dump` does not contain.
    ///
    /// `dump` describes the guest, with images of its memories ([`MemoryImage::from_slice`]). Those of prepared memories
    /// are replaced by their frozen view. A memory may have grown at its address since it was prepared. Borrowed images
    /// that were not prepared are copied, up to the limit for copies, in addition to the copied pages. Other images stay as
    /// they are.
    ///
    /// Call it on the guest's own thread, at a point where the guest is stopped: in a host function, or at an epoch
    /// deadline. No other thread may write to the memories during the call.
    ///
    /// # Errors
    /// Returns an error if memory was unmapped, moved or discarded since it was prepared, if a memory is shorter than it
    /// was, or if a memory that was not prepared is too large to copy. The protection has ended then.
    pub fn freeze(self, dump: CoreDump<'_>) -> Result<Snapshot> {
        let start = Instant::now();
        let (guard, page_size) = (self.guard.clone(), self.engine().page_size());
        let mut lens = Vec::new();
        for memory in &dump.memories {
            let Some((address, len)) = memory.image.live_location() else {
                lens.push(None);
                continue;
            };
            let prepared = self.memories.iter().position(|m| std::ptr::eq(m.start(), address));
            lens.push(prepared.map(|prepared| (prepared, len)));
        }
        let (protected_again, copied);
        {
            let engine = guard.engine();
            let mut state = engine.state();
            state.check()?;
            for (prepared, len) in lens.iter().flatten() {
                self.extend(&mut state, *prepared, *len)?;
            }
            for (i, memory) in state.memories.iter_mut().enumerate() {
                if !lens.iter().flatten().any(|(prepared, _)| *prepared == i) {
                    memory.forget();
                }
            }
            self.add_new_pages(&mut state)?;
            let protect = |pages: &_| engine.userfaultfd().protect(&engine.addresses(pages));
            let frozen = state.freeze(engine.reader(), protect);
            protected_again = frozen.map_err(|e| snapshot_error("cannot protect memory", e))?;
            copied = state.copies.len() as u64;
            #[cfg(debug_assertions)]
            if let Ok(mismatch) = super::oracle::compare(engine, &self.tracked, &state) {
                assert_eq!(mismatch, None, "a page differs");
            }
        }
        let freeze_time = start.elapsed();
        let mut budget = self.options.copy_limit;
        let mut finder = None;
        let images = |i: usize, image: MemoryImage<'_>| match lens.get(i).copied().flatten() {
            Some((prepared, len)) => {
                Ok(MemoryImage::from_frozen(FrozenMemory::new(guard.clone(), prepared, len as u64)))
            }
            None => {
                let finder = match &mut finder {
                    Some(finder) => finder,
                    none => none.insert(live_extents()?),
                };
                let is_live = image.live_location().is_some();
                image.into_owned(finder, &mut budget).map_err(|error| match error.kind() {
                    ErrorKind::Guest if is_live => Error::new(
                        ErrorKind::Guest,
                        "it was not prepared, or has moved since, and has more data than the limit for copies; \
                         prepare again",
                    ),
                    _ => error,
                })
            }
        };
        let dump = dump.try_map_images(images)?;
        let stats = SnapshotStats {
            freeze_time,
            copied_at_freeze: copied,
            protected_at_freeze: protected_again,
            copied_pages: copied,
            peak_copy_bytes: copied * page_size,
        };
        Ok(Snapshot { dump, guard, stats })
    }

    /// Registers the part by which a memory has grown.
    fn extend(&self, state: &mut State, prepared: usize, len: usize) -> Result<()> {
        let engine = self.engine();
        let memory = &mut state.memories[prepared];
        let now = page_numbers(self.memories[prepared].with_len(len), engine.page_size());
        if now.end < memory.pages.end {
            return Err(Error::new(
                ErrorKind::Image,
                "a memory is shorter than it was when it was prepared",
            ));
        }
        if now.end > memory.pages.end {
            let added = memory.pages.end..now.end;
            let uffd = engine.userfaultfd();
            let data = register(uffd, &self.tracked, &added, engine.page_size())?;
            memory.grow(now.end)?;
            for numbers in &data {
                let protected = uffd.protect(&engine.addresses(numbers));
                protected.map_err(|errno| snapshot_error("cannot protect memory", errno))?;
                memory.add_data(numbers);
            }
        }
        Ok(())
    }

    /// Adds the pages that have become present since their step was scanned. The guest is stopped.
    fn add_new_pages(&self, state: &mut State) -> Result<()> {
        let engine = self.engine();
        let block = to_index(BLOCK_BYTES / engine.page_size()).max(1);
        for i in 0..state.memories.len() {
            let memory = &state.memories[i];
            if !memory.is_dumped() {
                continue;
            }
            // Blocks begin at multiples of their size.
            let skew = to_index(memory.pages.start % block as u64);
            let mut at = 0;
            while let Some(missing) = next_missing(&state.memories[i], at) {
                let memory = &state.memories[i];
                // From the start of the block of the first missing page to the end of the last incomplete block.
                let start = (missing + skew) / block * block;
                let start = start.saturating_sub(skew).max(at);
                let mut end = (start + skew) / block * block + block - skew;
                while next_missing(memory, end).is_some_and(|next| next < end + block) {
                    end += block;
                }
                let end = end.min(memory.len());
                let addresses = engine.addresses(&memory.numbers(&(start..end)));
                let scanned = self.tracked.scan(addresses, |found, is_written| {
                    let numbers = engine.pages(&found);
                    let memory = &state.memories[i];
                    let indices = memory.index(numbers.start)..memory.index(numbers.end);
                    state.add_pages(i, indices, is_written);
                });
                scanned.map_err(|errno| snapshot_error("PAGEMAP_SCAN failed", errno))?;
                at = end;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Preparation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preparation").field("memories", &self.memories).finish_non_exhaustive()
    }
}

/// Returns the first page from `at` on that is not present.
fn next_missing(memory: &MemoryPages, at: usize) -> Option<usize> {
    let missing = memory.present.next_out(at, memory.len());
    (missing < memory.len()).then_some(missing)
}

/// Returns the numbers of the pages of a memory. The last one may be a part.
fn page_numbers(memory: LiveMemory, page_size: u64) -> Range<u64> {
    let (start, len) = (memory.address(), memory.len() as u64);
    start / page_size..(start + len).div_ceil(page_size)
}

/// Returns the number of pages of memories that contain data.
fn count_pages(tracked: &TrackedPages, memories: &[MemoryPages], page_size: u64) -> Result<u64> {
    let mut count = 0;
    for memory in memories {
        let addresses = memory.pages.start * page_size..memory.pages.end * page_size;
        let scanned =
            tracked.scan(addresses, |found, _| count += (found.end - found.start) / page_size);
        scanned.map_err(|errno| snapshot_error("PAGEMAP_SCAN failed", errno))?;
    }
    Ok(count)
}

/// Registers pages. Returns the page numbers of mappings in which every page is data.
fn register(
    uffd: &Userfaultfd,
    tracked: &TrackedPages,
    pages: &Range<u64>,
    page_size: u64,
) -> Result<Vec<Range<u64>>> {
    let addresses = pages.start * page_size..pages.end * page_size;
    let refuse =
        |why: &str| Err(Error::new(ErrorKind::Image, format!("cannot protect the memory: {why}")));
    let (mut is_shared, mut others) = (false, Vec::new());
    tracked.mappings(addresses.clone(), |range, kind| match kind {
        MemoryKind::Anonymous => {}
        MemoryKind::Shared => is_shared = true,
        MemoryKind::Other => others.push(range),
    });
    if is_shared {
        return refuse("it is a shared mapping, which other processes may write to");
    }
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    match uffd.register(&addresses) {
        Ok(()) => {}
        Err(Errno::INVAL) => {
            return refuse("it is a private mapping of a file on disk, or not mapped completely");
        }
        Err(Errno::BUSY) => return refuse("another userfaultfd is registered for it"),
        Err(errno) => return Err(snapshot_error("cannot register the memory", errno)),
    }
    // In a mapping of huge pages, single pages of the usual size cannot be unprotected.
    for range in &others {
        let page = range.end - page_size..range.end;
        if uffd.unprotect(&page).is_err() {
            return refuse("it is mapped in pages of hugetlbfs");
        }
    }
    let to_pages = |range: Range<u64>| range.start / page_size..range.end / page_size;
    Ok(others.into_iter().map(to_pages).collect())
}

/// Returns a finder of the extents of live memory.
pub(super) fn live_extents() -> Result<ExtentFinder> {
    let options = ExtentOptions { trust_holes: true, method: None, mappings: None };
    ExtentFinder::new(options, true)
}
