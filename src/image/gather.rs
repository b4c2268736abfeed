//! Reads many parts of a file with few system calls.
//!
//! # The problem
//! The segments of heap-like memory are short, and so are the gaps between them. Reading each with its own `pread`
//! costs more than copying its bytes: with one `pread` per segment, a dump of such a memory to a file took 1.9 times
//! the CPU time that it took before image files were copied (docs/performance.md).
//!
//! # The idea
//! One `preadv` reads a group of parts that are close to each other. The gaps between them go to a scratch buffer.
//! This pays off as long as copying a gap costs less than a system call, so a gap longer than [`MAX_READ_GAP`] ends
//! the group. With `preadv`, the factor is 1.2.
//!
//! # The invariant
//! A group is filled completely or not at all: if `preadv` fails or returns fewer bytes, the parts of the group are
//! read one by one. So there is one place for interrupted and short reads ([`read_file_at`]), and an error names the
//! position of the part that failed.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem;

use super::read::read_file_at;
use crate::arithmetic::{Checked, exact};
use crate::error::Result;

/// The maximum length in bytes of a gap that is read along with its neighbors.
pub(crate) const MAX_READ_GAP: u64 = 1024;
/// The maximum number of parts in a group. Each part needs up to two of the 1024 buffers that one call accepts.
const MAX_PARTS: usize = 400;

/// A part of a file: its position, and the buffer for its bytes.
pub(crate) type FilePart<'b> = (u64, &'b mut [u8]);

/// Fills all `parts`, which are in order of position and do not overlap. The gaps between them go to `scratch`.
///
/// # Errors
/// Returns an error if the file cannot be read, or ends before a part is full.
pub(super) fn read_parts(
    file: &File,
    mut parts: &mut [FilePart<'_>],
    scratch: &mut [u8],
) -> Result<()> {
    while !parts.is_empty() {
        let count = group_len(parts, scratch.len())?;
        let (group, after) = parts.split_at_mut(count);
        if count == 1 || !read_group(file, group, scratch)? {
            // Read them one by one, so that an error names the position.
            for (position, bytes) in group {
                read_file_at(file, bytes, *position)?;
            }
        }
        parts = after;
    }
    Ok(())
}

/// Returns the number of `parts`, at least one, that one call reads with `room` bytes for the gaps between them.
fn group_len(parts: &[FilePart<'_>], room: usize) -> Result<usize> {
    let mut room = room as u64;
    let near = parts.iter().zip(parts.iter().skip(1)).take_while(|(part, next)| {
        let distance = next.0.checked_sub(part.0);
        let gap = distance.and_then(|distance| distance.checked_sub(part.1.len() as u64));
        let remaining =
            gap.filter(|gap| *gap <= MAX_READ_GAP).and_then(|gap| room.checked_sub(gap));
        room = remaining.unwrap_or(room);
        remaining.is_some()
    });
    near.take(MAX_PARTS - 1).count().plus(1)
}

/// Reads a group with one call. Returns `true` if the call filled all parts.
fn read_group(file: &File, group: &mut [FilePart<'_>], mut scratch: &mut [u8]) -> Result<bool> {
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
    fn reads_parts_at_any_distance() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i / 3).to_le_bytes()[0]).collect();
        file.write_all_at(&bytes, 0).unwrap();
        for room in [0, 100, 64 << 10] {
            for (len, gap) in [(1, 1), (13, 0), (300, 90), (300, 1024), (300, 1025), (5000, 20)] {
                let positions: Vec<usize> = (7..bytes.len() - len).step_by(len + gap).collect();
                let mut buffer = vec![0; positions.len() * len];
                let chunks = buffer.chunks_mut(len).zip(&positions);
                let mut parts: Vec<FilePart<'_>> =
                    chunks.map(|(chunk, position)| (*position as u64, chunk)).collect();
                read_parts(&file, &mut parts, &mut vec![0; room]).unwrap();
                for (chunk, position) in buffer.chunks(len).zip(positions) {
                    assert!(*chunk == bytes[position..position + len], "{len}, {gap}, {position}");
                }
            }
        }
    }

    #[test]
    fn rejects_a_file_that_ends_early() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 1000], 0).unwrap();
        let (mut first, mut second) = ([0; 500], [0; 500]);
        let mut parts: [FilePart<'_>; 2] = [(0, &mut first), (600, &mut second)];
        let error = read_parts(&file, &mut parts, &mut [0; 4096]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Image);
    }
}
