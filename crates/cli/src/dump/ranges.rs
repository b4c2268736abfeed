//! The arguments of `--exclude` and `--only`: ranges of a memory's addresses.

use corestream::{CoreDump, Memory};

use crate::report::Failure;

/// A range of a memory, as it was given.
#[derive(Clone, Debug)]
pub struct RangeOption {
    text: String,
    memory: usize,
    /// The first address, and the one behind the last.
    start: Option<u64>,
    end: Option<u64>,
}

impl RangeOption {
    /// Parses `MEMORY:START..END`; START and END are decimal, or hexadecimal after `0x`, and may be left
    /// out.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(memory, range)| {
            range.split_once("..").map(|(start, end)| (memory, start, end))
        });
        let (memory, start, end) =
            parts.ok_or("a range has the form MEMORY:START..END, such as 0:0x1000..0x2000")?;
        let index = decimal(memory).and_then(|index| usize::try_from(index).ok());
        let memory =
            index.ok_or_else(|| format!("{memory:?} is no index of a memory, such as 0"))?;
        let (start, end) = (address(start)?, address(end)?);
        if end.is_some_and(|end| end <= start.unwrap_or(0)) {
            return Err("the range is empty, its start must be below its end".into());
        }
        Ok(Self { text: text.into(), memory, start, end })
    }

    /// Tells the memory that it is of by `tell`; `option` is its name.
    fn apply(
        &self,
        option: &str,
        dump: &mut CoreDump<'_>,
        apply: impl FnOnce(&mut Memory<'_>, (Bound, Bound)),
    ) -> Result<(), Failure> {
        use std::ops::Bound::{Excluded, Included, Unbounded};

        let Self { text, memory, start, end } = self;
        let there = match dump.memories.len() {
            1 => "there is only memory 0".into(),
            n => format!("the guest has {n} memories"),
        };
        let memory = dump.memories.get_mut(*memory).ok_or_else(|| {
            Failure::usage(format!("{option} {text}: there is no memory {memory}, {there}"))
        })?;
        apply(memory, (start.map_or(Unbounded, Included), end.map_or(Unbounded, Excluded)));
        Ok(())
    }
}

type Bound = std::ops::Bound<u64>;

/// Leaves out what `exclude` says, and all that `only` does not say of memories that it names.
pub fn apply(
    dump: &mut CoreDump<'_>,
    exclude: &[RangeOption],
    only: &[RangeOption],
) -> Result<(), Failure> {
    for range in exclude {
        range.apply("--exclude", dump, |memory, range| memory.leave_out(range))?;
    }
    for range in only {
        range.apply("--only", dump, |memory, range| memory.keep_only(range))?;
    }
    dump.validate().map_err(Failure::usage)
}

/// An address; `None` if there is none.
fn address(text: &str) -> Result<Option<u64>, String> {
    let value = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        _ if text.is_empty() => return Ok(None),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u64::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None => decimal(text),
    };
    let expected = "is no address: decimal or 0x and hexadecimal, of 64 bits";
    value.map(Some).ok_or_else(|| format!("{text:?} {expected}"))
}

fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_addresses() {
        for (text, expected) in [
            ("0:0x1000..0x2000", (0, Some(0x1000), Some(0x2000))),
            ("12:4096..8192", (12, Some(4096), Some(8192))),
            ("1:..0xfF", (1, None, Some(255))),
            ("1:0xffffffffffffffff..", (1, Some(u64::MAX), None)),
            ("0:..", (0, None, None)),
        ] {
            let RangeOption { memory, start, end, .. } = RangeOption::parse(text).unwrap();
            assert_eq!((memory, start, end), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("", "a range has the form MEMORY:START..END"),
            ("0x1000..0x2000", "a range has the form MEMORY:START..END"),
            ("0:4096", "a range has the form MEMORY:START..END"),
            (":1..2", "\"\" is no index of a memory"),
            ("heap:1..2", "\"heap\" is no index of a memory"),
            ("-1:1..2", "\"-1\" is no index of a memory"),
            ("0:a..b", "\"a\" is no address"),
            ("0:0x..1", "\"0x\" is no address"),
            ("0:0x+1..2", "\"0x+1\" is no address"),
            ("0:1..=2", "\"=2\" is no address"),
            ("0:1..+2", "\"+2\" is no address"),
            ("0:0..18446744073709551616", "\"18446744073709551616\" is no address"),
            ("0:2..2", "the range is empty"),
            ("0:2..1", "the range is empty"),
            ("0:..0", "the range is empty"),
        ] {
            let error = RangeOption::parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
