//! The scan of whole images by several threads, with the same result for any number of them.
//!
//! Threads take batches of extents from one queue, in the order of addresses. A gap inside a batch
//! goes to the gap sink at once. A gap that reaches over the edge of batches is known when both
//! neighbours are done: finished batches are joined into stretches, of which there are never more
//! than threads and one, so memory does not grow with the guest.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "positions lie in images, which end below 2^64, ranges end behind their start, memories \
              are those that were counted for the lists, and bytes and times are of what was done"
)]

use std::fs::File;
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::scanned::{Gap, Note, Scanned};
use super::scanner::Scanner;
use crate::arithmetic::{at_most, exact};
use crate::control::{Control, Meter, Stage};
use crate::error::{Error, ErrorKind, Result, zeros};
use crate::image::{Bytes, ExtentMethod, ExtentOptions, Extents, Finder, Holes, MappingMethod};
use crate::threads::{resolve, run_on};

/// Bytes of a batch: large enough that the queue costs nothing, small enough for an even share.
const BATCH_BYTES: u64 = 2 << 20;
/// Extents of a batch at most.
const BATCH_EXTENTS: usize = 256;
/// Gaps that a thread collects before it hands them on.
const GAPS: usize = 1024;
/// Bytes of the buffer of a thread for images that can't be borrowed: at most this many, and
/// [`ALL_READ_BYTES`] for all threads together.
const READ_BYTES: usize = 256 << 10;
/// Bytes of the buffers of all threads together.
const ALL_READ_BYTES: usize = 4 << 20;

/// Takes the gaps that a scan finds, in any order.
pub(crate) trait GapSink: Sync {
    /// Shorter gaps than this are of no use, in bytes. May grow while the scan goes on.
    fn shortest(&self) -> u64;

    /// Empties `gaps`.
    ///
    /// # Errors
    /// Memory for them can't be had.
    fn take(&self, gaps: &mut Vec<Gap>) -> Result<()>;

    /// Takes a gap in which bytes are left out, of any length: no segment may reach over it.
    ///
    /// # Errors
    /// Memory for it can't be had.
    fn keep(&self, gap: Gap) -> Result<()>;
}

/// How to scan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) scanner: Scanner,
    /// How many threads take part, the caller's included; 0 is one per core.
    pub(crate) threads: usize,
    pub(crate) extents: ExtentOptions,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// For each image the range from its first to its last byte that is not zero.
    pub(crate) spans: Vec<Option<Range<u64>>>,
    /// How the extents of each image were found.
    pub(crate) methods: Vec<ExtentMethod>,
    /// How mappings of live memory were found.
    pub(crate) mapping_method: Option<MappingMethod>,
    /// Why extents were found in a worse way than others, or were not asked for although that was wanted.
    pub(crate) notes: Vec<Note>,
    /// For each image why its extents cannot be all of its data. Then nothing that was found of it counts.
    pub(crate) doubts: Vec<Option<String>>,
    /// How many threads took part, or were wanted, if there was less to do.
    pub(crate) threads: usize,
    /// Bytes of all extents, which is what was scanned.
    pub(crate) extent_bytes: u64,
    /// Time that finding extents took, in all threads together.
    pub(crate) extent_time: Duration,
}

/// Scans `images` and hands to `gaps` every gap of at least `gaps.shortest()` bytes, and those in which
/// bytes are left out.
///
/// # Errors
/// Returns an error if the scan was cancelled, a forced way to find extents is not possible, an image can't be read, or
/// the gap sink fails.
pub(crate) fn scan<'i>(
    images: &[Scanned<'i>],
    options: Options,
    gaps: &dyn GapSink,
    control: &Control,
) -> Result<Found> {
    let finder_start = Instant::now();
    let finder = Finder::new(options.extents, images.iter().any(|of| of.image.is_live()))?;
    let extents_of = |of: &Scanned<'i>| {
        Ok(of.image.extents(&finder, of.in_doubt)?.without(of.excluded.as_slice()))
    };
    let extents = images.iter().map(extents_of).collect::<Result<Vec<_>>>()?;
    let finder_time = finder_start.elapsed();
    let methods = extents.iter().map(Extents::method).collect();
    let note_of = |(i, extents): (usize, &Extents<'_>)| {
        let (text, is_for_dump) = (extents.note()?.into(), extents.note_is_for_dump());
        Some(Note { image: Some(i), text, is_for_dump })
    };
    let of_all = |text: &str| Note { image: None, text: text.into(), is_for_dump: true };
    let notes = finder.note().map(of_all).into_iter();
    let notes = notes.chain(extents.iter().enumerate().filter_map(note_of)).collect();
    // A bound, as all numbers of progress: sparse images can have more bytes together than 64 bits can count.
    let bytes = images.iter().map(|of| of.image.len()).fold(0, u64::saturating_add);
    let threads = resolve(options.threads);
    let shared = Shared {
        images,
        gaps,
        scanner: options.scanner,
        queue: Mutex::new(Queue::new(extents)),
        stretches: Mutex::new(images.iter().map(|_| Vec::new()).collect()),
        found: Mutex::default(),
        image_bytes: images.iter().map(|_| AtomicU64::new(0)).collect(),
        read_bytes: (ALL_READ_BYTES / threads.max(1)).min(READ_BYTES),
        control,
        meter: control.begin(Stage::Scan, bytes),
        failed: AtomicBool::new(false),
        cancelled: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    let useful = at_most(bytes.div_ceil(BATCH_BYTES), threads);
    let started = run_on(useful, &|| shared.work());

    if let Some(error) = into_inner(shared.failure) {
        return Err(error);
    }
    // What counts is what the threads have seen: the flag may be false again by now.
    if shared.cancelled.into_inner() {
        return Err(control.cancelled());
    }
    shared.meter.finish();
    let queue = into_inner(shared.queue);
    let doubt = |((of, extents), bytes): ((&Scanned<'_>, &Extents<'_>), &AtomicU64)| {
        extents.contradiction(bytes.load(Ordering::Relaxed), of.excluded.as_slice())
    };
    let doubts = images.iter().zip(&queue.extents).zip(&shared.image_bytes).map(doubt);
    let doubts = doubts.collect::<Result<_>>()?;
    let (extent_bytes, time) = into_inner(shared.found);
    let stretches = into_inner(shared.stretches);
    Ok(Found {
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

/// A thread that panicked has poisoned nothing that is used afterwards: `thread::scope` passes the panic on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Extents of one memory that one thread scans at once.
struct Batch<'i> {
    memory: usize,
    /// Position among the batches of its memory.
    number: u64,
    extents: Vec<Range<u64>>,
    /// Finds the holes that the extents may still have; kept from batch to batch of the same memory.
    holes: Option<Holes<'i>>,
    /// The file to read them from, if they must not be read through its mapping.
    unmapped: Option<&'i File>,
    /// Bytes of images from the end of the batch before to the end of this one.
    passed: u64,
}

impl Batch<'_> {
    /// One of no memory yet.
    fn new() -> Self {
        let (extents, holes, unmapped) = (Vec::new(), None, None);
        Self { memory: usize::MAX, number: 0, extents, holes, unmapped, passed: 0 }
    }
}

/// Where batches come from.
struct Queue<'i> {
    extents: Vec<Extents<'i>>,
    memory: usize,
    number: u64,
    /// What is left of the extent in hand.
    rest: Range<u64>,
    /// Bytes of the images before this one, for progress: where 64 bits can't count them, as many as they can.
    before: u64,
    /// Bytes of images up to the end of the last batch.
    passed: u64,
    time: Duration,
}

impl<'i> Queue<'i> {
    fn new(extents: Vec<Extents<'i>>) -> Self {
        let (rest, time) = (0..0, Duration::ZERO);
        Self { extents, memory: 0, number: 0, rest, before: 0, passed: 0, time }
    }

    /// Fills `batch` with what comes next, false at the end.
    fn fill(&mut self, batch: &mut Batch<'i>) -> Result<bool> {
        let start = Instant::now();
        batch.extents.clear();
        let mut bytes = 0;
        while bytes < BATCH_BYTES && batch.extents.len() < BATCH_EXTENTS {
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
            let end = self.rest.end.min(self.rest.start + (BATCH_BYTES - bytes));
            batch.extents.push(self.rest.start..end);
            bytes += end - self.rest.start;
            self.rest.start = end;
        }
        // Also where the extent was found for a batch of another thread.
        let is_other = batch.memory != self.memory;
        if let Some(extents) = self.extents.get(self.memory).filter(|_| is_other) {
            (batch.holes, batch.unmapped) = (extents.holes(), extents.unmapped());
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

/// Neighbouring batches of one memory that are done.
struct Stretch {
    batches: Range<u64>,
    /// From the first to the last byte that is not zero.
    span: Option<Range<u64>>,
}

/// Puts a finished stretch into `list`, which is in order, and joins it to its neighbours; gives the
/// gaps to its left and right as far as they are known now.
fn join(list: &mut Vec<Stretch>, done: Stretch) -> [Option<Range<u64>>; 2] {
    let at = list.partition_point(|s| s.batches.end <= done.batches.start);
    list.insert(at, done);
    let right = join_next(list, at);
    let left = at.checked_sub(1).and_then(|left| join_next(list, left));
    [left, right]
}

/// Joins the stretch after `at` to the one at `at` if it follows at once; gives the gap between.
fn join_next(list: &mut Vec<Stretch>, at: usize) -> Option<Range<u64>> {
    if list.get(at + 1)?.batches.start != list[at].batches.end {
        return None;
    }
    let right = list.remove(at + 1);
    append(&mut list[at], right)
}

/// Appends `right`, which follows `left` at once; gives the gap between their spans.
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

/// What the threads of a scan share.
struct Shared<'s, 'i> {
    images: &'s [Scanned<'i>],
    gaps: &'s dyn GapSink,
    scanner: Scanner,
    queue: Mutex<Queue<'i>>,
    /// For each memory, in the order of batches.
    stretches: Mutex<Vec<Vec<Stretch>>>,
    /// Bytes of all extents, and the time that finding holes in them took.
    found: Mutex<(u64, Duration)>,
    /// Bytes of the extents of each image.
    image_bytes: Vec<AtomicU64>,
    /// Bytes of the buffer of a thread.
    read_bytes: usize,
    control: &'s Control,
    meter: Meter<'s>,
    failed: AtomicBool,
    /// Whether a thread has stopped because it was to.
    cancelled: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl Shared<'_, '_> {
    /// Whether to go on: nobody has cancelled, and no thread has failed.
    fn goes_on(&self) -> bool {
        if self.control.is_cancelled() {
            self.cancelled.store(true, Ordering::Relaxed);
        }
        !self.failed.load(Ordering::Relaxed) && !self.cancelled.load(Ordering::Relaxed)
    }

    /// Takes batches until there are none, or it does not go on.
    fn work(&self) {
        let (gaps, buffer) = (Vec::new(), Vec::new());
        let mut worker = Worker { shared: self, gaps, buffer, bytes: 0, time: Duration::ZERO };
        if let Err(error) = worker.run() {
            self.failed.store(true, Ordering::Relaxed);
            lock(&self.failure).get_or_insert(error);
        }
        let mut found = lock(&self.found);
        *found = (found.0 + worker.bytes, found.1 + worker.time);
    }
}

/// One thread of a scan.
struct Worker<'w, 's, 'i> {
    shared: &'w Shared<'s, 'i>,
    gaps: Vec<Gap>,
    buffer: Vec<u8>,
    /// Bytes that it has scanned.
    bytes: u64,
    /// Time that it took to find holes.
    time: Duration,
}

impl Worker<'_, '_, '_> {
    fn run(&mut self) -> Result<()> {
        let mut batch = Batch::new();
        let no_room = |_| Error::out_of_memory("a table of gaps");
        self.gaps.try_reserve_exact(GAPS).map_err(no_room)?;
        while self.shared.goes_on() {
            if !lock(&self.shared.queue).fill(&mut batch)? {
                break;
            }
            let span = self.scan_batch(&mut batch)?;
            self.finish_batch(&batch, span)?;
            self.shared.meter.add(batch.passed);
        }
        self.hand_on()
    }

    /// Scans the extents of a batch; gives the range from the first to the last byte not zero.
    fn scan_batch(&mut self, batch: &mut Batch<'_>) -> Result<Option<Range<u64>>> {
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
        self.shared.image_bytes[batch.memory].fetch_add(bytes, Ordering::Relaxed);
        Ok(span)
    }

    fn next_extent(
        &mut self,
        batch: &mut Batch<'_>,
        part: &mut Range<u64>,
    ) -> Result<Option<Range<u64>>> {
        let Some(holes) = &mut batch.holes else {
            // There may be very many extents, and a look at the clock takes as long as 100 bytes.
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
        batch: &Batch<'_>,
        extent: Range<u64>,
        span: &mut Option<Range<u64>>,
    ) -> Result<()> {
        let image = match batch.unmapped {
            Some(file) => Bytes::File(file),
            None => self.shared.images[batch.memory].image.bytes(),
        };
        let memory = exact(batch.memory)?;
        if let Some(bytes) = image.as_slice() {
            return self.scan_slice(memory, slice(bytes, &extent)?, extent.start, span);
        }
        if self.buffer.is_empty() {
            self.buffer = zeros(self.shared.read_bytes, "a buffer to read an image")?;
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

    /// Scans `bytes`, which stand at `base`, and extends `span` by what is found.
    fn scan_slice(
        &mut self,
        memory: u32,
        bytes: &[u8],
        base: u64,
        span: &mut Option<Range<u64>>,
    ) -> Result<()> {
        let shortest = self.shared.gaps.shortest();
        // No slice has a gap of more bytes than a `usize` can count.
        let min_gap = at_most(shortest, usize::MAX);
        let mut result = Ok(());
        let scanner = self.shared.scanner;
        let mut found: Option<Range<u64>> = None;
        let is_short = |gap: Option<u64>| gap.is_none_or(|len| len < shortest);
        scanner.runs(bytes, min_gap, |run| {
            // A mapped file may be written to while it is scanned. Runs stay in order then, but one may
            // be empty, which no segment can be, and a gap too short.
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
                    if let Err(error) = self.found(memory, &gap) {
                        result = Err(error);
                    }
                }
            }
        });
        result?;
        match (span, found) {
            (Some(span), Some(found)) => {
                let gap = mem::replace(&mut span.end, found.end)..found.start;
                self.found_between(memory, &gap, shortest)
            }
            (span, found) => {
                *span = span.take().or(found);
                Ok(())
            }
        }
    }

    /// Takes a gap between extents, which may be one because bytes are left out.
    fn found_between(&mut self, memory: u32, gap: &Range<u64>, shortest: u64) -> Result<()> {
        if self.shared.images[memory as usize].excludes(gap) {
            return self.shared.gaps.keep(as_gap(memory, gap));
        }
        if gap.end - gap.start < shortest { Ok(()) } else { self.found(memory, gap) }
    }

    /// Takes a gap of zeros that is long enough.
    fn found(&mut self, memory: u32, gap: &Range<u64>) -> Result<()> {
        self.gaps.push(as_gap(memory, gap));
        if self.gaps.len() < GAPS { Ok(()) } else { self.hand_on() }
    }

    fn hand_on(&mut self) -> Result<()> {
        self.shared.gaps.take(&mut self.gaps)
    }

    fn finish_batch(&mut self, batch: &Batch<'_>, span: Option<Range<u64>>) -> Result<()> {
        let done = Stretch { batches: batch.number..batch.number + 1, span };
        let gaps = join(&mut lock(&self.shared.stretches)[batch.memory], done);
        let shortest = self.shared.gaps.shortest();
        for gap in gaps.into_iter().flatten() {
            self.found_between(exact(batch.memory)?, &gap, shortest)?;
        }
        Ok(())
    }
}

fn as_gap(memory: u32, gap: &Range<u64>) -> Gap {
    Gap { memory, start: gap.start, len: gap.end - gap.start }
}

/// Returns the bytes of an extent.
///
/// # Errors
/// Returns an error of [`ErrorKind::Internal`] if the extent does not lie in its image.
fn slice<'b>(bytes: &'b [u8], extent: &Range<u64>) -> Result<&'b [u8]> {
    let bytes = bytes.get(exact(extent.start)?..exact(extent.end)?);
    bytes.ok_or_else(|| Error::new(ErrorKind::Internal, "an extent beyond its image"))
}
