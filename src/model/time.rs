//! The time of a capture.
//!
//! The precision of `SystemTime` differs between platforms, so a dump that is read and written again could get another
//! time. This type counts nanoseconds everywhere. Its text form is RFC 3339 in UTC with a fraction of nine digits. The
//! conversion between days and dates follows Howard Hinnant,
//! ["chrono-Compatible Low-Level Date Algorithms"](https://howardhinnant.github.io/date_algorithms.html).

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, ErrorKind, Result};
use crate::format::UNKNOWN_TIME;

/// Nanoseconds per second.
const SECOND: u64 = 1_000_000_000;
/// Seconds per day.
const DAY: u64 = 86_400;

/// A point in time: Unix time in nanoseconds, from 1970 to the year 2554.
///
/// ```
/// use corestream::UnixTime;
///
/// let time: UnixTime = "2026-11-28T04:18:23.5Z".parse()?;
/// assert_eq!(time.nanoseconds(), 1_795_839_503_500_000_000);
/// assert_eq!(time.to_string(), "2026-11-28T04:18:23.500000000Z");
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixTime(u64);

impl UnixTime {
    /// Returns the time `nanoseconds` after the Unix epoch, or `None` for `u64::MAX`, which means "unknown" in a dump.
    pub fn from_nanoseconds(nanoseconds: u64) -> Option<Self> {
        (nanoseconds != UNKNOWN_TIME).then_some(Self(nanoseconds))
    }

    /// Returns the current time, or `None` if the clock of the system is before 1970 or after 2554.
    pub fn now() -> Option<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        Self::from_nanoseconds(u64::try_from(since.as_nanos()).ok()?)
    }

    /// Returns the number of nanoseconds since the Unix epoch.
    pub fn nanoseconds(self) -> u64 {
        self.0
    }
}

impl From<UnixTime> for SystemTime {
    #[allow(clippy::arithmetic_side_effects, reason = "a `SystemTime` can represent the year 2554")]
    fn from(time: UnixTime) -> Self {
        UNIX_EPOCH + Duration::from_nanos(time.0)
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, fraction) = (self.0 / SECOND, self.0 % SECOND);
        let (days, second) = (seconds / DAY, seconds % DAY);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
    }
}

impl FromStr for UnixTime {
    type Err = Error;

    /// Parses an RFC 3339 time in UTC, with an optional fraction of at most nine digits.
    fn from_str(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| {
            let example = "expected a time such as 2026-11-28T04:18:23Z, from 1970 to 2554";
            Error::new(ErrorKind::Option, format!("invalid time {text:?}; {example}"))
        })
    }
}

#[allow(clippy::arithmetic_side_effects, reason = "each number has at most four digits")]
fn parse(text: &str) -> Option<UnixTime> {
    let (time, fraction) = text.strip_suffix('Z')?.split_at_checked("1970-01-01T00:00:00".len())?;
    let (date, clock) = time.split_once('T')?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let fraction = match fraction {
        "" => 0,
        fraction => {
            let digits = fraction.strip_prefix('.').filter(|digits| digits.len() <= 9)?;
            digits_of(digits)?
                .checked_mul(10_u64.checked_pow(9 - u32::try_from(digits.len()).ok()?)?)?
        }
    };
    let in_range = year >= 1970
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let days = in_range.then(|| days(year, month, day))?;
    // Rejects days that the month does not have, such as 31 April.
    if self::date(days) != (year, month, day) {
        return None;
    }
    let seconds = days * DAY + hour * 3600 + minute * 60 + second;
    UnixTime::from_nanoseconds(seconds.checked_mul(SECOND)?.checked_add(fraction)?)
}

/// Parses three numbers with the given digit counts, separated by `separator`.
fn numbers(text: &str, separator: char, lengths: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; 3];
    for (number, len) in numbers.iter_mut().zip(lengths) {
        *number = digits_of(parts.next().filter(|part| part.len() == len)?)?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Parses decimal digits without a sign, at least one.
fn digits_of(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The number of days from 1 March of the year 0 to the Unix epoch. Years start in March here, which makes the leap day
/// the last day of a year.
const EPOCH: u64 = 719_468;
/// The number of days in 400 years, the period of the Gregorian calendar.
const ERA: u64 = 146_097;

/// Returns the year, month and day for a number of days since the Unix epoch.
#[allow(
    clippy::arithmetic_side_effects,
    reason = "a `u64` of nanoseconds has fewer than 2^18 days"
)]
fn date(days: u64) -> (u64, u64, u64) {
    let (era, day_of_era) = ((days + EPOCH) / ERA, (days + EPOCH) % ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (next_year, month) = if month < 10 { (0, month + 3) } else { (1, month - 9) };
    (era * 400 + year_of_era + next_year, month, day)
}

/// Returns the number of days since the Unix epoch for a date. The year must be 1970 or later.
#[allow(clippy::arithmetic_side_effects, reason = "years from 1970 to 9999")]
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    era * ERA + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - EPOCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_every_day_both_ways() {
        let mut expected = (1970, 1, 1);
        for day in 0..215_000 {
            assert_eq!(date(day), expected);
            let (year, month, in_month) = expected;
            assert_eq!(days(year, month, in_month), day);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let last = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (month, in_month) {
                (12, 31) => (year + 1, 1, 1),
                (_, day) if day == last => (year, month + 1, 1),
                _ => (year, month, in_month + 1),
            };
        }
        assert_eq!(expected.0, 2558);
    }

    #[test]
    fn parses_displayed_times() {
        for (nanoseconds, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (u64::MAX - 1, "2554-07-21T23:34:33.709551614Z"),
        ] {
            let time = UnixTime::from_nanoseconds(nanoseconds).unwrap();
            assert_eq!(time.to_string(), text);
            assert_eq!(text.parse::<UnixTime>().unwrap(), time);
        }
        assert_eq!("1970-01-01T00:00:01Z".parse::<UnixTime>().unwrap(), UnixTime(SECOND));
        assert_eq!("1970-01-01T00:00:00.25Z".parse::<UnixTime>().unwrap(), UnixTime(SECOND / 4));
    }

    #[test]
    fn rejects_invalid_times() {
        for text in [
            "",
            "Z",
            "2026-11-28",
            "2026-11-28T04:18:23",
            "2026-11-28T04:18:23+00:00",
            "2026-11-28 04:18:23Z",
            "2026-11-28T04:18:23.Z",
            "2026-11-28T04:18:23.1234567890Z",
            "2026-11-28T24:00:00Z",
            "2026-11-28T04:60:00Z",
            "2026-11-28T04:18:60Z",
            "2026-11-31T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-+1-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "0000-01-01T00:00:00Z",
            "2554-07-21T23:34:33.709551615Z",
            "9999-01-01T00:00:00Z",
            "2026-11-28T04:18:2é.Z",
        ] {
            let error = text.parse::<UnixTime>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Option);
            assert!(error.to_string().starts_with(&format!("invalid time {text:?}; ")), "{error}");
        }
    }
}
