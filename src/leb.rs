//! LEB128, the encoding of integers in a module: seven bits a byte, the lowest first.
//!
//! The writer knows the length of an integer before it appends it. The reader decodes one byte at a time, from a slice
//! or from a stream that may end anywhere.
//!
//! Source: core specification, "Binary format",
//! [integers](https://webassembly.github.io/spec/core/binary/values.html#integers).
#![allow(
    clippy::arithmetic_side_effects,
    reason = "the operands are numbers of bits, at most 70, and nothing is subtracted from a smaller one"
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
