//! The plan: segments and the exact layout of a dump that has not been written yet.

mod degrade;
mod layout;
mod segments;

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

pub use degrade::Shortfall;
pub(crate) use degrade::{Kept, cut, cut_trap, kept_build_id};
pub use layout::Segment;
pub(crate) use layout::{DataSection, Entries, IndexLayout, sign_extended};
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

/// The segments and the exact layout of a dump, and the guest that it is of.
///
/// Made by [`Dumper::plan`](crate::Dumper::plan); its length is known to the byte before the first
/// byte is written.
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
    /// Everything before the data section, but for the section that the layout fixes.
    pub(crate) prelude: Prelude,
    /// The offset of the first section with data in bytes.
    pub(crate) data_offset: u64,
    /// The memories of the dump, in its order.
    pub(crate) memories: Vec<PlannedMemory<'d>>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) sections: Vec<DataSection>,
    pub(crate) index: IndexLayout,
    shortfalls: Vec<Shortfall>,
    stats: Stats,
    pub(crate) control: Control,
    /// What happens to the files of images from the scan on.
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

/// What precedes the data section.
pub(crate) struct Prelude {
    /// The header of the module, and the section `core`.
    pub(crate) core: Vec<u8>,
    /// The sections after `corestream`.
    pub(crate) state: Vec<u8>,
}

impl Prelude {
    /// Returns its length in bytes with the section `corestream`.
    fn len(&self) -> Result<u64> {
        Ok(self.core.len().plus(HEADER_SECTION_BYTES)?.plus(self.state.len())? as u64)
    }
}

/// What planning a dump took and found. Lengths are in bytes.
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
    /// The size of all memories.
    pub memory_bytes: u128,
    /// The length of all images.
    pub image_bytes: u128,
    /// The extents, all of which was scanned.
    pub extent_bytes: u64,
    /// The payload of all segments.
    pub data_bytes: u64,
    /// The dump.
    pub dump_bytes: u64,
    /// The number of segments.
    pub segments: u64,
    /// What was left out of memories on purpose; it was not read either.
    pub excluded_bytes: u128,
    /// The number of ranges that were.
    pub excluded_ranges: u64,
    /// How the extents of each image were found.
    pub extent_methods: Vec<ExtentMethod>,
    /// How the mappings under live memory were found; `None` where nothing was asked.
    pub mapping_method: Option<MappingMethod>,
    /// Why extents were found in a worse way than others, or images were read as a whole: each reason in
    /// one line. Mostly none.
    pub extent_notes: Vec<String>,
    /// The name of the scan's backend.
    pub scanner: &'static str,
    /// How many threads scanned at most: those of [`Dumper::threads`](crate::Dumper::threads), or as many of them as
    /// could be started.
    pub threads: usize,
    /// Time to find extents, in all threads together; part of `scan_time`.
    pub extent_time: Duration,
    /// Time to scan.
    pub scan_time: Duration,
    /// Time to choose segments and lay them out.
    pub plan_time: Duration,
}

/// How a plan is made.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) max_segments: u32,
    pub(crate) max_section_bytes: u32,
    pub(crate) scan: scan::ScanOptions,
    /// Whether the dump has checksums.
    pub(crate) checksums: bool,
    pub(crate) control: Control,
}

impl Options {
    fn check(&self) -> Result<()> {
        segments::check_budget(self.max_segments)
            .map_err(|why| Error::new(ErrorKind::Option, format!("max_segments: {why}")))?;
        let least = limits::MIN_SECTION_BYTES;
        if self.max_section_bytes < least {
            let message = format!("max_section_bytes: a section needs at least {least} bytes");
            return Err(Error::new(ErrorKind::Option, message));
        }
        Ok(())
    }
}

impl<'d> Plan<'d> {
    /// Scans the memories of `dump` and lays it out; `prelude` encodes what precedes the data.
    pub(crate) fn new(
        dump: &'d CoreDump<'d>,
        options: Options,
        prelude: impl FnOnce(&CoreDump<'_>, &Kept, &[String]) -> Prelude,
    ) -> Result<Self> {
        options.check()?;
        let mut excluded = dump.resolve()?;
        let kept = Kept::of(dump)?;
        let planned = kept.memories.items.iter().filter_map(|index| {
            let i = index.0 as usize;
            let excluded = std::mem::take(excluded.get_mut(i)?);
            Some(PlannedMemory { index: *index, memory: dump.memories.get(i)?, excluded })
        });
        let memories: Vec<_> = planned.collect();
        let mut images: Vec<_> = memories.iter().map(scanned).collect();
        let types: Vec<_> = memories.iter().map(|planned| planned.memory.ty).collect();

        // Before the first byte is read.
        let watch = Watch::begin(memories.iter().map(|planned| &planned.memory.image));
        let scan_start = Instant::now();
        let mut doubts = Vec::new();
        let (mut found, selection) = loop {
            let selection = segments::Selection::new(options.max_segments);
            let found = scan::scan(&images, options.scan, &selection, &options.control);
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
            // An image in doubt has one extent, so no image gets there twice.
            if !any_new {
                break (found, selection);
            }
        };
        found.notes.append(&mut doubts);

        let plan_start = Instant::now();
        let holding_data = found.spans.iter().flatten().count();
        let gaps = selection.finish(holding_data)?;
        let count = gaps.len().plus(holding_data)?;
        let mut layout = layout::Layout::new(&types, options.max_section_bytes, count)?;
        segments::split(&found.spans, &gaps, |memory, range| layout.place(memory, range))?;
        drop(gaps);
        let (segments, sections, data_len) = layout.finish()?;
        let ranges = sum(memories.iter().map(|planned| planned.excluded.len()))?;
        let entries = Entries { memories: types.len(), segments: segments.len(), ranges };
        check_listed(&entries)?;
        // A dump numbers its memories anew if it has no room for all of them.
        let in_dump = found.notes.iter().filter(|note| note.is_for_dump);
        let in_dump: Vec<_> = in_dump.map(|note| in_words(note, Some)).collect();
        let prelude = prelude(dump, &kept, &in_dump);
        let index_of = |i: usize| memories.get(i).map(|planned| planned.index);
        let extent_notes = found.notes.iter().map(|note| in_words(note, index_of)).collect();
        let data_offset = prelude.len()?;
        let index = IndexLayout::new(data_offset.plus(data_len)?, entries, options.checksums);
        let index = index.ok_or_else(|| Error::out_of_memory("the index, it is over 4 GiB"))?;

        let stats = Stats {
            // A dump has at most 100 memories of at most 2^64 bytes.
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

    /// # Errors
    /// The file of an image was cut since it was opened.
    pub(crate) fn check_images(&self) -> Result<()> {
        check_images(&self.memories)
    }

    /// How the dump takes the bytes of memory `i`.
    pub(crate) fn payload(&self, i: usize) -> Option<PayloadSource<'_>> {
        Some(self.memories.get(i)?.memory.image.payload(self.watch.is_guarded(i)))
    }

    /// Whether bytes of images have to be copied.
    pub(crate) fn has_copies(&self) -> bool {
        (0..self.memories.len()).any(|i| matches!(self.payload(i), Some(PayloadSource::Copied(_))))
    }

    /// Whether each memory may have changed since it was scanned. Called after its last byte was read.
    ///
    /// # Errors
    /// An image that could not change can by now.
    pub(crate) fn look_for_changes(&self) -> Result<Vec<bool>> {
        let images = || self.memories.iter().map(|planned| &planned.memory.image);
        self.watch.check_guarded(images()).map_err(|(i, error)| self.error_at(i, error))?;
        self.watch.detect_changes(images());
        Ok(self.watch.changes().map(|change| change.is_some()).collect())
    }

    /// Names the memory of image `i` in its error.
    fn error_at(&self, i: usize, error: Error) -> Error {
        match self.memories.get(i) {
            Some(planned) => error.at(format_args!("memory {}", planned.index)),
            None => error,
        }
    }

    /// Returns the memories that the last dump of this plan marks as *changing*, and why. An image file is looked
    /// at from the scan until all of its bytes were read; what was seen once is marked in all later
    /// dumps of the plan too. Before the first dump only those are listed that the caller marked.
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

    /// Returns the memories of the dump, in its order: the first one is memory 0 of the dump, the
    /// [`DumpMemoryIndex`](crate::DumpMemoryIndex) of its [`Segment`]s.
    ///
    /// A dump that has room for all memories has them in the order of the description.
    pub fn memories(&self) -> impl Iterator<Item = MemoryIndex> {
        self.memories.iter().map(|planned| planned.index)
    }

    /// Returns the exact length of the dump in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a dump is never empty")]
    pub fn len(&self) -> u64 {
        self.stats.dump_bytes
    }

    /// Returns its data segments, in the order of memory and address.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns what the dump leaves out because the format has no room for it; mostly nothing.
    pub fn shortfalls(&self) -> &[Shortfall] {
        &self.shortfalls
    }

    /// Returns the excluded ranges ([`Memory::without`]) of each memory of the dump that has some.
    pub fn excluded(&self) -> impl Iterator<Item = (MemoryIndex, &AddressRanges)> {
        let all = self.memories.iter().map(|planned| (planned.index, &planned.excluded));
        all.filter(|(_, ranges)| !ranges.is_empty())
    }

    /// Whether bytes that are so near before a segment that they may be read along with it were left out.
    pub(crate) fn excludes_just_before(&self, segment: &Segment) -> bool {
        let of = self.memories.get(segment.memory.0 as usize);
        let before = of.and_then(|planned| planned.excluded.last_from(segment.address));
        let gap = |range: &RangeInclusive<u64>| segment.address.checked_sub(*range.end());
        before.is_some_and(|range| gap(range).is_none_or(|gap| gap <= MAX_READ_GAP))
    }

    /// Returns what planning took and found.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The type of a memory of the dump.
    #[allow(clippy::indexing_slicing, reason = "a segment of the plan is of a memory of the plan")]
    pub(crate) fn ty(&self, segment: &Segment) -> &MemoryType {
        &self.memories[segment.memory.0 as usize].memory.ty
    }
}

/// What of a memory is scanned.
fn scanned<'p>(planned: &'p PlannedMemory<'_>) -> Scanned<'p> {
    Scanned { image: &planned.memory.image, excluded: &planned.excluded, in_doubt: false }
}

/// Returns a note as a line; `index_of` gives the index of an image's memory.
fn in_words<I: Display>(note: &ScanNote, index_of: impl Fn(usize) -> Option<I>) -> String {
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

/// A stream with ranges can be checked in bounded memory only up to so many segments; sections of 4 GiB
/// never make as many.
fn check_listed(entries: &Entries) -> Result<()> {
    let Entries { segments, ranges, .. } = *entries;
    let most = limits::MAX_PARTIAL_SEGMENTS;
    if ranges == 0 || segments <= most {
        return Ok(());
    }
    let message = format!(
        "max_section_bytes: {segments} segments are more than the {most} of a dump of which ranges \
         are left out"
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
