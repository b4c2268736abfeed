//! Extents of live memory: every way to ask the kernel gives the dump that reading everything gives, and pages that were
//! never touched stay untouched.
//!
//! These tests are a crate of their own because they limit the descriptors of the process, measure its memory, and run it
//! again under strace.
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
#[path = "../common/strace.rs"]
mod strace;
mod userfaultfd;

use std::cell::UnsafeCell;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use area::Area;
use common::Random;
use corestream::{
    CoreDump, Dumper, ErrorKind, ExtentMethod, MappingMethod, Memory, MemoryImage, MemoryType,
    Plan, SharedBytes,
};
use environment::require;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// Makes the tests of this file run one after the other, because some measure or limit the process.
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

/// Dumps `memories` in every way, and compares the dumps with that of a plain read of everything. Returns the bytes of the
/// extents for each of [`dumpers`].
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

#[test]
fn names_the_method_in_the_statistics() {
    let _alone = alone();
    let area = Area::new(MIB);
    let dump = dump_of(&[area.bytes()]);
    for (method, name) in
        [(ExtentMethod::PagemapScan, "pagemap-scan"), (ExtentMethod::Pagemap, "pagemap")]
    {
        let plan = match Dumper::new().extent_method(Some(method)).plan(&dump) {
            Ok(plan) => plan,
            Err(error) => {
                environment::report_missing(name, error);
                continue;
            }
        };
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

/// A process without free descriptors cannot ask the kernel.
#[test]
fn reads_everything_if_the_kernel_cannot_be_asked() {
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

/// Where a userfaultfd is open, a page that was never touched can have data.
#[test]
fn reads_memory_while_a_userfaultfd_is_open() {
    let _alone = alone();
    /// `UFFD_USER_MODE_ONLY`, which needs no privilege.
    const USER_MODE_ONLY: u32 = 1;
    let flags = rustix::mm::UserfaultfdFlags::CLOEXEC
        | rustix::mm::UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY);
    // SAFETY: it is registered for no memory.
    let userfaultfd = require!("userfaultfd", unsafe { rustix::mm::userfaultfd(flags) });
    let area = Area::new(MIB);
    let dump = dump_of(&[area.bytes()]);
    let plan = Dumper::new().plan(&dump).unwrap();
    assert_eq!(plan.stats().extent_methods, [ExtentMethod::Whole]);
    drop(userfaultfd);
    let plan = Dumper::new().plan(&dump).unwrap();
    assert_ne!(plan.stats().extent_methods, [ExtentMethod::Whole]);
}

/// Only a child has the descriptor, so only `VmFlags` shows it in this process.
#[test]
fn reads_memory_that_another_process_supplies() {
    let _alone = alone();
    for method in [None, Some(ExtentMethod::Pagemap), Some(ExtentMethod::Smaps)] {
        let area = Area::new(4 * MIB);
        let supplied = MIB..2 * MIB;
        let range = area.at(supplied.start).addr()..area.at(supplied.end).addr();
        let supplier = userfaultfd::Supplier::start(range, page(), 7);
        let supplier =
            require!("userfaultfd", supplier.ok_or("it does not exist, or is not allowed"));
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
fn finds_the_touched_pages() {
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
    // The kernel counts written zeros as data, and the dump does not.
    area.fill(0..4 * MIB, 0);
    assert!(check(&[area.bytes()]).iter().all(|bytes| *bytes == 4 * MIB));
}

/// The kernel maps the zero page where memory was only read.
#[test]
fn finds_pages_that_were_read_and_never_written() {
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
fn allocates_no_page_of_an_untouched_reservation() {
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
        let dumper = dumper.clone().threads(2);
        // The first plan allocates what every plan needs.
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

/// The kernel knows pages, but a memory can begin and end anywhere.
#[test]
fn dumps_ranges_that_are_not_aligned_to_pages() {
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
    // Heap and stack.
    let on_stack = [1_u8; 100_000];
    let on_heap = vec![2_u8; 10_000];
    check(&[&on_stack[1..], &on_heap[3..9_999], b"constant", &[]]);
}

/// Untouched pages of a file are data.
#[test]
fn dumps_private_mappings_of_files() {
    let _alone = alone();
    let pages = 64;
    let mut on_disk = tempfile::tempfile().unwrap();
    fill(&mut on_disk, pages);
    for file in [memfd(pages), on_disk] {
        let area = Area::new(4 * pages * page());
        let len = pages * page();
        // One part is never touched, one is only read, and one is written in places.
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
fn dumps_shared_mappings() {
    let _alone = alone();
    let pages = 64;
    let len = pages * page();
    let area = Area::new(3 * len);
    area.map_file(0..len, memfd(pages), 0, MapFlags::SHARED);
    area.map_anonymous(len..2 * len, MapFlags::SHARED);
    area.fill(len + 100..len + 101, 5);
    // The data stays in the shared memory, but this mapping has no pages of it.
    area.advise(len..2 * len, Advice::LinuxDontNeed).unwrap();
    let found = check(&[area.bytes()]);
    // Neither file has a name or a descriptor.
    let shared = if mapped_files_can_be_opened(&area) { len + page() } else { 2 * len };
    assert!(found.iter().all(|bytes| *bytes == shared), "{found:?}");
    assert_eq!(area.bytes()[len + 100], 5);
}

/// Returns whether the kernel lets this process open the files behind its mappings.
fn mapped_files_can_be_opened(area: &Area) -> bool {
    let start = format!("{:x}-", area.start.addr());
    let directory = fs::read_dir("/proc/self/map_files").unwrap();
    let mut entries = directory.map(|entry| entry.unwrap());
    let entry = entries.find(|entry| entry.file_name().to_str().unwrap().starts_with(&start));
    File::open(entry.unwrap().path()).is_ok()
}

/// Returns the number of 512-byte blocks of a file.
fn blocks(file: &File) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap())
}

/// Reading a hole of a mapped memfd would allocate it.
#[test]
fn allocates_no_hole_of_a_shared_memfd() {
    let _alone = alone();
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create("guest", flags).unwrap());
    let len = 64 * MIB;
    file.set_len(len as u64).unwrap();
    let area = Area::new(len);
    // The two halves of the file are mapped in reverse order.
    let half = len / 2;
    area.map_file(0..half, &file, half, MapFlags::SHARED);
    area.map_file(half..len, &file, 0, MapFlags::SHARED);
    area.fill(MIB..MIB + 100, 1);
    // This data does not come through the mapping.
    std::os::unix::fs::FileExt::write_all_at(&file, &[2; 100], 5 * MIB as u64).unwrap();
    io::Seek::seek(&mut file, io::SeekFrom::Start(12_345)).unwrap();
    let before = blocks(&file);
    assert_eq!(before, 2 * page() as u64 / 512);
    let dump = dump_of(&[area.bytes()]);
    for dumper in dumpers().iter().chain([&smaps()]) {
        let plan = dumper.plan(&dump).unwrap();
        let bytes = plan.to_vec().unwrap();
        assert_eq!(blocks(&file), before, "a dump has allocated holes");
        assert_eq!(extent_bytes(&plan), 2 * page());
        let segments = common::decode(&bytes).segments.into_iter();
        let segments: Vec<_> = segments.map(|s| (s.address, s.data[0], s.data.len())).collect();
        assert_eq!(segments, [(MIB as u64, 1, 100), ((half + 5 * MIB) as u64, 2, 100)]);
        // The position of the host's descriptor is unchanged.
        assert_eq!(io::Seek::stream_position(&mut file).unwrap(), 12_345);
    }
    check(&[&area.bytes()[100..], area.bytes()]);
}

/// The file has a name, and no descriptor in this process.
#[test]
fn allocates_no_hole_of_a_shared_file_in_tmpfs() {
    let _alone = alone();
    let file = require!("tmpfs", tempfile::NamedTempFile::new_in("/dev/shm"));
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
fn skips_untouched_mappings_by_smaps() {
    let _alone = alone();
    let area = Area::new(64 * MIB);
    // Different permissions make three mappings.
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

/// The variable that makes [`falls_back_without_the_pagemap`] the process that strace runs.
const UNDER_STRACE: &str = "CORESTREAM_TEST_UNDER_STRACE";

/// Runs [`falls_back_without_the_pagemap`] under strace, with faults. Returns its standard output.
fn run_with_faults(calls: &str, path: Option<&str>, faults: &[String]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut command = strace::traced(&log, calls, faults);
    if let Some(path) = path {
        command.args(["-P", path]);
    }
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "falls_back_without_the_pagemap", "--nocapture", "--test-threads=1"]);
    let output = command.env(UNDER_STRACE, "1").output().unwrap();
    assert!(strace::faults(&log) > 0, "nothing was injected");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Returns the line that [`print_extents`] prints.
fn line_of(method: &str, bytes: usize) -> String {
    format!("found by {method}: {bytes} bytes")
}

/// Dumps with the default dumper, and prints how it found the extents.
fn print_extents() {
    let area = Area::new(32 * MIB);
    // SAFETY: not borrowed, and still readable.
    unsafe { area.protect(16 * MIB..32 * MIB, MprotectFlags::READ) };
    area.fill(MIB..MIB + 1, 1);
    let dump = dump_of(&[area.bytes()]);
    let plan = Dumper::new().plan(&dump).unwrap();
    println!("{}", line_of(&plan.stats().extent_methods[0].to_string(), extent_bytes(&plan)));
    println!("notes: {:?}", plan.stats().extent_notes);
    let bytes = plan.to_vec().unwrap();
    let segments = common::decode(&bytes).segments;
    assert_eq!((segments.len(), segments[0].address), (1, MIB as u64));
}

/// Without the pagemap, the dumper uses smaps, and a note says so.
#[test]
fn falls_back_without_the_pagemap() {
    if std::env::var_os(UNDER_STRACE).is_some() {
        return print_extents();
    }
    // The process under strace inherits limits that other tests set.
    let _alone = alone();
    require!(strace);
    for error in ["EPERM", "ENOENT", "EACCES"] {
        let path = "/proc/self/pagemap";
        let text = run_with_faults("openat", Some(path), &[format!("openat:error={error}")]);
        assert!(text.contains(&line_of("smaps", 16 * MIB)), "{text}");
        assert!(text.contains("notes: [\"cannot use the pagemap ("), "{text}");
    }
    // Without the ioctls, the entries of the pagemap remain.
    for error in ["EPERM", "ENOTTY", "EINVAL", "ENOSYS"] {
        let text = run_with_faults("ioctl", None, &[format!("ioctl:error={error}")]);
        assert!(text.contains(&line_of("pagemap", page())), "{text}");
        assert!(text.contains("notes: []"), "{text}");
    }
    // Without smaps, another process may supply the untouched pages.
    let path = "/proc/self/smaps";
    let text = run_with_faults("openat", Some(path), &["openat:error=EACCES".into()]);
    assert!(text.contains(&line_of("whole", 32 * MIB)), "{text}");
    assert!(text.contains("notes: [\"cannot find untouched pages ("), "{text}");
}

/// A shared memory, as an engine implements it.
struct Raw(*const UnsafeCell<u8>, usize);

// SAFETY: it is an address, and the bytes are cells.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

// SAFETY: the tests keep the area while the handle lives, and write to it with atomics or not at all.
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
fn does_not_read_untouched_pages_of_a_shared_memory() {
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

/// Each byte of the dump is one that the memory had at some time.
#[test]
fn dumps_a_shared_memory_while_threads_touch_it() {
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
                // SAFETY: a word of the area, which is only accessed as an atomic.
                unsafe { AtomicU64::from_ptr(word) }.store(u64::MAX, Ordering::Relaxed);
                if random.below(500) == 0 {
                    let at = ptr::with_exposed_provenance_mut(words + 2 * MIB);
                    // SAFETY: within the area, to which there is no reference.
                    unsafe { rustix::mm::madvise(at, 62 * MIB, Advice::LinuxDontNeed).unwrap() };
                }
            }
        });
        let _stop = Stop(stop);
        for round in 0..10 {
            let plan = Dumper::new().threads(1 + round % 2).plan(&dump).unwrap();
            let bytes = plan.to_vec().unwrap();
            let contents = common::decode(&bytes).contents(0, area.len);
            assert!(contents[..MIB].iter().all(|byte| *byte == 1));
            assert!(contents[MIB..].iter().all(|byte| matches!(byte, 0 | 0xff)));
        }
    });
}

/// The threads share one buffer of bounded size.
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
        // With this method, every thread needs a buffer.
        let dumper = Dumper::new().extent_method(Some(ExtentMethod::Pagemap)).threads(256);
        let _ = dumper.plan(&dump).unwrap();
    });
    let grown = peak.load(Ordering::Relaxed).saturating_sub(before);
    println!("{grown} bytes in addition to the guest's with 256 threads");
    assert!(grown < 16 * MIB, "{grown} more bytes resident");
}

/// The kernel's pages can hold data before this process touches them.
#[test]
fn dumps_pages_of_the_kernel() {
    let _alone = alone();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.ends_with("[vdso]"));
    let line = require!("vdso", line.ok_or("this process has no vDSO"));
    let (start, rest) = line.split_once('-').unwrap();
    let end = rest.split(' ').next().unwrap();
    let [start, end] = [start, end].map(|digits| usize::from_str_radix(digits, 16).unwrap());
    // SAFETY: mapped for reading while the process lives, and never written.
    let bytes = unsafe {
        std::slice::from_raw_parts(ptr::with_exposed_provenance::<u8>(start), end - start)
    };
    assert!(check(&[bytes]).iter().all(|found| *found == bytes.len()));
}

#[test]
fn dumps_huge_pages() {
    let _alone = alone();
    let area = Area::new(32 * MIB);
    require!("hugepages", area.advise(0..area.len, Advice::LinuxHugepage));
    area.fill(9 * MIB..9 * MIB + 1, 1);
    // With huge pages, this maps the huge zero page.
    area.touch(20 * MIB..20 * MIB + 1);
    let found = check(&[area.bytes()]);
    println!("extents with huge pages: {found:?}");
    assert!(found.iter().all(|bytes| *bytes <= 4 * MIB), "{found:?}");

    // A part of a huge page is discarded.
    let area = Area::new(32 * MIB);
    area.advise(0..area.len, Advice::LinuxHugepage).unwrap();
    area.fill(8 * MIB..16 * MIB, 1);
    area.advise(9 * MIB..9 * MIB + page(), Advice::LinuxDontNeed).unwrap();
    area.advise(12 * MIB..14 * MIB, Advice::LinuxDontNeed).unwrap();
    check(&[area.bytes()]);
    check(&[&area.bytes()[7 * MIB + 5..15 * MIB + 3]]);
}

/// Memory of hugetlbfs looks anonymous, but a page of it may be allocated by a read.
#[test]
fn dumps_pages_of_hugetlbfs() {
    let _alone = alone();
    // Without it, the mapping below fails unless the system already has free huge pages.
    let _pool = huge_pages::Pool::new(1);
    let area = Area::new(8 * MIB);
    let at = area.start.addr().next_multiple_of(2 * MIB) - area.start.addr();
    let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::FIXED;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: within the area, and not borrowed.
    let mapped =
        unsafe { rustix::mm::mmap_anonymous(area.at(at).cast(), 2 * MIB, protection, flags) };
    require!("hugetlb", mapped);
    area.fill(at + MIB..at + MIB + 1, 1);
    assert!(check(&[area.bytes()]).iter().all(|bytes| *bytes == 2 * MIB));
}

#[test]
fn dumps_discarded_memory() {
    let _alone = alone();
    let area = Area::new(8 * MIB);
    area.fill(0..8 * MIB, 1);
    area.advise(2 * MIB..5 * MIB, Advice::LinuxDontNeed).unwrap();
    assert!(check(&[area.bytes()]).iter().all(|bytes| *bytes == 5 * MIB));

    // The kernel may take these pages at any time, but usually has not.
    let area = Area::new(8 * MIB);
    area.fill(0..8 * MIB, 1);
    area.advise(2 * MIB..5 * MIB, Advice::LinuxFree).unwrap();
    area.fill(3 * MIB..3 * MIB + 1, 2);
    check(&[area.bytes()]);
}

#[test]
fn dumps_moved_and_protected_memory() {
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
fn dumps_a_memory_of_several_mappings() {
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
    // All of the memfd was written, and it has a descriptor. Shared anonymous memory has no descriptor.
    let memfd = part;
    let shared = if mapped_files_can_be_opened(&area) { 0 } else { part };
    let expected = 200 * (part + page() + memfd + shared);
    let found = check(&[area.bytes()]);
    assert!(found.iter().all(|bytes| *bytes == expected), "{found:?}, not {expected}");
    // Two memories next to each other, in both orders, and one inside the other.
    let (low, high) = area.bytes().split_at(333 * part + 77);
    check(&[high, low]);
    check(&[low, &low[1000..200_000], high]);
}

#[test]
fn stops_at_a_guard_page() {
    let _alone = alone();
    let area = Area::new(MIB);
    area.fill(MIB - 1..MIB, 1);
    area.fill(0..1, 1);
    assert!(check(&[area.bytes()]).iter().all(|bytes| *bytes == 2 * page()));
}

/// Each region is one page.
#[test]
fn finds_more_regions_than_one_call_returns() {
    let _alone = alone();
    for (count, step, first) in [(15_000, 2, 0), (5_000, 3, 1)] {
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
fn dumps_swapped_pages() {
    let _alone = alone();
    let area = Area::new(8 * MIB);
    area.fill(0..8 * MIB, 1);
    let paged_out = area.advise(2 * MIB..5 * MIB, Advice::LinuxPageOut);
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    let mut entry = [0; 8];
    let at = (area.start.addr() + 3 * MIB) / page() * 8;
    std::os::unix::fs::FileExt::read_exact_at(&pagemap, &mut entry, at as u64).unwrap();
    if u64::from_ne_bytes(entry) >> 62 != 1 {
        // The dump must be right either way, so the test continues.
        environment::report_missing("swap", format_args!("no page was swapped out: {paged_out:?}"));
    }
    assert!(check(&[area.bytes()]).iter().all(|bytes| *bytes == 8 * MIB));
}

/// Stops the threads of a test, even if it fails.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Mappings appear and disappear next to the memory, and elsewhere.
#[test]
fn dumps_while_threads_map_and_unmap() {
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

/// Maps and changes anything in any order.
fn check_random_mappings(seeds: RangeInclusive<u64>) {
    let _alone = alone();
    let file = memfd(64);
    for seed in seeds {
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
                // This fails for some mappings.
                10 => drop(area.advise(range, Advice::LinuxFree)),
                _ => {
                    let to = random.below((pages - count + 1) as u64) * page();
                    // Fails for more than one mapping.
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

#[test]
fn dumps_random_mappings() {
    check_random_mappings(1..=20);
}

#[test]
#[ignore = "slow: 2 s"]
fn dumps_more_random_mappings() {
    check_random_mappings(21..=120);
}

/// The kernel's answers are about the longer file, and do not contradict each other.
#[test]
fn trusts_the_holes_of_an_image_file_that_grows() {
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
