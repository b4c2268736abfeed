//! The data section and those that continue it: headers are made here, payload is borrowed.
//!
//! Source: core specification, "Binary format",
//! [data section](https://webassembly.github.io/spec/core/binary/modules.html#data-section).

use std::fs::File;
use std::ops::Range;

use super::header::push_header_section;
use super::name::push_name;
use crate::format::{
    ACTIVE, ACTIVE_WITH_MEMORY, CONTINUATION, CUSTOM, DATA, END, I32_CONST, I64_CONST,
};
use crate::image::{Bytes, PayloadSource};
use crate::leb::{push_i64, push_u32};
use crate::piece::HEADER_BYTES;
use crate::plan::{DataSection, Plan, Segment, sign_extended};

/// A part of a dump: bytes to be borrowed, or where they are to be fetched from.
pub(crate) enum Part<'p> {
    /// A header, which was appended to the buffer for those.
    Header,
    /// Bytes of the plan.
    Bytes(&'p [u8]),
    /// Bytes of an image that are borrowed, with its file and their position in it if they are a mapping of one.
    Image(&'p [u8], Option<(&'p File, u64)>),
    /// Bytes of an image that have to be copied.
    Copy {
        /// Where they are.
        from: Bytes<'p>,
        /// The position of the first one.
        offset: u64,
        /// How many there are.
        len: u64,
    },
}

/// The parts of a dump up to its index, in order: what precedes the data, then headers and payloads by turns.
pub(crate) struct Parts<'p> {
    plan: &'p Plan<'p>,
    sections: std::slice::Iter<'p, DataSection>,
    /// What is left of the section in hand.
    segments: Range<usize>,
    next: Next<'p>,
    /// The segment whose payload came last.
    segment: Option<&'p Segment>,
}

enum Next<'p> {
    Core,
    Header,
    State,
    Section,
    Segment,
    Payload(&'p Segment),
    /// What is left of a payload that was asked for in parts.
    Rest(Part<'p>),
}

impl<'p> Parts<'p> {
    pub(crate) fn new(plan: &'p Plan<'p>) -> Self {
        let sections = plan.sections.iter();
        Self { plan, sections, segments: 0..0, next: Next::Core, segment: None }
    }

    /// Whether the bytes shortly before the segment of the last part must not be read along with it, because some were
    /// left out.
    pub(crate) fn is_apart(&self) -> bool {
        self.segment.is_some_and(|segment| self.plan.excludes_just_before(segment))
    }

    /// Whether the next part is one that has to be copied.
    pub(crate) fn next_is_copied(&self) -> bool {
        match &self.next {
            Next::Payload(segment) => {
                let payload = self.plan.payload(segment.memory.0 as usize);
                matches!(payload, Some(PayloadSource::Copied(_)))
            }
            Next::Rest(part) => matches!(part, Part::Copy { .. }),
            _ => false,
        }
    }

    /// Whether the next part can go into a copy of `most` bytes: it is no part of an image that is borrowed, and no
    /// header or section that might be longer.
    pub(crate) fn next_fits(&self, most: u64) -> bool {
        match &self.next {
            Next::Payload(_) | Next::Rest(_) => self.next_is_copied(),
            Next::Core => self.plan.prelude.core.len() as u64 <= most,
            Next::State => self.plan.prelude.state.len() as u64 <= most,
            Next::Header | Next::Section | Next::Segment => HEADER_BYTES as u64 <= most,
        }
    }

    /// The next part, or as much of it as fits into `most` bytes if it is one of an image. The bytes of a header are
    /// appended to `headers`.
    pub(crate) fn next(&mut self, most: u64, headers: &mut Vec<u8>) -> Option<Part<'p>> {
        match std::mem::replace(&mut self.next, Next::Section) {
            Next::Core => {
                self.next = Next::Header;
                Some(Part::Bytes(&self.plan.prelude.core))
            }
            Next::Header => {
                self.next = Next::State;
                push_header_section(headers, self.plan);
                Some(Part::Header)
            }
            Next::State => Some(Part::Bytes(&self.plan.prelude.state)),
            Next::Section => {
                let section = self.sections.next()?;
                self.segments = section.segments.clone();
                self.next = Next::Segment;
                push_section_header(headers, section);
                Some(Part::Header)
            }
            Next::Segment => {
                let segment = self.plan.segments.get(self.segments.next()?)?;
                self.next = Next::Payload(segment);
                push_segment_header(headers, segment, self.plan.ty(segment).memory64);
                Some(Part::Header)
            }
            Next::Payload(segment) => {
                self.segment = Some(segment);
                self.split(payload(self.plan, segment)?, most)
            }
            Next::Rest(part) => self.split(part, most),
        }
    }

    /// The first `most` bytes of a part of an image; the rest comes next, or else what follows the payload.
    fn split(&mut self, part: Part<'p>, most: u64) -> Option<Part<'p>> {
        self.next = if self.segments.is_empty() { Next::Section } else { Next::Segment };
        Some(match part {
            Part::Copy { from, offset, len } if len > most => {
                let (after, left) = (offset.checked_add(most)?, len.checked_sub(most)?);
                self.next = Next::Rest(Part::Copy { from, offset: after, len: left });
                Part::Copy { from, offset, len: most }
            }
            Part::Image(bytes, file) if bytes.len() as u64 > most => {
                // Shorter than the slice, whose length is a `usize`.
                let (first, rest) = bytes.split_at_checked(usize::try_from(most).ok()?)?;
                let after = match file {
                    Some((file, at)) => Some((file, at.checked_add(most)?)),
                    None => None,
                };
                self.next = Next::Rest(Part::Image(rest, after));
                Part::Image(first, file)
            }
            whole => whole,
        })
    }
}

/// Id, size, the name of a custom section, and the number of segments.
fn push_section_header(to: &mut Vec<u8>, section: &DataSection) {
    to.push(if section.continuation { CUSTOM } else { DATA });
    push_u32(to, section.body_len);
    if section.continuation {
        push_name(to, CONTINUATION);
    }
    push_u32(to, section.count);
}

/// Flag, memory unless it is the first, address as a constant expression, and length.
fn push_segment_header(to: &mut Vec<u8>, segment: &Segment, memory64: bool) {
    if segment.memory.0 == 0 {
        to.push(ACTIVE);
    } else {
        to.push(ACTIVE_WITH_MEMORY);
        push_u32(to, segment.memory.0);
    }
    if memory64 {
        to.push(I64_CONST);
        push_i64(to, segment.address.cast_signed());
    } else {
        to.push(I32_CONST);
        push_i64(to, sign_extended(segment.address));
    }
    to.push(END);
    push_u32(to, segment.len);
}

fn payload<'p>(plan: &'p Plan<'p>, segment: &Segment) -> Option<Part<'p>> {
    let (address, len) = (segment.address, u64::from(segment.len));
    Some(match plan.payload(segment.memory.0 as usize)? {
        // A file is mapped from its start on: an address is an offset.
        PayloadSource::Borrowed(bytes, file) => {
            Part::Image(part(bytes, address, segment.len)?, file.map(|file| (file, address)))
        }
        PayloadSource::Copied(from) => Part::Copy { from, offset: address, len },
    })
}

/// The bytes of a segment; `None` if it does not lie in its image, which ends the parts before the planned length.
fn part(image: &[u8], address: u64, len: u32) -> Option<&[u8]> {
    image.get(usize::try_from(address).ok()?..)?.get(..len as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DumpMemoryIndex, MemoryType};

    /// What `wasm-encoder` writes for the same segment, without the count before it.
    fn reference(segment: &Segment, memory64: bool) -> Vec<u8> {
        use wasm_encoder::{ConstExpr, DataSection, Encode};
        let offset = match memory64 {
            true => ConstExpr::i64_const(segment.address.cast_signed()),
            false => ConstExpr::i32_const(u32::try_from(segment.address).unwrap().cast_signed()),
        };
        let mut section = DataSection::new();
        section.active(segment.memory.0, &offset, std::iter::empty::<u8>());
        let mut bytes = Vec::new();
        section.encode(&mut bytes);
        // Size and count take a byte each; the last byte is the length 0.
        bytes[2..bytes.len() - 1].to_vec()
    }

    #[test]
    fn headers_are_those_of_wasm_encoder_and_as_long_as_planned() {
        for memory64 in [false, true] {
            let ty = MemoryType { memory64, ..MemoryType::wasm32(1) };
            for memory in [0, 1, 99, 128] {
                for bit in 0..if memory64 { 64 } else { 32 } {
                    for address in [1_u64 << bit, (1 << bit) - 1] {
                        let memory = DumpMemoryIndex(memory);
                        let segment = Segment { address, len: 1, memory };
                        let mut header = Vec::new();
                        push_segment_header(&mut header, &segment, memory64);
                        let mut expected = reference(&segment, memory64);
                        expected.push(1);
                        assert_eq!(header, expected, "{segment:?}, memory64 {memory64}");
                        assert_eq!(segment.header_len(&ty) as usize, expected.len());
                    }
                }
            }
        }
    }
}
