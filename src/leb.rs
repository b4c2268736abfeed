//! LEB128, the variable-length encoding of integers in a module: seven bits per byte, least significant first.
//!
//! The plan needs the length of an encoding before it is written, so lengths have functions of their own. The decoder
//! takes one byte at a time, so that it also works on a stream that may end anywhere.
//!
//! Source: core specification, "Binary format",
//! [integers](https://webassembly.github.io/spec/core/binary/values.html#integers).
#![allow(
    clippy::arithmetic_side_effects,
    reason = "all operands are bit counts of at most 64, and fewer bits than the number has were taken"
)]

/// Returns the length in bytes of the unsigned encoding of `value`: 1 to 5.
pub(crate) fn u32_len(value: u32) -> u32 {
    (32 - (value | 1).leading_zeros()).div_ceil(7)
}

/// Returns the length in bytes of the signed encoding of `value`: 1 to 10. An `i32` and an `i64` of the same value have
/// the same encoding.
pub(crate) fn i64_len(value: i64) -> u32 {
    let magnitude = if value < 0 { !value } else { value };
    (64 - magnitude.leading_zeros() + 1).div_ceil(7)
}

/// The error for an encoding whose value does not fit, or that has more bytes than its type allows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// A partially decoded LEB128 integer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Partial {
    value: u64,
    /// The number of bits decoded so far.
    len: u32,
}

impl Partial {
    /// Decodes the next byte of an unsigned integer of `bits` bits. Returns the integer if this was its last byte.
    #[inline]
    pub(crate) fn unsigned(&mut self, byte: u8, bits: u32) -> Result<Option<u64>, TooLong> {
        let low = u64::from(byte & 0x7f);
        let room = bits - self.len;
        if room < 7 && low >> room != 0 {
            return Err(TooLong);
        }
        self.value |= low << self.len;
        if byte & 0x80 == 0 {
            return Ok(Some(self.value));
        }
        self.advance(bits)
    }

    /// Decodes the next byte of a signed integer of `bits` bits. Returns the integer if this was its last byte.
    #[inline]
    pub(crate) fn signed(&mut self, byte: u8, bits: u32) -> Result<Option<i64>, TooLong> {
        // The sign is the highest of the seven bits. Those over `bits` must repeat it.
        let low = (byte << 1).cast_signed() >> 1;
        let room = bits - self.len;
        if room < 7 && !matches!(low >> (room - 1), 0 | -1) {
            return Err(TooLong);
        }
        if byte & 0x80 == 0 {
            return Ok(Some(self.value.cast_signed() | i64::from(low) << self.len));
        }
        self.value |= u64::from(byte & 0x7f) << self.len;
        self.advance(bits)
    }

    /// Advances to the next byte.
    #[inline]
    fn advance<T>(&mut self, bits: u32) -> Result<Option<T>, TooLong> {
        self.len += 7;
        if self.len < bits { Ok(None) } else { Err(TooLong) }
    }
}

/// Appends the unsigned encoding of `value`.
pub(crate) fn push_u32(to: &mut Vec<u8>, mut value: u32) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            return to.push(low);
        }
        to.push(low | 0x80);
    }
}

/// Appends the signed encoding of `value`.
pub(crate) fn push_i64(to: &mut Vec<u8>, mut value: i64) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 6;
        // Only sign bits remain, and bit 6 of `low` is one of them.
        if value == 0 || value == -1 {
            return to.push(low);
        }
        value >>= 1;
        to.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasm_encoder::Encode;

    /// Returns the powers of two and their neighbours.
    fn edges() -> impl Iterator<Item = u64> {
        let edges = (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) - 1, (1 << bit) + 1]);
        edges.chain([u64::MAX])
    }

    #[test]
    fn encodes_signed_integers_like_wasm_encoder() {
        for value in edges().map(u64::cast_signed) {
            let (mut expected, mut bytes) = (Vec::new(), Vec::new());
            value.encode(&mut expected);
            push_i64(&mut bytes, value);
            assert_eq!(bytes, expected, "{value:#x}");
            assert_eq!(i64_len(value) as usize, expected.len(), "{value:#x}");
        }
    }

    fn unsigned(bytes: &[u8], bits: u32) -> Result<Option<u64>, TooLong> {
        let mut partial = Partial::default();
        let (last, before) = bytes.split_last().unwrap();
        for byte in before {
            assert_eq!(partial.unsigned(*byte, bits)?, None, "{bytes:x?}");
        }
        partial.unsigned(*last, bits)
    }

    fn signed(bytes: &[u8], bits: u32) -> Result<Option<i64>, TooLong> {
        let mut partial = Partial::default();
        let (last, before) = bytes.split_last().unwrap();
        for byte in before {
            assert_eq!(partial.signed(*byte, bits)?, None, "{bytes:x?}");
        }
        partial.signed(*last, bits)
    }

    #[test]
    fn decodes_every_encoding_that_fits() {
        for value in edges() {
            for bits in [32, 33, 64] {
                let mut bytes = Vec::new();
                value.encode(&mut bytes);
                let fits = bits == 64 || value >> bits == 0;
                let expected = if fits { Ok(Some(value)) } else { Err(TooLong) };
                assert_eq!(unsigned(&bytes, bits), expected, "{value:#x} of {bits} bits");

                let value = value.cast_signed();
                let (mut bytes, unused) = (Vec::new(), 64 - bits);
                value.encode(&mut bytes);
                let fits = value << unused >> unused == value;
                let expected = if fits { Ok(Some(value)) } else { Err(TooLong) };
                assert_eq!(signed(&bytes, bits), expected, "{value:#x} of {bits} bits");
            }
        }
    }

    #[test]
    fn accepts_padding_up_to_the_maximum_length() {
        assert_eq!(unsigned(&[0x83, 0x80, 0x80, 0x80, 0x00], 32), Ok(Some(3)));
        assert_eq!(unsigned(&[0x83, 0x80, 0x80, 0x80, 0x80], 32), Err(TooLong));
        assert_eq!(signed(&[0xff, 0xff, 0xff, 0xff, 0x7f], 32), Ok(Some(-1)));
        assert_eq!(signed(&[0xff, 0xff, 0xff, 0xff, 0xff], 32), Err(TooLong));
        assert_eq!(signed(&[0xff, 0xff, 0xff, 0xff, 0x0f], 32), Err(TooLong));
        assert_eq!(unsigned(&[0x80; 3], 32), Ok(None));
    }

    #[test]
    fn encodes_unsigned_integers_like_wasm_encoder() {
        for value in edges().filter_map(|value| u32::try_from(value).ok()) {
            let (mut expected, mut bytes) = (Vec::new(), Vec::new());
            value.encode(&mut expected);
            push_u32(&mut bytes, value);
            assert_eq!(bytes, expected, "{value:#x}");
            assert_eq!(u32_len(value) as usize, expected.len(), "{value:#x}");
        }
    }
}
