//! The counted cases: each stage by itself, on fixed inputs.
//!
//! The count of a plan includes the scan that finds its gaps. For an input with many gaps, the plan itself dominates.
//! Encoding writes to a sink that discards everything, and does not depend on the scanner's backend.

use std::fmt;
use std::hint::black_box;
use std::io;

use corestream::internals::SEGMENT_COST;
use corestream::internals::Scanner;
use corestream::{Dumper, ExtentMethod, Piece, Sink};

use super::Result;
use super::common::{self, Random, guest};
use super::decoded::decode;

/// The length of an input in bytes: two batches of a scan, so that the edge between them is counted too.
const INPUT_BYTES: usize = 4 << 20;

/// The names of the inputs: the images that the benches share, and an input of single bytes with gaps that are all long
/// enough to split a segment.
pub const INPUTS: [&str; 6] = ["zero", "dense", "random", "heap", "one-page-in-ten", GAPS];
const GAPS: &str = "gaps";

/// A segment budget that the gaps of some inputs exceed many times.
const FEW_SEGMENTS: u32 = 1000;

/// Returns the bytes of the input called `name`.
pub fn input(name: &str) -> Vec<u8> {
    if name != GAPS {
        let image = common::image(&name.replace('-', " "), INPUT_BYTES);
        return image.expect("an image of that name");
    }
    let mut bytes = vec![0; INPUT_BYTES];
    let mut random = Random(88_172_645_463_325_252);
    let mut at = 0;
    while let Some(byte) = bytes.get_mut(at) {
        *byte = 1;
        at += 1 + random.between(SEGMENT_COST + 1, 3 * SEGMENT_COST);
    }
    bytes
}

/// A stage to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Scanning a slice for gaps that are long enough to split a segment.
    Scan,
    /// Planning within the budget, with one thread.
    Plan,
    /// Planning with more gaps than the budget allows.
    PlanFew,
    /// Encoding without checksums.
    Encode,
    /// Encoding with checksums.
    EncodeChecksums,
}

impl Stage {
    const ALL: [Self; 5] =
        [Self::Scan, Self::Plan, Self::PlanFew, Self::Encode, Self::EncodeChecksums];

    fn name(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Plan => "plan",
            Self::PlanFew => "plan-few-segments",
            Self::Encode => "encode",
            Self::EncodeChecksums => "encode-checksums",
        }
    }

    fn backends(self) -> &'static [&'static str] {
        match self {
            Self::Scan | Self::Plan | Self::PlanFew => &["scalar", "avx2"],
            Self::Encode | Self::EncodeChecksums => &["any"],
        }
    }

    fn inputs(self) -> &'static [&'static str] {
        match self {
            Self::PlanFew => &["heap", GAPS],
            Self::Scan | Self::Plan => &INPUTS,
            // An image of zeros has nothing to encode.
            Self::Encode | Self::EncodeChecksums => &INPUTS[1..],
        }
    }
}

/// A case: a stage, an input and a backend.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub stage: Stage,
    pub input: &'static str,
    pub backend: &'static str,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.stage.name(), self.input, self.backend)
    }
}

impl Case {
    /// Returns all cases.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_stage = |stage: Stage| {
            let inputs = stage.inputs().iter();
            inputs.flat_map(move |input| {
                stage.backends().iter().map(move |backend| Self { stage, input, backend })
            })
        };
        Stage::ALL.into_iter().flat_map(of_stage)
    }

    pub fn is(&self, stage: &str, input: &str, backend: &str) -> bool {
        (self.stage.name(), self.input, self.backend) == (stage, input, backend)
    }

    /// Returns the backend, or `None` if this machine does not support it.
    pub fn scanner(&self) -> Option<Scanner> {
        match self.backend {
            "avx2" => Scanner::avx2(),
            _ => Some(Scanner::scalar()),
        }
    }

    fn dumper(&self) -> Option<Dumper> {
        let dumper = Dumper::new()
            .scanner(self.scanner()?)
            .threads(1)
            .extent_method(Some(ExtentMethod::Whole))
            .checksums(self.stage == Stage::EncodeChecksums);
        Some(if self.stage == Stage::PlanFew { dumper.max_segments(FEW_SEGMENTS) } else { dumper })
    }

    /// Runs the case on `bytes` once.
    pub fn run(&self, bytes: &[u8]) -> Result {
        let missing = || format!("{self}: not supported by this processor");
        let scanner = self.scanner().ok_or_else(missing)?;
        let dumper = self.dumper().ok_or_else(missing)?;
        let dump = guest(bytes);
        match self.stage {
            Stage::Scan => measured(&mut || {
                scanner.runs(black_box(bytes), min_gap(), |run| _ = black_box(run));
            }),
            Stage::Plan | Stage::PlanFew => {
                let mut plan = None;
                measured(&mut || plan = Some(dumper.plan(black_box(&dump))));
                black_box(plan.transpose()?);
            }
            Stage::Encode | Stage::EncodeChecksums => {
                let plan = dumper.plan(&dump)?;
                let mut written = Ok(());
                measured(&mut || written = black_box(&plan).write_to(&mut Null));
                written?;
            }
        }
        Ok(())
    }

    /// Checks the result of the case.
    ///
    /// # Panics
    /// Panics if it is wrong.
    pub fn check(&self, bytes: &[u8]) {
        let (Some(scanner), Some(dumper)) = (self.scanner(), self.dumper()) else { return };
        if self.stage == Stage::Scan {
            return check_runs(scanner, bytes);
        }
        let dump = guest(bytes);
        let plan = dumper.plan(&dump).unwrap();
        if self.stage == Stage::PlanFew {
            assert_eq!(plan.segments().len(), FEW_SEGMENTS as usize, "{self}");
        }
        // Encoding fails if it emits more or fewer bytes than planned.
        plan.write_to(&mut Null).unwrap();
        assert!(decode(&plan.to_vec().unwrap()).contents(0, bytes.len()) == bytes, "{self}");
    }
}

/// Runs `stage`. Callgrind recognizes this function by its name and counts from its entry to its return.
#[inline(never)]
fn measured(stage: &mut dyn FnMut()) {
    stage();
}

/// Returns the length in bytes of the shortest gap that splits a segment.
fn min_gap() -> usize {
    usize::try_from(SEGMENT_COST + 1).unwrap()
}

/// Checks that the scanner finds the same runs as a byte-by-byte scan.
fn check_runs(scanner: Scanner, bytes: &[u8]) {
    let mut expected: Vec<std::ops::Range<usize>> = Vec::new();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
        match expected.last_mut() {
            Some(run) if at - run.end < min_gap() => run.end = at + 1,
            _ => expected.push(at..at + 1),
        }
    }
    let mut found = Vec::new();
    scanner.runs(bytes, min_gap(), |run| found.push(run));
    assert!(found == expected, "{}", scanner.name());
}

/// A sink that counts bytes and discards them.
struct Null;

impl Sink for Null {
    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        Ok(black_box(pieces).iter().map(|piece| piece.bytes.len()).sum())
    }
}
