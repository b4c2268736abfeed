//! The types of memories, and globals with their values.
//!
//! Source: core specification, "Binary format",
//! [types](https://webassembly.github.io/spec/core/binary/types.html), and the proposals threads,
//! custom-page-sizes, exception-handling and stack-switching.

use std::ops::Range;

use super::decode::Decoder;
use super::fault::{Fault, Result};
use super::input::Input;
use crate::format::{
    END, F32, F32_CONST, F64, F64_CONST, HAS_MAXIMUM, HAS_PAGE_SIZE, I32, I32_CONST, I64,
    I64_CONST, MEMORY64, REF_FUNC, REF_NULL, REF_NULL_TYPE, REF_TYPE, SHARED, V128, V128_CONST,
    VECTOR,
};
use crate::limits::{MAX_GLOBALS, MAX_MEMORIES};
use crate::model::{Global, GlobalValue, MemoryType, NumberType, RefType};

/// Returns the number of pages of `page_size` bytes that `bytes` bytes need.
pub(super) fn pages_for(bytes: u128, page_size: u32) -> u128 {
    bytes.div_ceil(page_size.max(1).into())
}

/// Returns the last address of a memory, or `None` if the memory is empty.
pub(super) fn last_address(ty: &MemoryType) -> Option<u64> {
    u64::try_from(ty.size().checked_sub(1)?).ok()
}

/// Decodes the type of a memory that follows `preceding` others.
pub(super) fn decode_memory<I: Input>(
    from: &mut Decoder<'_, I>,
    preceding: usize,
) -> Result<MemoryType> {
    let start = from.offset();
    if preceding >= MAX_MEMORIES {
        let message = format!("over the limit of {MAX_MEMORIES} memories");
        return Err(Fault::unsupported(from.since(start), message));
    }
    let flags = from.byte()?;
    if flags & !(HAS_MAXIMUM | SHARED | MEMORY64 | HAS_PAGE_SIZE) != 0 {
        let message = format!("unknown memory type flags {flags:#04x}");
        return Err(Fault::unsupported(from.since(start), message));
    }
    let memory64 = flags & MEMORY64 != 0;
    let mut pages = || if memory64 { from.u64() } else { from.u32().map(u64::from) };
    let minimum = pages()?;
    let maximum = (flags & HAS_MAXIMUM != 0).then(pages).transpose()?;
    let page_size = match flags & HAS_PAGE_SIZE != 0 {
        true => match from.u32()? {
            0 => 1,
            16 => 65_536,
            log2 @ ..=64 => {
                let message = format!("unsupported page size of 2^{log2} bytes");
                return Err(Fault::unsupported(from.since(start), message));
            }
            log2 => {
                let message = format!("invalid page size of 2^{log2} bytes");
                return Err(Fault::damaged(from.since(start), message));
            }
        },
        false => 65_536,
    };
    let ty = MemoryType { minimum, maximum, memory64, shared: flags & SHARED != 0, page_size };
    ty.check(0).map_err(|why| Fault::damaged(from.since(start), why))?;
    Ok(ty)
}

/// Decodes a global that follows `preceding` others. The globals of `foreign` writers may have no value.
pub(super) fn decode_global<I: Input>(
    from: &mut Decoder<'_, I>,
    preceding: usize,
    foreign: bool,
) -> Result<Global> {
    let start = from.offset();
    if preceding >= MAX_GLOBALS {
        let message = format!("over the limit of {MAX_GLOBALS} globals");
        return Err(Fault::unsupported(from.since(start), message));
    }
    let ty = from.byte()?;
    // The heap type of a reference type that is written in full.
    let heap_type = match ty {
        REF_NULL_TYPE | REF_TYPE => Some(from.i33()?),
        _ => None,
    };
    let mutable = match from.byte()? {
        0 => false,
        1 => true,
        other => {
            let message = format!("unknown mutability {other:#04x}");
            return Err(Fault::unsupported(from.since(start), message));
        }
    };
    let Some(value) = decode_constant(from, foreign)? else {
        let value =
            missing_value(ty, heap_type).ok_or_else(|| unknown_type(from.since(start), ty))?;
        return Ok(Global { mutable, value });
    };
    let has_its_type = match ty {
        I32 => matches!(value, GlobalValue::I32(_)),
        I64 => matches!(value, GlobalValue::I64(_)),
        F32 => matches!(value, GlobalValue::F32(_)),
        F64 => matches!(value, GlobalValue::F64(_)),
        V128 => matches!(value, GlobalValue::V128(_)),
        _ => {
            let ref_type = ref_type(ty, heap_type);
            let ref_type = ref_type.ok_or_else(|| unknown_type(from.since(start), ty))?;
            value == GlobalValue::Ref(ref_type)
        }
    };
    match has_its_type {
        true => Ok(Global { mutable, value }),
        false => {
            let message = format!("the value does not have type {ty:#04x}");
            Err(Fault::damaged(from.since(start), message))
        }
    }
}

fn unknown_type(at: Range<u64>, ty: u8) -> Box<Fault> {
    Fault::unsupported(at, format!("unknown type {ty:#04x}"))
}

/// Returns the value of a global of this type whose value is missing.
fn missing_value(ty: u8, heap_type: Option<i64>) -> Option<GlobalValue> {
    Some(match ty {
        I32 => GlobalValue::Missing(NumberType::I32),
        I64 => GlobalValue::Missing(NumberType::I64),
        F32 => GlobalValue::Missing(NumberType::F32),
        F64 => GlobalValue::Missing(NumberType::F64),
        V128 => GlobalValue::Missing(NumberType::V128),
        _ => GlobalValue::Ref(ref_type(ty, heap_type)?),
    })
}

/// Decodes a constant expression of one instruction. Returns `None` for an empty expression, which only the globals of
/// `foreign` writers may have.
fn decode_constant<I: Input>(
    from: &mut Decoder<'_, I>,
    foreign: bool,
) -> Result<Option<GlobalValue>> {
    let start = from.offset();
    let not_constant = |from: &Decoder<'_, I>| {
        Err(Fault::unsupported(from.since(start), "the value is not a single constant"))
    };
    let value = match from.byte()? {
        I32_CONST => GlobalValue::I32(from.i32()?),
        I64_CONST => GlobalValue::I64(from.i64()?),
        F32_CONST => GlobalValue::F32(u32::from_le_bytes(from.array()?)),
        F64_CONST => GlobalValue::F64(u64::from_le_bytes(from.array()?)),
        REF_NULL => match top_of_heap_type(from.i33()?) {
            Some(top) => GlobalValue::Ref(top),
            None => return not_constant(from),
        },
        REF_FUNC => {
            from.u32()?;
            GlobalValue::Ref(RefType::Func)
        }
        END if foreign => return Ok(None),
        VECTOR if from.u32()? == V128_CONST => {
            GlobalValue::V128(u128::from_le_bytes(from.array()?))
        }
        _ => return not_constant(from),
    };
    match from.byte()? {
        END => Ok(Some(value)),
        _ => not_constant(from),
    }
}

/// Returns the top type of the hierarchy that a reference type belongs to, or `None` for other types.
///
/// The type is written in full, with a `heap_type`, or as `ty` alone, the byte of its heap type.
fn ref_type(ty: u8, heap_type: Option<i64>) -> Option<RefType> {
    heap_type.map_or_else(|| top_of_byte(ty), top_of_heap_type)
}

/// Returns the top type of an abstract heap type, or `None` for other heap types.
fn top_of_heap_type(heap_type: i64) -> Option<RefType> {
    // An abstract heap type is one byte below 0x80, which is negative as a signed LEB128.
    top_of_byte(u8::try_from(heap_type.checked_add(0x80)?).ok()?)
}

/// Returns the top type for the byte of an abstract heap type.
fn top_of_byte(byte: u8) -> Option<RefType> {
    Some(match byte {
        0x70 | 0x73 => RefType::Func,
        0x6f | 0x72 => RefType::Extern,
        0x6e | 0x6d | 0x6c | 0x6b | 0x6a | 0x71 => RefType::Any,
        0x69 | 0x74 => RefType::Exn,
        0x68 | 0x75 => RefType::Cont,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::input::Slice;
    use super::*;

    fn decode<T>(
        bytes: &[u8],
        get: impl FnOnce(&mut Decoder<'_, Slice<'_>>) -> Result<T>,
    ) -> std::result::Result<T, String> {
        let mut input = Slice::new(bytes, 0);
        let mut decoder = Decoder::new(&mut input, bytes.len() as u64);
        let value = get(&mut decoder).map_err(|fault| fault.line())?;
        decoder.finish().map_err(|fault| fault.line())?;
        Ok(value)
    }

    #[test]
    fn decodes_memory_types() {
        let memory = |bytes: &[u8]| decode(bytes, |d| super::decode_memory(d, 0));
        assert_eq!(memory(&[0x00, 0x02]), Ok(MemoryType::wasm32(2)));
        assert_eq!(memory(&[0x05, 0x02, 0x03]), Ok(MemoryType::wasm64(2).with_maximum(3)));
        let shared = MemoryType::wasm32(1).with_maximum(1).with_shared().with_page_size(1);
        assert_eq!(memory(&[0x0b, 0x01, 0x01, 0x00]), Ok(shared));
        // All 2^64 bytes of a memory64.
        let most = [0x04, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40];
        assert_eq!(memory(&most).unwrap().byte_len(), None);

        let error = memory(&[0x00, 0x81, 0x80, 0x04]).unwrap_err();
        assert_eq!(error, "at 0x0: 65537 pages exceed the maximum of 65536 for a 32-bit memory");
        assert!(memory(&[0x08, 0x01, 0x0c]).unwrap_err().contains("2^12"));
        assert!(memory(&[0x10, 0x01]).unwrap_err().contains("flags 0x10"));
        assert!(
            decode(&[0x00, 0x01], |d| super::decode_memory(d, 100)).unwrap_err().contains("100")
        );
    }

    #[test]
    fn decodes_globals() {
        let global = |bytes: &[u8]| decode(bytes, |d| super::decode_global(d, 0, false));
        let i32 = [0x7f, 0x01, 0x41, 0x7f, 0x0b]; // mutable, i32.const -1
        assert_eq!(global(&i32), Ok(Global::mutable(GlobalValue::I32(-1))));
        let mut v128 = vec![0x7b, 0x00, 0xfd, 0x0c]; // v128.const
        v128.extend(3_u128.to_le_bytes());
        v128.push(0x0b);
        assert_eq!(global(&v128), Ok(Global::constant(GlobalValue::V128(3))));
        for (ty, top) in [
            (0x70, RefType::Func),
            (0x6f, RefType::Extern),
            (0x6e, RefType::Any),
            (0x69, RefType::Exn),
            (0x68, RefType::Cont),
            (0x71, RefType::Any), // nullref belongs to the hierarchy of anyref
        ] {
            let expected = Ok(Global::constant(GlobalValue::Ref(top)));
            assert_eq!(global(&[ty, 0x00, 0xd0, ty, 0x0b]), expected); // ref.null
            assert_eq!(global(&[0x63, ty, 0x00, 0xd0, ty, 0x0b]), expected); // (ref null ty)
        }
        let error = global(&[0x7f, 0x00, 0x42, 0x00, 0x0b]).unwrap_err();
        assert_eq!(error, "at 0x0: the value does not have type 0x7f");
        let error = global(&[0x7f, 0x00, 0x23, 0x00, 0x0b]).unwrap_err();
        assert_eq!(error, "at 0x2: the value is not a single constant");
        assert!(global(&[0x63, 0x05, 0x00, 0xd2, 0x00, 0x0b]).is_err());
        // Only foreign writers omit the value of a global.
        assert!(global(&[0x7f, 0x01, 0x0b]).is_err());
        let foreign = |bytes: &[u8]| decode(bytes, |d| super::decode_global(d, 0, true));
        let missing = GlobalValue::Missing(NumberType::I64);
        assert_eq!(foreign(&[0x7e, 0x01, 0x0b]), Ok(Global::mutable(missing)));
        let null = GlobalValue::Ref(RefType::Func);
        assert_eq!(foreign(&[0x70, 0x00, 0x0b]), Ok(Global::constant(null)));
        assert!(foreign(&[0x7a, 0x00, 0x0b]).unwrap_err().contains("type 0x7a"));
    }
}
