//! Finding LLDB, and running it on the terminal.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::report::Failure;
use crate::stop::{Ready, Stop};

/// The first version that can debug WebAssembly.
const MIN_VERSION: u32 = 22;

/// The newest version whose name is tried.
const MAX_VERSION: u32 = 60;

/// The time that LLDB has to end after a signal.
const PATIENCE: Duration = Duration::from_secs(2);

/// An LLDB that can debug WebAssembly.
pub struct Lldb {
    path: PathBuf,
}

impl Lldb {
    /// Checks the LLDB at `path`, or finds one in `PATH`: `lldb`, otherwise the newest `lldb-NN`.
    ///
    /// # Errors
    /// Returns an error if it does not exist or is too old.
    pub fn find(path: Option<&Path>) -> Result<Self, Failure> {
        let remedy = format!(
            "install LLDB {MIN_VERSION} or newer, on Debian with `apt install lldb-{MIN_VERSION}`"
        );
        if let Some(path) = path {
            let name = path.display();
            return match version(path.as_os_str()) {
                Ok(Some(found)) if found >= MIN_VERSION => Ok(Self { path: path.into() }),
                Ok(Some(found)) => Err(Failure::new(format!(
                    "{name}: is LLDB {found}, which is too old; {remedy}"
                ))),
                Ok(None) => Err(Failure::new(format!(
                    "{name}: does not tell the version of LLDB; {remedy}"
                ))),
                Err(error) => Err(Failure::new(format!("{name}: cannot run: {error}; {remedy}"))),
            };
        }
        let numbered = (MIN_VERSION..=MAX_VERSION).rev().map(|n| format!("lldb-{n}"));
        let mut found = "found no `lldb`".to_owned();
        for name in ["lldb".to_owned()].into_iter().chain(numbered) {
            match version(OsStr::new(&name)) {
                Ok(Some(version)) if version >= MIN_VERSION => {
                    return Ok(Self { path: name.into() });
                }
                Ok(Some(version)) => found = format!("`{name}` is version {version}"),
                Ok(None) => found = format!("`{name}` does not tell its version"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => found = format!("`{name}` cannot run: {error}"),
            }
        }
        Err(Failure::new(format!("debug: {found}; {remedy}, or name it with --lldb=PATH")))
    }
}

/// Returns the major version of an LLDB, or `None` if it does not tell it.
///
/// # Errors
/// Returns an error if it cannot be run.
fn version(lldb: &OsStr) -> io::Result<Option<u32>> {
    let output = Command::new(lldb).arg("--version").stdin(Stdio::null()).output()?;
    Ok(parse_version(&String::from_utf8_lossy(&output.stdout)))
}

/// Parses the output of `lldb --version`, such as `lldb version 22.1.8`. Xcode's LLDB has other versions.
fn parse_version(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("lldb version ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A running LLDB.
pub struct Debugger {
    child: Child,
}

impl Debugger {
    /// Starts LLDB on the terminal. It runs `commands` first.
    ///
    /// # Errors
    /// Returns an error if it cannot be started.
    pub fn start(lldb: &Lldb, commands: &[String], args: &[OsString]) -> Result<Self, Failure> {
        let mut command = Command::new(&lldb.path);
        for line in commands {
            command.arg("--one-line").arg(line);
        }
        command.args(args);
        let child = command.spawn().map_err(|error| {
            Failure::new(format!("{}: cannot start: {error}", lldb.path.display()))
        })?;
        Ok(Self { child })
    }

    /// Waits until LLDB has ended, and returns its exit code. `ended` closes `done` then.
    ///
    /// A signal that stops the tool ends LLDB too, except for SIGINT: the terminal sends it to LLDB as well, which
    /// stops its command.
    ///
    /// # Errors
    /// Returns an error if a signal stopped the tool.
    pub fn wait(mut self, stop: &Stop, ended: io::PipeWriter) -> Result<ExitCode, Failure> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let (sender, receiver) = mpsc::channel::<io::Result<ExitStatus>>();
        let status = thread::scope(|scope| {
            let (wake, waker) = io::pipe()?;
            let child = &mut self.child;
            scope.spawn(move || {
                let _ = sender.send(child.wait());
                drop(waker);
            });
            let unknown = || Err(io::Error::other("its state is not known"));
            if stop.wait(wake.as_fd(), None)? == Ready::Stopped
                && let Some(pid) = pid
            {
                if let Ok(status) = receiver.try_recv() {
                    return status;
                }
                // LLDB may be stopped, or ignore the signal.
                let _ = kill_process(pid, Signal::TERM);
                let _ = kill_process(pid, Signal::CONT);
                match receiver.recv_timeout(PATIENCE) {
                    Err(RecvTimeoutError::Timeout) => {
                        let _ = kill_process(pid, Signal::KILL);
                    }
                    ended => return ended.unwrap_or_else(|_| unknown()),
                }
            }
            receiver.recv().unwrap_or_else(|_| unknown())
        });
        drop(ended);
        let status = status.map_err(|error| Failure::new(format!("debug: LLDB: {error}")))?;
        match stop.failure() {
            Some(stopped) => Err(stopped),
            None => Ok(exit_code(status)),
        }
    }
}

/// Returns the exit code of a process, or 128 plus the number of the signal that ended it, as shells do.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_of_lldb() {
        assert_eq!(parse_version("lldb version 22.1.8\n"), Some(22));
        assert_eq!(parse_version("lldb version 19.1.7 (revision x)\n"), Some(19));
        assert_eq!(parse_version("lldb-1703.0.236.21\nApple Swift version 6.1\n"), None);
        assert_eq!(parse_version(""), None);
    }

    #[test]
    fn a_missing_or_old_lldb_is_named_with_the_remedy() {
        let failure = Lldb::find(Some(Path::new("/no/lldb"))).err().unwrap();
        assert!(failure.message.starts_with("/no/lldb: cannot run: "), "{}", failure.message);
        assert!(failure.message.ends_with("`apt install lldb-22`"), "{}", failure.message);
        let failure = Lldb::find(Some(Path::new("true"))).err().unwrap();
        assert!(failure.message.contains("does not tell the version"), "{}", failure.message);
    }
}
