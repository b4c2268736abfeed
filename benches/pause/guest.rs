//! A guest that looks at the clock and writes to pages at a given rate, and the gaps between its iterations.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use corestream::snapshot::{LiveMemory, Preparation, Snapshot};
use corestream::{
    CoreDump, Frame, Global, GlobalValue, Memory, MemoryImage, MemoryType, Thread, Value,
};
use memmap2::{Advice, MmapMut};

/// The size in bytes of the pages that are written.
pub const PAGE: usize = 4096;

/// The writes of the guest.
#[derive(Clone, Copy, PartialEq)]
pub enum Writes {
    /// Pages per second, in an order in which neighbours are far apart.
    Rate(u32),
    /// The same as fast as possible.
    Random,
    /// One page after the other, as fast as possible.
    Sequential,
}

impl Writes {
    pub fn name(self) -> String {
        match self {
            Self::Rate(rate) => rate.to_string(),
            Self::Random => "random".to_string(),
            Self::Sequential => "sequential".to_string(),
        }
    }
}

/// The parts of a run, for which gaps are recorded separately.
#[derive(Clone, Copy)]
pub enum Phase {
    Before,
    Prepare,
    Ready,
    Dump,
    After,
}

/// The number of phases.
pub const PHASES: usize = 5;

/// The gaps of one phase.
#[derive(Clone)]
pub struct Gaps {
    /// The number of gaps by their logarithm, in eighths of an octave of nanoseconds.
    counts: Vec<u64>,
    pub iterations: u64,
    pub writes: u64,
    pub largest: Duration,
    pub time: Duration,
}

impl Gaps {
    fn new() -> Self {
        let none = Duration::ZERO;
        Self { counts: vec![0; 64 * 8], iterations: 0, writes: 0, largest: none, time: none }
    }

    fn add(&mut self, gap: Duration) {
        let nanos = u64::try_from(gap.as_nanos()).unwrap().max(8);
        let octave = nanos.ilog2();
        let eighth = (nanos >> (octave - 3)) & 7;
        self.counts[octave as usize * 8 + usize::try_from(eighth).unwrap()] += 1;
        self.iterations += 1;
        self.largest = self.largest.max(gap);
        self.time += gap;
    }

    /// Returns the gap in nanoseconds that a share of all gaps does not exceed, to an eighth.
    pub fn quantile(&self, share: f64) -> u64 {
        let mut left = (self.iterations as f64 * share).ceil();
        for (i, count) in self.counts.iter().enumerate() {
            left -= *count as f64;
            if left <= 0.0 && i >= 24 {
                return (8 + (i as u64 % 8)) << (i / 8 - 3);
            }
        }
        0
    }

    pub fn writes_per_second(&self) -> f64 {
        self.writes as f64 / self.time.as_secs_f64().max(1e-9)
    }

    pub fn iterations_per_second(&self) -> f64 {
        self.iterations as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// The memory of a guest, every page of which is touched.
pub struct Touched {
    memory: MmapMut,
}

impl Touched {
    pub fn new(len: usize, huge: bool) -> Self {
        let mut memory = MmapMut::map_anon(len).unwrap();
        memory.advise(if huge { Advice::HugePage } else { Advice::NoHugePage }).unwrap();
        memory.fill(1);
        Self { memory }
    }

    pub fn live(&self) -> LiveMemory {
        LiveMemory::new(self.memory.as_ptr(), self.memory.len())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.memory
    }

    /// Describes a guest with 1,000 frames and some globals.
    pub fn describe(&self) -> CoreDump<'_> {
        let mut dump = CoreDump::new("guest");
        let ty = MemoryType::wasm64(self.memory.len() as u64 / 65_536);
        dump.add_memory(Memory::new(ty, MemoryImage::from_slice(&self.memory)));
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
}

/// The result of a freeze.
pub struct Frozen {
    pub snapshot: Snapshot,
    /// The time for which the guest stood still.
    pub pause: Duration,
    /// The contents of the memory, if they were wanted.
    pub expected: Option<Vec<u8>>,
}

/// The state that a guest and its observer share.
pub struct Control {
    phase: AtomicUsize,
    stop: AtomicBool,
    wants_freeze: AtomicBool,
    preparation: Mutex<Option<Preparation>>,
    frozen: Mutex<Option<Frozen>>,
}

impl Control {
    pub fn new() -> Self {
        Self {
            phase: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            wants_freeze: AtomicBool::new(false),
            preparation: Mutex::new(None),
            frozen: Mutex::new(None),
        }
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as usize, Ordering::Release);
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Freezes on the thread of the guest.
    pub fn freeze(&self, preparation: Preparation) -> Frozen {
        *self.preparation.lock().unwrap() = Some(preparation);
        self.wants_freeze.store(true, Ordering::Release);
        while self.wants_freeze.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_micros(100));
        }
        self.frozen.lock().unwrap().take().unwrap()
    }
}

/// Runs the guest until it is stopped. Returns the gaps of each phase.
pub fn run(guest: &Touched, writes: Writes, control: &Control, check: bool) -> Vec<Gaps> {
    let mut gaps = vec![Gaps::new(); PHASES];
    let pages = guest.bytes().len() / PAGE;
    let start = guest.bytes().as_ptr().cast_mut();
    let (mut written, begin) = (0_usize, Instant::now());
    let (mut last, mut base) = (begin, (begin, 0));
    let mut phase = 0;
    while !control.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        // A gap belongs to the phase in which it began.
        gaps[phase].add(now - last);
        last = now;
        let entered = control.phase.load(Ordering::Relaxed);
        if entered != phase {
            // A guest makes up for missed writes only within a phase.
            (phase, base) = (entered, (now, written));
        }
        let page = match writes {
            Writes::Rate(rate) => {
                let due = (now - base.0).as_secs_f64() * f64::from(rate);
                if (written - base.1) as f64 > due || rate == 0 {
                    None
                } else {
                    Some(scatter(written, pages))
                }
            }
            Writes::Random => Some(scatter(written, pages)),
            Writes::Sequential => Some(written % pages),
        };
        if let Some(page) = page {
            // SAFETY: the page is in the memory, which only this thread writes to. Others read it only through a
            // snapshot, or while this thread stands still.
            unsafe {
                start
                    .add(page * PAGE + written % 512 * 8)
                    .cast::<u64>()
                    .write_volatile(written as u64)
            };
            written += 1;
            gaps[phase].writes += 1;
        }
        if control.wants_freeze.load(Ordering::Relaxed) {
            let expected = check.then(|| guest.bytes().to_vec());
            let preparation = control.preparation.lock().unwrap().take().unwrap();
            let stopped = Instant::now();
            let snapshot = preparation.freeze(guest.describe()).unwrap();
            let pause = stopped.elapsed();
            *control.frozen.lock().unwrap() = Some(Frozen { snapshot, pause, expected });
            phase = Phase::Dump as usize;
            control.enter(Phase::Dump);
            control.wants_freeze.store(false, Ordering::Release);
            last = Instant::now();
            base = (last, written);
        }
    }
    gaps
}

/// Returns the `i`th of a permutation of the pages, in which neighbours are far apart. The number of pages is a power of
/// two.
fn scatter(i: usize, pages: usize) -> usize {
    i.wrapping_mul(0x9e37_79b1) % pages
}
