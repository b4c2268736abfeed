//! The result of an extraction, and the warnings about missing ranges and doubtful bytes.

use std::ops::{Range, RangeInclusive};

use corestream::read::{DamageReport, MemoryView, Restored, SegmentView};
use corestream::{CoreDumpFile, MemoryIndex};

use crate::input::Input;
use crate::limits::MAX_SHOWN_RANGES;
use crate::report::{self, Failure};

/// The file name of the manifest.
pub(super) const MANIFEST: &str = "manifest.json";

/// The result of an extraction.
pub(super) struct Extraction {
    pub(super) memories: Vec<(MemoryIndex, Restored)>,
    /// The memories of a damaged dump that were skipped because their images are too large for the file system.
    pub(super) skipped: Vec<MemoryIndex>,
    /// Whether a manifest was written.
    pub(super) manifest: bool,
}

impl Extraction {
    fn has(&self, memory: MemoryIndex) -> bool {
        self.memories.iter().any(|(extracted, _)| *extracted == memory)
    }

    /// Names the extracted data that comes from the sections before the data section, as the start of a sentence.
    fn described(&self) -> String {
        match (self.manifest, self.memories.first()) {
            (false, Some((memory, _))) => format!("the size of memory {memory} is"),
            _ => format!("{MANIFEST} (names, sizes of memories, globals, frames) is"),
        }
    }

    /// Warns about ranges that are zero because the file system could not read the dump there. Prints one line for each
    /// range of the dump, and one for each range of a memory.
    pub(super) fn warn_of_unread_ranges(
        &self,
        input: &Input,
        dump: &CoreDumpFile<'_>,
        lost: &[Range<u64>],
    ) {
        let name = input.name();
        for Range { start, end } in lost {
            report::line(&format!("warning: {name}: cannot read bytes {start:#x}..{end:#x}"));
        }
        for (memory, _) in &self.memories {
            let ranges =
                dump.memory(*memory).into_iter().flat_map(|view| unread_ranges(view, lost));
            for (first, last) in ranges.map(RangeInclusive::into_inner) {
                report::line(&format!(
                    "warning: memory {memory}: cannot read {first:#x}..={last:#x}; the image has \
                     zeros there"
                ));
            }
        }
    }

    /// Warns about each memory of a damaged dump whose size is unknown.
    pub(super) fn warn_of_sizes(&self, dump: &CoreDumpFile<'_>) {
        if dump.damage().is_none() {
            return;
        }
        for (memory, _) in &self.memories {
            let declared = dump.memory(*memory).ok().and_then(|memory| memory.declared_pages());
            let line = match declared {
                Some(0) => "its size is lost; the image ends with the last page that has data",
                Some(_) => "its size is damaged; the image ends with the last page that has data",
                None => continue,
            };
            report::line(&format!("warning: memory {memory}: {line}"));
        }
    }

    /// Reports ranges that are zero in an image because they are not in the dump. Prints one line about ranges that
    /// were excluded on purpose, or one warning for each range that may be lost.
    pub(super) fn warn_of_missing_ranges(&self, dump: &CoreDumpFile<'_>) {
        let missing = self.memories.iter().filter(|(_, restored)| restored.unknown > 0);
        let ranges = |memory| dump.memory(memory).into_iter().flat_map(|memory| memory.unknown());
        if dump.has_index() {
            let of = |(memory, restored): &(MemoryIndex, Restored)| {
                (*memory, restored.unknown, ranges(*memory).count() as u64)
            };
            if let Some(excluded) = report::excluded(missing.map(of)) {
                report::line(&format!("{excluded}; the image has zeros there"));
            }
            return;
        }
        for (memory, _) in missing {
            let mut ranges = ranges(*memory);
            for range in ranges.by_ref().take(MAX_SHOWN_RANGES) {
                let (first, last) = range.into_inner();
                report::line(&format!(
                    "warning: memory {memory}: {first:#x}..={last:#x} is not in the dump; the image \
                     has zeros there"
                ));
            }
            let more = ranges.count() as u64;
            if more > 0 {
                let more = report::count(more, "more range");
                report::line(&format!(
                    "warning: memory {memory}: {more} not in the dump; the image has zeros there"
                ));
            }
        }
    }
}

/// Returns the ranges of a memory whose bytes are in ranges of the dump that could not be read, in order of address.
pub(super) fn unread_ranges(
    memory: MemoryView<'_>,
    lost: &[Range<u64>],
) -> impl Iterator<Item = RangeInclusive<u64>> {
    let mut remaining = lost;
    // Segments are in the order of addresses, which is usually also their order in the dump. So the search continues
    // after the last range found, and starts again only if a segment lies before it.
    memory.segments().flat_map(move |SegmentView { addresses, offset, .. }| {
        let (address, last) = addresses.into_inner();
        let part = offset..offset + (last - address) + 1;
        if remaining.first().is_none_or(|range| range.start > part.start) {
            remaining = lost;
        }
        let passed = remaining.partition_point(|range| range.end <= part.start);
        remaining = &remaining[passed..];
        let start = part.start;
        remaining.iter().take_while(move |range| range.start < part.end).map(move |range| {
            let first = address + (range.start.max(start) - start);
            first..=last.min(address + (range.end - start - 1))
        })
    })
}

/// The damage of a dump whose readable parts were extracted.
pub(super) struct DamagedDump {
    /// The failure to report at the end.
    pub(super) failure: Failure,
    /// The cause in the message of the failure.
    pub(super) cause: String,
    /// The damage that the verifier found, if it found any.
    pub(super) damage: Option<DamageReport>,
    /// Whether the verifier found the dump intact.
    pub(super) is_verified: bool,
}

impl DamagedDump {
    /// Warns about extracted data that may be wrong: data from blocks with a checksum mismatch. With `unread`, parts of
    /// the dump could not be read; a block with such a part has a checksum mismatch too.
    pub(super) fn warn_of_doubtful_data(&self, extraction: &Extraction, unread: bool) {
        let compared = self.damage.as_ref().filter(|damage| damage.checksums);
        let Some(damage) = compared else {
            if !self.is_verified {
                report::line(
                    "warning: no checksums could be compared; the extracted data may be wrong",
                );
            }
            return;
        };
        let from = match unread {
            true => "from damaged or partly unreadable blocks",
            false => "from damaged blocks",
        };
        if damage.guest {
            report::line(&format!("warning: {} {from}", extraction.described()));
        }
        for range in damage.all_memory.iter().filter(|range| extraction.has(range.memory)) {
            report::line(&format!("warning: {range} is {from}"));
        }
        if damage.more_memory > 0 {
            let more = report::count(damage.more_memory as u64, "more range");
            report::line(&format!("warning: {more} {from}"));
        }
    }
}
