//! Extents of live memory: every way to ask the kernel gives the dump that reading everything gives, and pages that
//! were never touched stay untouched.
//!
//! These tests are a crate of their own because they limit the descriptors of the process, measure its memory, and run
//! it again under strace.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "maps memory of every kind, and changes it")]
#![allow(clippy::print_stdout, reason = "a test prints what it measured")]

mod area;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/environment.rs"]
mod environment;
#[path = "../common/huge_pages.rs"]
#[allow(dead_code, reason = "this crate uses a part of it")]
mod huge_pages;
mod mappings;
mod methods;
mod shared_mappings;
#[path = "../common/strace.rs"]
mod strace;
mod userfaultfd;

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use corestream::{
    CoreDump, Dumper, ErrorKind, ExtentMethod, MappingMethod, Memory, MemoryImage, MemoryType, Plan,
};

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// Makes the tests of this crate run one after the other, because some measure or limit the process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn page() -> usize {
    rustix::param::page_size()
}

/// Returns a memfd of `pages` pages, every other one of which holds data.
fn memfd(pages: usize) -> File {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create("guest", flags).unwrap());
    fill(&mut file, pages);
    file
}

fn fill(file: &mut File, pages: usize) {
    for i in 0..pages {
        let byte = if i % 2 == 0 { u8::try_from(i % 255).unwrap() + 1 } else { 0 };
        file.write_all(&vec![byte; page()]).unwrap();
    }
}

fn dump_of<'a>(memories: &[&'a [u8]]) -> CoreDump<'a> {
    let mut dump = CoreDump::new("live");
    for bytes in memories {
        let ty = MemoryType::wasm64((bytes.len() as u64).div_ceil(65_536));
        dump.add_memory(Memory::new(ty, MemoryImage::from_slice(bytes)));
    }
    dump
}

/// Returns a dumper for each way to ask the kernel that works on this machine, and the default one.
fn dumpers() -> &'static [Dumper] {
    static DUMPERS: OnceLock<Vec<Dumper>> = OnceLock::new();
    DUMPERS.get_or_init(probe_dumpers)
}

fn probe_dumpers() -> Vec<Dumper> {
    let mut dumpers = Vec::new();
    for method in [ExtentMethod::PagemapScan, ExtentMethod::Pagemap] {
        for mappings in [MappingMethod::ProcmapQuery, MappingMethod::Maps] {
            let dumper = Dumper::new().extent_method(Some(method)).mapping_method(Some(mappings));
            match dumper.plan(&CoreDump::new("probe")) {
                Ok(_) => dumpers.push(dumper),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Option);
                    let missing = match error.to_string().starts_with("extent_method") {
                        true => method.to_string(),
                        false => mappings.to_string(),
                    };
                    environment::report_missing(&missing, error);
                }
            }
        }
    }
    assert!(!dumpers.is_empty(), "no way to ask this kernel works");
    dumpers.push(Dumper::new());
    dumpers
}

/// Dumps `memories` in every way, and compares the dumps with that of a plain read of everything. Returns the bytes of
/// the extents for each of [`dumpers`].
fn check(memories: &[&[u8]]) -> Vec<usize> {
    let dump = dump_of(memories);
    let mut found = Vec::new();
    let mut dumps = Vec::new();
    for dumper in dumpers() {
        for threads in [1, 2] {
            let plan = dumper.clone().threads(threads).plan(&dump).unwrap();
            dumps.push((format!("{:?}", plan.stats()), plan.to_vec().unwrap()));
            if threads == 1 {
                found.push(extent_bytes(&plan));
            }
        }
    }
    // Its extents are whole mappings.
    let plan = Dumper::new().extent_method(Some(ExtentMethod::Smaps)).plan(&dump).unwrap();
    dumps.push((format!("{:?}", plan.stats()), plan.to_vec().unwrap()));
    // This comes last because it touches everything.
    let plan = Dumper::new().trust_holes(false).plan(&dump).unwrap();
    assert_eq!(extent_bytes(&plan), memories.iter().map(|bytes| bytes.len()).sum::<usize>());
    let expected = plan.to_vec().unwrap();
    for (how, bytes) in dumps {
        assert!(bytes == expected, "{how}");
    }
    found
}

fn extent_bytes(plan: &Plan<'_>) -> usize {
    usize::try_from(plan.stats().extent_bytes).unwrap()
}

/// Returns a dumper that asks the kernel by `/proc/self/smaps`.
fn smaps() -> Dumper {
    Dumper::new().extent_method(Some(ExtentMethod::Smaps))
}
