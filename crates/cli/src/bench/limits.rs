//! The machine's limit for a scan: a plain read of the same bytes by as many threads.

use std::fs::File;
use std::hint::black_box;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use corestream::CoreDump;
use corestream::limits::MAX_THREADS;

use super::row::Row;
use crate::platform::file_data;
use crate::report::Failure;

/// Bytes that a thread takes at once, so that all are done at the same time.
const PART: usize = 2 << 20;

/// The bytes that a scan reads.
pub struct PlainRead<'i> {
    image: &'i [u8],
    /// In order of address; none is empty.
    extents: Vec<Range<usize>>,
    /// For each extent the bytes of all up to its end.
    sums: Vec<usize>,
}

impl<'i> PlainRead<'i> {
    /// Asks the file system of the image at `path` where its data is, if holes are to be trusted.
    pub fn new(path: &Path, guest: &'i CoreDump<'_>, trust_holes: bool) -> Result<Self, Failure> {
        let image = guest.memories[0].image.as_slice().unwrap_or_default();
        let extents = if trust_holes {
            let file = File::open(path);
            let failed = |e| Failure::new(format!("{}: cannot open: {e}", path.display()));
            let data = file_data::ranges(&file.map_err(failed)?, image.len());
            data.unwrap_or_else(|| whole(image.len()))
        } else {
            whole(image.len())
        };
        Ok(Self::of(image, extents))
    }

    /// These extents of an image, in order.
    pub fn of(image: &'i [u8], extents: Vec<Range<usize>>) -> Self {
        let sums = extents.iter().scan(0, |sum, extent| {
            *sum += extent.len();
            Some(*sum)
        });
        let sums = sums.collect();
        Self { image, extents, sums }
    }

    /// The image.
    pub fn image(&self) -> &'i [u8] {
        self.image
    }

    /// How many bytes are read.
    pub fn bytes(&self) -> usize {
        self.sums.last().copied().unwrap_or(0)
    }

    /// The parts of extents that lie in `range`.
    pub fn overlapping(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let first = self.extents.partition_point(|extent| extent.end <= range.start);
        let extents = self.extents[first..].iter();
        let extents = extents.map(move |e| e.start.max(range.start)..e.end.min(range.end));
        extents.take_while(|extent| !extent.is_empty())
    }

    /// Reads all of them once with so many threads, this one included.
    pub fn measure(&self, threads: usize) -> Row {
        let parts = self.bytes().div_ceil(PART);
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let part = next.fetch_add(1, Ordering::Relaxed);
                if part >= parts {
                    break;
                }
                self.part(part * PART, |bytes| {
                    black_box(any_bit(bytes));
                });
            }
        };
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 1..threads.min(parts).min(MAX_THREADS) {
                // The others do the work of one that can't be had.
                let _ = thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        Row::new("plain_read", "plain read", start.elapsed())
    }

    /// Calls `read` with the bytes of the part that begins after so many bytes of all extents.
    fn part(&self, mut at: usize, mut read: impl FnMut(&[u8])) {
        let end = self.bytes().min(at + PART);
        let mut extent = self.sums.partition_point(|sum| *sum <= at);
        while at < end {
            let part_end = self.sums[extent].min(end);
            let last = self.extents[extent].end - (self.sums[extent] - part_end);
            read(&self.image[last - (part_end - at)..last]);
            at = part_end;
            extent += 1;
        }
    }
}

/// All bytes of `bytes` or-ed together, in as many lanes as make it wait for memory alone.
pub fn any_bit(bytes: &[u8]) -> u64 {
    let (lines, rest) = bytes.as_chunks::<64>();
    let lanes = lines.iter().fold([0_u64; 8], |mut lanes, line| {
        for (lane, word) in lanes.iter_mut().zip(line.as_chunks::<8>().0) {
            *lane |= u64::from_ne_bytes(*word);
        }
        lanes
    });
    let rest = rest.iter().fold(0, |all, byte| all | u64::from(*byte));
    lanes.iter().fold(rest, |all, lane| all | lane)
}

/// One extent, or none where there is nothing.
pub fn whole(len: usize) -> Vec<Range<usize>> {
    let whole = 0..len;
    if whole.is_empty() { Vec::new() } else { vec![whole] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_bytes_once() {
        let image: Vec<u8> = (0..9 * PART + 77).map(|i| i.to_le_bytes()[1]).collect();
        let extents = vec![5..6, 10..PART, 2 * PART..5 * PART + 3, 6 * PART..image.len()];
        let expected: Vec<u8> = extents.iter().flat_map(|e| image[e.clone()].to_vec()).collect();
        let read = PlainRead::of(&image, extents);
        assert_eq!(read.bytes(), expected.len());
        let mut bytes: Vec<u8> = Vec::new();
        for at in (0..read.bytes()).step_by(PART) {
            read.part(at, |part| bytes.extend(part));
        }
        assert!(bytes == expected);
        assert_eq!(PlainRead::of(&image, whole(0)).bytes(), 0);
    }

    #[test]
    fn any_bit_sees_every_byte() {
        for len in [0, 1, 63, 64, 65, 200] {
            assert_eq!(any_bit(&vec![0; len]), 0);
            for at in 0..len {
                let mut bytes = vec![0; len];
                bytes[at] = 4;
                assert_ne!(any_bit(&bytes), 0, "{at} of {len}");
            }
        }
    }
}
