//! Reads many parts of a file with few system calls.
//!
//! The segments of heap-like memory are short, and so are the gaps between them: a call for each costs more
//! than the bytes. So neighbours are read by one `preadv`, which puts the gaps between them into scratch
//! memory. A gap is worth that as long as copying it costs less than a call.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem;

use super::read::read_file_at;
use crate::arithmetic::{Checked, exact};
use crate::error::Result;

/// The longest gap that is read, in bytes.
pub(crate) const MAX_GAP: u64 = 1024;
/// Parts that are read at once; each takes two buffers of the 1024 that a call takes.
const MAX_PARTS: usize = 400;

/// A part of a file: its position, and where its bytes go.
pub(crate) type Part<'b> = (u64, &'b mut [u8]);

/// Fills all `parts`, which are in the order of their positions and do not overlap. `scratch` takes the
/// gaps.
///
/// # Errors
/// The file can't be read, or ends before a part is full.
pub(super) fn read_parts(
    file: &File,
    mut parts: &mut [Part<'_>],
    scratch: &mut [u8],
) -> Result<()> {
    while !parts.is_empty() {
        let count = neighbours(parts, scratch.len())?;
        let (group, after) = parts.split_at_mut(count);
        if count == 1 || !read_at_once(file, group, scratch)? {
            // One by one, so that an error names its place.
            for (position, bytes) in group {
                read_file_at(file, bytes, *position)?;
            }
        }
        parts = after;
    }
    Ok(())
}

/// How many of `parts`, at least one, are read by one call, with `room` bytes for their gaps.
fn neighbours(parts: &[Part<'_>], room: usize) -> Result<usize> {
    let mut room = room as u64;
    let near = parts.iter().zip(parts.iter().skip(1)).take_while(|(part, next)| {
        let distance = next.0.checked_sub(part.0);
        let gap = distance.and_then(|distance| distance.checked_sub(part.1.len() as u64));
        let left = gap.filter(|gap| *gap <= MAX_GAP).and_then(|gap| room.checked_sub(gap));
        room = left.unwrap_or(room);
        left.is_some()
    });
    near.take(MAX_PARTS - 1).count().plus(1)
}

/// Whether one call has filled all parts of a group.
fn read_at_once(file: &File, group: &mut [Part<'_>], mut scratch: &mut [u8]) -> Result<bool> {
    let Some(start) = group.first().map(|(position, _)| *position) else { return Ok(true) };
    let mut slices = Vec::with_capacity(group.len().times(2)?);
    let mut end = start;
    for (position, bytes) in group {
        let gap = exact(position.minus(end)?)?;
        let Some((between, rest)) = mem::take(&mut scratch).split_at_mut_checked(gap) else {
            return Ok(false);
        };
        scratch = rest;
        if gap > 0 {
            slices.push(IoSliceMut::new(between));
        }
        end = position.plus(bytes.len() as u64)?;
        slices.push(IoSliceMut::new(bytes));
    }
    let total = end.minus(start)?;
    Ok(rustix::io::preadv(file, &mut slices, start).is_ok_and(|read| read as u64 == total))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn parts_at_any_distance_are_those_of_the_file() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i / 3).to_le_bytes()[0]).collect();
        file.write_all_at(&bytes, 0).unwrap();
        for room in [0, 100, 64 << 10] {
            for (len, gap) in [(1, 1), (13, 0), (300, 90), (300, 1024), (300, 1025), (5000, 20)] {
                let positions: Vec<usize> = (7..bytes.len() - len).step_by(len + gap).collect();
                let mut buffer = vec![0; positions.len() * len];
                let chunks = buffer.chunks_mut(len).zip(&positions);
                let mut parts: Vec<Part<'_>> =
                    chunks.map(|(chunk, position)| (*position as u64, chunk)).collect();
                read_parts(&file, &mut parts, &mut vec![0; room]).unwrap();
                for (chunk, position) in buffer.chunks(len).zip(positions) {
                    assert!(*chunk == bytes[position..position + len], "{len}, {gap}, {position}");
                }
            }
        }
    }

    #[test]
    fn a_file_that_ends_before_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 1000], 0).unwrap();
        let (mut first, mut second) = ([0; 500], [0; 500]);
        let mut parts: [Part<'_>; 2] = [(0, &mut first), (600, &mut second)];
        let error = read_parts(&file, &mut parts, &mut [0; 4096]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Image);
    }
}
