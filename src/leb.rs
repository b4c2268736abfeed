//! LEB128, the encoding of integers in a module: seven bits a byte, the lowest first.
//!
//! The writer knows the length of an integer before it appends it. The reader decodes one byte at a time, from a slice
//! or from a stream that may end anywhere.
//!
//! Source: core specification, "Binary format",
//! [integers](https://webassembly.github.io/spec/core/binary/values.html#integers).
#![allow(
    clippy::arithmetic_side_effects,
    reason = "the operands are numbers of bits: of at most 64, fewer than those of the number were taken"
)]

/// Returns the length of an unsigned LEB128 in bytes, 1 to 5.
pub(crate) fn u32_len(value: u32) -> u32 {
    (32 - (value | 1).leading_zeros()).div_ceil(7)
}

/// Returns the length of a signed LEB128 in bytes, 1 to 10. It is the same for `i32` and `i64`.
pub(crate) fn i64_len(value: i64) -> u32 {
    let magnitude = if value < 0 { !value } else { value };
    (64 - magnitude.leading_zeros() + 1).div_ceil(7)
}

/// A number with more bits than it may have, or more bytes than one of that many bits needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// A LEB128 of which some bytes were taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Partial {
    value: u64,
    /// The number of its bits that were taken.
    len: u32,
}

impl Partial {
    /// Takes the next byte of an unsigned number of `bits` bits; returns the number after its last byte.
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
        self.go_on(bits)
    }

    /// Takes the next byte of a signed number of `bits` bits; returns the number after its last byte.
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
        self.go_on(bits)
    }

    /// Makes room for one more byte.
    #[inline]
    fn go_on<T>(&mut self, bits: u32) -> Result<Option<T>, TooLong> {
        self.len += 7;
        if self.len < bits { Ok(None) } else { Err(TooLong) }
    }
}

/// Appends an unsigned LEB128.
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

/// Appends a signed LEB128.
pub(crate) fn push_i64(to: &mut Vec<u8>, mut value: i64) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 6;
        // Only the sign is left, and bit 6 of `low` repeats it.
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

    /// The powers of two and their neighbours.
    fn edges() -> impl Iterator<Item = u64> {
        let edges = (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) - 1, (1 << bit) + 1]);
        edges.chain([u64::MAX])
    }

    #[test]
    fn signed_numbers_are_those_of_wasm_encoder() {
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
    fn what_is_encoded_is_decoded_if_it_has_room() {
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
    fn padding_may_fill_all_bytes_and_no_more() {
        assert_eq!(unsigned(&[0x83, 0x80, 0x80, 0x80, 0x00], 32), Ok(Some(3)));
        assert_eq!(unsigned(&[0x83, 0x80, 0x80, 0x80, 0x80], 32), Err(TooLong));
        assert_eq!(signed(&[0xff, 0xff, 0xff, 0xff, 0x7f], 32), Ok(Some(-1)));
        assert_eq!(signed(&[0xff, 0xff, 0xff, 0xff, 0xff], 32), Err(TooLong));
        assert_eq!(signed(&[0xff, 0xff, 0xff, 0xff, 0x0f], 32), Err(TooLong));
        assert_eq!(unsigned(&[0x80; 3], 32), Ok(None));
    }

    #[test]
    fn unsigned_numbers_are_those_of_wasm_encoder() {
        for value in edges().filter_map(|value| u32::try_from(value).ok()) {
            let (mut expected, mut bytes) = (Vec::new(), Vec::new());
            value.encode(&mut expected);
            push_u32(&mut bytes, value);
            assert_eq!(bytes, expected, "{value:#x}");
            assert_eq!(u32_len(value) as usize, expected.len(), "{value:#x}");
        }
    }
}
