//! The data section and those that continue it: headers are made here, payload is borrowed.
//!
//! Source: core specification, "Binary format",
//! [data section](https://webassembly.github.io/spec/core/binary/modules.html#data-section).

use std::ops::Range;

use crate::encode::index;
use crate::image::Payload;
use crate::piece::{Emitted, Header, Piece};
use crate::plan::{CONTINUATION, DataSection, Plan, Segment, sign_extended};

pub(super) const CUSTOM: u8 = 0;
const DATA: u8 = 11;
const ACTIVE: u8 = 0;
const ACTIVE_WITH_MEMORY: u8 = 2;
const I32_CONST: u8 = 0x41;
const I64_CONST: u8 = 0x42;
const END: u8 = 0x0b;

/// The pieces of a dump up to its index, in order: what precedes the data, then headers and payloads
/// by turns.
pub(crate) struct Pieces<'p> {
    plan: &'p Plan<'p>,
    sections: std::slice::Iter<'p, DataSection>,
    /// What is left of the section in hand.
    segments: Range<usize>,
    next: Next<'p>,
    /// What is left of a piece that was asked for in parts.
    rest: Option<Emitted<'p>>,
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
}

impl<'p> Pieces<'p> {
    pub(crate) fn new(plan: &'p Plan<'p>) -> Self {
        let sections = plan.sections.iter();
        Self { plan, sections, segments: 0..0, next: Next::Core, rest: None, segment: None }
    }

    /// Whether the bytes shortly before the segment of the last piece must not be read along with it, because some were
    /// left out.
    pub(crate) fn is_apart(&self) -> bool {
        self.segment.is_some_and(|segment| self.plan.leaves_out_shortly_before(segment))
    }

    /// Whether the next piece is a part of an image that has to be copied.
    pub(crate) fn next_is_copied(&mut self) -> bool {
        matches!(self.peek(), Some(Emitted::Copy { .. }))
    }

    /// Whether there is a next piece that can go into a copy of `most` bytes: not a part of an image that
    /// is borrowed, and no header that is longer.
    pub(crate) fn next_fits(&mut self, most: u64) -> bool {
        match self.peek() {
            Some(Emitted::Copy { .. }) => true,
            Some(Emitted::Piece(Piece::Image { .. })) | None => false,
            Some(Emitted::Piece(piece)) => piece.len() <= most,
        }
    }

    fn peek(&mut self) -> Option<&Emitted<'p>> {
        if self.rest.is_none() {
            self.rest = self.next();
        }
        self.rest.as_ref()
    }

    /// The next piece, or as much of it as fits into `most` bytes if it is a part of an image.
    pub(crate) fn next_part(&mut self, most: u64) -> Option<Emitted<'p>> {
        let piece = self.rest.take().or_else(|| self.next())?;
        let (part, rest) = piece.split(most);
        self.rest = rest;
        Some(part)
    }
}

impl<'p> Iterator for Pieces<'p> {
    type Item = Emitted<'p>;

    fn next(&mut self) -> Option<Emitted<'p>> {
        let piece = match self.next {
            Next::Core => {
                self.next = Next::Header;
                Piece::Bytes(&self.plan.prelude.core)
            }
            Next::Header => {
                self.next = Next::State;
                Piece::Header(index::header_section(self.plan))
            }
            Next::State => {
                self.next = Next::Section;
                Piece::Bytes(&self.plan.prelude.state)
            }
            Next::Section => {
                let section = self.sections.next()?;
                self.segments = section.segments.clone();
                self.next = Next::Segment;
                Piece::Header(section_header(section))
            }
            Next::Segment => {
                let segment = self.plan.segments.get(self.segments.next()?)?;
                self.next = Next::Payload(segment);
                Piece::Header(segment_header(segment, self.plan.ty(segment).memory64))
            }
            Next::Payload(segment) => {
                self.next = if self.segments.is_empty() { Next::Section } else { Next::Segment };
                self.segment = Some(segment);
                return payload(self.plan, segment);
            }
        };
        Some(Emitted::Piece(piece))
    }
}

/// Id, size, the name of a custom section, and the number of segments.
fn section_header(section: &DataSection) -> Header {
    let mut header = Header::new();
    header.push(&[if section.continuation { CUSTOM } else { DATA }]);
    push_u32(&mut header, section.body_len);
    if section.continuation {
        push_name(&mut header, CONTINUATION);
    }
    push_u32(&mut header, section.count());
    header
}

/// Flag, memory unless it is the first, address as a constant expression, and length.
fn segment_header(segment: &Segment, memory64: bool) -> Header {
    let mut header = Header::new();
    if segment.memory == 0 {
        header.push(&[ACTIVE]);
    } else {
        header.push(&[ACTIVE_WITH_MEMORY]);
        push_u32(&mut header, segment.memory);
    }
    if memory64 {
        header.push(&[I64_CONST]);
        push_i64(&mut header, segment.address.cast_signed());
    } else {
        header.push(&[I32_CONST]);
        push_i64(&mut header, sign_extended(segment.address));
    }
    header.push(&[END]);
    push_u32(&mut header, segment.len);
    header
}

fn payload<'p>(plan: &'p Plan<'p>, segment: &Segment) -> Option<Emitted<'p>> {
    let (address, len) = (segment.address, u64::from(segment.len));
    Some(match plan.payload(segment.memory as usize)? {
        Payload::Borrowed(bytes, file) => {
            // A file is mapped from its start on: an address is an offset.
            let file = file.map(|file| (file, address));
            Emitted::Piece(Piece::Image { bytes: part(bytes, address, len), file })
        }
        Payload::Copied(from) => Emitted::Copy { from, offset: address, len },
    })
}

/// The bytes of a segment, which lies in its image.
fn part(image: &[u8], address: u64, len: u64) -> &[u8] {
    // The length of an image in memory is a `usize`.
    let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(image.len());
    image.get(index(address)..index(address.saturating_add(len))).unwrap_or_default()
}

/// Appends the name of a section of ours.
pub(super) fn push_name(header: &mut Header, name: &str) {
    // Its length takes one byte.
    push_u32(header, u32::try_from(name.len()).unwrap_or(u32::MAX));
    header.push(name.as_bytes());
}

/// Appends an unsigned LEB128.
pub(super) fn push_u32(header: &mut Header, mut value: u32) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            return header.push(&[low]);
        }
        header.push(&[low | 0x80]);
    }
}

/// Appends a signed LEB128.
fn push_i64(header: &mut Header, mut value: i64) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 6;
        // Nothing but the sign is left, and the bit that says so is in `low`.
        if value == 0 || value == -1 {
            return header.push(&[low]);
        }
        value >>= 1;
        header.push(&[low | 0x80]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MemoryType;

    /// What `wasm-encoder` writes for the same segment, without the count before it.
    fn reference(segment: &Segment, memory64: bool) -> Vec<u8> {
        use wasm_encoder::{ConstExpr, DataSection, Encode};
        let offset = match memory64 {
            true => ConstExpr::i64_const(segment.address.cast_signed()),
            false => ConstExpr::i32_const(u32::try_from(segment.address).unwrap().cast_signed()),
        };
        let mut section = DataSection::new();
        section.active(segment.memory, &offset, std::iter::empty::<u8>());
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
                        let segment = Segment { address, len: 1, memory };
                        let header = segment_header(&segment, memory64);
                        let mut expected = reference(&segment, memory64);
                        expected.push(1);
                        assert_eq!(header.as_bytes(), expected, "{segment:?}, memory64 {memory64}");
                        assert_eq!(segment.header_len(&ty) as usize, expected.len());
                    }
                }
            }
        }
    }
}
