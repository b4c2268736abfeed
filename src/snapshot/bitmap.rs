//! A set of pages, as one bit per page.
//!
//! # The cost
//! The words are [`Zeroed`], so the pages of a huge and sparse memory cost nothing until a bit of them is set. A summary with one bit per word makes a walk over a nearly empty set fast: 8 GiB are 512 words of it.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "page indices are below the length of the set, which the methods assert in their contracts; the number of \
              pages of an address space is far below 2^64"
)]

use std::ops::Range;

use super::zeroed::Zeroed;
use crate::error::Result;

const BITS: usize = u64::BITS as usize;

/// A set of page indices below a fixed length.
pub(super) struct Bitmap {
    words: Zeroed<u64>,
    /// Bit `i` is set if word `i` may have a bit.
    summary: Zeroed<u64>,
    pages: usize,
    len: usize,
}

impl Bitmap {
    /// Returns an empty set of page indices below `pages`.
    ///
    /// # Errors
    /// Returns an error if the addresses for it cannot be reserved.
    pub(super) fn new(pages: usize) -> Result<Self> {
        let words = pages.div_ceil(BITS);
        let table = |len| Zeroed::new(len, "the table of pages of a snapshot");
        let (words, summary) = (table(words)?, table(words.div_ceil(BITS))?);
        Ok(Self { words, summary, pages, len: 0 })
    }

    /// Returns a set with the same pages, for page indices below `pages`, which must not be less than before.
    pub(super) fn grown(&self, pages: usize) -> Result<Self> {
        let mut grown = Self::new(pages)?;
        for run in self.runs(0..self.pages) {
            grown.insert(run);
        }
        Ok(grown)
    }

    /// Returns the number of pages in the set.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns whether `page` is in the set. A page that is out of range is not.
    pub(super) fn contains(&self, page: usize) -> bool {
        page < self.pages && self.words.get()[page / BITS] >> (page % BITS) & 1 == 1
    }

    /// Adds `pages`, which must be in range.
    pub(super) fn insert(&mut self, pages: Range<usize>) {
        let summary = self.summary.get_mut();
        let words = self.words.get_mut();
        for (word, mask) in masks(pages) {
            self.len += (mask & !words[word]).count_ones() as usize;
            words[word] |= mask;
            summary[word / BITS] |= 1 << (word % BITS);
        }
    }

    /// Removes `pages`, which must be in range.
    pub(super) fn remove(&mut self, pages: Range<usize>) {
        let words = self.words.get_mut();
        for (word, mask) in masks(pages) {
            self.len -= (mask & words[word]).count_ones() as usize;
            words[word] &= !mask;
        }
    }

    /// Returns the maximal runs of pages of the set within `range`, in order.
    pub(super) fn runs(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let start = self.next_in(at, range.end)?;
            at = self.next_out(start, range.end);
            Some(start..at)
        })
    }

    /// Returns the first page of the set from `at` on, before `end`.
    pub(super) fn next_in(&self, at: usize, end: usize) -> Option<usize> {
        let end = end.min(self.pages);
        if at >= end {
            return None;
        }
        let words = self.words.get();
        let first = words[at / BITS] & u64::MAX << (at % BITS);
        let found = |word: usize, bits: u64| {
            Some(word * BITS + bits.trailing_zeros() as usize).filter(|page| *page < end)
        };
        if first != 0 {
            return found(at / BITS, first);
        }
        let mut word = at / BITS + 1;
        let last = end.div_ceil(BITS);
        let summary = self.summary.get();
        while word < last {
            // Skips words that never had a bit.
            let marks = summary[word / BITS] >> (word % BITS);
            if marks == 0 {
                word = (word / BITS + 1) * BITS;
                continue;
            }
            word += marks.trailing_zeros() as usize;
            if word >= last {
                return None;
            }
            if words[word] != 0 {
                return found(word, words[word]);
            }
            word += 1;
        }
        None
    }

    /// Returns the first page from `at` on that is not in the set, or `end`.
    pub(super) fn next_out(&self, at: usize, end: usize) -> usize {
        let mut at = at;
        let words = self.words.get();
        while at < end.min(self.pages) {
            let free = !words[at / BITS] & u64::MAX << (at % BITS);
            let word = at / BITS * BITS;
            if free != 0 {
                return (word + free.trailing_zeros() as usize).min(end);
            }
            at = word + BITS;
        }
        at.min(end)
    }
}

/// Returns the words that contain `pages`, with the bits of these pages.
fn masks(pages: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let Range { mut start, end } = pages;
    std::iter::from_fn(move || {
        if start >= end {
            return None;
        }
        let (word, bit) = (start / BITS, start % BITS);
        let count = (BITS - bit).min(end - start);
        start += count;
        Some((word, u64::MAX >> (BITS - count) << bit))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Adjacent ranges of `true` or `false`, and where they lie.
    fn operations() -> impl Strategy<Value = Vec<(bool, Range<usize>)>> {
        let range = (0..20_000_usize, prop_oneof![1..4_usize, 1..300_usize, 1..9000_usize])
            .prop_map(|(start, len)| start..(start + len).min(20_000));
        proptest::collection::vec((proptest::bool::weighted(0.7), range), 0..30)
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(operations in operations(), within in (0..20_000_usize, 0..25_000_usize)) {
            let (mut bitmap, mut set) = (Bitmap::new(20_000).unwrap(), BTreeSet::new());
            for (insert, pages) in operations {
                if insert {
                    bitmap.insert(pages.clone());
                    set.extend(pages);
                } else {
                    bitmap.remove(pages.clone());
                    set.retain(|page| !pages.contains(page));
                }
            }
            prop_assert_eq!(bitmap.len(), set.len());
            let within = within.0..within.1;
            let expected: Vec<usize> = set.iter().copied().filter(|p| within.contains(p)).collect();
            for bitmap in [&bitmap, &bitmap.grown(30_000).unwrap()] {
                let found: Vec<usize> = bitmap.runs(within.clone()).flatten().collect();
                prop_assert_eq!(&found, &expected);
                let runs: Vec<_> = bitmap.runs(within.clone()).collect();
                prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert!(expected.iter().all(|page| bitmap.contains(*page)));
                prop_assert!(!bitmap.contains(usize::MAX));
            }
        }
    }
}
