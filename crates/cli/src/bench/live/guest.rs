//! A guest that looks at the clock and writes to pages at a given rate, and a snapshot of it while it runs.
//!
//! Source of the figures: the guest itself. A snapshot that stops it appears as a gap between two of its iterations.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::ptr;
use std::slice;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use corestream::snapshot::{LiveMemory, Preparation, Snapshot, SnapshotOptions, SnapshotStats};
use corestream::{
    CoreDump, CoreDumpFile, Error, ErrorKind, Frame, Global, GlobalValue, Memory, MemoryImage,
    MemoryIndex, MemoryType, Thread, Value,
};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use super::gaps::{Gaps, PHASES, Phase};

/// The size in bytes of the pages that are written.
const PAGE: usize = 4096;
/// The size in bytes of a page of WebAssembly.
pub const WASM_PAGE: usize = 65_536;
/// The size in bytes of the guest whose dump is checked, and how long it runs before and after.
const CHECKED_BYTES: usize = 16 << 20;
const CHECKED_ALONE: Duration = Duration::from_millis(30);
/// The priority of the thread that dumps, so that the guest runs first.
const LOWEST_PRIORITY: i32 = 19;

/// The writes of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// Pages per second, in an order in which neighbours are far apart.
    Rate(u32),
    /// The same as fast as possible.
    Random,
    /// One page after the other, as fast as possible.
    Sequential,
}

impl FromStr for Writes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unlimited" => Ok(Self::Random),
            "sequential" => Ok(Self::Sequential),
            rate => rate
                .parse()
                .map(Self::Rate)
                .map_err(|_| format!("expected 0 to {}, `unlimited` or `sequential`", u32::MAX)),
        }
    }
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(rate) => write!(f, "{rate}"),
            Self::Random => write!(f, "unlimited"),
            Self::Sequential => write!(f, "sequential"),
        }
    }
}

/// The memory of a guest, every page of which is touched.
pub struct Touched {
    start: *mut u8,
    len: usize,
}

// SAFETY: the value owns the mapping, which any thread may use.
unsafe impl Send for Touched {}
// SAFETY: the memory is written to only by a round, which borrows the value mutably.
unsafe impl Sync for Touched {}

impl Touched {
    /// Maps `len` bytes, and writes to every page.
    ///
    /// # Errors
    /// Returns an error if the memory cannot be mapped.
    pub fn new(len: usize, huge_pages: bool) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, which replaces no other.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, protection, MapFlags::PRIVATE) }?;
        let this = Self { start: start.cast(), len };
        let advice = if huge_pages { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
        // SAFETY: the advice concerns this mapping only, and does not change its contents.
        unsafe { madvise(start, len, advice) }?;
        // SAFETY: the mapping has `len` writable bytes, and no reference to them exists.
        unsafe { this.start.write_bytes(1, len) };
        Ok(this)
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has `len` bytes and lives as long as `self`. A round writes to it, but borrows `self` mutably.
        unsafe { slice::from_raw_parts(self.start, self.len) }
    }

    /// Describes a guest with 1,000 frames and some globals.
    pub fn describe(&self) -> CoreDump<'_> {
        let mut dump = CoreDump::new("guest");
        let ty = MemoryType::wasm64((self.len / WASM_PAGE) as u64);
        dump.add_memory(Memory::new(ty, MemoryImage::from_slice(self.bytes())));
        for i in 0..16 {
            dump.add_global(Global::mutable(GlobalValue::I32(i)));
        }
        let frame = |i| {
            let locals = [Value::I32(1), Value::I64(2), Value::I32(3), Value::I32(4)];
            Frame::new(None, i, 10).with_locals(locals)
        };
        dump.add_thread(Thread::new("main").with_frames((0..1000).map(frame)));
        dump
    }

    /// Runs the guest for `setup.alone`, takes a snapshot of it, passes the dump to `dump`, which runs on a thread of low
    /// priority, and runs the guest for the same time again.
    ///
    /// With [`Faults::Signal`](corestream::snapshot::Faults::Signal), the handler for SIGBUS must be installed.
    ///
    /// # Errors
    /// Returns an error if the machine cannot take snapshots. Other errors are in the result.
    pub fn round<E: Send>(
        &mut self,
        setup: &Setup<'_>,
        dump: impl FnOnce(&CoreDump<'_>) -> Result<(), E> + Send,
    ) -> corestream::Result<Round<E>> {
        let guest = &*self;
        let control = &Control { phase: AtomicUsize::new(0), stop: AtomicBool::new(false) };
        let (to_guest, prepared) = channel();
        let (to_observer, frozen) = channel();
        thread::scope(|scope| {
            let run = move || run(guest, setup, control, &prepared, &to_observer);
            let thread = thread::Builder::new().spawn_scoped(scope, run);
            let thread = thread.map_err(cannot_start)?;
            // Otherwise the scope would wait for the guest forever after an error.
            let _stop = StopGuest(control);
            thread::sleep(setup.alone);
            control.enter(Phase::Prepare);
            let start = Instant::now();
            let live = LiveMemory::new(guest.start, guest.len);
            // SAFETY: the mapping is private and anonymous, and outlives the snapshot. Only the guest writes to it, by
            // stores. The caller has installed the handler.
            let preparation = unsafe { setup.options.prepare(&[live]) }?;
            let prepare_time = start.elapsed();
            // The guest holds the other end until it is stopped.
            let _ = to_guest.send(preparation);
            control.enter(Phase::Ready);
            let Ok(frozen) = frozen.recv() else { return Err(stopped()) };
            let Frozen { snapshot, pause, expected } = frozen?;
            let start = Instant::now();
            let dumped = thread::scope(|scope| {
                let work = || {
                    // Without a lower priority, the dump disturbs the guest more.
                    let _ = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
                    dump(&snapshot.dump)
                };
                let thread = thread::Builder::new().spawn_scoped(scope, work);
                thread.map_err(cannot_start)?.join().map_err(|_| stopped())
            })?;
            let dump_time = start.elapsed();
            control.enter(Phase::Finish);
            let finished = snapshot.finish();
            control.enter(Phase::After);
            thread::sleep(setup.alone);
            control.stop();
            let gaps = thread.join().map_err(|_| stopped())?;
            Ok(Round { gaps, prepare_time, pause, dump_time, dumped, finished, expected })
        })
    }
}

impl Drop for Touched {
    fn drop(&mut self) {
        // SAFETY: no reference to the mapping exists any more.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}

fn cannot_start(error: io::Error) -> Error {
    Error::new(ErrorKind::Guest, format!("cannot start a thread: {error}"))
}

fn stopped() -> Error {
    Error::new(ErrorKind::Guest, "a thread of the measurement has panicked")
}

/// Dumps a snapshot of a guest that writes as fast as it can. `dump` returns the bytes of the dump. Returns whether they
/// have the contents of the memory at the freeze.
///
/// # Errors
/// Returns an error if the snapshot or the dump fails, or if the dump cannot be read.
pub fn is_dump_right<E: From<Error> + Send>(
    options: &SnapshotOptions,
    dump: impl FnOnce(&CoreDump<'_>) -> Result<Vec<u8>, E> + Send,
) -> Result<bool, E> {
    let cannot_map = |error| Error::new(ErrorKind::Guest, format!("cannot map memory: {error}"));
    let mut guest = Touched::new(CHECKED_BYTES, false).map_err(cannot_map)?;
    // All of its pages may be copied.
    let options = options.clone().copy_limit(2 * CHECKED_BYTES as u64);
    let writes = Writes::Random;
    let setup = Setup { writes, options: &options, alone: CHECKED_ALONE, keeps_contents: true };
    let mut core = Vec::new();
    let round: Round<E> = guest.round(&setup, |frozen| dump(frozen).map(|bytes| core = bytes))?;
    round.dumped?;
    round.finished?;
    let mut bytes = vec![0; CHECKED_BYTES];
    CoreDumpFile::from_slice(&core)?.memory(MemoryIndex(0))?.read(0, &mut bytes)?;
    Ok(round.expected == Some(bytes))
}

/// The settings of a round.
pub struct Setup<'s> {
    pub writes: Writes,
    pub options: &'s SnapshotOptions,
    /// How long the guest runs before and after the snapshot.
    pub alone: Duration,
    /// Whether to keep a copy of the memory at the freeze.
    pub keeps_contents: bool,
}

/// One run of a guest with a snapshot.
pub struct Round<E> {
    /// By phase.
    gaps: Vec<Gaps>,
    pub prepare_time: Duration,
    /// How long the guest stood still for the freeze.
    pub pause: Duration,
    pub dump_time: Duration,
    pub dumped: Result<(), E>,
    pub finished: corestream::Result<SnapshotStats>,
    /// The contents of the memory at the freeze, if they were wanted.
    pub expected: Option<Vec<u8>>,
}

impl<E> Round<E> {
    pub fn gaps(&self, phase: Phase) -> &Gaps {
        &self.gaps[phase as usize]
    }
}

/// The result of a freeze.
struct Frozen {
    snapshot: Snapshot,
    pause: Duration,
    expected: Option<Vec<u8>>,
}

/// The state that a guest and its observer share.
struct Control {
    phase: AtomicUsize,
    stop: AtomicBool,
}

impl Control {
    fn enter(&self, phase: Phase) {
        self.phase.store(phase as usize, Ordering::Release);
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }
}

struct StopGuest<'c>(&'c Control);

impl Drop for StopGuest<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Runs the guest until it is stopped. Returns the gaps of each phase. Only one guest of a memory runs at a time.
fn run(
    guest: &Touched,
    setup: &Setup<'_>,
    control: &Control,
    prepared: &Receiver<Preparation>,
    to_observer: &Sender<corestream::Result<Frozen>>,
) -> Vec<Gaps> {
    let mut gaps = vec![Gaps::new(); PHASES.len()];
    let pages = guest.len / PAGE;
    // The number of writes, and the number of those in earlier phases.
    let (mut written, mut earlier) = (0_usize, 0);
    let mut last = Instant::now();
    let (mut phase, mut begin) = (Phase::Before as usize, last);
    while !control.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        // A gap belongs to the phase in which it began.
        gaps[phase].add(now - last);
        last = now;
        let entered = control.phase.load(Ordering::Acquire);
        if entered != phase {
            // A guest makes up for missed writes only within a phase.
            (phase, begin, earlier) = (entered, now, written);
            if phase == Phase::Ready as usize {
                let frozen = prepared
                    .recv()
                    .map(|preparation| freeze(guest, preparation, setup.keeps_contents));
                phase = Phase::Dump as usize;
                control.enter(Phase::Dump);
                if let Ok(frozen) = frozen {
                    let _ = to_observer.send(frozen);
                }
                last = Instant::now();
                begin = last;
            }
        }
        let page = match setup.writes {
            Writes::Rate(0) => None,
            Writes::Rate(rate) => {
                let due = now.saturating_duration_since(begin).as_secs_f64() * f64::from(rate);
                ((written - earlier) as f64 <= due).then(|| scatter(written, pages))
            }
            Writes::Random => Some(scatter(written, pages)),
            Writes::Sequential => Some(written % pages),
        };
        if let Some(page) = page {
            let offset = page * PAGE + written % 512 * 8;
            // SAFETY: the offset is in the memory, and aligned. Only this thread writes to the memory. Others read it only
            // through a snapshot.
            unsafe { guest.start.add(offset).cast::<u64>().write_volatile(written as u64) };
            written += 1;
            gaps[phase].add_write();
        }
    }
    gaps
}

/// Freezes the guest, on its own thread.
fn freeze(
    guest: &Touched,
    preparation: Preparation,
    keeps_contents: bool,
) -> corestream::Result<Frozen> {
    let expected = keeps_contents.then(|| guest.bytes().to_vec());
    let start = Instant::now();
    let snapshot = preparation.freeze(guest.describe())?;
    Ok(Frozen { snapshot, pause: start.elapsed(), expected })
}

/// Returns the `i`th page in an order in which neighbours are far apart, and which visits every page before it repeats
/// one.
fn scatter(i: usize, pages: usize) -> usize {
    // The factor is a prime larger than the number of pages, so the two have no common divisor.
    i.wrapping_mul(0x9e37_79b1) % pages
}
