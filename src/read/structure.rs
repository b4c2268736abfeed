//! What the sections of a dump say of the whole of it: the header, the types of memories, where the data lies, and how
//! frames are laid out.
//!
//! The [`parser`](super::parser) collects it. Most of it is known only when all sections have passed: another writer may
//! declare a memory after its data, or too short, and does not say how it lays out its frames.
//! [`settle`](Structure::settle) decides that at the end of the dump, or where it could not be parsed any further.

use std::ops::Range;

use super::bounds::{self, GrowingMemories, MemoryRequirement};
use super::data::DataSection;
use super::fault::{Fault, Result};
use super::header::Header;
use super::item;
use super::layout::{FrameLayout, Trials};
use super::segment::Segment;
use crate::model::MemoryType;

/// What is known of a dump, but for its lists and its segments.
#[derive(Debug, Default)]
pub(super) struct Structure {
    /// What `corestream` says, if the dump has it in its place.
    pub(super) header: Option<Header>,
    /// The types of the memories.
    pub(super) memories: Vec<MemoryType>,
    /// The sections with segments that are not empty.
    pub(super) data: Vec<DataSection>,
    /// The segments that those say they have.
    pub(super) segments: u64,
    /// A section of `corestream`'s own without the header that belongs to it.
    pub(super) stray: Option<Range<u64>>,
    /// What `corestream` says, if another tool has rewritten the dump since: nothing in it says any more
    /// where something is.
    pub(super) moved: Option<Header>,
    /// The offset where its index should be, if the sections have passed it.
    pub(super) passed_place: Option<u64>,
    /// The body of the section `corestream.index` of such a dump, after its name.
    pub(super) moved_index: Option<Range<u64>>,
    /// How frames are laid out.
    pub(super) layout: FrameLayout,
    /// Whether a thread has frames.
    pub(super) has_frames: bool,
    /// The instances that have passed.
    pub(super) instances: usize,
    /// Whether all sections have passed.
    pub(super) is_complete: bool,
    /// Memories that were declared too short, and the pages that were declared.
    pub(super) grown: Vec<(u32, u64)>,
    /// The only segment, where the dump stands in the memory that it is of.
    pub(super) in_its_own_memory: Option<Segment>,
    /// Whether the segments are known to lie in their memories.
    pub(super) is_bounded: bool,
    /// Whether a section that is damaged is passed by its size.
    pub(super) passes_damage: bool,
    /// Whether the section of memories has passed: all their types are there, unless it is damaged.
    pub(super) has_memory_types: bool,
    /// Whether the section of memories is damaged.
    pub(super) has_damaged_memory: bool,
    /// The layouts of frames, tried over the threads of another writer's dump.
    pub(super) trials: Trials,
    /// The frames of the first thread that were tried.
    pub(super) tried: Option<Range<u64>>,
    /// The last segment of each memory whose type is lost or too small.
    requirements: Vec<MemoryRequirement>,
    /// The sections that a dump has once, of those that have passed.
    seen: Vec<&'static str>,
}

impl Structure {
    /// Returns that of a damaged dump whose header is known. If the sizes of its sections can be believed, those of which
    /// only the content is damaged are passed.
    pub(super) fn of_damaged(header: Header, sizes_hold: bool) -> Self {
        Self { header: Some(header), passes_damage: sizes_hold, ..Self::default() }
    }

    /// Returns the header, wherever it is: then corestream wrote the dump.
    pub(super) fn own(&self) -> Option<&Header> {
        self.header.as_ref().or(self.moved.as_ref())
    }

    /// Returns whether sections are laid out as another writer may do that.
    pub(super) fn is_foreign(&self) -> bool {
        self.header.is_none()
    }

    /// Returns whether the dump has anything but the name of its process.
    pub(super) fn has_content(&self) -> bool {
        self.tried.is_some() || self.has_memory_types
    }

    /// Returns whether a section that a dump has once has passed.
    pub(super) fn has(&self, section: &str) -> bool {
        self.seen.contains(&section)
    }

    /// Notes a section that a dump has once, whose bytes are in `range`.
    ///
    /// # Errors
    /// Returns an error if there was one before.
    pub(super) fn once(&mut self, section: &'static str, range: Range<u64>) -> Result<()> {
        if self.has(section) {
            return Err(Fault::damaged(range, "appears twice"));
        }
        self.seen.push(section);
        Ok(())
    }

    /// Notes a section, whose bytes are in `range`, that only a dump with a header has.
    pub(super) fn belongs_to_header(&mut self, range: Range<u64>) {
        if self.header.is_none() && self.stray.is_none() {
            self.stray = Some(range);
        }
    }

    /// Returns whether the types of the memories of a damaged dump are lost, so that segments alone tell of them.
    pub(super) fn has_lost_memory(&self) -> bool {
        self.passes_damage && (self.has_damaged_memory || !self.has_memory_types)
    }

    /// Returns the last segment of each memory whose type is lost or too small.
    pub(super) fn requirements(&self) -> &[MemoryRequirement] {
        &self.requirements
    }

    /// Returns what checks the segments of a dump whose memories may be declared after them, or too short.
    pub(super) fn growing(&mut self) -> GrowingMemories<'_> {
        let is_declared = self.has_memory_types && !self.has_damaged_memory;
        let requirements = &mut self.requirements;
        GrowingMemories { types: &self.memories, is_declared, requirements }
    }

    /// Decides what only all sections tell, of a dump that ends at `end` if it is complete.
    ///
    /// # Errors
    /// Returns an error for the first thing that can't be as it is.
    pub(super) fn settle(&mut self, end: u64) -> Result<()> {
        if !self.is_foreign() {
            // This project declares memories before their data.
            if !self.passes_damage {
                bounds::grow_memories(&mut self.memories, &self.requirements, false)?;
            }
            self.is_bounded = true;
            return Ok(());
        }
        let framed = self.settle_layout();
        if self.moved.is_some() {
            self.stray = None;
        } else if self.is_complete {
            let (memories, requirements) = (&self.memories, &self.requirements);
            let segment = bounds::rewriter_segment(memories, requirements, self.segments, end);
            if let (Some(segment), [ty]) = (segment, &mut *self.memories) {
                self.grown = vec![(0, ty.minimum)];
                ty.minimum = ty.maximum.unwrap_or(ty.minimum);
                (self.in_its_own_memory, self.is_bounded) = (Some(segment), true);
                return framed;
            }
        }
        let grow = self.moved.is_none();
        self.grown = bounds::grow_memories(&mut self.memories, &self.requirements, grow)?;
        self.is_bounded = true;
        framed
    }

    fn settle_layout(&mut self) -> Result<()> {
        self.layout = match &self.moved {
            Some(_) if self.trials.fits_standard() => FrameLayout::Standard,
            Some(_) => FrameLayout::Unknown,
            None => self.trials.layout(self.instances),
        };
        let Some(range) = self.tried.clone() else { return Ok(()) };
        if self.layout == FrameLayout::Unknown {
            let message = "corestack: the frames are in no layout that is known: they are \
                           damaged, or another writer's";
            return Err(Fault::damaged(range, message));
        }
        match self.trials.has_too_many_values(self.layout) {
            true => Err(item::too_many_values(range).within("corestack")),
            false => Ok(()),
        }
    }
}
