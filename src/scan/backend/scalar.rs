//! The scalar backend: the oracle. A word at a time where a word decides, else a byte at a time.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "positions are those of the slice in hand, whose length is at most `isize::MAX`"
)]

use std::ops::Range;

const WORD: usize = size_of::<u64>();
const LOW_BITS: u64 = u64::from_ne_bytes([0x01; WORD]);
const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; WORD]);

/// See [`Scanner::runs`](crate::scan::Scanner::runs); `min_gap` is at least 1.
pub(in crate::scan) fn runs(bytes: &[u8], min_gap: usize, mut found: impl FnMut(Range<usize>)) {
    let mut next = next_nonzero(bytes, 0);
    while next < bytes.len() {
        let start = next;
        let mut end = next_zero(bytes, start);
        next = next_nonzero(bytes, end);
        while next < bytes.len() && next - end < min_gap {
            end = next_zero(bytes, next);
            next = next_nonzero(bytes, end);
        }
        found(start..end);
    }
}

/// The index of the first byte from `from` on that is not zero, or the length.
pub(in crate::scan) fn next_nonzero(bytes: &[u8], from: usize) -> usize {
    skip(bytes, from, |word| word == 0, |byte| byte == 0)
}

/// The index of the first zero byte from `from` on, or the length.
fn next_zero(bytes: &[u8], from: usize) -> usize {
    skip(bytes, from, |word| !has_zero_byte(word), |byte| byte != 0)
}

/// Mycroft's test: a borrow reaches the high bit of the lowest byte that is zero.
fn has_zero_byte(word: u64) -> bool {
    word.wrapping_sub(LOW_BITS) & !word & HIGH_BITS != 0
}

/// The index of the first byte from `from` on for which `byte` is false, or the length; `word`
/// must be true only for eight bytes that `byte` is true for.
fn skip(bytes: &[u8], from: usize, word: impl Fn(u64) -> bool, byte: impl Fn(u8) -> bool) -> usize {
    let rest = &bytes[from..];
    let (words, _) = rest.as_chunks::<WORD>();
    let whole = words.iter().take_while(|chunk| word(u64::from_ne_bytes(**chunk))).count() * WORD;
    let single = rest[whole..].iter().take_while(|b| byte(**b)).count();
    from + whole + single
}
