//! Progress in the library: each stage from none to all of its bytes, in order, for every kind of image
//! and any number of threads; and a stage that is stopped just ends.

#![allow(unsafe_code, reason = "a handle of shared memory")]

use std::cell::UnsafeCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use corestream::{
    CoreDump, Dumper, ErrorKind, FileOptions, Memory, MemoryImage, MemoryType, Progress,
    SharedBytes, Stage,
};

const MIB: usize = 1 << 20;

/// Writes down what is told.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Progress>>>);

impl Log {
    fn watch(&self, dumper: Dumper) -> Dumper {
        let log = self.0.clone();
        dumper.progress(move |progress| log.lock().unwrap().push(progress))
    }

    /// Takes what was told: each stage, how often something was told of it, and its bytes; of each it
    /// began with none and never went back, and `ended` is whether the last one ended with all.
    fn take(&self, ended: bool) -> Vec<(Stage, usize, u64)> {
        let told = std::mem::take(&mut *self.0.lock().unwrap());
        let stages: Vec<_> = told.chunk_by(|a, b| a.stage == b.stage).collect();
        for (i, stage) in stages.iter().enumerate() {
            assert!(stage.iter().all(|p| p.total == stage[0].total), "{stage:?}");
            assert_eq!(stage[0].done, 0);
            assert!(stage.is_sorted_by_key(|p| p.done), "{stage:?}");
            let last = stage[stage.len() - 1];
            assert!(last.done <= last.total);
            if ended || i + 1 < stages.len() {
                assert_eq!(last.done, last.total);
            }
        }
        stages.iter().map(|stage| (stage[0].stage, stage.len(), stage[0].total)).collect()
    }
}

/// Data at both ends and in the middle of what is mostly zero.
fn bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for at in [0, len / 2, len - 1] {
        bytes[at] = 1;
    }
    bytes
}

fn file(len: u64, data: &[u64]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    for at in data {
        file.write_all_at(&[1; 5000], *at).unwrap();
    }
    file
}

fn memory(pages: usize, image: MemoryImage<'_>) -> Memory<'_> {
    Memory::new(MemoryType::wasm64(pages as u64), image)
}

#[test]
fn every_stage_from_none_to_all() {
    let (dense, sparse) = (vec![7; 9 * MIB], bytes(5 * MIB));
    // Holes at both ends, and an image that is nothing but one.
    let holes = file(64 << 20, &[10 << 20, 40 << 20]);
    let hole = file(8 << 20, &[]);
    let mut dump = CoreDump::new("guest.wasm");
    dump.add_memory(memory(144, MemoryImage::from_slice(&dense)));
    dump.add_memory(memory(128, MemoryImage::from_file(hole).unwrap()));
    dump.add_memory(memory(1024, MemoryImage::from_file(holes).unwrap()));
    dump.add_memory(memory(80, MemoryImage::from_slice(&sparse)));
    let shared = Still(bytes(MIB).into_iter().map(UnsafeCell::new).collect());
    dump.add_memory(memory(16, MemoryImage::from_shared(shared)));
    let images = ((9 + 8 + 64 + 5 + 1) * MIB) as u64;
    let log = Log::default();
    for threads in [1, 2, 5] {
        for (trust, checksums) in [(true, true), (false, false)] {
            let dumper = Dumper::new().threads(threads).trust_holes(trust).checksums(checksums);
            let plan = log.watch(dumper).plan(&dump).unwrap();
            let told = log.take(true);
            assert_eq!(told.len(), 1);
            assert_eq!((told[0].0, told[0].2), (Stage::Scan, images));
            // The dense image alone has five batches of 2 MiB, and beginning and end are told; of several
            // threads that are done at once only one tells.
            assert!(told[0].1 >= if threads == 1 { 7 } else { 2 }, "{told:?}");
            let written = plan.to_vec().unwrap();
            let told = log.take(true);
            assert_eq!(told.len(), 1);
            assert_eq!((told[0].0, told[0].2), (Stage::Write, written.len() as u64));
            assert!(told[0].1 >= 4, "{told:?}");
            // The same plan again, which begins anew.
            plan.write_to(&mut io::sink()).unwrap();
            assert_eq!(log.take(true).len(), 1);
        }
    }
}

/// A shared memory that nobody writes.
struct Still(Vec<UnsafeCell<u8>>);

// SAFETY: nobody writes it.
unsafe impl Sync for Still {}

// SAFETY: the same bytes for as long as it lives, and nobody writes them.
unsafe impl SharedBytes for Still {
    fn bytes(&self) -> &[UnsafeCell<u8>] {
        &self.0
    }
}

#[test]
fn a_guest_without_memory_has_stages_too() {
    let log = Log::default();
    let directory = tempfile::tempdir().unwrap();
    let dump = CoreDump::new("guest.wasm");
    let plan = log.watch(Dumper::new()).plan(&dump).unwrap();
    let options = FileOptions::new().sync(true);
    plan.write_file_with(directory.path().join("guest.core"), options).unwrap();
    let len = plan.len();
    let stages = [(Stage::Scan, 2, 0), (Stage::Write, 3, len), (Stage::Sync, 2, len)];
    assert_eq!(log.take(true), stages);
    plan.write_file(directory.path().join("other.core")).unwrap();
    assert_eq!(log.take(true), stages[1..2]);
}

#[test]
fn what_is_told_is_what_the_sink_has_taken() {
    let dense = vec![7; 40 * MIB];
    let mut dump = CoreDump::new("guest.wasm");
    dump.add_memory(memory(640, MemoryImage::from_slice(&dense)));
    let log = Log::default();
    let plan = log.watch(Dumper::new()).plan(&dump).unwrap();
    log.take(true);
    // A full disk after so many bytes.
    let mut room = vec![0; 30 * MIB];
    assert_eq!(plan.write_to(&mut &mut room[..]).unwrap_err().kind(), ErrorKind::Output);
    let taken = log.0.lock().unwrap().last().unwrap().done;
    // The batch that fails has 8 MiB at most.
    assert!((22 * MIB..=30 * MIB).contains(&usize::try_from(taken).unwrap()), "{taken}");
    assert_eq!(log.take(false).len(), 1);
}

/// A flag that is false again by the time that planning ends: a plan that is returned is of all data.
#[test]
fn a_flag_that_is_true_for_a_moment_gives_no_half_plan() {
    let dense = vec![7; 32 * MIB];
    let mut dump = CoreDump::new("guest.wasm");
    dump.add_memory(memory(512, MemoryImage::from_slice(&dense)));
    let whole = Dumper::new().plan(&dump).unwrap().len();
    let mut cancelled = 0;
    for round in 0..400 {
        let cancel = Arc::new(AtomicBool::new(false));
        let flag = cancel.clone();
        // The first batch sets it, and another thread takes it back at any moment after that.
        let (begun, is_begun) = std::sync::mpsc::channel();
        let dumper = Dumper::new().threads(1 + round % 2).cancel(cancel.clone());
        let dumper = dumper.progress(move |progress| {
            if progress.stage == Stage::Scan && progress.done > 0 && progress.done < 8 * MIB as u64
            {
                flag.store(true, Ordering::Relaxed);
                let _ = begun.send(());
            }
        });
        let plan = std::thread::scope(|scope| {
            let cancel = cancel.clone();
            scope.spawn(move || {
                let _ = is_begun.recv_timeout(std::time::Duration::from_secs(1));
                for _ in 0..round * 10 {
                    std::hint::spin_loop();
                }
                cancel.store(false, Ordering::Relaxed);
            });
            dumper.plan(&dump)
        });
        match plan {
            Ok(plan) => assert_eq!(plan.len(), whole),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Cancelled);
                cancelled += 1;
            }
        }
    }
    assert!(cancelled > 0);
}

#[test]
fn cancelled_by_who_watches() {
    let dense = vec![7; 64 * MIB];
    let mut dump = CoreDump::new("guest.wasm");
    dump.add_memory(memory(1024, MemoryImage::from_slice(&dense)));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guest.core");
    for (stage, at) in [(Stage::Scan, 10 * MIB as u64), (Stage::Write, 20 * MIB as u64)] {
        let (log, cancel) = (Log::default(), Arc::new(AtomicBool::new(false)));
        let (told, flag) = (log.0.clone(), cancel.clone());
        let dumper = Dumper::new().cancel(cancel).progress(move |progress| {
            told.lock().unwrap().push(progress);
            if progress.stage == stage && progress.done >= at {
                flag.store(true, Ordering::Relaxed);
            }
        });
        let result = dumper.plan(&dump).and_then(|plan| plan.write_file(&path));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
        let last = *log.0.lock().unwrap().last().unwrap();
        assert_eq!(last.stage, stage);
        // A batch of each thread, or one of 8 MiB, may have been under way.
        assert!(last.done >= at && last.done < last.total, "{last:?}");
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
        log.take(false);
    }
}
