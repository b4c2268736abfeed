//! The arguments of `--exclude` and `--only`: ranges of a memory's addresses.

use corestream::{AddressRange, CoreDump, Memory};

use crate::report::Failure;

/// A range of a memory, as it was given.
#[derive(Clone, Debug)]
pub struct RangeOption {
    text: String,
    memory: usize,
    range: AddressRange,
}

impl RangeOption {
    /// Parses `MEMORY:START..END`, an index and an [`AddressRange`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = "a range has the form MEMORY:START..END, such as 0:0x1000..0x2000";
        let (memory, range) = text.split_once(':').ok_or(form)?;
        let is_index = memory.bytes().all(|b| b.is_ascii_digit());
        let index = is_index.then(|| memory.parse().ok()).flatten();
        let memory =
            index.ok_or_else(|| format!("{memory:?} is no index of a memory, such as 0"))?;
        let range = range.parse().map_err(|error: corestream::Error| error.to_string())?;
        Ok(Self { text: text.into(), memory, range })
    }

    /// Tells the memory that it is of by `tell`; `option` is its name.
    fn apply(
        &self,
        option: &str,
        dump: &mut CoreDump<'_>,
        apply: impl FnOnce(&mut Memory<'_>, AddressRange),
    ) -> Result<(), Failure> {
        let Self { text, memory, range } = self;
        let there = match dump.memories.len() {
            1 => "there is only memory 0".into(),
            n => format!("the guest has {n} memories"),
        };
        let memory = dump.memories.get_mut(*memory).ok_or_else(|| {
            Failure::usage(format!("{option} {text}: there is no memory {memory}, {there}"))
        })?;
        apply(memory, *range);
        Ok(())
    }
}

/// Leaves out what `exclude` says, and all that `only` does not say of memories that it names.
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
    fn memories_and_addresses() {
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
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("", "a range has the form MEMORY:START..END"),
            ("0x1000..0x2000", "a range has the form MEMORY:START..END"),
            ("0:4096", "invalid range \"4096\"; expected START..END"),
            (":1..2", "\"\" is no index of a memory"),
            ("heap:1..2", "\"heap\" is no index of a memory"),
            ("-1:1..2", "\"-1\" is no index of a memory"),
            ("+1:1..2", "\"+1\" is no index of a memory"),
            ("0:a..b", "invalid address \"a\""),
            ("0:1..2gib", "unknown unit \"gib\", did you mean 2GiB?"),
            ("0:2..2", "the range 0x2..0x2 is empty"),
        ] {
            let error = RangeOption::parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
