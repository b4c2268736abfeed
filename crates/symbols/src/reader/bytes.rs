//! Reading the bytes and bits of values.

use super::{Part, Reader};
use crate::dwarf::location::{Piece, Stop, Storage};
use crate::frame_state::Class;
use crate::limits::MAX_PIECE_BYTES;
use crate::value::{Text, Unknown, Value};

/// The number of bytes of a C string that are read at once.
const CHUNK: u64 = 64;

type Found<T> = Result<Result<T, Unknown>, Stop>;

impl Reader<'_, '_, '_, '_, '_> {
    /// Returns the bytes of a value. `len` is limited by the caller.
    pub(super) fn bytes(&self, storage: &Storage, offset: u64, len: u64) -> Found<Vec<u8>> {
        let too_large =
            || Ok(Err(Unknown::Unsupported("a large value that is not in memory".into())));
        let Ok(size) = usize::try_from(len) else { return too_large() };
        self.debug.take_steps(len)?;
        match storage {
            Storage::Unknown(reason) => Ok(Err(reason.clone())),
            Storage::Memory(address) => {
                // An object does not wrap around: the guest's access would trap.
                let end = address.checked_add(offset).and_then(|at| at.checked_add(len));
                let address = address.wrapping_add(offset);
                if end.is_none_or(|end| end > self.memory_end()) {
                    return Ok(Err(Unknown::OutOfBounds(address)));
                }
                let mut bytes = vec![0; size];
                Ok(self.evaluator.state.read(address, &mut bytes)?.map(|()| bytes))
            }
            Storage::Bytes(all) => Ok(part_of(all, offset, size).ok_or(Unknown::OptimizedOut)),
            Storage::Number(number) => {
                let all = number.extended().to_le_bytes();
                let end = offset.saturating_add(len);
                let known = if number.extends { 16 } else { u64::from(number.bytes) };
                if end > known {
                    let expected = format!("{end} bytes");
                    return Ok(Err(Unknown::WrongType(number.describe_mismatch(&expected))));
                }
                Ok(part_of(&all, offset, size).ok_or(Unknown::OptimizedOut))
            }
            Storage::Pieces(pieces) => {
                if len > MAX_PIECE_BYTES {
                    return too_large();
                }
                self.gather(pieces, offset, len)
            }
        }
    }

    /// Joins the bytes of pieces.
    fn gather(&self, pieces: &[Piece], offset: u64, len: u64) -> Found<Vec<u8>> {
        let mut bytes = Vec::new();
        let (mut begin, end) = (0, offset.saturating_add(len));
        for piece in pieces {
            let (from, to) = (offset.max(begin), end.min(begin + piece.bytes));
            if from < to {
                match self.bytes(&piece.storage, from - begin, to - from)? {
                    Ok(part) => bytes.extend(part),
                    Err(reason) => return Ok(Err(reason)),
                }
            }
            begin += piece.bytes;
        }
        match bytes.len() as u64 == len {
            true => Ok(Ok(bytes)),
            false => Ok(Err(Unknown::OptimizedOut)),
        }
    }

    /// Returns the bits of a number of `size` bytes, or of a bit-field in one. `name` names the type in messages.
    pub(super) fn bits(
        &self,
        part: Part<'_>,
        size: u64,
        is_float: bool,
        name: &str,
    ) -> Found<u128> {
        // A member of a structure or union in a local can have another type than the local.
        if let (Storage::Number(number), 1) = (part.storage, part.depth) {
            let fits = match number.class {
                Class::Integer => !is_float || number.extends,
                Class::Float => is_float && u64::from(number.bytes) == size,
                Class::Vector => true,
            };
            if !fits {
                let expected = if name.is_empty() { "the type" } else { name };
                return Ok(Err(Unknown::WrongType(number.describe_mismatch(expected))));
            }
        }
        if let Some(field) = part.bits {
            if field.size > 128 || field.size == 0 {
                return Ok(Err(Unknown::Malformed("the size of a bit-field".into())));
            }
            let len = (field.begin + field.size).div_ceil(8);
            let bytes = match self.bytes(part.storage, part.offset, len)? {
                Ok(bytes) => bytes,
                Err(reason) => return Ok(Err(reason)),
            };
            let mut low = [0; 16];
            let known = bytes.len().min(16);
            if let (Some(to), Some(from)) = (low.get_mut(..known), bytes.get(..known)) {
                to.copy_from_slice(from);
            }
            let mut bits = u128::from_le_bytes(low) >> field.begin;
            if let Some(last) = bytes.get(16) {
                // `begin` is between 1 and 7 here.
                bits |= u128::from(*last) << (128 - field.begin);
            }
            return Ok(Ok(bits));
        }
        if size > 16 {
            return Ok(Err(Unknown::Unsupported(format!("numbers of {size} bytes"))));
        }
        Ok(self.bytes(part.storage, part.offset, size)?.map(|bytes| {
            let mut bits = [0; 16];
            if let Some(part) = bits.get_mut(..bytes.len()) {
                part.copy_from_slice(&bytes);
            }
            u128::from_le_bytes(bits)
        }))
    }

    /// Returns the address that a pointer holds.
    pub(super) fn address(&self, part: Part<'_>) -> Found<u64> {
        let size = self.evaluator.unit.encoding().address_size;
        let bits = self.bits(part, size.into(), false, "a pointer")?;
        Ok(bits.map(|bits| u64::try_from(unsigned(bits, u64::from(size) * 8)).unwrap_or(u64::MAX)))
    }

    /// Reads the text at an address up to the NUL, or as much as the limit allows.
    pub(super) fn c_string(&self, address: u64) -> Found<Text> {
        let mut bytes = Vec::new();
        let mut unread = None;
        let limit = self.limits.text;
        while (bytes.len() as u64) < limit {
            let at = address.wrapping_add(bytes.len() as u64);
            let len = CHUNK.min(limit - bytes.len() as u64);
            let storage = Storage::Memory(at);
            let chunk = match self.bytes(&storage, 0, len)? {
                Ok(chunk) => chunk,
                // The text may end before the end of what is known.
                Err(_) => match self.bytes(&storage, 0, 1)? {
                    Ok(byte) => byte,
                    Err(reason) if bytes.is_empty() => return Ok(Err(reason)),
                    Err(reason) => {
                        unread = Some(Box::new(reason));
                        break;
                    }
                },
            };
            if let Some(end) = chunk.iter().position(|byte| *byte == 0) {
                bytes.extend(chunk.into_iter().take(end));
                let length = Some(bytes.len() as u64);
                return Ok(Ok(Text { bytes, length, unread: None, address: Some(address) }));
            }
            bytes.extend(chunk);
        }
        Ok(Ok(Text { bytes, length: None, unread, address: Some(address) }))
    }

    /// Reads text of a known length.
    pub(super) fn text(&self, address: u64, length: u64) -> Found<Value> {
        let len = length.min(self.limits.text);
        let bytes =
            if len == 0 { Ok(Vec::new()) } else { self.bytes(&Storage::Memory(address), 0, len)? };
        let (length, address) = (Some(length), Some(address));
        Ok(bytes.map(|bytes| Value::Text(Text { bytes, length, unread: None, address })))
    }

    /// Returns the end of the address space.
    fn memory_end(&self) -> u64 {
        match self.evaluator.unit.encoding().address_size {
            4 => 1 << 32,
            _ => u64::MAX,
        }
    }
}

fn part_of(all: &[u8], offset: u64, len: usize) -> Option<Vec<u8>> {
    let begin = usize::try_from(offset).ok()?;
    all.get(begin..begin.checked_add(len)?).map(<[u8]>::to_vec)
}

/// Returns the low `width` bits as an unsigned integer.
pub fn unsigned(bits: u128, width: u64) -> u128 {
    match width {
        0 => 0,
        128.. => bits,
        width => bits & ((1 << width) - 1),
    }
}

/// Returns the low `width` bits as a signed integer.
pub fn signed(bits: u128, width: u64) -> i128 {
    match width {
        0 => 0,
        128.. => bits.cast_signed(),
        width => (bits << (128 - width)).cast_signed() >> (128 - width),
    }
}

/// Returns a float of `size` bytes, or `None` if there are no such floats.
pub fn float(bits: u128, size: u64) -> Option<Value> {
    Some(match size {
        2 => Value::F16(u16::try_from(unsigned(bits, 16)).ok()?),
        4 => Value::F32(u32::try_from(unsigned(bits, 32)).ok()?),
        8 => Value::F64(u64::try_from(unsigned(bits, 64)).ok()?),
        10 => Value::F80(unsigned(bits, 80)),
        16 => Value::F128(bits),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extends_numbers_of_any_width() {
        assert_eq!((unsigned(0xfff5, 4), signed(0xfff5, 4)), (5, 5));
        assert_eq!((unsigned(0xfffd, 4), signed(0xfffd, 4)), (13, -3));
        assert_eq!((unsigned(u128::MAX, 0), signed(u128::MAX, 0)), (0, 0));
        for width in [1, 8, 64, 127, 128, 200] {
            assert_eq!(signed(u128::MAX, width), -1);
            assert_eq!(unsigned(u128::MAX, width), u128::MAX >> (128 - width.min(128)));
        }
    }

    #[test]
    fn floats_have_the_sizes_of_compilers() {
        let shown = |bits, size| float(bits, size).map(|value| value.to_string());
        assert_eq!(shown(0xbe00, 2).unwrap(), "-1.5");
        assert_eq!(shown(1.5_f32.to_bits().into(), 4).unwrap(), "1.5");
        assert_eq!(shown(1e300_f64.to_bits().into(), 8).unwrap(), "1e300");
        // The exponent of a binary128 has a bias of 16383.
        assert_eq!(shown(0x3fff_8000 << 96, 16).unwrap(), "1.5");
        assert_eq!(shown(0x7fff_0000 << 96, 16).unwrap(), "inf");
        assert_eq!(shown(0xffff_0000 << 96, 16).unwrap(), "-inf");
        assert_eq!(shown(0x7fff_8000 << 96, 16).unwrap(), "NaN");
        assert_eq!(shown(0, 16).unwrap(), "0.0");
        // The x87 has an explicit leading bit.
        assert_eq!(shown(0x4000_a000 << 48, 10).unwrap(), "2.5");
        assert_eq!(shown(0, 3), None);
    }
}
