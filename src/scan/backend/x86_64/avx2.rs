//! The AVX2 backend. It tests blocks of 128 bytes and examines single bytes only where a gap can start or end.
//!
//! # The problem
//! The scan reads all data of a guest, so it must keep up with memory. That leaves a few instructions for each 32
//! bytes. Finding each zero byte is too slow in memory that has many. But the result must be the same as that of the
//! [scalar backend](crate::scan::backend::scalar), byte for byte.
//!
//! # The idea
//! Most blocks need one cheap test, which shows that no gap starts or ends in them:
//! - In zeros ([`next_nonzero`]), the bitwise OR of the block is zero.
//! - In a run, with a `min_gap` of at most 14, no byte is zero: the minimum of all bytes is not zero.
//! - In a run, with a larger `min_gap`, no word of 8 bytes is zero ([`find_gap`]). Without a zero word, at most 7
//!   zeros lie on either side of a word boundary, so at most 14 zeros are in a row. Blocks with single zeros
//!   therefore pass this test.
//! - In a run, with a `min_gap` of at least [`LONG_GAP`], no half of a block is zero ([`find_long_gap`]), because a
//!   gap of that length contains one. From `LONG_GAP + 64` on, it contains two in a row.
//!
//! Only if the test fails does the search build a bit mask of the zero bytes and find the gap with shifts
//! ([`search_mask`]). Long gaps switch to the search for their end, which runs at the speed of zeros.
//!
//! # The invariant
//! `zeros` is the number of zeros directly before the current position. After a block without zero words it is at
//! most 7, and is computed only when it is needed.
//!
//! Some bytes are read twice, such as the word before a block. If a mapped file is written to in the meantime, the
//! second read can see more zeros than the first. The runs are then correct for neither time. But positions stay in
//! order and within the slice, and the caller drops empty runs.
//!
//! # The cost
//! The speed of memory, and 130 to 180 GB/s from the cache (docs/performance.md). Blocks are prefetched
//! [`PREFETCH_DISTANCE`] ahead. Distances from 0 to 4096 made no difference on the machine of docs/performance.md,
//! but a fifth on others. The slowest case is heap-like memory, with a short gap every few hundred bytes.
#![allow(unsafe_code)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "positions lie in the slice, whose length is at most `isize::MAX`"
)]

use std::arch::x86_64::*;
use std::mem;
use std::ops::Range;

use crate::scan::backend::scalar;

/// The number of bytes that are tested at once.
const BLOCK_BYTES: usize = 128;
/// The number of bytes that a bit mask covers.
const MASK_BYTES: usize = 64;
/// The minimum length of a gap that contains an aligned range of 64 zeros, wherever the gap starts.
const LONG_GAP: usize = 2 * MASK_BYTES - 1;
/// The length of a word in bytes.
const WORD_BYTES: usize = size_of::<u64>();
/// The distance in bytes between the current block and the memory that is prefetched (measured, see `benches`).
const PREFETCH_DISTANCE: usize = 1024;

/// Proof that this machine supports AVX2. The constructor checks that.
#[derive(Clone, Copy, Debug)]
pub(in crate::scan) struct Avx2(());

impl Avx2 {
    pub(in crate::scan) fn new() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    /// Implements [`Scanner::runs`](crate::scan::Scanner::runs). `min_gap` must be at least 1.
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
            ..LONG_GAP => find_gap(bytes, start, min_gap),
            LONG_GAP.. => find_long_gap(bytes, start, min_gap),
        };
        found(start..end);
        start = next_nonzero(bytes, end);
    }
}

/// Loads the 128 bytes of `bytes` at `at`, and prefetches memory further on.
#[inline]
#[target_feature(enable = "avx2")]
fn load_block(bytes: &[u8], at: usize) -> [__m256i; 4] {
    let block = &bytes[at..at + BLOCK_BYTES];
    let ptr = block.as_ptr().cast::<__m256i>();
    let ahead = block.as_ptr().wrapping_add(PREFETCH_DISTANCE).cast::<i8>();
    // SAFETY: `block` has 128 bytes, four times the 32 bytes that each unaligned load reads. A prefetch is a hint
    // that reads nothing, so its address may be arbitrary.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(ahead);
        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(MASK_BYTES));
        [0, 1, 2, 3].map(|i| _mm256_loadu_si256(ptr.add(i)))
    }
}

/// Returns the index of the first non-zero byte at or after `from`, or the length of `bytes`.
#[target_feature(enable = "avx2")]
fn next_nonzero(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while bytes.len() - at >= BLOCK_BYTES {
        let [a, b, c, d] = load_block(bytes, at);
        let all = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
        if _mm256_testz_si256(all, all) == 0 {
            let (low, high) = (!zero_mask(a, b), !zero_mask(c, d));
            return at
                + match low {
                    0 => MASK_BYTES + high.trailing_zeros() as usize,
                    _ => low.trailing_zeros() as usize,
                };
        }
        at += BLOCK_BYTES;
    }
    scalar::next_nonzero(bytes, at)
}

/// Returns the index after the last byte of the run that starts at `from`. There, `min_gap` zeros begin, or only
/// zeros follow.
#[target_feature(enable = "avx2")]
fn find_gap(bytes: &[u8], from: usize, min_gap: usize) -> usize {
    // Without zero words, a block has at most 7 zeros at each end. So zeros that cross from one block to the next are
    // at most 14.
    let words = min_gap > 2 * (WORD_BYTES - 1);
    let mut at = from;
    // The number of zeros directly before `at`.
    let mut zeros = 0;
    // Whether `zeros` must be computed first. This is so after a block without zero words, which ends with at most 7
    // zeros.
    let mut is_stale = false;
    while bytes.len() - at >= BLOCK_BYTES {
        let [a, b, c, d] = load_block(bytes, at);
        // One test per block. In data with single zeros, a cheaper test for zero bytes before the test for zero words
        // would be mispredicted half the time.
        let has_no_gap = match words {
            true => zeros + WORD_BYTES - 1 < min_gap && !has_zero_word([a, b, c, d]),
            false => !has_zero([a, b, c, d]),
        };
        if has_no_gap {
            (zeros, is_stale) = (0, true);
            at += BLOCK_BYTES;
            continue;
        }
        if mem::take(&mut is_stale) {
            zeros = trailing_zeros_of_word(bytes, at);
        }
        let all = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
        if _mm256_testz_si256(all, all) != 0 {
            // Skip long zeros at the speed of a search for their end, but no further than the gap requires. This
            // saturates because a writer of a mapped file can make `zeros` larger than `min_gap`.
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
            match search_mask(zero_mask(low, high), zeros, min_gap) {
                MaskSearch::Gap(offset) => return at + offset - zeros,
                MaskSearch::Zeros(trailing) => zeros = trailing,
            }
            at += MASK_BYTES;
        }
    }
    if is_stale {
        zeros = trailing_zeros_of_word(bytes, at);
    }
    find_end_of_run(bytes, at, zeros, min_gap)
}

/// Like [`find_gap`], for a `min_gap` of at least [`LONG_GAP`]. Only a half block of zeros matters, or two in a row
/// if every gap contains two.
#[target_feature(enable = "avx2")]
fn find_long_gap(bytes: &[u8], from: usize, min_gap: usize) -> usize {
    let zeros = _mm256_setzero_si256();
    let one_is_enough = i32::from(min_gap < LONG_GAP + MASK_BYTES);
    let mut at = from;
    // 1 if the 64 bytes before `at` are zero.
    let mut before = 0;
    while bytes.len() - at >= BLOCK_BYTES {
        let [a, b, c, d] = load_block(bytes, at);
        let (low, high) = (_mm256_or_si256(a, b), _mm256_or_si256(c, d));
        // In dense memory, almost every block ends here, at the cheapest test of all.
        let least = _mm256_min_epu8(low, high);
        if _mm256_movemask_epi8(_mm256_cmpeq_epi8(least, zeros)) == 0 {
            before = 0;
            at += BLOCK_BYTES;
            continue;
        }
        let (low, high) = (_mm256_testz_si256(low, low), _mm256_testz_si256(high, high));
        if (before | high) & low | (low | high) & one_is_enough == 0 {
            before = high;
            at += BLOCK_BYTES;
            continue;
        }
        let zero = match (before, low) {
            (1, _) => at - MASK_BYTES,
            (_, 1) => at,
            _ => at + MASK_BYTES,
        };
        let start = zero - trailing_zeros(&bytes[from..zero]);
        // The zeros before `zero` may be more than before, and may even be enough by themselves.
        let enough = (start + min_gap.min(bytes.len() - start)).max(zero);
        at = next_nonzero(&bytes[..enough], zero);
        if at - start >= min_gap {
            return start;
        }
        before = 0;
    }
    find_end_of_run(bytes, at, trailing_zeros(&bytes[from..at]), min_gap)
}

/// Returns `true` if any byte of a block is zero.
#[inline]
#[target_feature(enable = "avx2")]
fn has_zero([a, b, c, d]: [__m256i; 4]) -> bool {
    let least = _mm256_min_epu8(_mm256_min_epu8(a, b), _mm256_min_epu8(c, d));
    _mm256_movemask_epi8(_mm256_cmpeq_epi8(least, _mm256_setzero_si256())) != 0
}

/// Returns `true` if any word of a block is zero.
#[inline]
#[target_feature(enable = "avx2")]
fn has_zero_word(block: [__m256i; 4]) -> bool {
    let zero = _mm256_setzero_si256();
    let [a, b, c, d] = block.map(|v| _mm256_cmpeq_epi64(v, zero));
    let any = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
    _mm256_testz_si256(any, any) == 0
}

/// Returns the number of zeros at the end of the word that ends at `end`.
#[inline]
fn trailing_zeros_of_word(bytes: &[u8], end: usize) -> usize {
    let word = bytes[..end].last_chunk().map_or(0, |word| u64::from_le_bytes(*word));
    word.leading_zeros() as usize / 8
}

/// Returns the number of zeros at the end of `bytes`, which is expected to be small.
#[inline]
#[target_feature(enable = "avx2")]
fn trailing_zeros(bytes: &[u8]) -> usize {
    if let Some(last) = bytes.last_chunk::<MASK_BYTES>() {
        let ptr = last.as_ptr().cast::<__m256i>();
        // SAFETY: `last` has 64 bytes, twice the 32 bytes that each unaligned load reads.
        let zeros = unsafe { zero_mask(_mm256_loadu_si256(ptr), _mm256_loadu_si256(ptr.add(1))) };
        if zeros != u64::MAX {
            return zeros.leading_ones() as usize;
        }
    }
    bytes.iter().rev().take_while(|byte| **byte == 0).count()
}

/// Searches the last, incomplete block one byte at a time. `zeros` is the number of zeros directly before `at`.
fn find_end_of_run(bytes: &[u8], at: usize, mut zeros: usize, min_gap: usize) -> usize {
    for (i, byte) in bytes.iter().enumerate().skip(at) {
        zeros = if *byte == 0 { zeros + 1 } else { 0 };
        if zeros >= min_gap {
            return i + 1 - zeros;
        }
    }
    bytes.len() - zeros
}

/// Returns a bit for each of 64 bytes, which is set if the byte is zero.
#[inline]
#[target_feature(enable = "avx2")]
fn zero_mask(low: __m256i, high: __m256i) -> u64 {
    let zero = _mm256_setzero_si256();
    let bits = |v| u64::from(_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, zero)).cast_unsigned());
    bits(low) | bits(high) << 32
}

/// The result of a search in 64 bytes.
enum MaskSearch {
    /// A gap begins. The offset counts from the start of the zeros before these bytes.
    Gap(usize),
    /// No gap begins, and the bytes end with this number of zeros.
    Zeros(usize),
}

/// Searches the 64 bytes of `mask` for `min_gap` zeros. `zeros` zeros precede them.
#[inline]
fn search_mask(mask: u64, zeros: usize, min_gap: usize) -> MaskSearch {
    let leading = mask.trailing_ones() as usize;
    if zeros + leading >= min_gap {
        return MaskSearch::Gap(0);
    }
    if leading == MASK_BYTES {
        return MaskSearch::Zeros(zeros + MASK_BYTES);
    }
    if min_gap < MASK_BYTES {
        let starts = starts_of_ones(mask, min_gap);
        if starts != 0 {
            return MaskSearch::Gap(starts.trailing_zeros() as usize + zeros);
        }
    }
    MaskSearch::Zeros(mask.leading_ones() as usize)
}

/// Returns the bits of `mask` at which `count` ones begin; `count` must be from 1 to 64.
#[inline]
fn starts_of_ones(mask: u64, count: usize) -> u64 {
    let mut starts = mask;
    // Each bit of `starts` states that `have` ones begin there.
    let mut have = 1;
    while have < count && starts != 0 {
        let step = have.min(count - have);
        starts &= starts >> step;
        have += step;
    }
    starts
}
