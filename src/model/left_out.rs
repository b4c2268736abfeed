//! Which ranges of a memory are left out of a dump on purpose: what the user says, and what that comes
//! to.

use std::fmt;
use std::ops::{Bound, RangeBounds, RangeInclusive};

use super::MemoryType;

/// A range of addresses as it was given.
#[derive(Clone, Copy, Debug)]
struct Given {
    start: Bound<u64>,
    end: Bound<u64>,
}

impl Given {
    fn new(range: &impl RangeBounds<u64>) -> Self {
        Self { start: range.start_bound().cloned(), end: range.end_bound().cloned() }
    }

    /// The addresses in a memory of `size` bytes; `None` if it begins where the memory ends.
    fn resolve(&self, size: u128) -> Result<Option<RangeInclusive<u64>>, String> {
        let after = |address: u64| u128::from(address) + 1;
        let start = match self.start {
            Bound::Included(start) => u128::from(start),
            Bound::Excluded(before) => after(before),
            Bound::Unbounded => 0,
        };
        let end = match self.end {
            Bound::Included(last) => after(last),
            Bound::Excluded(end) => u128::from(end),
            Bound::Unbounded => size.max(start),
        };
        if end < start || (end == start && self.end != Bound::Unbounded) {
            return Err("is empty, its start must be below its end".into());
        }
        if end > size {
            return Err(format!("is past the end of the memory, which has {size:#x} bytes"));
        }
        // All addresses of a memory fit into 64 bits, its size need not.
        let address = |at: u128| u64::try_from(at).ok();
        let last = end.checked_sub(1).filter(|_| start < end).and_then(address);
        Ok(address(start).zip(last).map(|(first, last)| first..=last))
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.start {
            Bound::Included(start) => write!(f, "{start:#x}")?,
            Bound::Excluded(before) => write!(f, "{:#x}", u128::from(before) + 1)?,
            Bound::Unbounded => {}
        }
        match self.end {
            Bound::Included(last) => write!(f, "..={last:#x}"),
            Bound::Excluded(end) => write!(f, "..{end:#x}"),
            Bound::Unbounded => f.write_str(".."),
        }
    }
}

/// What is wanted of a memory and what is not, as it was given.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    /// Without any, everything is.
    only: Vec<Given>,
    without: Vec<Given>,
}

impl Selection {
    /// Leaves out one more range.
    pub(super) fn leave_out(&mut self, range: &impl RangeBounds<u64>) {
        self.without.push(Given::new(range));
    }

    /// Leaves out everything but one more range.
    pub(super) fn keep_only(&mut self, range: &impl RangeBounds<u64>) {
        self.only.push(Given::new(range));
    }

    /// The ranges of a memory of this type that are left out: in order, not empty, and none touches
    /// another.
    pub(super) fn left_out(&self, ty: &MemoryType) -> Result<Vec<RangeInclusive<u64>>, String> {
        let size = u128::from(ty.minimum).saturating_mul(ty.page_size.into());
        let resolve = |list: &[Given], what: &str| {
            let mut ranges = Vec::with_capacity(list.len());
            for given in list {
                let range = given.resolve(size);
                ranges.extend(range.map_err(|why| format!("the range {given} {what} {why}"))?);
            }
            Ok::<_, String>(joined(ranges))
        };
        let mut left_out = resolve(&self.without, "to leave out")?;
        if !self.only.is_empty() {
            left_out.extend(outside(&resolve(&self.only, "to keep")?, size));
            left_out = joined(left_out);
        }
        Ok(left_out)
    }
}

/// The same addresses as ranges in order, of which none touches another.
fn joined(mut ranges: Vec<RangeInclusive<u64>>) -> Vec<RangeInclusive<u64>> {
    ranges.sort_unstable_by_key(|range| *range.start());
    ranges.dedup_by(|next, range| {
        let touches = *next.start() <= range.end().saturating_add(1);
        if touches {
            *range = *range.start()..=*range.end().max(next.end());
        }
        touches
    });
    ranges
}

/// What is in none of `ranges`, which are joined, of a memory of `size` bytes.
fn outside(ranges: &[RangeInclusive<u64>], size: u128) -> Vec<RangeInclusive<u64>> {
    let mut outside = Vec::new();
    let mut next = 0_u128;
    let mut until = |end: u128, then: u128| {
        // Both are addresses, or one more than the last.
        if let (Ok(first), Some(Ok(last))) =
            (u64::try_from(next), end.checked_sub(1).map(u64::try_from))
            && next < end
        {
            outside.push(first..=last);
        }
        next = then;
    };
    for range in ranges {
        until(u128::from(*range.start()), u128::from(*range.end()) + 1);
    }
    until(size, size);
    outside
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: MemoryType = MemoryType {
        minimum: 1 << 48,
        maximum: None,
        memory64: true,
        shared: false,
        page_size: 65_536,
    };

    fn bytes(len: u64) -> MemoryType {
        MemoryType::wasm32(len).with_page_size(1)
    }

    fn without(ty: &MemoryType, ranges: &[(Bound<u64>, Bound<u64>)]) -> Vec<RangeInclusive<u64>> {
        let mut selection = Selection::default();
        ranges.iter().for_each(|range| selection.leave_out(range));
        selection.left_out(ty).unwrap()
    }

    fn only(ty: &MemoryType, ranges: &[(Bound<u64>, Bound<u64>)]) -> Vec<RangeInclusive<u64>> {
        let mut selection = Selection::default();
        ranges.iter().for_each(|range| selection.keep_only(range));
        selection.left_out(ty).unwrap()
    }

    fn range(start: u64, end: u64) -> (Bound<u64>, Bound<u64>) {
        (Bound::Included(start), Bound::Excluded(end))
    }

    #[test]
    fn ranges_are_put_in_order_and_joined() {
        let ranges = [range(50, 60), range(10, 20), range(20, 30), range(12, 15), range(0, 1)];
        assert_eq!(without(&bytes(100), &ranges), [0..=0, 10..=29, 50..=59]);
        assert_eq!(only(&bytes(100), &ranges), [1..=9, 30..=49, 60..=99]);
        assert_eq!(only(&bytes(60), &ranges), [1..=9, 30..=49]);
        assert_eq!(without(&bytes(100), &[]), []);
    }

    #[test]
    fn the_ends_of_all_addresses() {
        let open = (Bound::Unbounded, Bound::Unbounded);
        let end = (Bound::Included(u64::MAX), Bound::Unbounded);
        let last = (Bound::Excluded(u64::MAX - 1), Bound::Included(u64::MAX));
        assert_eq!(without(&ALL, &[open]), [0..=u64::MAX]);
        assert_eq!(without(&ALL, &[last, end]), [u64::MAX..=u64::MAX]);
        assert_eq!(without(&ALL, &[open, last]), [0..=u64::MAX]);
        assert_eq!(only(&ALL, &[end]), [0..=u64::MAX - 1]);
        assert_eq!(only(&ALL, &[open]), []);
        // Nothing is behind the end of a memory, which is no mistake.
        let behind = (Bound::Included(100), Bound::Unbounded);
        assert_eq!(without(&bytes(100), &[behind]), []);
        assert_eq!(without(&bytes(0), &[open]), []);
        assert_eq!(only(&bytes(0), &[open]), []);
        assert_eq!(only(&bytes(100), &[behind]), [0..=99]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let end = (Bound::Included(101), Bound::Unbounded);
        let exact = (Bound::Excluded(u64::MAX), Bound::Included(u64::MAX));
        for (given, message) in [
            (range(9, 9), "0x9..0x9 to leave out is empty, its start must be below its end"),
            (range(9, 8), "0x9..0x8 to leave out is empty, its start must be below its end"),
            (
                range(0, 101),
                "0x0..0x65 to leave out is past the end of the memory, which has 0x64 bytes",
            ),
            (end, "0x65.. to leave out is past the end of the memory, which has 0x64 bytes"),
            (
                exact,
                "0x10000000000000000..=0xffffffffffffffff to leave out is empty, its start must \
                     be below its end",
            ),
        ] {
            let mut selection = Selection::default();
            selection.leave_out(&given);
            let expected = format!("the range {message}");
            assert_eq!(selection.left_out(&bytes(100)).unwrap_err(), expected);
        }
        let mut selection = Selection::default();
        selection.keep_only(&range(3, 2));
        let error = selection.left_out(&bytes(100)).unwrap_err();
        assert!(error.starts_with("the range 0x3..0x2 to keep is empty"), "{error}");
    }
}
