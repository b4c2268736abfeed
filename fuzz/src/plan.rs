//! Any runs, budget and memory types: the plan is optimal where that can be tried out, its length is
//! exact, no limit is passed, and the dump gives the images back.

use arbitrary::{Arbitrary, Unstructured};
use corestream::scan::Scanner;
use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType};

use crate::common::{cost, decode, least_cost};

/// A memory as runs, each after a gap.
#[derive(Arbitrary, Debug)]
pub struct Runs {
    memory64: bool,
    shared: bool,
    small_pages: bool,
    /// Zeros before each run, and its length.
    runs: Vec<(u16, u8)>,
    tail: u8,
}

#[derive(Arbitrary, Debug)]
pub struct Input {
    memories: Vec<Runs>,
    budget: u16,
    threads: u8,
    section: u16,
    scalar: bool,
}

impl Runs {
    fn image(&self) -> Vec<u8> {
        let mut image = Vec::new();
        for (i, (gap, run)) in self.runs.iter().enumerate() {
            image.resize(image.len() + usize::from(*gap % 4099), 0);
            image.resize(image.len() + usize::from(*run), u8::try_from(i % 255).unwrap() + 1);
        }
        image.resize(image.len() + usize::from(self.tail), 0);
        image
    }

    fn ty(&self, image: &[u8]) -> MemoryType {
        let page_size = if self.small_pages { 1 } else { 65_536 };
        let pages = (image.len() as u64).div_ceil(u64::from(page_size));
        let ty = if self.memory64 { MemoryType::wasm64(pages) } else { MemoryType::wasm32(pages) };
        let ty = ty.with_page_size(page_size);
        if self.shared { ty.with_maximum(pages).with_shared() } else { ty }
    }
}

/// Runs the check on the bytes of a fuzzer.
pub fn run(bytes: &[u8]) {
    if let Ok(mut input) = Input::arbitrary(&mut Unstructured::new(bytes)) {
        // The limit on memories is another test's.
        input.memories.truncate(20);
        check(&input);
    }
}

fn check(input: &Input) {
    let images: Vec<_> = input.memories.iter().map(Runs::image).collect();
    let mut dump = CoreDump::new("fuzz");
    for (runs, image) in input.memories.iter().zip(&images) {
        let ty = runs.ty(image);
        dump.add_memory(Memory::new(ty, MemoryImage::from_slice(image)));
    }
    let budget = u32::from(input.budget % 1024) + 1;
    let limit = 256 + u32::from(input.section);
    let scanner = if input.scalar { Scanner::scalar() } else { Scanner::new() };
    let dumper = Dumper::new()
        .max_segments(budget)
        .threads(usize::from(input.threads % 4) + 1)
        .scanner(scanner);
    let plan = dumper.plan(&dump).unwrap();
    let slices: Vec<_> = images.iter().map(Vec::as_slice).collect();
    if let Some(least) = least_cost(&slices, budget.into()) {
        assert_eq!(cost(&plan), least);
    }
    let with_data = images.iter().filter(|i| i.iter().any(|b| *b != 0)).count();
    assert!(plan.segments().len() <= (budget as usize).max(with_data));

    for plan in [plan, dumper.max_section_bytes(limit).plan(&dump).unwrap()] {
        let bytes = plan.to_vec().unwrap();
        assert_eq!(bytes.len() as u64, plan.len());
        let decoded = decode(&bytes);
        assert_eq!(decoded.segments.len(), plan.segments().len());
        for (i, (runs, image)) in input.memories.iter().zip(&images).enumerate() {
            let ty = runs.ty(image);
            let mut expected = image.clone();
            expected.resize(usize::try_from(ty.byte_len().unwrap()).unwrap(), 0);
            assert!(decoded.contents(i, expected.len()) == expected, "memory {i}");
        }
    }
}
