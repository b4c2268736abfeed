//! Decodes data segments.
//!
//! Source: core specification, "Binary format",
//! [data section](https://webassembly.github.io/spec/core/binary/modules.html#data-section).

use super::bounds::Memories;
use super::decode::Decoder;
use super::fault::{Fault, Result};
use super::input::Input;
use super::segment::{Placement, Segment};
use crate::error::ErrorKind;
use crate::format::{ACTIVE, ACTIVE_WITH_MEMORY, END, I32_CONST, I64_CONST, PASSIVE};
use crate::model::MemoryType;

/// The bytes of a section with segments, `data` or `corestream.data`.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataSection {
    /// The offset of its first segment.
    pub(super) start: u64,
    /// The offset of its end.
    pub(super) end: u64,
}

/// Decodes a segment and skips its contents. Returns `None` if it is passive or empty.
pub(super) fn decode_segment<I: Input>(
    from: &mut Decoder<'_, I>,
    mut memories: &[MemoryType],
) -> Result<Option<Segment>> {
    decode_segment_or_truncated(from, &mut memories, |_, _| ())
}

/// Decodes a segment like [`decode_segment`], and passes a truncated one to `truncated`.
///
/// If the file ends within the contents of an active segment, this calls `truncated` with the segment and the length of
/// the file, and then returns the fault.
pub(super) fn decode_segment_or_truncated<I: Input>(
    from: &mut Decoder<'_, I>,
    memories: &mut impl Memories,
    truncated: impl FnOnce(Segment, u64),
) -> Result<Option<Segment>> {
    let start = from.offset();
    let flags = from.u32()?;
    let memory = match u8::try_from(flags) {
        Ok(ACTIVE) => Some(0),
        Ok(PASSIVE) => None,
        Ok(ACTIVE_WITH_MEMORY) => Some(from.u32()?),
        _ => {
            let message = format!("unknown segment flag {flags}");
            return Err(Fault::damaged(from.since(start), message));
        }
    };
    let Some(memory) = memory else {
        let len = from.u32()?;
        return from.skip(len.into()).map(|()| None);
    };
    let at_address = from.offset();
    let (address, memory64) = decode_address(from)?;
    memories.check_width(memory, memory64, from.since(at_address))?;
    let len = from.u32()?;
    let placement = Placement { memory, address, offset: from.offset(), len };
    let at = from.since(start);
    memories.check(&placement, at.clone())?;
    let segment = placement.checked(at)?;
    match (from.skip(len.into()), segment) {
        (Err(fault), Some(segment)) if fault.kind == ErrorKind::Truncated => {
            truncated(segment, fault.range.start);
            Err(fault)
        }
        (skipped, _) => skipped.map(|()| segment),
    }
}

/// Decodes a constant expression that is an address. Also returns whether the address has 64 bits.
fn decode_address<I: Input>(from: &mut Decoder<'_, I>) -> Result<(u64, bool)> {
    let start = from.offset();
    let (address, memory64) = match from.byte()? {
        I32_CONST => (u64::from(from.i32()?.cast_unsigned()), false),
        I64_CONST => (from.i64()?.cast_unsigned(), true),
        opcode => {
            let message = format!("the address is not a constant but instruction {opcode:#04x}");
            return Err(Fault::unsupported(from.since(start), message));
        }
    };
    if from.byte()? != END {
        let message = "the address is not a single constant";
        return Err(Fault::unsupported(from.since(start), message));
    }
    Ok((address, memory64))
}

#[cfg(test)]
mod tests {
    use super::super::input::Slice;
    use super::*;

    fn decode(bytes: &[u8]) -> std::result::Result<Option<Segment>, (ErrorKind, String)> {
        let memories = [MemoryType::wasm32(1), MemoryType::wasm64(1)];
        let mut input = Slice::new(bytes, 0);
        let mut decoder = Decoder::new(&mut input, bytes.len() as u64);
        let decoded = decode_segment(&mut decoder, &memories).and_then(|segment| {
            decoder.finish()?;
            Ok(segment)
        });
        decoded.map_err(|fault| (fault.kind, fault.line()))
    }

    #[test]
    fn decodes_active_segments_of_both_widths() {
        let bytes = [
            0x00, // active, memory 0
            0x41, 0x80, 0x08, // i32.const 1024
            0x0b, // end
            0x02, // two bytes
            0xaa, 0xbb,
        ];
        let expected = Placement { address: 1024, offset: 6, len: 2, memory: 0 };
        assert_eq!(decode(&bytes), Ok(expected.segment()));
        let bytes = [
            0x02, 0x81, 0x00, // active, memory 1, padded
            0x42, 0x03, // i64.const 3
            0x0b, // end
            0x01, // one byte
            0xaa,
        ];
        let expected = Placement { address: 3, offset: 7, len: 1, memory: 1 };
        assert_eq!(decode(&bytes), Ok(expected.segment()));
    }

    #[test]
    fn skips_passive_and_empty_segments() {
        assert_eq!(decode(&[0x01, 0x02, 0xaa, 0xbb]), Ok(None)); // passive
        assert_eq!(decode(&[0x00, 0x41, 0x00, 0x0b, 0x00]), Ok(None)); // empty
    }

    #[test]
    fn reports_each_fault_with_its_place() {
        for (bytes, kind, line) in [
            (
                // i32.const -1
                &[0x00, 0x41, 0x7f, 0x0b, 0x01, 0xaa][..],
                ErrorKind::Damaged,
                "at 0x0: 1-byte segment at address 0xffffffff is past the end of memory 0 (0x10000 bytes)",
            ),
            (
                &[0x02, 0x02, 0x41, 0x00, 0x0b, 0x00],
                ErrorKind::Damaged,
                "at 0x0: there is no memory 2; the dump has 2",
            ),
            (
                &[0x00, 0x42, 0x00, 0x0b, 0x00],
                ErrorKind::Damaged,
                "at 0x1: 64-bit address in a 32-bit memory",
            ),
            (
                &[0x00, 0x23, 0x00, 0x0b, 0x00], // global.get 0
                ErrorKind::Unsupported,
                "at 0x1: the address is not a constant but instruction 0x23",
            ),
            (
                &[0x00, 0x41, 0x00, 0x41, 0x00, 0x6a, 0x0b, 0x00], // 0 + 0
                ErrorKind::Unsupported,
                "at 0x1: the address is not a single constant",
            ),
            (
                &[0x00, 0x41, 0x00, 0x0b, 0x03, 0xaa],
                ErrorKind::Damaged,
                "at 0x5: length 3 reaches past the end at 0x6",
            ),
            (&[0x03], ErrorKind::Damaged, "at 0x0: unknown segment flag 3"),
        ] {
            assert_eq!(decode(bytes), Err((kind, line.to_string())), "{bytes:x?}");
        }
    }
}
