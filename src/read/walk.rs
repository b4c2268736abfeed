//! The one walk over the sections of a dump, for every reader: of a mapped file and of a stream.
//!
//! Sources: the tool-conventions'
//! [Coredump format](https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md), and the
//! core specification, "Binary format",
//! [modules](https://webassembly.github.io/spec/core/binary/modules.html).

use std::ops::Range;

use super::data::{self, DataSection, Segment};
use super::decode::Decoder;
use super::fault::{Fault, Result};
use super::header::Header;
use super::input::Input;
use super::types;
use crate::error::ErrorKind;
use crate::limits::{MAX_DATA_SECTIONS, MAX_LISTED};
use crate::model::{Global, MemoryType};

/// What begins every module: the magic number and the version.
const PREAMBLE: [u8; 8] = *b"\0asm\x01\0\0\0";

/// What begins every component.
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// The longest name of a section that is known here.
const LONGEST_NAME: u32 = 16;

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

    /// Two sections have passed, and there is no header: another tool's dump.
    fn no_header(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    /// A module; its name is at the offset.
    fn module(&mut self, _: u64) {}

    /// An instance; its fields are at the offset.
    fn instance(&mut self, _: u64) {}

    /// A thread; its name is at the offset, so many frames that are not damaged after it.
    fn thread(&mut self, _: u64, _frames: u32) {}

    /// A global.
    fn global(&mut self, _: Global) {}

    /// A section with segments; says whether they are wanted.
    fn segments(&mut self, _: &DataSection) -> bool {
        true
    }

    /// A segment that is active and not empty.
    fn segment(&mut self, _: Segment) -> Result<()> {
        Ok(())
    }

    /// A segment that puts nothing into a memory.
    fn nothing(&mut self) {}

    /// A segment whose payload is cut off, since the file has so many bytes; a fault follows.
    fn cut(&mut self, _: Segment, _file: u64) {}
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
    sections: u64,
    seen: Vec<&'static str>,
    globals: usize,
    modules: usize,
    instances: usize,
    threads: usize,
}

impl Walk {
    /// Walks from the first byte to the index, or to the end of a dump that has no header.
    ///
    /// # Errors
    /// The first fault; what was passed before it stays known.
    pub(super) fn run<I: Input, V: Visitor>(&mut self, input: &mut I, to: &mut V) -> Result<()> {
        let walked = self.sections(input, to);
        walked.map_err(|fault| match &self.header {
            Some(header) => fault.cut_off_from(header.length),
            None => fault,
        })
    }

    /// Whether a section that a dump has once was passed.
    pub(super) fn has(&self, section: &str) -> bool {
        self.seen.contains(&section)
    }

    fn sections<I: Input, V: Visitor>(&mut self, input: &mut I, to: &mut V) -> Result<()> {
        preamble(input)?;
        let mut end = u64::MAX;
        while input.offset() < end && !input.at_end()? {
            self.section(input, end, to)?;
            self.sections = self.sections.saturating_add(1);
            match &self.header {
                Some(header) => end = header.index,
                None if self.sections == 2 => to.no_header(input.offset())?,
                None => {}
            }
        }
        match &self.header {
            Some(header) if input.offset() < header.index => {
                Err(Fault::end(input.offset(), header.index))
            }
            None if !self.has("core") && self.stray.is_none() => Err(Fault::no_core()),
            _ => Ok(()),
        }
    }

    fn section<I: Input, V: Visitor>(&mut self, input: &mut I, end: u64, to: &mut V) -> Result<()> {
        let mut all = Decoder::new(input, end);
        let start = all.offset();
        let id = all.byte()?;
        let what = match id {
            0 => "a custom section",
            5 => "section memory",
            6 => "section global",
            11 => "section data",
            1..=13 => "a section of no interest",
            _ => {
                let message = format!("a section has the id {id}, which is none");
                return Err(Fault::damaged(all.since(start), message));
            }
        };
        let size = all.u32().map_err(|fault| fault.within(what))?;
        let mut body = all.part(size.into()).map_err(|fault| fault.within(what))?;
        let body = &mut body;
        let decoded = match id {
            0 => self.custom(body, start, to),
            5 => self.once("memory", body, start).and_then(|()| self.memory(body)),
            6 => self.once("global", body, start).and_then(|()| self.global(body, to)),
            11 => self.once("data", body, start).and_then(|()| self.data(body, to)),
            _ => body.skip_rest(),
        };
        let whole = decoded.and_then(|()| body.finish());
        // A custom section says its name itself.
        whole.map_err(|fault| if id == 0 { fault } else { fault.within(what) })
    }

    fn custom<I: Input, V: Visitor>(
        &mut self,
        body: &mut Decoder<'_, I>,
        start: u64,
        to: &mut V,
    ) -> Result<()> {
        let len = body.u32()?;
        if len > LONGEST_NAME {
            return body.skip_rest();
        }
        let what = match body.take(usize::try_from(len).unwrap_or(0))? {
            b"core" => "core",
            b"coremodules" => "coremodules",
            b"coreinstances" => "coreinstances",
            b"corestack" => "corestack",
            b"corestream" => "corestream",
            b"corestream.data" => "corestream.data",
            b"corestream.index" => "corestream.index",
            _ => return body.skip_rest(),
        };
        self.known(what, body, start, to).map_err(|fault| fault.within(what))
    }

    fn known<I: Input, V: Visitor>(
        &mut self,
        what: &'static str,
        body: &mut Decoder<'_, I>,
        start: u64,
        to: &mut V,
    ) -> Result<()> {
        if !matches!(what, "corestack" | "corestream.data" | "corestream.index") {
            self.once(what, body, start)?;
        }
        match what {
            "core" => process(body, to),
            "corestream" => self.header(body, start, to),
            "coremodules" => self.modules(body, to),
            "coreinstances" => self.instances(body, to),
            "corestack" => self.stack(body, to),
            "corestream.data" => {
                self.belongs_to_header(start..body.end());
                self.data(body, to)
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
        let decoded = match self.sections == 1 && self.has("core") {
            true => Header::decode(body, start),
            false => {
                let message = "does not follow a section `core` that is the first";
                Err(Fault::damaged(start..body.end(), message))
            }
        };
        let header = match decoded {
            Ok(header) => header,
            Err(fault) => return to.bad_header(fault).and_then(|()| body.skip_rest()),
        };
        if header.block_log2 != 0 {
            body.begin_blocks(header.block_log2, header.index);
        }
        to.header(&header)?;
        self.header = Some(header);
        Ok(())
    }

    /// The index of a dump with a header is where that says, and never passed here.
    fn index<I: Input>(&mut self, body: &mut Decoder<'_, I>, start: u64) -> Result<()> {
        if let Some(header) = &self.header {
            let message = format!("is not at {:#x}, where `corestream` says it is", header.index);
            return Err(Fault::damaged(start..body.end(), message));
        }
        self.belongs_to_header(start..body.end());
        body.skip_rest()
    }

    fn modules<I: Input, V: Visitor>(
        &mut self,
        body: &mut Decoder<'_, I>,
        to: &mut V,
    ) -> Result<()> {
        for i in 0..body.u32()? {
            let mut one = || {
                body.zero()?;
                let at = body.offset();
                body.check_name()?;
                to.module(at);
                counted(&mut self.modules, MAX_LISTED, "modules", body)
            };
            one().map_err(|fault| fault.within(format_args!("module {i}")))?;
        }
        Ok(())
    }

    fn instances<I: Input, V: Visitor>(
        &mut self,
        body: &mut Decoder<'_, I>,
        to: &mut V,
    ) -> Result<()> {
        for i in 0..body.u32()? {
            let mut one = || {
                body.zero()?;
                let at = body.offset();
                body.u32()?;
                for _ in 0..2 {
                    for _ in 0..body.u32()? {
                        body.u32()?;
                    }
                }
                to.instance(at);
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
        // The frames before one that is damaged, or cut off, can be had.
        let fault = (0..count).find_map(|i| frame(body).err().map(|fault| (i, fault)));
        to.thread(at, fault.as_ref().map_or(count, |(i, _)| *i));
        if let Some((i, fault)) = fault {
            return Err(fault.within(format_args!("frame {i}")));
        }
        counted(&mut self.threads, MAX_LISTED, "threads", body)
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
            let global = types::global(body, self.globals);
            to.global(global.map_err(|fault| fault.within(format_args!("global {i}")))?);
            self.globals = self.globals.saturating_add(1);
        }
        Ok(())
    }

    fn data<I: Input, V: Visitor>(&mut self, body: &mut Decoder<'_, I>, to: &mut V) -> Result<()> {
        let count = body.u32()?;
        let section = DataSection { start: body.offset(), end: body.end() };
        let first = self.segments;
        self.segments = self.segments.saturating_add(count.into());
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
            let segment = data::segment_or_cut(body, &self.memories, cut);
            let segment = segment.map_err(|mut fault| {
                // Other tools may write what is not known here, but not this project.
                if self.header.is_some() && fault.kind == ErrorKind::Unsupported {
                    fault.kind = ErrorKind::Damaged;
                }
                fault.within(format_args!("segment {i}"))
            })?;
            match segment {
                Some(segment) => to.segment(segment)?,
                None => to.nothing(),
            }
        }
        Ok(())
    }
}

/// Checks the first bytes of the file.
fn preamble<I: Input>(input: &mut I) -> Result<()> {
    let mut decoder = Decoder::new(input, u64::MAX);
    match decoder.array() {
        Ok(PREAMBLE) => Ok(()),
        Ok(COMPONENT) => Err(Fault::format("it is a component, and a dump is a core module")),
        Err(fault) if fault.kind == ErrorKind::Input => Err(fault),
        Err(fault) if fault.range.start == 0 => Err(Fault::format("it is empty")),
        _ => Err(Fault::format("it does not begin as a WebAssembly module does")),
    }
}

fn process<I: Input, V: Visitor>(body: &mut Decoder<'_, I>, to: &mut V) -> Result<()> {
    body.zero()?;
    let at = body.offset();
    to.process(at, body.check_name()?)
}

/// Counts one more of something that there is a limit for.
fn counted<I: Input>(
    count: &mut usize,
    most: usize,
    what: &str,
    body: &Decoder<'_, I>,
) -> Result<()> {
    *count = count.saturating_add(1);
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
