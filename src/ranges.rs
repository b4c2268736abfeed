//! Sorted, disjoint address ranges.

use std::ops::{Range, RangeInclusive};

/// Sorted byte address ranges of one memory. No range is empty, and no two overlap or are adjacent.
///
/// [`Memory::excluded`](crate::Memory::excluded) resolves the excluded ranges of a memory into this type once. The
/// scan skips them, the plan never puts them into a segment, and the index of the dump lists them.
///
/// ```
/// use corestream::{Memory, MemoryImage, MemoryType};
///
/// let memory = Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&[])).without(16..32).without(32..48);
/// let excluded = memory.excluded()?;
/// assert_eq!(excluded.as_slice(), [16..=47]);
/// assert_eq!(excluded.byte_len(), 32);
/// assert!(excluded.contains(47) && !excluded.contains(48));
/// assert_eq!((excluded.len(), excluded.is_empty()), (1, false));
/// assert!(excluded.iter().eq([&(16..=47)]));
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddressRanges(Vec<RangeInclusive<u64>>);

impl AddressRanges {
    /// Sorts and merges `ranges`, which must not be empty ranges.
    pub(crate) fn joined(mut ranges: Vec<RangeInclusive<u64>>) -> Self {
        ranges.sort_unstable_by_key(|range| *range.start());
        ranges.dedup_by(|next, range| {
            // A subtraction, because `end + 1` overflows for the highest address.
            let gap = next.start().checked_sub(*range.end());
            let touches = gap.is_none_or(|gap| gap <= 1);
            if touches {
                *range = *range.start()..=*range.end().max(next.end());
            }
            touches
        });
        Self(ranges)
    }

    /// Appends a range and returns `true`.
    ///
    /// Returns `false` and appends nothing if the range is empty, or if it does not start after the last range with at
    /// least one address in between.
    pub(crate) fn push(&mut self, range: RangeInclusive<u64>) -> bool {
        let gap = self.0.last().map(|last| range.start().checked_sub(*last.end()));
        let follows = gap.is_none_or(|gap| gap.is_some_and(|gap| gap > 1));
        let fits = follows && !range.is_empty();
        if fits {
            self.0.push(range);
        }
        fits
    }

    /// Returns the ranges that contain `address` or a later address.
    pub(crate) fn from(&self, address: u64) -> &[RangeInclusive<u64>] {
        let before = self.0.partition_point(|range| *range.end() < address);
        self.0.get(before..).unwrap_or_default()
    }

    /// Returns the union with `more`.
    pub(crate) fn with(mut self, more: Self) -> Self {
        self.0.extend(more.0);
        Self::joined(self.0)
    }

    /// Returns the complement: the addresses of a memory of `size` bytes (at most 2^64) that no range contains.
    pub(crate) fn outside(&self, size: u128) -> Self {
        let mut outside = Vec::new();
        // The first address after all ranges so far. `None` after the highest address.
        let mut next = Some(0);
        for range in &self.0 {
            if let (Some(first), Some(last)) = (next, range.start().checked_sub(1))
                && first <= last
            {
                outside.push(first..=last);
            }
            next = range.end().checked_add(1);
        }
        let last = size.checked_sub(1).and_then(|last| u64::try_from(last).ok());
        if let (Some(first), Some(last)) = (next, last)
            && first <= last
        {
            outside.push(first..=last);
        }
        Self(outside)
    }

    /// Returns the ranges in order.
    pub fn as_slice(&self) -> &[RangeInclusive<u64>] {
        &self.0
    }

    /// Iterates over the ranges in order.
    pub fn iter(&self) -> std::slice::Iter<'_, RangeInclusive<u64>> {
        self.0.iter()
    }

    /// Returns the number of ranges.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no ranges.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the total number of addresses in the ranges: at most 2^64.
    pub fn byte_len(&self) -> u128 {
        self.0.iter().map(range_len).sum()
    }

    /// Returns whether a range contains `address`.
    pub fn contains(&self, address: u64) -> bool {
        self.last_from(address).is_some_and(|range| *range.end() >= address)
    }

    /// Returns whether any of these ranges overlaps `range`.
    pub(crate) fn overlaps(&self, range: &Range<u64>) -> bool {
        let last = range.end.checked_sub(1).filter(|last| *last >= range.start);
        last.and_then(|last| self.last_from(last)).is_some_and(|found| *found.end() >= range.start)
    }

    /// Returns the last range that starts at or before `address`.
    pub(crate) fn last_from(&self, address: u64) -> Option<&RangeInclusive<u64>> {
        let count = self.0.partition_point(|range| *range.start() <= address);
        self.0.get(..count)?.last()
    }
}

impl FromIterator<RangeInclusive<u64>> for AddressRanges {
    /// Sorts and merges ranges. They may be in any order, overlap, or be empty.
    ///
    /// ```
    /// use corestream::AddressRanges;
    ///
    /// let ranges: AddressRanges = [32..=47, 0..=7, 16..=31].into_iter().collect();
    /// assert_eq!(ranges.as_slice(), [0..=7, 16..=47]);
    /// ```
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u64>>>(ranges: I) -> Self {
        Self::joined(ranges.into_iter().filter(|range| !range.is_empty()).collect())
    }
}

impl Extend<RangeInclusive<u64>> for AddressRanges {
    fn extend<I: IntoIterator<Item = RangeInclusive<u64>>>(&mut self, ranges: I) {
        *self = std::mem::take(self).with(ranges.into_iter().collect());
    }
}

impl IntoIterator for AddressRanges {
    type Item = RangeInclusive<u64>;
    type IntoIter = std::vec::IntoIter<RangeInclusive<u64>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'r> IntoIterator for &'r AddressRanges {
    type Item = &'r RangeInclusive<u64>;
    type IntoIter = std::slice::Iter<'r, RangeInclusive<u64>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Returns the number of addresses in `range`: at most 2^64.
#[allow(clippy::arithmetic_side_effects, reason = "at most 2^64, of 128 bits")]
pub(crate) fn range_len(range: &RangeInclusive<u64>) -> u128 {
    range.end().checked_sub(*range.start()).map_or(0, |more| u128::from(more) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: u128 = 1 << 64;

    #[test]
    fn sorts_and_merges_ranges() {
        let ranges = AddressRanges::joined(vec![50..=59, 10..=19, 20..=29, 12..=14, 0..=0]);
        assert_eq!(ranges.as_slice(), [0..=0, 10..=29, 50..=59]);
        assert_eq!((ranges.len(), ranges.byte_len()), (3, 31));
        let more = AddressRanges::joined(vec![1..=9, 61..=61]);
        assert_eq!(ranges.with(more).as_slice(), [0..=29, 50..=59, 61..=61]);
    }

    #[test]
    fn handles_the_highest_address() {
        let all = AddressRanges::joined(vec![5..=u64::MAX, 0..=7, u64::MAX..=u64::MAX]);
        assert_eq!(all.as_slice(), [0..=u64::MAX]);
        assert_eq!(all.byte_len(), ALL);
        assert!(all.outside(ALL).is_empty());
        assert!(all.contains(0) && all.contains(u64::MAX));
        assert_eq!([range_len(&(0..=u64::MAX)), range_len(&(1..=u64::MAX))], [ALL, ALL - 1]);
        #[allow(clippy::reversed_empty_ranges, reason = "an empty range")]
        let empty = 8..=7;
        assert_eq!(range_len(&empty), 0);
        let none = AddressRanges::default();
        assert_eq!(none.outside(ALL), all);
        assert!(none.outside(0).is_empty());
        assert!(!none.contains(0) && !none.overlaps(&(0..u64::MAX)));
    }

    #[test]
    fn appends_only_ranges_after_the_last_one() {
        let mut ranges = AddressRanges::default();
        let empty = RangeInclusive::new(9, 8);
        assert!(!ranges.push(empty) && ranges.push(5..=6));
        for range in [0..=1, 5..=9, 6..=7, 7..=9] {
            assert!(!ranges.push(range.clone()), "{range:?}");
        }
        assert!(ranges.push(8..=8) && ranges.push(u64::MAX..=u64::MAX) && !ranges.push(0..=0));
        assert_eq!(ranges.as_slice(), [5..=6, 8..=8, u64::MAX..=u64::MAX]);
        assert_eq!([0, 6, 7, 9].map(|address| ranges.from(address).len()), [3, 3, 2, 1]);
    }

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(
            ranges in prop::collection::vec((0_u8..64, 0_u8..64), 0..8),
            size in 64_u128..80,
        ) {
            let ranges = ranges.into_iter().map(|(a, b)| u64::from(a.min(b))..=u64::from(a.max(b)));
            let ranges: Vec<_> = ranges.collect();
            let is_in = |address: u64| ranges.iter().any(|range| range.contains(&address));
            let joined = AddressRanges::joined(ranges.clone());
            let outside = joined.outside(size);
            for address in 0..80 {
                prop_assert_eq!(joined.contains(address), is_in(address));
                let is_outside = u128::from(address) < size && !is_in(address);
                prop_assert_eq!(outside.contains(address), is_outside);
                for end in address..80 {
                    prop_assert_eq!(joined.overlaps(&(address..end)), (address..end).any(is_in));
                }
            }
            for ranges in [&joined, &outside] {
                let apart = ranges.as_slice().windows(2).all(|pair| pair[0].end() + 1 < *pair[1].start());
                prop_assert!(apart, "{ranges:?}");
            }
            prop_assert_eq!(joined.byte_len() + outside.byte_len(), size);
            // One by one, with empty ranges between them.
            let mut extended = AddressRanges::default();
            for range in ranges.iter() {
                extended.extend([RangeInclusive::new(range.start() + 1, *range.start()), range.clone()]);
            }
            prop_assert_eq!(&extended, &joined);
            prop_assert_eq!(&extended.into_iter().collect::<AddressRanges>(), &joined);
        }
    }
}
