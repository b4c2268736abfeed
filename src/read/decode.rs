//! Decodes numbers, names and values, within the bounds of a section.
//!
//! Source: core specification, "Binary format",
//! [values](https://webassembly.github.io/spec/core/binary/values.html).

use std::ops::Range;

use super::fault::{Fault, Result, at_least_one_byte, plural_s};
use super::input::Input;
use crate::format::{F32, F64, I32, I64, MISSING};
use crate::leb::{self, TooLong};
use crate::limits::MAX_NAME_BYTES;
use crate::model::Value;

/// Decodes the bytes from the current offset of an input up to a fixed end.
pub(super) struct Decoder<'i, I> {
    input: &'i mut I,
    end: u64,
}

impl<'i, I: Input> Decoder<'i, I> {
    /// Returns a decoder of the bytes up to the offset `end`.
    pub(super) fn new(input: &'i mut I, end: u64) -> Self {
        Self { input, end }
    }

    /// Returns a decoder of the next `len` bytes.
    pub(super) fn limited(&mut self, len: u64) -> Result<Decoder<'_, I>> {
        let end = self.check_len(len)?;
        Ok(Decoder { end, input: self.input })
    }

    pub(super) fn offset(&self) -> u64 {
        self.input.offset()
    }

    /// Returns the offset that this decoder does not pass.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Returns the number of bytes before the end.
    ///
    /// # Errors
    /// Returns an error if the input is already past the end.
    pub(super) fn remaining(&self) -> Result<u64> {
        let (offset, end) = (self.offset(), self.end);
        end.checked_sub(offset).ok_or_else(|| {
            let message = format!("ends at {end:#x}, before {offset:#x}");
            Fault::damaged(at_least_one_byte(end, offset), message)
        })
    }

    /// Returns the range from `start` to the current offset.
    pub(super) fn since(&self, start: u64) -> Range<u64> {
        at_least_one_byte(start, self.offset())
    }

    /// Checks that `len` bytes do not reach past the end. Returns the offset after them.
    fn check_len(&self, len: u64) -> Result<u64> {
        let start = self.offset();
        match start.checked_add(len) {
            Some(end) if end <= self.end => Ok(end),
            _ => {
                let end = self.end;
                let message = format!("length {len} reaches past the end at {end:#x}");
                Err(Fault::damaged(at_least_one_byte(start, end), message))
            }
        }
    }

    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Result<&[u8]> {
        self.check_len(len as u64)?;
        self.input.take(len)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn skip(&mut self, len: u64) -> Result<()> {
        self.check_len(len)?;
        self.input.skip(len)
    }

    /// Guards the index at `offset` ([`Input::guard_index`]).
    pub(super) fn guard_index(&mut self, offset: u64) {
        self.input.guard_index(offset);
    }

    /// Computes the checksums of the blocks before `end` ([`Input::sum_blocks`]).
    pub(super) fn sum_blocks(&mut self, end: u64, block_log2: u32) -> Result<()> {
        self.input.sum_blocks(end, block_log2)
    }

    /// Skips all bytes up to the end.
    pub(super) fn skip_rest(&mut self) -> Result<()> {
        self.skip(self.remaining()?)
    }

    /// Checks that no bytes remain.
    pub(super) fn finish(&self) -> Result<()> {
        match self.remaining()? {
            0 => Ok(()),
            remaining => {
                let range = self.offset()..self.end;
                let message = format!("{remaining} trailing byte{}", plural_s(remaining));
                Err(Fault::damaged(range, message))
            }
        }
    }

    /// Decodes a byte that must be zero.
    pub(super) fn expect_zero(&mut self) -> Result<()> {
        let start = self.offset();
        match self.byte()? {
            0 => Ok(()),
            byte => {
                let message = format!("begins with {byte:#04x} instead of 0x00");
                Err(Fault::damaged(self.since(start), message))
            }
        }
    }

    /// Decodes an unsigned LEB128 of 32 bits. It may be padded to five bytes.
    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32> {
        let start = self.offset();
        u32::try_from(self.unsigned(32)?).map_err(|_| self.too_long(start, 32))
    }

    /// Decodes an unsigned LEB128 of 64 bits.
    pub(super) fn u64(&mut self) -> Result<u64> {
        self.unsigned(64)
    }

    /// Decodes a signed LEB128 of 32 bits.
    pub(super) fn i32(&mut self) -> Result<i32> {
        let start = self.offset();
        i32::try_from(self.signed(32)?).map_err(|_| self.too_long(start, 32))
    }

    /// Decodes a signed LEB128 of 33 bits.
    pub(super) fn i33(&mut self) -> Result<i64> {
        self.signed(33)
    }

    /// Decodes a signed LEB128 of 64 bits.
    pub(super) fn i64(&mut self) -> Result<i64> {
        self.signed(64)
    }

    #[inline]
    fn unsigned(&mut self, bits: u32) -> Result<u64> {
        let start = self.offset();
        let mut number = leb::Partial::default();
        loop {
            match number.unsigned(self.byte()?, bits) {
                Ok(None) => {}
                Ok(Some(number)) => return Ok(number),
                Err(TooLong) => return Err(self.too_long(start, bits)),
            }
        }
    }

    #[inline]
    fn signed(&mut self, bits: u32) -> Result<i64> {
        let start = self.offset();
        let mut number = leb::Partial::default();
        loop {
            match number.signed(self.byte()?, bits) {
                Ok(None) => {}
                Ok(Some(number)) => return Ok(number),
                Err(TooLong) => return Err(self.too_long(start, bits)),
            }
        }
    }

    #[cold]
    fn too_long(&self, start: u64, bits: u32) -> Box<Fault> {
        Fault::damaged(self.since(start), format!("integer has more than {bits} bits"))
    }

    /// Decodes the length of a name.
    ///
    /// # Errors
    /// Returns an error if the name is longer than [`MAX_NAME_BYTES`].
    fn name_len(&mut self) -> Result<usize> {
        let start = self.offset();
        let len = self.u32()?;
        match usize::try_from(len) {
            Ok(len) if len <= MAX_NAME_BYTES => Ok(len),
            _ => {
                let message =
                    format!("a name of {len} bytes is over the limit of {MAX_NAME_BYTES}");
                Err(Fault::unsupported(self.since(start), message))
            }
        }
    }

    /// Returns whether the next name is `name`. Stops within a name that is not.
    pub(super) fn is_named(&mut self, name: &str) -> Result<bool> {
        Ok(self.u32()? as usize == name.len() && self.take(name.len())? == name.as_bytes())
    }

    /// Checks the length of a name, and that it is UTF-8.
    pub(super) fn check_name(&mut self) -> Result<()> {
        let start = self.offset();
        let len = self.name_len()?;
        let end = self.check_len(len as u64)?;
        let name = std::str::from_utf8(self.input.take(len)?);
        match name {
            Ok(_) => Ok(()),
            Err(_) => Err(Fault::damaged(start..end, "a name is not UTF-8")),
        }
    }

    /// Decodes a name.
    ///
    /// The UTF-8 check reads the copy, because the bytes of the source can change.
    pub(super) fn name(&mut self) -> Result<String> {
        let start = self.offset();
        let len = self.name_len()?;
        let name = String::from_utf8(self.take(len)?.to_vec());
        name.map_err(|_| Fault::damaged(self.since(start), "a name is not UTF-8"))
    }

    /// Decodes a value of a frame in the layout of the specification.
    pub(super) fn value(&mut self) -> Result<Value> {
        let start = self.offset();
        Ok(match self.byte()? {
            MISSING => Value::Missing,
            I32 => Value::I32(self.i32()?),
            I64 => Value::I64(self.i64()?),
            F32 => Value::F32(u32::from_le_bytes(self.array()?)),
            F64 => Value::F64(u64::from_le_bytes(self.array()?)),
            other => {
                let message = format!("unknown value type {other:#04x}");
                return Err(Fault::damaged(self.since(start), message));
            }
        })
    }
}

impl<I: Input> Decoder<'_, I> {
    /// Decodes a value of a frame in a layout that gives integers a fixed width.
    pub(super) fn fixed_value(&mut self) -> Result<Value> {
        let start = self.offset();
        Ok(match self.byte()? {
            MISSING => Value::Missing,
            I32 => Value::I32(i32::from_le_bytes(self.array()?)),
            I64 => Value::I64(i64::from_le_bytes(self.array()?)),
            F32 => Value::F32(u32::from_le_bytes(self.array()?)),
            F64 => Value::F64(u64::from_le_bytes(self.array()?)),
            other => {
                let message = format!("unknown value type {other:#04x}");
                return Err(Fault::damaged(self.since(start), message));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::Slice;
    use super::*;
    use crate::error::ErrorKind;

    fn decode<'b, T>(
        bytes: &'b [u8],
        get: impl FnOnce(&mut Decoder<'_, Slice<'b>>) -> Result<T>,
    ) -> Option<T> {
        let mut input = Slice::new(bytes, 0);
        let mut decoder = Decoder::new(&mut input, bytes.len() as u64);
        let value = get(&mut decoder).ok()?;
        decoder.finish().ok()?;
        Some(value)
    }

    #[test]
    fn decodes_unsigned_numbers_up_to_their_bits() {
        for (bytes, expected) in [
            (&[0x00][..], Some(0)),
            (&[0x7f], Some(127)),
            (&[0x80, 0x01], Some(128)),
            (&[0x83, 0x80, 0x80, 0x80, 0x00], Some(3)), // padded to five bytes
            (&[0xff, 0xff, 0xff, 0xff, 0x0f], Some(u32::MAX)),
            (&[0xff, 0xff, 0xff, 0xff, 0x1f], None), // a 33rd bit
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], None), // a sixth byte
            (&[0x80], None),                         // truncated
        ] {
            assert_eq!(decode(bytes, |d| d.u32()), expected, "{bytes:x?}");
        }
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(decode(&most, |d| d.u64()), Some(u64::MAX));
        let over = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(decode(&over, |d| d.u64()), None);
    }

    #[test]
    fn decodes_signed_numbers_with_extended_signs() {
        for (bytes, expected) in [
            (&[0x00][..], Some(0)),
            (&[0x7f], Some(-1)),
            (&[0x40], Some(-64)),
            (&[0xc0, 0x00], Some(64)),
            (&[0xff, 0xff, 0xff, 0xff, 0x7f], Some(-1)), // padded with its sign
            (&[0x80, 0x80, 0x80, 0x80, 0x78], Some(i32::MIN)),
            (&[0xff, 0xff, 0xff, 0xff, 0x07], Some(i32::MAX)),
            (&[0x80, 0x80, 0x80, 0x80, 0x08], None), // a 33rd bit that is not the sign
            (&[0xff, 0xff, 0xff, 0xff, 0x3f], None),
            (&[0x80, 0x80, 0x80, 0x80, 0x70], None), // -2^32
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], None), // a sixth byte
        ] {
            assert_eq!(decode(bytes, |d| d.i32()), expected, "{bytes:x?}");
        }
        let least = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f];
        assert_eq!(decode(&least, |d| d.i64()), Some(i64::MIN));
        let over = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
        assert_eq!(decode(&over, |d| d.i64()), None);
    }

    #[test]
    fn decodes_signed_numbers_of_33_bits() {
        let most = [0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(decode(&most, |d| d.i33()), Some((1 << 32) - 1));
        let least = [0x80, 0x80, 0x80, 0x80, 0x70];
        assert_eq!(decode(&least, |d| d.i33()), Some(-1 << 32));
        for over in [[0x80, 0x80, 0x80, 0x80, 0x10], [0xff, 0xff, 0xff, 0xff, 0x6f]] {
            assert_eq!(decode(&over, |d| d.i33()), None, "{over:x?}");
        }
    }

    #[test]
    fn reports_the_bytes_of_a_number_that_is_too_large() {
        let bytes = [0, 0xff, 0xff, 0xff, 0xff, 0x1f, 0];
        let mut input = Slice::new(&bytes, 1);
        let fault = Decoder::new(&mut input, 7).u32().unwrap_err();
        assert_eq!(fault.range, 1..6);
    }

    #[test]
    fn rejects_a_length_past_the_largest_offset() {
        let bytes = [0; 9];
        let mut input = Slice::new(&bytes, 8);
        let mut decoder = Decoder::new(&mut input, u64::MAX);
        for fault in
            [decoder.skip(u64::MAX - 7).unwrap_err(), decoder.limited(u64::MAX).err().unwrap()]
        {
            assert_eq!((fault.kind, fault.range), (ErrorKind::Damaged, 8..u64::MAX));
        }
        // This end has 64 bits, and is past the end of the file.
        assert_eq!(decoder.skip(u64::MAX - 8).unwrap_err().kind, ErrorKind::Truncated);
    }

    #[test]
    fn rejects_an_offset_past_the_end() {
        let bytes = [0; 9];
        let mut input = Slice::new(&bytes, 8);
        let mut decoder = Decoder::new(&mut input, 7);
        assert_eq!(decoder.remaining().unwrap_err().range, 7..8);
        assert!(decoder.finish().is_err() && decoder.skip_rest().is_err());
    }

    #[test]
    fn decodes_values_and_names() {
        assert_eq!(decode(&[0x01], |d| d.value()), Some(Value::Missing));
        assert_eq!(decode(&[0x7f, 0x7f], |d| d.value()), Some(Value::I32(-1)));
        assert_eq!(decode(&[0x7d, 1, 0, 0xc0, 0x7f], |d| d.value()), Some(Value::F32(0x7fc0_0001)));
        assert_eq!(decode(&[0x7b], |d| d.value()), None); // frames have no encoding for v128
        assert_eq!(decode(&[2, b'o', b'k'], |d| d.name()), Some("ok".into()));
        assert_eq!(decode(&[1, 0xff], |d| d.check_name()), None);
        assert_eq!(decode(&[0xa1, 0x8d, 0x06], |d| d.name()), None); // 100,001 bytes
    }
}
