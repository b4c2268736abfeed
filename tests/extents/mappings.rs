//! Memories of mappings of every kind: private and shared, anonymous and of files, touched or not.

use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use corestream::{CoreDump, Dumper, ExtentMethod, Memory, MemoryImage, MemoryType};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use super::area::Area;
use super::common::{Random, Stop};
use super::environment::{self, require};
use super::{
    GIB, MIB, alone, check, dump_of, dumpers, extent_bytes, fill, huge_pages, memfd, page,
};

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
    match Dumper::new().extent_method(Some(ExtentMethod::PagemapScan)).plan(&dump) {
        Ok(plan) => assert_eq!(extent_bytes(&plan), page()),
        Err(error) => environment::report_missing("pagemap-scan", error),
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
