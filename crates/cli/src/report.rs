//! What the tool tells people: lines on standard error, and failures with their exit code.

use std::fmt::Display;
use std::io::{self, Write};

use corestream::{MemoryIndex, Visible};

use crate::log;
use crate::patient::Patient;

/// Exit code of a command that failed.
const FAILED: u8 = 1;
/// Exit code of a command that was called wrongly, as clap's.
pub const USAGE: u8 = 2;
/// Exit code for a dump that is damaged or cut off.
const DAMAGED: u8 = 3;

/// Why the tool stops, in one line, and its exit code.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub code: u8,
    /// Whether it is only that something told the library to stop.
    cancelled: bool,
}

impl Failure {
    /// Something that failed.
    pub fn new(message: impl Display) -> Self {
        Self::with_code(message, FAILED)
    }

    /// A dump that is damaged or cut off.
    pub fn damaged(message: impl Display) -> Self {
        Self::with_code(message, DAMAGED)
    }

    /// A command line that can't be carried out.
    pub fn usage(message: impl Display) -> Self {
        Self::with_code(message, USAGE)
    }

    /// Anything else, with an exit code of its own.
    pub fn with_code(message: impl Display, code: u8) -> Self {
        Self { message: message.to_string(), code, cancelled: false }
    }

    /// The same with the thing that it concerns before it.
    pub fn at(self, thing: impl Display) -> Self {
        Self { message: format!("{thing}: {}", self.message), ..self }
    }

    /// The same with what may help after it.
    pub fn with_hint(self, hint: &str) -> Self {
        Self { message: format!("{}; {hint}", self.message), ..self }
    }

    /// Whether it is only that something told the library to stop.
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

/// Bytes in ranges of memories.
pub fn bytes_in_ranges(bytes: impl Into<u128>, ranges: u64) -> String {
    format!("{} in {}", self::bytes(bytes), count(ranges, "range"))
}

/// A number of bytes.
pub fn bytes(n: impl Into<u128>) -> String {
    count(n, "byte")
}

/// A number of things, of which `what` is the singular.
pub fn count(n: impl Into<u128>, what: &str) -> String {
    let n: u128 = n.into();
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// What is said of a dump of which bytes of memories were left out on purpose: memory, bytes and
/// ranges; `None` if there are none.
pub fn partial(
    mut excluded: impl Iterator<Item = (MemoryIndex, impl Into<u128>, u64)>,
) -> Option<String> {
    let of = |(memory, bytes, ranges)| {
        format!("memory {memory} without {}", bytes_in_ranges(bytes, ranges))
    };
    let first = of(excluded.next()?);
    let line = format!("partial on purpose: {first}");
    Some(excluded.map(of).fold(line, |line, next| line + ", " + &next))
}

/// Writes one line to standard error, visible as a whole.
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
/// It can't be written.
pub fn result(text: &str) -> Result<(), Failure> {
    let mut stdout = Patient(std::io::stdout());
    printed(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// What has come of text for standard output. Whoever has read enough of it, as `head` has, may go: that is
/// no failure.
///
/// # Errors
/// It could not be written.
pub fn printed(written: io::Result<()>) -> Result<(), Failure> {
    let written = written.or_else(nobody_reads);
    written.map_err(|error| Failure::new(format!("standard output: {error}")))
}

fn nobody_reads(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

/// Whether a terminal, by its name in `TERM`, can do no more than print lines.
pub fn is_dumb_terminal() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term == "dumb")
}
