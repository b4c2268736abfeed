//! A profiler's signals interrupt system calls every 200 microseconds, without `SA_RESTART`: dumps to files, pipes and
//! sockets are complete.
#![allow(unsafe_code, reason = "sets a handler and a timer")]

use crate::{common, ends, environment, mapped};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use corestream::{
    CoreDump, CoreDumpFile, Dumper, FileOptions, FileSink, Memory, MemoryImage, MemoryIndex,
    MemoryType, PipeSink, Plan, Sink, SocketSink,
};
use ends::ends;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

const MIB: usize = 1 << 20;

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// A timer that signals the thread that created it every 200 microseconds, until it is dropped.
struct Storm(libc::timer_t);

impl Storm {
    fn new() -> Self {
        let every = libc::timespec { tv_sec: 0, tv_nsec: 200_000 };
        let times = libc::itimerspec { it_interval: every, it_value: every };
        let mut timer = std::ptr::null_mut();
        // SAFETY: zeros are valid for these C structs, and mean no flags, in particular no SA_RESTART. All pointers are
        // to variables of this function, and the handler only adds to an atomic.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = count as extern "C" fn(libc::c_int) as libc::sighandler_t;
            assert_eq!(libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()), 0);
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGALRM;
            event.sigev_notify_thread_id = libc::gettid();
            let clock = libc::CLOCK_MONOTONIC;
            assert_eq!(libc::timer_create(clock, &raw mut event, &raw mut timer), 0);
            let old = std::ptr::null_mut();
            assert_eq!(libc::timer_settime(timer, 0, &raw const times, old), 0);
        }
        Self(timer)
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        // SAFETY: `new` created the timer, and only this deletes it.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// Reads slowly, so that the writer must wait.
fn read_slowly(mut reader: File) -> Vec<u8> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 256 << 10]);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return bytes,
            Ok(n) => bytes.extend(&buffer[..n]),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Interrupted),
        }
        thread::sleep(Duration::from_micros(500));
    }
}

/// Sends a dump through a pipe or a socket. Returns what the reader gets.
fn sent(plan: &Plan<'_>, kind: &str, blocks: bool, timeout: Option<Duration>) -> Vec<u8> {
    let (reader, writer) = ends(kind);
    if !blocks {
        fcntl_setfl(&writer, fcntl_getfl(&writer).unwrap() | OFlags::NONBLOCK).unwrap();
    }
    let reading = thread::spawn(move || read_slowly(reader.into()));
    let mut sink: Box<dyn Sink> = match kind {
        "pipe" => Box::new(PipeSink::new(&writer)),
        _ => Box::new(SocketSink::new(&writer)),
    };
    plan.writer().stall_timeout(timeout).write_to(&mut *sink).unwrap();
    drop(sink);
    drop(writer);
    reading.join().unwrap()
}

/// Writes a dump to a file by name and by descriptor, and restores its memory.
fn to_files(plan: &Plan<'_>, directory: &Path, expected: &[u8], memory: &[u8]) {
    let path = directory.join("dump");
    for options in [FileOptions::new(), FileOptions::new().replace(true).sync(true)] {
        plan.write_file_with(&path, options).unwrap();
        assert!(std::fs::read(&path).unwrap() == expected);
    }
    let file = tempfile::tempfile_in(directory).unwrap();
    plan.write_to(&mut FileSink::new(&file)).unwrap();
    let mut bytes = vec![0; expected.len()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == expected);
    let dump = CoreDumpFile::open(&path).unwrap();
    let restored = dump.memory(MemoryIndex(0)).unwrap();
    restored.restore(directory.join("memory"), FileOptions::new()).unwrap();
    assert!(std::fs::read(directory.join("memory")).unwrap() == memory);
}

#[test]
fn repeats_interrupted_calls() {
    let mut random = common::Random(3);
    let bytes: Vec<u8> = (0..6 * MIB / 8).flat_map(|_| (random.next() | 1).to_le_bytes()).collect();
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().write_all_at(&bytes, 0).unwrap();
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm32(96), mapped::open(image.path())));
    dump.add_memory(Memory::new(MemoryType::wasm32(96), MemoryImage::from_slice(&bytes)));
    let image = MemoryImage::open(image.path()).unwrap();
    dump.add_memory(Memory::new(MemoryType::wasm32(96), image));
    let expected = Dumper::new().plan(&dump).unwrap().to_vec().unwrap();

    let storm = Storm::new();
    let plan = Dumper::new().plan(&dump).unwrap();
    for kind in ["pipe", "unix", "tcp"] {
        for blocks in [true, false] {
            for timeout in [None, Some(Duration::from_secs(60))] {
                assert!(sent(&plan, kind, blocks, timeout) == expected, "{kind}, {blocks}");
            }
        }
    }
    to_files(&plan, tempfile::tempdir().unwrap().path(), &expected, &bytes);
    // tmpfs starts a preallocation again after a signal.
    match tempfile::tempdir_in("/dev/shm") {
        Ok(directory) => to_files(&plan, directory.path(), &expected, &bytes),
        Err(error) => environment::report_missing("tmpfs", error),
    }
    drop(storm);
    assert!(SIGNALS.load(Ordering::Relaxed) > 100);
}
