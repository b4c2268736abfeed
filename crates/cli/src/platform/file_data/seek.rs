//! The backend for systems with `SEEK_DATA` and `SEEK_HOLE`.

use std::fs::File;
use std::ops::Range;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Returns the data ranges in the first `len` bytes of `file`, or `None` if its file system does not report holes.
pub fn ranges(file: &File, len: usize) -> Option<Vec<Range<usize>>> {
    let (mut ranges, mut at) = (Vec::new(), 0);
    // An offset beyond the address space is beyond the image, which is mapped.
    let index = |at: u64| usize::try_from(at).map_or(len, |at| at.min(len));
    while at < len {
        let start = match seek(file, SeekFrom::Data(at as u64)) {
            Ok(start) => index(start),
            Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = match seek(file, SeekFrom::Hole(start as u64)) {
            Ok(end) if index(end) > start => index(end),
            _ => len,
        };
        if start < end {
            ranges.push(start..end);
        }
        at = end;
    }
    Some(ranges)
}
