//! Extents of a file: the ranges that its file system does not report as holes, and a cross-check of the reports.
//!
//! # The problem
//! `SEEK_DATA` and `SEEK_HOLE` find the holes of a sparse file without reading them. But some file systems answer
//! incorrectly: a FUSE or virtiofs server whose `lseek` does not know the file, an NFS server over a file system with
//! delayed allocation, and ZFS releases that report data as a hole until it has been written back. A dump that
//! believes them contains zeros instead of data, and its checksums match.
//!
//! # The idea
//! A file that contains data occupies blocks, and `st_blocks` counts them on another path than `lseek`. The scan
//! counts the bytes of all extents while it reads them. If the file occupies more blocks than these bytes explain,
//! the file system reported data as a hole. Then the plan is made again from the whole file. The check costs one
//! `fstat` at the end, so an honest sparse file takes no longer than without it.
//!
//! Blocks also contain metadata (extent trees, attributes), and `fallocate` reserves blocks in advance. So if a file
//! occupies more than its extents, its allocation is queried first ([`fiemap`]), which distinguishes data from
//! reserved blocks. Where that is unavailable, some metadata is permitted.
//!
//! A file with many holes always has metadata, and its list of allocations is long. So a little metadata is permitted
//! ([`metadata_for_holes`]) before that list is queried. The price is that up to 32 bytes of data per hole can be
//! missed.
//!
//! # Weaknesses and samples
//! The check is weaker for a file that the file system compresses, because it occupies less than its data. It is also
//! weaker if a network client caches `st_blocks`. Therefore the holes of all file systems outside the list in
//! [`has_exact_holes`] are [sampled](CheckedSeek::sample) as well. The samples are pages at both ends of a hole and
//! inside it. One byte that is not zero makes the file doubtful.
//!
//! # The invariants
//! - Every answer is clamped to the queried range and rounded outwards to [`GRAIN_BYTES`]. So each step advances by
//!   at least that much, whatever the answers are.
//! - An answer that cannot be correct, and was therefore clamped, makes the file doubtful.
//!
//! # What was tried
//! Counting the extents before the scan doubles the number of `lseek` calls, which take most of the time for a file
//! with many holes. Trusting only a few file systems would mean reading 64 GiB over a network to find 64 MiB.
//!
//! # Sources
//! [lseek(2)](https://man7.org/linux/man-pages/man2/lseek.2.html), "Seeking file data and holes";
//! [inode(7)](https://man7.org/linux/man-pages/man7/inode.7.html), `st_blocks`.

use std::fs::File;
use std::ops::{Range, RangeInclusive};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::arithmetic::{Checked, at_most};
use crate::error::Result;
use crate::image::backend::file_system::has_exact_holes;
use crate::image::backend::reopen::reopen;
use crate::image::backend::{fiemap, seek};
use crate::image::read::check_len;

/// The length in bytes of a part of a file. The extents that the queue hands out are parts, whose holes are not known
/// yet.
///
/// A query for a hole takes as long as reading a page, so all threads share the work: one thread at a time finds the
/// start of the next data, and the thread that scans the part finds the holes in it.
const PART_BYTES: u64 = 2 << 20;
/// The granularity in bytes to which answers are rounded outwards. Reading this many bytes takes as long as a query.
const GRAIN_BYTES: u64 = 4096;
/// The maximum length in bytes of a file that is read even if it is reported as one hole. A file system may store a
/// small file inside its inode, where it occupies no blocks.
const SMALL_FILE_BYTES: u64 = 64 << 10;
/// The metadata in bytes that any file may occupy: the blocks of a tree, and one block of attributes.
const BASE_METADATA_BYTES: u64 = 16 << 10;
/// The number of bytes in extents that justify one byte of metadata. ext4 and XFS need 12 and 16 bytes per extent,
/// which has at least 4 KiB, in blocks that are at least half full.
const DATA_PER_METADATA: u64 = 64;
/// The metadata in bytes that one hole justifies. ext4 and XFS need 12 and 16 bytes for the extent after it, in
/// blocks that are at least half full.
const METADATA_PER_HOLE: u64 = 32;
/// The maximum number of holes without extra metadata. They need no block of metadata, or their allocation is short
/// to list.
const FEW_HOLES: u64 = 16;
/// The unit of `st_blocks` in bytes.
const STAT_BLOCK_BYTES: u64 = 512;
/// The length of a sample in bytes.
const SAMPLE_BYTES: usize = 4096;
/// The maximum number of samples of one hole.
const MAX_SAMPLES_PER_HOLE: u64 = 8;
/// The maximum number of samples of one file.
const MAX_SAMPLES_PER_FILE: u32 = 4096;

/// The ability of a file system to report the holes of a file.
pub(super) enum HoleSupport {
    /// The file system cannot report holes.
    Unsupported,
    /// It reports the whole file as a hole, although the file occupies blocks. Contains the reason.
    Doubtful(String),
    /// It reports the whole of a small file as a hole, and nothing contradicts that.
    SmallHole,
    /// It can be queried for holes.
    Supported(Arc<CheckedSeek>),
}

/// Finds out whether the file system can report the holes in the first `len` bytes of `file`.
///
/// # Errors
/// Returns an error of [`Internal`](crate::ErrorKind::Internal) if a sum overflows.
pub(super) fn probe_holes(file: &File, len: u64) -> Result<HoleSupport> {
    let checked_seek = CheckedSeek::new(file, len);
    let Some(first) = checked_seek.find_data(file, 0, len) else {
        return Ok(HoleSupport::Unsupported);
    };
    if len > 0 && first >= len {
        if let Some(why) = find_contradiction(file, 0, &[], &checked_seek)? {
            return Ok(HoleSupport::Doubtful(why));
        }
        if len <= SMALL_FILE_BYTES {
            return Ok(HoleSupport::SmallHole);
        }
    }
    Ok(HoleSupport::Supported(Arc::new(checked_seek)))
}

/// Returns the reason why the extents of a file cannot be all of its data, or `None` if they can be. The extents have
/// `data` bytes outside of `excluded`.
///
/// # Errors
/// Returns an error of [`Internal`](crate::ErrorKind::Internal) if a sum overflows.
pub(super) fn find_contradiction(
    file: &File,
    data: u64,
    excluded: &[RangeInclusive<u64>],
    checked_seek: &CheckedSeek,
) -> Result<Option<String>> {
    if checked_seek.found_data_in_hole.load(Ordering::Relaxed) {
        let why = "SEEK_DATA reports non-zero bytes as a hole; the whole file was read";
        return Ok(Some(why.into()));
    }
    if checked_seek.found_invalid_answer.load(Ordering::Relaxed) {
        let why = "SEEK_DATA and SEEK_HOLE give impossible answers; the whole file was read";
        return Ok(Some(why.into()));
    }
    // A file that has grown occupies more blocks. Count its new data as well.
    let len = current_len(file).max(checked_seek.len);
    let mut data = data;
    if len > checked_seek.len {
        data = data.plus(count_data(file, checked_seek.len..len, &CheckedSeek::new(file, len))?)?;
    }
    // If the metadata cannot be read, nothing contradicts the extents.
    let Ok(metadata) = file.metadata() else { return Ok(None) };
    let Some(occupied) = metadata.blocks().checked_mul(STAT_BLOCK_BYTES) else {
        let why = "the file system reports an impossible number of blocks; the whole file was read";
        return Ok(Some(why.into()));
    };
    let metadata = metadata_for_holes(checked_seek.holes.load(Ordering::Relaxed))?;
    if occupied <= data.plus(metadata)? {
        return Ok(None);
    }
    for range in excluded {
        // No image has a byte at the highest address.
        let end =
            range.end().checked_add(1).map_or(checked_seek.len, |end| end.min(checked_seek.len));
        data = data.plus(count_data(file, *range.start()..end, checked_seek)?)?;
    }
    Ok((!is_explained(file, len, data, occupied)).then(|| {
        format!(
            "SEEK_DATA finds {data} bytes of data in a file that occupies {occupied} bytes; the \
             whole file was read"
        )
    }))
}

/// Returns `true` if a file of `len` bytes with `data` bytes of data may occupy `occupied` bytes.
fn is_explained(file: &File, len: u64, data: u64, occupied: u64) -> bool {
    if occupied <= data {
        return true;
    }
    // Without a flush, reserved blocks count as unwritten until the page cache is written back to them.
    let flush = !has_exact_holes(file);
    match fiemap::allocation(file, len, flush) {
        Ok(allocated) => {
            let most = data.checked_add(allocated.unwritten).and_then(max_occupied);
            allocated.data <= data && most.is_none_or(|most| occupied <= most)
        }
        // A file without data has no metadata either.
        Err(_) => data > 0 && max_occupied(data).is_none_or(|most| occupied <= most),
    }
}

/// Returns the metadata in bytes that is permitted for a file with this many holes without listing its allocation.
/// Listing takes about 3 µs per extent, as long as finding the holes.
fn metadata_for_holes(holes: u64) -> Result<u64> {
    if holes <= FEW_HOLES { Ok(0) } else { holes.times(METADATA_PER_HOLE)?.plus(GRAIN_BYTES) }
}

/// Returns the maximum number of bytes that a file with `data` bytes of data occupies, or `None` if there is no
/// maximum.
fn max_occupied(data: u64) -> Option<u64> {
    data.checked_add(data / DATA_PER_METADATA)?.checked_add(BASE_METADATA_BYTES)
}

/// Returns the current length of `file`, or 0 if it is unknown.
fn current_len(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

/// Returns the number of bytes of data in a range of a file, without reading them.
fn count_data(file: &File, range: Range<u64>, checked_seek: &CheckedSeek) -> Result<u64> {
    let mut rest = range;
    let mut bytes = 0_u64;
    // `next_extent` takes no samples: excluded bytes must not be read.
    while let Some((_, extent)) = checked_seek.next_extent(file, &mut rest) {
        bytes = bytes.plus(extent.end.minus(extent.start)?)?;
    }
    Ok(bytes)
}

/// Returns the next part of `file` that starts with data at or after `at`. It may contain holes, which a
/// [`HoleFinder`] finds. The part is empty after the last one. No samples are read at or after `excluded`.
///
/// # Errors
/// Returns an error if the file is shorter than it was.
pub(super) fn next_part(
    file: &File,
    at: u64,
    excluded: u64,
    checked_seek: &CheckedSeek,
) -> Result<Range<u64>> {
    let len = checked_seek.len;
    let data = checked_seek.find_data(file, at, len).unwrap_or(at);
    if data >= len {
        check_len(file, len)?;
    }
    let start = round_down(data).max(at);
    checked_seek.holes.fetch_add((start > at).into(), Ordering::Relaxed);
    checked_seek.sample(file, at..start.min(excluded));
    Ok(start..start.checked_add(PART_BYTES).map_or(len, |end| end.min(len)))
}

fn round_down(position: u64) -> u64 {
    position & !(GRAIN_BYTES - 1)
}

/// Finds the holes in parts of the image of a file. Each thread has its own.
pub(crate) struct HoleFinder<'i> {
    handle: Handle<'i>,
    checked_seek: Arc<CheckedSeek>,
    /// The number of holes found. A counter shared by the threads would cost as much as `lseek`.
    count: u64,
}

/// The file to query.
enum Handle<'i> {
    Shared(&'i File),
    /// A second open file description. The kernel locks the file position during `lseek`, so threads that share a
    /// description wait for each other.
    Reopened(File),
}

impl Handle<'_> {
    fn file(&self) -> &File {
        match self {
            Self::Shared(file) => file,
            Self::Reopened(file) => file,
        }
    }
}

impl<'i> HoleFinder<'i> {
    pub(super) fn new(file: &'i File, checked_seek: Arc<CheckedSeek>) -> Self {
        // On other file systems, opening the file again may cost a request to a server.
        let reopened = if checked_seek.is_exact { reopen(file).ok() } else { None };
        Self {
            handle: reopened.map_or(Handle::Shared(file), Handle::Reopened),
            checked_seek,
            count: 0,
        }
    }

    /// Removes the next extent without holes from the front of `part` and returns it. Returns `None` if there is
    /// none.
    ///
    /// # Errors
    /// Returns an error of [`Internal`](crate::ErrorKind::Internal) if there are too many holes to count.
    pub(crate) fn next_extent(&mut self, part: &mut Range<u64>) -> Result<Option<Range<u64>>> {
        let (file, at) = (self.handle.file(), part.start);
        let found = self.checked_seek.next_extent(file, part);
        let hole_end = found.as_ref().map_or(part.end, |(hole_end, _)| *hole_end);
        self.count = self.count.plus((hole_end > at).into())?;
        self.checked_seek.sample(file, at..hole_end);
        Ok(found.map(|(_, extent)| extent))
    }
}

impl Drop for HoleFinder<'_> {
    fn drop(&mut self) {
        self.checked_seek.holes.fetch_add(self.count, Ordering::Relaxed);
    }
}

/// `SEEK_DATA` and `SEEK_HOLE` on one file, with checks of the answers. The threads of a scan share it.
pub(crate) struct CheckedSeek {
    /// The length of the image in bytes.
    len: u64,
    /// Whether the answers of the file system are known to be exact.
    is_exact: bool,
    /// The number of samples that may still be taken; 0 if the answers of the file system are exact.
    samples: AtomicU32,
    /// The number of holes found. A hole that crosses the boundary between two parts counts twice.
    holes: AtomicU64,
    /// Whether a sampled byte in a hole was not zero.
    found_data_in_hole: AtomicBool,
    /// Whether an answer was before the queried position or past the end of the file, or data had no end.
    found_invalid_answer: AtomicBool,
    /// The last range without holes that extends past the part in which it was found.
    ///
    /// Each part queries the end of the data at its start. tmpfs answers by walking the pages up to there. Without
    /// this field, the parts of a dense file together would take time quadratic in its length.
    last_data: Mutex<Range<u64>>,
    /// The end of `last_data`. For positions after it, the threads need no lock, which they would otherwise take for
    /// each extent.
    last_data_end: AtomicU64,
}

impl CheckedSeek {
    fn new(file: &File, len: u64) -> Self {
        let is_exact = has_exact_holes(file);
        let samples = AtomicU32::new(if is_exact { 0 } else { MAX_SAMPLES_PER_FILE });
        let (found_data_in_hole, found_invalid_answer) = Default::default();
        let (holes, last_data, last_data_end) = Default::default();
        Self {
            len,
            is_exact,
            samples,
            holes,
            found_data_in_hole,
            found_invalid_answer,
            last_data,
            last_data_end,
        }
    }

    /// Returns the position of the first data at or after `at`, or `end` if there is none before `end`. Returns
    /// `None` if the file system cannot tell.
    fn find_data(&self, file: &File, at: u64, end: u64) -> Option<u64> {
        if self.known_end_of_data(at).is_some() {
            return Some(at);
        }
        match seek::data(file, at) {
            Ok(Some(data)) => {
                self.check_answer(file, data, data >= at);
                Some(data.clamp(at, end.max(at)))
            }
            Ok(None) => Some(end),
            Err(()) => None,
        }
    }

    /// Returns the end of the data at `at`, or `end` if the data extends at least that far.
    fn find_hole(&self, file: &File, at: u64, end: u64) -> u64 {
        if let Some(hole) = self.known_end_of_data(at) {
            return hole.min(end);
        }
        match seek::hole(file, at) {
            Some(hole) => {
                // The data at `at` has at least one byte.
                self.check_answer(file, hole, hole > at);
                if hole > end {
                    *self.last_data.lock().unwrap_or_else(PoisonError::into_inner) = at..hole;
                    self.last_data_end.fetch_max(hole, Ordering::Relaxed);
                }
                if hole > at { hole.min(end) } else { end }
            }
            // Either the file was truncated between the two calls, which the reader detects, or one of the answers is
            // wrong. Such a file must be doubtful: otherwise, zeros that count as data could make up for data that
            // was reported as a hole.
            None => {
                self.found_invalid_answer.store(true, Ordering::Relaxed);
                end
            }
        }
    }

    /// Returns the end of the data at `at` if another part has found it.
    fn known_end_of_data(&self, at: u64) -> Option<u64> {
        if at >= self.last_data_end.load(Ordering::Relaxed) {
            return None;
        }
        let known = self.last_data.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains(&at).then_some(known.end)
    }

    /// Records an answer that cannot be correct: one before the queried position, or one past the end of the file.
    fn check_answer(&self, file: &File, answer: u64, follows: bool) {
        // Answers describe the current file, which may have grown.
        if !follows || (answer > self.len && answer > current_len(file)) {
            self.found_invalid_answer.store(true, Ordering::Relaxed);
        }
    }

    /// Removes the next extent without holes from the front of `part`. Returns it together with the end of the hole
    /// before it, or `None` if there is no extent.
    fn next_extent(&self, file: &File, part: &mut Range<u64>) -> Option<(u64, Range<u64>)> {
        let Range { start: at, end } = *part;
        if at >= end {
            return None;
        }
        let data = self.find_data(file, at, end).unwrap_or(at);
        if data >= end {
            part.start = end;
            return None;
        }
        let start = round_down(data).max(at);
        let hole = self.find_hole(file, data, end);
        let extent = start..hole.checked_next_multiple_of(GRAIN_BYTES).unwrap_or(end).min(end);
        part.start = extent.end;
        Some((start, extent))
    }

    /// Reads pages at both ends of `hole`, and at even distances between them.
    fn sample(&self, file: &File, hole: Range<u64>) {
        if hole.is_empty() || self.samples.load(Ordering::Relaxed) == 0 {
            return;
        }
        let last = hole.end.checked_sub(SAMPLE_BYTES as u64);
        let last = last.map_or(hole.start, |last| last.max(hole.start));
        let step =
            (last.abs_diff(hole.start) / (MAX_SAMPLES_PER_HOLE - 1)).max(SAMPLE_BYTES as u64);
        let mut at = hole.start;
        loop {
            let one_less = |left: u32| left.checked_sub(1);
            let taken = self.samples.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
            if taken.is_err() {
                return;
            }
            if !is_zero_at(file, at, hole.end) {
                self.found_data_in_hole.store(true, Ordering::Relaxed);
                return;
            }
            if at >= last {
                return;
            }
            at = at.checked_add(step).map_or(last, |next| next.min(last));
        }
    }
}

/// Returns `true` if the bytes of the page at `at` that lie before `end` are zero. Returns `false` if they cannot be
/// read.
fn is_zero_at(file: &File, at: u64, end: u64) -> bool {
    let mut page = [0; SAMPLE_BYTES];
    let part = end.checked_sub(at).and_then(|len| page.get_mut(..at_most(len, SAMPLE_BYTES)));
    let Some(page) = part else { return true };
    loop {
        match rustix::io::pread(file, &mut *page, at) {
            // A truncated file is detected elsewhere.
            Ok(read) => return page.iter().take(read).all(|byte| *byte == 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_some_blocks_of_metadata() {
        assert_eq!(max_occupied(4096), Some(4096 + 64 + BASE_METADATA_BYTES));
        assert_eq!(max_occupied(64 << 20), Some((65 << 20) + BASE_METADATA_BYTES));
        assert_eq!(max_occupied(u64::MAX), None);
    }

    fn sampled(file: &File, hole: Range<u64>) -> CheckedSeek {
        let checked_seek = CheckedSeek::new(file, u64::MAX);
        checked_seek.samples.store(MAX_SAMPLES_PER_FILE, Ordering::Relaxed);
        checked_seek.sample(file, hole);
        checked_seek
    }

    #[test]
    fn samples_find_data_at_both_ends_and_inside() {
        use std::os::unix::fs::FileExt;

        let len = 64 << 20;
        for (at, found) in
            [(0, true), (len - 1, true), (len / 7 * 3 + 5, true), (12_345_678, false)]
        {
            let file = tempfile::tempfile().unwrap();
            file.set_len(len).unwrap();
            file.write_all_at(b"x", at).unwrap();
            let checked_seek = sampled(&file, 0..len);
            assert_eq!(checked_seek.found_data_in_hole.load(Ordering::Relaxed), found, "{at}");
        }
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"x", 10).unwrap();
        for (hole, found) in [(10..10, false), (0..10, false), (10..11, true), (11..20, false)] {
            let checked_seek = sampled(&file, hole.clone());
            assert_eq!(checked_seek.found_data_in_hole.load(Ordering::Relaxed), found, "{hole:?}");
        }
    }

    #[test]
    fn takes_a_bounded_number_of_samples() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        let checked_seek = sampled(&file, 0..1 << 40);
        for _ in 0..MAX_SAMPLES_PER_FILE {
            checked_seek.sample(&file, 0..1 << 40);
        }
        assert_eq!(checked_seek.samples.load(Ordering::Relaxed), 0);
        assert!(!checked_seek.found_data_in_hole.load(Ordering::Relaxed));
    }

    #[test]
    fn records_impossible_answers() {
        let file = tempfile::tempfile().unwrap();
        for (at, answer, nonsense) in
            [(0, 0, false), (10, 9, true), (10, 10, false), (0, 100, false), (0, 101, true)]
        {
            let checked_seek = CheckedSeek::new(&file, 100);
            checked_seek.check_answer(&file, answer, answer >= at);
            assert_eq!(checked_seek.found_invalid_answer.load(Ordering::Relaxed), nonsense);
        }
    }
}
