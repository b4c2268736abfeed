//! `corestream debug`: sessions of LLDB and of `lldb-dap`, and clients that are not LLDB. Tests that need LLDB 22 or
//! newer report that they are skipped without it.

mod clients;
mod dap;
mod expected;
pub mod sessions;
mod values;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::environment::report_missing;
use crate::tool::{corestream, signal, stderr};

/// The guests that print the values of their variables.
const GUESTS: &str = "tests/guests/values";

/// A running `corestream debug`.
struct Server {
    process: Child,
    /// The path of the socket.
    socket: PathBuf,
}

impl Server {
    /// Starts a server in a directory.
    fn start(directory: impl AsRef<Path>, args: &[&str]) -> Self {
        let mut process = corestream(directory.as_ref(), ["debug"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let socket = line.trim_end().strip_prefix("listening on unix:").unwrap_or_else(|| {
            let mut message = String::new();
            process.stderr.take().unwrap().read_to_string(&mut message).unwrap();
            panic!("{line}{message}")
        });
        Self { process, socket: socket.into() }
    }

    /// Starts a server for one of the guests.
    fn of_guest(guest: &str, files: &[&str]) -> Self {
        let dump = format!("{guest}.core");
        let mut args = vec![dump.as_str()];
        args.extend(files.iter().flat_map(|file| ["--symbols", file]));
        Self::start(GUESTS, &args)
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).unwrap()
    }

    /// The LLDB command that connects to it.
    fn command(&self) -> String {
        format!("process connect --plugin wasm unix-connect://{}", self.socket.display())
    }

    /// Stops the server. Returns its exit code and standard error.
    fn stop(mut self) -> (Option<i32>, String) {
        signal(&self.process, Signal::TERM);
        let mut message = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut message).unwrap();
        (self.process.wait().unwrap().code(), message)
    }
}

impl Drop for Server {
    /// Ends the server of a test that failed.
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            signal(&self.process, Signal::TERM);
            let _ = self.process.wait();
        }
    }
}

/// Returns the name of a program of LLDB 22 or newer, or reports that the test is skipped.
pub fn program(name: &str) -> Option<String> {
    let numbered = (22..40).rev().map(|version| format!("{name}-{version}"));
    let found = numbered.into_iter().find(|name| {
        let output = Command::new(name).arg("--version").stdin(Stdio::null()).output();
        output.is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        report_missing("lldb", "LLDB 22 or newer is not installed");
    }
    found
}

/// Runs a batch session of LLDB on a dump. Returns its output, with that of commands that fail at the end. A failed command
/// also ends the session.
pub fn session(
    directory: impl AsRef<Path>,
    lldb: &str,
    args: &[&str],
    commands: &[&str],
) -> String {
    let mut command = corestream(directory.as_ref(), ["debug"]);
    command.args(args).arg(format!("--lldb={lldb}")).args(["--", "--no-lldbinit", "-b"]);
    for line in commands {
        command.args(["-o", line]);
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let message = stderr(&output);
    let is_failed = message.lines().any(|line| line.starts_with("error: "));
    assert_eq!(output.status.code(), Some(i32::from(is_failed)), "{args:?}: {message}");
    String::from_utf8(output.stdout).unwrap() + &message
}
