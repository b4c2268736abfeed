//! Progress and cancelling of planning and writing, for every kind of image and any number of threads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use corestream::{
    CoreDump, Dumper, ErrorKind, FileOptions, Memory, MemoryImage, MemoryType, Progress, Stage,
};

use crate::still;

const MIB: usize = 1 << 20;

/// Records the progress.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Progress>>>);

impl Log {
    fn watch(&self, dumper: Dumper) -> Dumper {
        let log = self.0.clone();
        dumper.progress(move |progress| log.lock().unwrap().push(progress))
    }

    /// Takes the record: each stage with its number of reports and its bytes. Checks that each stage starts at 0, never
    /// goes back, and reaches its total. The last one only reaches it if `ended` is true.
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

/// Returns zeros with a byte of data at both ends and in the middle.
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
fn reports_each_stage_from_start_to_end() {
    let (dense, sparse) = (vec![7; 9 * MIB], bytes(5 * MIB));
    // One file has holes at both ends, and the other one is a single hole.
    let holes = file(64 << 20, &[10 << 20, 40 << 20]);
    let hole = file(8 << 20, &[]);
    let mut dump = CoreDump::new("guest.wasm");
    dump.add_memory(memory(144, MemoryImage::from_slice(&dense)));
    dump.add_memory(memory(128, MemoryImage::from_file(hole).unwrap()));
    dump.add_memory(memory(1024, MemoryImage::from_file(holes).unwrap()));
    dump.add_memory(memory(80, MemoryImage::from_slice(&sparse)));
    dump.add_memory(memory(16, still::image(&bytes(MIB))));
    let images = ((9 + 8 + 64 + 5 + 1) * MIB) as u64;
    let log = Log::default();
    for threads in [1, 2, 5] {
        for (trust, checksums) in [(true, true), (false, false)] {
            let dumper = Dumper::new().threads(threads).trust_holes(trust).checksums(checksums);
            let plan = log.watch(dumper).plan(&dump).unwrap();
            let told = log.take(true);
            assert_eq!(told.len(), 1);
            assert_eq!((told[0].0, told[0].2), (Stage::Scan, images));
            // The dense image has five batches of 2 MiB, and there are reports at the start and the end. If several
            // threads finish at once, only one reports.
            assert!(told[0].1 >= if threads == 1 { 7 } else { 2 }, "{told:?}");
            let written = plan.to_vec().unwrap();
            let told = log.take(true);
            assert_eq!(told.len(), 1);
            assert_eq!((told[0].0, told[0].2), (Stage::Write, written.len() as u64));
            assert!(told[0].1 >= 4, "{told:?}");
            // Writing the same plan again starts at 0.
            plan.write_to(&mut io::sink()).unwrap();
            assert_eq!(log.take(true).len(), 1);
        }
    }
}

#[test]
fn reports_the_stages_of_a_guest_without_memory() {
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
fn reports_what_the_sink_has_taken() {
    let dense = vec![7; 40 * MIB];
    let mut dump = CoreDump::new("guest.wasm");
    dump.add_memory(memory(640, MemoryImage::from_slice(&dense)));
    let log = Log::default();
    let plan = log.watch(Dumper::new()).plan(&dump).unwrap();
    log.take(true);
    // The output is too small.
    let mut room = vec![0; 30 * MIB];
    assert_eq!(plan.write_to(&mut &mut room[..]).unwrap_err().kind(), ErrorKind::Output);
    let taken = log.0.lock().unwrap().last().unwrap().done;
    // The batch that fails has at most 8 MiB.
    assert!((22 * MIB..=30 * MIB).contains(&usize::try_from(taken).unwrap()), "{taken}");
    assert_eq!(log.take(false).len(), 1);
}

/// A returned plan covers all data, even if the flag was true for a moment.
#[test]
fn returns_no_partial_plan() {
    let dense = vec![7; 32 * MIB];
    let mut dump = CoreDump::new("guest.wasm");
    dump.add_memory(memory(512, MemoryImage::from_slice(&dense)));
    let whole = Dumper::new().plan(&dump).unwrap().len();
    let mut cancelled = 0;
    for round in 0..150 {
        let cancel = Arc::new(AtomicBool::new(false));
        let flag = cancel.clone();
        // The first batch sets the flag, and another thread resets it at some time after that.
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
fn is_cancelled_by_its_progress_callback() {
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
        // Each thread may still finish its batch, or the writer one of 8 MiB.
        assert!(last.done >= at && last.done < last.total, "{last:?}");
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
        log.take(false);
    }
}
