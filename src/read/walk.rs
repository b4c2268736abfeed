//! The one walk over the sections of a dump, for every reader: of a mapped file and of a stream.
//!
//! Sources: the tool-conventions'
//! [Coredump format](https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md), and the
//! core specification, "Binary format",
//! [modules](https://webassembly.github.io/spec/core/binary/modules.html).

use std::ops::Range;

use super::bounds::{self, Growing, Reach};
use super::data::{self, DataSection};
use super::decode::Decoder;
use super::facts::{self, Trap};
use super::fault::{Fault, Result, not_empty, readable};
use super::header::Header;
use super::input::{Input, Slice};
use super::layout::{FrameLayout, Trials};
use super::segment::Segment;
use super::types;
use crate::arithmetic::{Checked, at_most};
use crate::error::ErrorKind;
use crate::format::{
    CONTINUATION, CORE, CUSTOM, DATA, GLOBAL, HEADER, IDENTITIES, INDEX, INSTANCES, MEMORY,
    MODULES, NOTES, STACK, TRAP,
};
use crate::limits::{MAX_DATA_SECTIONS, MAX_LISTED, MAX_LISTED_THREADS, MAX_NAME_BYTES, MAX_NOTES};
use crate::model::MemoryType;

/// What begins every module: the magic number and the version.
pub(super) const PREAMBLE: [u8; 8] = *b"\0asm\x01\0\0\0";

/// What begins every component.
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// The names of the custom sections that are known here.
const KNOWN: [&str; 10] =
    [CORE, MODULES, INSTANCES, STACK, HEADER, CONTINUATION, TRAP, IDENTITIES, NOTES, INDEX];

/// Bytes of frames that are tried at once.
const TRIED: usize = 4096;

/// Takes what a walk finds. Offsets are those of what
/// [`items`](super::items) decodes again.
pub(super) trait Visitor {
    /// The header, before anything that it speaks of.
    fn header(&mut self, _: &Header) -> Result<()> {
        Ok(())
    }

    /// A header that can't be used; says whether to go on without it.
    fn bad_header(&mut self, fault: Box<Fault>) -> Result<()> {
        Err(fault)
    }

    /// The process; its name is at the offset.
    fn process(&mut self, _: u64, _name: &str) -> Result<()> {
        Ok(())
    }

    /// Two sections have passed, and there is no header: another tool's dump. Or there is one, but
    /// another tool has rewritten the dump since.
    fn no_header(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    /// A module; the byte before its name is at the offset.
    fn module(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    /// The only module; its name is at the offset, without a length, and has so many bytes.
    fn bare_module(&mut self, _: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    /// An instance; the byte before its fields is at the offset.
    fn instance(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    /// A thread; its name is at the offset, so many frames that are not damaged after it.
    fn thread(&mut self, _: u64, _frames: u32) -> Result<()> {
        Ok(())
    }

    /// A note; its text is at the offset.
    fn note(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    /// The trap.
    fn trap(&mut self, _: Trap) -> Result<()> {
        Ok(())
    }

    /// The identity of the next module is at the offset.
    fn identity(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    /// A global, at the offset.
    fn global(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    /// A section with segments; says whether they are wanted.
    fn segments(&mut self, _: &DataSection) -> bool {
        true
    }

    /// A segment that is active and not empty.
    fn segment(&mut self, _: Segment) -> Result<()> {
        Ok(())
    }

    /// A segment whose payload is cut off, since the file has so many bytes; a fault follows.
    fn cut(&mut self, _: Segment, _file: u64) {}

    /// Segments may be lost here: a section that has some is damaged, or a damaged dump has one that this project does
    /// not write.
    fn lost(&mut self) {}
}

/// What a walk knows of what it has passed.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// What `corestream` says, if the dump has it.
    pub(super) header: Option<Header>,
    /// The types of the memories.
    pub(super) memories: Vec<MemoryType>,
    /// The sections with segments, but for those that have none.
    pub(super) data: Vec<DataSection>,
    /// The segments that those say they have.
    pub(super) segments: u64,
    /// A section of `corestream`'s own without the header that belongs to it.
    pub(super) stray: Option<Range<u64>>,
    /// What `corestream` says, if another tool has rewritten the dump since: nothing in it says any more
    /// where something is.
    pub(super) moved: Option<Header>,
    /// The body of the section `corestream.index` of such a dump, after its name.
    pub(super) moved_index: Option<Range<u64>>,
    /// How frames are laid out.
    pub(super) layout: FrameLayout,
    /// Whether a thread has frames.
    pub(super) framed: bool,
    /// Whether all sections have passed.
    pub(super) complete: bool,
    /// Memories that were declared too short, and the pages that were declared.
    pub(super) grown: Vec<(u32, u64)>,
    /// The only segment, where the dump stands in the memory that it is of.
    pub(super) in_its_own_memory: Option<Segment>,
    /// Whether the segments are known to lie in their memories.
    pub(super) bounded: bool,
    /// Whether a section that is damaged is passed by its size.
    passes_damage: bool,
    /// Whether the section of memories is one of those.
    lost_memory: bool,
    reaches: Vec<Reach>,
    trials: Trials,
    /// The frames of the first thread that were tried.
    tried: Option<Range<u64>>,
    /// Whether the end of this dump by another writer was told.
    told: bool,
    sections: u64,
    seen: Vec<&'static str>,
    globals: usize,
    modules: usize,
    instances: usize,
    threads: usize,
}

impl Walk {
    /// One over a damaged dump whose header is known. If the sizes of its sections can be believed, it
    /// passes those of which only the content is damaged.
    pub(super) fn of_damaged(header: Header, sizes_hold: bool) -> Self {
        Self { header: Some(header), passes_damage: sizes_hold, ..Self::default() }
    }

    /// One over a dump whose header is known, because its index is, though it may be damaged.
    pub(super) fn with_header(header: Header) -> Self {
        Self { header: Some(header), ..Self::default() }
    }

    /// Walks from the first byte to the index, or to the end of a dump that has no header where it
    /// belongs.
    ///
    /// # Errors
    /// The first fault; what was passed before it stays known.
    pub(super) fn run<I: Input, V: Visitor>(&mut self, input: &mut I, to: &mut V) -> Result<()> {
        let walked = self.sections(input, to);
        self.complete = walked.is_ok();
        let settled = self.settle(input.offset());
        walked.and(settled).map_err(|mut fault| {
            let Some(header) = &self.header else { return fault };
            // A dump without checksums has nothing else to tell damage from what a later version may write.
            if fault.kind == ErrorKind::Unsupported && header.block_log2 == 0 {
                fault.kind = ErrorKind::Damaged;
            }
            fault.cut_off_from(header.length)
        })
    }

    /// Whether the dump has a header, wherever that is: corestream wrote it.
    pub(super) fn own(&self) -> Option<&Header> {
        self.header.as_ref().or(self.moved.as_ref())
    }

    /// Whether the dump has anything but the name of its process.
    pub(super) fn has_content(&self) -> bool {
        self.tried.is_some() || self.has("memory")
    }

    /// Whether sections are laid out as another writer may do that.
    fn is_foreign(&self) -> bool {
        self.header.is_none()
    }

    /// Decides what only all sections tell, of a dump that ends at `end` if it is complete.
    ///
    /// # Errors
    /// The first thing that can't be as it is.
    fn settle(&mut self, end: u64) -> Result<()> {
        if !self.is_foreign() {
            self.bounded = true;
            return Ok(());
        }
        let framed = self.settle_layout();
        if self.moved.is_some() {
            self.stray = None;
        } else if self.complete {
            let (memories, reaches) = (&self.memories, &self.reaches);
            let segment = bounds::in_its_own_memory(memories, reaches, self.segments, end);
            if let (Some(segment), [ty]) = (segment, &mut *self.memories) {
                self.grown = vec![(0, ty.minimum)];
                ty.minimum = ty.maximum.unwrap_or(ty.minimum);
                (self.in_its_own_memory, self.bounded) = (Some(segment), true);
                return framed;
            }
        }
        let grow = self.moved.is_none();
        self.grown = bounds::settle(&mut self.memories, &self.reaches, grow)?;
        self.bounded = true;
        framed
    }

    fn settle_layout(&mut self) -> Result<()> {
        self.layout = match &self.moved {
            Some(_) if self.trials.fits_standard() => FrameLayout::Standard,
            Some(_) => FrameLayout::Unknown,
            None => self.trials.layout(self.instances),
        };
        match (self.layout, &self.tried) {
            (FrameLayout::Unknown, Some(range)) => {
                let message = "corestack: the frames are in no layout that is known: they are \
                               damaged, or another writer's";
                Err(Fault::damaged(range.clone(), message))
            }
            _ => Ok(()),
        }
    }

    /// Whether the types of the memories of a damaged dump are lost, so that segments alone tell of them.
    pub(super) fn has_lost_memory(&self) -> bool {
        self.passes_damage && (self.lost_memory || !self.has("memory"))
    }

    /// How far the segments of each memory reach whose type is lost, or does not say.
    pub(super) fn reaches(&self) -> &[Reach] {
        &self.reaches
    }

    /// Whether a section that a dump has once was passed.
    pub(super) fn has(&self, section: &str) -> bool {
        self.seen.contains(&section)
    }

    fn sections<I: Input, V: Visitor>(&mut self, input: &mut I, to: &mut V) -> Result<()> {
        match preamble(input) {
            Err(fault) if self.passes_damage && fault.is_of_dump() => {}
            Err(fault) if fault.kind == ErrorKind::Format && self.header.is_some() => {
                return Err(no_module());
            }
            begun => begun?,
        }
        let mut end = self.header.as_ref().map_or(u64::MAX, |header| header.index);
        while input.offset() < end && !input.at_end()? {
            self.section(input, end, to)?;
            self.sections = self.sections.plus(1)?;
            match &self.header {
                Some(header) => end = header.index,
                None => {
                    end = u64::MAX;
                    if !self.told && (self.sections == 2 || self.moved.is_some()) {
                        self.told = true;
                        to.no_header(input.offset())?;
                    }
                }
            }
        }
        match &self.header {
            Some(header) if input.offset() < header.index => {
                Err(Fault::end(input.offset(), header.index))
            }
            None if !self.has(CORE) && self.moved.is_some() => {
                let end = input.offset();
                let message = "corestream's own sections are there, but none called `core`";
                Err(Fault::damaged(0..end, message))
            }
            None if !self.has(CORE) && self.stray.is_none() => Err(Fault::no_core()),
            _ => Ok(()),
        }
    }

    fn section<I: Input, V: Visitor>(&mut self, input: &mut I, end: u64, to: &mut V) -> Result<()> {
        let mut all = Decoder::new(input, end);
        let start = all.offset();
        let id = all.byte()?;
        let what = match id {
            CUSTOM => "a custom section",
            MEMORY => "section memory",
            GLOBAL => "section global",
            DATA => "section data",
            1..=13 => "a section of no interest",
            _ if self.passes_damage => "a section of no id",
            _ => {
                let message = format!("a section has the id {id}, which is none");
                return Err(Fault::damaged(all.since(start), message));
            }
        };
        let size = all.u32().map_err(|fault| fault.within(what))?;
        let past = all.part(size.into()).err();
        if let Some(fault) = past {
            let moved = id == CUSTOM && self.header.is_some();
            return match moved && self.passes_index(input, size.into(), start)? {
                true => Ok(()),
                false => Err(fault.within(what)),
            };
        }
        let mut body = Decoder::new(input, u64::MAX);
        let mut body = body.part(size.into()).map_err(|fault| fault.within(what))?;
        let body = &mut body;
        let decoded = match id {
            CUSTOM => self.custom(body, start, to),
            MEMORY => self.once("memory", body, start).and_then(|()| self.memory(body)),
            GLOBAL => self.once("global", body, start).and_then(|()| self.global(body, to)),
            DATA => self.once("data", body, start).and_then(|()| self.data(body, to)),
            _ => body.skip_rest(),
        };
        let whole = decoded.and_then(|()| body.finish());
        let is_of_dump = whole.as_ref().err().is_none_or(|fault| fault.is_of_dump());
        if self.passes_damage && is_of_dump {
            // What this project does not write, or what has more than it says, may hold segments that nobody sees.
            let may_hold_data = match id {
                CUSTOM | MEMORY | GLOBAL => false,
                DATA => whole.is_err(),
                _ => true,
            };
            if may_hold_data {
                to.lost();
            }
            self.lost_memory |= id == MEMORY && whole.is_err();
            if whole.is_err() {
                return body.skip_rest();
            }
        }
        // A custom section says its name itself.
        whole.map_err(|fault| if id == CUSTOM { fault } else { fault.within(what) })
    }

    /// Passes a section of `size` bytes that reaches past the offset of the index if it is the index itself:
    /// another tool has made less of the sections before it. Says whether it is.
    fn passes_index<I: Input>(&mut self, input: &mut I, size: u64, start: u64) -> Result<bool> {
        let mut body = Decoder::new(input, u64::MAX);
        let named = body.part(size).and_then(|mut body| {
            let named = body.is_named(INDEX)?;
            if named {
                self.index(&mut body, start)?;
            }
            Ok(named)
        });
        match named {
            Err(fault) if !fault.is_of_dump() => Err(fault),
            // One that is cut off or unsound is none.
            named => Ok(named.unwrap_or(false)),
        }
    }

    fn custom<I: Input, V: Visitor>(
        &mut self,
        body: &mut Decoder<'_, I>,
        start: u64,
        to: &mut V,
    ) -> Result<()> {
        // Another name may be of any length, and no UTF-8.
        let len = body.u32().inspect_err(|_| to.lost())? as usize;
        if KNOWN.iter().all(|known| known.len() != len) {
            return self.pass_unknown(body, to);
        }
        let name = body.take(len).inspect_err(|_| to.lost())?;
        let Some(what) = KNOWN.into_iter().find(|known| known.as_bytes() == name) else {
            return self.pass_unknown(body, to);
        };
        self.known(what, body, start, to).map_err(|fault| fault.within(what))
    }

    /// Passes a custom section that is not known. In a damaged dump it may be one with segments whose name is damaged.
    fn pass_unknown<I: Input, V: Visitor>(
        &self,
        body: &mut Decoder<'_, I>,
        to: &mut V,
    ) -> Result<()> {
        if self.passes_damage {
            to.lost();
        }
        body.skip_rest()
    }

    fn known<I: Input, V: Visitor>(
        &mut self,
        what: &'static str,
        body: &mut Decoder<'_, I>,
        start: u64,
        to: &mut V,
    ) -> Result<()> {
        if !matches!(what, STACK | CONTINUATION | INDEX) {
            self.once(what, body, start)?;
        }
        match what {
            CORE => process(body, to),
            HEADER => self.header(body, start, to),
            MODULES => self.modules(body, to),
            INSTANCES => self.instances(body, to),
            STACK => self.stack(body, to),
            CONTINUATION => {
                self.belongs_to_header(start..body.end());
                let whole = self.data(body, to).and_then(|()| body.finish());
                whole.inspect_err(|_| to.lost())
            }
            NOTES => {
                self.belongs_to_header(start..body.end());
                notes(body, to)
            }
            TRAP => {
                self.belongs_to_header(start..body.end());
                facts::trap(body, to)
            }
            IDENTITIES => {
                self.belongs_to_header(start..body.end());
                facts::identities(body, to)
            }
            _ => self.index(body, start),
        }?;
        body.finish()
    }

    /// Fails where a section comes that was there before.
    fn once<I: Input>(
        &mut self,
        section: &'static str,
        body: &Decoder<'_, I>,
        start: u64,
    ) -> Result<()> {
        if self.has(section) {
            return Err(Fault::damaged(start..body.end(), "comes a second time"));
        }
        self.seen.push(section);
        Ok(())
    }

    fn belongs_to_header(&mut self, range: Range<u64>) {
        if self.header.is_none() && self.stray.is_none() {
            self.stray = Some(range);
        }
    }

    fn header<I: Input, V: Visitor>(
        &mut self,
        body: &mut Decoder<'_, I>,
        start: u64,
        to: &mut V,
    ) -> Result<()> {
        if self.header.is_some() {
            // It is known by other means.
            return body.skip_rest();
        }
        let in_place = self.sections == 1 && self.has(CORE);
        let decoded = Header::decode(body, start, in_place);
        let header = match decoded {
            Ok(header) => header,
            Err(fault) => return to.bad_header(fault).and_then(|()| body.skip_rest()),
        };
        if !in_place {
            // This project writes it nowhere else: another tool has moved it.
            self.moved = Some(header);
            return Ok(());
        }
        if header.block_log2 != 0 {
            body.begin_blocks(header.block_log2, header.index)?;
        }
        to.header(&header)?;
        self.header = Some(header);
        Ok(())
    }

    /// The index of a dump that is as it was written is where its header says, and never passed here. All
    /// sections up to this one were sound, so that another tool has made some of them longer or shorter.
    fn index<I: Input>(&mut self, body: &mut Decoder<'_, I>, start: u64) -> Result<()> {
        let range = body.offset()..body.end();
        body.skip_rest()?;
        if let Some(header) = self.header.take() {
            self.moved = Some(header);
        }
        if self.moved.is_none() {
            self.belongs_to_header(start..range.end);
        }
        self.moved_index = Some(range);
        Ok(())
    }

    fn modules<I: Input, V: Visitor>(
        &mut self,
        body: &mut Decoder<'_, I>,
        to: &mut V,
    ) -> Result<()> {
        let count = body.u32()?;
        if count == 1 && self.is_foreign() && body.left()? <= MAX_NAME_BYTES as u64 {
            return self.only_module(body, to).map_err(|fault| fault.within("module 0"));
        }
        for i in 0..count {
            let mut one = || {
                let at = body.offset();
                body.zero()?;
                body.check_name()?;
                to.module(at)?;
                counted(&mut self.modules, MAX_LISTED, "modules", body)
            };
            one().map_err(|fault| fault.within(format_args!("module {i}")))?;
        }
        Ok(())
    }

    /// Passes the only module of another writer, whose name may have no length (WasmEdge): then it is
    /// all that is left.
    fn only_module<I: Input, V: Visitor>(
        &mut self,
        body: &mut Decoder<'_, I>,
        to: &mut V,
    ) -> Result<()> {
        let start = body.offset();
        body.zero()?;
        let (at, end) = (body.offset(), body.end());
        self.modules = 1;
        let bytes = body.take(at_most(body.left()?, MAX_NAME_BYTES))?;
        let mut slice = Slice::new(bytes, 0);
        let mut name = Decoder::new(&mut slice, bytes.len() as u64);
        if name.check_name().is_ok() && name.finish().is_ok() {
            return to.module(start);
        }
        match std::str::from_utf8(bytes) {
            Ok(name) => to.bare_module(at, name.len() as u64),
            Err(_) => {
                let message = "its name is neither UTF-8 with its length nor without";
                Err(Fault::damaged(not_empty(at, end), message))
            }
        }
    }

    fn instances<I: Input, V: Visitor>(
        &mut self,
        body: &mut Decoder<'_, I>,
        to: &mut V,
    ) -> Result<()> {
        if self.is_foreign() && body.left()? == 0 {
            return Ok(());
        }
        for i in 0..body.u32()? {
            let mut one = || {
                let at = body.offset();
                body.zero()?;
                body.u32()?;
                for _ in 0..2 {
                    for _ in 0..body.u32()? {
                        body.u32()?;
                    }
                }
                to.instance(at)?;
                counted(&mut self.instances, MAX_LISTED, "instances", body)
            };
            one().map_err(|fault| fault.within(format_args!("instance {i}")))?;
        }
        Ok(())
    }

    fn stack<I: Input, V: Visitor>(&mut self, body: &mut Decoder<'_, I>, to: &mut V) -> Result<()> {
        body.zero()?;
        let at = body.offset();
        body.check_name()?;
        let count = body.u32()?;
        self.framed |= count > 0;
        if self.is_foreign() {
            return self.foreign_stack(body, at, count, to);
        }
        // The frames before one that is damaged or cut off are readable.
        let fault = (0..count).find_map(|i| frame(body).err().map(|fault| (i, fault)));
        to.thread(at, fault.as_ref().map_or(count, |(i, _)| *i))?;
        if let Some((i, fault)) = fault {
            return Err(fault.within(format_args!("frame {i}")));
        }
        counted(&mut self.threads, MAX_LISTED_THREADS, "threads", body)
    }

    /// Passes the frames of a thread, whose layout is known at the end of the dump.
    fn foreign_stack<I: Input, V: Visitor>(
        &mut self,
        body: &mut Decoder<'_, I>,
        at: u64,
        count: u32,
        to: &mut V,
    ) -> Result<()> {
        self.tried.get_or_insert(not_empty(body.offset(), body.end()));
        self.trials.begin(count);
        while body.left()? > 0 {
            match body.take(at_most(body.left()?, TRIED)) {
                Ok(bytes) => self.trials.feed(bytes),
                Err(fault) => {
                    // Of a list that is cut off no layout is known.
                    to.thread(at, 0)?;
                    return Err(fault);
                }
            }
        }
        self.trials.end();
        to.thread(at, count)?;
        counted(&mut self.threads, MAX_LISTED_THREADS, "threads", body)
    }

    fn memory<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<()> {
        for i in 0..body.u32()? {
            let ty = types::memory(body, self.memories.len());
            self.memories.push(ty.map_err(|fault| fault.within(format_args!("memory {i}")))?);
        }
        Ok(())
    }

    fn global<I: Input, V: Visitor>(
        &mut self,
        body: &mut Decoder<'_, I>,
        to: &mut V,
    ) -> Result<()> {
        for i in 0..body.u32()? {
            let at = body.offset();
            if let Err(fault) = types::global(body, self.globals, self.header.is_none()) {
                return Err(fault.within(format_args!("global {i}")));
            }
            to.global(at)?;
            self.globals = self.globals.plus(1)?;
        }
        Ok(())
    }

    fn data<I: Input, V: Visitor>(&mut self, body: &mut Decoder<'_, I>, to: &mut V) -> Result<()> {
        let passed = self.segments(body, to);
        if passed.is_err() {
            to.lost();
        }
        passed
    }

    fn segments<I: Input, V: Visitor>(
        &mut self,
        body: &mut Decoder<'_, I>,
        to: &mut V,
    ) -> Result<()> {
        let start = body.offset();
        let count = body.u32()?;
        let section = DataSection { start: body.offset(), end: body.end() };
        let first = self.segments;
        self.segments = first.checked_add(count.into()).ok_or_else(|| {
            Fault::unsupported(body.since(start), "more segments than can be counted")
        })?;
        let mut sections = self.data.len();
        counted(&mut sections, MAX_DATA_SECTIONS, "sections with segments", body)?;
        if section.start < section.end {
            self.data.push(section);
        }
        if !to.segments(&section) {
            return body.skip_rest();
        }
        for i in first..self.segments {
            let cut = |segment, file| to.cut(segment, file);
            let segment = match &self.header {
                Some(_) if !self.has_lost_memory() => {
                    data::segment_or_cut(body, &mut self.memories.as_slice(), cut)
                }
                _ => {
                    let declared = self.has("memory") && !self.lost_memory;
                    let types = &*self.memories;
                    let mut growing = Growing { types, declared, reaches: &mut self.reaches };
                    data::segment_or_cut(body, &mut growing, cut)
                }
            };
            let segment = segment.map_err(|mut fault| {
                // Other tools may write what is not known here, but not this project.
                if self.header.is_some() && fault.kind == ErrorKind::Unsupported {
                    fault.kind = ErrorKind::Damaged;
                }
                fault.within(format_args!("segment {i}"))
            })?;
            if let Some(segment) = segment {
                to.segment(segment)?;
            }
        }
        Ok(())
    }
}

/// Passes sections that another tool has added after the end of a dump; gives their bytes.
///
/// # Errors
/// What is there is no custom section, or one that belongs into a dump.
pub(super) fn appended<I: Input>(input: &mut I, header: &Header) -> Result<u64> {
    let added = add_ons(input);
    match (added, input.drain()) {
        (Err(fault), _) if !fault.is_of_dump() => Err(fault),
        (_, Err(fault)) => Err(fault),
        (Ok(true), Ok(end)) => {
            end.checked_sub(header.length).ok_or_else(|| Fault::cut_off(end, header.length))
        }
        (_, Ok(end)) => header.check_nothing_behind(end).map(|()| 0),
    }
}

/// Whether there are only custom sections up to the end, and none of a dump's.
fn add_ons<I: Input>(input: &mut I) -> Result<bool> {
    while !input.at_end()? {
        let mut all = Decoder::new(input, u64::MAX);
        if all.byte()? != 0 {
            return Ok(false);
        }
        let size = all.u32()?;
        let mut body = all.part(size.into())?;
        let name = body.name()?;
        if name.starts_with("core") {
            return Ok(false);
        }
        body.skip_rest()?;
    }
    Ok(true)
}

/// Whether there are only such sections up to the end.
pub(super) fn is_appended<I: Input>(input: &mut I) -> Result<bool> {
    readable(add_ons(input)).map(|only| only == Some(true))
}

/// The first bytes of a dump are not those of a module.
pub(super) fn no_module() -> Box<Fault> {
    Fault::damaged(0..PREAMBLE.len() as u64, "does not begin as a WebAssembly module does")
}

/// Returns whether the next bytes are those that begin a module.
///
/// # Errors
/// The dump cannot be read.
pub(super) fn is_module<I: Input>(input: &mut I) -> Result<bool> {
    let bytes = readable(Decoder::new(input, u64::MAX).array())?;
    Ok(bytes == Some(PREAMBLE))
}

/// Checks the first bytes of the file.
fn preamble<I: Input>(input: &mut I) -> Result<()> {
    let mut decoder = Decoder::new(input, u64::MAX);
    match decoder.array() {
        Ok(PREAMBLE) => Ok(()),
        Ok(COMPONENT) => Err(Fault::format("it is a component, and a dump is a core module")),
        Err(fault) if !fault.is_of_dump() => Err(fault),
        Err(fault) if fault.range.start == 0 => Err(Fault::format("it is empty")),
        _ => Err(Fault::format("it does not begin as a WebAssembly module does")),
    }
}

/// Passes notes. Those of a version that is not known stay unread.
fn notes<I: Input, V: Visitor>(body: &mut Decoder<'_, I>, to: &mut V) -> Result<()> {
    if body.take(4)? != 1_u32.to_le_bytes() {
        return body.skip_rest();
    }
    let start = body.offset();
    let count = body.u32()?;
    if count as usize > MAX_NOTES {
        return Err(Fault::damaged(body.since(start), format!("has {count} notes")));
    }
    for i in 0..count {
        let mut one = || {
            let at = body.offset();
            body.check_name()?;
            to.note(at)
        };
        one().map_err(|fault: Box<Fault>| fault.within(format_args!("note {i}")))?;
    }
    Ok(())
}

fn process<I: Input, V: Visitor>(body: &mut Decoder<'_, I>, to: &mut V) -> Result<()> {
    body.zero()?;
    let at = body.offset();
    let name = body.name()?;
    to.process(at, &name)
}

/// Counts one more of something that there is a limit for.
fn counted<I: Input>(
    count: &mut usize,
    most: usize,
    what: &str,
    body: &Decoder<'_, I>,
) -> Result<()> {
    *count = count.plus(1)?;
    match *count <= most {
        true => Ok(()),
        false => {
            let message = format!("more than the limit of {most} {what}");
            Err(Fault::unsupported(body.since(body.offset()), message))
        }
    }
}

/// Passes a frame.
fn frame<I: Input>(body: &mut Decoder<'_, I>) -> Result<()> {
    body.zero()?;
    for _ in 0..3 {
        body.u32()?;
    }
    for _ in 0..2 {
        for _ in 0..body.u32()? {
            body.value()?;
        }
    }
    Ok(())
}
