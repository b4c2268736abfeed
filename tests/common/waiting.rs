//! To wait for a process until it is somewhere.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

/// Waits until `is_so`.
pub fn wait_until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..30_000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("it did not come to that in 30 seconds");
}

/// Waits until a process ends; one that does not is killed.
pub fn exit(child: &mut Child) -> ExitStatus {
    for _ in 0..30_000 {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    panic!("it did not end in 30 seconds");
}

/// Whether the process has a file open in the directory, named or not, that is not its `guest.mem`.
pub fn has_a_file(child: &Child, directory: &Path) -> bool {
    let fds = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
    let targets = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    targets
        .into_iter()
        .any(|target| target.starts_with(directory) && !target.ends_with("guest.mem"))
}

/// Whether the process handles a signal.
pub fn catches(child: &Child, signal: Signal) -> bool {
    is_in_mask(child.id(), "SigCgt:", signal)
}

fn is_in_mask(process: u32, mask: &str, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix(mask)).unwrap();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
    mask & (1 << (signal.as_raw() - 1)) != 0
}

/// The signals that end the work, their names and the exit codes. Not SIGHUP if these tests run under `nohup`.
pub fn stop_signals() -> Vec<(Signal, &'static str, i32)> {
    let mut signals = vec![(Signal::INT, "SIGINT", 130), (Signal::TERM, "SIGTERM", 143)];
    if !is_in_mask(std::process::id(), "SigIgn:", Signal::HUP) {
        signals.push((Signal::HUP, "SIGHUP", 129));
    }
    signals
}
