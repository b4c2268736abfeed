//! The pull parser of a dump's sections, shared by the opener, the salvager and the verifier.
//!
//! # The problem
//! A dump is read in several ways: opened through its index, opened from its sections, salvaged when it is damaged,
//! verified as a file, and verified while it arrives through a pipe. All of them must agree about every byte, and none
//! may hold more than a fixed amount of a dump in memory.
//!
//! # The idea
//! The caller pulls one [`Payload`] at a time, as with wasmparser. The parser checks each item of each section and
//! returns the offset of the item. The caller keeps the items that it needs and ignores the rest. Cancellation and
//! progress have one place: the caller's loop.
//!
//! The input guards the index ([`Input::guard_index`]). A section that reaches into an existing index is damage. If no
//! index begins where the header says, another tool has rewritten the dump: the parser then drops the header and trusts
//! the sections only.
//!
//! # The invariant
//! Between two calls of [`next`](Parser::next), the input is positioned before an item, before a section or at the end.
//! [`structure`](Parser::structure) holds the facts about the whole dump found so far. Each step decodes one item of
//! limited length or skips bytes. After the first fault, the parser returns nothing more.
//!
//! A parser for a damaged dump ([`for_damaged`](Parser::for_damaged)) may trust the sizes of the sections. It then
//! skips the rest of a damaged section and continues with the next one.
//!
//! # The cost
//! One pass, without seeking back, and without allocation for items that are only checked. The parser reads the headers
//! of segments and skips their contents. After [`skip_section`](Parser::skip_section) it skips the whole section. Only
//! segments can number in the millions, so they have a path of their own through [`next`](Parser::next).
//!
//! # What was tried
//! A visitor with fourteen methods. Their results had three different types, and each method had to check for
//! cancellation and report its progress.
//!
//! Sources: the tool-conventions'
//! [Coredump format](https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md), and the
//! core specification, "Binary format",
//! [modules](https://webassembly.github.io/spec/core/binary/modules.html).

mod sections;

use self::sections::count_one;
use super::data;
use super::decode::Decoder;
use super::facts::Trap;
use super::fault::{Fault, Result, at_least_one_byte};
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

/// An item of a dump, or an event such as the end of a section.
///
/// An offset in a payload is where [`Item::decode`] can decode the item.
#[derive(Debug)]
pub(super) enum Payload {
    /// The name of the process.
    Process(String),
    /// The header ([`Structure::header`]). It comes before everything that it describes.
    Header,
    /// A header that cannot be used, and the reason. The parser continues without it.
    BadHeader(Box<Fault>),
    /// The dump has no usable header: it is another tool's, or another tool has rewritten it.
    ///
    /// The parser returns this once: after the second section, or as soon as it finds that the dump was rewritten.
    NoHeader,
    /// The offset of a module.
    Module(u64),
    /// The only module, whose name has no length prefix.
    BareModule {
        /// The offset of the name.
        at: u64,
        /// The length of the name in bytes.
        len: u64,
    },
    /// The offset of an instance.
    Instance(u64),
    /// A thread.
    Thread {
        /// The offset of its name.
        at: u64,
        /// The number of intact frames, counted from the first.
        frames: u32,
    },
    /// The offset of a note.
    Note(u64),
    /// Why and when the guest stopped.
    Trap(Box<Trap>),
    /// The offset of the identity of the next module.
    Identity(u64),
    /// The offset of a global.
    Global(u64),
    /// The beginning of a section with segments. Its segments follow unless the caller calls [`Parser::skip_section`].
    Data,
    /// An active, non-empty segment.
    Segment(Segment),
    /// A segment whose contents are truncated. The fault follows at the next call.
    TruncatedSegment {
        /// The segment as its header describes it.
        segment: Segment,
        /// The length of the file in bytes.
        file_len: u64,
    },
    /// A valid item that the caller does not need: a frame, or a segment that is passive or empty.
    Checked,
    /// The end of a section.
    SectionEnd {
        /// Whether segments of this section may be lost.
        ///
        /// That is so for a damaged section with segments, and for a section of a damaged dump that this project does
        /// not write. Only a parser that skips damage gets past such a section.
        may_lose_segments: bool,
    },
}

/// Parses a dump from its first byte up to the index. Parses a dump without a header up to its end.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// The facts about the whole dump found so far.
    pub(super) structure: Structure,
    position: Position,
    section: Section,
    /// The number of sections parsed.
    sections: u64,
    /// Whether [`Payload::NoHeader`] was returned.
    has_reported_no_header: bool,
    modules: usize,
    threads: usize,
    globals: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Position {
    /// Before the first byte.
    #[default]
    Start,
    /// Before a section, or at the end of the dump.
    BetweenSections,
    /// Within [`Parser::section`].
    InSection,
    /// After the last section, or after a fault.
    Ended,
}

/// The section that is being parsed.
#[derive(Debug)]
struct Section {
    id: u8,
    /// The section's name in the messages of faults.
    label: &'static str,
    /// The offset of its id.
    start: u64,
    /// The offset of its end.
    end: u64,
    content: SectionContent,
    /// The number of the next item.
    next: u64,
    /// The number after that of the last item.
    count: u64,
    segment_loss: SegmentLoss,
    /// A fault that was found together with the last payload. It is returned at the next call.
    pending_fault: Option<Box<Fault>>,
}

/// The content of a section from the current offset on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SectionContent {
    /// The fields before the items.
    Head,
    /// Nothing: the section must end here.
    Nothing,
    /// Bytes that are skipped unread.
    Skipped,
    Modules,
    Instances,
    Identities,
    Notes,
    Globals,
    Segments,
    /// Frames of the thread at this offset.
    Frames(u64),
    /// Frames of the thread at this offset, in a layout that is still unknown.
    UnknownFrames(u64),
}

/// When segments are lost with a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SegmentLoss {
    Never,
    IfDamaged,
    Always,
}

impl Default for Section {
    fn default() -> Self {
        Self {
            id: CUSTOM,
            label: "",
            start: 0,
            end: 0,
            content: SectionContent::Nothing,
            next: 0,
            count: 0,
            segment_loss: SegmentLoss::Never,
            pending_fault: None,
        }
    }
}

impl Section {
    /// Sets the kind and the number of the items that follow.
    fn expect_items(&mut self, content: SectionContent, count: u64) {
        (self.content, self.next, self.count) = (content, 0, count);
    }
}

impl Parser {
    /// Returns a parser for a damaged dump whose header is known.
    ///
    /// With `trust_sizes`, the parser skips the rest of a damaged section by the section's size.
    pub(super) fn for_damaged(header: Header, trust_sizes: bool) -> Self {
        Self { structure: Structure::for_damaged(header, trust_sizes), ..Self::default() }
    }

    /// Returns the next payload, or `None` at the end.
    ///
    /// # Errors
    /// Returns the first fault, which ends the parse. The structure keeps everything found before the fault.
    #[inline]
    pub(super) fn next<I: Input>(&mut self, input: &mut I) -> Result<Option<Payload>> {
        // Only segments number in the millions in ordinary dumps, so they have a fast path.
        if self.is_before_segment() {
            return self.next_segment(input);
        }
        self.next_payload(input)
    }

    /// Skips the rest of the section unread.
    pub(super) fn skip_section(&mut self) {
        self.section.content = SectionContent::Skipped;
    }

    /// Ends the parse because the caller rejects the last payload. Returns the fault with the section's name added.
    pub(super) fn reject_payload<I: Input>(
        &mut self,
        input: &mut I,
        fault: Box<Fault>,
    ) -> Box<Fault> {
        let fault = fault.within(self.section.label);
        self.end_with_fault(input, fault)
    }

    /// Ends the parse at a fault and returns the fault in its final words.
    #[cold]
    fn end_with_fault<I: Input>(&mut self, input: &mut I, fault: Box<Fault>) -> Box<Fault> {
        self.position = Position::Ended;
        self.detect_rewrite(input);
        input.unguard_index();
        // A fault of `settle` is ignored: the fault at hand comes first in the dump.
        let _ = self.structure.settle(input.offset());
        self.adapt_to_header(fault)
    }

    /// Ends the parse after the last section.
    fn end_complete<I: Input>(&mut self, input: &mut I) -> Result<()> {
        if self.position == Position::Ended {
            return Ok(());
        }
        self.position = Position::Ended;
        input.unguard_index();
        self.structure.is_complete = true;
        self.structure.settle(input.offset()).map_err(|fault| self.adapt_to_header(fault))
    }

    /// Restates a fault for a dump whose header is known, if it is.
    fn adapt_to_header(&self, mut fault: Box<Fault>) -> Box<Fault> {
        let Some(header) = &self.structure.header else { return fault };
        // In a dump without checksums, an unknown value is the only sign of damage.
        if fault.kind == ErrorKind::Unsupported && !fault.is_limit && header.block_log2 == 0 {
            fault.kind = ErrorKind::Damaged;
        }
        fault.with_dump_len(header.length)
    }

    /// Returns the next payload, wherever the parser stands.
    fn next_payload<I: Input>(&mut self, input: &mut I) -> Result<Option<Payload>> {
        match self.advance(input) {
            Ok(Some(payload)) => Ok(Some(payload)),
            Ok(None) => self.end_complete(input).map(|()| None),
            Err(fault) => Err(self.end_with_fault(input, fault)),
        }
    }

    /// Moves to the next payload. Returns `None` at the end, and does not end the parse.
    fn advance<I: Input>(&mut self, input: &mut I) -> Result<Option<Payload>> {
        loop {
            match self.position {
                Position::InSection => {
                    return match self.next_item(input) {
                        Ok(Some(payload)) => Ok(Some(payload)),
                        Ok(None) => {
                            let loses = self.section.segment_loss == SegmentLoss::Always;
                            self.leave_section(input, loses).map(Some)
                        }
                        Err(fault) => self.skip_damage(input, fault).map(Some),
                    };
                }
                Position::Start => {
                    if let Some(header) = &self.structure.header {
                        input.guard_index(header.index);
                    }
                    self.check_preamble(input)?;
                    self.position = Position::BetweenSections;
                }
                Position::BetweenSections if self.must_report_no_header() => {
                    self.has_reported_no_header = true;
                    return Ok(Some(Payload::NoHeader));
                }
                Position::BetweenSections => {
                    let header = self.structure.header.as_ref();
                    let is_at_index = header.is_some_and(|header| header.index == input.offset());
                    if is_at_index || input.at_end()? {
                        return self.check_end(input.offset()).map(|()| None);
                    }
                    self.enter_section(input)?;
                }
                Position::Ended => return Ok(None),
            }
        }
    }

    fn check_preamble<I: Input>(&mut self, input: &mut I) -> Result<()> {
        match preamble::check(input) {
            Err(fault) if self.structure.skips_damage && fault.is_of_dump() => Ok(()),
            Err(fault) if fault.kind == ErrorKind::Format && self.structure.header.is_some() => {
                Err(preamble::damaged())
            }
            checked => checked,
        }
    }

    /// Returns whether [`Payload::NoHeader`] is due.
    fn must_report_no_header(&self) -> bool {
        let is_decided = self.sections == 2 || self.structure.moved_header.is_some();
        self.structure.header.is_none() && is_decided && !self.has_reported_no_header
    }

    /// Checks that nothing is missing from a dump whose sections end at `offset`.
    fn check_end(&self, offset: u64) -> Result<()> {
        let structure = &self.structure;
        if let (Some(at), None) = (structure.passed_index, &structure.moved_index) {
            let message = "the sections extend past the offset of the index, and no index follows";
            return Err(Fault::damaged(at_least_one_byte(at, offset), message));
        }
        match &structure.header {
            Some(header) if offset < header.index => {
                Err(Fault::unexpected_end(offset, header.index))
            }
            None if !structure.has_section(CORE) && structure.moved_header.is_some() => {
                let message =
                    "corestream's own sections are present, but section `core` is missing";
                Err(Fault::damaged(0..offset, message))
            }
            None if !structure.has_section(CORE) && structure.stray.is_none() => {
                Err(Fault::no_core())
            }
            _ => Ok(()),
        }
    }

    /// Decodes the id and the size of the next section, and enters it.
    fn enter_section<I: Input>(&mut self, input: &mut I) -> Result<()> {
        let mut all = Decoder::new(input, u64::MAX);
        let start = all.offset();
        let id = all.byte()?;
        let (label, segment_loss) = match id {
            CUSTOM => ("custom section", SegmentLoss::IfDamaged),
            MEMORY => ("section memory", SegmentLoss::Never),
            GLOBAL => ("section global", SegmentLoss::Never),
            DATA => ("section data", SegmentLoss::IfDamaged),
            1..=13 => ("unused section", SegmentLoss::Always),
            _ if self.structure.skips_damage => ("section with unknown id", SegmentLoss::Always),
            _ => {
                let message = format!("unknown section id {id}");
                return Err(Fault::damaged(all.since(start), message));
            }
        };
        let size = all.u32().map_err(|fault| fault.within(label))?;
        let end = all.limited(size.into()).map_err(|fault| fault.within(label))?.end();
        let content = SectionContent::Head;
        self.section =
            Section { id, label, start, end, content, segment_loss, ..Section::default() };
        self.position = Position::InSection;
        Ok(())
    }

    /// Marks the dump as rewritten if its sections have passed the offset of the index.
    ///
    /// The input lets them pass only if no index begins there.
    fn detect_rewrite<I: Input>(&mut self, input: &I) {
        let structure = &mut self.structure;
        if let Some(header) = structure.header.take_if(|_| input.has_passed_index()) {
            structure.passed_index = Some(header.index);
            structure.moved_header = Some(header);
        }
    }

    fn leave_section<I: Input>(&mut self, input: &I, may_lose_segments: bool) -> Result<Payload> {
        self.position = Position::BetweenSections;
        self.detect_rewrite(input);
        self.sections = self.sections.plus(1)?;
        let may_lose_segments = may_lose_segments && self.structure.skips_damage;
        Ok(Payload::SectionEnd { may_lose_segments })
    }

    /// Skips the rest of a section that has a fault, if the parser skips damage.
    ///
    /// # Errors
    /// Returns the fault if the parser does not skip damage, or if the fault is not about the bytes of the dump.
    #[cold]
    fn skip_damage<I: Input>(&mut self, input: &mut I, fault: Box<Fault>) -> Result<Payload> {
        let fault = fault.within(self.section.label);
        if !self.structure.skips_damage || !fault.is_of_dump() {
            return Err(fault);
        }
        self.structure.has_damaged_memory |= self.section.id == MEMORY;
        Decoder::new(input, self.section.end).skip_rest()?;
        self.leave_section(input, self.section.segment_loss != SegmentLoss::Never)
    }

    /// Parses the next item of the section. Returns `None` at the section's end.
    fn next_item<I: Input>(&mut self, input: &mut I) -> Result<Option<Payload>> {
        if let Some(fault) = self.section.pending_fault.take() {
            return Err(fault);
        }
        let body = &mut Decoder::new(input, self.section.end);
        if self.section.content == SectionContent::Head {
            self.section.content = SectionContent::Nothing;
            if let Some(payload) = self.parse_head(body)? {
                return Ok(Some(payload));
            }
        }
        let i = self.section.next;
        match self.section.content {
            SectionContent::Head | SectionContent::Nothing => {
                return body.finish().map(|()| None);
            }
            SectionContent::Skipped => return body.skip_rest().map(|()| None),
            SectionContent::UnknownFrames(at) => return self.try_layouts(body, at).map(Some),
            SectionContent::Frames(at) if i == self.section.count => {
                self.section.content = SectionContent::Nothing;
                return self.count_thread(body, at, i).map(Some);
            }
            _ if i == self.section.count => return body.finish().map(|()| None),
            _ => {}
        }
        self.section.next = i.plus(1)?;
        match self.parse_item(body, i) {
            Ok(payload) => Ok(Some(payload)),
            Err(fault) => Err(self.within_item(i, fault)),
        }
    }

    /// Adds the kind and the number of the section's item `i` to a fault.
    #[cold]
    fn within_item(&self, i: u64, fault: Box<Fault>) -> Box<Fault> {
        let what = match self.section.content {
            SectionContent::Modules | SectionContent::Identities => "module",
            SectionContent::Instances => "instance",
            SectionContent::Notes => "note",
            SectionContent::Globals => "global",
            SectionContent::Segments => "segment",
            _ => "frame",
        };
        fault.within(format_args!("{what} {i}"))
    }

    /// Parses item `i` of the section.
    fn parse_item<I: Input>(&mut self, body: &mut Decoder<'_, I>, i: u64) -> Result<Payload> {
        let at = body.offset();
        match self.section.content {
            SectionContent::Modules => {
                item::Module::check(body)?;
                count_one(&mut self.modules, MAX_LISTED, "modules", body)?;
                Ok(Payload::Module(at))
            }
            SectionContent::Instances => {
                Instance::check(body)?;
                count_one(&mut self.structure.instances, MAX_LISTED, "instances", body)?;
                Ok(Payload::Instance(at))
            }
            SectionContent::Identities => {
                ModuleIdentity::check(body).map(|()| Payload::Identity(at))
            }
            SectionContent::Notes => item::Note::check(body).map(|()| Payload::Note(at)),
            SectionContent::Globals => {
                item::check_global(body, self.globals, self.structure.is_foreign())?;
                self.globals = self.globals.plus(1)?;
                Ok(Payload::Global(at))
            }
            SectionContent::Frames(thread) => match item::check_frame(body) {
                Ok(()) => Ok(Payload::Checked),
                Err(fault) => {
                    // The frames before a damaged or truncated one are readable.
                    let payload = self.count_thread(body, thread, i)?;
                    self.section.pending_fault = Some(self.within_item(i, fault));
                    Ok(payload)
                }
            },
            _ => Ok(Payload::Checked),
        }
    }

    /// Returns whether the next item is a segment.
    #[inline]
    fn is_before_segment(&self) -> bool {
        let Section { content, next, count, pending_fault, .. } = &self.section;
        let is_listed =
            self.position == Position::InSection && *content == SectionContent::Segments;
        is_listed && next < count && pending_fault.is_none()
    }

    /// Parses the next segment and skips its contents.
    #[inline]
    fn next_segment<I: Input>(&mut self, input: &mut I) -> Result<Option<Payload>> {
        let i = self.section.next;
        self.section.next = i.plus(1)?;
        let body = &mut Decoder::new(input, self.section.end);
        let structure = &mut self.structure;
        let mut truncated = None;
        let note = |segment, file_len| {
            truncated = Some(Payload::TruncatedSegment { segment, file_len });
        };
        let decoded = match &structure.header {
            Some(_) if structure.has_memory_types && !structure.has_lost_memory() => {
                data::decode_segment_or_truncated(body, &mut structure.memories.as_slice(), note)
            }
            _ => data::decode_segment_or_truncated(body, &mut structure.growing_memories(), note),
        };
        match decoded {
            Ok(Some(segment)) => Ok(Some(Payload::Segment(segment))),
            Ok(None) => Ok(Some(Payload::Checked)),
            Err(fault) => self.handle_segment_fault(input, i, fault, truncated),
        }
    }

    /// Handles a fault in segment `i`. Returns `truncated` first, if there is one, and the fault at the next call.
    ///
    /// # Errors
    /// Returns the fault if the parser does not skip damage.
    #[cold]
    fn handle_segment_fault<I: Input>(
        &mut self,
        input: &mut I,
        i: u64,
        mut fault: Box<Fault>,
        truncated: Option<Payload>,
    ) -> Result<Option<Payload>> {
        // Other tools may write segments of an unknown kind. This project does not, so here they are damage.
        if self.structure.header.is_some() && fault.kind == ErrorKind::Unsupported {
            fault.kind = ErrorKind::Damaged;
        }
        self.section.pending_fault = Some(self.within_item(i, fault));
        match truncated {
            Some(truncated) => Ok(Some(truncated)),
            None => self.next_payload(input),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
