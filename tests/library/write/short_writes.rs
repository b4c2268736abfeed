//! Writing to an `io::Write` that takes few bytes at once, is interrupted, is not ready, or becomes full.

use crate::common;
use std::io::{self, IoSlice, Write};

use common::{Random, decode};
use corestream::{CoreDump, Dumper, ErrorKind, Memory, MemoryImage, MemoryType, Plan};

/// The number of bytes that a write takes.
#[derive(Clone, Copy, Debug)]
enum Step {
    Bytes(usize),
    /// Any number up to this one.
    Random(u64),
}

/// Returns the result of a write to a full output.
type Full = fn() -> io::Result<usize>;

/// A writer that takes few bytes at once, and `room` bytes in total.
struct Reluctant {
    step: Step,
    room: usize,
    full: Full,
    /// The number of interrupted writes before each successful one.
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

/// Calls `check` with a plan and the bytes of its dump. The guest has a page and a half, with gaps.
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
fn continues_short_and_interrupted_writes() {
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
fn reports_how_much_a_full_output_took() {
    let full: [(Full, io::ErrorKind); 4] = [
        (|| Err(io::ErrorKind::StorageFull.into()), io::ErrorKind::StorageFull),
        (|| Err(io::ErrorKind::WouldBlock.into()), io::ErrorKind::WouldBlock),
        (|| Err(io::ErrorKind::QuotaExceeded.into()), io::ErrorKind::QuotaExceeded),
        (|| Ok(0), io::ErrorKind::WriteZero),
    ];
    with_plan(|plan, expected| {
        let len = expected.len();
        // The output becomes full at the first byte, around the end of the data, and at the last byte.
        for room in [0, 1, 8, len / 2, len - 700, len - 4, len - 1] {
            for (full, kind) in full {
                for step in [Step::Bytes(usize::MAX), Step::Random(3000)] {
                    let mut output = Reluctant::new(step, room, full);
                    let error = plan.write_to(&mut output).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Output);
                    assert_eq!(error.io_error().unwrap().kind(), kind);
                    let message = format!("{room} of {len} bytes written: ");
                    assert!(error.to_string().starts_with(&message), "{error}");
                    assert!(output.taken == expected[..room], "{step:?}, {room}");
                }
            }
        }
    });
}

/// A failed write does not change the plan.
#[test]
fn writes_again_after_a_failure() {
    with_plan(|plan, expected| {
        let mut small = Reluctant::new(Step::Bytes(100), 5000, || Ok(0));
        plan.write_to(&mut small).unwrap_err();
        let mut output = Vec::new();
        plan.write_to(&mut output).unwrap();
        assert!(output == expected);
    });
}
