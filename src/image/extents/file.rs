//! Extents of a file: the ranges that its file system does not call a hole, and a cross-check of that
//! claim.
//!
//! # The problem
//! `SEEK_DATA` and `SEEK_HOLE` find the holes of a sparse file without reading them. Some file systems
//! answer wrongly: a FUSE or virtiofs server whose `lseek` does not know the file, an NFS server over a
//! file system with delayed allocation, ZFS releases that call data a hole until it has been written
//! back. A dump that believes them holds zeros instead of data, and its checksums are right.
//!
//! # The idea
//! A file that holds data occupies blocks, and `st_blocks` counts these on another path than `lseek`.
//! The scan counts the bytes of all extents while it reads them. If the file occupies more than these
//! bytes explain, some data was called a hole, and the plan is made again from the whole file. The check
//! costs one `fstat` at the end, so an honest sparse file costs what it did.
//!
//! Blocks also hold metadata (trees of extents, attributes), and are reserved ahead by `fallocate`. So a
//! file that occupies more than its extents is first asked for its allocation ([`fiemap`]), which tells
//! data from reserved blocks; without it, some metadata is allowed for. A file with many holes has metadata
//! in any case, so there a little is allowed for ([`metadata_of_holes`]) before that list, which is long, is
//! asked for: up to 32 bytes a hole may be missed. A file that compresses occupies less
//! than its data, so there the check is weaker. It is also weak where a client caches `st_blocks`. Therefore
//! file systems outside the list in [`has_exact_holes`] have their holes [sampled](Witness::sample) too: pages at both ends
//! of a hole and inside it are read, and one byte that is not zero makes the file doubtful.
//!
//! # The invariants
//! Every answer is clamped to the range that was asked about and rounded outwards to [`GRAIN`], so each
//! step advances by at least that much, whatever the answers are. An answer that had to be clamped because
//! it cannot be right makes the file doubtful.
//!
//! # What was tried
//! Counting the extents before the scan doubles the calls of `lseek`, which are most of the time that a
//! file with many holes takes. Trusting no file system but a few would read 64 GiB over a network to find
//! 64 MiB.
//!
//! Source: [lseek(2)](https://man7.org/linux/man-pages/man2/lseek.2.html), "Seeking file data and
//! holes"; [inode(7)](https://man7.org/linux/man-pages/man7/inode.7.html), `st_blocks`.

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

/// How far an extent of a file reaches before the holes in it have been asked for, in bytes.
///
/// Each question takes as long as reading a page, so they are asked by all threads: one thread at a
/// time finds where data begins, and whoever scans such a part of the file finds the holes in it.
const PART: u64 = 2 << 20;
/// Answers are rounded to a multiple of this many bytes, outwards. Reading them takes as long as asking.
const GRAIN: u64 = 4096;
/// Bytes of a file that is read rather than believed to be one hole: a file system may keep a small file
/// inside its inode, where it occupies no block.
const SMALL: u64 = 64 << 10;
/// Bytes of metadata that any file may occupy: blocks of a tree, and one of attributes.
const METADATA: u64 = 16 << 10;
/// Bytes of extents for one byte of metadata: ext4 and XFS need 12 and 16 bytes per extent, which has at
/// least 4 KiB, in blocks that are at least half full.
const DATA_PER_METADATA: u64 = 64;
/// Bytes of metadata for each hole: ext4 and XFS need 12 and 16 bytes for the extent after it, in blocks
/// that are at least half full.
const METADATA_PER_HOLE: u64 = 32;
/// So few holes need no block of metadata, or their allocation is listed in no time.
const FEW_HOLES: u64 = 16;
/// Bytes that one unit of `st_blocks` stands for.
const BLOCK: u64 = 512;
/// Bytes of a sample.
const SAMPLE: usize = 4096;
/// Samples of one hole at most.
const SAMPLES_OF_HOLE: u64 = 8;
/// Samples of one file at most.
const SAMPLES_OF_FILE: u32 = 4096;

/// What a file system says of the holes of a file.
pub(super) enum Answer {
    /// It cannot tell.
    Nothing,
    /// It calls all of the file a hole, which it is not: why.
    Doubtful(String),
    /// It calls all of a small file a hole, which nothing contradicts.
    SmallHole,
    /// It can be asked.
    Ask(Arc<Witness>),
}

/// Asks whether the file system can tell where the holes of the first `len` bytes of `file` are.
///
/// # Errors
/// Returns an error of [`Internal`](crate::ErrorKind::Internal) if a sum has too many bits.
pub(super) fn ask(file: &File, len: u64) -> Result<Answer> {
    let witness = Witness::new(file, len);
    let Some(first) = witness.data(file, 0, len) else { return Ok(Answer::Nothing) };
    if len > 0 && first >= len {
        if let Some(why) = contradiction(file, 0, &[], &witness)? {
            return Ok(Answer::Doubtful(why));
        }
        if len <= SMALL {
            return Ok(Answer::SmallHole);
        }
    }
    Ok(Answer::Ask(Arc::new(witness)))
}

/// Why the extents of a file, which have `data` bytes outside of `excluded`, cannot be all of its data;
/// `None` if they can.
///
/// # Errors
/// Returns an error of [`Internal`](crate::ErrorKind::Internal) if a sum has too many bits.
pub(super) fn contradiction(
    file: &File,
    data: u64,
    excluded: &[RangeInclusive<u64>],
    witness: &Witness,
) -> Result<Option<String>> {
    if witness.found_data.load(Ordering::Relaxed) {
        let why = "SEEK_DATA calls bytes a hole that are not zero: all of it was read";
        return Ok(Some(why.into()));
    }
    if witness.found_nonsense.load(Ordering::Relaxed) {
        let why = "SEEK_DATA and SEEK_HOLE give answers that cannot be: all of it was read";
        return Ok(Some(why.into()));
    }
    // A file that grows occupies more, whose data is counted too.
    let len = present_len(file).max(witness.len);
    let mut data = data;
    if len > witness.len {
        data = data.plus(data_in(file, witness.len..len, &Witness::new(file, len))?)?;
    }
    // A file that cannot be asked contradicts nothing.
    let Ok(metadata) = file.metadata() else { return Ok(None) };
    let Some(occupied) = metadata.blocks().checked_mul(BLOCK) else {
        let why = "the file system counts more blocks than there can be: all of it was read";
        return Ok(Some(why.into()));
    };
    let metadata = metadata_of_holes(witness.holes.load(Ordering::Relaxed))?;
    if occupied <= data.plus(metadata)? {
        return Ok(None);
    }
    for range in excluded {
        // No image has a byte at the largest address.
        let end = range.end().checked_add(1).map_or(witness.len, |end| end.min(witness.len));
        data = data.plus(data_in(file, *range.start()..end, witness)?)?;
    }
    Ok((!is_explained(file, len, data, occupied)).then(|| {
        format!(
            "SEEK_DATA finds {data} bytes of data in a file that occupies {occupied}: all of it was \
             read"
        )
    }))
}

/// Whether a file of `len` bytes, of which `data` are data, may occupy as much as it does.
fn is_explained(file: &File, len: u64, data: u64, occupied: u64) -> bool {
    if occupied <= data {
        return true;
    }
    // What is still to be written to reserved blocks is called unwritten until then.
    let flush = !has_exact_holes(file);
    match fiemap::allocated(file, len, flush) {
        Ok(allocated) => {
            let most = data.checked_add(allocated.unwritten).and_then(with_metadata);
            allocated.data <= data && most.is_none_or(|most| occupied <= most)
        }
        // A file that is all hole has no metadata either.
        Err(_) => data > 0 && with_metadata(data).is_none_or(|most| occupied <= most),
    }
}

/// Bytes of metadata that a file with so many holes may have without its allocation being listed, which takes
/// about 3 µs for each extent, as long as finding the holes did.
fn metadata_of_holes(holes: u64) -> Result<u64> {
    if holes <= FEW_HOLES { Ok(0) } else { holes.times(METADATA_PER_HOLE)?.plus(GRAIN) }
}

/// Returns the most bytes that a file with `data` bytes of data occupies; `None` if any number can be.
fn with_metadata(data: u64) -> Option<u64> {
    data.checked_add(data / DATA_PER_METADATA)?.checked_add(METADATA)
}

/// The length of `file` by now; 0 where that is unknown.
fn present_len(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

/// Bytes of data in a range of a file, without reading them.
fn data_in(file: &File, range: Range<u64>, witness: &Witness) -> Result<u64> {
    let mut rest = range;
    let mut bytes = 0_u64;
    // What is left out is not read, also not by samples.
    while let Some((_, extent)) = witness.next_extent(file, &mut rest) {
        bytes = bytes.plus(extent.end.minus(extent.start)?)?;
    }
    Ok(bytes)
}

/// The next part of `file` from `at` on that begins with data and may have [`Holes`]; empty after the last.
/// Nothing is read of it from `excluded` on.
///
/// # Errors
/// The file has become shorter than it was.
pub(super) fn next(file: &File, at: u64, excluded: u64, witness: &Witness) -> Result<Range<u64>> {
    let len = witness.len;
    let data = witness.data(file, at, len).unwrap_or(at);
    if data >= len {
        check_len(file, len)?;
    }
    let start = rounded_down(data).max(at);
    witness.holes.fetch_add((start > at).into(), Ordering::Relaxed);
    witness.sample(file, at..start.min(excluded));
    Ok(start..start.checked_add(PART).map_or(len, |end| end.min(len)))
}

fn rounded_down(position: u64) -> u64 {
    position & !(GRAIN - 1)
}

/// Finds the holes in parts of an image of a file. Each thread has its own.
pub(crate) struct Holes<'i> {
    handle: Handle<'i>,
    witness: Arc<Witness>,
    /// The number of holes found. A counter shared by the threads would cost as much as `lseek`.
    count: u64,
}

/// A file to ask.
enum Handle<'i> {
    Shared(&'i File),
    /// Opened again. The kernel locks the file position during `lseek`, so threads that share an open file
    /// description wait for each other.
    Own(File),
}

impl Handle<'_> {
    fn file(&self) -> &File {
        match self {
            Self::Shared(file) => file,
            Self::Own(file) => file,
        }
    }
}

impl<'i> Holes<'i> {
    pub(super) fn of(file: &'i File, witness: Arc<Witness>) -> Self {
        // Elsewhere it may cost a request to a server.
        let own = if witness.is_exact { reopen(file).ok() } else { None };
        Self { handle: own.map_or(Handle::Shared(file), Handle::Own), witness, count: 0 }
    }

    /// Takes the next extent without holes from the front of `part`; `None` if there is none.
    ///
    /// # Errors
    /// Returns an error of [`Internal`](crate::ErrorKind::Internal) if there are too many holes to count.
    pub(crate) fn next_extent(&mut self, part: &mut Range<u64>) -> Result<Option<Range<u64>>> {
        let (file, at) = (self.handle.file(), part.start);
        let found = self.witness.next_extent(file, part);
        let hole_end = found.as_ref().map_or(part.end, |(hole_end, _)| *hole_end);
        self.count = self.count.plus((hole_end > at).into())?;
        self.witness.sample(file, at..hole_end);
        Ok(found.map(|(_, extent)| extent))
    }
}

impl Drop for Holes<'_> {
    fn drop(&mut self) {
        self.witness.holes.fetch_add(self.count, Ordering::Relaxed);
    }
}

/// Asks for the holes of a file, and remembers whether an answer was wrong.
pub(crate) struct Witness {
    /// The bytes of the image.
    len: u64,
    /// Whether the answers of the file system are known to be exact.
    is_exact: bool,
    /// How many samples may still be taken; none of a file system whose answers are exact.
    samples: AtomicU32,
    /// Holes that were found; one that reaches over the edge of a part counts twice.
    holes: AtomicU64,
    /// A byte in a hole was not zero.
    found_data: AtomicBool,
    /// A position was before the one in the question or after the end of the file, or the data had no end.
    found_nonsense: AtomicBool,
    /// The last range without holes that reaches over the end of the part that asked.
    ///
    /// Each part asks where the data at its start ends. tmpfs answers by walking the pages up to there, so the
    /// parts of a dense file together would take time quadratic in its length.
    data: Mutex<Range<u64>>,
    /// The end of that range. Positions after it need no lock, which the threads would otherwise take for each
    /// extent.
    data_end: AtomicU64,
}

impl Witness {
    fn new(file: &File, len: u64) -> Self {
        let is_exact = has_exact_holes(file);
        let samples = AtomicU32::new(if is_exact { 0 } else { SAMPLES_OF_FILE });
        let (found_data, found_nonsense) = Default::default();
        let (holes, data, data_end) = Default::default();
        Self { len, is_exact, samples, holes, found_data, found_nonsense, data, data_end }
    }

    /// Where data begins from `at` on, `end` if it does not before; `None` where the file system can't
    /// tell.
    fn data(&self, file: &File, at: u64, end: u64) -> Option<u64> {
        if self.end_of_data(at).is_some() {
            return Some(at);
        }
        match seek::data(file, at) {
            Ok(Some(data)) => {
                self.check(file, data, data >= at);
                Some(data.clamp(at, end.max(at)))
            }
            Ok(None) => Some(end),
            Err(()) => None,
        }
    }

    /// Where the data at `at` ends, `end` if it goes on to there.
    fn hole(&self, file: &File, at: u64, end: u64) -> u64 {
        if let Some(hole) = self.end_of_data(at) {
            return hole.min(end);
        }
        match seek::hole(file, at) {
            Some(hole) => {
                // The data at `at` has at least a byte.
                self.check(file, hole, hole > at);
                if hole > end {
                    *self.data.lock().unwrap_or_else(PoisonError::into_inner) = at..hole;
                    self.data_end.fetch_max(hole, Ordering::Relaxed);
                }
                if hole > at { hole.min(end) } else { end }
            }
            // The file was truncated between the two calls, which the reader detects, or one of the answers is
            // wrong. Zeros that count as data would then hide data that was called a hole.
            None => {
                self.found_nonsense.store(true, Ordering::Relaxed);
                end
            }
        }
    }

    /// Where the data at `at` ends, if another part has found that.
    fn end_of_data(&self, at: u64) -> Option<u64> {
        if at >= self.data_end.load(Ordering::Relaxed) {
            return None;
        }
        let known = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains(&at).then_some(known.end)
    }

    /// Remembers an answer that cannot be right: one that does not follow the position in the question, or one after
    /// the end of the file.
    fn check(&self, file: &File, answer: u64, follows: bool) {
        // Answers are about the file as it is by now, which may have grown.
        if !follows || (answer > self.len && answer > present_len(file)) {
            self.found_nonsense.store(true, Ordering::Relaxed);
        }
    }

    /// Takes the next extent without holes from the front of `part`, and gives the end of the hole before it
    /// too; `None` if there is none.
    fn next_extent(&self, file: &File, part: &mut Range<u64>) -> Option<(u64, Range<u64>)> {
        let Range { start: at, end } = *part;
        if at >= end {
            return None;
        }
        let data = self.data(file, at, end).unwrap_or(at);
        if data >= end {
            part.start = end;
            return None;
        }
        let start = rounded_down(data).max(at);
        let hole = self.hole(file, data, end);
        let extent = start..hole.checked_next_multiple_of(GRAIN).unwrap_or(end).min(end);
        part.start = extent.end;
        Some((start, extent))
    }

    /// Reads pages at both ends of `hole`, and evenly between.
    fn sample(&self, file: &File, hole: Range<u64>) {
        if hole.is_empty() || self.samples.load(Ordering::Relaxed) == 0 {
            return;
        }
        let last = hole.end.checked_sub(SAMPLE as u64);
        let last = last.map_or(hole.start, |last| last.max(hole.start));
        let step = (last.abs_diff(hole.start) / (SAMPLES_OF_HOLE - 1)).max(SAMPLE as u64);
        let mut at = hole.start;
        loop {
            let one_less = |left: u32| left.checked_sub(1);
            let taken = self.samples.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
            if taken.is_err() {
                return;
            }
            if !is_zero_at(file, at, hole.end) {
                self.found_data.store(true, Ordering::Relaxed);
                return;
            }
            if at >= last {
                return;
            }
            at = at.checked_add(step).map_or(last, |next| next.min(last));
        }
    }
}

/// Whether the page at `at` is zero as far as it lies before `end`; a page that cannot be read is not.
fn is_zero_at(file: &File, at: u64, end: u64) -> bool {
    let mut page = [0; SAMPLE];
    let part = end.checked_sub(at).and_then(|len| page.get_mut(..at_most(len, SAMPLE)));
    let Some(page) = part else { return true };
    loop {
        match rustix::io::pread(file, &mut *page, at) {
            // A file that was cut is found out elsewhere.
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
    fn metadata_explains_some_blocks() {
        assert_eq!(with_metadata(4096), Some(4096 + 64 + METADATA));
        assert_eq!(with_metadata(64 << 20), Some((65 << 20) + METADATA));
        assert_eq!(with_metadata(u64::MAX), None);
    }

    fn sampled(file: &File, hole: Range<u64>) -> Witness {
        let witness = Witness::new(file, u64::MAX);
        witness.samples.store(SAMPLES_OF_FILE, Ordering::Relaxed);
        witness.sample(file, hole);
        witness
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
            let witness = sampled(&file, 0..len);
            assert_eq!(witness.found_data.load(Ordering::Relaxed), found, "{at}");
        }
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"x", 10).unwrap();
        for (hole, found) in [(10..10, false), (0..10, false), (10..11, true), (11..20, false)] {
            let witness = sampled(&file, hole.clone());
            assert_eq!(witness.found_data.load(Ordering::Relaxed), found, "{hole:?}");
        }
    }

    #[test]
    fn samples_are_bounded() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        let witness = sampled(&file, 0..1 << 40);
        for _ in 0..SAMPLES_OF_FILE {
            witness.sample(&file, 0..1 << 40);
        }
        assert_eq!(witness.samples.load(Ordering::Relaxed), 0);
        assert!(!witness.found_data.load(Ordering::Relaxed));
    }

    #[test]
    fn positions_that_cannot_be_are_remembered() {
        let file = tempfile::tempfile().unwrap();
        for (at, answer, nonsense) in
            [(0, 0, false), (10, 9, true), (10, 10, false), (0, 100, false), (0, 101, true)]
        {
            let witness = Witness::new(&file, 100);
            witness.check(&file, answer, answer >= at);
            assert_eq!(witness.found_nonsense.load(Ordering::Relaxed), nonsense);
        }
    }
}
