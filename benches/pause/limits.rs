//! Other ways to get a consistent dump, and the system calls alone.
#![allow(unsafe_code, reason = "calls `fork` and `ioctl`")]

use std::io;
use std::time::{Duration, Instant};

use corestream::{Dumper, FileSink, snapshot};

use crate::guest::Touched;

/// The largest memory in bytes that is copied or written to a file.
const MAX_COPIED: usize = 4 << 30;

/// Returns the names and the median times of all of them. A few are skipped for a large memory.
pub fn medians(guest: &Touched, rounds: usize) -> Vec<(&'static str, Duration)> {
    let mut medians = Vec::new();
    let mut add = |name, mut times: Vec<Duration>| {
        times.sort();
        medians.extend(times.get(times.len() / 2).map(|median| (name, *median)));
    };
    let few = rounds.min(5);
    if guest.bytes().len() <= MAX_COPIED {
        let (nothing, file) = (0..few).map(|_| stop_and_dump(guest)).unzip();
        add(STOP_NULL, nothing);
        add(STOP_FILE, file);
        add(COPY, (0..few).map(|_| copy(guest)).collect());
    }
    add(FORK, (0..rounds).map(|_| fork()).collect());
    add(PROTECT, (0..rounds).filter_map(|_| protect(guest)).collect());
    medians
}

pub const STOP_NULL: &str = "stop and dump, null";
pub const STOP_FILE: &str = "stop and dump, file";
pub const COPY: &str = "snapshot::copy";
pub const FORK: &str = "fork";
pub const PROTECT: &str = "UFFDIO_WRITEPROTECT";

/// Returns how long a guest stands still while its dump is written to nothing and to a file.
fn stop_and_dump(guest: &Touched) -> (Duration, Duration) {
    let time = |file: Option<std::fs::File>| {
        let start = Instant::now();
        let dump = guest.describe();
        let plan = Dumper::new().plan(&dump).unwrap();
        match file {
            Some(file) => plan.write_to(&mut FileSink::new(&file)).unwrap(),
            None => plan.write_to(&mut io::sink()).unwrap(),
        }
        start.elapsed()
    };
    (time(None), time(Some(tempfile::tempfile_in(".").unwrap())))
}

/// Returns how long a guest stands still while its memory is copied.
fn copy(guest: &Touched) -> Duration {
    let start = Instant::now();
    let copy = snapshot::copy(guest.describe(), u64::MAX).unwrap();
    let time = start.elapsed();
    drop(copy);
    time
}

/// Returns how long `fork` takes in the parent.
fn fork() -> Duration {
    let start = Instant::now();
    // SAFETY: the child only exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: this ends the child at once.
        unsafe { libc::_exit(0) };
    }
    let time = start.elapsed();
    assert!(child > 0);
    // SAFETY: waits for the child, and ignores its status.
    assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
    time
}

/// Returns how long one call takes that protects all pages, or `None` without userfaultfd.
fn protect(guest: &Touched) -> Option<Duration> {
    const API: u64 = 0xc018_aa3f;
    const REGISTER: u64 = 0xc020_aa00;
    const WRITEPROTECT: u64 = 0xc018_aa06;

    let (start, len) = (guest.bytes().as_ptr() as u64, guest.bytes().len() as u64);
    // SAFETY: the call only opens a descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    if fd < 0 {
        return None;
    }
    // SAFETY: `arg` has the layout that each code requires. The pages are registered for write protection only, and no
    // thread writes to them until the descriptor is closed, which ends the protection.
    let call = |code: u64, arg: &mut [u64; 4]| unsafe {
        libc::syscall(libc::SYS_ioctl, fd, code, arg.as_mut_ptr()) == 0
    };
    // The API with `UFFD_FEATURE_PAGEFAULT_FLAG_WP`, and the modes for write protection.
    let registered =
        call(API, &mut [0xaa, 1, 0, 0]) && call(REGISTER, &mut [start, len, 1 << 1, 0]);
    let begin = Instant::now();
    let protected = registered && call(WRITEPROTECT, &mut [start, len, 1, 0]);
    let time = begin.elapsed();
    // SAFETY: the descriptor is open, and is not used any more.
    unsafe { libc::syscall(libc::SYS_close, fd) };
    protected.then_some(time)
}
