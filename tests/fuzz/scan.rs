//! Scans any bytes with any alignment, length and minimum gap: every backend finds the runs of an oracle that checks
//! one byte at a time. Plans any images: the segments are those of an oracle, and the dump has the same bytes with
//! every backend and number of threads.

use std::cmp::Reverse;
use std::ops::Range;

use arbitrary::{Arbitrary, Unstructured};
use corestream::internals::SEGMENT_COST;
use corestream::internals::Scanner;
use corestream::{CoreDump, Dumper, Memory, MemoryType};

use crate::image::Kind;

/// The length of all images together for one input in eight: more than a batch of the parallel scan (2 MiB) for each of
/// eight threads. Other inputs fit into one batch.
const MOST: usize = 18 << 20;
/// The most bytes that are not zero.
const MOST_DENSE: usize = 1 << 20;
/// The length of images that the slow backend also scans.
const FEW: usize = 128 << 10;
/// The length of the longest shared image, which is copied byte by byte. It is longer than the buffer for such images.
const MOST_SHARED: usize = 600 << 10;
/// Minimum gaps to try with short images.
const OTHER_GAPS: [usize; 8] = [1, 33, 63, 64, 65, 127, 128, 191];
/// Zeros that the oracle skips at once.
const ZEROS: [u8; 4096] = [0; 4096];
/// Batches begin at multiples of this.
const EDGE: usize = 2 << 20;
/// The alignment of an image before its shift.
const ALIGN: usize = 4096;

#[derive(Arbitrary, Debug)]
struct Input {
    images: Vec<Image>,
    min_gap: MinGap,
    /// The bytes to remove from both ends of the first image for the backends.
    cut: (u8, u8),
    budget: u16,
    trust_holes: bool,
    large: u8,
}

#[derive(Arbitrary, Debug)]
enum MinGap {
    Few(u8),
    Some(u16),
    Most,
}

/// An image, described by its parts.
#[derive(Arbitrary, Debug)]
struct Image {
    kind: Kind,
    /// The offset from the start of a page, modulo 128. From 128 on, the image has the parts of the previous image, so
    /// that both have gaps of the same length.
    shift: u8,
    parts: Vec<Part>,
}

#[derive(Arbitrary, Debug)]
enum Part {
    Bytes(Vec<u8>),
    Zeros(u8),
    Gap(u16),
    /// Zeros, in units of 64 KiB.
    Hole(u8),
    /// Zeros up to the next possible start of a batch, and a few bytes more or less.
    ToEdge(i8),
    Run(u8, u16),
    /// Repeated bytes with zeros between them.
    Repeated([u8; 3], u8, u16),
}

impl Part {
    /// Returns the end of the part if it begins at `at`.
    fn end(&self, at: usize) -> usize {
        match self {
            Self::Bytes(bytes) => at + bytes.len(),
            Self::Zeros(len) => at + usize::from(*len),
            Self::Gap(len) | Self::Run(_, len) => at + usize::from(*len),
            Self::Hole(len) => at + (usize::from(*len % 16) << 16),
            Self::ToEdge(more) => {
                at.next_multiple_of(EDGE).saturating_add_signed((*more).into()).max(at)
            }
            Self::Repeated(_, zeros, times) => at + (3 + usize::from(*zeros)) * usize::from(*times),
        }
    }

    /// Returns whether the part has non-zero bytes.
    fn is_dense(&self) -> bool {
        matches!(self, Self::Bytes(_) | Self::Run(..) | Self::Repeated(..))
    }

    /// Fills `bytes`, which are zero, with the first bytes of the part.
    fn fill(&self, bytes: &mut [u8]) {
        match self {
            Self::Bytes(all) => bytes.copy_from_slice(&all[..bytes.len()]),
            Self::Run(value, _) => bytes.fill(value | 1),
            Self::Repeated(values, zeros, _) => {
                for chunk in bytes.chunks_mut(3 + usize::from(*zeros)) {
                    chunk.iter_mut().zip(values).for_each(|(to, from)| *to = *from);
                }
            }
            _ => {}
        }
    }
}

/// The bytes of an image, in memory that was not touched before.
struct Bytes {
    buffer: Vec<u8>,
    range: Range<usize>,
}

impl Bytes {
    /// Returns the bytes of `parts`, as far as there is room.
    fn new(parts: &[Part], shift: u8, room: &mut usize, room_dense: &mut usize) -> Self {
        let mut ends = Vec::new();
        for part in parts {
            let start = ends.last().copied().unwrap_or(0);
            let mut end = part.end(start).min(start + *room);
            if part.is_dense() {
                end = end.min(start + *room_dense);
                *room_dense -= end - start;
            }
            *room -= end - start;
            ends.push(end);
        }
        let len = ends.last().copied().unwrap_or(0);
        let mut buffer = vec![0; len + ALIGN + 128];
        let start = buffer.as_ptr().align_offset(ALIGN) + usize::from(shift % 128);
        let mut at = start;
        for (part, end) in parts.iter().zip(ends) {
            part.fill(&mut buffer[at..start + end]);
            at = start + end;
        }
        Self { buffer, range: start..start + len }
    }

    fn get(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}

/// Runs the check on an input of the fuzzer.
pub fn run(bytes: &[u8]) {
    if let Ok(mut input) = Input::arbitrary(&mut Unstructured::new(bytes)) {
        input.images.truncate(4);
        check(&input);
    }
}

fn check(input: &Input) {
    let mut room = if input.large.is_multiple_of(8) { MOST } else { FEW };
    let mut room_dense = MOST_DENSE;
    let mut parts: &[Part] = &[];
    let mut all = Vec::new();
    for (i, image) in input.images.iter().enumerate() {
        if i == 0 || image.shift < 128 {
            parts = &image.parts;
        }
        all.push(Bytes::new(parts, image.shift, &mut room, &mut room_dense));
    }
    let images: Vec<_> = all.iter().map(Bytes::get).collect();
    // This comes first, while some of the memory is untouched.
    plans(input, &images);
    if let Some(image) = images.first() {
        let (start, end) = (usize::from(input.cut.0), usize::from(input.cut.1));
        let start = start.min(image.len());
        let end = image.len().saturating_sub(end).clamp(start, start + FEW);
        backends(&image[start..end.min(image.len())], &input.min_gap);
    }
}

fn backends(bytes: &[u8], min_gap: &MinGap) {
    let min_gap = match min_gap {
        MinGap::Few(n) => usize::from(*n),
        MinGap::Some(n) => usize::from(*n),
        MinGap::Most => usize::MAX,
    };
    // A backend has special cases for these lengths.
    let others = if bytes.len() <= FEW / 16 { &OTHER_GAPS[..] } else { &[] };
    for min_gap in others.iter().copied().chain([min_gap]) {
        let expected = runs(bytes, min_gap.max(1));
        for scanner in [Some(Scanner::scalar()), Scanner::avx2()].into_iter().flatten() {
            let mut found = Vec::new();
            scanner.runs(bytes, min_gap, |run| found.push(run));
            assert_eq!(found, expected, "{}, min_gap {min_gap}", scanner.name());
        }
    }
}

/// The oracle: returns the runs, which are separated by at least `min_gap` zeros.
fn runs(bytes: &[u8], min_gap: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (block, start) in bytes.chunks(ZEROS.len()).zip((0..).step_by(ZEROS.len())) {
        if *block == ZEROS {
            continue;
        }
        for i in (start..start + block.len()).filter(|i| bytes[*i] != 0) {
            match runs.last_mut() {
                Some(run) if i - run.end < min_gap => run.end = i + 1,
                _ => runs.push(i..i + 1),
            }
        }
    }
    runs
}

fn plans(input: &Input, images: &[&[u8]]) {
    let mut dump = CoreDump::new("fuzz");
    for (of, bytes) in input.images.iter().zip(images) {
        let pages = bytes.len().div_ceil(65_536) as u64;
        let kind = match of.kind {
            Kind::Shared if bytes.len() > MOST_SHARED => Kind::Read,
            kind => kind,
        };
        dump.add_memory(Memory::new(MemoryType::wasm32(pages), kind.image(bytes)));
    }
    // Any budget, or one that is too small for all gaps.
    let budget = match u32::from(input.budget) {
        budget @ ..0x8000 => 1 + budget % 64,
        budget => budget,
    };
    let dumper = Dumper::new().max_segments(budget).trust_holes(input.trust_holes);
    let bytes = images.iter().map(|image| image.len()).sum::<usize>();
    // Short images are one batch, which one thread scans.
    let other = match bytes <= FEW {
        true => (Scanner::scalar(), 2),
        false => (Scanner::new(), [2, 3, 8][usize::from(input.budget % 3)]),
    };
    let mut first = None;
    for (scanner, threads) in [(Scanner::new(), 1), other] {
        let plan = dumper.clone().scanner(scanner).threads(threads).plan(&dump).unwrap();
        let found: Vec<_> =
            plan.segments().iter().map(|s| (s.memory.0, s.address, u64::from(s.len))).collect();
        let bytes = plan.to_vec().unwrap();
        assert_eq!(bytes.len() as u64, plan.len());
        match &first {
            None => {
                assert!(
                    found == segments(images, budget),
                    "the segments differ from those of the oracle"
                );
                first = Some((found, bytes));
            }
            Some((segments, dump)) => {
                assert!(found == *segments, "{} with {threads} threads", scanner.name());
                assert!(bytes == *dump, "{} with {threads} threads", scanner.name());
            }
        }
    }
}

/// The oracle: returns the segments of the best plan as memory, address and length.
fn segments(images: &[&[u8]], budget: u32) -> Vec<(u32, u64, u64)> {
    let least = usize::try_from(SEGMENT_COST + 1).unwrap();
    let runs: Vec<_> = images.iter().map(|image| runs(image, least)).collect();
    // Length and memory of each gap, and the run after it.
    let mut gaps = Vec::new();
    for (memory, runs) in runs.iter().enumerate() {
        for (i, pair) in runs.windows(2).enumerate() {
            gaps.push((Reverse(pair[1].start - pair[0].end), memory, i + 1));
        }
    }
    gaps.sort();
    let holding = runs.iter().filter(|runs| !runs.is_empty()).count();
    gaps.truncate((budget as usize).saturating_sub(holding));
    let splits: std::collections::HashSet<_> = gaps.iter().map(|(_, m, i)| (*m, *i)).collect();
    let mut segments: Vec<(u32, u64, u64)> = Vec::new();
    for (memory, runs) in runs.iter().enumerate() {
        for (i, run) in runs.iter().enumerate() {
            match segments.last_mut() {
                Some((_, address, len)) if i > 0 && !splits.contains(&(memory, i)) => {
                    *len = run.end as u64 - *address;
                }
                _ => {
                    let memory = u32::try_from(memory).unwrap();
                    segments.push((memory, run.start as u64, (run.end - run.start) as u64));
                }
            }
        }
    }
    segments
}
