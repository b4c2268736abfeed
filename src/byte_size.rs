//! A number of bytes with a unit.
//!
//! Other crates that parse sizes compute in floating point or round, so that `1.1GiB` becomes some number near it. Here a
//! size is either exact, up to 64 bits, or an error. `FromStr` parses the output of `Display` as the same number.
//!
//! Units are accepted only as the standards write them (IEC 80000-13 for powers of 1024, SI for powers of 1000): `8G`
//! means one thing to `dd` and another to `curl`, and `8Mb` may be megabits. The error suggests the units that may be
//! meant, so a wrong unit costs only a second attempt.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// The units: first the powers of 1000, then the powers of 1024, each in ascending order.
const UNITS: [(&str, u64); 13] = [
    ("B", 1),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("EB", 1_000_000_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("EiB", 1 << 60),
];

/// A number of bytes that is parsed and displayed with a unit.
///
/// Its text is a whole number of bytes, such as `4096`, or a number with a unit. B, kB, MB, GB, TB, PB and EB are powers
/// of 1000. KiB, MiB, GiB, TiB, PiB and EiB are powers of 1024. KB is the same as kB. The number may have a fraction if
/// the result is a whole number of bytes. Nothing is rounded.
///
/// [`Display`](fmt::Display) uses the unit that gives the smallest whole number. Every size survives a round trip through
/// text.
///
/// ```
/// use corestream::ByteSize;
///
/// assert_eq!("8GiB".parse::<ByteSize>()?, ByteSize(8 << 30));
/// assert_eq!("1.5GiB".parse::<ByteSize>()?.to_string(), "1536MiB");
/// assert_eq!(u64::from("500MB".parse::<ByteSize>()?), 500_000_000);
///
/// let error = "8gib".parse::<ByteSize>().unwrap_err();
/// assert_eq!(error.to_string(), "unknown unit \"gib\", did you mean 8GiB?");
/// let error = "0.3KiB".parse::<ByteSize>().unwrap_err();
/// assert_eq!(error.to_string(), "0.3KiB is not a whole number of bytes");
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl From<u64> for ByteSize {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl From<ByteSize> for u64 {
    fn from(size: ByteSize) -> Self {
        size.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = UNITS.iter().filter_map(|(name, unit)| {
            let count = self.0.checked_div(*unit)?;
            (self.0.checked_rem(*unit)? == 0).then_some((count, *name))
        });
        // Zero is 0 in every unit, and `min_by_key` returns the first, B.
        let (count, name) = counts.min_by_key(|(count, _)| *count).unwrap_or((self.0, "B"));
        write!(f, "{count}{name}")
    }
}

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at_checked(end).unwrap_or((text, ""));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let has_digits = |part: &str| !part.is_empty() && !part.contains('.');
        if !has_digits(whole) || !has_digits(fraction) {
            return Err(invalid(format!(
                "invalid size {text:?}; expected a size such as 4096, 500MB or 8GiB"
            )));
        }
        if let Some(bytes) = hexadecimal(text) {
            return Err(invalid(format!("a size is not hexadecimal, did you mean {bytes}?")));
        }
        let unit = unit_of(unit).ok_or_else(|| unknown_unit(number, unit))?;
        match exact(whole, fraction, unit) {
            Some(bytes) => u64::try_from(bytes).map(Self).map_err(|_| too_large(text)),
            None if whole.parse::<u64>().is_err() => Err(too_large(text)),
            None => Err(invalid(format!("{text} is not a whole number of bytes"))),
        }
    }
}

/// Returns the bytes of a unit. An empty name is the unit of bytes.
fn unit_of(name: &str) -> Option<u64> {
    match name {
        "" => Some(1),
        "KB" => Some(1000),
        _ => UNITS.iter().find(|(unit, _)| *unit == name).map(|(_, bytes)| *bytes),
    }
}

/// Converts `whole.fraction` units of `unit` bytes to bytes. Returns `None` if the result is not a whole number of bytes,
/// or if `whole` does not fit into 64 bits.
///
/// This is long multiplication of the fraction by `unit`, from the last digit to the first. Each step produces one digit
/// of the product after the decimal point. A digit other than zero is a fraction of a byte. The final carry is the whole
/// part. The result is exact for any number of digits.
fn exact(whole: &str, fraction: &str, unit: u64) -> Option<u128> {
    let unit = u128::from(unit);
    let mut carry = 0_u128;
    for digit in fraction.chars().rev() {
        let product = unit.checked_mul(digit.to_digit(10)?.into())?.checked_add(carry)?;
        if product.checked_rem(10)? != 0 {
            return None;
        }
        carry = product.checked_div(10)?;
    }
    u128::from(whole.parse::<u64>().ok()?).checked_mul(unit)?.checked_add(carry)
}

/// Parses a size in hexadecimal, for the suggestion in an error.
fn hexadecimal(text: &str) -> Option<ByteSize> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
    u64::from_str_radix(digits, 16).ok().map(ByteSize)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Option, message)
}

fn too_large(text: &str) -> Error {
    invalid(format!("{text} does not fit into 64 bits, the largest size is {}", ByteSize(u64::MAX)))
}

/// Returns the error for an unknown unit, with the units that may be meant.
fn unknown_unit(number: &str, unit: &str) -> Error {
    let given = unit.trim();
    let is_meant = |name: &str| {
        let short =
            |end| name.strip_suffix(end).is_some_and(|short| short.eq_ignore_ascii_case(given));
        name.eq_ignore_ascii_case(given) || short("B") || short("iB")
    };
    let meant = UNITS.iter().map(|(name, _)| name).filter(|name| is_meant(name));
    let mut meant: Vec<String> = meant.map(|name| format!("{number}{name}")).collect();
    // Suggest powers of 1024 first, in which memory is measured.
    meant.reverse();
    let suggestion = match &meant[..] {
        [] => {
            let names: Vec<_> = UNITS.iter().map(|(name, _)| *name).collect();
            format!("the units are {}", names.join(", "))
        }
        some => format!("did you mean {}?", some.join(" or ")),
    };
    invalid(format!("unknown unit {given:?}, {suggestion}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<u64, String> {
        text.parse::<ByteSize>().map(u64::from).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_every_unit() {
        for (name, unit) in UNITS {
            assert_eq!(parse(&format!("1{name}")), Ok(unit));
            assert_eq!(parse(&format!("007{name}")), Ok(7 * unit));
        }
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("18446744073709551615", u64::MAX),
            ("000000000000000000000000000001", 1),
            ("64KB", 64_000),
            ("1.5GiB", 3 << 29),
            ("0.5EiB", 1 << 59),
            ("2.50kB", 2500),
            ("1.0", 1),
            ("15.999999999999999999132638262011596452794037759304046630859375EiB", u64::MAX),
            ("18.446744073709551615EB", u64::MAX),
            ("0.000000000000000001EB", 1),
            ("0.00000095367431640625GiB", 1024),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn writes_the_shortest_exact_number() {
        for (bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (1000, "1kB"),
            (1024, "1KiB"),
            (1_024_000, "1000KiB"),
            (500_000_000, "500MB"),
            (8 << 30, "8GiB"),
            (3 << 29, "1536MiB"),
            ((1 << 30) + 1, "1073741825B"),
            (u64::MAX, "18446744073709551615B"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }

    #[test]
    fn suggests_the_unit_that_may_be_meant() {
        for (text, suggestion) in [
            ("8gib", "unknown unit \"gib\", did you mean 8GiB?"),
            ("8GIB", "unknown unit \"GIB\", did you mean 8GiB?"),
            ("8Gi", "unknown unit \"Gi\", did you mean 8GiB?"),
            ("8 GiB", "unknown unit \"GiB\", did you mean 8GiB?"),
            ("1.5G", "unknown unit \"G\", did you mean 1.5GiB or 1.5GB?"),
            ("8k", "unknown unit \"k\", did you mean 8KiB or 8kB?"),
            ("8Mb", "unknown unit \"Mb\", did you mean 8MB?"),
            ("8b", "unknown unit \"b\", did you mean 8B?"),
            ("8 ", "unknown unit \"\", did you mean 8B?"),
            ("0x1000", "a size is not hexadecimal, did you mean 4KiB?"),
            (
                "8e3",
                "unknown unit \"e3\", the units are B, kB, MB, GB, TB, PB, EB, KiB, MiB, GiB, TiB, PiB, EiB",
            ),
        ] {
            assert_eq!(parse(text), Err(suggestion.into()));
        }
    }

    #[test]
    fn rejects_inexact_and_invalid_sizes() {
        for text in
            ["", "GiB", "-1", "+1", " 1", ".5GiB", "1.GiB", "1..5", "1.5.0GiB", ".", "٣MB", "∞"]
        {
            let expected =
                format!("invalid size {text:?}; expected a size such as 4096, 500MB or 8GiB");
            assert_eq!(parse(text), Err(expected));
        }
        for text in ["1.5", "0.1B", "0.3KiB", "1.0001kB", "0.0000000000000000001EB"] {
            assert_eq!(parse(text), Err(format!("{text} is not a whole number of bytes")));
        }
        for text in
            ["18446744073709551616", "16EiB", "18446744073709551615kB", "18.446744073709551616EB"]
        {
            let largest = "the largest size is 18446744073709551615B";
            assert_eq!(parse(text), Err(format!("{text} does not fit into 64 bits, {largest}")));
        }
        let long = "9".repeat(1000);
        assert!(parse(&long).unwrap_err().ends_with("the largest size is 18446744073709551615B"));
        assert!(
            parse(&format!("0.{long}GiB")).unwrap_err().ends_with("is not a whole number of bytes")
        );
    }

    /// Returns all decimal digits of `bytes` in units of `unit`, by long division.
    fn digits(bytes: u64, unit: u64) -> String {
        let mut text = format!("{}.", bytes / unit);
        let mut rest = u128::from(bytes % unit);
        while rest > 0 {
            rest *= 10;
            text += &(rest / u128::from(unit)).to_string();
            rest %= u128::from(unit);
        }
        if text.ends_with('.') { text + "0" } else { text }
    }

    fn any_size() -> impl Strategy<Value = u64> {
        let round = (0_u64..1 << 20, 0..UNITS.len());
        let round = round.prop_map(|(count, i)| count.saturating_mul(UNITS[i].1));
        prop_oneof![any::<u64>(), (any::<u64>(), 0_u32..64).prop_map(|(x, by)| x >> by), round]
    }

    proptest! {
        #[test]
        fn every_size_survives_a_round_trip(bytes in any_size()) {
            let text = ByteSize(bytes).to_string();
            prop_assert_eq!(parse(&text), Ok(bytes));
            prop_assert_eq!(parse(&bytes.to_string()), Ok(bytes));
            let exact = UNITS.iter().filter(|(_, unit)| bytes % unit == 0);
            let least = exact.map(|(_, unit)| bytes / unit).min().unwrap().to_string();
            prop_assert!(text.starts_with(&least), "{text} {least}");
        }

        #[test]
        fn fractions_are_exact(bytes in any_size(), i in 0..UNITS.len()) {
            let (name, unit) = UNITS[i];
            let digits = digits(bytes, unit);
            prop_assert_eq!(parse(&format!("{digits}{name}")), Ok(bytes));
            prop_assert_eq!(parse(&format!("{digits}000{name}")), Ok(bytes));
            // One more digit is a fraction of a byte.
            let more = format!("{digits}{}1{name}", "0".repeat(60));
            prop_assert_eq!(parse(&more), Err(format!("{more} is not a whole number of bytes")));
        }

        #[test]
        fn parses_arbitrary_text_consistently(text in "\\PC{0,12}|[0-9]{0,25}[.]?[0-9]{0,25}[kKMGTPEi]{0,2}[bB]?") {
            if let Ok(bytes) = parse(&text) {
                prop_assert_eq!(parse(&ByteSize(bytes).to_string()), Ok(bytes));
            }
        }
    }
}
