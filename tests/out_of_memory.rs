//! Tables and buffers that can't be allocated: the dump fails with an error, and the process goes on.
//!
//! Every allocation of at least 16 KiB fails once, each in its turn. Smaller ones, and the memory of
//! wasm-encoder, which makes the small sections, end the process, as they do in any program in Rust.
#![allow(unsafe_code, reason = "a global allocator that fails")]

mod common;
#[path = "common/mapped.rs"]
mod mapped;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use corestream::read::{Verdict, Verifier};
use corestream::{
    CoreDump, Dumper, Error, ErrorKind, ExtentMethod, Memory, MemoryImage, MemoryType,
};

/// Allocations from this size on may fail.
const LARGE: usize = 16 << 10;

/// Fails the large allocation that is due.
struct Failing;

/// Large allocations that still succeed before one fails.
static LEFT: AtomicUsize = AtomicUsize::new(usize::MAX);

fn fails(size: usize) -> bool {
    if size < LARGE {
        return false;
    }
    let left = LEFT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
        // None fails, or one has.
        usize::MAX => None,
        0 => Some(usize::MAX),
        left => Some(left - 1),
    });
    left == Ok(0)
}

// SAFETY: passes on to the system's allocator, or gives null, which means that there is no memory.
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
        // To make one smaller needs no memory.
        if size > layout.size() && fails(size) {
            return ptr::null_mut();
        }
        // SAFETY: the caller's duties are the same; what failed above has left the old memory as it is.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's duties are the same.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Does `work` with every large allocation failing in its turn, until it needs no more; what it gives
/// must be right, or an error that says that memory is missing. Gives the number of errors.
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
    unreachable!("there is an end")
}

struct Shared(Vec<UnsafeCell<u8>>);

// SAFETY: nobody writes to them.
unsafe impl Sync for Shared {}

// SAFETY: they live as long as the handle, and nobody writes to them.
unsafe impl corestream::SharedBytes for Shared {
    fn bytes(&self) -> &[UnsafeCell<u8>] {
        &self.0
    }
}

/// Every kind of memory, with more gaps than the least table of them holds, and many globals.
#[test]
fn tables_that_cannot_be_allocated_are_errors() {
    let mut bytes = vec![0; 3 << 20];
    bytes.chunks_mut(100).for_each(|object| object[7..20].fill(3));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let shared = || Shared(bytes.iter().copied().map(UnsafeCell::new).collect());
    let images: [&dyn Fn() -> MemoryImage<'static>; 3] =
        [&|| mapped::open(file.path()), &|| MemoryImage::open(file.path()).unwrap(), &|| {
            MemoryImage::from_shared(shared())
        }];
    for image in images.into_iter().map(|image| image()).chain([MemoryImage::from_slice(&bytes)]) {
        let is_shared = image.is_changing();
        let mut dump = CoreDump::new("guest");
        let ty = MemoryType::wasm32(48);
        let ty = if is_shared { ty.with_maximum(48).with_shared() } else { ty };
        dump.add_memory(Memory::new(ty, image));
        for (threads, method) in [(1, None), (2, Some(ExtentMethod::Pagemap))] {
            let dumper = Dumper::new().threads(threads).extent_method(method);
            let Ok(plan) = dumper.plan(&dump) else { continue };
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
    // A reader of a stream.
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm32(48), MemoryImage::from_slice(&bytes)));
    let expected = Dumper::new().plan(&dump).unwrap().to_vec().unwrap();
    let verified = each(&true, || {
        Ok(matches!(Verifier::new().verify_stream(&expected[..])?, Verdict::Intact(_)))
    });
    assert!(verified > 0);
}
