//! What is wrong with a dump and where: what decoding fails with, before it becomes an [`Error`] or
//! the finding of a verifier.

use std::fmt::Display;
use std::io;
use std::ops::Range;

use crate::error::{Error, ErrorKind};

/// The result of decoding.
pub(super) type Result<T> = std::result::Result<T, Box<Fault>>;

/// What is wrong, and the bytes of the file that it concerns.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: ErrorKind,
    /// Bytes of the file. Of a dump that is cut off, those that are not there.
    pub(super) range: Range<u64>,
    message: String,
    /// Whether there is more of something than a limit allows, and all of it was sound.
    pub(super) is_limit: bool,
    /// Whether the message is about a place, and not about the file.
    placed: bool,
    source: Option<io::Error>,
}

/// Returns the range from `start` to `end`, or to the byte at `start` if that is longer: the place of a fault has a byte.
/// A range at offset 2^64-1 stays empty: no file has a byte there.
pub(super) fn not_empty(start: u64, end: u64) -> Range<u64> {
    start..start.checked_add(1).map_or(end, |next| next.max(end))
}

/// Returns whether an error of this kind is about the bytes of a dump ([`Fault::is_of_dump`]).
pub(super) fn is_of_dump(kind: ErrorKind) -> bool {
    use ErrorKind::{Damaged, Format, Truncated, Unsupported};

    matches!(kind, Format | Damaged | Truncated | Unsupported)
}

/// Returns what was decoded, or `None` where something is wrong with the dump.
///
/// # Errors
/// Returns the fault if the dump cannot be read.
pub(super) fn readable<T>(decoded: Result<T>) -> Result<Option<T>> {
    match decoded {
        Ok(decoded) => Ok(Some(decoded)),
        Err(fault) if fault.is_of_dump() => Ok(None),
        Err(fault) => Err(fault),
    }
}

impl Fault {
    fn boxed(kind: ErrorKind, range: Range<u64>, message: impl Into<String>) -> Box<Self> {
        let (message, is_limit, placed) = (message.into(), false, true);
        Box::new(Self { kind, range, message, is_limit, placed, source: None })
    }

    /// Returns whether it is about the bytes of the dump, and not about how they were had: a source that failed, no memory
    /// left, work that was cancelled, or an error of this crate's own.
    pub(super) fn is_of_dump(&self) -> bool {
        is_of_dump(self.kind)
    }

    /// Something in `range` contradicts itself, or what was before it.
    pub(super) fn damaged(range: Range<u64>, message: impl Into<String>) -> Box<Self> {
        Self::boxed(ErrorKind::Damaged, range, message)
    }

    /// Something in `range` is not known here, or over a limit.
    pub(super) fn unsupported(range: Range<u64>, message: impl Into<String>) -> Box<Self> {
        Self::boxed(ErrorKind::Unsupported, range, message)
    }

    /// One more of something than `most`, the limit, is in `range`; all of them are sound.
    pub(super) fn over_limit(range: Range<u64>, most: usize, what: &str) -> Box<Self> {
        let mut fault = Self::unsupported(range, format!("more than the limit of {most} {what}"));
        fault.is_limit = true;
        fault
    }

    /// The file is not a core dump.
    pub(super) fn format(message: &str) -> Box<Self> {
        let mut fault = Self::boxed(ErrorKind::Format, 0..0, format!("not a core dump: {message}"));
        fault.placed = false;
        fault
    }

    /// A module that is not of a process.
    pub(super) fn no_core() -> Box<Self> {
        Self::format("it has no section `core`")
    }

    /// A section of this project's without the one that belongs to it.
    pub(super) fn stray(range: Range<u64>) -> Box<Self> {
        let message = "a section of corestream's own, but none called `corestream`";
        Self::damaged(range, message)
    }

    /// The dump, in a file or a stream, ends at `end`, though something goes on to `wanted` at least.
    pub(super) fn end(end: u64, wanted: u64) -> Box<Self> {
        Self::boxed(ErrorKind::Truncated, not_empty(end, wanted), "the dump ends here")
    }

    /// The dump ends at `end`, before the end of `len` bytes from `start` on.
    pub(super) fn end_within(end: u64, start: u64, len: u64) -> Box<Self> {
        match start.checked_add(len) {
            Some(wanted) => Self::end(end, wanted),
            None => {
                let message = format!("{len} bytes are past the end of all offsets");
                Self::damaged(not_empty(start, end), message)
            }
        }
    }

    /// The file has `end` bytes of the `length` that it says it has.
    pub(super) fn truncated(end: u64, length: u64) -> Box<Self> {
        let message = format!("is cut off: {end} of {length} bytes");
        let mut fault = Self::boxed(ErrorKind::Truncated, end..length, message);
        fault.placed = false;
        fault
    }

    /// The same; where the file ends too early, of a dump that says how long it is.
    pub(super) fn truncated_from(self: Box<Self>, length: u64) -> Box<Self> {
        match self.kind {
            ErrorKind::Truncated => Self::truncated(self.range.start, length),
            _ => self,
        }
    }

    /// Reading failed.
    pub(super) fn io(at: u64, source: io::Error) -> Box<Self> {
        let mut fault = Self::boxed(ErrorKind::Input, not_empty(at, at), "cannot read");
        fault.source = Some(source);
        fault
    }

    /// The same, of a part of `what`.
    pub(super) fn within(mut self: Box<Self>, what: impl Display) -> Box<Self> {
        if self.placed && self.is_of_dump() {
            self.message = format!("{what}: {}", self.message);
        }
        self
    }

    /// One line: the place where there is one, and what is wrong there.
    pub(super) fn line(&self) -> String {
        match self.placed {
            true => format!("at {:#x}: {}", self.range.start, self.message),
            false => self.message.clone(),
        }
    }
}

/// An error of this crate's own numbers, which is not about a place of the file.
impl From<Error> for Box<Fault> {
    fn from(error: Error) -> Self {
        let mut fault = Fault::boxed(error.kind(), 0..0, error.to_string());
        fault.placed = false;
        fault
    }
}

#[doc(hidden)] // of a private type
impl From<Box<Fault>> for Error {
    fn from(fault: Box<Fault>) -> Self {
        let line = fault.line();
        let range = fault.range;
        let error = match fault.source {
            Some(source) => Self::io(fault.kind, line, source),
            None => Self::new(fault.kind, line),
        };
        // What is about no place has no bytes.
        if range.is_empty() { error } else { error.in_range(range) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::Checked;

    #[test]
    fn the_place_of_a_fault_has_a_byte() {
        assert_eq!(not_empty(3, 3), 3..4);
        assert_eq!(not_empty(3, 9), 3..9);
        assert_eq!(not_empty(u64::MAX - 1, 0), u64::MAX - 1..u64::MAX);
        assert_eq!(not_empty(u64::MAX, u64::MAX), u64::MAX..u64::MAX);
    }

    #[test]
    fn bytes_past_all_offsets_are_damage_and_no_end() {
        let truncated = Fault::end_within(10, 7, u64::MAX - 7);
        assert_eq!((truncated.kind, &truncated.range), (ErrorKind::Truncated, &(10..u64::MAX)));
        let damaged = Fault::end_within(10, 7, u64::MAX - 6);
        assert_eq!((damaged.kind, &damaged.range), (ErrorKind::Damaged, &(7..10)));
        let line = "at 0x7: 18446744073709551609 bytes are past the end of all offsets";
        assert_eq!(damaged.line(), line);
    }

    #[test]
    fn an_internal_error_stays_one() {
        let fault: Box<Fault> = u64::MAX.plus(1).unwrap_err().into();
        assert_eq!(fault.kind, ErrorKind::Internal);
        let error = Error::from(fault.within("section data"));
        assert!(error.to_string().starts_with("18446744073709551615 + 1 overflows"), "{error}");
    }
}
