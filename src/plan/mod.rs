//! The plan: the segments and the exact layout of a dump that is not written yet.

mod degrade;
mod layout;
mod segments;

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

pub use degrade::Shortfall;
pub(crate) use degrade::{KeptParts, kept_build_id, truncate_name, truncate_trap};
pub use layout::Segment;
pub(crate) use layout::{DataSection, EntryCounts, IndexLayout, sign_extended};
#[cfg(feature = "internals")]
pub use segments::SEGMENT_COST;

use crate::arithmetic::{Checked, sum};
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::format::HEADER_SECTION_BYTES;
use crate::image::{Change, ExtentMethod, MAX_READ_GAP, MappingMethod, PayloadSource, Watch};
use crate::limits;
use crate::model::{CoreDump, Memory, MemoryIndex, MemoryType};
use crate::ranges::AddressRanges;
use crate::scan::{self, ScanNote, Scanned};

/// The segments and the exact layout of a dump that is not written yet.
///
/// [`Dumper::plan`](crate::Dumper::plan) returns it. It borrows the guest, and knows the dump's length to the byte
/// before the first byte is written.
///
/// ```
/// use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryIndex, MemoryType};
///
/// let mut bytes = vec![0; 65_536];
/// bytes[1000..2000].fill(1);
/// let mut dump = CoreDump::new("guest.wasm");
/// let memory = Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes));
/// dump.add_memory(memory.without(..16));
///
/// let plan = Dumper::new().plan(&dump)?;
/// assert!(plan.memories().eq([MemoryIndex(0)]) && plan.shortfalls().is_empty());
/// assert_eq!(plan.segments()[0].address, 1000);
/// let (memory, excluded) = plan.excluded().next().unwrap();
/// assert_eq!((memory, excluded.as_slice()), (MemoryIndex(0), &[0..=15][..]));
/// assert_eq!(plan.stats().data_bytes, 1000);
/// assert_eq!(plan.writer().to_vec()?.len() as u64, plan.len());
/// # Ok::<(), corestream::Error>(())
/// ```
#[must_use = "nothing is written yet"]
pub struct Plan<'d> {
    /// The sections before the data, without the section `corestream`, whose content depends on the layout.
    pub(crate) prelude: Prelude,
    /// The offset in bytes of the first section with data.
    pub(crate) data_offset: u64,
    /// The memories of the dump, in its order.
    pub(crate) memories: Vec<PlannedMemory<'d>>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) sections: Vec<DataSection>,
    pub(crate) index: IndexLayout,
    shortfalls: Vec<Shortfall>,
    stats: Stats,
    pub(crate) control: Control,
    /// Watches the files of the images from the scan on.
    watch: Watch,
}

/// A memory that the dump keeps.
pub(crate) struct PlannedMemory<'d> {
    /// Its index in the description.
    pub(crate) index: MemoryIndex,
    pub(crate) memory: &'d Memory<'d>,
    /// Its excluded ranges.
    pub(crate) excluded: AddressRanges,
}

/// The encoded sections before the data section.
pub(crate) struct Prelude {
    /// The header of the module, and the section `core`.
    pub(crate) core: Vec<u8>,
    /// The sections between `corestream` and the data section.
    pub(crate) state: Vec<u8>,
}

impl Prelude {
    /// Returns the length in bytes of the sections before the data, including `corestream`.
    fn len(&self) -> Result<u64> {
        Ok(self.core.len().plus(HEADER_SECTION_BYTES)?.plus(self.state.len())? as u64)
    }
}

/// Statistics of a plan: sizes in bytes, counts, methods and times.
///
/// ```
/// use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType};
///
/// let bytes = vec![1; 65_536];
/// let mut dump = CoreDump::new("guest.wasm");
/// dump.add_memory(Memory::new(MemoryType::wasm32(2), MemoryImage::from_slice(&bytes)));
/// let plan = Dumper::new().plan(&dump)?;
/// let stats = plan.stats();
/// assert_eq!((stats.memory_bytes, stats.image_bytes, stats.segments), (131_072, 65_536, 1));
/// println!("scanned {} bytes in {:?} ({})", stats.extent_bytes, stats.scan_time, stats.scanner);
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The size of all memories in bytes.
    pub memory_bytes: u128,
    /// The length of all images in bytes.
    pub image_bytes: u128,
    /// The length of all extents in bytes. The scan read all of them.
    pub extent_bytes: u64,
    /// The payload of all segments in bytes.
    pub data_bytes: u64,
    /// The length of the dump in bytes.
    pub dump_bytes: u64,
    /// The number of segments.
    pub segments: u64,
    /// The length of all excluded ranges in bytes. The scan did not read them.
    pub excluded_bytes: u128,
    /// The number of excluded ranges.
    pub excluded_ranges: u64,
    /// The method that found the extents of each image.
    pub extent_methods: Vec<ExtentMethod>,
    /// The method that found the mappings of live memory; `None` if none was needed.
    pub mapping_method: Option<MappingMethod>,
    /// The reasons why a less precise method found some extents, or why whole images were read, one line each. Usually
    /// empty.
    pub extent_notes: Vec<String>,
    /// The name of the scan's backend.
    pub scanner: &'static str,
    /// The maximum number of threads that scanned: the number set by [`Dumper::threads`](crate::Dumper::threads), or
    /// fewer if the system could not start as many.
    pub threads: usize,
    /// The time to find extents, summed over all threads. `scan_time` includes it.
    pub extent_time: Duration,
    /// The time to scan.
    pub scan_time: Duration,
    /// The time to choose the segments and to lay them out.
    pub plan_time: Duration,
}

/// The options of a plan.
#[derive(Clone, Debug)]
pub(crate) struct PlanOptions {
    pub(crate) max_segments: u32,
    pub(crate) max_section_bytes: u32,
    pub(crate) scan: scan::ScanOptions,
    /// Whether the dump has checksums.
    pub(crate) checksums: bool,
    pub(crate) control: Control,
}

impl PlanOptions {
    fn check(&self) -> Result<()> {
        segments::check_budget(self.max_segments)
            .map_err(|why| Error::new(ErrorKind::Option, format!("max_segments: {why}")))?;
        let min = limits::MIN_SECTION_BYTES;
        if self.max_section_bytes < min {
            let message = format!("max_section_bytes: a section needs at least {min} bytes");
            return Err(Error::new(ErrorKind::Option, message));
        }
        Ok(())
    }
}

impl<'d> Plan<'d> {
    /// Scans the memories of `dump` and lays out the dump. `prelude` encodes the sections before the data.
    pub(crate) fn new(
        dump: &'d CoreDump<'d>,
        options: PlanOptions,
        prelude: impl FnOnce(&CoreDump<'_>, &KeptParts, &[String]) -> Prelude,
    ) -> Result<Self> {
        options.check()?;
        let mut excluded = dump.resolve()?;
        let kept = KeptParts::choose(dump)?;
        let planned = kept.memories.items.iter().filter_map(|index| {
            let i = index.0 as usize;
            let excluded = std::mem::take(excluded.get_mut(i)?);
            Some(PlannedMemory { index: *index, memory: dump.memories.get(i)?, excluded })
        });
        let memories: Vec<_> = planned.collect();
        let mut images: Vec<_> = memories.iter().map(to_scanned).collect();
        let types: Vec<_> = memories.iter().map(|planned| planned.memory.ty).collect();

        // The watch must begin before the scan reads the first byte.
        let watch = Watch::begin(memories.iter().map(|planned| &planned.memory.image));
        let scan_start = Instant::now();
        let mut doubts = Vec::new();
        let (mut found, kept_gaps) = loop {
            let kept_gaps = segments::KeptGaps::new(options.max_segments);
            let found = scan::scan(&images, options.scan, &kept_gaps, &options.control);
            check_images(&memories)?;
            let found = found?;
            let mut any_new = false;
            for (i, (image, doubt)) in images.iter_mut().zip(&found.doubts).enumerate() {
                if let Some(doubt) = doubt {
                    image.in_doubt = true;
                    any_new = true;
                    doubts.push(ScanNote {
                        image: Some(i),
                        text: doubt.clone(),
                        is_for_dump: true,
                    });
                }
            }
            // The next scan reads an image in doubt as one extent, which leaves no doubt, so the loop ends.
            if !any_new {
                break (found, kept_gaps);
            }
        };
        found.notes.append(&mut doubts);

        let plan_start = Instant::now();
        let with_data = found.spans.iter().flatten().count();
        let gaps = kept_gaps.finish(with_data)?;
        let count = gaps.len().plus(with_data)?;
        let mut layout = layout::Layout::new(&types, options.max_section_bytes, count)?;
        segments::split(&found.spans, &gaps, |memory, range| layout.place(memory, range))?;
        drop(gaps);
        let (segments, sections, data_len) = layout.finish()?;
        let ranges = sum(memories.iter().map(|planned| planned.excluded.len()))?;
        let entries = EntryCounts { memories: types.len(), segments: segments.len(), ranges };
        check_entries(&entries)?;
        // Notes in the dump use the dump's memory indices, which differ from the description's if memories are omitted.
        let in_dump = found.notes.iter().filter(|note| note.is_for_dump);
        let in_dump: Vec<_> = in_dump.map(|note| format_note(note, Some)).collect();
        let prelude = prelude(dump, &kept, &in_dump);
        let index_of = |i: usize| memories.get(i).map(|planned| planned.index);
        let extent_notes = found.notes.iter().map(|note| format_note(note, index_of)).collect();
        let data_offset = prelude.len()?;
        let index = IndexLayout::new(data_offset.plus(data_len)?, entries, options.checksums);
        let index = index.ok_or_else(|| Error::out_of_memory("an index of more than 4 GiB"))?;

        let stats = Stats {
            // At most 100 memories of at most 2^64 bytes.
            memory_bytes: types.iter().map(MemoryType::size).sum(),
            image_bytes: images.iter().map(|of| u128::from(of.image.len())).sum(),
            extent_bytes: found.extent_bytes,
            // Fewer than 2^32 segments of fewer than 2^32 bytes.
            data_bytes: segments.iter().map(|segment| u64::from(segment.len)).sum(),
            dump_bytes: index.offset.plus(index.len())?,
            segments: segments.len() as u64,
            excluded_bytes: memories.iter().map(|planned| planned.excluded.byte_len()).sum(),
            excluded_ranges: ranges as u64,
            extent_methods: found.methods,
            mapping_method: found.mapping_method,
            extent_notes,
            scanner: options.scan.scanner.name(),
            threads: found.threads,
            extent_time: found.extent_time,
            scan_time: plan_start.duration_since(scan_start),
            plan_time: plan_start.elapsed(),
        };
        let (shortfalls, control) = (kept.shortfalls, options.control);
        let plan = Self {
            prelude,
            data_offset,
            memories,
            segments,
            sections,
            index,
            shortfalls,
            stats,
            control,
            watch,
        };
        plan.control.check_cancelled()?;
        Ok(plan)
    }

    /// Checks that no image file was truncated since it was opened.
    ///
    /// # Errors
    /// Returns an error if one was.
    pub(crate) fn check_images(&self) -> Result<()> {
        check_images(&self.memories)
    }

    /// Returns where the dump takes the bytes of its memory `i` from, and whether it must copy them.
    pub(crate) fn payload(&self, i: usize) -> Option<PayloadSource<'_>> {
        Some(self.memories.get(i)?.memory.image.payload(self.watch.is_guarded(i)))
    }

    /// Returns whether bytes of any image must be copied.
    pub(crate) fn has_copies(&self) -> bool {
        (0..self.memories.len()).any(|i| matches!(self.payload(i), Some(PayloadSource::Copied(_))))
    }

    /// Releases the memories of snapshots. Called after the last byte of the images was read.
    pub(crate) fn release_snapshots(&self) {
        for planned in &self.memories {
            let image = &planned.memory.image;
            image.bytes().release_before(image.len());
        }
    }

    /// Returns for each memory whether it may have changed since the scan. Called after the last byte of the images was
    /// read.
    ///
    /// # Errors
    /// Returns an error if an image that could not change during the scan can change now.
    pub(crate) fn look_for_changes(&self) -> Result<Vec<bool>> {
        let images = || self.memories.iter().map(|planned| &planned.memory.image);
        self.watch.check_guarded(images()).map_err(|(i, error)| self.error_at(i, error))?;
        self.watch.detect_changes(images());
        Ok(self.watch.changes().map(|change| change.is_some()).collect())
    }

    /// Adds the memory of image `i` to an error.
    fn error_at(&self, i: usize, error: Error) -> Error {
        match self.memories.get(i) {
            Some(planned) => error.at(format_args!("memory {}", planned.index)),
            None => error,
        }
    }

    /// Returns the memories that the latest dump of this plan marks as *changing*, and why.
    ///
    /// corestream watches an image file from the scan until it has read all of its bytes. A change marks the memory in
    /// all later dumps of the plan too. Before the first dump, only the memories that the caller marked are listed.
    ///
    /// ```
    /// use corestream::{Change, CoreDump, Dumper, Memory, MemoryImage, MemoryIndex, MemoryType};
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("guest.mem");
    /// # std::fs::write(&path, [1; 65_536]).unwrap();
    ///
    /// let mut dump = CoreDump::new("guest.wasm");
    /// dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::open(&path)?));
    /// let plan = Dumper::new().plan(&dump)?;
    /// plan.write_to(&mut std::io::sink())?;
    /// assert_eq!(plan.changes().count(), 0);
    ///
    /// std::fs::write(&path, [2; 65_536]).unwrap();
    /// plan.write_to(&mut std::io::sink())?;
    /// assert!(plan.changes().eq([(MemoryIndex(0), Change::Written)]));
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn changes(&self) -> impl Iterator<Item = (MemoryIndex, Change)> {
        let all = self.memories().zip(self.watch.changes());
        all.filter_map(|(memory, change)| Some((memory, change?)))
    }

    /// Returns the memories of the dump as indices of the description. The first one is memory 0 of the dump, which is
    /// the [`DumpMemoryIndex`](crate::DumpMemoryIndex) in its [`Segment`]s.
    ///
    /// A dump with room for all memories has them in the order of the description.
    pub fn memories(&self) -> impl Iterator<Item = MemoryIndex> {
        self.memories.iter().map(|planned| planned.index)
    }

    /// Returns the exact length of the dump in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a dump is never empty")]
    pub fn len(&self) -> u64 {
        self.stats.dump_bytes
    }

    /// Returns the data segments of the dump, in order of memory and address.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns the parts of the guest that the dump omits or shortens because the format has no room for them. Usually
    /// empty.
    pub fn shortfalls(&self) -> &[Shortfall] {
        &self.shortfalls
    }

    /// Returns the excluded ranges ([`Memory::without`]) of each memory of the dump that has any.
    pub fn excluded(&self) -> impl Iterator<Item = (MemoryIndex, &AddressRanges)> {
        let all = self.memories.iter().map(|planned| (planned.index, &planned.excluded));
        all.filter(|(_, ranges)| !ranges.is_empty())
    }

    /// Returns whether excluded bytes lie so close before a segment that one read for several segments could include
    /// them.
    pub(crate) fn excludes_just_before(&self, segment: &Segment) -> bool {
        let planned = self.memories.get(segment.memory.0 as usize);
        let before = planned.and_then(|planned| planned.excluded.last_from(segment.address));
        let gap = |range: &RangeInclusive<u64>| segment.address.checked_sub(*range.end());
        before.is_some_and(|range| gap(range).is_none_or(|gap| gap <= MAX_READ_GAP))
    }

    /// Returns the statistics of the plan.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Returns the type of a segment's memory.
    #[allow(clippy::indexing_slicing, reason = "the plan has the memories of all its segments")]
    pub(crate) fn ty(&self, segment: &Segment) -> &MemoryType {
        &self.memories[segment.memory.0 as usize].memory.ty
    }
}

/// Returns the part of a memory that the scan reads.
fn to_scanned<'p>(planned: &'p PlannedMemory<'_>) -> Scanned<'p> {
    Scanned { image: &planned.memory.image, excluded: &planned.excluded, in_doubt: false }
}

/// Formats a note as one line. `index_of` returns the index of an image's memory.
fn format_note<I: Display>(note: &ScanNote, index_of: impl Fn(usize) -> Option<I>) -> String {
    match note.image.and_then(index_of) {
        Some(index) => format!("memory {index}: {}", note.text),
        None => note.text.clone(),
    }
}

fn check_images(memories: &[PlannedMemory<'_>]) -> Result<()> {
    for PlannedMemory { index, memory, .. } in memories {
        memory.image.check_len().map_err(|error| error.at(format_args!("memory {index}")))?;
    }
    Ok(())
}

/// Checks the number of segments in a dump with excluded ranges.
///
/// A verifier can check a stream with excluded ranges in bounded memory only up to this number. With sections of 4 GiB,
/// a plan never has as many.
///
/// # Errors
/// Returns an error if there are too many.
fn check_entries(entries: &EntryCounts) -> Result<()> {
    let EntryCounts { segments, ranges, .. } = *entries;
    let max = limits::MAX_PARTIAL_SEGMENTS;
    if ranges == 0 || segments <= max {
        return Ok(());
    }
    let message = format!(
        "max_section_bytes: {segments} segments are more than the {max} that a dump with excluded \
         ranges can have"
    );
    Err(Error::new(ErrorKind::Option, message))
}

impl std::fmt::Debug for Plan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("len", &self.len())
            .field("segments", &self.segments.len())
            .field("sections", &self.sections.len())
            .finish_non_exhaustive()
    }
}
