//! An address range as the user specifies it: it may have open ends and may not fit the memory.

use std::fmt;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::str::FromStr;

use crate::byte_size::ByteSize;
use crate::error::{Error, ErrorKind, Result};

/// A byte address range of a memory, possibly with open ends.
///
/// The text form is `START..END` or `START..=LAST`. An address is decimal, hexadecimal with the prefix `0x`, or a
/// [`ByteSize`] with a unit. An omitted address means the start or the end of the memory. Parsing rejects an empty
/// range. [`Display`](fmt::Display) writes hexadecimal addresses, and parsing that text returns the same range.
///
/// ```
/// use corestream::{AddressRange, Memory, MemoryImage, MemoryType};
///
/// let range: AddressRange = "0x1000..8KiB".parse()?;
/// assert_eq!(range, AddressRange::new(0x1000..0x2000));
/// assert_eq!(range.to_string(), "0x1000..0x2000");
///
/// let memory = Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&[7; 65_536])).only(range);
/// assert_eq!(memory.excluded()?.as_slice(), [0..=0xfff, 0x2000..=0xffff]);
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    start: Bound<u64>,
    end: Bound<u64>,
}

impl AddressRange {
    /// Returns the range with the bounds of `range`.
    pub fn new(range: impl RangeBounds<u64>) -> Self {
        let start = match range.start_bound().cloned() {
            // No address follows the highest one.
            Bound::Excluded(before) => {
                before.checked_add(1).map_or(Bound::Excluded(before), Bound::Included)
            }
            start => start,
        };
        Self { start, end: range.end_bound().cloned() }
    }

    /// Returns the first address. It is 2^64 if the range starts after the highest address.
    fn first(&self) -> u128 {
        match self.start {
            Bound::Included(start) => start.into(),
            Bound::Excluded(before) => after(before),
            Bound::Unbounded => 0,
        }
    }

    /// Returns the address after the last one, or `None` if the end is open.
    fn end(&self) -> Option<u128> {
        match self.end {
            Bound::Included(last) => Some(after(last)),
            Bound::Excluded(end) => Some(end.into()),
            Bound::Unbounded => None,
        }
    }

    /// Returns the addresses of the range in a memory of `size` bytes (at most 2^64). Returns `None` if the range has
    /// an open end and starts at the end of the memory.
    ///
    /// # Errors
    /// Returns the predicate of a message whose subject is the range, if it is empty or extends past the end of the
    /// memory.
    pub(crate) fn resolve(&self, size: u128) -> Result<Option<RangeInclusive<u64>>, String> {
        let start = self.first();
        let end = self.end().unwrap_or(size.max(start));
        if end < start || (end == start && self.end != Bound::Unbounded) {
            return Err(EMPTY.into());
        }
        if end > size {
            return Err(format!("extends past the end of the memory ({size:#x} bytes)"));
        }
        // The addresses of a memory fit in 64 bits. Its size may be 2^64.
        let address = |at: u128| u64::try_from(at).ok();
        let last = end.checked_sub(1).filter(|_| start < end).and_then(address);
        Ok(address(start).zip(last).map(|(first, last)| first..=last))
    }
}

const EMPTY: &str = "is empty; its start must be below its end";

/// Returns `address + 1`.
#[allow(clippy::arithmetic_side_effects, reason = "at most 2^64, of 128 bits")]
fn after(address: u64) -> u128 {
    u128::from(address) + 1
}

impl RangeBounds<u64> for AddressRange {
    fn start_bound(&self) -> Bound<&u64> {
        self.start.as_ref()
    }

    fn end_bound(&self) -> Bound<&u64> {
        self.end.as_ref()
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.start != Bound::Unbounded {
            write!(f, "{:#x}", self.first())?;
        }
        match self.end {
            Bound::Included(last) => write!(f, "..={last:#x}"),
            Bound::Excluded(end) => write!(f, "..{end:#x}"),
            Bound::Unbounded => f.write_str(".."),
        }
    }
}

impl FromStr for AddressRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (start, end) = text.split_once("..").ok_or_else(|| {
            let form = "expected START..END, such as 0x1000..0x2000";
            invalid(format!("invalid range {text:?}; {form}"))
        })?;
        let start = match start {
            "" => Bound::Unbounded,
            start => Bound::Included(address(start)?),
        };
        let end = match end.strip_prefix('=') {
            Some(last) => Bound::Included(address(last)?),
            None if end.is_empty() => Bound::Unbounded,
            None => Bound::Excluded(address(end)?),
        };
        let range = Self { start, end };
        match range.end().is_some_and(|end| end <= range.first()) {
            true => Err(invalid(format!("the range {range} {EMPTY}"))),
            false => Ok(range),
        }
    }
}

/// Parses an address.
fn address(text: &str) -> Result<u64> {
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let too_large = || invalid(format!("{text} does not fit in 64 bits"));
        return match all {
            true => u64::from_str_radix(digits, 16).map_err(|_| too_large()),
            false => Err(invalid_address(text)),
        };
    }
    match text.starts_with(|c: char| c.is_ascii_digit()) {
        true => text.parse().map(|ByteSize(address)| address),
        false => Err(invalid_address(text)),
    }
}

fn invalid_address(text: &str) -> Error {
    invalid(format!("invalid address {text:?}; expected an address such as 4096, 0x1000 or 1GiB"))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Option, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_addresses_and_open_ends() {
        for (text, expected) in [
            ("0x1000..0x2000", AddressRange::new(0x1000..0x2000)),
            ("4096..8192", AddressRange::new(0x1000..0x2000)),
            ("4KiB..1.5GiB", AddressRange::new(4096..3 << 29)),
            ("..0xfF", AddressRange::new(..255)),
            ("0XFF..=256", AddressRange::new(255..=256)),
            ("0xffffffffffffffff..", AddressRange::new(u64::MAX..)),
            ("..=18446744073709551615", AddressRange::new(..=u64::MAX)),
            ("..", AddressRange::new(..)),
        ] {
            assert_eq!(text.parse::<AddressRange>().unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn rejects_invalid_ranges() {
        for (text, expected) in [
            ("", "invalid range \"\"; expected START..END, such as 0x1000..0x2000"),
            ("4096", "invalid range \"4096\"; expected START..END, such as 0x1000..0x2000"),
            ("a..b", "invalid address \"a\"; expected an address such as 4096, 0x1000 or 1GiB"),
            ("0x..1", "invalid address \"0x\"; expected an address such as 4096, 0x1000 or 1GiB"),
            (
                "0x+1..2",
                "invalid address \"0x+1\"; expected an address such as 4096, 0x1000 or 1GiB",
            ),
            ("1..=", "invalid address \"\"; expected an address such as 4096, 0x1000 or 1GiB"),
            ("1..+2", "invalid address \"+2\"; expected an address such as 4096, 0x1000 or 1GiB"),
            ("1...2", "invalid address \".2\"; expected an address such as 4096, 0x1000 or 1GiB"),
            ("0..1gib", "unknown unit \"gib\", did you mean 1GiB?"),
            ("0..0x10000000000000000", "0x10000000000000000 does not fit in 64 bits"),
            ("2..2", "the range 0x2..0x2 is empty; its start must be below its end"),
            ("2..=1", "the range 0x2..=0x1 is empty; its start must be below its end"),
            ("..0", "the range ..0x0 is empty; its start must be below its end"),
        ] {
            let error = text.parse::<AddressRange>().unwrap_err();
            assert_eq!((error.kind(), error.to_string()), (ErrorKind::Option, expected.into()));
        }
        let overflow = "0..18446744073709551616".parse::<AddressRange>().unwrap_err();
        assert!(overflow.to_string().starts_with("18446744073709551616 does not fit"));
    }

    proptest! {
        #[test]
        fn parses_what_it_displays(start: Option<u64>, end: Option<u64>, inclusive: bool, exclusive: bool) {
            let start = match start {
                Some(start) if exclusive => Bound::Excluded(start),
                Some(start) => Bound::Included(start),
                None => Bound::Unbounded,
            };
            let end = match end {
                Some(end) if inclusive => Bound::Included(end),
                Some(end) => Bound::Excluded(end),
                None => Bound::Unbounded,
            };
            let range = AddressRange::new((start, end));
            let again = range.to_string().parse::<AddressRange>();
            match range.resolve(1 << 64) {
                Ok(Some(_)) => prop_assert_eq!(again.unwrap(), range),
                // The range starts after the highest address, which has no text form.
                Ok(None) => prop_assert!(again.is_err()),
                Err(_) => prop_assert!(again.unwrap_err().to_string().ends_with(EMPTY)),
            }
        }

        #[test]
        fn never_panics_on_arbitrary_text(text in "\\PC{0,12}|[0-9a-fx]{0,20}[.]{0,3}=?[0-9a-fx]{0,20}(KiB)?") {
            if let Ok(range) = text.parse::<AddressRange>() {
                prop_assert_eq!(range.to_string().parse::<AddressRange>().unwrap(), range);
            }
        }
    }
}
