//! Plans any runs, budget, memory types and kinds of images: the plan is optimal for small images, its length is exact,
//! it respects all limits, and the dump gives the images back.

use arbitrary::{Arbitrary, Unstructured};
use corestream::internals::Scanner;
use corestream::limits::max_pages;
use corestream::read::{Verdict, Verifier};
use corestream::{
    CoreDump, CoreDumpFile, Dumper, Memory, MemoryImage, MemoryIndex, MemoryType, Plan,
};

use crate::common::{Decoded, cost, decode, least_cost};
use crate::image::{self, Kind};

/// A memory, described by its runs.
#[derive(Arbitrary, Debug)]
pub struct Runs {
    memory64: bool,
    shared: bool,
    small_pages: bool,
    kind: Kind,
    /// The address of the first run, if it is far from the start.
    far: Option<Far>,
    /// The pages after those of the image.
    more: Option<u32>,
    /// The pages by which the memory can grow.
    maximum: Option<u32>,
    /// The zeros before each run, and its length.
    runs: Vec<(u16, u8)>,
    tail: u8,
}

/// A large address, and a number to subtract from it.
#[derive(Arbitrary, Debug)]
enum Far {
    /// The address from which an `i32.const` is negative.
    Half(u16),
    /// The end of 32-bit memories.
    End(u16),
    /// A higher address, by its logarithm.
    Behind(u8, u16),
}

#[derive(Arbitrary, Debug)]
pub struct Input {
    memories: Vec<Runs>,
    budget: u16,
    threads: u8,
    section: u16,
    scalar: bool,
    checksums: bool,
}

/// A memory to dump.
struct Guest {
    ty: MemoryType,
    kind: Kind,
    /// The address of `bytes`.
    address: u64,
    bytes: Vec<u8>,
}

impl Runs {
    fn guest(&self) -> Guest {
        let mut bytes = Vec::new();
        for (i, (gap, run)) in self.runs.iter().enumerate() {
            bytes.resize(bytes.len() + usize::from(*gap % 4099), 0);
            bytes.resize(bytes.len() + usize::from(*run), u8::try_from(i % 255).unwrap() + 1);
        }
        bytes.resize(bytes.len() + usize::from(self.tail), 0);
        let page_size = if self.small_pages { 1 } else { 65_536 };
        let most = max_pages(self.memory64, page_size);
        let bytes_most = most.saturating_mul(page_size.into());
        let address = match self.far {
            None => 0,
            Some(Far::Half(less)) => (1 << 31) - u64::from(less),
            Some(Far::End(less)) => (1 << 32) - u64::from(less),
            Some(Far::Behind(log2, less)) => (1 << (33 + log2 % 8)) - u64::from(less),
        };
        // An address past the end is moved to the end.
        let address = address.min(bytes_most - bytes.len() as u64);
        let len = address + bytes.len() as u64;
        let pages = len.div_ceil(page_size.into());
        let pages = pages.saturating_add(self.more.unwrap_or(0).into()).min(most);
        let maximum = self.maximum.or(self.shared.then_some(0));
        let maximum = maximum.map(|more| pages.saturating_add(more.into()).min(most));
        let mut ty = MemoryType::wasm32(pages).with_page_size(page_size);
        (ty.maximum, ty.memory64, ty.shared) = (maximum, self.memory64, self.shared);
        Guest { ty, kind: self.kind, address, bytes }
    }
}

impl Guest {
    fn image(&self) -> MemoryImage<'_> {
        match self.address {
            0 => self.kind.image(&self.bytes),
            address => image::far(&self.bytes, address),
        }
    }

    fn has_data(&self) -> bool {
        self.bytes.iter().any(|byte| *byte != 0)
    }
}

/// Runs the check on an input of the fuzzer.
pub fn run(bytes: &[u8]) {
    if let Ok(mut input) = Input::arbitrary(&mut Unstructured::new(bytes)) {
        // Other tests check the limit on memories.
        input.memories.truncate(20);
        check(&input);
    }
}

fn check(input: &Input) {
    let guests: Vec<_> = input.memories.iter().map(Runs::guest).collect();
    let mut dump = CoreDump::new("fuzz");
    for guest in &guests {
        dump.add_memory(Memory::new(guest.ty, guest.image()));
    }
    let budget = u32::from(input.budget % 1024) + 1;
    let limit = 256 + u32::from(input.section);
    let scanner = if input.scalar { Scanner::scalar() } else { Scanner::new() };
    let dumper = Dumper::new()
        .max_segments(budget)
        .threads(usize::from(input.threads % 4) + 1)
        .scanner(scanner)
        .checksums(input.checksums);
    let plan = dumper.plan(&dump).unwrap();
    assert_eq!(plan.shortfalls(), []);
    let slices: Vec<_> = guests.iter().map(|guest| guest.bytes.as_slice()).collect();
    if let Some(least) = least_cost(&slices, budget.into()) {
        assert_eq!(cost(&plan), least);
    }
    let most = (budget as usize).max(guests.iter().filter(|guest| guest.has_data()).count());
    assert!(plan.segments().len() <= most);
    assert_dump(input, &guests, &plan, most, u32::MAX);
    let plan = dumper.max_section_bytes(limit).plan(&dump).unwrap();
    assert_dump(input, &guests, &plan, most, limit);
}

/// Checks that the dump matches the plan, is valid, and contains the guests.
fn assert_dump(input: &Input, guests: &[Guest], plan: &Plan<'_>, most: usize, limit: u32) {
    let bytes = plan.to_vec().unwrap();
    assert_eq!(bytes.len() as u64, plan.len());
    let decoded = decode(&bytes);
    assert_eq!(decoded.segments.len(), plan.segments().len());
    for (found, planned) in decoded.segments.iter().zip(plan.segments()) {
        assert_eq!((found.memory, found.address), (planned.memory.0, planned.address));
        assert_eq!(found.data.len(), planned.len as usize);
    }
    assert!(decoded.in_data_section <= most);
    assert!(decoded.longest_body <= limit.into(), "{} bytes", decoded.longest_body);

    let Ok(Verdict::Intact(whole)) = Verifier::new().threads(1).verify(&bytes) else {
        panic!("expected an intact dump")
    };
    assert_eq!(whole.checksums, input.checksums);
    assert_eq!(whole.segments, decoded.segments.len() as u64);
    let file = CoreDumpFile::from_slice(&bytes).unwrap();
    for (i, guest) in (0..).zip(guests) {
        assert!(contents(&decoded, i, guest) == guest.bytes, "memory {i}");
        let view = file.memory(MemoryIndex(i)).unwrap();
        assert_eq!(view.ty(), guest.ty);
        let coverage = view.coverage();
        assert_eq!(coverage.changing, guest.kind == Kind::Shared && guest.address == 0);
        let mut found = vec![0xee; guest.bytes.len()];
        view.read(guest.address, &mut found).unwrap();
        assert!(found == guest.bytes, "memory {i}");
    }
}

/// Returns the bytes of a memory from the address of the guest's bytes.
fn contents(decoded: &Decoded<'_>, memory: u32, guest: &Guest) -> Vec<u8> {
    let mut contents = vec![0; guest.bytes.len()];
    let mut end = 0;
    for segment in decoded.segments.iter().filter(|segment| segment.memory == memory) {
        let at = usize::try_from(segment.address - guest.address).unwrap();
        assert!(at >= end, "segments overlap or are out of order");
        assert!(!segment.data.is_empty(), "an empty segment");
        end = at + segment.data.len();
        contents[at..end].copy_from_slice(segment.data);
    }
    contents
}
