//! The arguments of `--exclude` and `--only`: address ranges of a memory.

use corestream::{AddressRange, CoreDump, Memory};

use crate::report::Failure;

/// An address range of a memory, with its text on the command line.
#[derive(Clone, Debug)]
pub struct RangeOption {
    text: String,
    memory: usize,
    range: AddressRange,
}

impl RangeOption {
    /// Parses `MEMORY:START..END`, an index and an [`AddressRange`].
    ///
    /// # Errors
    /// Returns an error if the index or the range is invalid.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = "expected MEMORY:START..END, such as 0:0x1000..0x2000";
        let (memory, range) = text.split_once(':').ok_or(expected)?;
        let is_index = memory.bytes().all(|b| b.is_ascii_digit());
        let index = is_index.then(|| memory.parse().ok()).flatten();
        let memory = index.ok_or_else(|| {
            format!("invalid memory index {memory:?}; expected a number such as 0")
        })?;
        let range = range.parse().map_err(|error: corestream::Error| error.to_string())?;
        Ok(Self { text: text.into(), memory, range })
    }

    /// Calls `apply` with the memory and the range. `option` is the name of the option, for errors.
    ///
    /// # Errors
    /// Returns an error if the guest has no such memory.
    fn apply(
        &self,
        option: &str,
        dump: &mut CoreDump<'_>,
        apply: impl FnOnce(&mut Memory<'_>, AddressRange),
    ) -> Result<(), Failure> {
        let Self { text, memory, range } = self;
        let memories = match dump.memories.len() {
            1 => "1 memory".into(),
            n => format!("{n} memories"),
        };
        let memory = dump.memories.get_mut(*memory).ok_or_else(|| {
            Failure::usage(format!("{option} {text}: no memory {memory}; the guest has {memories}"))
        })?;
        apply(memory, *range);
        Ok(())
    }
}

/// Excludes the ranges in `exclude`, and everything outside of the ranges in `only` from the memories that `only` names.
///
/// # Errors
/// Returns an error if a range is not in a memory of the guest.
pub fn apply(
    dump: &mut CoreDump<'_>,
    exclude: &[RangeOption],
    only: &[RangeOption],
) -> Result<(), Failure> {
    for range in exclude {
        range.apply("--exclude", dump, |memory, range| memory.exclude(range))?;
    }
    for range in only {
        range.apply("--only", dump, |memory, range| memory.keep_only(range))?;
    }
    dump.validate().map_err(Failure::usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_memory_and_addresses() {
        for (text, memory, range) in [
            ("0:0x1000..0x2000", 0, AddressRange::new(0x1000..0x2000)),
            ("12:4096..8KiB", 12, AddressRange::new(4096..8192)),
            ("1:..", 1, AddressRange::new(..)),
        ] {
            let parsed = RangeOption::parse(text).unwrap();
            assert_eq!((parsed.memory, parsed.range), (memory, range), "{text}");
        }
    }

    #[test]
    fn reports_invalid_ranges() {
        for (text, expected) in [
            ("", "expected MEMORY:START..END"),
            ("0x1000..0x2000", "expected MEMORY:START..END"),
            ("0:4096", "invalid range \"4096\"; expected START..END"),
            (":1..2", "invalid memory index \"\""),
            ("heap:1..2", "invalid memory index \"heap\""),
            ("-1:1..2", "invalid memory index \"-1\""),
            ("+1:1..2", "invalid memory index \"+1\""),
            ("0:a..b", "invalid address \"a\""),
            ("0:1..2gib", "unknown unit \"gib\", did you mean 2GiB?"),
            ("0:2..2", "the range 0x2..0x2 is empty"),
        ] {
            let error = RangeOption::parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
