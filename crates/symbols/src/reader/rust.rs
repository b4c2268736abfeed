//! Values of Rust: strings, slices, vectors, and enumerations with data.
//!
//! rustc describes `&str`, `&[T]` and `Box<[T]>` as structures of `data_ptr` and `length`, and `String` and `Vec` as the
//! structures that they are. It describes an enumeration with data as a structure with a variant part, whose
//! discriminant can be a niche in the data.

use gimli::AttributeValue;

use super::{Field, Part, Read, Reader, bytes, constant};
use crate::dwarf::location::{Stop, Storage};
use crate::dwarf::types::{Language, is_pointer};
use crate::dwarf::units::{Cursor, Entry};
use crate::value::{Unknown, Value};

/// How deep the pointer of a vector is nested in its buffer.
const MAX_BUFFER_DEPTH: u32 = 8;

type Special = Result<Option<Value>, Stop>;

impl<'e, 'b> Reader<'_, 'e, '_, '_, 'b> {
    /// Reads a structure that has a form of its own in Rust. Returns `None` for other structures.
    pub(super) fn rust_structure(
        &mut self,
        ty: Cursor<'e, 'b>,
        entry: &Entry<'b>,
        part: Part<'_>,
    ) -> Special {
        let children = self.children(ty)?;
        if let Some(variants) =
            children.iter().find(|child| child.tag() == gimli::DW_TAG_variant_part)
        {
            let variants = Cursor { unit: ty.unit, at: variants.offset() };
            return self.rust_enum(variants, part).map(Some);
        }
        let name = self.debug.name(ty.unit, entry)?.unwrap_or_default();
        let fields = self.fields(ty)?;
        let find = |name: &str| fields.iter().find(|field| field.name.as_deref() == Some(name));
        if let (Some(data), Some(length), 2) = (find("data_ptr"), find("length"), fields.len()) {
            // `Rc<[T]>` has a header before the elements, and a pointer to a structure that ends with text has the rest of
            // the structure.
            let Some(kind) = unsized_kind(&name) else { return Ok(None) };
            let element = self.pointee(data)?;
            let is_text = kind == UnsizedKind::Text;
            return self.read_slice(data, length, element, is_text, part).map(Some);
        }
        if name == "String"
            && let [vec] = &fields[..]
            && vec.name.as_deref() == Some("vec")
            && let Some(ty) = vec.ty
        {
            let inner = match self.field_part(vec, part)? {
                Ok(inner) => inner,
                Err(reason) => return Ok(Some(Value::Unknown(reason))),
            };
            return self.rust_vec(ty, true, inner);
        }
        if name.starts_with("Vec<") {
            return self.rust_vec(ty, false, part);
        }
        if fields.is_empty() {
            // `()` is a type without a value, and so is a structure without fields.
            let unit = Value::Tuple { members: Vec::new(), omitted: 0 };
            let record = Value::Record { members: Vec::new(), omitted: 0 };
            return Ok(Some(if name == "()" { unit } else { record }));
        }
        Ok(None)
    }

    /// Reads a slice that consists of a pointer and a length.
    pub(super) fn read_slice(
        &mut self,
        data: &Field<'e, 'b>,
        length: &Field<'e, 'b>,
        element: Option<Cursor<'e, 'b>>,
        is_text: bool,
        part: Part<'_>,
    ) -> Read {
        let unknown = |reason| Ok(Value::Unknown(reason));
        let data = match self.field_part(data, part)? {
            Ok(data) => data,
            Err(reason) => return unknown(reason),
        };
        let address = match self.address(data)? {
            Ok(address) => address,
            Err(reason) => return unknown(reason),
        };
        let length = match self.field_part(length, part)? {
            Ok(length) => length,
            Err(reason) => return unknown(reason),
        };
        // A `usize` has the size of an address.
        match self.address(length)? {
            Ok(length) => self.list(address, length, element, is_text, part),
            Err(reason) => unknown(reason),
        }
    }

    /// Reads text or a list of elements in memory.
    pub(super) fn list(
        &mut self,
        address: u64,
        length: u64,
        element: Option<Cursor<'e, 'b>>,
        is_text: bool,
        part: Part<'_>,
    ) -> Read {
        if is_text {
            return Ok(self.text(address, length)?.unwrap_or_else(Value::Unknown));
        }
        let size = match element {
            Some(element) => self.debug.size_of(element)?,
            None => None,
        };
        let (Some(element), Some(size)) = (element, size) else {
            return Ok(Value::Unknown(Unknown::Unsupported("elements without a size".into())));
        };
        let storage = Storage::Memory(address);
        let part = Part { storage: &storage, offset: 0, bits: None, ..part };
        let mut elements = Vec::new();
        for i in 0..length.min(self.limits.elements) {
            if self.left == 0 {
                break;
            }
            let Some(offset) = i.checked_mul(size) else { break };
            let part = Part { offset, depth: part.depth + 1, ..part };
            elements.push(self.value(Some(element), part)?);
        }
        Ok(Value::Sequence { elements, length })
    }

    /// Returns the type that a pointer member points to.
    pub(super) fn pointee(&self, field: &Field<'e, 'b>) -> Result<Option<Cursor<'e, 'b>>, Stop> {
        let Some(ty) = field.ty else { return Ok(None) };
        let Some((ty, entry)) = self.debug.strip(ty)? else { return Ok(None) };
        Ok(self.debug.type_of(ty.unit, &entry).filter(|_| is_pointer(entry.tag())))
    }

    /// Reads a `Vec`, or the text of a `String`. Returns `None` if it is not the `Vec` of the standard library.
    fn rust_vec(&mut self, ty: Cursor<'e, 'b>, is_text: bool, part: Part<'_>) -> Special {
        let Some((ty, _)) = self.debug.strip(ty)? else { return Ok(None) };
        let fields = self.fields(ty)?;
        let find = |name: &str| fields.iter().find(|field| field.name.as_deref() == Some(name));
        let (Some(buffer), Some(length)) = (find("buf"), find("len")) else { return Ok(None) };
        let Some(element) = self.type_parameter(ty, "T")? else { return Ok(None) };
        let unknown = |reason| Ok(Some(Value::Unknown(reason)));
        let address = match self.buffer_address(buffer, part, MAX_BUFFER_DEPTH)? {
            Some(Ok(address)) => address,
            Some(Err(reason)) => return unknown(reason),
            None => return Ok(None),
        };
        let length = match self.field_part(length, part)? {
            Ok(length) => length,
            Err(reason) => return unknown(reason),
        };
        match self.address(length)? {
            Ok(length) => self.list(address, length, Some(element), is_text, part).map(Some),
            Err(reason) => unknown(reason),
        }
    }

    /// Returns the first pointer within a member: the versions of the standard library nest it differently.
    fn buffer_address(
        &self,
        field: &Field<'e, 'b>,
        part: Part<'_>,
        depth: u32,
    ) -> Result<Option<Result<u64, Unknown>>, Stop> {
        let Some(ty) = field.ty.filter(|_| depth > 0) else { return Ok(None) };
        let Some((ty, entry)) = self.debug.strip(ty)? else { return Ok(None) };
        let inner = match self.field_part(field, part)? {
            Ok(inner) => inner,
            Err(reason) => return Ok(Some(Err(reason))),
        };
        if is_pointer(entry.tag()) {
            return self.address(inner).map(Some);
        }
        if entry.tag() != gimli::DW_TAG_structure_type {
            return Ok(None);
        }
        for field in self.fields(ty)?.iter() {
            if let Some(address) = self.buffer_address(field, inner, depth - 1)? {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    fn type_parameter(
        &self,
        ty: Cursor<'e, 'b>,
        name: &str,
    ) -> Result<Option<Cursor<'e, 'b>>, Stop> {
        for child in self.children(ty)?.iter() {
            if child.tag() == gimli::DW_TAG_template_type_parameter
                && self.debug.name(ty.unit, child)?.as_deref() == Some(name)
            {
                return Ok(self.debug.type_of(ty.unit, child));
            }
        }
        Ok(None)
    }

    /// Reads the variant of an enumeration with data.
    fn rust_enum(&mut self, variants: Cursor<'e, 'b>, part: Part<'_>) -> Read {
        let entry = variants.entry()?;
        let discriminant = self.debug.follow(variants.unit, entry.attr_value(gimli::DW_AT_discr));
        let mut bits = None;
        if let Some(at) = discriminant {
            let entry = at.entry()?;
            let ty = self.debug.type_of(at.unit, &entry);
            let size = match ty {
                Some(ty) => self.debug.size_of(ty)?.unwrap_or(0),
                None => 0,
            };
            let field = Field { name: None, ty, entry, is_artificial: true };
            let inner = match self.field_part(&field, part)? {
                Ok(inner) => inner,
                Err(reason) => return Ok(Value::Unknown(reason)),
            };
            match self.bits(inner, size, false, "a discriminant")? {
                Ok(found) => {
                    bits = Some((
                        bytes::unsigned(found, size.saturating_mul(8)),
                        size.saturating_mul(8),
                    ))
                }
                Err(reason) => return Ok(Value::Unknown(reason)),
            }
        }
        let mut default = None;
        for variant in self.children(variants)?.iter() {
            if variant.tag() != gimli::DW_TAG_variant {
                continue;
            }
            let at = Cursor { unit: variants.unit, at: variant.offset() };
            let value: Option<AttributeValue<_>> = variant.attr_value(gimli::DW_AT_discr_value);
            let Some(value) = value else {
                default = Some(at);
                continue;
            };
            let Some(number) = constant(&value)? else { continue };
            if let Some((bits, width)) = bits
                && bytes::unsigned(number.cast_unsigned(), width) == bits
            {
                return self.rust_variant(at, part);
            }
        }
        match default {
            Some(at) => self.rust_variant(at, part),
            None => Ok(Value::Unknown(Unknown::Malformed("the value has no variant".into()))),
        }
    }

    /// Reads the data of a variant.
    fn rust_variant(&mut self, at: Cursor<'e, 'b>, part: Part<'_>) -> Read {
        let Some(field) = self.fields(at)?.first().cloned() else {
            return Ok(Value::Unknown(Unknown::Malformed("a variant without data".into())));
        };
        let name = field.name.clone().unwrap_or_else(|| "?".into());
        let inner = match self.field_part(&field, part)? {
            Ok(inner) => inner,
            Err(reason) => return Ok(Value::Unknown(reason)),
        };
        let structure = match field.ty {
            Some(ty) => self.debug.strip(ty)?,
            None => None,
        };
        let Some((ty, _)) = structure else { return Ok(Value::Variant { name, data: None }) };
        let fields = self.fields(ty)?;
        if fields.is_empty() {
            return Ok(Value::Variant { name, data: None });
        }
        let inner = Part { depth: part.depth, ..inner };
        let data = self.record(&fields, inner, Language::Rust)?;
        Ok(Value::Variant { name, data: Some(Box::new(data)) })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnsizedKind {
    Text,
    Slice,
}

/// Returns what a pointer with a length points to, by the name of its type, or `None` if it is something else.
fn unsized_kind(name: &str) -> Option<UnsizedKind> {
    let pointers = ["&mut ", "&", "*const ", "*mut ", "alloc::boxed::Box<"];
    let target = pointers.iter().find_map(|pointer| name.strip_prefix(pointer))?;
    let ends_here = |rest: &str| rest.is_empty() || rest.starts_with([',', '>']);
    match target.strip_prefix("str") {
        Some(rest) if ends_here(rest) => Some(UnsizedKind::Text),
        _ => target.starts_with('[').then_some(UnsizedKind::Slice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_is_text() {
        for name in
            ["&str", "&mut str", "*const str", "alloc::boxed::Box<str, alloc::alloc::Global>"]
        {
            assert_eq!(unsized_kind(name), Some(UnsizedKind::Text), "{name}");
        }
        for name in ["&[&str]", "&mut [u8]", "&[my::stream::Item]", "alloc::boxed::Box<[i16]>"] {
            assert_eq!(unsized_kind(name), Some(UnsizedKind::Slice), "{name}");
        }
        for name in
            ["alloc::rc::Rc<str>", "*const alloc::rc::RcInner<str>", "&std::path::Path", "&strange"]
        {
            assert_eq!(unsized_kind(name), None, "{name}");
        }
    }
}
