//! Faults in system calls, injected by `strace -e inject`: the k-th call of a kind fails, or a signal comes with it.
//!
//! rustix makes system calls without libc, so a library that replaces functions of libc would not see them.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// A system call of the main thread, as strace printed it.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    /// The number of the call among those of this name, from 1.
    pub k: usize,
    /// The arguments and the result.
    pub line: String,
}

/// Returns an error if strace cannot inject faults here.
pub fn probe() -> Result<(), &'static str> {
    static PROBED: OnceLock<Result<(), &'static str>> = OnceLock::new();
    *PROBED.get_or_init(inject_a_fault)
}

fn inject_a_fault() -> Result<(), &'static str> {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut command = traced(&log, "fsync", &["fsync:error=EIO:when=1".into()]);
    // Apart from `fsync`, it only opens and closes the file.
    let output = command.args(["sync", "."]).current_dir(directory.path()).output();
    let has_failed = output.is_ok_and(|output| output.status.code() == Some(1))
        && fs::read_to_string(&log).is_ok_and(|log| log.contains("(INJECTED)"));
    has_failed.then_some(()).ok_or("strace is not installed, or may not trace")
}

/// Returns an `strace` command with its output in `log`. The caller adds the program and its arguments.
pub fn traced(log: &Path, calls: &str, injections: &[String]) -> Command {
    let mut command = Command::new("env");
    // A shell without job control makes its background processes ignore SIGINT, and their children inherit that.
    command.args(["--default-signal=INT", "strace"]);
    // The log does not have the bytes that are written.
    command.args(["--follow-forks", "-qq", "-s", "0", "-o"]).arg(log);
    command.args(["-e", "signal=SIGINT,SIGTERM", "-e", &format!("trace={calls}")]);
    // The tracee stops only at these calls, which is faster. Signals are not injected then.
    if !injections.iter().any(|injection| injection.contains(":signal=")) {
        command.arg("--seccomp-bpf");
    }
    for injection in injections {
        command.args(["-e", &format!("inject={injection}")]);
    }
    command
}

/// Returns the calls of the main thread in a log.
pub fn calls(log: &Path) -> Vec<Call> {
    let text = fs::read(log).unwrap();
    let text = String::from_utf8_lossy(&text);
    let main = text.split_whitespace().next().unwrap_or_default();
    let mut calls: Vec<Call> = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix(main)) {
        // The second line of a call that another thread interrupted, or the end of the process.
        let Some((name, line)) = line.trim_start().split_once('(') else { continue };
        if name.contains(' ') {
            continue;
        }
        let k = calls.iter().filter(|call| call.name == name).count() + 1;
        calls.push(Call { name: name.into(), k, line: line.into() });
    }
    calls
}

/// Counts the injected errors and the signals in a log.
pub fn faults(log: &Path) -> usize {
    let text = fs::read(log).unwrap();
    let text = String::from_utf8_lossy(&text);
    let count = |what: &str| text.matches(what).count();
    count("(INJECTED)") + count("--- SIG") + usize::from(text.contains("killed by SIGKILL"))
}
