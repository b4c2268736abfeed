//! What the tool tells people: lines on standard error, and failures with their exit code.

use std::fmt::Display;
use std::io::Write;

/// Exit code of a command that failed.
const FAILED: u8 = 1;
/// Exit code of a command that was called wrongly, as clap's.
const USAGE: u8 = 2;

/// Why the tool stops, in one line, and its exit code.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub code: u8,
}

impl Failure {
    /// Something that failed.
    pub fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), code: FAILED }
    }

    /// A command line that can't be carried out.
    pub fn usage(message: impl Display) -> Self {
        Self { message: message.to_string(), code: USAGE }
    }
}

impl From<corestream::Error> for Failure {
    fn from(error: corestream::Error) -> Self {
        match error.kind() {
            corestream::ErrorKind::Option => Self::usage(error),
            _ => Self::new(error),
        }
    }
}

/// Writes one line to standard error; control characters in it are escaped.
pub fn line(message: &str) {
    let mut line = String::from("corestream: ");
    for c in message.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    raw(&line);
}

/// Writes text to standard error as it is. Where nobody listens, nobody is told.
pub fn raw(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
