//! The time to find the extents of live memory, by each method: in a large memory that is mostly untouched, in a dense
//! one and in small ones. Plans that read everything are the comparison.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

mod common;

use std::time::Duration;

use common::{image_len, test_mode};
use corestream::{CoreDump, Dumper, ExtentMethod, MappingMethod, Memory, MemoryImage, MemoryType};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use memmap2::{MmapMut, MmapOptions};

/// Reserves untouched memory, possibly more than the machine has.
fn reserve(len: usize) -> MmapMut {
    MmapOptions::new().len(len).no_reserve_swap().map_anon().unwrap()
}

/// Returns the size of the large memory in bytes.
fn large() -> usize {
    if test_mode() { 1 << 30 } else { 64 << 30 }
}

/// Returns a guest with one memory.
fn guest(bytes: &[u8]) -> CoreDump<'_> {
    let mut dump = CoreDump::new("guest");
    let ty = MemoryType::wasm64((bytes.len() as u64).div_ceil(65_536));
    dump.add_memory(Memory::new(ty, MemoryImage::from_slice(bytes)));
    dump
}

/// Writes to every page of `bytes`.
fn touch(bytes: &mut [u8]) {
    bytes.chunks_mut(4096).for_each(|page| page[0] = 1);
}

/// Returns each method that this machine supports, with its name.
fn methods() -> Vec<(String, Dumper)> {
    let mut methods = Vec::new();
    for method in [ExtentMethod::PagemapScan, ExtentMethod::Pagemap] {
        for mappings in [MappingMethod::ProcmapQuery, MappingMethod::Maps] {
            let dumper = Dumper::new().extent_method(Some(method)).mapping_method(Some(mappings));
            if dumper.plan(&CoreDump::new("probe")).is_ok() {
                methods.push((format!("{method}, {mappings}"), dumper));
            }
        }
    }
    methods
}

fn extents(c: &mut Criterion) {
    let mut group = c.benchmark_group("extents");
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    let mut large_in_one = reserve(large());
    touch(&mut large_in_one[large() / 3..][..64 << 20]);
    let mut large_spread = reserve(large());
    for i in 0..1024 {
        touch(&mut large_spread[i * (large() / 1024)..][..64 << 10]);
    }
    let mut alternating = reserve(image_len());
    alternating.chunks_mut(8192).for_each(|pages| pages[0] = 1);
    let mut dense = reserve(image_len());
    touch(&mut dense);
    for (name, bytes) in [
        ("large, 64 MiB in one place", &large_in_one),
        ("large, 64 MiB in 1024 places", &large_spread),
        ("every other page", &alternating),
        ("dense", &dense),
    ] {
        let dump = guest(bytes);
        for (way, dumper) in methods() {
            group.bench_function(format!("{name}/{way}"), |b| {
                b.iter_custom(|times| {
                    (0..times).map(|_| dumper.plan(&dump).unwrap().stats().extent_time).sum()
                });
            });
        }
    }
    group.finish();

    let mut group = c.benchmark_group("small memories");
    group.sample_size(10).warm_up_time(Duration::from_millis(100));
    for len in [4 << 10, 64 << 10, 1 << 20, 4 << 20] {
        let mut touched = reserve(len);
        touch(&mut touched);
        let dump = guest(&touched);
        for (how, dumper) in [("asked", Dumper::new()), ("read", Dumper::new().trust_holes(false))]
        {
            let dumper = dumper.threads(1);
            group.bench_function(format!("touched/{} KiB/{how}", len >> 10), |b| {
                b.iter(|| dumper.plan(&dump).unwrap().len());
            });
            group.bench_function(format!("untouched/{} KiB/{how}", len >> 10), |b| {
                let plan = |bytes: MmapMut| {
                    let len = dumper.plan(&guest(&bytes)).unwrap().len();
                    (bytes, len)
                };
                b.iter_batched(|| reserve(len), plan, BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

criterion_group!(benches, extents);
criterion_main!(benches);
