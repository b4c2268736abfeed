//! Chooses the gaps that split memories into segments.
//!
//! # The problem
//! Every gap between two runs is a possible split. A split saves the zeros of the gap and costs one more segment. A
//! heap-like memory has millions of gaps, and engines accept at most 100,000 segments, so a budget of segments applies.
//! Only the longest gaps are worth it. Which ones they are is known only after the scan, but a list of all gaps would
//! grow with the guest.
//!
//! # The idea
//! A plan costs its payload bytes plus [`SEGMENT_COST`] for each segment. A gap that is not longer than that is never
//! worth a split. Of the longer gaps, the plan keeps as many as the budget allows: with a budget of N segments over M
//! memories that hold data, the N - M longest. Ties go to the lower memory, then to the lower address, so the plan is
//! the same for any number of threads. The choice is optimal: keeping a gap saves its length minus a constant, whatever
//! other gaps are kept.
//!
//! A gap that contains excluded bytes is always kept, whatever its length and the budget. A segment states the content
//! of memory, and the content of excluded bytes is unknown. Such gaps use up the budget first.
//!
//! # The invariant
//! [`KeptGaps`] collects gaps in any order and from any thread. After each call of `take`, its list contains the N - 1
//! longest gaps that were offered so far, and possibly some shorter ones. When the list reaches 2(N - 1) gaps, a
//! linear-time selection cuts it down to N - 1. From then on, the shortest kept gap is a lower bound: a shorter gap can
//! never be among the longest. The bound only rises. The scan reads it and drops shorter gaps in its inner loop.
//!
//! # The cost
//! At most 2(N - 1) gaps of 24 bytes: 4.6 MiB with the default budget. Each selection makes room for N - 1 more gaps,
//! so the selections take constant time per gap that is offered. The scan hands over gaps in batches, one lock for
//! each, and most gaps of a large guest never reach the list: a heap-like GiB with millions of gaps is planned in 4 ms.

use std::cmp::Reverse;
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::arithmetic::Checked;
use crate::error::{Error, Result};
use crate::format::IndexSegment;
use crate::limits;
use crate::model::DumpMemoryIndex;
use crate::scan::{Gap, GapSink};

/// The cost in bytes of one more segment: its header in the data section, about 12 bytes for most addresses of a 32-bit
/// memory, and its 20 bytes in the index.
#[allow(unreachable_pub, reason = "public with the feature `internals`")]
pub const SEGMENT_COST: u64 = 12 + size_of::<IndexSegment>() as u64;

/// The initial capacity of the list of gaps.
const INITIAL_CAPACITY: usize = 4096;

/// The longest of all gaps that it is offered, in any order and from any thread.
///
/// Uses memory proportional to the number of gaps that it keeps.
pub(super) struct KeptGaps {
    budget: usize,
    /// The length in bytes below which a gap cannot be among the longest.
    min_len: AtomicU64,
    gaps: Mutex<Vec<Gap>>,
    /// The gaps with excluded bytes, which are always kept: no more than there are excluded ranges.
    with_excluded: Mutex<Vec<Gap>>,
}

impl KeptGaps {
    /// Returns an empty list for a plan of at most `budget` segments.
    pub(super) fn new(budget: u32) -> Self {
        let budget = budget as usize;
        // A memory's last segment has no gap after it, so a budget of one segment keeps no gap.
        let min_len = if budget < 2 { u64::MAX } else { SEGMENT_COST + 1 };
        let min_len = AtomicU64::new(min_len);
        Self { budget, min_len, gaps: Mutex::default(), with_excluded: Mutex::default() }
    }

    /// Returns the gaps that are kept if `memories` memories hold data, in order of memory and address.
    ///
    /// # Errors
    /// Returns an error if the list cannot be allocated.
    pub(super) fn finish(self, memories: usize) -> Result<Vec<Gap>> {
        let mut gaps = self.gaps.into_inner().unwrap_or_else(PoisonError::into_inner);
        let with_excluded = self.with_excluded.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Memories and excluded ranges alone may exceed the budget. Then no other gap is kept.
        let most = self.budget.saturating_sub(memories).saturating_sub(with_excluded.len());
        keep_longest(&mut gaps, most);
        gaps.shrink_to_fit();
        gaps.try_reserve_exact(with_excluded.len()).map_err(|_| out_of_memory())?;
        gaps.extend(with_excluded);
        gaps.sort_unstable_by_key(|gap| (gap.memory, gap.start));
        Ok(gaps)
    }
}

impl GapSink for KeptGaps {
    fn min_len(&self) -> u64 {
        self.min_len.load(Ordering::Relaxed)
    }

    fn take(&self, found: &mut Vec<Gap>) -> Result<()> {
        let mut gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        let most = self.budget.saturating_sub(1);
        let full = most.times(2)?;
        for gap in found.drain(..) {
            // The bound may have risen since the scan found this gap.
            if gap.len < self.min_len.load(Ordering::Relaxed) {
                continue;
            }
            if gaps.len() == gaps.capacity() {
                // Most guests have few gaps. For the others, one allocation provides the full capacity, so the list is
                // copied only while it is small.
                let all = full.minus(gaps.len())?;
                let room = if gaps.is_empty() { INITIAL_CAPACITY.min(all) } else { all };
                gaps.try_reserve_exact(room).map_err(|_| out_of_memory())?;
            }
            gaps.push(gap);
            if gaps.len() >= full {
                keep_longest(&mut gaps, most);
                if let Some(min_len) = gaps.iter().map(|gap| gap.len).min() {
                    self.min_len.store(min_len, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    fn keep(&self, gap: Gap) -> Result<()> {
        let mut gaps = self.with_excluded.lock().unwrap_or_else(PoisonError::into_inner);
        gaps.try_reserve(1).map_err(|_| out_of_memory())?;
        gaps.push(gap);
        Ok(())
    }
}

fn out_of_memory() -> Error {
    Error::out_of_memory("the table of gaps")
}

/// Truncates `gaps` to the `count` longest ones, ties by memory and address, and leaves them in any order.
fn keep_longest(gaps: &mut Vec<Gap>, count: usize) {
    if let Some(last) = count.checked_sub(1).filter(|_| count < gaps.len()) {
        gaps.select_nth_unstable_by_key(last, |gap| (Reverse(gap.len), gap.memory, gap.start));
    }
    gaps.truncate(count);
}

/// Splits each span at the gaps in it, and passes the memory and the addresses of each segment to `segment`, in order.
pub(super) fn split(
    spans: &[Option<Range<u64>>],
    gaps: &[Gap],
    mut segment: impl FnMut(DumpMemoryIndex, Range<u64>) -> Result<()>,
) -> Result<()> {
    let mut gaps = gaps.iter().peekable();
    // A plan has at most 100 memories, so the index fits in a `u32`.
    for (memory, span) in (0..).zip(spans) {
        let Some(mut rest) = span.clone() else { continue };
        while let Some(gap) = gaps.next_if(|gap| gap.memory == memory) {
            let start = mem::replace(&mut rest.start, gap.end());
            segment(DumpMemoryIndex(memory), start..gap.start)?;
        }
        segment(DumpMemoryIndex(memory), rest)?;
    }
    Ok(())
}

/// Checks that a budget of segments is in range.
pub(super) fn check_budget(budget: u32) -> Result<(), String> {
    let max = limits::MAX_DATA_SEGMENTS;
    match budget {
        0 => Err("at least 1 segment is needed".into()),
        n if n > max => Err(format!("{n} segments are more than the {max} that engines accept")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_longest_gaps_in_any_order() {
        let lengths = [33, 60, 32, 99, 60, 33, 60, 1000, 5];
        let all: Vec<_> = lengths
            .iter()
            .enumerate()
            .map(|(i, len)| Gap { memory: u32::from(i > 4), start: i as u64 * 10_000, len: *len })
            .collect();
        for budget in 1..12 {
            let mut expected: Vec<_> =
                all.iter().filter(|g| g.len > SEGMENT_COST).copied().collect();
            expected.sort_by_key(|g| (Reverse(g.len), g.memory, g.start));
            expected.truncate((budget as usize).saturating_sub(2));
            expected.sort_by_key(|g| (g.memory, g.start));
            for turn in 0..all.len() {
                let kept = KeptGaps::new(budget);
                let mut found: Vec<_> = all[turn..].iter().chain(&all[..turn]).copied().collect();
                while let Some(gap) = found.pop() {
                    if gap.len >= kept.min_len() {
                        kept.take(&mut vec![gap]).unwrap();
                    }
                }
                assert_eq!(kept.finish(2).unwrap(), expected, "budget {budget}, turn {turn}");
            }
        }
    }

    #[test]
    fn excluded_ranges_use_the_budget_first() {
        let gap = |start, len| Gap { memory: 0, start, len };
        let with_excluded = [gap(300, 40), gap(10, 1)];
        let zeros = [gap(20, 100), gap(200, 90), gap(400, 80)];
        for budget in 1..8 {
            let kept = KeptGaps::new(budget);
            with_excluded.iter().for_each(|gap| kept.keep(*gap).unwrap());
            kept.take(&mut zeros.to_vec()).unwrap();
            let mut expected = with_excluded.to_vec();
            expected.extend(zeros.iter().take((budget as usize).saturating_sub(3)));
            expected.sort_by_key(|gap| gap.start);
            assert_eq!(kept.finish(1).unwrap(), expected, "budget {budget}");
        }
    }

    #[test]
    fn splits_spans_at_gaps() {
        let gap = |memory, start, len| Gap { memory, start, len };
        let mut segments = Vec::new();
        split(
            &[Some(0..10), None, Some(5..100)],
            &[gap(0, 4, 2), gap(2, 20, 50)],
            |memory, range| {
                segments.push((memory.0, range));
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(segments, [(0, 0..4), (0, 6..10), (2, 5..20), (2, 70..100)]);
    }
}
