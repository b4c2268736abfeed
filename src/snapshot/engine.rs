//! The engine of a snapshot: its state behind one mutex, and the system calls that go with it.
//!
//! # Order of the steps
//! - While preparing, a fault is decided and its page unprotected under the mutex. Once frozen, pages are unprotected
//!   after the mutex is unlocked, and only pages that are copied aside or sent ([`state`](super::state)).
//! - The end of a snapshot, for any reason, is recorded in the state before anything is unprotected. A reader checks the
//!   state after it has read pages, and discards them if the snapshot has ended.
//! - The ranges are unregistered before the descriptor is closed. A child process that was forked without `exec` keeps
//!   a copy of the descriptor, which would keep the protection.
//!
//! # The steps of protecting
//! A call of the kernel for a whole memory would make every other change of mappings wait, such as the growth of the
//! guest. So memory is protected, unprotected and unregistered in steps of [`STEP_BYTES`], aligned by address. They are
//! multiples of 2 MiB: smaller or unaligned steps would split huge pages.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "page numbers are addresses divided by the page size; each memory has an element in each list"
)]

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::live_memory::LiveMemory;
use super::state::{Failure, PageReader, Phase, State, Stretch, Verdict};
use crate::arithmetic::exact;
use crate::error::{Error, ErrorKind, Result};
use crate::held_signal::block_all;
use crate::userfaultfd::{Message, Userfaultfd};

/// The number of bytes that one call of the kernel protects.
const STEP_BYTES: u64 = 16 << 20;
/// The maximum number of bytes that a reader pins.
const MAX_PIN_BYTES: usize = 256 << 10;
/// The maximum number of writes that the thread postpones: more than a guest has threads.
const MAX_POSTPONED: usize = 4096;
/// How long the thread looks for the next fault after one. Waking up takes longer than a fault.
const SPIN: Duration = Duration::from_micros(100);

/// The state and the descriptor of a snapshot.
pub(super) struct Engine {
    uffd: Userfaultfd,
    page_size: u64,
    state: Mutex<State>,
    /// Signals that pins are gone, that copies are freed, or that the snapshot has ended.
    changed: Condvar,
    reader: MemoryReader,
    /// Held while a reader releases pages and unprotects them.
    releasing: Mutex<()>,
    /// Wakes the thread that handles faults.
    wake: OwnedFd,
    must_stop: AtomicBool,
    /// Whether the thread has postponed writes.
    has_postponed: AtomicBool,
    /// The number of times that the thread has found no message.
    idle_rounds: AtomicU64,
    /// Makes the thread panic, for a test.
    #[cfg(feature = "internals")]
    must_die: AtomicBool,
}

/// The result of handling a write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Handled {
    Done,
    /// It must wait until the state changes.
    Postponed,
    /// It is to no memory of the snapshot.
    Foreign,
}

/// Reads pages of the memories.
struct MemoryReader {
    /// The memories, with their addresses.
    memories: Vec<LiveMemory>,
    page_size: u64,
}

impl PageReader for MemoryReader {
    #[allow(unsafe_code)]
    fn read(&self, page: u64, to: &mut [u8]) {
        let address = page * self.page_size;
        // The memory with the highest start at or below the page: memories do not overlap.
        let memories = self.memories.iter().filter(|memory| memory.address() <= address);
        let Some(memory) = memories.max_by_key(|memory| memory.address()) else { return };
        let Ok(offset) = usize::try_from(address - memory.address()) else { return };
        // SAFETY: the state has this page as a part of this memory, so the page was registered and is mapped, by the
        // contract of `prepare`. It is protected, or the guest is stopped, or its only writer waits for this fault.
        unsafe { memory.read(offset, to) };
    }
}

impl Engine {
    pub(super) fn new(
        uffd: Userfaultfd,
        page_size: u64,
        memories: Vec<LiveMemory>,
        state: State,
    ) -> Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake.map_err(|e| snapshot_error("cannot create an eventfd", e))?;
        let reader = MemoryReader { memories, page_size };
        Ok(Self {
            uffd,
            page_size,
            state: Mutex::new(state),
            changed: Condvar::new(),
            reader,
            releasing: Mutex::new(()),
            wake,
            must_stop: AtomicBool::new(false),
            has_postponed: AtomicBool::new(false),
            idle_rounds: AtomicU64::new(0),
            #[cfg(feature = "internals")]
            must_die: AtomicBool::new(false),
        })
    }

    /// Makes the thread that handles faults panic.
    #[cfg(feature = "internals")]
    pub(super) fn kill_thread(&self) {
        self.must_die.store(true, Ordering::Release);
        self.announce();
    }

    /// Locks the state, even if a thread has panicked while it held the lock: the end of the snapshot must be recorded
    /// in any case.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn page_size(&self) -> u64 {
        self.page_size
    }

    pub(super) fn reader(&self) -> &impl PageReader {
        &self.reader
    }

    pub(super) fn userfaultfd(&self) -> &Userfaultfd {
        &self.uffd
    }

    /// Returns the addresses of page numbers.
    pub(super) fn addresses(&self, pages: &Range<u64>) -> Range<u64> {
        pages.start * self.page_size..pages.end * self.page_size
    }

    /// Returns the page numbers of addresses of whole pages.
    pub(super) fn pages(&self, addresses: &Range<u64>) -> Range<u64> {
        addresses.start / self.page_size..addresses.end / self.page_size
    }

    /// Splits page numbers into steps.
    pub(super) fn steps(&self, pages: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let step = (STEP_BYTES / self.page_size).max(1);
        let Range { mut start, end } = pages;
        std::iter::from_fn(move || {
            let next = ((start / step + 1) * step).min(end);
            (start < end).then(|| std::mem::replace(&mut start, next)..next)
        })
    }

    /// Handles a write to `address` in the writing thread, and waits if it must. Returns `false` if the address is in no
    /// memory of the snapshot.
    pub(super) fn handle_signal(&self, address: u64) -> bool {
        self.handle_write(address, true) != Handled::Foreign
    }

    fn handle_write(&self, address: u64, may_wait: bool) -> Handled {
        let page = address / self.page_size;
        let mut state = self.state();
        loop {
            match state.judge(page, &self.reader) {
                Verdict::Foreign => return Handled::Foreign,
                Verdict::UnprotectLocked(pages) => {
                    self.unprotect(&pages, Some(&mut state));
                    return Handled::Done;
                }
                Verdict::Unprotect(pages) => {
                    drop(state);
                    self.unprotect(&pages, None);
                    return Handled::Done;
                }
                Verdict::Wait if !may_wait => return Handled::Postponed,
                Verdict::Wait => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Verdict::Failed => self.announce(),
            }
        }
    }

    /// Unprotects pages. An error ends the snapshot: a page may be left protected, and only the end of the registration
    /// frees its writer.
    fn unprotect(&self, pages: &Range<u64>, state: Option<&mut State>) {
        let Err(errno) = self.uffd.unprotect(&self.addresses(pages)) else { return };
        match state {
            Some(state) => state.end(Some(Failure::of(errno))),
            None => self.state().end(Some(Failure::of(errno))),
        }
        self.announce();
    }

    /// Ends the snapshot with a reason for its failure.
    pub(super) fn fail(&self, failure: Failure) {
        self.state().end(Some(failure));
        self.announce();
    }

    /// Tells all waiting threads that pins are gone or copies are freed.
    fn notify(&self) {
        self.changed.notify_all();
        if self.has_postponed.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Tells all waiting threads that the state has changed. If the snapshot has failed, the thread that handles faults
    /// then lifts the protection.
    fn announce(&self) {
        self.changed.notify_all();
        self.wake();
    }

    /// Wakes the thread that handles faults.
    fn wake(&self) {
        // Fails only if the counter is full, and then the thread wakes up anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Handles messages until [`end`](Self::end).
    pub(super) fn run_thread(&self) {
        block_all();
        let _death = DeathWatch(self);
        let mut last_fault: Option<Instant> = None;
        let mut is_lifted = false;
        // Writes that must wait. The thread must not, because it also handles messages about removed memory, and because
        // a reader waits for it in `drain`.
        let mut postponed = Vec::with_capacity(MAX_POSTPONED);
        loop {
            match self.uffd.read(|message| self.handle_message(message, &mut postponed)) {
                Ok(0) => {}
                Ok(_) => {
                    last_fault = Some(Instant::now());
                    continue;
                }
                Err(errno) => {
                    self.fail(Failure::Kernel(errno));
                    self.lift();
                    return;
                }
            }
            // A change of the state after this line wakes the thread.
            self.has_postponed.store(!postponed.is_empty(), Ordering::SeqCst);
            postponed.retain(|address| self.handle_write(*address, false) == Handled::Postponed);
            #[cfg(feature = "internals")]
            if self.must_die.load(Ordering::Acquire) {
                // A panic without a message.
                std::panic::resume_unwind(Box::new(()));
            }
            self.idle_rounds.fetch_add(1, Ordering::AcqRel);
            if self.must_stop.load(Ordering::Acquire) {
                return;
            }
            if !is_lifted && self.state().failure.is_some() {
                self.lift();
                is_lifted = true;
                continue;
            }
            if last_fault.is_some_and(|at| at.elapsed() < SPIN) {
                std::hint::spin_loop();
                continue;
            }
            last_fault = None;
            let mut fds = [
                PollFd::from_borrowed_fd(self.uffd.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
            ];
            // After a signal or an error, the loop looks again.
            let _ = poll(&mut fds, None);
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        }
    }

    fn handle_message(&self, message: Message, postponed: &mut Vec<u64>) {
        match message {
            Message::Write { address } => {
                match self.handle_write(address, false) {
                    Handled::Done => {}
                    // Signals make a waiting thread post its message again.
                    Handled::Postponed if postponed.contains(&address) => {}
                    Handled::Postponed if postponed.len() < MAX_POSTPONED => {
                        postponed.push(address)
                    }
                    // More threads wait than there is room for.
                    Handled::Postponed => {
                        self.fail(Failure::CopyLimit);
                        self.handle_write(address, false);
                    }
                    Handled::Foreign => {
                        // The page is registered, but no part of a memory: its writer must not wait forever.
                        let page = address / self.page_size;
                        self.unprotect(&(page..page + 1), None);
                    }
                }
            }
            Message::Removed => self.fail(Failure::Removed),
            Message::Unknown => {}
        }
    }

    /// Unprotects everything after a failure, so that the guest continues at full speed.
    fn lift(&self) {
        let pages: Vec<_> =
            self.state().memories.iter().map(|memory| memory.pages.clone()).collect();
        for step in pages.into_iter().flat_map(|pages| self.steps(pages)) {
            // Fails if the memory is gone or a message waits; `end` unregisters it in any case.
            let _ = self.uffd.unprotect(&self.addresses(&step));
        }
    }

    /// Waits until all messages that the kernel has sent before this call are handled.
    fn drain(&self) {
        // The thread may have looked for messages just before this call, so one more round is necessary.
        let target = self.idle_rounds.load(Ordering::Acquire) + 2;
        while self.idle_rounds.load(Ordering::Acquire) < target {
            // The thread stops when the snapshot ends.
            if self.state().phase == Phase::Ended {
                return;
            }
            self.wake();
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Checks that the snapshot has not failed, and that no message says that memory was removed.
    ///
    /// # Errors
    /// Returns the reason of the failure.
    pub(super) fn check(&self) -> Result<()> {
        if self.state().phase == Phase::Frozen {
            self.drain();
        }
        self.state().check()
    }

    /// Returns the next range of a memory at or after `at` that may contain data, before `end`. It is empty after the
    /// last one.
    pub(super) fn next_extent(&self, memory: usize, at: u64, end: u64) -> Range<u64> {
        let state = self.state();
        let present = &state.memories[memory].present;
        let Ok(first) = exact::<usize, _>(at / self.page_size) else { return end..end };
        let Some(start) = present.next_in(first, usize::MAX) else { return end..end };
        let after = present.next_out(start, state.memories[memory].len());
        let start = (start as u64 * self.page_size).max(at).min(end);
        start..(after as u64 * self.page_size).min(end)
    }

    /// Fills `buffer` with the bytes of a memory from `offset` on.
    ///
    /// # Errors
    /// Returns an error if the snapshot has failed, or if the bytes were released.
    #[allow(unsafe_code)]
    pub(super) fn read_at(&self, memory: usize, buffer: &mut [u8], offset: u64) -> Result<()> {
        let page_size = exact::<usize, _>(self.page_size)?;
        let source = self.reader.memories[memory];
        let mut offset = exact::<usize, _>(offset)?;
        let mut rest = buffer;
        let mut state = self.state();
        while !rest.is_empty() {
            state.check()?;
            let (first, skip) = (offset / page_size, offset % page_size);
            let wanted = rest.len().min(MAX_PIN_BYTES);
            let most = (skip + wanted).div_ceil(page_size);
            let stretch = state.begin_read(memory, first, most);
            let pages = match stretch {
                Stretch::Zeros(pages) | Stretch::Pinned(pages, _) => pages,
                Stretch::Copied => 1,
                Stretch::Released => return Err(released_error()),
                Stretch::Busy => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            let len = (pages * page_size - skip).min(rest.len());
            let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
            match stretch {
                Stretch::Pinned(_, pin) => {
                    drop(state);
                    // SAFETY: the pages are registered parts of this memory. By the contract of `prepare` they are mapped
                    // until the snapshot has ended, and its end waits for the pin. A write to them waits for the pin as
                    // well, unless the snapshot fails or ends, or another reader releases them. `unpin` says so then, and
                    // the bytes are not used.
                    unsafe { source.read(offset, part) };
                    state = self.state();
                    let is_valid = state.unpin(memory, pin);
                    self.notify();
                    if !is_valid {
                        state.check()?;
                        return Err(released_error());
                    }
                }
                Stretch::Copied => {
                    let number = state.memories[memory].pages.start + first as u64;
                    let copy = state.copies.get(number).and_then(|copy| copy.get(skip..skip + len));
                    part.copy_from_slice(copy.ok_or_else(released_error)?);
                }
                _ => part.fill(0),
            }
            offset += len;
            rest = after;
        }
        Ok(())
    }

    /// Releases the bytes of a memory before `offset`. The page that contains `offset` is kept.
    pub(super) fn release_before(&self, memory: usize, offset: u64) {
        let Ok(end) = exact::<usize, _>(offset / self.page_size) else { return };
        let _releasing = self.releasing.lock().unwrap_or_else(PoisonError::into_inner);
        let released = self.state().release(memory, end);
        if let Some(pages) = released {
            self.notify();
            for step in self.steps(pages) {
                self.unprotect(&step, None);
            }
        }
    }

    /// Ends the snapshot: all threads of the guest continue, and no more faults occur. The thread that handles faults
    /// stops.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.end(None);
        self.changed.notify_all();
        // Readers pin no more pages. Those that copy pages now must be done before the memory may be unmapped.
        while state.has_pins() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        // From now on, readers release nothing. One that has begun must be done before the next snapshot of this memory
        // begins: the kernel lets one userfaultfd unprotect the pages of another.
        drop(self.releasing.lock().unwrap_or_else(PoisonError::into_inner));
        let memories =
            self.state().memories.iter().map(|memory| memory.pages.clone()).collect::<Vec<_>>();
        for pages in memories {
            // To unregister a step, the kernel locks out every other change of mappings, and clears the protection page by
            // page. So that is done first, under a lock that others can share.
            for step in self.steps(pages.clone()) {
                let _ = self.uffd.unprotect(&self.addresses(&step));
            }
            for step in self.steps(pages) {
                // Fails if the memory is gone.
                let _ = self.uffd.unregister(&self.addresses(&step));
            }
        }
        self.must_stop.store(true, Ordering::Release);
        self.announce();
    }
}

/// Ends the snapshot if the thread that handles faults panics. The threads of the guest would wait forever otherwise.
struct DeathWatch<'e>(&'e Engine);

impl Drop for DeathWatch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Failure::HandlerDied);
            self.0.end();
        }
    }
}

impl State {
    /// Checks that the snapshot has not ended.
    ///
    /// # Errors
    /// Returns the reason of the failure.
    pub(super) fn check(&self) -> Result<()> {
        let message = match (self.phase, self.failure) {
            (Phase::Preparing | Phase::Frozen, _) => return Ok(()),
            (Phase::Ended, None) => "the snapshot has ended",
            (Phase::Ended, Some(Failure::CopyLimit)) => {
                "the guest wrote to more pages than the limit for copies allows; allow more copies, or a faster \
                 destination"
            }
            (Phase::Ended, Some(Failure::Removed)) => {
                "memory of the guest was unmapped, moved or discarded during the snapshot"
            }
            (Phase::Ended, Some(Failure::HandlerDied)) => {
                "the thread that handles the writes of the guest has failed"
            }
            (Phase::Ended, Some(Failure::Kernel(errno))) => {
                return Err(snapshot_error("the kernel refused to protect memory", errno));
            }
        };
        Err(Error::new(ErrorKind::Image, message))
    }
}

fn released_error() -> Error {
    Error::new(
        ErrorKind::Image,
        "a dump has released these pages of the snapshot; only one dump can be written unless \
         SnapshotOptions::release_when_read is off",
    )
}

pub(super) fn snapshot_error(message: &str, errno: Errno) -> Error {
    Error::io(ErrorKind::Image, message, errno.into())
}
