//! Values of Zig: slices, optionals, error unions and tagged unions.
//!
//! Zig describes them as structures with fixed member names, and marks their kind in the name of the type: `[]T` is a
//! slice, `?T` an optional, `E!T` an error union. An optional pointer is a pointer that is null, behind a typedef.

use super::{Field, Part, Read, Reader};
use crate::dwarf::location::Stop;
use crate::dwarf::types::{Language, is_pointer};
use crate::dwarf::units::{Cursor, Entry};
use crate::value::{Unknown, Value};

type Special = Result<Option<Value>, Stop>;

impl<'e, 'b> Reader<'_, 'e, '_, '_, 'b> {
    /// Returns `null` if this is an optional without a flag that is null: a pointer or a slice.
    pub(super) fn zig_null(&self, ty: Cursor<'e, 'b>, part: Part<'_>) -> Special {
        let entry = ty.entry()?;
        if entry.tag() != gimli::DW_TAG_typedef
            || self.debug.language(ty.unit)? != Language::Zig
            || !self.debug.name(ty.unit, &entry)?.is_some_and(|name| name.starts_with('?'))
        {
            return Ok(None);
        }
        let Some((ty, entry)) = self.debug.strip(ty)? else { return Ok(None) };
        let address = if is_pointer(entry.tag()) {
            self.address(part)?
        } else {
            let fields = self.fields(ty)?;
            let Some(pointer) = find(&fields, "ptr") else { return Ok(None) };
            match self.field_part(pointer, part)? {
                Ok(pointer) => self.address(pointer)?,
                Err(reason) => Err(reason),
            }
        };
        Ok((address == Ok(0)).then_some(Value::Null))
    }

    /// Reads a structure that has a form of its own in Zig. Returns `None` for other structures.
    pub(super) fn zig_structure(
        &mut self,
        ty: Cursor<'e, 'b>,
        entry: &Entry<'b>,
        part: Part<'_>,
    ) -> Special {
        let name = self.debug.name(ty.unit, entry)?.unwrap_or_default();
        let fields = self.fields(ty)?;
        if fields.len() != 2 {
            return Ok(None);
        }
        if name.starts_with('[')
            && let (Some(pointer), Some(length)) = (find(&fields, "ptr"), find(&fields, "len"))
        {
            let element = self.pointee(pointer)?;
            let is_text = match element {
                Some(element) => self.debug.type_name(Some(element))? == "u8",
                None => false,
            };
            return self.read_slice(pointer, length, element, is_text, part).map(Some);
        }
        let Some(payload) = find(&fields, "payload") else { return Ok(None) };
        if let Some(some) = find(&fields, "some").filter(|_| name.starts_with('?')) {
            let flag = match self.field_bits(some, part)? {
                Ok(flag) => flag,
                Err(reason) => return Ok(Some(Value::Unknown(reason))),
            };
            return match flag {
                0 => Ok(Some(Value::Null)),
                _ => self.payload(payload, part).map(Some),
            };
        }
        if let Some(error) = find(&fields, "error").filter(|_| name.contains('!')) {
            let number = match self.field_bits(error, part)? {
                Ok(number) => number,
                Err(reason) => return Ok(Some(Value::Unknown(reason))),
            };
            if number == 0 {
                return self.payload(payload, part).map(Some);
            }
            let error = self.field(error, part)?;
            return Ok(Some(match error {
                named @ Value::Enumerator { .. } => named,
                number => {
                    let data = Value::Tuple { members: vec![number], omitted: 0 };
                    Value::Variant { name: "error".into(), data: Some(Box::new(data)) }
                }
            }));
        }
        match find(&fields, "tag") {
            Some(tag) => self.tagged_union(tag, payload, part),
            None => Ok(None),
        }
    }

    /// Reads a tagged union: the member of the union that has the name of the tag.
    fn tagged_union(
        &mut self,
        tag: &Field<'e, 'b>,
        payload: &Field<'e, 'b>,
        part: Part<'_>,
    ) -> Special {
        let Some(ty) = payload.ty else { return Ok(None) };
        let Some((union, entry)) = self.debug.strip(ty)? else { return Ok(None) };
        if entry.tag() != gimli::DW_TAG_union_type {
            return Ok(None);
        }
        let name = match self.field(tag, part)? {
            Value::Enumerator { name, .. } => name,
            unknown @ Value::Unknown(_) => return Ok(Some(unknown)),
            _ => {
                let what = "the tag has no name".into();
                return Ok(Some(Value::Unknown(Unknown::Malformed(what))));
            }
        };
        let inner = match self.field_part(payload, part)? {
            Ok(inner) => inner,
            Err(reason) => return Ok(Some(Value::Unknown(reason))),
        };
        let inner = Part { depth: part.depth, ..inner };
        let fields = self.fields(union)?;
        let data = match find(&fields, &name) {
            Some(field) => match self.field(field, inner)? {
                Value::Tuple { members, .. } if members.is_empty() => None,
                value => Some(Box::new(Value::Tuple { members: vec![value], omitted: 0 })),
            },
            None => None,
        };
        Ok(Some(Value::Variant { name, data }))
    }

    /// Reads the payload of an optional or an error union.
    fn payload(&mut self, payload: &Field<'e, 'b>, part: Part<'_>) -> Read {
        match self.field_part(payload, part)? {
            Ok(inner) => self.value(payload.ty, inner),
            Err(reason) => Ok(Value::Unknown(reason)),
        }
    }

    /// Returns the bits of an integer member.
    fn field_bits(
        &self,
        field: &Field<'e, 'b>,
        part: Part<'_>,
    ) -> Result<Result<u128, Unknown>, Stop> {
        let size = match field.ty {
            Some(ty) => self.debug.size_of(ty)?,
            None => None,
        };
        let inner = match self.field_part(field, part)? {
            Ok(inner) => inner,
            Err(reason) => return Ok(Err(reason)),
        };
        self.bits(inner, size.unwrap_or(1), false, "a flag")
    }
}

fn find<'f, 'e, 'b>(fields: &'f [Field<'e, 'b>], name: &str) -> Option<&'f Field<'e, 'b>> {
    fields.iter().find(|field| field.name.as_deref() == Some(name))
}
