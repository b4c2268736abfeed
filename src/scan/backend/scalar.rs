//! The scalar backend, which is the oracle: other backends must find the same runs for every input.
//!
//! # The problem
//! A scan must find each run exactly. A gap of `min_gap - 1` zeros belongs to a run, a gap of `min_gap` zeros ends
//! it, and zeros at either end of the slice belong to none.
//!
//! # The idea
//! Two searches alternate: one for the next non-zero byte, and one for the next zero byte. The end of a run moves
//! forward until the zeros after it are at least `min_gap`, or extend to the end of the slice. So the code reads like
//! the definition, and is easy to check by hand.
//!
//! Each search skips 8 bytes at a time while one test decides about all of them, and then single bytes. For zeros,
//! the test compares the word with 0. For non-zero bytes, it is Mycroft's test for a zero byte. Words are counted
//! from the position of the search, so they need no alignment.
//!
//! # The invariant
//! A word test is conservative. It returns `true` only if the byte test is true for all 8 bytes, so skipping a word
//! never skips the result.
//!
//! # The cost
//! After its last word, a search reads at most 8 bytes again, one at a time. Property tests and a fuzz target compare
//! the AVX2 backend with this one.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "positions lie in the slice, whose length is at most `isize::MAX`"
)]

use std::ops::Range;

const WORD: usize = size_of::<u64>();
const LOW_BITS: u64 = u64::from_ne_bytes([0x01; WORD]);
const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; WORD]);

/// Implements [`Scanner::runs`](crate::scan::Scanner::runs). `min_gap` must be at least 1.
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

/// Returns the index of the first non-zero byte at or after `from`, or the length of `bytes`.
pub(in crate::scan) fn next_nonzero(bytes: &[u8], from: usize) -> usize {
    skip_while(bytes, from, |word| word == 0, |byte| byte == 0)
}

/// Returns the index of the first zero byte at or after `from`, or the length of `bytes`.
fn next_zero(bytes: &[u8], from: usize) -> usize {
    skip_while(bytes, from, |word| !has_zero_byte(word), |byte| byte != 0)
}

/// Returns `true` if a byte of the word is zero. In Mycroft's test, a borrow reaches the high bit of the lowest zero
/// byte.
fn has_zero_byte(word: u64) -> bool {
    word.wrapping_sub(LOW_BITS) & !word & HIGH_BITS != 0
}

/// Returns the index of the first byte at or after `from` for which `byte` is false, or the length of `bytes`. If
/// `word` is true for eight bytes, `byte` must be true for each of them.
fn skip_while(
    bytes: &[u8],
    from: usize,
    word: impl Fn(u64) -> bool,
    byte: impl Fn(u8) -> bool,
) -> usize {
    let rest = &bytes[from..];
    let (words, _) = rest.as_chunks::<WORD>();
    let word_bytes =
        words.iter().take_while(|chunk| word(u64::from_ne_bytes(**chunk))).count() * WORD;
    let single = rest[word_bytes..].iter().take_while(|b| byte(**b)).count();
    from + word_bytes + single
}
