//! What each section of a dump has before its items, and what its items are.
//!
//! Sources: the tool-conventions'
//! [Coredump format](https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md), and the
//! core specification, "Binary format",
//! [modules](https://webassembly.github.io/spec/core/binary/modules.html).

use super::{Items, Loses, Parser, Payload};
use crate::arithmetic::{Checked, at_most, exact};
use crate::format::{
    CONTINUATION, CORE, CUSTOM, DATA, GLOBAL, HEADER, IDENTITIES, INDEX, INSTANCES, MEMORY,
    MODULES, NOTES, STACK, TRAP,
};
use crate::limits::{MAX_DATA_SECTIONS, MAX_LISTED_THREADS, MAX_NAME_BYTES, MAX_NOTES};
use crate::read::data::DataSection;
use crate::read::decode::Decoder;
use crate::read::facts;
use crate::read::fault::{Fault, Result, not_empty};
use crate::read::header::Header;
use crate::read::input::{Input, Slice};
use crate::read::types;

/// The names of the custom sections that are known here.
const KNOWN: [&str; 10] =
    [CORE, MODULES, INSTANCES, STACK, HEADER, CONTINUATION, TRAP, IDENTITIES, NOTES, INDEX];

/// Bytes of frames that are tried at once.
const TRIED: usize = 4096;

impl Parser {
    /// Decodes all of a section that comes before its items, and sets what these are.
    pub(super) fn head<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<Option<Payload>> {
        match self.section.id {
            CUSTOM => return self.custom(body),
            MEMORY => {
                self.once("memory")?;
                self.structure.has_memory_types = true;
                self.memory_types(body)?;
            }
            GLOBAL => {
                self.once("global")?;
                self.section.list(Items::Globals, body.u32()?.into());
            }
            DATA => {
                self.once("data")?;
                return self.data(body).map(Some);
            }
            _ => self.section.items = Items::Rest,
        }
        Ok(None)
    }

    /// Notes that the section has come, which a dump has once.
    fn once(&mut self, name: &'static str) -> Result<()> {
        self.structure.once(name, self.section.start..self.section.end)
    }

    /// Notes a section that only a dump with a header has.
    fn belongs_to_header(&mut self) {
        self.structure.belongs_to_header(self.section.start..self.section.end);
    }

    fn custom<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<Option<Payload>> {
        // Another name may be of any length, and no UTF-8.
        let len = body.u32()? as usize;
        let known = match KNOWN.iter().any(|known| known.len() == len) {
            true => {
                let name = body.take(len)?;
                KNOWN.into_iter().find(|known| known.as_bytes() == name)
            }
            false => None,
        };
        let Some(name) = known else {
            // In a damaged dump it may be one with segments whose name is damaged.
            (self.section.loses, self.section.items) = (Loses::Always, Items::Rest);
            return Ok(None);
        };
        self.section.what = name;
        if name != CONTINUATION {
            self.section.loses = Loses::Never;
        }
        if !matches!(name, STACK | CONTINUATION | INDEX) {
            self.once(name)?;
        }
        if matches!(name, CONTINUATION | NOTES | TRAP | IDENTITIES) {
            self.belongs_to_header();
        }
        match name {
            CORE => {
                body.zero()?;
                return Ok(Some(Payload::Process(body.name()?)));
            }
            HEADER => return self.header(body),
            MODULES => return self.modules(body),
            INSTANCES => self.instances(body)?,
            STACK => self.stack(body)?,
            CONTINUATION => return self.data(body).map(Some),
            NOTES => self.notes(body)?,
            TRAP => match facts::trap(body)? {
                Some(trap) => return Ok(Some(Payload::Trap(Box::new(trap)))),
                None => self.section.items = Items::Rest,
            },
            IDENTITIES => match facts::identity_count(body)? {
                Some(count) => self.section.list(Items::Identities, count.into()),
                None => self.section.items = Items::Rest,
            },
            _ => self.pass_index(body, self.section.start)?,
        }
        Ok(None)
    }

    fn header<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<Option<Payload>> {
        self.section.items = Items::Rest;
        if self.structure.header.is_some() {
            // It is known by other means.
            return Ok(None);
        }
        let in_place = self.sections == 1 && self.structure.has(CORE);
        let header = match Header::decode(body, self.section.start, in_place) {
            Ok(header) => header,
            Err(fault) => return Ok(Some(Payload::BadHeader(fault))),
        };
        if !in_place {
            // This project writes it nowhere else: another tool has moved it.
            self.structure.moved = Some(header);
            return Ok(None);
        }
        body.expect_index(header.index, header.block_log2)?;
        self.structure.header = Some(header);
        Ok(Some(Payload::Header))
    }

    /// Passes an index. That of a dump that is as it was written is where its header says, and never passed here. All
    /// sections up to this one were sound, so that another tool has made some of them longer or shorter.
    pub(super) fn pass_index<I: Input>(
        &mut self,
        body: &mut Decoder<'_, I>,
        start: u64,
    ) -> Result<()> {
        let range = body.offset()..body.end();
        body.skip_rest()?;
        let structure = &mut self.structure;
        if let Some(header) = structure.header.take() {
            structure.moved = Some(header);
        }
        if structure.moved.is_none() {
            structure.belongs_to_header(start..range.end);
        }
        structure.moved_index = Some(range);
        Ok(())
    }

    fn modules<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<Option<Payload>> {
        let count = body.u32()?;
        let may_be_bare = count == 1 && self.structure.is_foreign();
        if may_be_bare && body.left()? <= MAX_NAME_BYTES as u64 {
            let payload = only_module(body).map_err(|fault| fault.within("module 0"))?;
            self.modules = 1;
            return Ok(Some(payload));
        }
        self.section.list(Items::Modules, count.into());
        Ok(None)
    }

    fn instances<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<()> {
        if !self.structure.is_foreign() || body.left()? > 0 {
            self.section.list(Items::Instances, body.u32()?.into());
        }
        Ok(())
    }

    /// Decodes what comes before the frames of a thread.
    fn stack<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<()> {
        body.zero()?;
        let at = body.offset();
        body.check_name()?;
        let count = body.u32()?;
        self.structure.has_frames |= count > 0;
        match self.structure.is_foreign() {
            true => {
                let frames = not_empty(body.offset(), body.end());
                self.structure.tried.get_or_insert(frames);
                self.structure.trials.begin(count);
                self.section.list(Items::UnknownFrames(at), count.into());
            }
            false => self.section.list(Items::Frames(at), count.into()),
        }
        Ok(())
    }

    /// Counts a thread at the offset, so many frames of which are readable.
    pub(super) fn thread<I: Input>(
        &mut self,
        body: &Decoder<'_, I>,
        at: u64,
        frames: u64,
    ) -> Result<Payload> {
        counted(&mut self.threads, MAX_LISTED_THREADS, "threads", body)?;
        Ok(Payload::Thread { at, frames: exact(frames)? })
    }

    /// Tries the layouts of frames over some more bytes of a thread. Which one it is, is known at the end of the dump.
    pub(super) fn unknown_frames<I: Input>(
        &mut self,
        body: &mut Decoder<'_, I>,
        at: u64,
    ) -> Result<Payload> {
        let trials = &mut self.structure.trials;
        if body.left()? == 0 {
            trials.end();
            self.section.items = Items::Nothing;
            return self.thread(body, at, self.section.count);
        }
        match body.take(at_most(body.left()?, TRIED)) {
            Ok(bytes) => {
                trials.feed(bytes);
                Ok(Payload::Checked)
            }
            Err(fault) => {
                // Of a list that is cut off no layout is known.
                self.section.fault = Some(fault);
                self.thread(body, at, 0)
            }
        }
    }

    /// Decodes the number of notes. Those of a version that is not known stay unread.
    fn notes<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<()> {
        if body.take(4)? != 1_u32.to_le_bytes() {
            self.section.items = Items::Rest;
            return Ok(());
        }
        let start = body.offset();
        let count = body.u32()?;
        if count as usize > MAX_NOTES {
            return Err(Fault::damaged(body.since(start), format!("has {count} notes")));
        }
        self.section.list(Items::Notes, count.into());
        Ok(())
    }

    fn memory_types<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<()> {
        let memories = &mut self.structure.memories;
        for i in 0..body.u32()? {
            let ty = types::memory(body, memories.len());
            memories.push(ty.map_err(|fault| fault.within(format_args!("memory {i}")))?);
        }
        Ok(())
    }

    /// Begins a section with segments.
    fn data<I: Input>(&mut self, body: &mut Decoder<'_, I>) -> Result<Payload> {
        let start = body.offset();
        let count = body.u32()?;
        let section = DataSection { start: body.offset(), end: body.end() };
        let structure = &mut self.structure;
        let first = structure.segments;
        structure.segments = first.checked_add(count.into()).ok_or_else(|| {
            Fault::unsupported(body.since(start), "more segments than can be counted")
        })?;
        let mut sections = structure.data.len();
        counted(&mut sections, MAX_DATA_SECTIONS, "sections with segments", body)?;
        if section.start < section.end {
            structure.data.push(section);
        }
        let last = structure.segments;
        (self.section.items, self.section.next, self.section.count) =
            (Items::Segments, first, last);
        Ok(Payload::Data)
    }
}

/// Decodes the only module of another writer, whose name may have no length (WasmEdge): then it is
/// all that is left.
fn only_module<I: Input>(body: &mut Decoder<'_, I>) -> Result<Payload> {
    let start = body.offset();
    body.zero()?;
    let (at, end) = (body.offset(), body.end());
    let bytes = body.take(at_most(body.left()?, MAX_NAME_BYTES))?;
    let mut slice = Slice::new(bytes, 0);
    let mut name = Decoder::new(&mut slice, bytes.len() as u64);
    if name.check_name().is_ok() && name.finish().is_ok() {
        return Ok(Payload::Module(start));
    }
    match std::str::from_utf8(bytes).is_ok() {
        true => Ok(Payload::BareModule { at, len: bytes.len() as u64 }),
        false => {
            let message = "its name is neither UTF-8 with its length nor without";
            Err(Fault::damaged(not_empty(at, end), message))
        }
    }
}

/// Counts one more of something that there is a limit for.
pub(super) fn counted<I: Input>(
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
