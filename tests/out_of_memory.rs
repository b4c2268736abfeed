//! Failed allocations of tables and buffers: the dump fails with an error, and the process continues.
//!
//! Every allocation of at least 16 KiB fails once, one after the other. A smaller allocation, or one by wasm-encoder,
//! which makes the small sections, ends the process if it fails, as in any Rust program. This test is a crate of its
//! own because it replaces the allocator.
#![allow(unsafe_code, reason = "implements a global allocator that fails")]

mod common;
#[path = "common/mapped.rs"]
mod mapped;
#[path = "common/still.rs"]
mod still;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use corestream::read::{Verdict, Verifier};
use corestream::{
    CoreDump, Dumper, Error, ErrorKind, ExtentMethod, Memory, MemoryImage, MemoryType,
};

/// The size from which allocations fail.
const LARGE: usize = 16 << 10;

/// An allocator that fails the large allocation that [`LEFT`] counts down to.
struct Failing;

/// The number of large allocations before the one that fails.
static LEFT: AtomicUsize = AtomicUsize::new(usize::MAX);

fn fails(size: usize) -> bool {
    if size < LARGE {
        return false;
    }
    let left = LEFT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
        // No allocation is to fail, or one has failed.
        usize::MAX => None,
        0 => Some(usize::MAX),
        left => Some(left - 1),
    });
    left == Ok(0)
}

// SAFETY: passes calls on to the system allocator, or returns null, which reports a failed allocation.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duties are the same.
        if fails(layout.size()) { ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duties are the same.
        if fails(layout.size()) { ptr::null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Shrinking needs no memory.
        if size > layout.size() && fails(size) {
            return ptr::null_mut();
        }
        // SAFETY: the caller's duties are the same. A failure above leaves the old memory unchanged.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's duties are the same.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Repeats `work` with a different large allocation failing each time, until none fails. The result must be `expected`
/// or an out-of-memory error. Returns the number of errors.
fn each<T: PartialEq>(expected: &T, work: impl Fn() -> Result<T, Error>) -> usize {
    let mut errors = 0;
    for k in 0.. {
        LEFT.store(k, Ordering::Relaxed);
        let result = work();
        let failed = LEFT.swap(usize::MAX, Ordering::Relaxed) == usize::MAX;
        match result {
            Ok(done) => assert!(done == *expected, "allocation {k}"),
            Err(error) => {
                assert!(failed, "{error}");
                assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
                assert!(error.to_string().contains("cannot allocate "), "{error}");
                errors += 1;
            }
        }
        if !failed {
            return errors;
        }
    }
    unreachable!("the loop returns")
}

/// Dumps every kind of memory, with more gaps than the smallest table of gaps holds.
#[test]
fn reports_every_failed_allocation() {
    let mut bytes = vec![0; 3 << 20];
    bytes.chunks_mut(100).for_each(|object| object[7..20].fill(3));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let images: [&dyn Fn() -> MemoryImage<'static>; 3] =
        [&|| mapped::open(file.path()), &|| MemoryImage::open(file.path()).unwrap(), &|| {
            still::image(&bytes)
        }];
    for image in images.into_iter().map(|image| image()).chain([MemoryImage::from_slice(&bytes)]) {
        let is_shared = image.is_changing();
        let mut dump = CoreDump::new("guest");
        let ty = MemoryType::wasm32(48);
        let ty = if is_shared { ty.with_maximum(48).with_shared() } else { ty };
        dump.add_memory(Memory::new(ty, image));
        for (threads, method) in [(1, None), (2, Some(ExtentMethod::Pagemap))] {
            let dumper = Dumper::new().threads(threads).extent_method(method);
            let plan = match dumper.plan(&dump) {
                Ok(plan) => plan,
                // Files have no pagemap.
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Option, "{error}");
                    continue;
                }
            };
            let expected = plan.to_vec().unwrap();
            assert!(common::decode(&expected).contents(0, bytes.len()) == bytes);
            let planned = each(&expected.len(), || Ok(dumper.plan(&dump)?.to_vec()?.len()));
            assert!(planned > 3, "{planned} errors");
            assert!(each(&expected, || plan.to_vec()) > 0);
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("dump");
            let written = each(&(), || {
                let written = plan.write_file(&path);
                assert_eq!(path.exists(), written.is_ok());
                written.map(|()| std::fs::remove_file(&path).unwrap())
            });
            assert!(written > 0);
            assert_eq!(directory.path().read_dir().unwrap().count(), 0);
        }
    }
    // Verifying a stream.
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm32(48), MemoryImage::from_slice(&bytes)));
    let expected = Dumper::new().plan(&dump).unwrap().to_vec().unwrap();
    let verified = each(&true, || {
        Ok(matches!(Verifier::new().verify_stream(&expected[..])?, Verdict::Intact(_)))
    });
    assert!(verified > 0);
}
