//! Guests that write numbered values in a known order while snapshots of them are dumped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use corestream::internals::find_mismatch;
use corestream::snapshot::{AtLimit, Faults, Preparation, Snapshot, SnapshotOptions};
use corestream::{Dumper, Piece, Sink};

use crate::alone;
use crate::environment::require;
use crate::guest::{Guest, SetOnDrop, assert_contents};

/// The order in which a guest writes.
#[derive(Clone, Copy, Debug)]
pub enum Pattern {
    Sequential,
    Random,
    /// 16 pages, again and again.
    Hot,
    OnePage,
    /// One word in each page, in order.
    AllPages,
}

/// A generator of pseudorandom numbers (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

impl Pattern {
    pub fn word(self, i: usize, words: usize, random: &mut Random) -> usize {
        match self {
            Self::Sequential => i % words,
            Self::Random => random.below(words),
            Self::Hot => random.below(16) * 512 * 7 + random.below(512),
            Self::OnePage => 512 * 3 + i % 512,
            Self::AllPages => (i * 512 + i / 512 % 512) % words,
        }
    }
}

/// A sink that takes at most `step` bytes at once, and waits.
struct SlowSink<'b> {
    bytes: &'b mut Vec<u8>,
    step: usize,
    pause: Duration,
}

impl Sink for SlowSink<'_> {
    fn put(&mut self, pieces: &[Piece<'_>]) -> std::io::Result<usize> {
        let bytes = &pieces[0].bytes[..pieces[0].bytes.len().min(self.step)];
        self.bytes.extend(bytes);
        thread::sleep(self.pause);
        Ok(bytes.len())
    }
}

/// The tasks of the guest.
const RUN: u64 = 0;
const FREEZE: u64 = 1;
const STOP: u64 = 2;
const STOPPED: u64 = 3;

/// Takes `count` snapshots of a guest that never stops writing.
fn torture(pattern: Pattern, faults: Faults, count: usize) {
    let mut guest = Guest::untouched(24 << 20);
    let mut random = Random(0x1234_5678_9abc_def1);
    // Half of the memory is untouched at first.
    for _ in 0..20_000 {
        guest.write(random.below(guest.words() / 2));
    }
    let options = SnapshotOptions::new().faults(faults).at_limit(AtLimit::Wait);
    let with_little_room = options.clone().copy_limit(64 << 10);
    let wanted = AtomicU64::new(RUN);
    let done = AtomicBool::new(false);
    let (to_guest, from_dumper) = mpsc::channel::<Preparation>();
    let (to_dumper, from_guest) = mpsc::channel::<(Snapshot, Vec<u64>)>();
    let live = guest.live();
    thread::scope(|scope| {
        let (wanted, done) = (&wanted, &done);
        scope.spawn(move || {
            let _done = SetOnDrop(done);
            for i in 0..count {
                let options = if i % 4 == 3 { &with_little_room } else { &options };
                // SAFETY: the memory of the guest is private and lives longer than the snapshot, and only the thread of the
                // guest writes to it, by stores.
                let prepared = unsafe { options.prepare(&[live]) }.unwrap();
                if i % 3 == 1 {
                    prepared.protect_again().unwrap();
                }
                to_guest.send(prepared).unwrap();
                wanted.store(FREEZE, Ordering::Release);
                let (snapshot, expected) = from_guest.recv().unwrap();
                let plan = Dumper::new().threads(1 + i % 2).plan(&snapshot.dump).unwrap();
                let mut core = Vec::new();
                match i % 3 {
                    0 => plan.write_to(&mut core).unwrap(),
                    1 => {
                        let pause = Duration::from_micros(200);
                        let mut sink = SlowSink { bytes: &mut core, step: 100_000, pause };
                        plan.write_to(&mut sink).unwrap();
                    }
                    _ => {
                        let mut pieces = plan.pieces().unwrap();
                        while let Some(batch) = pieces.next_batch().unwrap() {
                            batch.iter().for_each(|piece| core.extend(piece.bytes));
                        }
                    }
                }
                drop(plan);
                // The protection must agree with the state while the guest is stopped.
                wanted.store(STOP, Ordering::Release);
                while wanted.load(Ordering::Acquire) != STOPPED {
                    thread::yield_now();
                }
                assert_eq!(find_mismatch(&snapshot).unwrap(), None);
                wanted.store(RUN, Ordering::Release);
                snapshot.finish().unwrap();
                assert_contents(&core, &expected);
            }
        });
        let mut i = 0;
        while !done.load(Ordering::Acquire) {
            for _ in 0..100 {
                guest.write(pattern.word(i, guest.words(), &mut random));
                i += 1;
            }
            match wanted.load(Ordering::Acquire) {
                FREEZE => {
                    wanted.store(RUN, Ordering::Release);
                    let Ok(prepared) = from_dumper.recv() else { break };
                    let expected = guest.expected();
                    let snapshot = prepared.freeze(guest.dump()).unwrap();
                    // Fails if the other thread has panicked.
                    let _ = to_dumper.send((snapshot, expected));
                }
                STOP => {
                    wanted.store(STOPPED, Ordering::Release);
                    while wanted.load(Ordering::Acquire) == STOPPED && !done.load(Ordering::Acquire)
                    {
                        thread::yield_now();
                    }
                }
                _ => {}
            }
        }
    });
}

#[test]
fn every_dump_is_the_memory_at_the_freeze() {
    let _alone = require!("userfaultfd", alone());
    torture_all(10);
}

/// `CORESTREAM_SNAPSHOTS` sets the number of snapshots.
#[test]
#[ignore = "takes minutes"]
fn every_one_of_many_dumps_is_the_memory_at_the_freeze() {
    let _alone = require!("userfaultfd", alone());
    let count = std::env::var("CORESTREAM_SNAPSHOTS");
    let count: usize = count.map_or(1000, |count| count.parse().unwrap());
    torture_all(count.div_ceil(10));
}

/// Takes `count` snapshots for each pattern and each kind of faults.
fn torture_all(count: usize) {
    for faults in [Faults::Thread, Faults::Signal] {
        for pattern in [
            Pattern::Sequential,
            Pattern::Random,
            Pattern::Hot,
            Pattern::OnePage,
            Pattern::AllPages,
        ] {
            torture(pattern, faults, count);
        }
    }
}
