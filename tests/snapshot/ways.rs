//! Guests that never stop writing while snapshots of them are dumped to sinks that are slow, fail, or are cancelled, with
//! little room for copies, while their memories grow, and with huge pages.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use corestream::internals::find_mismatch;
use corestream::snapshot::{AtLimit, Faults, Snapshot, SnapshotOptions};
use corestream::{Cancel, CoreDumpFile, Dumper, Error, ErrorKind, Piece, PipeSink, Sink};
use rustix::mm::{Advice, madvise};

use crate::alone;
use crate::area::{Area, PAGE};
use crate::environment::require;
use crate::guest::SetOnDrop;
use crate::torture::{Pattern, Random};

/// The number of words in a page.
const WORDS: usize = PAGE / 8;

/// A memory, and a shadow of it that no snapshot knows.
struct Guest {
    area: Area,
    shadow: Vec<u64>,
    next: u64,
}

impl Guest {
    /// Returns a guest with `len` bytes of untouched memory, which can grow to twice as much.
    fn new(len: usize) -> Self {
        Self { area: Area::reserve(2 * len, len), shadow: vec![0; len / 8], next: 1 }
    }

    /// Writes the next number to a word.
    fn write(&mut self, word: usize) {
        self.shadow[word] = self.next;
        // SAFETY: the word is accessible, and nothing refers to it except a snapshot.
        unsafe { self.area.at(8 * word).cast::<u64>().write_volatile(self.next) };
        self.next += 1;
    }

    fn grow(&mut self, len: usize) {
        self.area.grow(len.max(self.area.len));
        self.shadow.resize(self.area.len / 8, 0);
    }

    /// Makes the second and the third quarter of the memory untouched. No snapshot may be open.
    fn discard_half(&mut self) {
        let pages = self.area.len / PAGE;
        let (start, count) = (pages / 4, pages / 2);
        let address = self.area.at(start * PAGE).cast();
        // SAFETY: the range lies in the area, and nothing refers to its contents.
        unsafe { madvise(address, count * PAGE, Advice::LinuxDontNeed) }.unwrap();
        self.shadow[start * WORDS..(start + count) * WORDS].fill(0);
    }

    fn assert_unharmed(&self) {
        assert!(words(self.area.bytes()).eq(self.shadow.iter().copied()), "writes were lost");
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word))
}

/// Checks that a memory of a dump has these contents, to the byte.
fn assert_contents(core: &[u8], memory: u32, expected: &[u64]) {
    let dump = CoreDumpFile::from_slice(core).unwrap();
    let mut bytes = vec![0; 8 * expected.len()];
    dump.memory(memory.into()).unwrap().read(0, &mut bytes).unwrap();
    for (i, (word, expected)) in words(&bytes).zip(expected).enumerate() {
        assert_eq!(word, *expected, "word {i} of page {}", i / WORDS);
    }
}

/// A sink that takes at most `step` bytes at once and waits. After `limit` bytes, each call ends with `after_limit`.
struct TestSink<F> {
    bytes: Vec<u8>,
    step: usize,
    pause: Duration,
    limit: usize,
    after_limit: F,
}

impl<F: FnMut() -> io::Result<()>> TestSink<F> {
    fn new(limit: usize, after_limit: F) -> Self {
        Self { bytes: Vec::new(), step: 20_000, pause: Duration::ZERO, limit, after_limit }
    }
}

impl<F: FnMut() -> io::Result<()>> Sink for TestSink<F> {
    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        let taken = &pieces[0].bytes[..pieces[0].bytes.len().min(self.step)];
        self.bytes.extend(taken);
        thread::sleep(self.pause);
        if self.bytes.len() > self.limit {
            (self.after_limit)()?;
        }
        Ok(taken.len())
    }
}

/// How a snapshot is dumped.
#[derive(Clone, Copy, Debug)]
enum Way {
    Memory,
    SlowSink,
    /// A pipe whose reader does nothing for a while.
    SlowPipe,
    FailingSink,
    Cancelled,
    /// The snapshot is dropped.
    Dropped,
}

const WAYS: [Way; 6] =
    [Way::SlowSink, Way::FailingSink, Way::SlowPipe, Way::Cancelled, Way::Memory, Way::Dropped];

impl Way {
    /// Dumps a snapshot. Returns the dump if it is complete.
    fn dump(self, snapshot: &Snapshot, threads: usize) -> Result<Option<Vec<u8>>, Error> {
        let cancel = Cancel::new();
        let plan = Dumper::new().threads(threads).cancel(cancel.clone()).plan(&snapshot.dump)?;
        let half = usize::try_from(plan.len() / 2).unwrap();
        match self {
            Self::Memory => plan.to_vec().map(Some),
            Self::SlowSink => {
                let mut sink = TestSink::new(usize::MAX, || Ok(()));
                sink.pause = Duration::from_micros(100);
                plan.write_to(&mut sink)?;
                Ok(Some(sink.bytes))
            }
            Self::SlowPipe => {
                let (mut reader, writer) = io::pipe().unwrap();
                let core = thread::spawn(move || {
                    let mut core = vec![0; 1000];
                    reader.read_exact(&mut core).ok()?;
                    thread::sleep(Duration::from_millis(20));
                    reader.read_to_end(&mut core).ok()?;
                    Some(core)
                });
                let written = plan.write_to(&mut PipeSink::new(writer));
                let core = core.join().unwrap();
                written.map(|()| core)
            }
            Self::FailingSink => {
                let fail = || Err(io::ErrorKind::StorageFull.into());
                let result = plan.write_to(&mut TestSink::new(half, fail));
                expect_error(result, ErrorKind::Output)
            }
            Self::Cancelled => {
                let stop = || {
                    cancel.cancel("the test stops it");
                    Ok(())
                };
                let result = plan.write_to(&mut TestSink::new(half, stop));
                expect_error(result, ErrorKind::Cancelled)
            }
            Self::Dropped => Ok(None),
        }
    }
}

fn expect_error(result: Result<(), Error>, kind: ErrorKind) -> Result<Option<Vec<u8>>, Error> {
    match result {
        Err(error) if error.kind() == kind => Ok(None),
        Err(error) => Err(error),
        Ok(()) => panic!("an error of {kind:?} is missing"),
    }
}

/// Snapshots of guests that never stop writing.
struct Torture {
    options: SnapshotOptions,
    /// Each pattern has a memory and a thread of its own.
    patterns: &'static [Pattern],
    /// The length of each memory in bytes at first.
    len: usize,
    /// The lengths in eighths to which the memories grow before and after each freeze.
    grows: &'static [(usize, usize)],
    has_huge_pages: bool,
    may_reach_limit: bool,
    count: usize,
}

impl Torture {
    fn new(faults: Faults) -> Self {
        Self {
            options: SnapshotOptions::new().faults(faults).at_limit(AtLimit::Wait),
            patterns: &[Pattern::Random],
            len: 8 << 20,
            grows: &[],
            has_huge_pages: false,
            may_reach_limit: false,
            count: WAYS.len(),
        }
    }

    fn run(&self) {
        let guests: Vec<_> = self.patterns.iter().map(|_| Mutex::new(self.guest())).collect();
        let (stop, done) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            for (guest, pattern) in guests.iter().zip(self.patterns) {
                let (stop, done) = (&stop, &done);
                scope.spawn(move || write_until(guest, *pattern, stop, done));
            }
            // The guests end even if an assertion fails.
            let _done = SetOnDrop(&done);
            for i in 0..self.count {
                self.take_snapshot(i, &guests, &stop);
            }
        });
        guests.iter().for_each(|guest| guest.lock().unwrap().assert_unharmed());
    }

    fn guest(&self) -> Guest {
        let guest = Guest::new(self.len);
        if self.has_huge_pages {
            // SAFETY: this changes no contents. The kernel may have no huge pages.
            let _ =
                unsafe { madvise(guest.area.start.cast(), guest.area.len, Advice::LinuxHugepage) };
        }
        guest
    }

    fn take_snapshot(&self, i: usize, guests: &[Mutex<Guest>], stop: &AtomicBool) {
        thread::sleep(Duration::from_millis(2));
        // The guest writes to some pages for the first time before, during and after the freeze.
        stopped(guests, stop).iter_mut().for_each(|guest| guest.discard_half());
        let memories: Vec<_> = stopped(guests, stop).iter().map(|g| g.area.live()).collect();
        // SAFETY: the memories live longer than the snapshot, and only the guests write to them.
        let prepared = unsafe { self.options.prepare(&memories) }.unwrap();
        if i % 2 == 1 {
            prepared.protect_again().unwrap();
        }
        let grow = |eighths: usize| {
            let len = self.len / 8 * eighths;
            stopped(guests, stop).iter_mut().for_each(|guest| guest.grow(len));
        };
        if let Some((before, _)) = self.grows.get(i) {
            grow(*before);
        }
        let (snapshot, expected) = {
            let stopped = stopped(guests, stop);
            let expected: Vec<_> = stopped.iter().map(|guest| guest.shadow.clone()).collect();
            let areas: Vec<_> = stopped.iter().map(|guest| &guest.area).collect();
            (prepared.freeze(Area::dump(&areas)).unwrap(), expected)
        };
        if let Some((_, after)) = self.grows.get(i) {
            grow(*after);
        }
        let way = WAYS[i % WAYS.len()];
        match way.dump(&snapshot, 1 + i / 2 % 2) {
            Ok(Some(core)) => {
                {
                    // The protection must agree with the state while the guests are stopped.
                    let _stopped = stopped(guests, stop);
                    snapshot.check().unwrap();
                    assert_eq!(find_mismatch(&snapshot).unwrap(), None, "{way:?}");
                }
                snapshot.finish().unwrap();
                for (memory, expected) in (0..).zip(&expected) {
                    assert_contents(&core, memory, expected);
                }
            }
            // Pages that were not read are still protected.
            Ok(None) => drop(snapshot),
            Err(error) => {
                assert!(self.may_reach_limit, "{way:?}: {error}");
                assert_eq!(error.kind(), ErrorKind::Image, "{error}");
                let cause = "the guest wrote to more pages than the limit for copies allows";
                assert!(error.to_string().contains(cause), "{error}");
                assert!(snapshot.finish().is_err());
            }
        }
    }
}

/// Stops all guests. They go on when the guards are dropped.
fn stopped<'g>(guests: &'g [Mutex<Guest>], stop: &AtomicBool) -> Vec<MutexGuard<'g, Guest>> {
    stop.store(true, Ordering::Release);
    let guards = guests.iter().map(|guest| guest.lock().unwrap()).collect();
    stop.store(false, Ordering::Release);
    guards
}

fn write_until(guest: &Mutex<Guest>, pattern: Pattern, stop: &AtomicBool, done: &AtomicBool) {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut i = 0;
    while !done.load(Ordering::Acquire) {
        while stop.load(Ordering::Acquire) {
            thread::yield_now();
        }
        let mut guest = guest.lock().unwrap();
        for _ in 0..100 {
            let words = guest.shadow.len();
            guest.write(pattern.word(i, words, &mut random) % words);
            i += 1;
        }
    }
}

const BOTH: [Faults; 2] = [Faults::Thread, Faults::Signal];

#[test]
fn sinks_may_be_slow_or_fail() {
    let _alone = require!("userfaultfd", alone());
    for faults in BOTH {
        for patterns in [&[Pattern::Random], &[Pattern::Hot], &[Pattern::AllPages]] {
            Torture { patterns, ..Torture::new(faults) }.run();
        }
    }
}

#[test]
fn two_threads_write_to_two_memories() {
    let _alone = require!("userfaultfd", alone());
    for faults in BOTH {
        let patterns = &[Pattern::Random, Pattern::Sequential];
        Torture { patterns, len: 4 << 20, ..Torture::new(faults) }.run();
    }
}

#[test]
fn memories_grow_before_and_after_the_freeze() {
    let _alone = require!("userfaultfd", alone());
    for faults in BOTH {
        let grows = &[(9, 10), (11, 12), (13, 14), (15, 16)];
        let patterns = &[Pattern::AllPages];
        Torture { patterns, grows, count: 4, ..Torture::new(faults) }.run();
    }
}

#[test]
fn memories_may_have_huge_pages() {
    let _alone = require!("userfaultfd", alone());
    for faults in BOTH {
        let patterns = &[Pattern::Random, Pattern::Hot];
        Torture { patterns, has_huge_pages: true, ..Torture::new(faults) }.run();
    }
}

#[test]
fn a_guest_waits_for_the_dump_at_the_limit() {
    let _alone = require!("userfaultfd", alone());
    for faults in BOTH {
        for pages in [0, 1, 5] {
            let options = SnapshotOptions::new().faults(faults).at_limit(AtLimit::Wait);
            let options = options.copy_limit((pages * PAGE) as u64);
            Torture { options, ..Torture::new(faults) }.run();
        }
    }
}

#[test]
fn a_dump_fails_at_the_limit_and_the_guest_goes_on() {
    let _alone = require!("userfaultfd", alone());
    for faults in BOTH {
        for pages in [0, 3] {
            let options = SnapshotOptions::new().faults(faults).at_limit(AtLimit::Fail);
            let options = options.copy_limit((pages * PAGE) as u64);
            Torture { options, may_reach_limit: true, count: 3, ..Torture::new(faults) }.run();
        }
    }
}

/// Copies up to the limit, and 16 MiB for everything else.
#[test]
#[ignore = "needs a GiB of memory"]
fn a_snapshot_of_a_gib_needs_the_copy_limit_and_16_mib() {
    const LIMIT: u64 = 64 << 20;

    let _alone = require!("userfaultfd", alone());
    for faults in BOTH {
        let area = Area::new(1 << 30);
        area.part(0, 1 << 30).fill(1);
        let before = crate::cases::status("RssAnon");
        let (stop, stopped, done) =
            (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
        let peak = AtomicU64::new(0);
        let options =
            SnapshotOptions::new().faults(faults).at_limit(AtLimit::Wait).copy_limit(LIMIT);
        let stats = thread::scope(|scope| {
            scope.spawn(|| {
                // A shadow would be memory as well.
                let mut random = Random(99);
                while !done.load(Ordering::Acquire) {
                    area.write(random.below(1 << 30), 2);
                    while stop.load(Ordering::Acquire) {
                        stopped.store(true, Ordering::Release);
                        thread::yield_now();
                    }
                }
            });
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    peak.fetch_max(crate::cases::status("RssAnon"), Ordering::AcqRel);
                    thread::sleep(Duration::from_millis(2));
                }
            });
            let _done = SetOnDrop(&done);
            // SAFETY: the memory lives longer than the snapshot, and only the guest writes to it.
            let prepared = unsafe { options.prepare(&[area.live()]) }.unwrap();
            stop.store(true, Ordering::Release);
            while !stopped.load(Ordering::Acquire) {
                thread::yield_now();
            }
            let snapshot = prepared.freeze(Area::dump(&[&area])).unwrap();
            stop.store(false, Ordering::Release);
            Dumper::new().plan(&snapshot.dump).unwrap().write_to(&mut io::sink()).unwrap();
            snapshot.finish().unwrap()
        });
        let needed = peak.into_inner().saturating_sub(before) * 1024;
        assert!(stats.peak_copy_bytes <= LIMIT);
        assert!(needed <= LIMIT + (16 << 20), "{faults:?}: {needed} bytes, {stats:?}");
    }
}
