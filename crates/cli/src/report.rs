//! Messages for the user: lines on standard error, results on standard output, and failures with their exit codes.

use std::fmt::Display;
use std::io::{self, Write};

use corestream::{MemoryIndex, Visible};

use crate::blocking_stream::BlockingStream;
use crate::log;

/// The exit code for a failure.
const FAILED: u8 = 1;
/// The exit code for a usage error, the same as clap's.
pub const USAGE: u8 = 2;
/// The exit code for a damaged or truncated dump.
const DAMAGED: u8 = 3;

/// The reason why the tool stops, in one line, and the exit code.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub code: u8,
    /// Whether the library only reports that it was cancelled. The root cause is then elsewhere.
    cancelled: bool,
}

impl Failure {
    /// Creates a failure with exit code 1.
    pub fn new(message: impl Display) -> Self {
        Self::with_code(message, FAILED)
    }

    /// Creates the failure for a damaged or truncated dump.
    pub fn damaged(message: impl Display) -> Self {
        Self::with_code(message, DAMAGED)
    }

    /// Creates the failure for a usage error.
    pub fn usage(message: impl Display) -> Self {
        Self::with_code(message, USAGE)
    }

    /// Creates a failure with any exit code.
    pub fn with_code(message: impl Display, code: u8) -> Self {
        Self { message: message.to_string(), code, cancelled: false }
    }

    /// Puts the subject of the failure, such as a path, before the message.
    pub fn at(self, subject: impl Display) -> Self {
        Self { message: format!("{subject}: {}", self.message), ..self }
    }

    /// Appends a hint to the message.
    pub fn with_hint(self, hint: &str) -> Self {
        Self { message: format!("{}; {hint}", self.message), ..self }
    }

    /// Returns whether the library only reports that it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled
    }
}

impl From<corestream::Error> for Failure {
    fn from(error: corestream::Error) -> Self {
        match error.kind() {
            corestream::ErrorKind::Option => Self::usage(error),
            kind => {
                let cancelled = kind == corestream::ErrorKind::Cancelled;
                Self { cancelled, ..Self::new(error) }
            }
        }
    }
}

/// Formats a number of bytes in a number of ranges.
pub fn bytes_in_ranges(bytes: impl Into<u128>, ranges: u64) -> String {
    format!("{} in {}", self::bytes(bytes), count(ranges, "range"))
}

/// Formats a number of bytes.
pub fn bytes(n: impl Into<u128>) -> String {
    count(n, "byte")
}

/// Formats a number of things. `singular` gets an "s" unless the number is 1.
pub fn count(n: impl Into<u128>, singular: &str) -> String {
    let n: u128 = n.into();
    format!("{n} {singular}{}", if n == 1 { "" } else { "s" })
}

/// Lists the memory that was excluded from a dump, or returns `None` if there is none. `excluded` yields the index of a
/// memory, and the number of excluded bytes and ranges of this memory.
pub fn excluded(
    mut excluded: impl Iterator<Item = (MemoryIndex, impl Into<u128>, u64)>,
) -> Option<String> {
    let of =
        |(memory, bytes, ranges)| format!("{} of memory {memory}", bytes_in_ranges(bytes, ranges));
    let first = of(excluded.next()?);
    let line = format!("excluded on request: {first}");
    Some(excluded.map(of).fold(line, |line, next| line + ", " + &next))
}

/// Writes one line to standard error, with control characters escaped.
pub fn line(message: &str) {
    raw(&format!("corestream: {}\n", Visible(message)));
}

/// Writes raw text to standard error, above the progress bar if one is shown. Ignores write errors.
pub fn raw(text: &str) {
    log::write(text);
}

/// Writes text to standard output.
///
/// # Errors
/// Returns an error if the write fails, except for a broken pipe.
pub fn result(text: &str) -> Result<(), Failure> {
    let mut stdout = BlockingStream(std::io::stdout());
    ignore_broken_pipe(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Converts the result of a write to standard output. A broken pipe is a success: a reader such as `head` closes the
/// pipe once it has read enough.
///
/// # Errors
/// Returns any other error of the write.
pub fn ignore_broken_pipe(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Returns whether the terminal can only print lines, according to `TERM`.
pub fn is_dumb_terminal() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term == "dumb")
}
