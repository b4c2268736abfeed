//! The scan of whole images by several threads. The result is the same for any number of threads.
//!
//! # The problem
//! The scan must run at the speed of memory, which takes more than one core. But gaps cross any boundary at which the
//! work is divided, and the memory for partial results must not grow with the guest.
//!
//! # The idea
//! The threads take batches of extents from one queue, in address order. A batch has at most 2 MiB, so fast threads
//! take more batches than slow ones. A thread passes each gap inside its batch that is long enough to the
//! [`GapSink`]. Otherwise it keeps only the span of the batch: the range from its first to its last non-zero byte.
//!
//! A gap that crosses the boundary between batches is known when both neighbors are finished. Finished batches are
//! joined into stretches. Joining two stretches yields the gap between their spans, if both have one. So all gaps are
//! found exactly once, in any order, and the sink must not depend on the order.
//!
//! Finding holes of files is divided as well. The queue, under its lock, finds only the start of the next data, and
//! the thread that scans a part finds the holes in it ([`HoleFinder`]).
//!
//! # The invariant
//! The stretches of a memory are disjoint, in order, and never adjacent. Batches are handed out in order, so the
//! number of stretches is at most the number of threads plus one. When all threads are finished, one stretch is left.
//! Its span is the span of the memory.
//!
//! # What was tried
//! Batches of 256 KiB and 512 KiB were slower (29.2 and 27.6 ms instead of 25.1 ms for a dense GiB). Batches of 8 MiB
//! and 32 MiB took 23.5 and 23.4 ms, but had no better minimum, and distribute small images less evenly. Reading the
//! clock for each extent of live memory took 1.1 ms of the 6.6 ms for planning one page in ten, so only batches and
//! queries for holes are timed.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "positions lie in images, which end below 2^64; ranges end after their start; each list has an \
              element per memory; counts and times are of finished work"
)]

use std::fs::File;
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::scanned::{Gap, ScanNote, Scanned};
use super::scanner::Scanner;
use crate::arithmetic::{at_most, exact};
use crate::control::{Control, Meter, Stage};
use crate::error::{Error, ErrorKind, Result, zeros};
use crate::image::{
    Bytes, ExtentFinder, ExtentMethod, ExtentOptions, Extents, HoleFinder, MappingMethod,
};
use crate::threads::{resolve, run_on};

/// The maximum length of a batch in bytes: large enough that the queue costs nothing, small enough for an even
/// distribution.
const MAX_BATCH_BYTES: u64 = 2 << 20;
/// The maximum number of extents in a batch.
const MAX_BATCH_EXTENTS: usize = 256;
/// The number of gaps that a thread collects before it passes them on.
const GAPS_PER_FLUSH: usize = 1024;
/// The maximum size in bytes of a thread's buffer for images that cannot be borrowed. [`MAX_READ_BYTES_TOTAL`] limits
/// the buffers of all threads together.
const MAX_READ_BYTES: usize = 256 << 10;
/// The maximum size in bytes of the buffers of all threads together.
const MAX_READ_BYTES_TOTAL: usize = 4 << 20;

/// Receives the gaps that a scan finds, in any order.
pub(crate) trait GapSink: Sync {
    /// Returns the length in bytes below which gaps are useless. It may grow during the scan.
    fn min_len(&self) -> u64;

    /// Takes all gaps and leaves `gaps` empty.
    ///
    /// # Errors
    /// Returns an error if memory cannot be allocated.
    fn take(&self, gaps: &mut Vec<Gap>) -> Result<()>;

    /// Takes a gap of any length that contains excluded bytes. No segment may cross it.
    ///
    /// # Errors
    /// Returns an error if memory cannot be allocated.
    fn keep(&self, gap: Gap) -> Result<()>;
}

/// The settings of a scan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScanOptions {
    pub(crate) scanner: Scanner,
    /// The number of threads, including the caller's; 0 selects one per core.
    pub(crate) threads: usize,
    pub(crate) extents: ExtentOptions,
}

/// The result of a scan.
#[derive(Debug, Default)]
pub(crate) struct ScanResult {
    /// For each image, the range from its first to its last non-zero byte.
    pub(crate) spans: Vec<Option<Range<u64>>>,
    /// The method by which the extents of each image were found.
    pub(crate) methods: Vec<ExtentMethod>,
    /// The method by which the mappings of live memory were found.
    pub(crate) mapping_method: Option<MappingMethod>,
    /// The reasons why extents were not found by the best method, or no query was made although it was wanted.
    pub(crate) notes: Vec<ScanNote>,
    /// For each image, the reason why its extents cannot be all of its data. If there is one, the other results for
    /// this image are invalid.
    pub(crate) doubts: Vec<Option<String>>,
    /// The number of threads that took part, or the requested number if there was less to do.
    pub(crate) threads: usize,
    /// The total length of all extents in bytes, which is the number of bytes scanned.
    pub(crate) extent_bytes: u64,
    /// The time for finding extents, summed over all threads.
    pub(crate) extent_time: Duration,
}

/// Scans `images`. Passes to `gaps` every gap of at least `gaps.min_len()` bytes, and every gap that contains
/// excluded bytes.
///
/// # Errors
/// Returns an error if the scan was cancelled, a forced method to find extents is unavailable, an image cannot be
/// read, or the gap sink fails.
pub(crate) fn scan<'i>(
    images: &[Scanned<'i>],
    options: ScanOptions,
    gaps: &dyn GapSink,
    control: &Control,
) -> Result<ScanResult> {
    let finder_start = Instant::now();
    let finder =
        ExtentFinder::new(options.extents, images.iter().any(|scanned| scanned.image.is_live()))?;
    let extents_of = |scanned: &Scanned<'i>| {
        Ok(scanned.image.extents(&finder, scanned.in_doubt)?.excluding(scanned.excluded.as_slice()))
    };
    let extents = images.iter().map(extents_of).collect::<Result<Vec<_>>>()?;
    let finder_time = finder_start.elapsed();
    let methods = extents.iter().map(Extents::method).collect();
    let note_of = |(i, extents): (usize, &Extents<'_>)| {
        let (text, is_for_dump) = (extents.note()?.into(), extents.note_is_for_dump());
        Some(ScanNote { image: Some(i), text, is_for_dump })
    };
    let of_all = |text: &str| ScanNote { image: None, text: text.into(), is_for_dump: true };
    let notes = finder.note().map(of_all).into_iter();
    let notes = notes.chain(extents.iter().enumerate().filter_map(note_of)).collect();
    // Saturates, because progress only needs a bound: the total length of sparse images may exceed 64 bits.
    let bytes = images.iter().map(|scanned| scanned.image.len()).fold(0, u64::saturating_add);
    let threads = resolve(options.threads);
    let state = ScanState {
        images,
        gaps,
        scanner: options.scanner,
        queue: Mutex::new(BatchQueue::new(extents)),
        stretches: Mutex::new(images.iter().map(|_| Vec::new()).collect()),
        totals: Mutex::default(),
        image_bytes: images.iter().map(|_| AtomicU64::new(0)).collect(),
        read_bytes: (MAX_READ_BYTES_TOTAL / threads.max(1)).min(MAX_READ_BYTES),
        control,
        meter: control.begin(Stage::Scan, bytes),
        failed: AtomicBool::new(false),
        cancelled: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    let useful = at_most(bytes.div_ceil(MAX_BATCH_BYTES), threads);
    let started = run_on(useful, &|| state.run_worker());

    if let Some(error) = into_inner(state.failure) {
        return Err(error);
    }
    // Use what the threads have seen, because the flag may be false again by now.
    if state.cancelled.into_inner() {
        return Err(control.cancelled());
    }
    state.meter.finish();
    let queue = into_inner(state.queue);
    let doubt = |((scanned, extents), bytes): ((&Scanned<'_>, &Extents<'_>), &AtomicU64)| {
        extents.find_contradiction(bytes.load(Ordering::Relaxed), scanned.excluded.as_slice())
    };
    let doubts = images.iter().zip(&queue.extents).zip(&state.image_bytes).map(doubt);
    let doubts = doubts.collect::<Result<_>>()?;
    let (extent_bytes, time) = into_inner(state.totals);
    let stretches = into_inner(state.stretches);
    Ok(ScanResult {
        spans: stretches.into_iter().map(|mut list| list.pop().and_then(|s| s.span)).collect(),
        methods,
        mapping_method: finder.mapping_method(),
        notes,
        doubts,
        threads: if started < useful { started } else { threads },
        extent_bytes,
        extent_time: finder_time + queue.time + time,
    })
}

/// Locks a mutex even if it is poisoned. Nothing uses its data afterwards, because `thread::scope` propagates the
/// panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The extents of one memory that one thread scans at once.
struct ExtentBatch<'i> {
    memory: usize,
    /// The position among the batches of the memory.
    number: u64,
    extents: Vec<Range<u64>>,
    /// Finds the holes that the extents may contain. Successive batches of the same memory share it.
    holes: Option<HoleFinder<'i>>,
    /// The file to read, if the extents must not be read through its mapping.
    file_to_read: Option<&'i File>,
    /// The number of image bytes from the end of the previous batch to the end of this one.
    passed: u64,
}

impl ExtentBatch<'_> {
    /// Creates an empty batch that belongs to no memory.
    fn new() -> Self {
        let (extents, holes, file_to_read) = (Vec::new(), None, None);
        Self { memory: usize::MAX, number: 0, extents, holes, file_to_read, passed: 0 }
    }
}

/// The source of batches.
struct BatchQueue<'i> {
    extents: Vec<Extents<'i>>,
    memory: usize,
    number: u64,
    /// The remaining part of the current extent.
    rest: Range<u64>,
    /// The number of bytes in the previous images, for progress. It saturates at the maximum of 64 bits.
    before: u64,
    /// The number of image bytes up to the end of the last batch.
    passed: u64,
    time: Duration,
}

impl<'i> BatchQueue<'i> {
    fn new(extents: Vec<Extents<'i>>) -> Self {
        let (rest, time) = (0..0, Duration::ZERO);
        Self { extents, memory: 0, number: 0, rest, before: 0, passed: 0, time }
    }

    /// Fills `batch` with the next extents. Returns `false` if there are none.
    ///
    /// # Errors
    /// Returns an error if a file is shorter than it was when its image was opened.
    fn fill(&mut self, batch: &mut ExtentBatch<'i>) -> Result<bool> {
        let start = Instant::now();
        batch.extents.clear();
        let mut bytes = 0;
        while bytes < MAX_BATCH_BYTES && batch.extents.len() < MAX_BATCH_EXTENTS {
            if self.rest.is_empty() {
                let Some(extents) = self.extents.get_mut(self.memory) else { break };
                match extents.next()? {
                    Some(extent) => self.rest = extent,
                    None if batch.extents.is_empty() => {
                        self.before = self.before.saturating_add(extents.len());
                        self.memory += 1;
                        self.number = 0;
                        continue;
                    }
                    None => break,
                }
            }
            let end = self.rest.end.min(self.rest.start + (MAX_BATCH_BYTES - bytes));
            batch.extents.push(self.rest.start..end);
            bytes += end - self.rest.start;
            self.rest.start = end;
        }
        // The extent may have been found for a batch of another thread, so this cannot be done where extents are
        // found.
        let is_other = batch.memory != self.memory;
        if let Some(extents) = self.extents.get(self.memory).filter(|_| is_other) {
            (batch.holes, batch.file_to_read) = (extents.holes(), extents.file_to_read());
        }
        (batch.memory, batch.number) = (self.memory, self.number);
        self.number += 1;
        if !batch.extents.is_empty() {
            let passed = self.before.saturating_add(self.rest.start);
            batch.passed = passed - mem::replace(&mut self.passed, passed);
        }
        self.time += start.elapsed();
        Ok(!batch.extents.is_empty())
    }
}

/// Adjacent finished batches of one memory.
struct Stretch {
    batches: Range<u64>,
    /// The range from the first to the last non-zero byte.
    span: Option<Range<u64>>,
}

/// Inserts a finished stretch into `list`, which is in order, and joins it to its neighbors. Returns the gaps on its
/// left and right that are known now.
fn join(list: &mut Vec<Stretch>, done: Stretch) -> [Option<Range<u64>>; 2] {
    let at = list.partition_point(|s| s.batches.end <= done.batches.start);
    list.insert(at, done);
    let right = join_next(list, at);
    let left = at.checked_sub(1).and_then(|left| join_next(list, left));
    [left, right]
}

/// Joins the stretch at `at` to the next one if they are adjacent. Returns the gap between their spans.
fn join_next(list: &mut Vec<Stretch>, at: usize) -> Option<Range<u64>> {
    if list.get(at + 1)?.batches.start != list[at].batches.end {
        return None;
    }
    let right = list.remove(at + 1);
    append(&mut list[at], right)
}

/// Appends `right`, which must be adjacent to `left`. Returns the gap between their spans.
fn append(left: &mut Stretch, right: Stretch) -> Option<Range<u64>> {
    left.batches.end = right.batches.end;
    match (&mut left.span, right.span) {
        (Some(l), Some(r)) => Some(mem::replace(&mut l.end, r.end)..r.start),
        (span, r) => {
            *span = span.take().or(r);
            None
        }
    }
}

/// The state that the threads of a scan share.
struct ScanState<'s, 'i> {
    images: &'s [Scanned<'i>],
    gaps: &'s dyn GapSink,
    scanner: Scanner,
    queue: Mutex<BatchQueue<'i>>,
    /// The stretches of each memory, in the order of their batches.
    stretches: Mutex<Vec<Vec<Stretch>>>,
    /// The total length of all extents in bytes, and the time for finding holes in them.
    totals: Mutex<(u64, Duration)>,
    /// The length of the extents of each image in bytes.
    image_bytes: Vec<AtomicU64>,
    /// The size of a thread's buffer in bytes.
    read_bytes: usize,
    control: &'s Control,
    meter: Meter<'s>,
    failed: AtomicBool,
    /// Whether a thread has stopped because the scan was cancelled.
    cancelled: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl ScanState<'_, '_> {
    /// Returns `true` until the scan is cancelled or a thread fails.
    fn should_continue(&self) -> bool {
        if self.control.is_cancelled() {
            self.cancelled.store(true, Ordering::Relaxed);
        }
        !self.failed.load(Ordering::Relaxed) && !self.cancelled.load(Ordering::Relaxed)
    }

    /// Takes and scans batches until there are none, or the scan must stop.
    fn run_worker(&self) {
        let (gaps, buffer) = (Vec::new(), Vec::new());
        let mut worker = Worker { state: self, gaps, buffer, bytes: 0, time: Duration::ZERO };
        if let Err(error) = worker.run() {
            self.failed.store(true, Ordering::Relaxed);
            lock(&self.failure).get_or_insert(error);
        }
        let mut totals = lock(&self.totals);
        *totals = (totals.0 + worker.bytes, totals.1 + worker.time);
    }
}

/// One thread of a scan.
struct Worker<'w, 's, 'i> {
    state: &'w ScanState<'s, 'i>,
    gaps: Vec<Gap>,
    buffer: Vec<u8>,
    /// The number of bytes scanned.
    bytes: u64,
    /// The time for finding holes.
    time: Duration,
}

impl Worker<'_, '_, '_> {
    fn run(&mut self) -> Result<()> {
        let mut batch = ExtentBatch::new();
        let no_room = |_| Error::out_of_memory("a table of gaps");
        self.gaps.try_reserve_exact(GAPS_PER_FLUSH).map_err(no_room)?;
        while self.state.should_continue() {
            if !lock(&self.state.queue).fill(&mut batch)? {
                break;
            }
            let span = self.scan_batch(&mut batch)?;
            self.finish_batch(&batch, span)?;
            self.state.meter.add(batch.passed);
        }
        self.flush_gaps()
    }

    /// Scans the extents of a batch. Returns the range from the first to the last non-zero byte.
    fn scan_batch(&mut self, batch: &mut ExtentBatch<'_>) -> Result<Option<Range<u64>>> {
        let mut span: Option<Range<u64>> = None;
        let mut bytes = 0;
        for i in 0..batch.extents.len() {
            let mut part = batch.extents[i].clone();
            while let Some(extent) = self.next_extent(batch, &mut part)? {
                bytes += extent.end - extent.start;
                self.scan_extent(batch, extent, &mut span)?;
            }
        }
        self.bytes += bytes;
        self.state.image_bytes[batch.memory].fetch_add(bytes, Ordering::Relaxed);
        Ok(span)
    }

    fn next_extent(
        &mut self,
        batch: &mut ExtentBatch<'_>,
        part: &mut Range<u64>,
    ) -> Result<Option<Range<u64>>> {
        let Some(holes) = &mut batch.holes else {
            // There may be millions of extents, and reading the clock takes as long as scanning 100 bytes.
            let extent = part.clone();
            part.start = part.end;
            return Ok((!extent.is_empty()).then_some(extent));
        };
        let start = Instant::now();
        let extent = holes.next_extent(part);
        self.time += start.elapsed();
        extent
    }

    fn scan_extent(
        &mut self,
        batch: &ExtentBatch<'_>,
        extent: Range<u64>,
        span: &mut Option<Range<u64>>,
    ) -> Result<()> {
        let image = match batch.file_to_read {
            Some(file) => Bytes::File(file),
            None => self.state.images[batch.memory].image.bytes(),
        };
        let memory = exact(batch.memory)?;
        if let Some(bytes) = image.as_slice() {
            return self.scan_slice(memory, slice_of(bytes, &extent)?, extent.start, span);
        }
        if self.buffer.is_empty() {
            self.buffer = zeros(self.state.read_bytes, "a buffer to read an image")?;
        }
        let mut buffer = mem::take(&mut self.buffer);
        let mut at = extent.start;
        while at < extent.end {
            let len = at_most(extent.end - at, buffer.len());
            image.read_at(&mut buffer[..len], at)?;
            self.scan_slice(memory, &buffer[..len], at, span)?;
            at += len as u64;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Scans `bytes`, whose address is `base`, and extends `span` by the result.
    fn scan_slice(
        &mut self,
        memory: u32,
        bytes: &[u8],
        base: u64,
        span: &mut Option<Range<u64>>,
    ) -> Result<()> {
        let min_len = self.state.gaps.min_len();
        // A gap in a slice is never longer than a `usize` can count.
        let min_gap = at_most(min_len, usize::MAX);
        let mut result = Ok(());
        let scanner = self.state.scanner;
        let mut found: Option<Range<u64>> = None;
        let is_short = |gap: Option<u64>| gap.is_none_or(|len| len < min_len);
        scanner.runs(bytes, min_gap, |run| {
            // A mapped file may be written to while it is scanned. Runs stay in order then, but a run can be empty,
            // which a segment must not be, and a gap can be too short.
            if run.is_empty() {
                return;
            }
            let run = base + run.start as u64..base + run.end as u64;
            match &mut found {
                None => found = Some(run),
                Some(found) if is_short(run.start.checked_sub(found.end)) => {
                    found.end = run.end;
                }
                Some(found) => {
                    let gap = mem::replace(&mut found.end, run.end)..run.start;
                    if let Err(error) = self.add_gap(memory, &gap) {
                        result = Err(error);
                    }
                }
            }
        });
        result?;
        match (span, found) {
            (Some(span), Some(found)) => {
                let gap = mem::replace(&mut span.end, found.end)..found.start;
                self.add_gap_between(memory, &gap, min_len)
            }
            (span, found) => {
                *span = span.take().or(found);
                Ok(())
            }
        }
    }

    /// Takes a gap between extents, which may contain excluded bytes.
    fn add_gap_between(&mut self, memory: u32, gap: &Range<u64>, min_len: u64) -> Result<()> {
        if self.state.images[memory as usize].excludes(gap) {
            return self.state.gaps.keep(gap_in(memory, gap));
        }
        if gap.end - gap.start < min_len { Ok(()) } else { self.add_gap(memory, gap) }
    }

    /// Takes a gap of zeros that is long enough.
    fn add_gap(&mut self, memory: u32, gap: &Range<u64>) -> Result<()> {
        self.gaps.push(gap_in(memory, gap));
        if self.gaps.len() < GAPS_PER_FLUSH { Ok(()) } else { self.flush_gaps() }
    }

    fn flush_gaps(&mut self) -> Result<()> {
        self.state.gaps.take(&mut self.gaps)
    }

    fn finish_batch(&mut self, batch: &ExtentBatch<'_>, span: Option<Range<u64>>) -> Result<()> {
        let done = Stretch { batches: batch.number..batch.number + 1, span };
        let gaps = join(&mut lock(&self.state.stretches)[batch.memory], done);
        let min_len = self.state.gaps.min_len();
        for gap in gaps.into_iter().flatten() {
            self.add_gap_between(exact(batch.memory)?, &gap, min_len)?;
        }
        Ok(())
    }
}

fn gap_in(memory: u32, gap: &Range<u64>) -> Gap {
    Gap { memory, start: gap.start, len: gap.end - gap.start }
}

/// Returns the bytes of an extent.
///
/// # Errors
/// Returns an error of [`ErrorKind::Internal`] if the extent is not within its image.
fn slice_of<'b>(bytes: &'b [u8], extent: &Range<u64>) -> Result<&'b [u8]> {
    let bytes = bytes.get(exact(extent.start)?..exact(extent.end)?);
    bytes.ok_or_else(|| Error::new(ErrorKind::Internal, "an extent past the end of its image"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads finish batches in any order. Each gap between two spans is found once, also across a batch of zeros.
    #[test]
    fn finds_each_gap_in_every_order_of_batches() {
        let spans = [Some(10..20), None, Some(220..230), Some(300..310), None];
        for order in permutations(spans.len()) {
            let (mut list, mut gaps) = (Vec::new(), Vec::new());
            for i in order.clone() {
                let done = Stretch { batches: i as u64..i as u64 + 1, span: spans[i].clone() };
                gaps.extend(join(&mut list, done).into_iter().flatten());
            }
            gaps.sort_by_key(|gap| gap.start);
            assert_eq!(gaps, [20..220, 230..300], "{order:?}");
            assert_eq!((list.len(), list[0].span.clone()), (1, Some(10..310)));
        }
    }

    /// Returns all orders of the numbers below `count`.
    fn permutations(count: usize) -> Vec<Vec<usize>> {
        let Some(last) = count.checked_sub(1) else { return vec![Vec::new()] };
        let insert = |order: Vec<usize>| {
            (0..count).map(move |at| {
                let mut order = order.clone();
                order.insert(at, last);
                order
            })
        };
        permutations(last).into_iter().flat_map(insert).collect()
    }
}
