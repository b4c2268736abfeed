//! Sums and products of 64-bit numbers in 128 bits, where they cannot overflow.
//!
//! A memory can have 2^64 bytes, and a segment can end after its last byte. That length and that end need 65 bits.

/// Returns `a + b`, exactly.
#[allow(clippy::arithmetic_side_effects, reason = "the sum has 65 bits at most")]
pub(super) fn sum(a: u64, b: u64) -> u128 {
    u128::from(a) + u128::from(b)
}

/// Returns `a * b`, exactly.
#[allow(clippy::arithmetic_side_effects, reason = "the product has 128 bits at most")]
pub(super) fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computes_exact_numbers_of_more_than_64_bits() {
        assert_eq!(sum(u64::MAX, 1), 1 << 64);
        assert_eq!(sum(u64::MAX, u64::MAX), (1 << 65) - 2);
        assert_eq!(product(u64::MAX, u64::MAX), u128::MAX - (u128::from(u64::MAX) << 1));
    }
}
