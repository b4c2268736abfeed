//! Opening a dump: what a walk over the sections keeps, and the table of segments.

use super::data::{DataSection, Segment};
use super::fault::{Fault, Result};
use super::header::Header;
use super::index::{Entry, Index};
use super::input::Slice;
use super::table::{Builder, Table};
use super::tables::PARTIAL;
use super::walk::{Visitor, Walk};
use crate::model::Global;

/// A dump that was walked: where things are, and little else.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) walk: Walk,
    pub(super) items: Items,
    pub(super) table: Table,
    pub(super) index: Option<Index>,
    /// For each memory, what is in its segments.
    pub(super) kept: Vec<Kept>,
    /// The memory and the address from which on what is in no segment is not known, if the dump is
    /// damaged.
    pub(super) lost: Option<(u32, u64)>,
}

/// Where the items of a dump are, as [`items`](super::items) decodes them.
#[derive(Debug, Default)]
pub(super) struct Items {
    pub(super) process: u64,
    pub(super) modules: Vec<u64>,
    pub(super) instances: Vec<u64>,
    /// And how many frames there are.
    pub(super) threads: Vec<(u64, u32)>,
    pub(super) globals: Vec<Global>,
}

/// What is in the segments of a memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kept {
    pub(super) segments: u64,
    pub(super) bytes: u64,
}

impl Opened {
    /// Opens a dump that is not damaged as far as can be seen without touching its data.
    pub(super) fn strict(bytes: &[u8]) -> Result<Self> {
        let mut input = Slice::new(bytes, 0);
        let mut walk = Walk::default();
        let mut opener = Opener::new(Some(bytes.len() as u64));
        walk.run(&mut input, &mut opener)?;
        if !walk.has("core") {
            return Err(Fault::no_core());
        }
        let index = match &walk.header {
            Some(header) => {
                let entry = &mut |entry| opener.entry(&entry);
                let mut index = Index::decode(&mut input, header, Some(&walk), entry)?;
                index.disagrees.take().map_or(Ok(Some(index)), Err)?
            }
            None => None,
        };
        Ok(opener.finish(walk, index, None))
    }

    /// Opens what comes before the first fault of a dump, by its sections alone; of a segment that is
    /// cut off, what is there of it.
    pub(super) fn lenient(bytes: &[u8]) -> Result<Self> {
        let mut walk = Walk::default();
        let mut opener = Opener::new(None);
        let walked = walk.run(&mut Slice::new(bytes, 0), &mut opener);
        if !walk.has("core") {
            return Err(walked.err().unwrap_or_else(Fault::no_core));
        }
        let index = match (&walk.header, &walked) {
            (Some(header), Ok(())) => {
                let input = &mut Slice::new(bytes, header.index);
                Index::decode(input, header, Some(&walk), &mut |_| ()).ok()
            }
            _ => None,
        };
        // Only this project's segments are known to be in order, and what was left out on purpose is
        // in the index.
        let partial = walk.header.as_ref().is_none_or(|header| header.flags & PARTIAL != 0);
        let (index, lost) = match (index, walked, opener.reached) {
            // There is something behind the dump, no more.
            (Some(index), _, _) if index.disagrees.is_none() => (Some(index), None),
            // A section may have been taken for one that is not known.
            (Some(_), _, _) => (None, Some((0, 0))),
            (None, Ok(()), _) if !partial => (None, None),
            (None, Err(_), Some(reached)) if !partial => (None, Some(reached)),
            _ => (None, Some((0, 0))),
        };
        Ok(opener.finish(walk, index, lost))
    }
}

struct Opener {
    /// The length of the file; `None` if what can be had is wanted of a damaged one.
    length: Option<u64>,
    use_index: bool,
    items: Items,
    builder: Builder,
    kept: Vec<Kept>,
    /// The memory and the address of the end of what was found, if segments are in order.
    reached: Option<(u32, u64)>,
}

impl Opener {
    fn new(length: Option<u64>) -> Self {
        let (items, builder) = (Items::default(), Builder::new());
        Self { length, use_index: false, items, builder, kept: Vec::new(), reached: None }
    }

    fn count(&mut self, memory: u32, segments: u64, bytes: u64) {
        let memory = memory as usize;
        if self.kept.len() <= memory {
            self.kept.resize(memory.saturating_add(1), Kept::default());
        }
        if let Some(kept) = self.kept.get_mut(memory) {
            kept.segments = kept.segments.saturating_add(segments);
            kept.bytes = kept.bytes.saturating_add(bytes);
        }
    }

    fn entry(&mut self, entry: &Entry) {
        if let Entry::Segment(segment) = entry {
            self.count(segment.memory, 1, segment.len.into());
        }
    }

    fn finish(mut self, walk: Walk, index: Option<Index>, lost: Option<(u32, u64)>) -> Opened {
        let table = match &index {
            Some(index) => {
                let memories = index.memories.iter().map(|memory| memory.segments.clone());
                Table::Index { offset: index.segments, memories: memories.collect() }
            }
            None => self.table(),
        };
        let mut kept = self.kept;
        kept.resize(walk.memories.len(), Kept::default());
        Opened { walk, items: self.items, table, index, kept, lost }
    }

    /// The table of what was walked; bytes that are overwritten are not counted any more.
    fn table(&mut self) -> Table {
        let (table, sorted) = std::mem::replace(&mut self.builder, Builder::new()).finish();
        if let Table::List { segments, .. } = &table
            && sorted
        {
            self.kept.iter_mut().for_each(|kept| kept.bytes = 0);
            for part in segments {
                self.count(part.memory, 0, part.len.into());
            }
        }
        table
    }
}

impl Visitor for Opener {
    fn header(&mut self, header: &Header) -> Result<()> {
        let Some(length) = self.length else { return Ok(()) };
        self.use_index = true;
        if length < header.length {
            return Err(Fault::cut_off(length, header.length));
        }
        header.check_nothing_behind(length)
    }

    fn bad_header(&mut self, fault: Box<Fault>) -> Result<()> {
        if self.length.is_some() { Err(fault) } else { Ok(()) }
    }

    fn process(&mut self, at: u64, _: &str) -> Result<()> {
        self.items.process = at;
        Ok(())
    }

    fn module(&mut self, at: u64) {
        self.items.modules.push(at);
    }

    fn instance(&mut self, at: u64) {
        self.items.instances.push(at);
    }

    fn thread(&mut self, at: u64, frames: u32) {
        self.items.threads.push((at, frames));
    }

    fn global(&mut self, global: Global) {
        self.items.globals.push(global);
    }

    fn segments(&mut self, _: &DataSection) -> bool {
        !self.use_index
    }

    fn segment(&mut self, segment: Segment) -> Result<()> {
        self.builder.push(segment)?;
        self.count(segment.memory, 1, segment.len.into());
        // Its last byte: there may be no address behind it.
        self.reached = Some((segment.memory, segment.last()));
        Ok(())
    }

    fn nothing(&mut self) {
        self.builder.pass();
    }

    fn cut(&mut self, segment: Segment, file: u64) {
        // Less than the whole, which fits.
        let len = u32::try_from(file.saturating_sub(segment.offset)).unwrap_or(0);
        if self.length.is_some() || len >= segment.len {
            return;
        }
        // A segment that can't be listed is lost as a whole.
        let there = Segment { len, ..segment };
        let kept = len > 0 && self.segment(there).is_ok();
        let behind = if kept { u64::from(len) } else { 0 };
        self.reached = Some((segment.memory, segment.address.saturating_add(behind)));
    }
}
