//! Runs the tool, and looks at what it printed and at the files that it left.
#![allow(dead_code, reason = "each test uses its part")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Returns the path of the tool.
pub fn tool_path() -> &'static Path {
    assert_cmd::cargo::cargo_bin!("corestream")
}

/// Returns a command that runs the tool in `directory`, with empty standard input.
pub fn corestream(directory: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(tool_path());
    command.current_dir(directory).args(args).stdin(Stdio::null());
    command
}

/// Runs the tool to its end.
pub fn run(directory: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    corestream(directory, args).output().unwrap()
}

/// Runs the tool, which must succeed.
#[track_caller]
pub fn succeed(directory: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    let mut command = corestream(directory, args);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
    output
}

/// Runs the tool, which must succeed, and returns its standard output.
#[track_caller]
pub fn ok(directory: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    String::from_utf8(succeed(directory, args).stdout).unwrap()
}

/// Runs the tool, which must succeed, and parses its standard output as JSON.
#[track_caller]
pub fn json(
    directory: &Path,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> serde_json::Value {
    serde_json::from_str(&ok(directory, args)).unwrap()
}

/// Runs a line of `sh` in which the tool is `$0` and the arguments are `$1` and so on.
pub fn shell(
    directory: &Path,
    line: &str,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Output {
    let mut command = Command::new("sh");
    command.current_dir(directory).args(["-c", line]).arg(tool_path()).args(args);
    command.stdin(Stdio::null()).output().unwrap()
}

/// No arguments for [`shell`].
pub const NO_ARGS: [&str; 0] = [];

/// Returns what was printed to standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Returns the names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Sends a signal to a process.
pub fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Returns the partial name that a finished file has kept, from the message about it.
pub fn kept_path(message: &str) -> Option<PathBuf> {
    let (_, rest) = message.split_once(", which is kept as ")?;
    Some(rest.split_once(": ")?.0.into())
}

/// Writes an image, and waits until no process has it open for writing.
///
/// A process that another test has forked meanwhile can have inherited the descriptor. Until it executes its program, the
/// image counts as changing.
#[allow(unsafe_code, reason = "leases, for which rustix has no function")]
pub fn write_image(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    fs::write(&path, bytes).unwrap();
    let file = File::open(path).unwrap();
    // SAFETY: the command takes an integer, and the descriptor is open.
    let lease =
        |kind: libc::c_int| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
    for _ in 0..1000 {
        let is_open = lease(libc::F_RDLCK) != 0
            && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock;
        if !is_open {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    lease(libc::F_UNLCK);
}

/// Removes a file from the page cache, so that the next read asks its file system.
pub fn drop_caches(path: &Path) {
    let file = File::open(path).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}
