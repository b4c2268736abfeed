//! The memory of another process.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

/// Runs a command to its end. Returns its output and the peak of its anonymous memory in bytes.
///
/// The kernel only keeps a peak that includes mapped page cache (`VmHWM`), so this samples `RssAnon` every millisecond.
/// The output must fit into a pipe, because this reads it after the end.
pub fn peak_anon(command: &mut Command) -> (Output, u64) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let mut peak = 0;
    // A process that has ended has no memory. Its id is not reused before `wait`.
    while let Some(now) = rss_anon(child.id()) {
        peak = peak.max(now);
        thread::sleep(Duration::from_millis(1));
    }
    (child.wait_with_output().unwrap(), peak)
}

/// Returns the anonymous memory of a process in bytes, or `None` if it has ended.
fn rss_anon(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    Some(kib * 1024)
}
