//! The benchmark images, the machine's limits and the reference's algorithm.
#![allow(dead_code, reason = "each bench uses its part")]

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use corestream::{CoreDump, Memory, MemoryImage, MemoryType};

/// Returns whether each bench only runs once on small images, as a test (`--test`).
pub fn test_mode() -> bool {
    std::env::args().any(|arg| arg == "--test")
}

/// Returns the size of an image in bytes: 1 GiB, or 16 MiB in test mode.
pub fn image_len() -> usize {
    if test_mode() { 16 << 20 } else { 1 << 30 }
}

/// An image with its name.
pub struct Image {
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

/// A deterministic pseudorandom generator (xorshift64).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Returns a number in `start..end`.
    pub fn between(&mut self, start: u64, end: u64) -> usize {
        usize::try_from(start + self.next() % (end - start + 1)).unwrap()
    }

    /// Fills `bytes` with non-zero bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let value = (self.next() | 0x0101_0101_0101_0101).to_le_bytes();
            chunk.copy_from_slice(&value[..chunk.len()]);
        }
    }
}

/// Writes contents to an image of zeros.
type Fill = fn(&mut Random, &mut [u8]);

/// The contents of the images, by name.
const FILLS: [(&str, Fill); 6] = [
    ("zero", |_, _| {}),
    ("dense", |random, bytes| random.fill(bytes)),
    // Dense like real data, with single zeros: one byte in 256.
    ("random", |random, bytes| {
        bytes.chunks_mut(8).for_each(|word| {
            let value = random.next().to_le_bytes();
            word.copy_from_slice(&value[..word.len()]);
        });
    }),
    ("heap", |random, bytes| {
        let mut at = 0;
        while at < bytes.len() {
            let end = (at + random.between(16, 512)).min(bytes.len());
            random.fill(&mut bytes[at..end]);
            at = end + random.between(0, 255);
        }
    }),
    ("one page in ten", |random, bytes| {
        bytes.chunks_mut(4096).step_by(10).for_each(|page| random.fill(page));
    }),
    ("one MiB in 16", |random, bytes| {
        bytes.chunks_mut(1 << 20).step_by(16).for_each(|part| random.fill(part));
    }),
];

/// Returns the images that all benches share. Every page is resident.
pub fn images() -> impl Iterator<Item = Image> {
    FILLS.iter().map(|(name, fill)| Image { name, bytes: filled(*fill, image_len()) })
}

/// Returns the bytes of the image called `name`, `len` bytes long, or `None` if the name is unknown.
pub fn image(name: &str, len: usize) -> Option<Vec<u8>> {
    let (_, fill) = FILLS.iter().find(|(known, _)| *known == name)?;
    Some(filled(*fill, len))
}

fn filled(fill: Fill, len: usize) -> Vec<u8> {
    // Writes non-zero bytes first, so that every page is resident before anything is measured. Without the black box
    // the compiler turns both lines into one `calloc`, which touches no page.
    let mut bytes = black_box(vec![1; len]);
    bytes.fill(0);
    fill(&mut Random(88_172_645_463_325_252), &mut bytes);
    bytes
}

/// A row of a table: its name, and the work to measure.
pub type Work<'w> = (&'static str, Box<dyn Fn() + 'w>);

/// Returns the median time of each work. Each round runs all of them once, one after the other.
pub fn medians(rounds: usize, works: &[Work<'_>]) -> Vec<Duration> {
    let mut times = vec![Vec::new(); works.len()];
    // One extra round to warm up.
    for _ in 0..=rounds {
        for ((_, work), times) in works.iter().zip(&mut times) {
            let start = Instant::now();
            work();
            times.push(start.elapsed());
        }
    }
    let median = |times: Vec<Duration>| {
        let mut times = times[1..].to_vec();
        times.sort();
        times[times.len() / 2]
    };
    times.into_iter().map(median).collect()
}

/// Returns a guest with one memory.
pub fn guest(bytes: &[u8]) -> CoreDump<'_> {
    let mut dump = CoreDump::new("guest");
    let ty = MemoryType::wasm32(bytes.len() as u64 / 65_536);
    dump.add_memory(Memory::new(ty, MemoryImage::from_slice(bytes)));
    dump
}

/// Reads all bytes once with `threads` threads: the machine's limit for a scan.
pub fn plain_read(bytes: &[u8], threads: usize) {
    let read = |part: &[u8]| {
        let (words, _) = part.as_chunks::<64>();
        let sums = words.iter().fold([0_u64; 8], |mut sums, line| {
            for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
                *sum |= u64::from_ne_bytes(*word);
            }
            sums
        });
        black_box(sums);
    };
    if threads == 1 {
        return read(bytes);
    }
    thread::scope(|scope| {
        for part in bytes.chunks(bytes.len().div_ceil(threads)) {
            scope.spawn(move || read(part));
        }
    });
}

/// Encodes a memory like Wasmtime's `WasmCoreDump::serialize`: one trimmed segment for each 4 KiB that are not all
/// zero, collected in one vector and then copied to another.
pub fn reference(bytes: &[u8]) -> Vec<u8> {
    use wasm_encoder::{ConstExpr, DataSection, MemorySection, Module};

    let mut module = Module::new();
    let mut memories = MemorySection::new();
    memories.memory(wasm_encoder::MemoryType {
        minimum: bytes.len() as u64 / 65_536,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    module.section(&memories);
    let mut data = DataSection::new();
    for (i, chunk) in bytes.chunks(4096).enumerate() {
        let Some(first) = chunk.iter().position(|b| *b != 0) else { continue };
        let last = chunk.iter().rposition(|b| *b != 0).unwrap_or(first);
        let address = u32::try_from(i * 4096 + first).unwrap().cast_signed();
        data.active(0, &ConstExpr::i32_const(address), chunk[first..=last].iter().copied());
    }
    module.section(&data);
    module.finish()
}

/// Creates a temporary file that disappears when it is closed.
pub fn fresh_file() -> File {
    tempfile::tempfile().unwrap()
}

/// Writes all bytes to a fresh file with one call: the machine's limit for a dump to a file.
pub fn write_all_fresh(bytes: &[u8]) {
    fresh_file().write_all(bytes).unwrap();
}

/// Runs `work` on a pipe whose other end a thread drains.
pub fn drained_pipe<T>(work: impl FnOnce(&mut std::io::PipeWriter) -> T) -> T {
    use std::io::Read;
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let drain = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while reader.read(&mut buffer).unwrap() > 0 {}
    });
    let result = work(&mut writer);
    drop(writer);
    drain.join().unwrap();
    result
}
