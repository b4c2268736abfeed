//! The result of an extraction, and its warnings: missing memories, and bytes that may be wrong.

use std::ops::Range;

use corestream::read::{DamageReport, Restored, SegmentView};
use corestream::{CoreDumpFile, MemoryIndex};

use crate::input::Input;
use crate::limits::MAX_SHOWN_RANGES;
use crate::report::{self, Failure};

/// The name of the manifest beside the images.
pub(super) const MANIFEST: &str = "manifest.json";

/// What was extracted.
pub(super) struct Done {
    pub(super) memories: Vec<(MemoryIndex, Restored)>,
    /// Memories of a damaged dump whose images no file system takes.
    pub(super) skipped: Vec<MemoryIndex>,
    /// Whether a manifest has all else.
    pub(super) manifest: bool,
}

impl Done {
    fn has(&self, memory: MemoryIndex) -> bool {
        self.memories.iter().any(|(done, _)| *done == memory)
    }

    /// What came from the sections before the memory.
    fn described(&self) -> String {
        match (self.manifest, self.memories.first()) {
            (false, Some((memory, _))) => format!("the size of memory {memory} is"),
            _ => format!("{MANIFEST} (names, sizes of memories, globals, frames) is"),
        }
    }

    /// Reports ranges that are zero because the dump could not be read there: a line for each range of
    /// the dump, and for each of a memory.
    pub(super) fn say_unread(&self, input: &Input, dump: &CoreDumpFile<'_>, lost: &[Range<u64>]) {
        let name = input.name();
        for Range { start, end } in lost {
            report::line(&format!("warning: {name}: bytes {start:#x}..{end:#x} can't be read"));
        }
        for (memory, _) in &self.memories {
            let segments = dump.memory(*memory).into_iter().flat_map(|memory| memory.segments());
            let mut left = lost;
            // Segments come in the order of addresses, which is usually their order in the dump.
            for SegmentView { addresses, offset, .. } in segments {
                let (address, last) = addresses.into_inner();
                let part = offset..offset + (last - address) + 1;
                if left.first().is_none_or(|range| range.start > part.start) {
                    left = lost;
                }
                let passed = left.partition_point(|range| range.end <= part.start);
                left = &left[passed..];
                for range in left.iter().take_while(|range| range.start < part.end) {
                    let first = address + (range.start.max(part.start) - part.start);
                    let last = address + (range.end.min(part.end) - part.start - 1);
                    report::line(&format!(
                        "warning: memory {memory}: {first:#x}..={last:#x} can't be read, the image has \
                         zeros there"
                    ));
                }
            }
        }
    }

    /// A line for each memory of a damaged dump whose size is not known.
    pub(super) fn say_sizes(&self, dump: &CoreDumpFile<'_>) {
        if dump.damage().is_none() {
            return;
        }
        for (memory, _) in &self.memories {
            let declared = dump.memory(*memory).ok().and_then(|memory| memory.declared_pages());
            let line = match declared {
                Some(0) => {
                    "the size of the memory is lost, the image ends with the last page that has data"
                }
                Some(_) => {
                    "the size of the memory is damaged, the image ends with the last page that has data"
                }
                None => continue,
            };
            report::line(&format!("warning: memory {memory}: {line}"));
        }
    }

    /// What is zero in an image only because the dump does not have it: a line for what was left out on
    /// purpose, or one for each range that may be lost.
    pub(super) fn say_missing(&self, dump: &CoreDumpFile<'_>) {
        let missing = self.memories.iter().filter(|(_, restored)| restored.unknown > 0);
        let ranges = |memory| dump.memory(memory).into_iter().flat_map(|memory| memory.unknown());
        if dump.has_index() {
            let of = |(memory, restored): &(MemoryIndex, Restored)| {
                (*memory, restored.unknown, ranges(*memory).count() as u64)
            };
            if let Some(partial) = report::partial(missing.map(of)) {
                report::line(&format!("{partial}: zeros stand there in the image"));
            }
            return;
        }
        for (memory, _) in missing {
            let mut ranges = ranges(*memory);
            for range in ranges.by_ref().take(MAX_SHOWN_RANGES) {
                let (first, last) = range.into_inner();
                report::line(&format!(
                    "warning: memory {memory}: {first:#x}..={last:#x} is not in the dump, the image \
                     has zeros there"
                ));
            }
            let more = ranges.count() as u64;
            if more > 0 {
                let more = report::count(more, "more range");
                report::line(&format!(
                    "warning: memory {memory}: and {more} not in the dump, the image has zeros there"
                ));
            }
        }
    }
}

/// A damaged dump whose readable parts were extracted.
pub(super) struct Damaged {
    pub(super) failure: Failure,
    /// Why.
    pub(super) why: String,
    pub(super) damage: Option<DamageReport>,
    /// Whether nothing was wrong when it was verified.
    pub(super) is_verified: bool,
}

impl Damaged {
    /// A line for each thing that was extracted and may not be what it was. The checksum of a block does not hold
    /// either if a page of it could not be read.
    pub(super) fn say_doubtful(&self, done: &Done, unread: bool) {
        let compared = self.damage.as_ref().filter(|damage| damage.checksums);
        let Some(damage) = compared else {
            if !self.is_verified {
                report::line(
                    "warning: no checksums can be compared: nothing tells whether the rest is right",
                );
            }
            return;
        };
        let from = match unread {
            true => "from blocks that are damaged or could not be read as a whole",
            false => "from blocks that are damaged",
        };
        if damage.guest {
            report::line(&format!("warning: {} {from}", done.described()));
        }
        for range in damage.all_memory.iter().filter(|range| done.has(range.memory)) {
            report::line(&format!("warning: {range} is {from}"));
        }
        if damage.more_memory > 0 {
            let more = report::count(damage.more_memory as u64, "more range");
            report::line(&format!("warning: and {more} {from}"));
        }
    }
}
