//! Which ranges of a memory are left out of a dump on purpose: what the user says, and what that comes
//! to.

use std::ops::RangeBounds;

use crate::address_range::AddressRange;
use crate::ranges::AddressRanges;

/// What is wanted of a memory and what is not, as it was given.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    /// Without any, everything is.
    only: Vec<AddressRange>,
    without: Vec<AddressRange>,
}

impl Selection {
    /// Leaves out one more range.
    pub(super) fn exclude(&mut self, range: impl RangeBounds<u64>) {
        self.without.push(AddressRange::new(range));
    }

    /// Leaves out everything but one more range.
    pub(super) fn keep_only(&mut self, range: impl RangeBounds<u64>) {
        self.only.push(AddressRange::new(range));
    }

    /// Resolves the excluded ranges of a memory of `size` bytes.
    pub(super) fn excluded(&self, size: u128) -> Result<AddressRanges, String> {
        let resolve = |list: &[AddressRange], what: &str| {
            let mut ranges = Vec::with_capacity(list.len());
            for given in list {
                let range = given.resolve(size);
                ranges.extend(range.map_err(|why| format!("the range {given} {what} {why}"))?);
            }
            Ok::<_, String>(AddressRanges::joined(ranges))
        };
        let excluded = resolve(&self.without, "to leave out")?;
        if self.only.is_empty() {
            return Ok(excluded);
        }
        Ok(excluded.with(resolve(&self.only, "to keep")?.outside(size)))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::{Bound, RangeInclusive};

    use super::*;

    const ALL: u128 = 1 << 64;

    fn without(size: u128, ranges: &[(Bound<u64>, Bound<u64>)]) -> Vec<RangeInclusive<u64>> {
        let mut selection = Selection::default();
        ranges.iter().for_each(|range| selection.exclude(*range));
        selection.excluded(size).unwrap().as_slice().to_vec()
    }

    fn only(size: u128, ranges: &[(Bound<u64>, Bound<u64>)]) -> Vec<RangeInclusive<u64>> {
        let mut selection = Selection::default();
        ranges.iter().for_each(|range| selection.keep_only(*range));
        selection.excluded(size).unwrap().as_slice().to_vec()
    }

    fn range(start: u64, end: u64) -> (Bound<u64>, Bound<u64>) {
        (Bound::Included(start), Bound::Excluded(end))
    }

    #[test]
    fn ranges_are_put_in_order_and_joined() {
        let ranges = [range(50, 60), range(10, 20), range(20, 30), range(12, 15), range(0, 1)];
        assert_eq!(without(100, &ranges), [0..=0, 10..=29, 50..=59]);
        assert_eq!(only(100, &ranges), [1..=9, 30..=49, 60..=99]);
        assert_eq!(only(60, &ranges), [1..=9, 30..=49]);
        assert_eq!(without(100, &[]), []);
    }

    #[test]
    fn the_ends_of_all_addresses() {
        let open = (Bound::Unbounded, Bound::Unbounded);
        let end = (Bound::Included(u64::MAX), Bound::Unbounded);
        let last = (Bound::Excluded(u64::MAX - 1), Bound::Included(u64::MAX));
        assert_eq!(without(ALL, &[open]), [0..=u64::MAX]);
        assert_eq!(without(ALL, &[last, end]), [u64::MAX..=u64::MAX]);
        assert_eq!(without(ALL, &[open, last]), [0..=u64::MAX]);
        assert_eq!(only(ALL, &[end]), [0..=u64::MAX - 1]);
        assert_eq!(only(ALL, &[open]), []);
        // Nothing is behind the end of a memory, which is no mistake.
        let behind = (Bound::Included(100), Bound::Unbounded);
        assert_eq!(without(100, &[behind]), []);
        assert_eq!(without(0, &[open]), []);
        assert_eq!(only(0, &[open]), []);
        assert_eq!(only(100, &[behind]), [0..=99]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let end = (Bound::Included(101), Bound::Unbounded);
        let exact = (Bound::Excluded(u64::MAX), Bound::Included(u64::MAX));
        for (given, message) in [
            (range(9, 9), "0x9..0x9 to leave out is empty, its start must be below its end"),
            (range(9, 8), "0x9..0x8 to leave out is empty, its start must be below its end"),
            (
                range(0, 101),
                "0x0..0x65 to leave out is past the end of the memory, which has 0x64 bytes",
            ),
            (end, "0x65.. to leave out is past the end of the memory, which has 0x64 bytes"),
            (
                exact,
                "0x10000000000000000..=0xffffffffffffffff to leave out is empty, its start must \
                     be below its end",
            ),
        ] {
            let mut selection = Selection::default();
            selection.exclude(given);
            let expected = format!("the range {message}");
            assert_eq!(selection.excluded(100).unwrap_err(), expected);
        }
        let mut selection = Selection::default();
        selection.keep_only(range(3, 2));
        let error = selection.excluded(100).unwrap_err();
        assert!(error.starts_with("the range 0x3..0x2 to keep is empty"), "{error}");
    }
}
