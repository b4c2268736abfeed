//! Waits for processes.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

/// Polls `condition` until it is true, for up to 30 seconds.
#[track_caller]
pub fn wait_until(mut condition: impl FnMut() -> bool) {
    for _ in 0..30_000 {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("the condition is false after 30 seconds");
}

/// Waits until a process ends. Kills it after 30 seconds.
pub fn exit(child: &mut Child) -> ExitStatus {
    for _ in 0..30_000 {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    panic!("the process did not end within 30 seconds");
}

/// Returns whether the process has a file in the directory open, other than its inputs `guest.mem` and `guest.core`. The
/// file may have no name.
pub fn has_a_file(child: &Child, directory: &Path) -> bool {
    let fds = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
    let targets = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    targets.into_iter().any(|target| {
        target.starts_with(directory)
            && !target.ends_with("guest.mem")
            && !target.ends_with("guest.core")
    })
}

/// Returns whether the process handles a signal.
pub fn catches(child: &Child, signal: Signal) -> bool {
    is_in_mask(child.id(), "SigCgt:", signal)
}

/// Returns whether the process blocks until something happens: its main thread sleeps in the kernel.
pub fn is_asleep(child: &Child) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('S')
}

fn is_in_mask(process: u32, mask: &str, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix(mask)).unwrap();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
    mask & (1 << (signal.as_raw() - 1)) != 0
}

/// Returns the signals that stop the tool, with their names and exit codes: without SIGHUP if the tests run under `nohup`.
pub fn stop_signals() -> Vec<(Signal, &'static str, i32)> {
    let mut signals = vec![(Signal::INT, "SIGINT", 130), (Signal::TERM, "SIGTERM", 143)];
    if !is_in_mask(std::process::id(), "SigIgn:", Signal::HUP) {
        signals.push((Signal::HUP, "SIGHUP", 129));
    }
    signals
}
