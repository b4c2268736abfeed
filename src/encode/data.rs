//! Encodes everything before the index: generates the headers of the data sections, and borrows payloads from the
//! images.
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
use crate::piece::MAX_HEADER_BYTES;
use crate::plan::{DataSection, Plan, Segment, sign_extended};

/// A part of a dump: borrowed bytes, or the place to copy them from.
pub(crate) enum DumpPart<'p> {
    /// A header, which was appended to the buffer for headers.
    Header,
    /// Bytes of the plan.
    Bytes(&'p [u8]),
    /// Borrowed bytes of an image. If they are mapped from a file, with that file and their position in it.
    Image(&'p [u8], Option<(&'p File, u64)>),
    /// Bytes of an image that must be copied.
    Copy {
        /// The bytes of the image.
        from: Bytes<'p>,
        /// The position of the first byte in the image.
        offset: u64,
        /// The number of bytes.
        len: u64,
    },
}

/// The parts of a dump before its index, in order: the sections before the data, then headers and payloads by turns.
pub(crate) struct DumpParts<'p> {
    plan: &'p Plan<'p>,
    sections: std::slice::Iter<'p, DataSection>,
    /// The remaining segments of the current section, as indices into the segments of the plan.
    segments: Range<usize>,
    next: NextPart<'p>,
    /// The segment of the latest payload.
    segment: Option<&'p Segment>,
}

/// The part that comes next.
enum NextPart<'p> {
    Core,
    Header,
    State,
    Section,
    Segment,
    Payload(&'p Segment),
    /// The remainder of a payload that is returned in parts.
    Remainder(DumpPart<'p>),
}

impl<'p> DumpParts<'p> {
    pub(crate) fn new(plan: &'p Plan<'p>) -> Self {
        let sections = plan.sections.iter();
        Self { plan, sections, segments: 0..0, next: NextPart::Core, segment: None }
    }

    /// Returns whether excluded bytes lie shortly before the segment of the latest part, so that its bytes must be read
    /// separately.
    pub(crate) fn follows_excluded(&self) -> bool {
        self.segment.is_some_and(|segment| self.plan.excludes_just_before(segment))
    }

    /// Returns whether the next part must be copied.
    pub(crate) fn next_is_copied(&self) -> bool {
        match &self.next {
            NextPart::Payload(segment) => {
                let payload = self.plan.payload(segment.memory.0 as usize);
                matches!(payload, Some(PayloadSource::Copied(_)))
            }
            NextPart::Remainder(part) => matches!(part, DumpPart::Copy { .. }),
            _ => false,
        }
    }

    /// Returns whether the next part can go into a copy buffer with room for `room` bytes. A borrowed part of an image
    /// cannot. A section or a header must fit completely.
    pub(crate) fn next_fits(&self, room: u64) -> bool {
        match &self.next {
            NextPart::Payload(_) | NextPart::Remainder(_) => self.next_is_copied(),
            NextPart::Core => self.plan.prelude.core.len() as u64 <= room,
            NextPart::State => self.plan.prelude.state.len() as u64 <= room,
            NextPart::Header | NextPart::Section | NextPart::Segment => {
                MAX_HEADER_BYTES as u64 <= room
            }
        }
    }

    /// Returns the next part, or its first `max` bytes if it is a longer part of an image. Appends the bytes of a
    /// header to `headers`.
    pub(crate) fn next(&mut self, max: u64, headers: &mut Vec<u8>) -> Option<DumpPart<'p>> {
        match std::mem::replace(&mut self.next, NextPart::Section) {
            NextPart::Core => {
                self.next = NextPart::Header;
                Some(DumpPart::Bytes(&self.plan.prelude.core))
            }
            NextPart::Header => {
                self.next = NextPart::State;
                push_header_section(headers, self.plan);
                Some(DumpPart::Header)
            }
            NextPart::State => Some(DumpPart::Bytes(&self.plan.prelude.state)),
            NextPart::Section => {
                let section = self.sections.next()?;
                self.segments = section.segments.clone();
                self.next = NextPart::Segment;
                push_section_header(headers, section);
                Some(DumpPart::Header)
            }
            NextPart::Segment => {
                let segment = self.plan.segments.get(self.segments.next()?)?;
                self.next = NextPart::Payload(segment);
                push_segment_header(headers, segment, self.plan.ty(segment).memory64);
                Some(DumpPart::Header)
            }
            NextPart::Payload(segment) => {
                self.segment = Some(segment);
                self.split(payload_part(self.plan, segment)?, max)
            }
            NextPart::Remainder(part) => self.split(part, max),
        }
    }

    /// Returns at most `max` bytes of a part of an image. The remainder comes next, or the part after the payload if
    /// there is none.
    fn split(&mut self, part: DumpPart<'p>, max: u64) -> Option<DumpPart<'p>> {
        self.next = if self.segments.is_empty() { NextPart::Section } else { NextPart::Segment };
        Some(match part {
            DumpPart::Copy { from, offset, len } if len > max => {
                let (after, left) = (offset.checked_add(max)?, len.checked_sub(max)?);
                self.next = NextPart::Remainder(DumpPart::Copy { from, offset: after, len: left });
                DumpPart::Copy { from, offset, len: max }
            }
            DumpPart::Image(bytes, file) if bytes.len() as u64 > max => {
                let (first, rest) = bytes.split_at_checked(usize::try_from(max).ok()?)?;
                let after = match file {
                    Some((file, at)) => Some((file, at.checked_add(max)?)),
                    None => None,
                };
                self.next = NextPart::Remainder(DumpPart::Image(rest, after));
                DumpPart::Image(first, file)
            }
            part => part,
        })
    }
}

/// Appends the start of a section: id, size, the name of a custom section, and the number of segments.
fn push_section_header(to: &mut Vec<u8>, section: &DataSection) {
    to.push(if section.is_continuation { CUSTOM } else { DATA });
    push_u32(to, section.body_len);
    if section.is_continuation {
        push_name(to, CONTINUATION);
    }
    push_u32(to, section.count);
}

/// Appends the header of a segment: flag, memory unless it is memory 0, address as a constant expression, and length.
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

/// Returns the payload of a segment, or `None` if it does not lie in its image.
fn payload_part<'p>(plan: &'p Plan<'p>, segment: &Segment) -> Option<DumpPart<'p>> {
    let (address, len) = (segment.address, u64::from(segment.len));
    Some(match plan.payload(segment.memory.0 as usize)? {
        // A file is mapped from its start, so the address is its offset in the file.
        PayloadSource::Borrowed(bytes, file) => {
            let bytes = segment_bytes(bytes, address, segment.len)?;
            DumpPart::Image(bytes, file.map(|file| (file, address)))
        }
        PayloadSource::Copied(from) => DumpPart::Copy { from, offset: address, len },
    })
}

/// Returns the bytes of a segment, or `None` if they do not lie in the image. Then the parts end before the planned
/// length, which is an error.
fn segment_bytes(image: &[u8], address: u64, len: u32) -> Option<&[u8]> {
    image.get(usize::try_from(address).ok()?..)?.get(..len as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DumpMemoryIndex, MemoryType};

    /// Returns the header that `wasm-encoder` writes for the same segment, without the count before it.
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
        // Size and count take one byte each. The last byte is the length, 0.
        bytes[2..bytes.len() - 1].to_vec()
    }

    #[test]
    fn writes_the_same_headers_as_wasm_encoder_with_the_planned_length() {
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
