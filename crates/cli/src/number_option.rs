//! Parses options whose value is a whole number in a range.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Returns a parser for whole numbers in `range`. Its message has the range in words, whatever is wrong with the text.
pub fn within<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("expected {} to {}", range.start(), range.end()))
    }
}

/// Parses the index of a memory.
///
/// # Errors
/// Returns a message if the text is not an index.
pub fn memory_index(text: &str) -> Result<u32, String> {
    within(0..=u32::MAX)(text).map_err(|expected| format!("not a memory index; {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_numbers_in_a_range() {
        let parse = within(1..=100_000_u32);
        assert_eq!((parse("1"), parse("100000")), (Ok(1), Ok(100_000)));
        for text in ["0", "100001", "-1", "", "many", "1.5", "99999999999999999999"] {
            assert_eq!(parse(text), Err("expected 1 to 100000".into()), "{text}");
        }
        assert_eq!(memory_index("7"), Ok(7));
        let message = "not a memory index; expected 0 to 4294967295";
        assert_eq!(memory_index("4294967296"), Err(message.into()));
    }
}
