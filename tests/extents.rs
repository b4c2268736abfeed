//! Extents of live memory: whatever the kernel is asked, and by whatever way, the dump is the one
//! that a plain read of everything gives, and what was never touched stays so.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "mappings of every kind, and what is done to them")]
#![allow(clippy::print_stdout, reason = "a test says what it could not try, or measured")]

mod common;
#[path = "common/environment.rs"]
mod environment;
#[path = "common/huge_pages.rs"]
#[allow(dead_code, reason = "this test uses a part of it")]
mod huge_pages;
#[path = "common/strace.rs"]
mod strace;
#[path = "extents/userfaultfd.rs"]
mod userfaultfd;

use std::cell::UnsafeCell;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::Random;
use corestream::{
    CoreDump, Dumper, ErrorKind, ExtentMethod, MappingMethod, Memory, MemoryImage, MemoryType,
    Plan, SharedBytes,
};
use rustix::mm::{Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags};

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// The tests of this file run one after the other: some measure the process, or limit it.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn page() -> usize {
    rustix::param::page_size()
}

/// A range of addresses between two guard pages, in which anything can be mapped.
struct Area {
    start: *mut u8,
    len: usize,
}

impl Area {
    /// Private anonymous memory that was never touched.
    fn new(len: usize) -> Self {
        let len = len.next_multiple_of(page());
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let whole = len + 2 * page();
        // SAFETY: a new range of addresses that nobody else uses.
        let start = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), whole, ProtFlags::empty(), flags).unwrap()
        };
        // SAFETY: the range that was just mapped.
        let area = Self { start: unsafe { start.cast::<u8>().add(page()) }, len };
        // SAFETY: nothing borrows the area yet.
        unsafe { area.protect(0..len, MprotectFlags::READ | MprotectFlags::WRITE) };
        area
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` are mapped for reading, and no test changes them while it
        // borrows them.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.len);
        // SAFETY: within the area or at its end.
        unsafe { self.start.add(offset) }
    }

    /// Writes `byte` to every byte of `range`.
    fn fill(&self, range: Range<usize>, byte: u8) {
        assert!(range.end <= self.len);
        // SAFETY: within the area, and not borrowed while it is written.
        unsafe { self.at(range.start).write_bytes(byte, range.len()) };
    }

    /// Reads a byte of each page of `range`.
    fn touch(&self, range: Range<usize>) {
        for offset in range.step_by(page()) {
            // SAFETY: within the area.
            unsafe { self.at(offset).read_volatile() };
        }
    }

    fn advise(&self, range: Range<usize>, advice: Advice) -> io::Result<()> {
        // SAFETY: within the area, and not borrowed.
        Ok(unsafe { rustix::mm::madvise(self.at(range.start).cast(), range.len(), advice) }?)
    }

    unsafe fn protect(&self, range: Range<usize>, flags: MprotectFlags) {
        // SAFETY: within the area, and not borrowed.
        unsafe { rustix::mm::mprotect(self.at(range.start).cast(), range.len(), flags).unwrap() };
    }

    /// Replaces what is mapped in `range` by new anonymous memory.
    fn map_anonymous(&self, range: Range<usize>, flags: MapFlags) {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = flags | MapFlags::FIXED | MapFlags::NORESERVE;
        let at = self.at(range.start).cast();
        // SAFETY: within the area, and not borrowed.
        unsafe { rustix::mm::mmap_anonymous(at, range.len(), protection, flags).unwrap() };
    }

    /// Replaces what is mapped in `range` by a part of a file.
    fn map_file(&self, range: Range<usize>, file: impl AsFd, offset: usize, flags: MapFlags) {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let (at, flags) = (self.at(range.start).cast(), flags | MapFlags::FIXED);
        // SAFETY: within the area, and not borrowed.
        unsafe {
            rustix::mm::mmap(at, range.len(), protection, flags, file, offset as u64).unwrap()
        };
    }

    /// Moves the mapping of `from` to `to`, and puts new memory in its place.
    fn remap(&self, from: Range<usize>, to: usize) -> io::Result<()> {
        assert!(to + from.len() <= self.len);
        // SAFETY: both within the area, and not borrowed.
        unsafe {
            rustix::mm::mremap_fixed(
                self.at(from.start).cast(),
                from.len(),
                from.len(),
                MremapFlags::MAYMOVE,
                self.at(to).cast(),
            )?;
        }
        self.map_anonymous(from, MapFlags::PRIVATE);
        Ok(())
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the area and its two guard pages, which no borrow outlives.
        unsafe {
            let start = self.start.sub(page()).cast();
            rustix::mm::munmap(start, self.len + 2 * page()).unwrap();
        }
    }
}

/// A memfd of `pages` pages: every other one holds data.
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

/// All ways to ask that this machine has.
fn dumpers() -> Vec<Dumper> {
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
                    environment::skip(&missing, error);
                }
            }
        }
    }
    assert!(!dumpers.is_empty(), "no way to ask this kernel");
    dumpers.push(Dumper::new());
    dumpers
}

/// Dumps `memories` in every way and compares with what a plain read of everything gives; returns
/// the bytes of the extents for each way, which are in the order of [`dumpers`].
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
    // It knows whole mappings only.
    let plan = Dumper::new().extent_method(Some(ExtentMethod::Smaps)).plan(&dump).unwrap();
    dumps.push((format!("{:?}", plan.stats()), plan.to_vec().unwrap()));
    // Last, because it touches everything.
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

#[test]
fn methods_are_named_in_the_statistics() {
    let _alone = alone();
    let area = Area::new(MIB);
    let dump = dump_of(&[area.bytes()]);
    for (method, name) in
        [(ExtentMethod::PagemapScan, "pagemap-scan"), (ExtentMethod::Pagemap, "pagemap")]
    {
        let Ok(plan) = Dumper::new().extent_method(Some(method)).plan(&dump) else { continue };
        assert_eq!(plan.stats().extent_methods, [method]);
        assert_eq!(plan.stats().extent_methods[0].to_string(), name);
        assert!(plan.stats().mapping_method.is_some());
        assert_eq!(extent_bytes(&plan), 0);
    }
    let whole = Dumper::new().extent_method(Some(ExtentMethod::Whole));
    for dumper in [whole, Dumper::new().trust_holes(false)] {
        let plan = dumper.plan(&dump).unwrap();
        assert_eq!(plan.stats().extent_methods, [ExtentMethod::Whole]);
        assert_eq!(plan.stats().mapping_method, None);
        assert_eq!(extent_bytes(&plan), MIB);
    }
    let error = Dumper::new().extent_method(Some(ExtentMethod::Seek)).plan(&dump).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Option);
    assert_eq!(error.to_string(), "extent_method: seek applies to files, not to live memory");
}

/// Without a descriptor nothing can be asked.
#[test]
fn what_cannot_be_asked_is_read_unless_it_is_forced() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let _alone = alone();
    let area = Area::new(MIB);
    area.fill(5000..6000, 1);
    let dump = dump_of(&[area.bytes()]);
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..before }).unwrap();
    let plan = Dumper::new().plan(&dump);
    let forced = Dumper::new().extent_method(Some(ExtentMethod::Pagemap)).plan(&dump);
    setrlimit(Resource::Nofile, before).unwrap();

    let plan = plan.unwrap();
    assert_eq!(plan.stats().extent_methods, [ExtentMethod::Whole]);
    assert_eq!(extent_bytes(&plan), MIB);
    let error = forced.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Option);
    let message = error.to_string();
    assert!(message.starts_with("extent_method: pagemap is unavailable here: "), "{message}");
}

/// A page that was never touched may then have data.
#[test]
fn memory_is_read_where_a_userfaultfd_is_open() {
    let _alone = alone();
    /// `UFFD_USER_MODE_ONLY`, which needs no privilege.
    const USER_MODE_ONLY: u32 = 1;
    let flags = rustix::mm::UserfaultfdFlags::CLOEXEC
        | rustix::mm::UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY);
    // SAFETY: it is registered for nothing.
    let Ok(userfaultfd) = (unsafe { rustix::mm::userfaultfd(flags) }) else {
        return environment::skip("userfaultfd", "there is none, or it is not allowed");
    };
    let area = Area::new(MIB);
    let dump = dump_of(&[area.bytes()]);
    let plan = Dumper::new().plan(&dump).unwrap();
    assert_eq!(plan.stats().extent_methods, [ExtentMethod::Whole]);
    drop(userfaultfd);
    let plan = Dumper::new().plan(&dump).unwrap();
    assert_ne!(plan.stats().extent_methods, [ExtentMethod::Whole]);
}

/// The descriptor is in a child only, so nothing in this process shows it but `VmFlags`.
#[test]
fn memory_that_another_process_supplies_is_read() {
    let _alone = alone();
    for method in [None, Some(ExtentMethod::Pagemap), Some(ExtentMethod::Smaps)] {
        let area = Area::new(4 * MIB);
        let supplied = MIB..2 * MIB;
        let range = area.at(supplied.start).addr()..area.at(supplied.end).addr();
        let Some(supplier) = userfaultfd::Supplier::start(range, page(), 7) else {
            return environment::skip("userfaultfd", "there is none, or it is not allowed");
        };
        let dump = dump_of(&[area.bytes()]);
        let plan = Dumper::new().extent_method(method).plan(&dump).unwrap();
        assert_ne!(plan.stats().extent_methods, [ExtentMethod::Whole]);
        assert_eq!(extent_bytes(&plan), MIB, "{method:?}");
        let bytes = plan.to_vec().unwrap();
        let contents = common::decode(&bytes).contents(0, 4 * MIB);
        assert!(contents.iter().enumerate().all(|(i, b)| (*b == 7) == supplied.contains(&i)));
        drop(supplier);
    }
}

#[test]
fn untouched_and_touched() {
    let _alone = alone();
    let area = Area::new(16 * MIB);
    assert!(check(&[area.bytes()]).iter().all(|bytes| *bytes == 0));

    let area = Area::new(16 * MIB);
    area.fill(3 * MIB + 100..3 * MIB + 200, 1);
    area.fill(9 * MIB..10 * MIB, 2);
    let touched = page() + MIB;
    assert!(check(&[area.bytes()]).iter().all(|bytes| *bytes == touched));

    let area = Area::new(4 * MIB);
    area.fill(0..4 * MIB, 3);
    assert!(check(&[area.bytes()]).iter().all(|bytes| *bytes == 4 * MIB));
    // Zeros that were written are data to the kernel, and none to the dump.
    area.fill(0..4 * MIB, 0);
    assert!(check(&[area.bytes()]).iter().all(|bytes| *bytes == 4 * MIB));
}

/// The zero page is mapped where memory was only read.
#[test]
fn read_but_never_written() {
    let _alone = alone();
    let area = Area::new(8 * MIB);
    area.touch(0..4 * MIB);
    area.fill(MIB..MIB + 1, 1);
    let dump = dump_of(&[area.bytes()]);
    let scan = Dumper::new().extent_method(Some(ExtentMethod::PagemapScan));
    if let Ok(plan) = scan.plan(&dump) {
        assert_eq!(extent_bytes(&plan), page());
    }
    assert!(check(&[area.bytes()]).iter().all(|bytes| *bytes <= 4 * MIB));
}

#[test]
fn nothing_of_an_untouched_reservation_is_made_to_exist() {
    let _alone = alone();
    let status = || {
        let text = fs::read_to_string("/proc/self/status").unwrap();
        ["RssAnon:", "VmPTE:"].map(|name| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
        })
    };
    let area = Area::new(8 * GIB);
    let middle = 4 * GIB + 1234;
    area.fill(middle..middle + 10, 1);
    let dump = dump_of(&[area.bytes()]);
    for dumper in dumpers() {
        let dumper = dumper.threads(2);
        // Once before, so that what any dump needs is there.
        let _ = dumper.plan(&dump_of(&[&[1; 100]])).unwrap();
        let before = status();
        let plan = dumper.plan(&dump).unwrap();
        plan.write_to(&mut io::sink()).unwrap();
        let after = status();
        assert_eq!(extent_bytes(&plan), page());
        let [rss, tables] = [0, 1].map(|i| after[i].saturating_sub(before[i]));
        println!("{:?}: {rss} bytes, {tables} of page tables", plan.stats().extent_methods);
        // Reading all of it would need 16 MiB of page tables.
        assert!(rss < 2 * MIB, "{rss} more bytes resident");
        assert!(tables < MIB / 4, "{tables} more bytes of page tables");
    }
}

/// Whole pages are asked about, but a memory need not consist of any.
#[test]
fn ranges_that_are_not_aligned_to_pages() {
    let _alone = alone();
    let pages = 8;
    for touched in 0..pages {
        for (start, end) in [(0, 0), (1, 0), (0, 1), (100, 200), (1, page() - 1)] {
            for first in 0..3 {
                let area = Area::new(pages * page());
                area.fill(touched * page()..touched * page() + page(), 7);
                let range = first * page() + start..(pages - first) * page() - end;
                check(&[&area.bytes()[range]]);
            }
        }
    }
    for len in [0, 1, 100] {
        let area = Area::new(2 * page());
        let found = check(&[&area.bytes()[page() - 50..][..len]]);
        assert!(found.iter().all(|bytes| *bytes == 0));
    }
    // Heap and stack, as they come.
    let on_stack = [1_u8; 100_000];
    let on_heap = vec![2_u8; 10_000];
    check(&[&on_stack[1..], &on_heap[3..9_999], b"constant", &[]]);
}

/// What was never touched of a file is data.
#[test]
fn private_mappings_of_files() {
    let _alone = alone();
    let pages = 64;
    let mut on_disk = tempfile::tempfile().unwrap();
    fill(&mut on_disk, pages);
    for file in [memfd(pages), on_disk] {
        let area = Area::new(4 * pages * page());
        let len = pages * page();
        // Never touched, read only, partly written.
        for i in 0..3 {
            area.map_file(i * len..(i + 1) * len, &file, 0, MapFlags::PRIVATE);
        }
        area.touch(len..2 * len);
        area.fill(2 * len + 5 * page()..2 * len + 6 * page(), 0);
        area.fill(2 * len + 7 * page()..2 * len + 7 * page() + 1, 9);
        let found = check(&[area.bytes()]);
        assert!(found.iter().all(|bytes| *bytes == 3 * len), "{found:?}");
        check(&[&area.bytes()[1..len + 1], &area.bytes()[len..]]);
    }
}

#[test]
fn shared_mappings() {
    let _alone = alone();
    let pages = 64;
    let len = pages * page();
    let area = Area::new(3 * len);
    area.map_file(0..len, memfd(pages), 0, MapFlags::SHARED);
    area.map_anonymous(len..2 * len, MapFlags::SHARED);
    area.fill(len + 100..len + 101, 5);
    // Data in shared memory whose pages this mapping has never touched.
    area.advise(len..2 * len, Advice::LinuxDontNeed).unwrap();
    let found = check(&[area.bytes()]);
    // Neither file has a name or a descriptor.
    let shared = if mapped_files_can_be_opened(&area) { len + page() } else { 2 * len };
    assert!(found.iter().all(|bytes| *bytes == shared), "{found:?}");
    assert_eq!(area.bytes()[len + 100], 5);
}

/// Whether the kernel lets this process open the files behind its mappings.
fn mapped_files_can_be_opened(area: &Area) -> bool {
    let start = format!("{:x}-", area.start.addr());
    let directory = fs::read_dir("/proc/self/map_files").unwrap();
    let mut entries = directory.map(|entry| entry.unwrap());
    let entry = entries.find(|entry| entry.file_name().to_str().unwrap().starts_with(&start));
    File::open(entry.unwrap().path()).is_ok()
}

/// 512-byte blocks of a file.
fn blocks(file: &File) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap())
}

/// The holes of a memfd that is mapped stay holes, however little of it this mapping has touched.
#[test]
fn holes_of_a_shared_memfd_are_not_allocated() {
    let _alone = alone();
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create("guest", flags).unwrap());
    let len = 64 * MIB;
    file.set_len(len as u64).unwrap();
    let area = Area::new(len);
    // In two parts, the second one elsewhere in the file.
    let half = len / 2;
    area.map_file(0..half, &file, half, MapFlags::SHARED);
    area.map_file(half..len, &file, 0, MapFlags::SHARED);
    area.fill(MIB..MIB + 100, 1);
    // Not by the mapping.
    std::os::unix::fs::FileExt::write_all_at(&file, &[2; 100], 5 * MIB as u64).unwrap();
    io::Seek::seek(&mut file, io::SeekFrom::Start(12_345)).unwrap();
    let before = blocks(&file);
    assert_eq!(before, 2 * page() as u64 / 512);
    let dump = dump_of(&[area.bytes()]);
    for dumper in dumpers().into_iter().chain([smaps()]) {
        let plan = dumper.plan(&dump).unwrap();
        let bytes = plan.to_vec().unwrap();
        assert_eq!(blocks(&file), before, "a dump has allocated holes");
        assert_eq!(extent_bytes(&plan), 2 * page());
        let segments = common::decode(&bytes).segments.into_iter();
        let segments: Vec<_> = segments.map(|s| (s.address, s.data[0], s.data.len())).collect();
        assert_eq!(segments, [(MIB as u64, 1, 100), ((half + 5 * MIB) as u64, 2, 100)]);
        // Its descriptor is the host's.
        assert_eq!(io::Seek::stream_position(&mut file).unwrap(), 12_345);
    }
    check(&[&area.bytes()[100..], area.bytes()]);
}

/// A shared file of tmpfs that has a name and no descriptor in this process.
#[test]
fn holes_of_a_shared_file_in_tmpfs_are_not_allocated() {
    let _alone = alone();
    let Ok(file) = tempfile::NamedTempFile::new_in("/dev/shm") else {
        return environment::skip("tmpfs", "there is none at /dev/shm");
    };
    let len = 32 * MIB;
    file.as_file().set_len(len as u64).unwrap();
    let area = Area::new(len);
    area.map_file(0..len, file.as_file(), 0, MapFlags::SHARED);
    area.fill(len - 1..len, 1);
    let path = file.into_temp_path();
    let plan = Dumper::new().plan(&dump_of(&[area.bytes()])).map(|plan| extent_bytes(&plan));
    assert_eq!(plan.unwrap(), page());
    assert_eq!(blocks(&File::open(&path).unwrap()), page() as u64 / 512);
}

fn smaps() -> Dumper {
    Dumper::new().extent_method(Some(ExtentMethod::Smaps))
}

#[test]
fn smaps_skips_untouched_mappings() {
    let _alone = alone();
    let area = Area::new(64 * MIB);
    // Three mappings, because they differ in what is allowed.
    // SAFETY: not borrowed, and still readable.
    unsafe { area.protect(16 * MIB..32 * MIB, MprotectFlags::READ) };
    let dump = dump_of(&[area.bytes()]);
    let plan = smaps().plan(&dump).unwrap();
    assert_eq!(plan.stats().extent_methods, [ExtentMethod::Smaps]);
    assert_eq!(plan.stats().extent_methods[0].to_string(), "smaps");
    assert_eq!(extent_bytes(&plan), 0);
    drop(plan);
    drop(dump);
    area.fill(5 * MIB..5 * MIB + 1, 1);
    let dump = dump_of(&[area.bytes()]);
    assert_eq!(extent_bytes(&smaps().plan(&dump).unwrap()), 16 * MIB);
    check(&[area.bytes()]);
}

/// Runs a test of this file again, in a process of its own under strace, with faults.
fn run_with_faults(test: &str, calls: &str, path: Option<&str>, faults: &[String]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut command = strace::traced(&log, calls, faults);
    if let Some(path) = path {
        command.args(["-P", path]);
    }
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads", "1"]);
    let output = command.output().unwrap();
    assert!(strace::faults(&log) > 0, "nothing was injected");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// How `the_default_finds_extents` says what it found.
fn said(method: &str, bytes: usize) -> String {
    format!("found by {method}: {bytes} bytes")
}

#[test]
#[ignore = "run by other tests, which take the pagemap away from it"]
fn the_default_finds_extents() {
    let area = Area::new(32 * MIB);
    // SAFETY: not borrowed, and still readable.
    unsafe { area.protect(16 * MIB..32 * MIB, MprotectFlags::READ) };
    area.fill(MIB..MIB + 1, 1);
    let dump = dump_of(&[area.bytes()]);
    let plan = Dumper::new().plan(&dump).unwrap();
    println!("{}", said(&plan.stats().extent_methods[0].to_string(), extent_bytes(&plan)));
    println!("notes: {:?}", plan.stats().extent_notes);
    let bytes = plan.to_vec().unwrap();
    let segments = common::decode(&bytes).segments;
    assert_eq!((segments.len(), segments[0].address), (1, MIB as u64));
}

#[test]
fn without_the_pagemap_smaps_is_used_and_a_note_says_so() {
    // The process of strace inherits limits that other tests set.
    let _alone = alone();
    if !strace::works() {
        return;
    }
    let test = "the_default_finds_extents";
    for error in ["EPERM", "ENOENT", "EACCES"] {
        let path = "/proc/self/pagemap";
        let text = run_with_faults(test, "openat", Some(path), &[format!("openat:error={error}")]);
        assert!(text.contains(&said("smaps", 16 * MIB)), "{text}");
        assert!(text.contains("notes: [\"cannot use the pagemap ("), "{text}");
    }
    // Without the ioctls there are still the entries.
    for error in ["EPERM", "ENOTTY", "EINVAL", "ENOSYS"] {
        let text = run_with_faults(test, "ioctl", None, &[format!("ioctl:error={error}")]);
        assert!(text.contains(&said("pagemap", page())), "{text}");
        assert!(text.contains("notes: []"), "{text}");
    }
    // Without smaps nobody knows whether another process supplies pages.
    let path = "/proc/self/smaps";
    let text = run_with_faults(test, "openat", Some(path), &["openat:error=EACCES".into()]);
    assert!(text.contains(&said("whole", 32 * MIB)), "{text}");
    assert!(text.contains("notes: [\"cannot find untouched pages ("), "{text}");
}

/// Shared memory of this process, as an engine has it.
struct Raw(*const UnsafeCell<u8>, usize);

// SAFETY: an address; the bytes are cells.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

// SAFETY: the tests keep the area as long as the handle, and write it with atomics or not at all.
unsafe impl SharedBytes for Raw {
    fn bytes(&self) -> &[UnsafeCell<u8>] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.0, self.1) }
    }
}

fn shared_dump_of(area: &Area) -> CoreDump<'static> {
    let image = MemoryImage::from_shared(Raw(area.start.cast_const().cast(), area.len));
    let pages = (area.len as u64).div_ceil(65_536);
    let ty = MemoryType::wasm64(pages).with_maximum(pages).with_shared();
    let mut dump = CoreDump::new("shared");
    dump.add_memory(Memory::new(ty, image));
    dump
}

#[test]
fn untouched_pages_of_a_shared_memory_are_not_read() {
    let _alone = alone();
    let area = Area::new(64 * GIB);
    area.fill(33 * GIB + 5..33 * GIB + 6, 1);
    let dump = shared_dump_of(&area);
    for dumper in dumpers() {
        let before = rss_anon();
        let plan = dumper.plan(&dump).unwrap();
        let bytes = plan.to_vec().unwrap();
        assert_eq!(extent_bytes(&plan), page());
        let segments = common::decode(&bytes).segments;
        assert_eq!((segments.len(), segments[0].address), (1, 33 * GIB as u64 + 5));
        let grown = rss_anon().saturating_sub(before);
        assert!(grown < 2 * MIB, "{grown} more bytes resident");
    }
}

fn rss_anon() -> usize {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
}

/// Threads touch pages while the extents are found: what is dumped stood there at some time.
#[test]
fn other_threads_touch_pages_of_a_shared_memory() {
    use std::sync::atomic::AtomicU64;

    let _alone = alone();
    let area = Area::new(64 * MIB);
    area.fill(0..MIB, 1);
    let dump = shared_dump_of(&area);
    let stop = AtomicBool::new(false);
    let words = area.start.expose_provenance();
    std::thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            let mut random = Random(5);
            while !stop.load(Ordering::Relaxed) {
                let at = MIB + random.below((63 * MIB) as u64 / 8) * 8;
                let word = ptr::with_exposed_provenance_mut::<u64>(words + at);
                // SAFETY: a word of the area, which is written as an atomic only.
                unsafe { AtomicU64::from_ptr(word) }.store(u64::MAX, Ordering::Relaxed);
                if random.below(500) == 0 {
                    let at = ptr::with_exposed_provenance_mut(words + 2 * MIB);
                    // SAFETY: within the area, of which nobody holds a reference.
                    unsafe { rustix::mm::madvise(at, 62 * MIB, Advice::LinuxDontNeed).unwrap() };
                }
            }
        });
        let _stop = Stop(stop);
        for round in 0..30 {
            let plan = Dumper::new().threads(1 + round % 2).plan(&dump).unwrap();
            let bytes = plan.to_vec().unwrap();
            let contents = common::decode(&bytes).contents(0, area.len);
            assert!(contents[..MIB].iter().all(|byte| *byte == 1));
            assert!(contents[MIB..].iter().all(|byte| matches!(byte, 0 | 0xff)));
        }
    });
}

/// The buffers of many threads together stay small.
#[test]
fn many_threads_share_a_bounded_buffer() {
    let _alone = alone();
    let area = Area::new(640 * MIB);
    for at in (0..area.len).step_by(64 << 10) {
        area.fill(at..at + 1, 1);
    }
    let dump = shared_dump_of(&area);
    let before = rss_anon();
    let peak = std::sync::atomic::AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                peak.fetch_max(rss_anon(), Ordering::Relaxed);
            }
        });
        // All of it, so that every thread needs its buffer.
        let dumper = Dumper::new().extent_method(Some(ExtentMethod::Pagemap)).threads(256);
        let _ = dumper.plan(&dump).unwrap();
    });
    let grown = peak.load(Ordering::Relaxed).saturating_sub(before);
    println!("{grown} bytes beside the guest's with 256 threads");
    assert!(grown < 16 * MIB, "{grown} more bytes resident");
}

/// The kernel's own pages, which can hold data before they are touched.
#[test]
fn pages_of_the_kernel() {
    let _alone = alone();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let Some(line) = maps.lines().find(|line| line.ends_with("[vdso]")) else {
        return environment::skip("vdso", "there is none");
    };
    let (start, rest) = line.split_once('-').unwrap();
    let end = rest.split(' ').next().unwrap();
    let [start, end] = [start, end].map(|digits| usize::from_str_radix(digits, 16).unwrap());
    // SAFETY: mapped for reading as long as the process lives, and never written.
    let bytes = unsafe {
        std::slice::from_raw_parts(ptr::with_exposed_provenance::<u8>(start), end - start)
    };
    assert!(check(&[bytes]).iter().all(|found| *found == bytes.len()));
}

#[test]
fn huge_pages() {
    let _alone = alone();
    let area = Area::new(32 * MIB);
    if let Err(error) = area.advise(0..area.len, Advice::LinuxHugepage) {
        return environment::skip("hugepages", error);
    }
    area.fill(9 * MIB..9 * MIB + 1, 1);
    // Read only: where there are huge pages this maps the huge zero page.
    area.touch(20 * MIB..20 * MIB + 1);
    let found = check(&[area.bytes()]);
    println!("extents with huge pages: {found:?}");
    assert!(found.iter().all(|bytes| *bytes <= 4 * MIB), "{found:?}");

    // A huge page of which a part was discarded.
    let area = Area::new(32 * MIB);
    area.advise(0..area.len, Advice::LinuxHugepage).unwrap();
    area.fill(8 * MIB..16 * MIB, 1);
    area.advise(9 * MIB..9 * MIB + page(), Advice::LinuxDontNeed).unwrap();
    area.advise(12 * MIB..14 * MIB, Advice::LinuxDontNeed).unwrap();
    check(&[area.bytes()]);
    check(&[&area.bytes()[7 * MIB + 5..15 * MIB + 3]]);
}

/// Memory of hugetlbfs looks anonymous, and is not.
#[test]
fn reserved_huge_pages() {
    let _alone = alone();
    // Without it the mapping below fails, unless the system has huge pages anyway.
    let _pool = huge_pages::Pool::new(1);
    let area = Area::new(8 * MIB);
    let at = area.start.addr().next_multiple_of(2 * MIB) - area.start.addr();
    let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::FIXED;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: within the area, and not borrowed.
    let mapped =
        unsafe { rustix::mm::mmap_anonymous(area.at(at).cast(), 2 * MIB, protection, flags) };
    match mapped {
        Ok(_) => {
            area.fill(at + MIB..at + MIB + 1, 1);
            assert!(check(&[area.bytes()]).iter().all(|bytes| *bytes == 2 * MIB));
        }
        Err(error) => environment::skip("hugetlb", error),
    }
}

#[test]
fn discarded_memory() {
    let _alone = alone();
    let area = Area::new(8 * MIB);
    area.fill(0..8 * MIB, 1);
    area.advise(2 * MIB..5 * MIB, Advice::LinuxDontNeed).unwrap();
    assert!(check(&[area.bytes()]).iter().all(|bytes| *bytes == 5 * MIB));

    // Pages that the kernel may take any time, but mostly has not.
    let area = Area::new(8 * MIB);
    area.fill(0..8 * MIB, 1);
    area.advise(2 * MIB..5 * MIB, Advice::LinuxFree).unwrap();
    area.fill(3 * MIB..3 * MIB + 1, 2);
    check(&[area.bytes()]);
}

#[test]
fn moved_and_protected_memory() {
    let _alone = alone();
    let area = Area::new(8 * MIB);
    area.fill(MIB..2 * MIB, 1);
    area.fill(MIB + 8 * page()..MIB + 16 * page(), 2);
    area.remap(MIB..2 * MIB, 5 * MIB).unwrap();
    // SAFETY: not borrowed, and still readable.
    unsafe { area.protect(5 * MIB..5 * MIB + 64 * page(), MprotectFlags::READ) };
    assert!(check(&[area.bytes()]).iter().all(|bytes| *bytes == MIB));
    assert_eq!(area.bytes()[5 * MIB + 9 * page()], 2);
}

#[test]
fn several_mappings_in_one_memory() {
    let _alone = alone();
    let part = 16 * page();
    let file = memfd(16);
    let area = Area::new(1000 * part);
    for i in 0..1000 {
        let range = i * part..(i + 1) * part;
        match i % 5 {
            0 => area.map_file(range, &file, 0, MapFlags::PRIVATE),
            1 => area.fill(range.start..range.start + 1, 1),
            2 => area.map_file(range, &file, 0, MapFlags::SHARED),
            // SAFETY: not borrowed, and still readable.
            3 => unsafe { area.protect(range, MprotectFlags::READ) },
            _ => area.map_anonymous(range, MapFlags::SHARED),
        }
    }
    // All of the memfd was written, and it has a descriptor. Shared anonymous memory has none.
    let memfd = part;
    let shared = if mapped_files_can_be_opened(&area) { 0 } else { part };
    let expected = 200 * (part + page() + memfd + shared);
    let found = check(&[area.bytes()]);
    assert!(found.iter().all(|bytes| *bytes == expected), "{found:?}, not {expected}");
    // Two memories side by side, in both orders, and one inside the other.
    let (low, high) = area.bytes().split_at(333 * part + 77);
    check(&[high, low]);
    check(&[low, &low[1000..200_000], high]);
}

#[test]
fn a_guard_page_follows() {
    let _alone = alone();
    let area = Area::new(MIB);
    area.fill(MIB - 1..MIB, 1);
    area.fill(0..1, 1);
    assert!(check(&[area.bytes()]).iter().all(|bytes| *bytes == 2 * page()));
}

/// Every other page, many thousands of them.
#[test]
fn more_regions_than_one_call_returns() {
    let _alone = alone();
    for (count, step, first) in [(30_000, 2, 0), (5_000, 3, 1)] {
        let area = Area::new(count * step * page());
        for i in 0..count {
            let at = (i * step + first) * page();
            area.fill(at + i % page()..at + i % page() + 1, 1);
        }
        let found = check(&[area.bytes()]);
        assert!(found.iter().all(|bytes| *bytes == count * page()), "{found:?}");
    }
}

#[test]
fn swapped_pages() {
    let _alone = alone();
    let area = Area::new(8 * MIB);
    area.fill(0..8 * MIB, 1);
    let paged_out = area.advise(2 * MIB..5 * MIB, Advice::LinuxPageOut);
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    let mut entry = [0; 8];
    let at = (area.start.addr() + 3 * MIB) / page() * 8;
    std::os::unix::fs::FileExt::read_exact_at(&pagemap, &mut entry, at as u64).unwrap();
    if u64::from_ne_bytes(entry) >> 62 != 1 {
        println!("nothing was swapped ({paged_out:?}): this machine has no swap");
    }
    assert!(check(&[area.bytes()]).iter().all(|bytes| *bytes == 8 * MIB));
}

/// Stops the threads of a test, also when it fails.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Other mappings come and go next to the memory, and elsewhere.
#[test]
fn other_threads_map_and_unmap() {
    let _alone = alone();
    let before = Area::new(MIB);
    let area = Area::new(4 * MIB);
    let after = Area::new(MIB);
    area.fill(MIB + 5..MIB + 6, 1);
    area.map_file(2 * MIB..3 * MIB, memfd(MIB / page()), 0, MapFlags::PRIVATE);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (stop, areas) = (&stop, [before, after]);
        scope.spawn(move || {
            let mut random = Random(3);
            while !stop.load(Ordering::Relaxed) {
                let area = &areas[random.below(2)];
                let start = random.below(200) * page();
                let range = start..start + page() * (1 + random.below(50));
                match random.below(3) {
                    0 => area.map_anonymous(range, MapFlags::PRIVATE),
                    1 => area.map_anonymous(range, MapFlags::SHARED),
                    _ => drop(Area::new(range.len())),
                }
            }
        });
        let _stop = Stop(stop);
        for _ in 0..20 {
            let dump = dump_of(&[area.bytes()]);
            for dumper in dumpers() {
                let plan = dumper.plan(&dump).unwrap();
                assert_eq!(extent_bytes(&plan), MIB + page());
            }
        }
    });
    check(&[area.bytes()]);
}

// The area is used by one thread at a time.
// SAFETY: an area is a range of addresses, which are the same for every thread.
unsafe impl Send for Area {}

/// Anything, in any order, many times.
#[test]
fn random_mappings() {
    let _alone = alone();
    let file = memfd(64);
    for seed in 1..=120 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let pages = 64 + random.below(600);
        let area = Area::new(pages * page());
        if seed % 4 == 0 {
            area.advise(0..area.len, Advice::LinuxHugepage).ok();
        }
        for _ in 0..random.below(60) {
            let count = 1 + random.below(64);
            let first = random.below((pages - count + 1) as u64);
            let range = first * page()..(first + count) * page();
            let part = range.start + random.below(page() as u64)..range.end;
            match random.below(12) {
                0 => area.map_anonymous(range, MapFlags::PRIVATE),
                1 => area.map_anonymous(range, MapFlags::SHARED),
                2 => area.map_file(range, &file, 0, MapFlags::PRIVATE),
                3 => area.map_file(range, &file, 0, MapFlags::SHARED),
                4..=6 => area.fill(part, u8::try_from(random.below(256)).unwrap()),
                7 => area.touch(range),
                8 | 9 => area.advise(range, Advice::LinuxDontNeed).unwrap(),
                // Not for every mapping.
                10 => drop(area.advise(range, Advice::LinuxFree)),
                _ => {
                    let to = random.below((pages - count + 1) as u64) * page();
                    // Not onto itself, and not more than one mapping.
                    if to.abs_diff(range.start) >= range.len() {
                        drop(area.remap(range, to));
                    }
                }
            }
        }
        let bytes = area.bytes();
        let start = random.below(bytes.len() as u64 / 2);
        let end = bytes.len() / 2 + random.below(bytes.len() as u64 / 2);
        check(&[bytes, &bytes[start..end]]);
    }
}

/// A guest's file that grows after it was opened: the answers about the longer file are no contradictions.
#[test]
fn an_image_file_that_grows_is_not_doubted() {
    use std::os::unix::fs::FileExt;

    let file = tempfile::NamedTempFile::new_in(".").unwrap();
    file.as_file().set_len(64 << 20).unwrap();
    file.as_file().write_all_at(&[1; 4096], 20 << 20).unwrap();
    let image = MemoryImage::open(file.path()).unwrap();
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm32(1024), image));
    for len in [65_536, 4 << 20] {
        file.as_file().write_all_at(&vec![2; len], 64 << 20).unwrap();
        let plan = Dumper::new().plan(&dump).unwrap();
        let stats = plan.stats();
        assert!(stats.extent_notes.is_empty(), "{:?}", stats.extent_notes);
        assert!(stats.extent_bytes < 4 << 20, "{}", stats.extent_bytes);
        assert_eq!(stats.data_bytes, 4096);
    }
}
