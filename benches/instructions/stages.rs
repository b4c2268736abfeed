//! What is counted: each stage by itself, on fixed inputs.
//!
//! A plan holds the scan that finds its gaps; of an input with many, most of the work is its own.
//! Encoding goes to a sink that takes nothing, and knows nothing of backends.

use std::fmt;
use std::hint::black_box;
use std::io;

use corestream::internals::SEGMENT_COST;
use corestream::internals::Scanner;
use corestream::{Dumper, ExtentMethod, Piece, Sink};

use super::Result;
use super::common::{self, Random, guest};
use super::decoded::decode;

/// Bytes of an input: two batches of a scan, so that what lies at their edge is counted as well.
const INPUT_BYTES: usize = 4 << 20;

/// The names of the inputs: those of the images that the benches share, and one of single bytes with
/// gaps between them that are all worth a segment.
pub const INPUTS: [&str; 6] = ["zero", "dense", "random", "heap", "one-page-in-ten", GAPS];
const GAPS: &str = "gaps";

/// A budget of segments that the gaps of some inputs exceed many times.
const FEW_SEGMENTS: u32 = 1000;

/// The bytes of the input of that name.
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

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Of a slice, for gaps that are worth a segment.
    Scan,
    /// Within the budget, by one thread.
    Plan,
    /// With more gaps than the budget allows.
    PlanFew,
    /// Without checksums.
    Encode,
    /// With them.
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
            // Of zeros there is nothing to encode.
            Self::Encode | Self::EncodeChecksums => &INPUTS[1..],
        }
    }
}

/// One count.
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
    /// All of them.
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

    /// The backend of its scan; `None` where this machine does not have it.
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

    /// Runs it on `bytes`, once.
    pub fn run(&self, bytes: &[u8]) -> Result {
        let missing = || format!("{self}: this processor does not have it");
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

    /// Its answer is right.
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
        // It fails if other than the planned bytes are emitted.
        plan.write_to(&mut Null).unwrap();
        assert!(decode(&plan.to_vec().unwrap()).contents(0, bytes.len()) == bytes, "{self}");
    }
}

/// Runs `stage`. Callgrind counts from where this is entered to where it is left, which it knows by
/// the name.
#[inline(never)]
fn measured(stage: &mut dyn FnMut()) {
    stage();
}

/// The shortest gap that is worth a segment, in bytes.
fn min_gap() -> usize {
    usize::try_from(SEGMENT_COST + 1).unwrap()
}

/// The runs are those that a look at each byte finds.
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

/// Counts what it is given.
struct Null;

impl Sink for Null {
    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        Ok(black_box(pieces).iter().map(|piece| piece.bytes.len()).sum())
    }
}
