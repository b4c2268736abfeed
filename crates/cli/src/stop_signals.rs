//! The signals that stop the tool: it removes unfinished output and exits with 128 plus the signal's number.

use std::fs;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The number and the name of each signal, and the exit code of a process that it stops.
const SIGNALS: [(i32, &str, u8); 3] =
    [(SIGHUP, "SIGHUP", 129), (SIGINT, "SIGINT", 130), (SIGTERM, "SIGTERM", 143)];

/// Returns the signals to watch. Excludes SIGHUP if the process ignores it, as under `nohup`, so that the work survives
/// its terminal.
pub fn to_watch() -> impl Iterator<Item = i32> {
    let is_hangup_ignored = is_ignored(SIGHUP);
    let signals = SIGNALS.into_iter().map(|(signal, ..)| signal);
    signals.filter(move |signal| !(*signal == SIGHUP && is_hangup_ignored))
}

/// Returns the name of one of the signals.
pub fn name(signal: i32) -> &'static str {
    known(signal).map_or("a signal", |(_, name, _)| name)
}

/// Returns the exit code of a process that one of the signals stops, or 1 for any other signal.
pub fn exit_code(signal: i32) -> u8 {
    known(signal).map_or(1, |(.., code)| code)
}

fn known(signal: i32) -> Option<(i32, &'static str, u8)> {
    SIGNALS.into_iter().find(|(number, ..)| *number == signal)
}

/// Returns whether the process ignores a signal, or `false` if it cannot find out.
fn is_ignored(signal: i32) -> bool {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return false };
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let Some(mask) = mask else { return false };
    signal > 0 && mask & (1 << (signal - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_name_and_the_exit_code_of_each_signal() {
        for (signal, name, code) in [(1, "SIGHUP", 129), (2, "SIGINT", 130), (15, "SIGTERM", 143)] {
            assert_eq!((super::name(signal), exit_code(signal)), (name, code));
        }
        assert!(to_watch().any(|signal| signal == SIGTERM));
    }
}
