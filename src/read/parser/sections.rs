//! Parses the fields of each section that precede its items, and the sections without items.
//!
//! Sources: the tool-conventions'
//! [Coredump format](https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md), and the
//! core specification, "Binary format",
//! [modules](https://webassembly.github.io/spec/core/binary/modules.html).

use super::{Parser, Payload, SectionContent, SegmentLoss};
use crate::arithmetic::{Checked, at_most, exact};
use crate::format::{
    CONTINUATION, CORE, CUSTOM, DATA, GLOBAL, HEADER, IDENTITIES, INDEX, INSTANCES, MEMORY,
    MODULES, NOTES, STACK, TRAP,
};
use crate::limits::{MAX_DATA_SECTIONS, MAX_LISTED_THREADS, MAX_NAME_BYTES, MAX_NOTES};
use crate::read::data::DataSection;
use crate::read::decode::Decoder;
use crate::read::facts;
use crate::read::fault::{Fault, Result, at_least_one_byte};
use crate::read::header::Header;
use crate::read::input::{Input, Slice};
use crate::read::types;

/// The names of the custom sections that the parser knows.
const KNOWN: [&str; 10] =
    [CORE, MODULES, INSTANCES, STACK, HEADER, CONTINUATION, TRAP, IDENTITIES, NOTES, INDEX];

/// Bytes of frames that are fed to the layout detector at a time.
const LAYOUT_CHUNK: usize = 4096;

impl Parser {
    /// Parses the fields before the items of a section, and sets the kind of the items.
    pub(super) fn parse_head<I: Input>(
        &mut self,
        body: &mut Decoder<'_, I>,
    ) -> Result<Option<Payload>> {
        match self.section.id {
            CUSTOM => return self.parse_custom(body),
            MEMORY => {
                self.record_section("memory")?;
                self.structure.has_memory_types = true;
                self.parse_memory_types(body)?;
            }
            GLOBAL => {
                self.record_section("global")?;
                self.section.expect_items(SectionContent::Globals, body.u32()?.into());
            }
            DATA => {
                self.record_section("data")?;
                return self.begin_data(body).map(Some);
            }
            _ => self.section.content = SectionContent::Skipped,
        }
        Ok(None)
    }

    /// Records a section that may appear only once.
    fn record_section(&mut self, name: &'static str) -> Result<()> {
        self.structure.record_section(name, self.section.start..self.section.end)
    }

    fn parse_custom<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<Option<Payload>> {
        // The name is compared as bytes: an unknown one may be of any length, and need not be UTF-8.
        let len = body.u32()? as usize;
        let known = match KNOWN.iter().any(|known| known.len() == len) {
            true => {
                let name = body.take(len)?;
                KNOWN.into_iter().find(|known| known.as_bytes() == name)
            }
            false => None,
        };
        let Some(name) = known else {
            // In a damaged dump, this may be a section with segments whose name is damaged.
            self.section.segment_loss = SegmentLoss::Always;
            self.section.content = SectionContent::Skipped;
            return Ok(None);
        };
        self.section.label = name;
        if name != CONTINUATION {
            self.section.segment_loss = SegmentLoss::Never;
        }
        if !matches!(name, STACK | CONTINUATION | INDEX) {
            self.record_section(name)?;
        }
        if matches!(name, CONTINUATION | NOTES | TRAP | IDENTITIES) {
            self.structure.record_own_section(self.section.start..self.section.end);
        }
        match name {
            CORE => {
                body.expect_zero()?;
                return Ok(Some(Payload::Process(body.name()?)));
            }
            HEADER => return self.parse_header(body),
            MODULES => return self.parse_modules(body),
            INSTANCES => self.parse_instances(body)?,
            STACK => self.parse_stack(body)?,
            CONTINUATION => return self.begin_data(body).map(Some),
            NOTES => self.parse_notes(body)?,
            TRAP => match facts::decode_trap(body)? {
                Some(trap) => return Ok(Some(Payload::Trap(Box::new(trap)))),
                None => self.section.content = SectionContent::Skipped,
            },
            IDENTITIES => match facts::decode_identity_count(body)? {
                Some(count) => {
                    self.section.expect_items(SectionContent::Identities, count.into());
                }
                None => self.section.content = SectionContent::Skipped,
            },
            _ => self.skip_moved_index(body, self.section.start)?,
        }
        Ok(None)
    }

    fn parse_header<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<Option<Payload>> {
        self.section.content = SectionContent::Skipped;
        if self.structure.header.is_some() {
            // The caller found the header by other means.
            return Ok(None);
        }
        let in_place = self.sections == 1 && self.structure.has_section(CORE);
        let header = match Header::decode(body, self.section.start, in_place) {
            Ok(header) => header,
            Err(fault) => return Ok(Some(Payload::BadHeader(fault))),
        };
        if !in_place {
            // This project writes the header in one place only, so another tool has moved it.
            self.structure.moved_header = Some(header);
            return Ok(None);
        }
        body.guard_index(header.index);
        body.sum_blocks(header.index, header.block_log2)?;
        self.structure.header = Some(header);
        Ok(Some(Payload::Header))
    }

    /// Skips an index that is not where the header says, and marks the dump as rewritten.
    ///
    /// The index of an unchanged dump never gets here: the parser stops before it. All sections up to this one were
    /// intact, so another tool has changed the length of some of them.
    pub(super) fn skip_moved_index<I: Input>(
        &mut self,
        body: &mut Decoder<'_, I>,
        start: u64,
    ) -> Result<()> {
        let range = body.offset()..body.end();
        body.skip_rest()?;
        let structure = &mut self.structure;
        if let Some(header) = structure.header.take() {
            structure.moved_header = Some(header);
        }
        if structure.moved_header.is_none() {
            structure.record_own_section(start..range.end);
        }
        structure.moved_index = Some(range);
        Ok(())
    }

    fn parse_modules<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<Option<Payload>> {
        let count = body.u32()?;
        let may_be_bare = count == 1 && self.structure.is_foreign();
        if may_be_bare && body.remaining()? <= MAX_NAME_BYTES as u64 {
            let payload = parse_only_module(body).map_err(|fault| fault.within("module 0"))?;
            self.modules = 1;
            return Ok(Some(payload));
        }
        self.section.expect_items(SectionContent::Modules, count.into());
        Ok(None)
    }

    fn parse_instances<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<()> {
        if !self.structure.is_foreign() || body.remaining()? > 0 {
            self.section.expect_items(SectionContent::Instances, body.u32()?.into());
        }
        Ok(())
    }

    /// Parses the fields of a thread that precede its frames.
    fn parse_stack<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<()> {
        body.expect_zero()?;
        let at = body.offset();
        body.check_name()?;
        let count = body.u32()?;
        self.structure.has_frames |= count > 0;
        match self.structure.is_foreign() {
            true => {
                let frames = at_least_one_byte(body.offset(), body.end());
                self.structure.tried_frames.get_or_insert(frames);
                self.structure.layout_detector.begin_section(count);
                self.section.expect_items(SectionContent::UnknownFrames(at), count.into());
            }
            false => self.section.expect_items(SectionContent::Frames(at), count.into()),
        }
        Ok(())
    }

    /// Counts the thread whose name is at offset `at`, and returns its payload. `frames` of its frames are readable.
    pub(super) fn count_thread<I: Input>(
        &mut self,
        body: &Decoder<'_, I>,
        at: u64,
        frames: u64,
    ) -> Result<Payload> {
        count_one(&mut self.threads, MAX_LISTED_THREADS, "threads", body)?;
        Ok(Payload::Thread { at, frames: exact(frames)? })
    }

    /// Feeds some bytes of a thread's frames to the layout detector, which decides at the end of the dump.
    pub(super) fn try_layouts<I: Input>(
        &mut self,
        body: &mut Decoder<'_, I>,
        at: u64,
    ) -> Result<Payload> {
        let detector = &mut self.structure.layout_detector;
        if body.remaining()? == 0 {
            detector.end_section();
            self.section.content = SectionContent::Nothing;
            return self.count_thread(body, at, self.section.count);
        }
        match body.take(at_most(body.remaining()?, LAYOUT_CHUNK)) {
            Ok(bytes) => {
                detector.feed(bytes);
                Ok(Payload::Checked)
            }
            Err(fault) => {
                // The layout of a truncated list cannot be determined, so none of its frames is readable.
                self.section.pending_fault = Some(fault);
                self.count_thread(body, at, 0)
            }
        }
    }

    /// Parses the number of notes. Skips notes of an unknown version.
    fn parse_notes<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<()> {
        if body.take(4)? != 1_u32.to_le_bytes() {
            self.section.content = SectionContent::Skipped;
            return Ok(());
        }
        let start = body.offset();
        let count = body.u32()?;
        if count as usize > MAX_NOTES {
            let message = format!("{count} notes are over the limit of {MAX_NOTES}");
            return Err(Fault::damaged(body.since(start), message));
        }
        self.section.expect_items(SectionContent::Notes, count.into());
        Ok(())
    }

    fn parse_memory_types<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<()> {
        let memories = &mut self.structure.memories;
        for i in 0..body.u32()? {
            let ty = types::decode_memory(body, memories.len());
            memories.push(ty.map_err(|fault| fault.within(format_args!("memory {i}")))?);
        }
        Ok(())
    }

    /// Begins a section with segments.
    fn begin_data<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<Payload> {
        let start = body.offset();
        let count = body.u32()?;
        let section = DataSection { start: body.offset(), end: body.end() };
        let structure = &mut self.structure;
        let first = structure.segments;
        structure.segments = first.checked_add(count.into()).ok_or_else(|| {
            Fault::unsupported(body.since(start), "the number of segments has more than 64 bits")
        })?;
        let mut sections = structure.data.len();
        count_one(&mut sections, MAX_DATA_SECTIONS, "data sections", body)?;
        if section.start < section.end {
            structure.data.push(section);
        }
        let last = structure.segments;
        (self.section.content, self.section.next, self.section.count) =
            (SectionContent::Segments, first, last);
        Ok(Payload::Data)
    }
}

/// Parses the only module of another writer.
///
/// WasmEdge writes its name without a length prefix, so that the name extends to the end of the section.
fn parse_only_module<I: Input>(body: &mut Decoder<'_, I>) -> Result<Payload> {
    let start = body.offset();
    body.expect_zero()?;
    let (at, end) = (body.offset(), body.end());
    let bytes = body.take(at_most(body.remaining()?, MAX_NAME_BYTES))?;
    let mut slice = Slice::new(bytes, 0);
    let mut name = Decoder::new(&mut slice, bytes.len() as u64);
    if name.check_name().is_ok() && name.finish().is_ok() {
        return Ok(Payload::Module(start));
    }
    match std::str::from_utf8(bytes).is_ok() {
        true => Ok(Payload::BareModule { at, len: bytes.len() as u64 }),
        false => {
            let message = "the name is not UTF-8, with or without a length prefix";
            Err(Fault::damaged(at_least_one_byte(at, end), message))
        }
    }
}

/// Adds one to `count`.
///
/// # Errors
/// Returns an error if the count passes the limit `most`.
pub(super) fn count_one<I: Input>(
    count: &mut usize,
    most: usize,
    what: &str,
    body: &Decoder<'_, I>,
) -> Result<()> {
    *count = count.plus(1)?;
    match *count <= most {
        true => Ok(()),
        false => Err(Fault::over_limit(body.since(body.offset()), most, what)),
    }
}
