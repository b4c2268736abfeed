//! Faults by `strace -e inject`: the k-th system call of a kind fails, or a signal comes with it.
//!
//! It sees the calls themselves, also those of rustix, which no library between program and kernel
//! sees.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::path::Path;
use std::process::Command;

/// A system call of the main thread, as strace printed it.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    /// Its position among the calls of this name, from 1 on.
    pub k: usize,
    /// Arguments and result.
    pub line: String,
}

/// Returns an error if strace cannot inject faults here.
pub fn probe() -> Result<(), &'static str> {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut command = traced(&log, "fsync", &["fsync:error=EIO:when=1".into()]);
    // Apart from `fsync`, it only opens and closes the file.
    let output = command.args(["sync", "."]).current_dir(directory.path()).output();
    let has_failed = output.is_ok_and(|output| output.status.code() == Some(1))
        && fs::read_to_string(&log).is_ok_and(|log| log.contains("(INJECTED)"));
    has_failed.then_some(()).ok_or("strace is not installed, or may not trace")
}

/// `strace`, to which a program and its arguments are still to be added, with `log` for its own output.
pub fn traced(log: &Path, calls: &str, injections: &[String]) -> Command {
    let mut command = Command::new("env");
    // What runs in the background of a shell without job control ignores this signal, and so would all below.
    command.args(["--default-signal=INT", "strace"]);
    // Without the bytes that are written.
    command.args(["--follow-forks", "-qq", "-s", "0", "-o"]).arg(log);
    command.args(["-e", "signal=SIGINT,SIGTERM", "-e", &format!("trace={calls}")]);
    // Stops at no other calls, which is faster. Signals do not come then.
    if !injections.iter().any(|injection| injection.contains(":signal=")) {
        command.arg("--seccomp-bpf");
    }
    for injection in injections {
        command.args(["-e", &format!("inject={injection}")]);
    }
    command
}

/// The calls that are in a log, of the thread that was there first.
pub fn calls(log: &Path) -> Vec<Call> {
    let text = fs::read(log).unwrap();
    let text = String::from_utf8_lossy(&text);
    let main = text.split_whitespace().next().unwrap_or_default();
    let mut calls: Vec<Call> = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix(main)) {
        // The end of a call that another thread's cut in two, or the end of the process.
        let Some((name, line)) = line.trim_start().split_once('(') else { continue };
        if name.contains(' ') {
            continue;
        }
        let k = calls.iter().filter(|call| call.name == name).count() + 1;
        calls.push(Call { name: name.into(), k, line: line.into() });
    }
    calls
}

/// How many faults there were: calls that failed because they were told to, and signals.
pub fn faults(log: &Path) -> usize {
    let text = fs::read(log).unwrap();
    let text = String::from_utf8_lossy(&text);
    let count = |what: &str| text.matches(what).count();
    count("(INJECTED)") + count("--- SIG") + usize::from(text.contains("killed by SIGKILL"))
}
