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

/// A section with segments, `data` or `corestream.data`.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataSection {
    /// The offset of its first segment.
    pub(super) start: u64,
    /// The offset of the byte after it.
    pub(super) end: u64,
}

/// Decodes a segment and skips its payload; `None` if it puts nothing into a memory.
pub(super) fn segment<I: Input>(
    from: &mut Decoder<'_, I>,
    mut memories: &[MemoryType],
) -> Result<Option<Segment>> {
    segment_or_cut(from, &mut memories, |_, _| ())
}

/// Like [`segment`]; where the file ends within the payload of a segment that would put something
/// into a memory, `cut` gets that segment, and the length of the file, before this fails.
pub(super) fn segment_or_cut<I: Input>(
    from: &mut Decoder<'_, I>,
    memories: &mut impl Memories,
    cut: impl FnOnce(Segment, u64),
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
    let (address, memory64) = address(from)?;
    memories.check_width(memory, memory64, from.since(at_address))?;
    let len = from.u32()?;
    let placement = Placement { memory, address, offset: from.offset(), len };
    let at = from.since(start);
    memories.check(&placement, at.clone())?;
    let segment = placement.checked(at)?;
    match (from.skip(len.into()), segment) {
        (Err(fault), Some(segment)) if fault.kind == ErrorKind::Truncated => {
            cut(segment, fault.range.start);
            Err(fault)
        }
        (passed, _) => passed.map(|()| segment),
    }
}

/// Decodes a constant expression that is an address, of 64 bits or of 32.
fn address<I: Input>(from: &mut Decoder<'_, I>) -> Result<(u64, bool)> {
    let start = from.offset();
    let (address, memory64) = match from.byte()? {
        I32_CONST => (u64::from(from.i32()?.cast_unsigned()), false),
        I64_CONST => (from.i64()?.cast_unsigned(), true),
        opcode => {
            let message = format!("its address is no constant but the instruction {opcode:#04x}");
            return Err(Fault::unsupported(from.since(start), message));
        }
    };
    if from.byte()? != END {
        let message = "its address is more than one constant";
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
        let decoded = segment(&mut decoder, &memories).and_then(|segment| {
            decoder.finish()?;
            Ok(segment)
        });
        decoded.map_err(|fault| (fault.kind, fault.line()))
    }

    #[test]
    fn active_segments_of_both_widths() {
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
    fn what_puts_nothing_into_a_memory_is_passed() {
        assert_eq!(decode(&[0x01, 0x02, 0xaa, 0xbb]), Ok(None)); // passive
        assert_eq!(decode(&[0x00, 0x41, 0x00, 0x0b, 0x00]), Ok(None)); // empty
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (bytes, kind, line) in [
            (
                // i32.const -1
                &[0x00, 0x41, 0x7f, 0x0b, 0x01, 0xaa][..],
                ErrorKind::Damaged,
                "at 0x0: 1 bytes at address 0xffffffff are past the end of memory 0 (0x10000 bytes)",
            ),
            (
                &[0x02, 0x02, 0x41, 0x00, 0x0b, 0x00],
                ErrorKind::Damaged,
                "at 0x0: there is no memory 2, the dump has 2",
            ),
            (
                &[0x00, 0x42, 0x00, 0x0b, 0x00],
                ErrorKind::Damaged,
                "at 0x1: 64-bit address in a 32-bit memory",
            ),
            (
                &[0x00, 0x23, 0x00, 0x0b, 0x00], // global.get 0
                ErrorKind::Unsupported,
                "at 0x1: its address is no constant but the instruction 0x23",
            ),
            (
                &[0x00, 0x41, 0x00, 0x41, 0x00, 0x6a, 0x0b, 0x00], // 0 + 0
                ErrorKind::Unsupported,
                "at 0x1: its address is more than one constant",
            ),
            (
                &[0x00, 0x41, 0x00, 0x0b, 0x03, 0xaa],
                ErrorKind::Damaged,
                "at 0x5: 3 bytes reach past 0x6, where this ends",
            ),
            (&[0x03], ErrorKind::Damaged, "at 0x0: unknown segment flag 3"),
        ] {
            assert_eq!(decode(bytes), Err((kind, line.to_string())), "{bytes:x?}");
        }
    }
}
