//! The machine's limit for a scan: a plain read of the same bytes with the same number of threads.

use std::fs::File;
use std::hint::black_box;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use corestream::CoreDump;
use corestream::limits::MAX_THREADS;

use super::row::Measurement;
use crate::platform::file_data;
use crate::report::Failure;

/// The number of bytes that a thread reads at once. It is small, so that all threads finish at about the same time.
const PART_BYTES: usize = 2 << 20;

/// The bytes that a scan reads.
pub struct PlainRead<'i> {
    image: &'i [u8],
    /// The extents in the order of addresses. None of them is empty.
    extents: Vec<Range<usize>>,
    /// For each extent, the number of bytes in all extents up to its end.
    sums: Vec<usize>,
}

impl<'i> PlainRead<'i> {
    /// Finds the extents of the image at `path`. With `trust_holes`, asks the file system; otherwise the whole image is
    /// one extent.
    ///
    /// # Errors
    /// Returns an error if the image cannot be opened.
    pub fn new(path: &Path, guest: &'i CoreDump<'_>, trust_holes: bool) -> Result<Self, Failure> {
        let image = guest.memories[0].image.as_slice().unwrap_or_default();
        let extents = if trust_holes {
            let file = File::open(path);
            let failed = |e| Failure::new(format!("{}: cannot open: {e}", path.display()));
            let data = file_data::ranges(&file.map_err(failed)?, image.len());
            data.unwrap_or_else(|| one_extent(image.len()))
        } else {
            one_extent(image.len())
        };
        Ok(Self::of(image, extents))
    }

    /// Creates a plain read of these extents of an image, which must be in order.
    pub fn of(image: &'i [u8], extents: Vec<Range<usize>>) -> Self {
        let sums = extents.iter().scan(0, |sum, extent| {
            *sum += extent.len();
            Some(*sum)
        });
        let sums = sums.collect();
        Self { image, extents, sums }
    }

    /// Returns the bytes of the image.
    pub fn image(&self) -> &'i [u8] {
        self.image
    }

    /// Returns the number of bytes to read.
    pub fn bytes(&self) -> usize {
        self.sums.last().copied().unwrap_or(0)
    }

    /// Returns the parts of the extents that lie in `range`.
    pub fn overlapping(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let first = self.extents.partition_point(|extent| extent.end <= range.start);
        let extents = self.extents[first..].iter();
        let extents = extents.map(move |e| e.start.max(range.start)..e.end.min(range.end));
        extents.take_while(|extent| !extent.is_empty())
    }

    /// Reads all extents once with `threads` threads, including the current one.
    pub fn measure(&self, threads: usize) -> Measurement {
        let parts = self.bytes().div_ceil(PART_BYTES);
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let part = next.fetch_add(1, Ordering::Relaxed);
                if part >= parts {
                    break;
                }
                self.read_part(part * PART_BYTES, |bytes| {
                    black_box(or_all(bytes));
                });
            }
        };
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 1..threads.min(parts).min(MAX_THREADS) {
                // If a thread cannot be started, the others do its work.
                let _ = thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        Measurement::new("plain_read", "plain read", start.elapsed())
    }

    /// Calls `read` with the bytes of one part. The part begins after the first `at` bytes of all extents.
    fn read_part(&self, mut at: usize, mut read: impl FnMut(&[u8])) {
        let end = self.bytes().min(at + PART_BYTES);
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

/// Combines all bytes with a bitwise OR: the result is 0 if and only if all bytes are zero. It uses enough lanes that only
/// memory bandwidth limits its speed.
pub fn or_all(bytes: &[u8]) -> u64 {
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

/// Returns one extent for an image of `len` bytes, or none for an empty image.
pub fn one_extent(len: usize) -> Vec<Range<usize>> {
    let extent = 0..len;
    if extent.is_empty() { Vec::new() } else { vec![extent] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_bytes_once() {
        const PART: usize = PART_BYTES;
        let image: Vec<u8> = (0..9 * PART + 77).map(|i| i.to_le_bytes()[1]).collect();
        let extents = vec![5..6, 10..PART, 2 * PART..5 * PART + 3, 6 * PART..image.len()];
        let expected: Vec<u8> = extents.iter().flat_map(|e| image[e.clone()].to_vec()).collect();
        let read = PlainRead::of(&image, extents);
        assert_eq!(read.bytes(), expected.len());
        let mut bytes: Vec<u8> = Vec::new();
        for at in (0..read.bytes()).step_by(PART) {
            read.read_part(at, |part| bytes.extend(part));
        }
        assert!(bytes == expected);
        assert_eq!(PlainRead::of(&image, one_extent(0)).bytes(), 0);
    }

    #[test]
    fn or_all_includes_every_byte() {
        for len in [0, 1, 63, 64, 65, 200] {
            assert_eq!(or_all(&vec![0; len]), 0);
            for at in 0..len {
                let mut bytes = vec![0; len];
                bytes[at] = 4;
                assert_ne!(or_all(&bytes), 0, "{at} of {len}");
            }
        }
    }
}
