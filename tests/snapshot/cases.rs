//! Single cases of snapshots: refused memory, writes by the host and the kernel, and the end of a snapshot.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use corestream::internals::find_mismatch;
use corestream::snapshot::{Faults, Preparation, Snapshot, SnapshotOptions};
use corestream::{CoreDump, Dumper, Error, ErrorKind, ExtentMethod, MemoryImage, Piece, Sink};
use memmap2::{MmapMut, MmapOptions};
use rustix::fs::MemfdFlags;
use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags, madvise, mmap, mremap, munmap};

use crate::alone;
use crate::area::{Area, PAGE, byte};
use crate::environment::require;

/// Prepares a snapshot of areas.
pub fn prepare(options: &SnapshotOptions, areas: &[&Area]) -> Result<Preparation, Error> {
    let live: Vec<_> = areas.iter().map(|area| area.live()).collect();
    // SAFETY: the areas are private, and outlive the snapshot unless the test is about that.
    unsafe { options.prepare(&live) }
}

/// Takes a snapshot of areas with all their bytes as they are.
pub fn freeze(options: &SnapshotOptions, areas: &[&Area]) -> Snapshot {
    prepare(options, areas).unwrap().freeze(Area::dump(areas)).unwrap()
}

pub fn write(snapshot: &Snapshot) -> Result<Vec<u8>, Error> {
    let core = Dumper::new().plan(&snapshot.dump)?.to_vec()?;
    // The thread of the guest is this one, so the guest is stopped.
    assert_eq!(find_mismatch(snapshot).unwrap(), None);
    Ok(core)
}

pub fn each_kind_of_fault(test: impl Fn(SnapshotOptions)) {
    for faults in [Faults::Thread, Faults::Signal] {
        test(SnapshotOptions::new().faults(faults));
    }
}

/// Returns an area of `pages` pages, each of which begins with its number plus one.
pub fn numbered(pages: usize) -> Area {
    let area = Area::new(pages * PAGE);
    for page in 0..pages {
        area.write(page * PAGE, (page + 1).to_le_bytes()[0]);
    }
    area
}

#[test]
fn refuses_memory_that_cannot_be_protected() {
    let _alone = require!("userfaultfd", alone());
    let options = SnapshotOptions::new();
    let refused = |memory: corestream::snapshot::LiveMemory, cause: &str| {
        // SAFETY: nothing is protected.
        let error = unsafe { options.prepare(&[memory]) }.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Image);
        let expected = format!("memory 0: cannot protect the memory: {cause}");
        assert!(error.to_string().starts_with(&expected), "{error}");
    };
    let live = |bytes: &[u8]| corestream::snapshot::LiveMemory::new(bytes.as_ptr(), bytes.len());

    let area = Area::new(4 * PAGE);
    refused(live(&area.bytes()[8..PAGE]), "it does not start at a page boundary");
    let parts = [live(&area.bytes()[..2 * PAGE]), live(&area.bytes()[PAGE..])];
    // SAFETY: nothing is protected.
    let error = unsafe { options.prepare(&parts) }.unwrap_err();
    assert_eq!(error.to_string(), "memory 1: it overlaps memory 0");

    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    // SAFETY: the file belongs to the test.
    let shared = unsafe { MmapOptions::new().map_mut(&file) }.unwrap();
    refused(live(&shared), "it is a shared mapping, which other processes may write to");
    let is_on_disk = rustix::fs::fstatfs(&file).unwrap().f_type != 0x0102_1994;
    if is_on_disk {
        // SAFETY: as above.
        let private = unsafe { MmapOptions::new().map_copy(&file) }.unwrap();
        refused(
            live(&private),
            "it is a private mapping of a file on disk, or not mapped completely",
        );
    }

    let prepared = prepare(&options, &[&area]).unwrap();
    refused(area.live(), "another userfaultfd is registered for it");
    drop(prepared);
    drop(prepare(&options, &[&area]).unwrap());
}

#[test]
fn refuses_huge_pages_of_hugetlbfs() {
    let _alone = require!("userfaultfd", alone());
    let pool = crate::huge_pages::Pool::new(2);
    let _pool = require!("hugetlb", pool.ok_or("no huge pages"));
    let flags = MapFlags::PRIVATE | MapFlags::HUGETLB;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping replaces nothing.
    let map =
        unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), 4 << 20, protection, flags) };
    let memory = corestream::snapshot::LiveMemory::new(map.unwrap().cast(), 4 << 20);
    // SAFETY: nothing is protected.
    let error = unsafe { SnapshotOptions::new().prepare(&[memory]) }.unwrap_err();
    assert!(error.to_string().ends_with("it is mapped in pages of hugetlbfs"), "{error}");
    // SAFETY: nothing uses the mapping.
    unsafe { munmap(map.unwrap(), 4 << 20) }.unwrap();
}

/// Wasmtime maps the initial contents of a module like this.
#[test]
fn freezes_a_private_mapping_of_a_memfd() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let area = Area::new(64 * PAGE);
        let image = rustix::fs::memfd_create("image", MemfdFlags::CLOEXEC).unwrap();
        fs::File::from(image.try_clone().unwrap()).write_all(&[5; 16 * PAGE]).unwrap();
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the range lies in the area, which no reference borrows.
        unsafe { mmap(area.at(8 * PAGE).cast(), 16 * PAGE, protection, flags, &image, 0) }.unwrap();
        // Written before, read before, and untouched.
        area.write(8 * PAGE, 6);
        assert_eq!(area.read(9 * PAGE), 5);
        let prepared = prepare(&options, &[&area]).unwrap();
        area.write(10 * PAGE, 7);
        let snapshot = prepared.freeze(Area::dump(&[&area])).unwrap();
        for page in 0..64 {
            area.write(page * PAGE, 9);
        }
        let core = write(&snapshot).unwrap();
        snapshot.finish().unwrap();
        let expected = |page| match page {
            8 => 6,
            10 => 7,
            9..24 => 5,
            _ => 0,
        };
        for page in 0..64 {
            assert_eq!(byte(&core, 0, page * PAGE), expected(page), "page {page}");
            assert_eq!(area.read(page * PAGE), 9);
        }
    });
}

/// Returns a value of `/proc/self/status` in KiB.
pub fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn a_sparse_memory_of_64_gib_needs_little_memory() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let area = Area::new(64 << 30);
        let at = |i: usize| i * (1 << 30) + i * PAGE;
        (0..64).for_each(|i| area.write(at(i), 1));
        let before = (status("VmPTE"), status("RssAnon"));
        let snapshot = freeze(&options, &[&area]);
        (0..64).for_each(|i| area.write(at(i), 2));
        let core = write(&snapshot).unwrap();
        let after = (status("VmPTE"), status("RssAnon"));
        assert_eq!(snapshot.finish().unwrap().copied_pages, 64);
        assert!((0..64).all(|i| byte(&core, 0, at(i)) == 1));
        assert!(after.0 < before.0 + 1024 && after.1 < before.1 + 16_384, "{before:?} {after:?}");
    });
}

/// The host reads files and sockets straight into the memory of the guest.
#[test]
fn system_calls_write_to_protected_memory_if_a_thread_handles_faults() {
    let _alone = require!("userfaultfd", alone());
    let area = numbered(16);
    let snapshot = freeze(&SnapshotOptions::new(), &[&area]);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"file").unwrap();
    io::Seek::rewind(&mut file).unwrap();
    file.read_exact(area.part(0, 4)).unwrap();
    let (sender, receiver) = UnixDatagram::pair().unwrap();
    sender.send(b"datagram").unwrap();
    assert_eq!(receiver.recv(area.part(PAGE, 100)).unwrap(), 8);
    let random = area.part(2 * PAGE, 64);
    // SAFETY: the buffer has 64 bytes.
    assert_eq!(unsafe { libc::getrandom(random.as_mut_ptr().cast(), 64, 0) }, 64);
    assert_eq!(
        (area.part(0, 4), area.part(PAGE, 8)),
        (&mut b"file"[..].to_vec()[..], &mut b"datagram"[..].to_vec()[..])
    );
    assert_ne!(area.part(2 * PAGE + 1, 32), [0; 32]);
    let core = write(&snapshot).unwrap();
    assert!((0..16).all(|page| byte(&core, 0, page * PAGE) == (page + 1).to_le_bytes()[0]));
    snapshot.finish().unwrap();
}

/// The documented condition of `Faults::Signal`.
#[test]
fn system_calls_that_write_to_protected_memory_fail_if_faults_are_signals() {
    let _alone = require!("userfaultfd", alone());
    let area = numbered(16);
    let snapshot = freeze(&SnapshotOptions::new().faults(Faults::Signal), &[&area]);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"file").unwrap();
    io::Seek::rewind(&mut file).unwrap();
    let error = file.read(area.part(0, 4)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    // A write in user mode first makes the page writable.
    area.write(0, 0);
    assert_eq!(file.read(area.part(0, 4)).unwrap(), 4);
    let core = write(&snapshot).unwrap();
    assert_eq!(byte(&core, 0, 0), 1);
    snapshot.finish().unwrap();
}

/// Each signal makes a waiting thread raise its fault again.
#[test]
fn survives_a_storm_of_signals() {
    extern "C" fn ignore(_: libc::c_int) {}
    let _alone = require!("userfaultfd", alone());
    let handler: extern "C" fn(libc::c_int) = ignore;
    // SAFETY: the handler does nothing.
    unsafe { libc::signal(libc::SIGUSR2, handler as *const () as libc::sighandler_t) };
    each_kind_of_fault(|options| {
        let area = numbered(200);
        let snapshot = freeze(&options, &[&area]);
        let done = AtomicBool::new(false);
        // SAFETY: returns the handle of this thread.
        let this = unsafe { libc::pthread_self() };
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    // SAFETY: the thread exists until the scope ends.
                    unsafe { libc::pthread_kill(this, libc::SIGUSR2) };
                }
            });
            (0..200).for_each(|page| area.write(page * PAGE, 0xff));
            done.store(true, Ordering::Release);
        });
        let core = write(&snapshot).unwrap();
        assert!((0..200).all(|page| byte(&core, 0, page * PAGE) == (page + 1).to_le_bytes()[0]));
        assert_eq!(snapshot.finish().unwrap().copied_pages, 200);
    });
}

/// A child that does not call `exec` keeps a copy of the descriptor.
#[test]
fn a_forked_child_does_not_keep_the_protection() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let area = numbered(16);
        let snapshot = freeze(&options, &[&area]);
        let (mut parent_end, child_end) = io::pipe().unwrap();
        // SAFETY: the child writes to memory and makes system calls only.
        match unsafe { libc::fork() } {
            0 => {
                for page in 0..16 {
                    area.write(page * PAGE, 0xcc);
                }
                // SAFETY: waits until the parent ends the pipe or kills the child.
                unsafe {
                    libc::write(
                        std::os::fd::AsRawFd::as_raw_fd(&child_end),
                        b"x".as_ptr().cast(),
                        1,
                    );
                    libc::pause();
                    libc::_exit(0);
                }
            }
            child => {
                parent_end.read_exact(&mut [0]).unwrap();
                area.write(0, 0xaa);
                let core = write(&snapshot).unwrap();
                snapshot.finish().unwrap();
                assert!(
                    (0..16).all(|page| byte(&core, 0, page * PAGE) == (page + 1).to_le_bytes()[0])
                );
                // No page is protected any more, and another snapshot begins while the child lives.
                (0..16).for_each(|page| area.write(page * PAGE, 0xbb));
                let snapshot = freeze(&options, &[&area]);
                assert_eq!(byte(&write(&snapshot).unwrap(), 0, 0), 0xbb);
                // SAFETY: the child belongs to this test.
                unsafe {
                    libc::kill(child, libc::SIGKILL);
                    libc::waitpid(child, std::ptr::null_mut(), 0);
                }
            }
        }
    });
}

/// Against the contract, but a likely mistake.
#[test]
fn memory_that_is_removed_is_an_error() {
    let _alone = require!("userfaultfd", alone());
    for how in ["discarded", "unmapped", "moved"] {
        each_kind_of_fault(|options| {
            let mut area = numbered(64);
            let snapshot = freeze(&options, &[&area]);
            let plan = Dumper::new().plan(&snapshot.dump).unwrap();
            let part = area.at(48 * PAGE).cast();
            // SAFETY: no reference borrows this part of the area.
            unsafe {
                match how {
                    "discarded" => madvise(part, 16 * PAGE, Advice::LinuxDontNeed).unwrap(),
                    "unmapped" => munmap(part, 16 * PAGE).unwrap(),
                    _ => {
                        let moved =
                            mremap(part, 16 * PAGE, 32 * PAGE, MremapFlags::MAYMOVE).unwrap();
                        munmap(moved, 32 * PAGE).unwrap();
                    }
                }
            }
            if how != "discarded" {
                area.give_up(48 * PAGE);
            }
            // The memory is not read after it was unmapped.
            let error = snapshot.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Image);
            let expected =
                "memory of the guest was unmapped, moved or discarded during the snapshot";
            assert_eq!(error.to_string(), expected, "{how}");
            assert!(plan.to_vec().is_err());
            // The guest runs on.
            area.write(0, 9);
            drop(plan);
            assert!(snapshot.finish().is_err());
            area.write(PAGE, 9);
        });
    }
}

#[test]
fn more_copies_than_the_limit_are_an_error_and_the_guest_goes_on() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let area = numbered(64);
        let snapshot = freeze(&options.clone().copy_limit(8 * PAGE as u64), &[&area]);
        (0..64).rev().step_by(2).for_each(|page| area.write(page * PAGE, 0xff));
        let error = write(&snapshot).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Image);
        assert!(
            error.to_string().contains("more pages than the limit for copies allows"),
            "{error}"
        );
        assert!(snapshot.finish().is_err());
        let snapshot = freeze(&options, &[&area]);
        (0..64).for_each(|page| area.write(page * PAGE, 0));
        let core = write(&snapshot).unwrap();
        assert_eq!([byte(&core, 0, 62 * PAGE), byte(&core, 0, 63 * PAGE)], [63, 0xff]);
        snapshot.finish().unwrap();
    });
}

#[test]
fn a_memory_may_grow_in_place() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let mut area = Area::reserve(64 * PAGE, 8 * PAGE);
        (0..8).for_each(|page| area.write(page * PAGE, 1));
        let prepared = prepare(&options, &[&area]).unwrap();
        area.grow(16 * PAGE);
        area.write(12 * PAGE, 2);
        let snapshot = prepared.freeze(Area::dump(&[&area])).unwrap();
        area.write(12 * PAGE, 3);
        area.write(13 * PAGE, 3);
        area.grow(32 * PAGE);
        area.write(20 * PAGE, 4);
        let core = write(&snapshot).unwrap();
        snapshot.finish().unwrap();
        assert_eq!([7, 12, 13].map(|page| byte(&core, 0, page * PAGE)), [1, 2, 0]);
        assert_eq!([7, 12, 13, 20].map(|page| area.read(page * PAGE)), [1, 3, 3, 4]);
        let dump = corestream::CoreDumpFile::from_slice(&core).unwrap();
        assert_eq!(dump.memory(0.into()).unwrap().ty().byte_len(), Some(16 * PAGE as u64));
    });
}

/// The pages of such a mapping have contents before they are populated.
#[test]
fn a_memory_may_grow_by_a_private_mapping_of_a_memfd() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let mut area = Area::reserve(64 * PAGE, 8 * PAGE);
        area.write(0, 1);
        let prepared = prepare(&options, &[&area]).unwrap();
        let image = rustix::fs::memfd_create("image", MemfdFlags::CLOEXEC).unwrap();
        fs::File::from(image.try_clone().unwrap()).write_all(&[5; 16 * PAGE]).unwrap();
        area.grow(24 * PAGE);
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the range lies in the area, which no reference borrows.
        unsafe { mmap(area.at(8 * PAGE).cast(), 16 * PAGE, protection, flags, &image, 0) }.unwrap();
        let snapshot = prepared.freeze(Area::dump(&[&area])).unwrap();
        (8..24).for_each(|page| area.write(page * PAGE, 9));
        let core = write(&snapshot).unwrap();
        snapshot.finish().unwrap();
        assert!((8..24).all(|page| byte(&core, 0, page * PAGE) == 5));
    });
}

#[test]
fn a_memory_that_has_grown_has_more_room_for_copies() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let mut area = Area::reserve(64 * PAGE, 8 * PAGE);
        let prepared = prepare(&options, &[&area]).unwrap();
        area.grow(64 * PAGE);
        (0..64).for_each(|page| area.write(page * PAGE, 1));
        let snapshot = prepared.freeze(Area::dump(&[&area])).unwrap();
        (0..64).rev().for_each(|page| area.write(page * PAGE, 2));
        let core = write(&snapshot).unwrap();
        assert!((0..64).all(|page| byte(&core, 0, page * PAGE) == 1));
        assert_eq!(snapshot.finish().unwrap().copied_pages, 64);
    });
}

#[test]
fn several_memories_are_of_one_moment_and_others_are_copied() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let (one, two, unprepared) = (numbered(16), numbered(16), numbered(16));
        let prepared = prepare(&options, &[&two, &one]).unwrap();
        let snapshot = prepared.freeze(Area::dump(&[&one, &unprepared, &two])).unwrap();
        for area in [&one, &two, &unprepared] {
            (0..16).for_each(|page| area.write(page * PAGE, 0xff));
        }
        let core = write(&snapshot).unwrap();
        snapshot.finish().unwrap();
        for memory in 0..3 {
            assert!(
                (0..16).all(|page| byte(&core, memory, page * PAGE) == (page + 1).to_le_bytes()[0])
            );
        }
    });
}

#[test]
fn a_snapshot_that_is_dropped_leaves_the_memory_as_it_was() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let area = numbered(16);
        drop(prepare(&options, &[&area]).unwrap());
        drop(freeze(&options, &[&area]));
        let mut snapshot = freeze(&options, &[&area]);
        // The images outlive the snapshot.
        let dump = std::mem::take(&mut snapshot.dump);
        snapshot.finish().unwrap();
        let error = Dumper::new().plan(&dump).unwrap_err();
        assert!(error.to_string().ends_with("the snapshot has ended"), "{error}");
        (0..16).for_each(|page| area.write(page * PAGE, 3));
    });
}

#[test]
fn a_second_dump_needs_pages_that_are_not_released() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let area = numbered(64);
        let snapshot = freeze(&options, &[&area]);
        write(&snapshot).unwrap();
        let error = write(&snapshot).unwrap_err();
        assert!(error.to_string().contains("a dump has released these pages"), "{error}");
        drop(snapshot);
        let snapshot = freeze(&options.release_when_read(false), &[&area]);
        let core = write(&snapshot).unwrap();
        (0..64).for_each(|page| area.write(page * PAGE, 0xff));
        assert!(write(&snapshot).unwrap() == core);
        snapshot.finish().unwrap();
    });
}

/// A sink that takes some bytes and then fails.
struct Failing(usize);

impl Sink for Failing {
    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let taken = pieces[0].bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }
}

#[test]
fn a_failing_sink_does_not_affect_the_guest() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let area = Area::new(256 * PAGE);
        area.part(0, 256 * PAGE).fill(1);
        for taken in [0, 10_000, 600_000] {
            let snapshot = freeze(&options, &[&area]);
            let plan = Dumper::new().plan(&snapshot.dump).unwrap();
            let error = plan.write_to(&mut Failing(taken)).unwrap_err();
            assert_eq!(error.io_error().unwrap().kind(), io::ErrorKind::ConnectionReset);
            drop(plan);
            (0..256).for_each(|page| area.write(page * PAGE, 1));
            snapshot.finish().unwrap();
        }
    });
}

#[test]
fn other_dumps_still_skip_untouched_pages() {
    let _alone = require!("userfaultfd", alone());
    let (area, other) = (numbered(16), Area::new(1 << 30));
    other.write(0, 1);
    let snapshot = freeze(&SnapshotOptions::new(), &[&area]);
    let dump = Area::dump(&[&other]);
    let plan = Dumper::new().plan(&dump).unwrap();
    assert_ne!(plan.stats().extent_methods, [ExtentMethod::Whole]);
    assert!(plan.stats().extent_bytes <= 2 << 20, "{}", plan.stats().extent_bytes);
    assert_eq!(
        Dumper::new().plan(&snapshot.dump).unwrap().stats().extent_methods,
        [ExtentMethod::Snapshot]
    );
}

#[test]
fn an_image_that_borrows_nothing_stays_as_it_is() {
    let _alone = require!("userfaultfd", alone());
    let area = numbered(16);
    let file = tempfile::tempfile().unwrap();
    (&file).write_all(&[7; 65_536]).unwrap();
    let mut dump = Area::dump(&[&area]);
    let image = MemoryImage::from_file(file).unwrap();
    dump.add_memory(corestream::Memory::new(corestream::MemoryType::wasm32(1), image));
    let prepared = prepare(&SnapshotOptions::new(), &[&area]).unwrap();
    let snapshot = prepared.freeze(dump).unwrap();
    let core = write(&snapshot).unwrap();
    assert_eq!((byte(&core, 0, 0), byte(&core, 1, 100)), (1, 7));
}

/// The mapping of a guest whose pages are huge.
#[test]
fn freezes_huge_pages() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let mut map = MmapMut::map_anon(16 << 20).unwrap();
        // Ignored where the kernel has no transparent huge pages.
        let _ = map.advise(memmap2::Advice::HugePage);
        map.fill(1);
        let memory = corestream::snapshot::LiveMemory::new(map.as_ptr(), map.len());
        // SAFETY: the mapping outlives the snapshot.
        let prepared = unsafe { options.prepare(&[memory]) }.unwrap();
        map[5 << 20] = 2;
        let mut dump = CoreDump::new("guest");
        let ty = corestream::MemoryType::wasm32(256);
        dump.add_memory(corestream::Memory::new(ty, MemoryImage::from_slice(&map)));
        let snapshot = prepared.freeze(dump).unwrap();
        map.fill(3);
        let core = write(&snapshot).unwrap();
        snapshot.finish().unwrap();
        let dump = corestream::CoreDumpFile::from_slice(&core).unwrap();
        let mut bytes = vec![0; 16 << 20];
        dump.memory(0.into()).unwrap().read(0, &mut bytes).unwrap();
        assert!(bytes.iter().enumerate().all(|(i, b)| *b == if i == 5 << 20 { 2 } else { 1 }));
    });
}
