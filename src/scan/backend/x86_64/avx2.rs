//! The AVX2 backend: 128 bytes at a time, prefetched. Zeros are skipped by a test of all of them,
//! bytes that are not zero by their minimum, and a few zeros among them by a test for words that are
//! zero; only where there are some are they looked at bit by bit.
//!
//! Some bytes are read again, such as the end of the word before a block. If a mapped file is written
//! to meanwhile, the second look can see more zeros than the first. The runs are then those of neither
//! time, but positions stay in order and in the slice; the caller drops runs that are empty.
#![allow(unsafe_code)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "positions are those of the slice in hand, whose length is at most `isize::MAX`"
)]

use std::arch::x86_64::*;
use std::mem;
use std::ops::Range;

use crate::scan::backend::scalar;

/// Bytes that are tested at once.
const BLOCK: usize = 128;
/// Bytes of a block that fit into the bits of a mask.
const MASK: usize = 64;
/// Zeros among which, wherever they begin, are 64 in a row that a walk in steps of 64 sees.
const LONG: usize = 2 * MASK - 1;
/// Bytes of a word.
const WORD: usize = size_of::<u64>();
/// How far ahead of the block in hand memory is prefetched, in bytes: measured, see `benches`.
const AHEAD: usize = 1024;

/// Proof that this machine has AVX2: it can only be made by asking.
#[derive(Clone, Copy, Debug)]
pub(in crate::scan) struct Avx2(());

impl Avx2 {
    pub(in crate::scan) fn new() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    /// See [`Scanner::runs`](crate::scan::Scanner::runs); `min_gap` is at least 1.
    pub(in crate::scan) fn runs(
        self,
        bytes: &[u8],
        min_gap: usize,
        found: impl FnMut(Range<usize>),
    ) {
        // SAFETY: `self` exists, so the processor has AVX2.
        unsafe { runs(bytes, min_gap, found) }
    }
}

#[target_feature(enable = "avx2")]
fn runs(bytes: &[u8], min_gap: usize, mut found: impl FnMut(Range<usize>)) {
    let mut start = next_nonzero(bytes, 0);
    while start < bytes.len() {
        let end = match min_gap {
            ..LONG => next_gap(bytes, start, min_gap),
            LONG.. => next_long_gap(bytes, start, min_gap),
        };
        found(start..end);
        start = next_nonzero(bytes, end);
    }
}

/// The 128 bytes of `bytes` from `at` on, and memory further on prefetched.
#[inline]
#[target_feature(enable = "avx2")]
fn block(bytes: &[u8], at: usize) -> [__m256i; 4] {
    let block = &bytes[at..at + BLOCK];
    let ptr = block.as_ptr().cast::<__m256i>();
    let ahead = block.as_ptr().wrapping_add(AHEAD).cast::<i8>();
    // SAFETY: `block` has 128 bytes, four times the 32 that each unaligned load reads. A prefetch
    // is a hint that reads nothing, its address may be anything.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(ahead);
        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(MASK));
        [0, 1, 2, 3].map(|i| _mm256_loadu_si256(ptr.add(i)))
    }
}

/// The index of the first byte from `from` on that is not zero, or the length.
#[target_feature(enable = "avx2")]
fn next_nonzero(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while bytes.len() - at >= BLOCK {
        let [a, b, c, d] = block(bytes, at);
        let all = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
        if _mm256_testz_si256(all, all) == 0 {
            let (low, high) = (!mask(a, b), !mask(c, d));
            return at
                + match low {
                    0 => MASK + high.trailing_zeros() as usize,
                    _ => low.trailing_zeros() as usize,
                };
        }
        at += BLOCK;
    }
    scalar::next_nonzero(bytes, at)
}

/// The index after the last byte of the run that starts at `from`: there `min_gap` zeros begin, or
/// nothing but zeros follows.
#[target_feature(enable = "avx2")]
fn next_gap(bytes: &[u8], from: usize, min_gap: usize) -> usize {
    // Zeros that reach from block to block are at most seven in either beyond words that are all zero.
    let words = min_gap > 2 * (WORD - 1);
    let mut at = from;
    // The zeros that end right before `at`.
    let mut zeros = 0;
    // Whether these are not counted yet: after a block without zero words, which has seven at most.
    let mut passed = false;
    while bytes.len() - at >= BLOCK {
        let [a, b, c, d] = block(bytes, at);
        // One test for all of them: which of two is due would be as good as random in data that has
        // single zeros, and guessed wrong half the time.
        let nothing = match words {
            true => zeros + WORD - 1 < min_gap && !has_zero_word([a, b, c, d]),
            false => !has_zero([a, b, c, d]),
        };
        if nothing {
            (zeros, passed) = (0, true);
            at += BLOCK;
            continue;
        }
        if mem::take(&mut passed) {
            zeros = trailing_zeros_of_word(bytes, at);
        }
        let all = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
        if _mm256_testz_si256(all, all) != 0 {
            // Long zeros, at the speed of a search for their end.
            // The zeros that a gap lacks: none if a writer of a mapped file has made more than it needs.
            let missing = min_gap.saturating_sub(zeros);
            let end = at + missing.min(bytes.len() - at);
            let next = next_nonzero(&bytes[..end], at);
            zeros += next - at;
            at = next;
            if zeros >= min_gap {
                return at - zeros;
            }
            continue;
        }
        for [low, high] in [[a, b], [c, d]] {
            match advance(mask(low, high), zeros, min_gap) {
                Step::Gap(offset) => return at + offset - zeros,
                Step::Zeros(trailing) => zeros = trailing,
            }
            at += MASK;
        }
    }
    if passed {
        zeros = trailing_zeros_of_word(bytes, at);
    }
    end_of_run(bytes, at, zeros, min_gap)
}

/// The same as [`next_gap`] for `min_gap` of at least [`LONG`]: only where 64 bytes are zero, or twice
/// 64 in a row if the gap must have as many, does it matter what is beside them.
#[target_feature(enable = "avx2")]
fn next_long_gap(bytes: &[u8], from: usize, min_gap: usize) -> usize {
    let zeros = _mm256_setzero_si256();
    let single = i32::from(min_gap < LONG + MASK);
    let mut at = from;
    // Whether the 64 bytes before `at` are zero.
    let mut before = 0;
    while bytes.len() - at >= BLOCK {
        let [a, b, c, d] = block(bytes, at);
        let (low, high) = (_mm256_or_si256(a, b), _mm256_or_si256(c, d));
        // In dense memory hardly a block gets further than this, the quickest test that there is.
        let least = _mm256_min_epu8(low, high);
        if _mm256_movemask_epi8(_mm256_cmpeq_epi8(least, zeros)) == 0 {
            before = 0;
            at += BLOCK;
            continue;
        }
        let (low, high) = (_mm256_testz_si256(low, low), _mm256_testz_si256(high, high));
        if (before | high) & low | (low | high) & single == 0 {
            before = high;
            at += BLOCK;
            continue;
        }
        let zero = match (before, low) {
            (1, _) => at - MASK,
            (_, 1) => at,
            _ => at + MASK,
        };
        let start = zero - trailing_zeros(&bytes[from..zero]);
        // Zeros that were not there before can be enough by themselves.
        let enough = (start + min_gap.min(bytes.len() - start)).max(zero);
        at = next_nonzero(&bytes[..enough], zero);
        if at - start >= min_gap {
            return start;
        }
        before = 0;
    }
    end_of_run(bytes, at, trailing_zeros(&bytes[from..at]), min_gap)
}

/// Whether any of the bytes of a block is zero.
#[inline]
#[target_feature(enable = "avx2")]
fn has_zero([a, b, c, d]: [__m256i; 4]) -> bool {
    let least = _mm256_min_epu8(_mm256_min_epu8(a, b), _mm256_min_epu8(c, d));
    _mm256_movemask_epi8(_mm256_cmpeq_epi8(least, _mm256_setzero_si256())) != 0
}

/// Whether any of the words of a block is zero.
#[inline]
#[target_feature(enable = "avx2")]
fn has_zero_word(block: [__m256i; 4]) -> bool {
    let zero = _mm256_setzero_si256();
    let [a, b, c, d] = block.map(|v| _mm256_cmpeq_epi64(v, zero));
    let any = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
    _mm256_testz_si256(any, any) == 0
}

/// The zeros at the end of the word that ends at `end`.
#[inline]
fn trailing_zeros_of_word(bytes: &[u8], end: usize) -> usize {
    let word = bytes[..end].last_chunk().map_or(0, |word| u64::from_le_bytes(*word));
    word.leading_zeros() as usize / 8
}

/// The zeros at the end of `bytes`, of which there are few.
#[inline]
#[target_feature(enable = "avx2")]
fn trailing_zeros(bytes: &[u8]) -> usize {
    if let Some(last) = bytes.last_chunk::<MASK>() {
        let ptr = last.as_ptr().cast::<__m256i>();
        // SAFETY: `last` has 64 bytes, twice the 32 that each unaligned load reads.
        let zeros = unsafe { mask(_mm256_loadu_si256(ptr), _mm256_loadu_si256(ptr.add(1))) };
        if zeros != u64::MAX {
            return zeros.leading_ones() as usize;
        }
    }
    bytes.iter().rev().take_while(|byte| **byte == 0).count()
}

/// Looks at what is less than a block a byte at a time; `zeros` zeros end right before `at`.
fn end_of_run(bytes: &[u8], at: usize, mut zeros: usize, min_gap: usize) -> usize {
    for (i, byte) in bytes.iter().enumerate().skip(at) {
        zeros = if *byte == 0 { zeros + 1 } else { 0 };
        if zeros >= min_gap {
            return i + 1 - zeros;
        }
    }
    bytes.len() - zeros
}

/// A bit for each of 64 bytes, set where the byte is zero.
#[inline]
#[target_feature(enable = "avx2")]
fn mask(low: __m256i, high: __m256i) -> u64 {
    let zero = _mm256_setzero_si256();
    let bits = |v| u64::from(_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, zero)).cast_unsigned());
    bits(low) | bits(high) << 32
}

/// What 64 bytes add to a run.
enum Step {
    /// A gap begins this many bytes after the zeros before these bytes began.
    Gap(usize),
    /// There is none yet, and this many zeros end these bytes.
    Zeros(usize),
}

/// Looks for `min_gap` zeros in the bytes of `mask`, which `zeros` zeros precede.
#[inline]
fn advance(mask: u64, zeros: usize, min_gap: usize) -> Step {
    let leading = mask.trailing_ones() as usize;
    if zeros + leading >= min_gap {
        return Step::Gap(0);
    }
    if leading == MASK {
        return Step::Zeros(zeros + MASK);
    }
    if min_gap < MASK {
        let starts = starts_of_ones(mask, min_gap);
        if starts != 0 {
            return Step::Gap(starts.trailing_zeros() as usize + zeros);
        }
    }
    Step::Zeros(mask.leading_ones() as usize)
}

/// The bits of `mask` at which `count` ones begin; `count` is from 1 to 64.
#[inline]
fn starts_of_ones(mask: u64, count: usize) -> u64 {
    let mut starts = mask;
    // Each bit of `starts` says that `have` ones begin there.
    let mut have = 1;
    while have < count && starts != 0 {
        let step = have.min(count - have);
        starts &= starts >> step;
        have += step;
    }
    starts
}
