//! Sums, products and counts of 64-bit numbers in 128 bits, where they cannot overflow.
//!
//! A memory may have 2^64 bytes, and a segment may end there. Neither that length nor that end has 64 bits.

use std::ops::RangeInclusive;

use crate::ranges::range_len;

/// Returns `a + b`.
#[allow(clippy::arithmetic_side_effects, reason = "the sum has 65 bits at most")]
pub(super) fn sum(a: u64, b: u64) -> u128 {
    u128::from(a) + u128::from(b)
}

/// Returns `a * b`.
#[allow(clippy::arithmetic_side_effects, reason = "the product has 128 bits at most")]
pub(super) fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

/// Returns the number of addresses in a range, or `most` if that is smaller.
pub(super) fn count_at_most(addresses: &RangeInclusive<u64>, most: usize) -> usize {
    usize::try_from(range_len(addresses)).map_or(most, |count| count.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_more_than_64_bits_are_exact() {
        assert_eq!(sum(u64::MAX, 1), 1 << 64);
        assert_eq!(sum(u64::MAX, u64::MAX), (1 << 65) - 2);
        assert_eq!(product(u64::MAX, u64::MAX), u128::MAX - (u128::from(u64::MAX) << 1));
    }

    #[test]
    fn an_empty_range_has_no_addresses() {
        #[allow(clippy::reversed_empty_ranges, reason = "an empty range")]
        let empty = 8..=7;
        assert_eq!(count_at_most(&empty, 9), 0);
    }

    #[test]
    fn a_count_is_bounded() {
        assert_eq!(count_at_most(&(0..=u64::MAX), 9), 9);
        assert_eq!(count_at_most(&(0..=8), 9), 9);
        assert_eq!(count_at_most(&(0..=7), 9), 8);
    }
}
