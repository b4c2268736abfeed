//! The facts about a whole dump: the header, the types of the memories, the places of the data, and the layout of
//! frames.
//!
//! The [`parser`](super::parser) collects them section by section. Most of them are final only after the last section:
//! another writer may declare a memory after its data or with too small a size, and does not say how it lays out
//! frames. [`settle`](Structure::settle) decides these facts at the end of the dump, or where the parser stopped at a
//! fault.

use std::ops::Range;

use super::bounds::{self, GrowingMemories, MemoryRequirement};
use super::data::DataSection;
use super::fault::{Fault, Result};
use super::header::Header;
use super::item;
use super::layout::{FrameLayout, LayoutDetector};
use super::segment::Segment;
use crate::model::MemoryType;

/// The facts about a dump, except for its items and its segments.
#[derive(Debug, Default)]
pub(super) struct Structure {
    /// The header, unless the dump has none or was rewritten.
    pub(super) header: Option<Header>,
    /// The types of the memories.
    pub(super) memories: Vec<MemoryType>,
    /// The non-empty sections with segments.
    pub(super) data: Vec<DataSection>,
    /// The number of segments that the sections declare.
    pub(super) segments: u64,
    /// The first section that only corestream writes, if the dump has no header.
    pub(super) stray: Option<Range<u64>>,
    /// The header of a dump that another tool has rewritten. Its offsets and lengths are no longer true.
    pub(super) moved_header: Option<Header>,
    /// The offset that the header gives for the index, if sections extend past it.
    pub(super) passed_index: Option<u64>,
    /// The body, after its name, of a section `corestream.index` that the parser met among the other sections.
    pub(super) moved_index: Option<Range<u64>>,
    /// The layout of the frames.
    pub(super) layout: FrameLayout,
    /// Whether any thread has frames.
    pub(super) has_frames: bool,
    /// The number of instances.
    pub(super) instances: usize,
    /// Whether the parser has parsed all sections.
    pub(super) is_complete: bool,
    /// The memories that were declared too small, each with the number of pages that was declared.
    pub(super) grown: Vec<(u32, u64)>,
    /// The only segment of a dump that its writer has left at the start of the guest's own memory.
    pub(super) in_its_process_memory: Option<Segment>,
    /// Whether all segments are known to lie within their memories.
    pub(super) is_bounded: bool,
    /// Whether the parser skips the rest of a damaged section.
    pub(super) skips_damage: bool,
    /// Whether the parser has met the memory section. Then all types are known, unless that section is damaged.
    pub(super) has_memory_types: bool,
    /// Whether the memory section is damaged.
    pub(super) has_damaged_memory: bool,
    /// Detects the layout of another writer's frames.
    pub(super) layout_detector: LayoutDetector,
    /// The frames of the first thread that the detector was fed.
    pub(super) tried_frames: Option<Range<u64>>,
    /// The last segment of each memory whose type is lost or too small.
    requirements: Vec<MemoryRequirement>,
    /// The sections that a dump has once, of those that have passed.
    seen: Vec<&'static str>,
}

impl Structure {
    /// Returns the structure of a damaged dump whose header is known.
    ///
    /// With `trust_sizes`, the parser skips the rest of a damaged section by the section's size.
    pub(super) fn for_damaged(header: Header, trust_sizes: bool) -> Self {
        Self { header: Some(header), skips_damage: trust_sizes, ..Self::default() }
    }

    /// Returns the header, in its place or moved. If there is one, corestream wrote the dump.
    pub(super) fn any_header(&self) -> Option<&Header> {
        self.header.as_ref().or(self.moved_header.as_ref())
    }

    /// Returns whether sections may differ from corestream's, as in dumps of other writers.
    pub(super) fn is_foreign(&self) -> bool {
        self.header.is_none()
    }

    /// Returns whether the dump has more than the name of its process: frames or memories.
    pub(super) fn has_content(&self) -> bool {
        self.tried_frames.is_some() || self.has_memory_types
    }

    /// Returns whether the parser has met this section, which may appear only once.
    pub(super) fn has_section(&self, section: &str) -> bool {
        self.seen.contains(&section)
    }

    /// Records a section that may appear only once. Its bytes are `range`.
    ///
    /// # Errors
    /// Returns an error if the section was recorded before.
    pub(super) fn record_section(
        &mut self,
        section: &'static str,
        range: Range<u64>,
    ) -> Result<()> {
        if self.has_section(section) {
            return Err(Fault::damaged(range, "appears twice"));
        }
        self.seen.push(section);
        Ok(())
    }

    /// Records a section that only corestream writes. Its bytes are `range`. It is stray if no header precedes it.
    pub(super) fn record_own_section(&mut self, range: Range<u64>) {
        if self.header.is_none() && self.stray.is_none() {
            self.stray = Some(range);
        }
    }

    /// Returns whether the types of a damaged dump's memories are lost, so that only segments tell their sizes.
    pub(super) fn has_lost_memory(&self) -> bool {
        self.skips_damage && (self.has_damaged_memory || !self.has_memory_types)
    }

    /// Returns the last segment of each memory whose type is lost or too small.
    pub(super) fn requirements(&self) -> &[MemoryRequirement] {
        &self.requirements
    }

    /// Returns the check for segments of memories that may be declared after them, or too small.
    pub(super) fn growing_memories(&mut self) -> GrowingMemories<'_> {
        let is_declared = self.has_memory_types && !self.has_damaged_memory;
        let requirements = &mut self.requirements;
        GrowingMemories { types: &self.memories, is_declared, requirements }
    }

    /// Decides the facts that depend on all sections. `end` is the offset at which the parser stopped.
    ///
    /// # Errors
    /// Returns the first contradiction: a memory that a segment does not fit, or frames in no known layout or with too
    /// many values.
    pub(super) fn settle(&mut self, end: u64) -> Result<()> {
        if !self.is_foreign() {
            // This project declares memories before their data.
            if !self.skips_damage {
                bounds::grow_memories(&mut self.memories, &self.requirements, false)?;
            }
            self.is_bounded = true;
            return Ok(());
        }
        let layout_result = self.settle_layout();
        if self.moved_header.is_some() {
            self.stray = None;
        } else if self.is_complete {
            let (memories, requirements) = (&self.memories, &self.requirements);
            let segment = bounds::rewriter_segment(memories, requirements, self.segments, end);
            if let (Some(segment), [ty]) = (segment, &mut *self.memories) {
                self.grown = vec![(0, ty.minimum)];
                ty.minimum = ty.maximum.unwrap_or(ty.minimum);
                (self.in_its_process_memory, self.is_bounded) = (Some(segment), true);
                return layout_result;
            }
        }
        let grow = self.moved_header.is_none();
        self.grown = bounds::grow_memories(&mut self.memories, &self.requirements, grow)?;
        self.is_bounded = true;
        layout_result
    }

    fn settle_layout(&mut self) -> Result<()> {
        self.layout = match &self.moved_header {
            Some(_) if self.layout_detector.fits_standard() => FrameLayout::Standard,
            Some(_) => FrameLayout::Unknown,
            None => self.layout_detector.layout(self.instances),
        };
        let Some(range) = self.tried_frames.clone() else { return Ok(()) };
        if self.layout == FrameLayout::Unknown {
            let message = "corestack: unknown frame layout: the frames are damaged, or another \
                           tool wrote them";
            return Err(Fault::damaged(range, message));
        }
        match self.layout_detector.has_too_many_values(self.layout) {
            true => Err(item::too_many_values(range).within("corestack")),
            false => Ok(()),
        }
    }
}
