//! The ranges of a memory that the user excludes from a dump, resolved against the size of the memory.

use std::ops::RangeBounds;

use crate::address_range::AddressRange;
use crate::ranges::AddressRanges;

/// The ranges of a memory that the user excludes or keeps, as specified.
#[derive(Clone, Debug, Default)]
pub(super) struct Exclusions {
    /// The ranges to keep. If there are none, everything is kept.
    only: Vec<AddressRange>,
    without: Vec<AddressRange>,
}

impl Exclusions {
    /// Excludes another range.
    pub(super) fn exclude(&mut self, range: impl RangeBounds<u64>) {
        self.without.push(AddressRange::new(range));
    }

    /// Keeps another range, and excludes everything outside the kept ranges.
    pub(super) fn keep_only(&mut self, range: impl RangeBounds<u64>) {
        self.only.push(AddressRange::new(range));
    }

    /// Returns the excluded ranges of a memory of `size` bytes.
    ///
    /// # Errors
    /// Returns a message that names the first range that is empty or extends past the end of the memory.
    pub(super) fn excluded(&self, size: u128) -> Result<AddressRanges, String> {
        let resolve = |list: &[AddressRange], role: &str| {
            let mut ranges = Vec::with_capacity(list.len());
            for given in list {
                let range = given.resolve(size);
                ranges.extend(range.map_err(|why| format!("{role} range {given} {why}"))?);
            }
            Ok::<_, String>(AddressRanges::joined(ranges))
        };
        let excluded = resolve(&self.without, "excluded")?;
        if self.only.is_empty() {
            return Ok(excluded);
        }
        Ok(excluded.with(resolve(&self.only, "kept")?.outside(size)))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::{Bound, RangeInclusive};

    use super::*;

    const ALL: u128 = 1 << 64;

    fn without(size: u128, ranges: &[(Bound<u64>, Bound<u64>)]) -> Vec<RangeInclusive<u64>> {
        let mut exclusions = Exclusions::default();
        ranges.iter().for_each(|range| exclusions.exclude(*range));
        exclusions.excluded(size).unwrap().as_slice().to_vec()
    }

    fn only(size: u128, ranges: &[(Bound<u64>, Bound<u64>)]) -> Vec<RangeInclusive<u64>> {
        let mut exclusions = Exclusions::default();
        ranges.iter().for_each(|range| exclusions.keep_only(*range));
        exclusions.excluded(size).unwrap().as_slice().to_vec()
    }

    fn range(start: u64, end: u64) -> (Bound<u64>, Bound<u64>) {
        (Bound::Included(start), Bound::Excluded(end))
    }

    #[test]
    fn sorts_and_merges_ranges() {
        let ranges = [range(50, 60), range(10, 20), range(20, 30), range(12, 15), range(0, 1)];
        assert_eq!(without(100, &ranges), [0..=0, 10..=29, 50..=59]);
        assert_eq!(only(100, &ranges), [1..=9, 30..=49, 60..=99]);
        assert_eq!(only(60, &ranges), [1..=9, 30..=49]);
        assert_eq!(without(100, &[]), []);
    }

    #[test]
    fn resolves_open_ends_and_the_highest_address() {
        let open = (Bound::Unbounded, Bound::Unbounded);
        let end = (Bound::Included(u64::MAX), Bound::Unbounded);
        let last = (Bound::Excluded(u64::MAX - 1), Bound::Included(u64::MAX));
        assert_eq!(without(ALL, &[open]), [0..=u64::MAX]);
        assert_eq!(without(ALL, &[last, end]), [u64::MAX..=u64::MAX]);
        assert_eq!(without(ALL, &[open, last]), [0..=u64::MAX]);
        assert_eq!(only(ALL, &[end]), [0..=u64::MAX - 1]);
        assert_eq!(only(ALL, &[open]), []);
        // An open range may start at the end of the memory. It is empty.
        let after_end = (Bound::Included(100), Bound::Unbounded);
        assert_eq!(without(100, &[after_end]), []);
        assert_eq!(without(0, &[open]), []);
        assert_eq!(only(0, &[open]), []);
        assert_eq!(only(100, &[after_end]), [0..=99]);
    }

    #[test]
    fn rejects_empty_ranges_and_ranges_past_the_end() {
        let end = (Bound::Included(101), Bound::Unbounded);
        let exact = (Bound::Excluded(u64::MAX), Bound::Included(u64::MAX));
        for (given, message) in [
            (range(9, 9), "0x9..0x9 is empty; its start must be below its end"),
            (range(9, 8), "0x9..0x8 is empty; its start must be below its end"),
            (range(0, 101), "0x0..0x65 extends past the end of the memory (0x64 bytes)"),
            (end, "0x65.. extends past the end of the memory (0x64 bytes)"),
            (
                exact,
                "0x10000000000000000..=0xffffffffffffffff is empty; its start must be below its end",
            ),
        ] {
            let mut exclusions = Exclusions::default();
            exclusions.exclude(given);
            let expected = format!("excluded range {message}");
            assert_eq!(exclusions.excluded(100).unwrap_err(), expected);
        }
        let mut exclusions = Exclusions::default();
        exclusions.keep_only(range(3, 2));
        let error = exclusions.excluded(100).unwrap_err();
        assert!(error.starts_with("kept range 0x3..0x2 is empty"), "{error}");
    }
}
