//! Shared memories and shared mappings: their holes stay holes, and threads may write meanwhile.

use std::cell::UnsafeCell;
use std::fs::{self, File};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use corestream::{CoreDump, Dumper, ExtentMethod, Memory, MemoryImage, MemoryType, SharedBytes};
use rustix::mm::{Advice, MapFlags};

use super::area::Area;
use super::common::{self, Random, Stop};
use super::environment::require;
use super::{GIB, MIB, alone, check, dump_of, dumpers, extent_bytes, page, smaps};

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
