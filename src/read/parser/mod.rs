//! The parser of the sections of a dump. The opener and the verifier share it, over a source as over a stream.
//!
//! # The problem
//! A dump is read in several ways: opened from its index or from its sections, salvaged where it is damaged, verified as a
//! file or as it comes through a pipe. All of them have to agree about every byte, and none may keep more of a dump than a
//! fixed amount of memory.
//!
//! # The idea
//! The caller pulls one [`Payload`] at a time, as with wasmparser. The parser checks each item of each section and says
//! where the item is. The caller takes the items that it needs and ignores the others. So cancelling and progress have one
//! place: the caller's loop.
//!
//! # The invariant
//! Between two calls of [`next`](Parser::next) the input stands before an item or before a section, and
//! [`structure`](Parser::structure) holds the facts about the whole dump that were found so far. Each step decodes one item
//! of limited length, or skips bytes.
//!
//! # The cost
//! One pass, without going back, and without allocating for what is only checked. The parser reads the headers of segments
//! and skips their contents; after [`skip_section`](Parser::skip_section) it skips the whole section.
//!
//! # What was tried
//! A visitor with fourteen methods. Their results had three different types, and each method had to check whether the work
//! was cancelled and report its progress.
//!
//! Sources: the tool-conventions'
//! [Coredump format](https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md), and the
//! core specification, "Binary format",
//! [modules](https://webassembly.github.io/spec/core/binary/modules.html).

mod sections;

use self::sections::counted;
use super::data;
use super::decode::Decoder;
use super::facts::Trap;
use super::fault::{Fault, Result, not_empty};
use super::header::Header;
use super::input::Input;
use super::item::{self, Item};
use super::preamble;
use super::segment::Segment;
use super::structure::Structure;
use crate::arithmetic::Checked;
use crate::error::ErrorKind;
use crate::format::{CORE, CUSTOM, DATA, GLOBAL, MEMORY};
use crate::limits::MAX_LISTED;
use crate::model::{Instance, ModuleIdentity};

/// What comes next in a dump. The offset of an item is where it is decoded ([`Item::decode`]).
#[derive(Debug)]
pub(super) enum Payload {
    /// The name of the process.
    Process(String),
    /// The header ([`Structure::header`]), before anything that it speaks of.
    Header,
    /// A header that can't be used, and why. The parser goes on without it.
    BadHeader(Box<Fault>),
    /// Two sections have passed, and there is no header: another tool's dump. Or there was one, but
    /// another tool has rewritten the dump since.
    NoHeader,
    /// A module.
    Module(u64),
    /// The only module, whose name has no length.
    BareModule {
        /// The offset of the name.
        at: u64,
        /// Its bytes.
        len: u64,
    },
    /// An instance.
    Instance(u64),
    /// A thread.
    Thread {
        /// The offset of its name.
        at: u64,
        /// The number of intact frames after that.
        frames: u32,
    },
    /// A note.
    Note(u64),
    /// Why and when the guest stopped.
    Trap(Box<Trap>),
    /// The identity of the next module.
    Identity(u64),
    /// A global.
    Global(u64),
    /// A section with segments begins. Its segments come next, unless [`Parser::skip_section`] says otherwise.
    Data,
    /// A segment that puts something into a memory.
    Segment(Segment),
    /// A segment whose contents are cut off. A fault follows.
    Cut {
        /// What the segment should be.
        segment: Segment,
        /// The length of the file.
        file: u64,
    },
    /// A frame, or a segment without contents for a memory: checked, and of no use to a caller.
    Checked,
    /// A section has ended.
    End {
        /// Whether it may have held segments that are lost: it is a damaged section with segments, or a section of a damaged
        /// dump that this project does not write. Only a parser that skips damage gets past such a section.
        may_lose_segments: bool,
    },
}

/// Parses a dump, from its first byte to its index, or to the end of a dump that has no header where it belongs.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// What is known of the whole dump so far.
    pub(super) structure: Structure,
    state: State,
    section: Section,
    /// The sections that have passed.
    sections: u64,
    /// Whether it was said that there is no header.
    has_said_no_header: bool,
    modules: usize,
    threads: usize,
    globals: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first byte.
    #[default]
    Start,
    /// Before a section, or at the end.
    Between,
    /// Within [`Parser::section`].
    Within,
    /// At the end.
    Ended,
}

/// The section that is being parsed.
#[derive(Debug)]
struct Section {
    id: u8,
    /// What faults in it call it: its name if that is known.
    what: &'static str,
    /// The offset of its id.
    start: u64,
    /// The offset of its end.
    end: u64,
    items: Items,
    /// The next item.
    next: u64,
    /// The item after the last one.
    count: u64,
    loses: Loses,
    /// What was found wrong with the last payload.
    fault: Option<Box<Fault>>,
}

/// What comes next in a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Items {
    /// All that comes before its items.
    Head,
    /// Its end.
    Nothing,
    /// Bytes that are not looked at, up to its end.
    Rest,
    Modules,
    Instances,
    Identities,
    Notes,
    Globals,
    Segments,
    /// Frames of the thread at the offset.
    Frames(u64),
    /// The frames of the thread at the offset, in a layout that is not known yet.
    UnknownFrames(u64),
}

/// When a section may lose segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loses {
    Never,
    IfDamaged,
    Always,
}

impl Default for Section {
    fn default() -> Self {
        let (items, loses) = (Items::Nothing, Loses::Never);
        let (what, fault) = ("", None);
        Self { id: CUSTOM, what, start: 0, end: 0, items, next: 0, count: 0, loses, fault }
    }
}

impl Section {
    /// Sets what its items are, and how many.
    fn list(&mut self, items: Items, count: u64) {
        (self.items, self.next, self.count) = (items, 0, count);
    }

    /// Returns a fault in it, with what it is.
    fn label(&self, fault: Box<Fault>) -> Box<Fault> {
        fault.within(self.what)
    }
}

impl Parser {
    /// Returns a parser for a damaged dump whose header is known. If the sizes of its sections can be believed, it passes
    /// those of which only the content is damaged.
    pub(super) fn of_damaged(header: Header, sizes_hold: bool) -> Self {
        Self { structure: Structure::of_damaged(header, sizes_hold), ..Self::default() }
    }

    /// Returns what comes next; `None` at the end.
    ///
    /// # Errors
    /// Returns the first fault, which ends the dump. What was found before it stays in the structure.
    #[inline]
    pub(super) fn next<I: Input>(&mut self, input: &mut I) -> Result<Option<Payload>> {
        // Only segments can number a million in a usual dump, so they have a fast path.
        if self.is_before_segment() {
            return self.segment(input);
        }
        self.step(input)
    }

    /// Passes what is left of the section without looking at it.
    pub(super) fn skip_section(&mut self) {
        self.section.items = Items::Rest;
    }

    /// Ends the dump with a fault that the caller found in the last payload. Returns the fault with its section.
    pub(super) fn fail<I: Input>(&mut self, input: &mut I, fault: Box<Fault>) -> Box<Fault> {
        let fault = self.section.label(fault);
        self.end(input, fault)
    }

    /// Ends the dump with a fault.
    #[cold]
    fn end<I: Input>(&mut self, input: &mut I, fault: Box<Fault>) -> Box<Fault> {
        self.state = State::Ended;
        self.check_place(input);
        input.allow_index();
        // The fault comes before whatever this finds.
        let _ = self.structure.settle(input.offset());
        self.reword(fault)
    }

    /// Ends the dump where all sections have passed.
    fn finish<I: Input>(&mut self, input: &mut I) -> Result<()> {
        if self.state == State::Ended {
            return Ok(());
        }
        self.state = State::Ended;
        input.allow_index();
        self.structure.is_complete = true;
        self.structure.settle(input.offset()).map_err(|fault| self.reword(fault))
    }

    /// Returns a fault in the words that are true of a dump whose header is known.
    fn reword(&self, mut fault: Box<Fault>) -> Box<Fault> {
        let Some(header) = &self.structure.header else { return fault };
        // A dump without checksums has nothing else to tell damage from what a later version may write.
        if fault.kind == ErrorKind::Unsupported && !fault.is_limit && header.block_log2 == 0 {
            fault.kind = ErrorKind::Damaged;
        }
        fault.truncated_from(header.length)
    }

    /// Returns what comes next, wherever the parser stands.
    fn step<I: Input>(&mut self, input: &mut I) -> Result<Option<Payload>> {
        match self.payload(input) {
            Ok(Some(payload)) => Ok(Some(payload)),
            Ok(None) => self.finish(input).map(|()| None),
            Err(fault) => Err(self.end(input, fault)),
        }
    }

    fn payload<I: Input>(&mut self, input: &mut I) -> Result<Option<Payload>> {
        loop {
            match self.state {
                State::Within => {
                    return match self.item(input) {
                        Ok(Some(payload)) => Ok(Some(payload)),
                        Ok(None) => {
                            let loses = self.section.loses == Loses::Always;
                            self.leave(input, loses).map(Some)
                        }
                        Err(fault) => self.pass_damage(input, fault).map(Some),
                    };
                }
                State::Start => {
                    if let Some(header) = &self.structure.header {
                        input.expect_index(header.index, 0)?;
                    }
                    self.preamble(input)?;
                    self.state = State::Between;
                }
                State::Between if self.is_without_header() => {
                    self.has_said_no_header = true;
                    return Ok(Some(Payload::NoHeader));
                }
                State::Between => {
                    let header = self.structure.header.as_ref();
                    let is_at_index = header.is_some_and(|header| header.index == input.offset());
                    if is_at_index || input.at_end()? {
                        return self.check_end(input.offset()).map(|()| None);
                    }
                    self.enter(input)?;
                }
                State::Ended => return Ok(None),
            }
        }
    }

    fn preamble<I: Input>(&mut self, input: &mut I) -> Result<()> {
        match preamble::check(input) {
            Err(fault) if self.structure.passes_damage && fault.is_of_dump() => Ok(()),
            Err(fault) if fault.kind == ErrorKind::Format && self.structure.header.is_some() => {
                Err(preamble::damaged())
            }
            checked => checked,
        }
    }

    /// Returns whether it is to be said now that there is no header.
    fn is_without_header(&self) -> bool {
        let is_known = self.sections == 2 || self.structure.moved.is_some();
        self.structure.header.is_none() && is_known && !self.has_said_no_header
    }

    /// Checks that all is there, of a dump that ends at the offset.
    fn check_end(&self, offset: u64) -> Result<()> {
        let structure = &self.structure;
        if let (Some(at), None) = (structure.passed_place, &structure.moved_index) {
            let message = "the sections reach past the offset of the index, and no index follows";
            return Err(Fault::damaged(not_empty(at, offset), message));
        }
        match &structure.header {
            Some(header) if offset < header.index => Err(Fault::end(offset, header.index)),
            None if !structure.has(CORE) && structure.moved.is_some() => {
                let message = "corestream's own sections are there, but none called `core`";
                Err(Fault::damaged(0..offset, message))
            }
            None if !structure.has(CORE) && structure.stray.is_none() => Err(Fault::no_core()),
            _ => Ok(()),
        }
    }

    /// Decodes the id and the size of a section.
    fn enter<I: Input>(&mut self, input: &mut I) -> Result<()> {
        let mut all = Decoder::new(input, u64::MAX);
        let start = all.offset();
        let id = all.byte()?;
        let (what, loses) = match id {
            CUSTOM => ("a custom section", Loses::IfDamaged),
            MEMORY => ("section memory", Loses::Never),
            GLOBAL => ("section global", Loses::Never),
            DATA => ("section data", Loses::IfDamaged),
            1..=13 => ("a section of no interest", Loses::Always),
            _ if self.structure.passes_damage => ("a section of no id", Loses::Always),
            _ => {
                let message = format!("unknown section id {id}");
                return Err(Fault::damaged(all.since(start), message));
            }
        };
        let size = all.u32().map_err(|fault| fault.within(what))?;
        let end = all.part(size.into()).map_err(|fault| fault.within(what))?.end();
        let items = Items::Head;
        self.section = Section { id, what, start, end, items, loses, ..Section::default() };
        self.state = State::Within;
        Ok(())
    }

    /// Marks the dump as rewritten if its sections have passed the offset of its index, which they can only if no index
    /// begins there.
    fn check_place<I: Input>(&mut self, input: &I) {
        let structure = &mut self.structure;
        if let Some(header) = structure.header.take_if(|_| input.has_passed_index()) {
            structure.passed_place = Some(header.index);
            structure.moved = Some(header);
        }
    }

    /// Leaves the section.
    fn leave<I: Input>(&mut self, input: &I, may_lose_segments: bool) -> Result<Payload> {
        self.state = State::Between;
        self.check_place(input);
        self.sections = self.sections.plus(1)?;
        let may_lose_segments = may_lose_segments && self.structure.passes_damage;
        Ok(Payload::End { may_lose_segments })
    }

    /// Passes the rest of a section in which there is a fault, where damage is passed.
    ///
    /// # Errors
    /// Returns the fault where it is not.
    #[cold]
    fn pass_damage<I: Input>(&mut self, input: &mut I, fault: Box<Fault>) -> Result<Payload> {
        let fault = self.section.label(fault);
        if !self.structure.passes_damage || !fault.is_of_dump() {
            return Err(fault);
        }
        self.structure.has_damaged_memory |= self.section.id == MEMORY;
        Decoder::new(input, self.section.end).skip_rest()?;
        self.leave(input, self.section.loses != Loses::Never)
    }

    /// Decodes the next item of the section; `None` at its end.
    fn item<I: Input>(&mut self, input: &mut I) -> Result<Option<Payload>> {
        if let Some(fault) = self.section.fault.take() {
            return Err(fault);
        }
        let body = &mut Decoder::new(input, self.section.end);
        if self.section.items == Items::Head {
            self.section.items = Items::Nothing;
            if let Some(payload) = self.head(body)? {
                return Ok(Some(payload));
            }
        }
        let i = self.section.next;
        match self.section.items {
            Items::Head | Items::Nothing => return body.finish().map(|()| None),
            Items::Rest => return body.skip_rest().map(|()| None),
            Items::UnknownFrames(at) => return self.unknown_frames(body, at).map(Some),
            Items::Frames(at) if i == self.section.count => {
                self.section.items = Items::Nothing;
                return self.thread(body, at, i).map(Some);
            }
            _ if i == self.section.count => return body.finish().map(|()| None),
            _ => {}
        }
        self.section.next = i.plus(1)?;
        match self.listed(body, i) {
            Ok(payload) => Ok(Some(payload)),
            Err(fault) => Err(self.in_item(i, fault)),
        }
    }

    /// Returns a fault in item `i` of the section, with the place.
    #[cold]
    fn in_item(&self, i: u64, fault: Box<Fault>) -> Box<Fault> {
        let what = match self.section.items {
            Items::Modules | Items::Identities => "module",
            Items::Instances => "instance",
            Items::Notes => "note",
            Items::Globals => "global",
            Items::Segments => "segment",
            _ => "frame",
        };
        fault.within(format_args!("{what} {i}"))
    }

    /// Decodes item `i` of the section.
    fn listed<I: Input>(&mut self, body: &mut Decoder<'_, I>, i: u64) -> Result<Payload> {
        let at = body.offset();
        match self.section.items {
            Items::Modules => {
                item::Module::check(body)?;
                counted(&mut self.modules, MAX_LISTED, "modules", body)?;
                Ok(Payload::Module(at))
            }
            Items::Instances => {
                Instance::check(body)?;
                counted(&mut self.structure.instances, MAX_LISTED, "instances", body)?;
                Ok(Payload::Instance(at))
            }
            Items::Identities => ModuleIdentity::check(body).map(|()| Payload::Identity(at)),
            Items::Notes => item::Note::check(body).map(|()| Payload::Note(at)),
            Items::Globals => {
                item::check_global(body, self.globals, self.structure.is_foreign())?;
                self.globals = self.globals.plus(1)?;
                Ok(Payload::Global(at))
            }
            Items::Frames(thread) => match item::check_frame(body) {
                Ok(()) => Ok(Payload::Checked),
                Err(fault) => {
                    // The frames before one that is damaged or cut off are readable.
                    let payload = self.thread(body, thread, i)?;
                    self.section.fault = Some(self.in_item(i, fault));
                    Ok(payload)
                }
            },
            _ => Ok(Payload::Checked),
        }
    }

    /// Returns whether a segment comes next.
    #[inline]
    fn is_before_segment(&self) -> bool {
        let Section { items, next, count, fault, .. } = &self.section;
        let is_listed = self.state == State::Within && *items == Items::Segments;
        is_listed && next < count && fault.is_none()
    }

    /// Decodes the next segment and passes its contents.
    #[inline]
    fn segment<I: Input>(&mut self, input: &mut I) -> Result<Option<Payload>> {
        let i = self.section.next;
        self.section.next = i.plus(1)?;
        let body = &mut Decoder::new(input, self.section.end);
        let structure = &mut self.structure;
        let mut cut = None;
        let note = |segment, file| cut = Some(Payload::Cut { segment, file });
        let decoded = match &structure.header {
            Some(_) if structure.has_memory_types && !structure.has_lost_memory() => {
                data::segment_or_cut(body, &mut structure.memories.as_slice(), note)
            }
            _ => data::segment_or_cut(body, &mut structure.growing(), note),
        };
        match decoded {
            Ok(Some(segment)) => Ok(Some(Payload::Segment(segment))),
            Ok(None) => Ok(Some(Payload::Checked)),
            Err(fault) => self.in_segment(input, i, fault, cut),
        }
    }

    /// Handles a fault in segment `i`. If its contents are cut off, returns the `cut` first, and the fault at the next call.
    ///
    /// # Errors
    /// Returns the fault where damage is not passed.
    #[cold]
    fn in_segment<I: Input>(
        &mut self,
        input: &mut I,
        i: u64,
        mut fault: Box<Fault>,
        cut: Option<Payload>,
    ) -> Result<Option<Payload>> {
        // Other tools may write what is not known here, but not this project.
        if self.structure.header.is_some() && fault.kind == ErrorKind::Unsupported {
            fault.kind = ErrorKind::Damaged;
        }
        self.section.fault = Some(self.in_item(i, fault));
        match cut {
            Some(cut) => Ok(Some(cut)),
            None => self.step(input),
        }
    }
}

#[cfg(test)]
mod tests;
