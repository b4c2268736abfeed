//! Dumps to an `io::Write` that takes little at once, is interrupted, is not ready, or is full at some
//! byte: everything comes, or the error says how far it came.

use crate::common;
use std::io::{self, IoSlice, Write};

use common::{Random, decode};
use corestream::{CoreDump, Dumper, ErrorKind, Memory, MemoryImage, MemoryType, Plan};

/// How many bytes a write takes.
#[derive(Clone, Copy, Debug)]
enum Step {
    Bytes(usize),
    /// Any number up to this one.
    Random(u64),
}

/// What a write gives that finds no room.
type Full = fn() -> io::Result<usize>;

/// Takes few bytes at once, up to the `room` that there is.
struct Reluctant {
    step: Step,
    room: usize,
    full: Full,
    /// Writes that are interrupted before one is not.
    interruptions: u32,
    interrupted: u32,
    random: Random,
    taken: Vec<u8>,
}

impl Reluctant {
    fn new(step: Step, room: usize, full: Full) -> Self {
        let (random, taken) = (Random(11), Vec::new());
        Self { step, room, full, interruptions: 0, interrupted: 0, random, taken }
    }
}

impl Write for Reluctant {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.interrupted < self.interruptions {
            self.interrupted += 1;
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.interrupted = 0;
        let left = self.room - self.taken.len();
        if left == 0 {
            return (self.full)();
        }
        let step = match self.step {
            Step::Bytes(step) => step,
            Step::Random(most) => 1 + self.random.below(most),
        };
        let before = self.taken.len();
        let bytes = slices.iter().flat_map(|slice| slice.iter());
        self.taken.extend(bytes.take(step.min(left)));
        Ok(self.taken.len() - before)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Passes a plan of a guest with a page and a half, of which parts are zero, and its bytes.
fn with_plan(check: impl Fn(&Plan<'_>, &[u8])) {
    let mut bytes = vec![9; 100_000];
    bytes.chunks_mut(700).for_each(|part| part[..200].fill(0));
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm32(2), MemoryImage::from_slice(&bytes)));
    let plan = Dumper::new().plan(&dump).unwrap();
    let expected = plan.to_vec().unwrap();
    assert_eq!(decode(&expected).contents(0, bytes.len()), bytes);
    check(&plan, &expected);
}

#[test]
fn short_and_interrupted_writes_are_continued() {
    with_plan(|plan, expected| {
        for step in [Step::Bytes(1), Step::Bytes(4095), Step::Random(10_000), Step::Random(9)] {
            for interruptions in [0, 1, 5] {
                let mut output = Reluctant::new(step, expected.len(), || unreachable!());
                output.interruptions = interruptions;
                plan.write_to(&mut output).unwrap();
                assert!(output.taken == expected, "{step:?}, {interruptions}");
            }
        }
    });
}

#[test]
fn a_full_output_says_how_far_it_came() {
    let full: [(Full, io::ErrorKind); 4] = [
        (|| Err(io::ErrorKind::StorageFull.into()), io::ErrorKind::StorageFull),
        (|| Err(io::ErrorKind::WouldBlock.into()), io::ErrorKind::WouldBlock),
        (|| Err(io::ErrorKind::QuotaExceeded.into()), io::ErrorKind::QuotaExceeded),
        (|| Ok(0), io::ErrorKind::WriteZero),
    ];
    with_plan(|plan, expected| {
        let len = expected.len();
        // The first, those around the end of the data, and the last byte do not fit.
        for room in [0, 1, 8, len / 2, len - 700, len - 4, len - 1] {
            for (full, kind) in full {
                for step in [Step::Bytes(usize::MAX), Step::Random(3000)] {
                    let mut output = Reluctant::new(step, room, full);
                    let error = plan.write_to(&mut output).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Output);
                    assert_eq!(error.io_error().unwrap().kind(), kind);
                    let said = format!("{room} of {len} bytes written: ");
                    assert!(error.to_string().starts_with(&said), "{error}");
                    assert!(output.taken == expected[..room], "{step:?}, {room}");
                }
            }
        }
    });
}

/// The plan is what it was after an output has failed: the next one gets the dump.
#[test]
fn another_output_may_follow() {
    with_plan(|plan, expected| {
        let mut small = Reluctant::new(Step::Bytes(100), 5000, || Ok(0));
        plan.write_to(&mut small).unwrap_err();
        let mut output = Vec::new();
        plan.write_to(&mut output).unwrap();
        assert!(output == expected);
    });
}
