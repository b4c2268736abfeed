//! What the tool tells people: lines on standard error, and failures with their exit code.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

use clap::error::ErrorKind;
use corestream::MemoryIndex;
use indicatif::ProgressBar;

use crate::log;
use crate::patient::Patient;

/// Exit code of a command that failed.
const FAILED: u8 = 1;
/// Exit code of a command that was called wrongly, as clap's.
const USAGE: u8 = 2;
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

/// Tells what clap has to say: help and versions as they are, a mistake in one line.
pub fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            match error.print().or_else(nobody_reads) {
                Ok(()) => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE)),
                Err(error) => {
                    line(&format!("standard output: {error}"));
                    ExitCode::from(FAILED)
                }
            }
        }
        _ => {
            line(&in_one_line(&error.to_string()));
            ExitCode::from(USAGE)
        }
    }
}

/// Clap's message without its frame: `error:` before it, the usage and a reference to the help
/// after it.
fn in_one_line(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let lines = message.lines().map(str::trim);
    let lines =
        lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let lines =
        lines.filter(|line| !line.is_empty()).map(|line| match line.strip_prefix("tip: ") {
            Some(tip) => format!("({tip})"),
            None => line.to_string(),
        });
    lines.collect::<Vec<_>>().join(" ") + "; --help shows what there is"
}

/// Bytes in ranges of memories.
pub fn bytes_in_ranges(bytes: impl Into<u128>, ranges: u64) -> String {
    format!("{} in {}", count(bytes, "byte"), count(ranges, "range"))
}

/// A number of bytes.
pub fn bytes(n: u64) -> String {
    count(n, "byte")
}

/// A number of things, of which `what` is the singular.
pub fn count(n: impl Into<u128>, what: &str) -> String {
    let n = n.into();
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// What is said of a dump of which bytes of memories were left out on purpose: memory, bytes and
/// ranges; `None` if there are none.
pub fn partial<N: Into<u128>>(
    mut left_out: impl Iterator<Item = (MemoryIndex, N, u64)>,
) -> Option<String> {
    let of = |(memory, bytes, ranges)| {
        format!("memory {memory} without {}", bytes_in_ranges(bytes, ranges))
    };
    let first = of(left_out.next()?);
    let line = format!("partial on purpose: {first}");
    Some(left_out.map(of).fold(line, |line, next| line + ", " + &next))
}

/// Writes one line to standard error; control characters in it are escaped.
pub fn line(message: &str) {
    raw(&format!("corestream: {}", escaped(message)));
}

/// `message` as a line, control characters in it escaped.
pub fn escaped(message: &str) -> String {
    let mut line = String::with_capacity(message.len() + 1);
    for c in message.chars() {
        push_visible(&mut line, c);
    }
    line.push('\n');
    line
}

/// Appends a character as it is, or escaped if it would play tricks on a terminal.
pub fn push_visible(text: &mut String, c: char) {
    if is_hidden(c) { text.extend(c.escape_default()) } else { text.push(c) }
}

/// Whether a character would play tricks on a terminal: control characters, separators of lines, and
/// what changes the direction of text or is not seen. All have 16 bits.
pub fn is_hidden(c: char) -> bool {
    let hidden = matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}');
    c.is_control() || hidden
}

/// Writes raw text to standard error, above the progress bar if one is shown. Ignores write errors.
pub fn raw(text: &str) {
    log::write(text);
}

/// Writes to the terminal, above the progress bar if one is shown.
pub fn above_the_bar(write: impl FnOnce()) {
    // Nobody waits for a bar because a line is not taken.
    let bar = bar().clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// The bar at the bottom of the terminal.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn bar() -> MutexGuard<'static, Option<ProgressBar>> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on there is a bar at the bottom of the terminal.
pub fn begin_bar(shown: &ProgressBar) {
    *bar() = Some(shown.clone());
}

/// There is no bar any more.
pub fn end_bar() {
    if let Some(bar) = bar().take() {
        bar.finish_and_clear();
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_one_line() {
        let clap = "error: unexpected argument '--forse' found\n\n  tip: a similar argument exists: \
                    '--force'\n\nUsage: corestream dump\n\nFor more information, try '--help'.\n";
        let line = "unexpected argument '--forse' found (a similar argument exists: '--force'); \
                    --help shows what there is";
        assert_eq!(in_one_line(clap), line);
    }
}
