//! Dumping images of every shape: wasmparser accepts the dumps, their segments give the image back, and their plan has
//! the lowest possible cost.

use std::sync::OnceLock;

use crate::{common, environment};
use common::{Random, cost, decode, gaps, least_cost};
use corestream::internals::{SEGMENT_COST, Scanner};
use corestream::read::Verdict;
use corestream::{CoreDump, CoreDumpFile, Dumper, Memory, MemoryImage, MemoryIndex, MemoryType};
use proptest::prelude::*;

const PAGE: usize = 65_536;

/// The options for each set of images.
const BUDGETS: [u32; 4] = [1, 2, 7, 100_000];
const THREADS: [usize; 3] = [1, 2, 8];
const SECTIONS: [u32; 2] = [1024, u32::MAX];

/// Returns the scanners that work on this machine.
fn scanners() -> Vec<Scanner> {
    static SCANNERS: OnceLock<Vec<Scanner>> = OnceLock::new();
    let scanners = SCANNERS.get_or_init(|| {
        let avx2 = Scanner::avx2();
        if avx2.is_none() {
            environment::report_missing("avx2", "the processor does not have it");
        }
        [Some(Scanner::scalar()), avx2].into_iter().flatten().collect()
    });
    scanners.clone()
}

fn pages(image: &[u8]) -> u64 {
    image.len().div_ceil(PAGE) as u64
}

/// Dumps `images` with every budget, number of threads, section limit and scanner, and checks each dump.
fn check(images: &[Vec<u8>], memory64: bool) {
    let mut dump = CoreDump::new("test");
    for image in images {
        let mut ty = MemoryType::wasm32(pages(image));
        ty.memory64 = memory64;
        dump.add_memory(Memory::new(ty, MemoryImage::from_slice(image)));
    }
    let slices: Vec<_> = images.iter().map(Vec::as_slice).collect();
    let holding_data = slices.iter().filter(|image| gaps(image).is_some()).count();
    for budget in BUDGETS {
        for limit in SECTIONS {
            let mut first: Option<Vec<u8>> = None;
            for threads in THREADS {
                for scanner in scanners() {
                    let dumper = Dumper::new().max_segments(budget).threads(threads);
                    let dumper = dumper.max_section_bytes(limit).scanner(scanner);
                    let plan = dumper.plan(&dump).unwrap();
                    let bytes = plan.to_vec().unwrap();
                    assert_eq!(bytes.len() as u64, plan.len());
                    match &first {
                        None => first = Some(bytes),
                        Some(first) => assert!(*first == bytes, "{threads} threads, {scanner:?}"),
                    }
                    if limit == u32::MAX {
                        assert!(plan.segments().len() <= holding_data.max(budget as usize));
                        if let Some(least) = least_cost(&slices, budget.into()) {
                            assert_eq!(cost(&plan), least, "budget {budget}");
                        }
                        if budget == 1 {
                            assert_eq!(plan.segments().len(), holding_data);
                        }
                    }
                }
            }
            let bytes = first.unwrap();
            let decoded = decode(&bytes);
            assert!(decoded.longest_body <= u64::from(limit));
            assert!(decoded.in_data_section <= holding_data.max(budget as usize));
            let read = CoreDumpFile::from_slice(&bytes).unwrap();
            assert!(matches!(read.verify(), Ok(Verdict::Intact(_))));
            for (i, image) in images.iter().enumerate() {
                let mut expected = image.clone();
                expected.resize(image.len().next_multiple_of(PAGE), 0);
                assert!(decoded.contents(i, expected.len()) == expected, "memory {i}");
                let mut restored = Vec::new();
                let memory = read.memory(MemoryIndex(u32::try_from(i).unwrap())).unwrap();
                memory.write_to(&mut restored).unwrap();
                assert!(restored == expected, "memory {i}, restored");
            }
        }
    }
}

#[test]
fn dumps_images_with_lengths_around_a_page() {
    for len in [0, 1, 63, 64, 65, 4095, 4096, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 17] {
        let zero = vec![0; len];
        let dense = vec![0xa5; len];
        check(std::slice::from_ref(&zero), false);
        check(&[dense], false);
        if len > 0 {
            let mut first = zero.clone();
            first[0] = 1;
            let mut last = zero.clone();
            last[len - 1] = 1;
            let mut both = first.clone();
            both[len - 1] = 1;
            check(&[first, last, zero, both], true);
        }
    }
}

#[test]
fn dumps_alternating_pages() {
    let mut image = vec![0; 40 * 4096];
    for page in image.chunks_mut(8192) {
        page[..4096].fill(9);
    }
    check(std::slice::from_ref(&image), false);
    image.rotate_right(4096);
    check(&[image.clone(), image], true);
}

#[test]
fn dumps_a_guest_without_memory() {
    check(&[], false);
}

/// The images are longer than a batch of the scan, and have gaps across the ends of batches.
#[test]
fn finds_gaps_across_the_ends_of_batches() {
    let mut random = Random(17);
    let len = 9 << 20;
    let mut image = vec![0; len];
    let mut at = 0;
    while at < len {
        let end = (at + random.below(1 << 19)).min(len);
        image[at..end].fill(3);
        at = end + random.below(3 << 20);
    }
    check(&[vec![0; 5 << 20], image, vec![1; 3 << 20]], false);
}

/// Gaps around the shortest that splits a segment lie across the ends of batches, at every place.
#[test]
fn splits_at_the_shortest_gap_across_the_end_of_a_batch() {
    let min_gap = usize::try_from(SEGMENT_COST).unwrap() + 1;
    for len in [min_gap - 1, min_gap] {
        let mut image = vec![1; 9 << 20];
        // 256 KiB divides the length of a batch and of a buffer. Each gap crosses an end at another place.
        for (i, end) in (1..36).map(|i| (i, i << 18)) {
            let start = end - 1 - i % (len - 1);
            image[start..start + len].fill(0);
        }
        check(&[image.clone()], false);
        let mut guest = CoreDump::new("gaps");
        guest.add_memory(Memory::new(
            MemoryType::wasm32(pages(&image)),
            MemoryImage::from_slice(&image),
        ));
        for threads in THREADS {
            let plan = Dumper::new().threads(threads).plan(&guest).unwrap();
            assert_eq!(plan.segments().len(), if len < min_gap { 1 } else { 36 });
        }
    }
}

/// There are more gaps of the same length than the budget. Those with the lowest memory and address are kept.
#[test]
fn keeps_gaps_of_equal_length_in_order() {
    let mut image = vec![0; 500 * 128];
    for i in 0..500 {
        image[i * 128..i * 128 + 28].fill(1);
    }
    let mut dump = CoreDump::new("ties");
    for _ in 0..2 {
        let ty = MemoryType::wasm32(pages(&image));
        dump.add_memory(Memory::new(ty, MemoryImage::from_slice(&image)));
    }
    for threads in THREADS {
        let plan = Dumper::new().max_segments(30).threads(threads).plan(&dump).unwrap();
        let found: Vec<_> =
            plan.segments().iter().map(|s| (s.memory.0, s.address, s.len)).collect();
        let mut expected: Vec<_> = (0..28).map(|i| (0, i * 128, 28)).collect();
        expected.push((0, 28 * 128, 471 * 128 + 28));
        expected.push((1, 0, 499 * 128 + 28));
        assert_eq!(found, expected);
    }
}

/// Generates images with at most `most` runs.
fn runs(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let gap = prop_oneof![0..40_usize, 0..300_usize, 4090..4100_usize, 0..80_000_usize];
    let run = prop_oneof![1..4_usize, 1..300_usize, 4090..4100_usize];
    (prop::collection::vec((gap, run), 0..most), 0..70_usize).prop_map(|(runs, tail)| {
        let mut image = Vec::new();
        for (i, (gap, run)) in runs.into_iter().enumerate() {
            image.resize(image.len() + gap, 0);
            image.resize(image.len() + run, u8::try_from(i % 255).unwrap() + 1);
        }
        image.resize(image.len() + tail, 0);
        image
    })
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..Default::default() }
}

/// Dumps random images.
fn check_random_images(cases: u32) {
    proptest!(config(cases), |(images in prop::collection::vec(runs(10), 1..4), memory64: bool)| {
        check(&images, memory64);
    });
}

#[test]
fn dumps_random_images() {
    check_random_images(16);
}

#[test]
#[ignore = "slow: 2 s"]
fn dumps_more_random_images() {
    check_random_images(64);
}

/// Compares the scanners with a scan of one byte at a time, at every alignment.
fn check_scanners(cases: u32) {
    let min_gap = prop_oneof![0..200_usize, 0..5000_usize];
    proptest!(config(cases), |(image in runs(60), min_gap in min_gap)| {
        for start in 0..image.len().min(130) {
            agree(&image[start..], min_gap);
        }
    });
}

#[test]
fn finds_the_same_runs_with_every_scanner() {
    check_scanners(12);
}

#[test]
#[ignore = "slow: 3 s"]
fn finds_the_same_runs_with_every_scanner_in_more_images() {
    check_scanners(64);
}

/// A single gap of about the minimum length, at any offset, in particular across the end of the bytes that a scanner
/// loads together.
#[test]
fn finds_gaps_across_the_ends_of_blocks() {
    for min_gap in [1_usize, 2, 7, 8, 9, 14, 15, 16, 33, 64, 100, 126, 127, 128, 190, 191, 192] {
        for len in min_gap.saturating_sub(2).max(1)..min_gap + 3 {
            for start in 1..270 {
                let mut bytes = [1; 900];
                bytes[start..start + len].fill(0);
                agree(&bytes, min_gap);
            }
        }
    }
}

/// Checks that every scanner finds the runs that a scan of one byte at a time finds.
fn agree(bytes: &[u8], min_gap: usize) {
    let expected = slow_runs(bytes, min_gap.max(1));
    for scanner in scanners() {
        let mut found = Vec::new();
        scanner.runs(bytes, min_gap, |run| found.push(run));
        assert_eq!(found, expected, "{scanner:?}, {min_gap}");
    }
}

fn slow_runs(bytes: &[u8], min_gap: usize) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for (i, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
        match runs.last_mut() {
            Some(run) if i - run.end < min_gap => run.end = i + 1,
            _ => runs.push(i..i + 1),
        }
    }
    runs
}
