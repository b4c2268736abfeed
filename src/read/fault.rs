//! Faults: a defect of a dump, or a failure to read it, and its place.
//!
//! Decoding fails with a [`Fault`]. It becomes an [`Error`] for the caller, or the finding of a verifier.

use std::fmt::Display;
use std::io;
use std::ops::Range;

use crate::error::{Error, ErrorKind};

/// The result of decoding.
pub(super) type Result<T> = std::result::Result<T, Box<Fault>>;

/// A fault and the bytes of the file that it concerns.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: ErrorKind,
    /// The bytes of the file that the fault concerns. For a truncated dump, the missing bytes.
    pub(super) range: Range<u64>,
    message: String,
    /// Whether the item is intact and only exceeds the limit on the number of such items.
    pub(super) is_limit: bool,
    /// Whether the message is about a place in the file. Otherwise it is about the whole file.
    has_place: bool,
    source: Option<io::Error>,
}

/// Returns the range from `start` to `end`, extended to at least the byte at `start`.
///
/// At offset 2^64-1 the range stays empty: no file has a byte there.
pub(super) fn at_least_one_byte(start: u64, end: u64) -> Range<u64> {
    start..start.checked_add(1).map_or(end, |next| next.max(end))
}

/// Returns the plural ending for `count` of something.
pub(super) fn plural_s(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Returns whether an error of this kind is about the bytes of a dump ([`Fault::is_of_dump`]).
pub(super) fn is_of_dump(kind: ErrorKind) -> bool {
    use ErrorKind::{Damaged, Format, Truncated, Unsupported};

    matches!(kind, Format | Damaged | Truncated | Unsupported)
}

/// Maps a fault of the dump's bytes to `None`.
///
/// # Errors
/// Returns a fault that is not about the bytes of the dump ([`Fault::is_of_dump`]), such as a failed read.
pub(super) fn dump_fault_to_none<T>(decoded: Result<T>) -> Result<Option<T>> {
    match decoded {
        Ok(decoded) => Ok(Some(decoded)),
        Err(fault) if fault.is_of_dump() => Ok(None),
        Err(fault) => Err(fault),
    }
}

impl Fault {
    fn boxed(kind: ErrorKind, range: Range<u64>, message: impl Into<String>) -> Box<Self> {
        let (message, is_limit, has_place) = (message.into(), false, true);
        Box::new(Self { kind, range, message, is_limit, has_place, source: None })
    }

    /// Returns whether the fault is about the bytes of the dump.
    ///
    /// The other faults are about reading them: the source failed, memory ran out, the work was cancelled, or this
    /// crate has a bug.
    pub(super) fn is_of_dump(&self) -> bool {
        is_of_dump(self.kind)
    }

    /// Returns the fault of bytes in `range` that contradict themselves or the bytes before them.
    pub(super) fn damaged(range: Range<u64>, message: impl Into<String>) -> Box<Self> {
        Self::boxed(ErrorKind::Damaged, range, message)
    }

    /// Returns the fault of bytes in `range` with an unknown value or a value over a limit.
    pub(super) fn unsupported(range: Range<u64>, message: impl Into<String>) -> Box<Self> {
        Self::boxed(ErrorKind::Unsupported, range, message)
    }

    /// Returns the fault of an intact item in `range` that exceeds `most`, the limit on the number of such items.
    pub(super) fn over_limit(range: Range<u64>, most: usize, what: &str) -> Box<Self> {
        let mut fault = Self::unsupported(range, format!("more than the limit of {most} {what}"));
        fault.is_limit = true;
        fault
    }

    /// Returns the fault of a file that is not a core dump.
    pub(super) fn format(message: &str) -> Box<Self> {
        let mut fault = Self::boxed(ErrorKind::Format, 0..0, format!("not a core dump: {message}"));
        fault.has_place = false;
        fault
    }

    /// Returns the fault of a module without a section `core`.
    pub(super) fn no_core() -> Box<Self> {
        Self::format("it has no section `core`")
    }

    /// Returns the fault of a section that only corestream writes, in a dump without the section `corestream`.
    pub(super) fn stray(range: Range<u64>) -> Box<Self> {
        let message = "a section that only corestream writes, but section `corestream` is missing";
        Self::damaged(range, message)
    }

    /// Returns the fault of a dump that ends at `end`, before an item that ends at or after `needed`.
    pub(super) fn unexpected_end(end: u64, needed: u64) -> Box<Self> {
        Self::boxed(ErrorKind::Truncated, at_least_one_byte(end, needed), "the dump ends here")
    }

    /// Returns the fault of a dump that ends at `end`, within the `len` bytes from `start` on.
    pub(super) fn unexpected_end_within(end: u64, start: u64, len: u64) -> Box<Self> {
        match start.checked_add(len) {
            Some(needed) => Self::unexpected_end(end, needed),
            None => {
                let message = format!("length {len} reaches past the largest file offset");
                Self::damaged(at_least_one_byte(start, end), message)
            }
        }
    }

    /// Returns the fault of a file of `end` bytes whose header declares `length` bytes.
    pub(super) fn truncated(end: u64, length: u64) -> Box<Self> {
        let message = format!("truncated: {end} of {length} byte{}", plural_s(length));
        let mut fault = Self::boxed(ErrorKind::Truncated, end..length, message);
        fault.has_place = false;
        fault
    }

    /// Restates an unexpected end for a dump whose header declares `length` bytes. Other faults stay as they are.
    pub(super) fn with_dump_len(self: Box<Self>, length: u64) -> Box<Self> {
        match self.kind {
            ErrorKind::Truncated => Self::truncated(self.range.start, length),
            _ => self,
        }
    }

    /// Returns the fault of a source that could not be read at offset `at`.
    pub(super) fn io(at: u64, source: io::Error) -> Box<Self> {
        let mut fault = Self::boxed(ErrorKind::Input, at_least_one_byte(at, at), "cannot read");
        fault.source = Some(source);
        fault
    }

    /// Adds the name of the section or item that contains the fault, if the fault has a place in the dump.
    pub(super) fn within(mut self: Box<Self>, what: impl Display) -> Box<Self> {
        if self.has_place && self.is_of_dump() {
            self.message = format!("{what}: {}", self.message);
        }
        self
    }

    /// Returns one line of text: the offset, if the fault has a place, and the message.
    pub(super) fn line(&self) -> String {
        match self.has_place {
            true => format!("at {:#x}: {}", self.range.start, self.message),
            false => self.message.clone(),
        }
    }
}

/// Converts an error that has no place in the file, such as an overflow of this crate's own numbers.
impl From<Error> for Box<Fault> {
    fn from(error: Error) -> Self {
        let mut fault = Fault::boxed(error.kind(), 0..0, error.to_string());
        fault.has_place = false;
        fault
    }
}

#[doc(hidden)] // The type is private.
impl From<Box<Fault>> for Error {
    fn from(fault: Box<Fault>) -> Self {
        let line = fault.line();
        let range = fault.range;
        let error = match fault.source {
            Some(source) => Self::io(fault.kind, line, source),
            None => Self::new(fault.kind, line),
        };
        // An empty range means that the fault has no place.
        if range.is_empty() { error } else { error.in_range(range) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::Checked;

    #[test]
    fn extends_an_empty_range_to_a_byte() {
        assert_eq!(at_least_one_byte(3, 3), 3..4);
        assert_eq!(at_least_one_byte(3, 9), 3..9);
        assert_eq!(at_least_one_byte(u64::MAX - 1, 0), u64::MAX - 1..u64::MAX);
        assert_eq!(at_least_one_byte(u64::MAX, u64::MAX), u64::MAX..u64::MAX);
    }

    #[test]
    fn reports_a_length_past_the_largest_offset_as_damage() {
        let truncated = Fault::unexpected_end_within(10, 7, u64::MAX - 7);
        assert_eq!((truncated.kind, &truncated.range), (ErrorKind::Truncated, &(10..u64::MAX)));
        let damaged = Fault::unexpected_end_within(10, 7, u64::MAX - 6);
        assert_eq!((damaged.kind, &damaged.range), (ErrorKind::Damaged, &(7..10)));
        let line = "at 0x7: length 18446744073709551609 reaches past the largest file offset";
        assert_eq!(damaged.line(), line);
    }

    #[test]
    fn keeps_the_kind_of_an_internal_error() {
        let fault: Box<Fault> = u64::MAX.plus(1).unwrap_err().into();
        assert_eq!(fault.kind, ErrorKind::Internal);
        let error = Error::from(fault.within("section data"));
        assert!(error.to_string().starts_with("18446744073709551615 + 1 overflows"), "{error}");
    }
}
