//! Which gaps split a memory into segments: the only policy on gaps.
//!
//! A plan costs its payload bytes and [`SEGMENT_COST`] for each segment. A gap that is not longer
//! than that is never worth a split. Of the others as many are kept as the budget of segments
//! allows, the longest first, ties by memory and then by address. That is optimal: keeping a gap
//! saves its length less a constant, whatever else is kept.
//!
//! A gap in which bytes are left out on purpose is always kept, whatever its length and the budget: a
//! segment says what stood in memory, and of those bytes that can't be said.

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

/// What one more segment costs, in bytes: its header in the data section, which has about 12 for
/// most addresses of a 32-bit memory, and its 20 bytes of the index.
#[allow(unreachable_pub, reason = "public with the feature `internals`")]
pub const SEGMENT_COST: u64 = 12 + size_of::<IndexSegment>() as u64;

/// Gaps that the list has room for at first.
const FIRST_ROOM: usize = 4096;

/// A bounded selection: of all gaps it is given, in any order and from any thread, it keeps the
/// longest ones, in memory proportional to how many it keeps.
pub(super) struct Selection {
    budget: usize,
    /// The length below which a gap can't be among those that are kept.
    shortest: AtomicU64,
    gaps: Mutex<Vec<Gap>>,
    /// Gaps that are kept in any case: no more than there are ranges to leave out.
    excluded: Mutex<Vec<Gap>>,
}

impl Selection {
    /// A selection for at most `budget` segments.
    pub(super) fn new(budget: u32) -> Self {
        let budget = budget as usize;
        // The last segment of a memory has no gap after it: a budget of one keeps none.
        let shortest = if budget < 2 { u64::MAX } else { SEGMENT_COST + 1 };
        let shortest = AtomicU64::new(shortest);
        Self { budget, shortest, gaps: Mutex::default(), excluded: Mutex::default() }
    }

    /// The gaps that are kept if `memories` memories hold data, in order of memory and address.
    ///
    /// # Errors
    /// Memory for them can't be had.
    pub(super) fn finish(self, memories: usize) -> Result<Vec<Gap>> {
        let mut gaps = self.gaps.into_inner().unwrap_or_else(PoisonError::into_inner);
        let excluded = self.excluded.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Memories and excluded ranges alone may exceed the budget: then no other gap is kept.
        let most = self.budget.saturating_sub(memories).saturating_sub(excluded.len());
        keep_longest(&mut gaps, most);
        gaps.shrink_to_fit();
        gaps.try_reserve_exact(excluded.len()).map_err(|_| out_of_memory())?;
        gaps.extend(excluded);
        gaps.sort_unstable_by_key(|gap| (gap.memory, gap.start));
        Ok(gaps)
    }
}

impl GapSink for Selection {
    fn min_len(&self) -> u64 {
        self.shortest.load(Ordering::Relaxed)
    }

    fn take(&self, found: &mut Vec<Gap>) -> Result<()> {
        let mut gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        // No gap is kept with a budget of one segment.
        let most = self.budget.saturating_sub(1);
        let full = most.times(2)?;
        for gap in found.drain(..) {
            // What was found before the limit rose may be below it by now.
            if gap.len < self.shortest.load(Ordering::Relaxed) {
                continue;
            }
            if gaps.len() == gaps.capacity() {
                // Most guests need few; the others get all the room at once, so that the list is
                // moved, and for a moment there twice, only while it is small.
                let all = full.minus(gaps.len())?;
                let room = if gaps.is_empty() { FIRST_ROOM.min(all) } else { all };
                gaps.try_reserve_exact(room).map_err(|_| out_of_memory())?;
            }
            gaps.push(gap);
            if gaps.len() >= full {
                keep_longest(&mut gaps, most);
                let least = gaps.iter().map(|gap| gap.len).min();
                if let Some(least) = least {
                    self.shortest.store(least, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    fn keep(&self, gap: Gap) -> Result<()> {
        let mut gaps = self.excluded.lock().unwrap_or_else(PoisonError::into_inner);
        gaps.try_reserve(1).map_err(|_| out_of_memory())?;
        gaps.push(gap);
        Ok(())
    }
}

fn out_of_memory() -> Error {
    Error::out_of_memory("the table of gaps")
}

/// Cuts `gaps` down to the `count` that come first in rank; leaves them in any order.
fn keep_longest(gaps: &mut Vec<Gap>, count: usize) {
    if let Some(last) = count.checked_sub(1).filter(|_| count < gaps.len()) {
        gaps.select_nth_unstable_by_key(last, |gap| (Reverse(gap.len), gap.memory, gap.start));
    }
    gaps.truncate(count);
}

/// The segments of all memories, as memory and range of addresses, in that order: each span, split
/// at the gaps in it.
pub(super) fn split(
    spans: &[Option<Range<u64>>],
    gaps: &[Gap],
    mut segment: impl FnMut(DumpMemoryIndex, Range<u64>) -> Result<()>,
) -> Result<()> {
    let mut gaps = gaps.iter().peekable();
    // A plan has at most 100 memories.
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

/// Checks a budget of segments.
pub(super) fn check_budget(budget: u32) -> Result<(), String> {
    let most = limits::MAX_DATA_SEGMENTS;
    match budget {
        0 => Err("at least 1 segment is needed".into()),
        n if n > most => Err(format!("{n} segments are more than the {most} that engines accept")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_longest_whatever_the_order() {
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
                let selection = Selection::new(budget);
                let mut found: Vec<_> = all[turn..].iter().chain(&all[..turn]).copied().collect();
                while let Some(gap) = found.pop() {
                    if gap.len >= selection.min_len() {
                        selection.take(&mut vec![gap]).unwrap();
                    }
                }
                assert_eq!(selection.finish(2).unwrap(), expected, "budget {budget}, turn {turn}");
            }
        }
    }

    #[test]
    fn excluded_ranges_take_the_budget_first() {
        let gap = |start, len| Gap { memory: 0, start, len };
        let excluded = [gap(300, 40), gap(10, 1)];
        let zeros = [gap(20, 100), gap(200, 90), gap(400, 80)];
        for budget in 1..8 {
            let selection = Selection::new(budget);
            excluded.iter().for_each(|gap| selection.keep(*gap).unwrap());
            selection.take(&mut zeros.to_vec()).unwrap();
            let mut expected = excluded.to_vec();
            expected.extend(zeros.iter().take((budget as usize).saturating_sub(3)));
            expected.sort_by_key(|gap| gap.start);
            assert_eq!(selection.finish(1).unwrap(), expected, "budget {budget}");
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
