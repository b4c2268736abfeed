//! Reading values: from the type of a variable and its place to a tree of values.
//!
//! A type is read as the value is built, so there is no second model of types. Types are untrusted, and can be nested
//! without end or refer to each other in a cycle. Therefore the depth, the number of elements and the number of values of
//! a variable are limited ([`ValueLimits`]), and every step takes from the budget of the debugging information.

mod bytes;
mod rust;
mod zig;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use gimli::{AttributeValue, UnitRef};

use crate::budget::BudgetReader;
use crate::dwarf::Debug;
use crate::dwarf::location::{Doubt, Evaluator, Location, Stop, Storage, UsedPlaces};
use crate::dwarf::types::{Language, byte_size, constant_count, is_dimension, is_pointer};
use crate::dwarf::units::{Cursor, Entry};
use crate::limits::{MAX_MEMBER_ATTRIBUTES, MAX_VALUE_DEPTH};
use crate::value::{Member, Text, Unknown, Value};

/// Limits on the values of variables.
///
/// ```
/// use corestream_symbols::ValueLimits;
///
/// let limits = ValueLimits { elements: 1000, ..ValueLimits::default() };
/// assert_eq!(limits.depth, 6);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ValueLimits {
    /// The maximum depth of nested values. A variable has depth 1, and its members have depth 2.
    pub depth: u32,
    /// The maximum number of elements of an array, and of members of a structure.
    pub elements: u64,
    /// The maximum number of bytes of text.
    pub text: u64,
    /// The maximum number of pointers that are followed, one after the other.
    pub pointers: u32,
    /// The maximum number of values of one variable.
    pub values: u64,
}

impl Default for ValueLimits {
    fn default() -> Self {
        Self { depth: 6, elements: 32, text: 200, pointers: 1, values: 2000 }
    }
}

/// The position of a value within a variable.
#[derive(Clone, Copy)]
struct Part<'p> {
    storage: &'p Storage,
    /// The offset in bytes.
    offset: u64,
    /// The bits of a bit-field, counted from the least significant bit of the byte at `offset`.
    bits: Option<BitField>,
    depth: u32,
    /// How many pointers may still be followed.
    pointers: u32,
}

#[derive(Clone, Copy)]
struct BitField {
    begin: u64,
    size: u64,
}

/// A data member or base class of a structure.
#[derive(Clone)]
struct Field<'d, 'b> {
    name: Option<String>,
    ty: Option<Cursor<'d, 'b>>,
    entry: Entry<'b>,
    is_artificial: bool,
}

/// Reads the values of the variables of one frame.
pub struct Reader<'r, 'e, 's, 'd, 'b> {
    debug: &'e Debug<'b>,
    evaluator: &'r Evaluator<'e, 's, 'd, 'b>,
    limits: ValueLimits,
    /// The number of values that may still be added to the variable.
    left: u64,
    /// The fields of structures by the address of the unit and the offset of the type. The elements of an array have the
    /// same type.
    known_fields: RefCell<HashMap<(usize, usize), Fields<'e, 'b>>>,
    /// The children of types, by the same keys.
    known_children: RefCell<HashMap<(usize, usize), Children<'b>>>,
    /// The number of children in `known_children` and of their attributes.
    known_attributes: Cell<usize>,
    /// Whether the length of an array was in a local.
    has_used_local: Cell<bool>,
}

/// The children of a type.
type Children<'b> = Rc<Vec<Entry<'b>>>;

/// The fields of a structure.
type Fields<'e, 'b> = Rc<Vec<Field<'e, 'b>>>;

type Read = Result<Value, Stop>;

impl<'r, 'e, 's, 'd, 'b> Reader<'r, 'e, 's, 'd, 'b> {
    pub fn new(evaluator: &'r Evaluator<'e, 's, 'd, 'b>, limits: ValueLimits) -> Self {
        let limits = ValueLimits { depth: limits.depth.min(MAX_VALUE_DEPTH), ..limits };
        let (debug, left) = (evaluator.debug, limits.values);
        Self {
            debug,
            evaluator,
            limits,
            left,
            known_fields: RefCell::default(),
            known_children: RefCell::default(),
            known_attributes: Cell::default(),
            has_used_local: Cell::default(),
        }
    }

    /// Returns whether the type of the variable depends on a local: the length of an array.
    pub fn has_used_local(&self) -> bool {
        self.has_used_local.get()
    }

    /// Reads the value of a variable.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read, or if the debugging information is malformed.
    pub fn variable(&mut self, ty: Option<Cursor<'e, 'b>>, storage: &Storage) -> Read {
        if let Storage::Unknown(reason) = storage {
            return Ok(Value::Unknown(reason.clone()));
        }
        self.left = self.limits.values;
        let pointers = self.limits.pointers;
        self.value(ty, Part { storage, offset: 0, bits: None, depth: 1, pointers })
    }

    fn value(&mut self, ty: Option<Cursor<'e, 'b>>, part: Part<'_>) -> Read {
        let Some(left) = self.left.checked_sub(1) else { return Ok(Value::Omitted) };
        self.left = left;
        self.debug.take_steps(1)?;
        if let Some(ty) = ty
            && let Some(null) = self.zig_null(ty, part)?
        {
            return Ok(null);
        }
        let stripped = match ty {
            Some(ty) => self.debug.strip(ty)?,
            None => None,
        };
        let Some((ty, entry)) = stripped else {
            return Ok(Value::Unknown(Unknown::Unsupported("variable without a type".into())));
        };
        let is_too_deep = part.depth > self.limits.depth;
        if is_too_deep && !is_scalar(entry.tag()) {
            return Ok(Value::Omitted);
        }
        // A pointer at the maximum depth is shown, but not followed.
        let part = Part { pointers: if is_too_deep { 0 } else { part.pointers }, ..part };
        match entry.tag() {
            gimli::DW_TAG_base_type => self.scalar(ty, &entry, part),
            gimli::DW_TAG_unspecified_type => self.address(part).map(|address| match address {
                Ok(address) => Value::Pointer { address, target: None },
                Err(reason) => Value::Unknown(reason),
            }),
            tag if is_pointer(tag) => self.pointer(ty, &entry, part),
            gimli::DW_TAG_enumeration_type => self.enumeration(ty, &entry, part),
            gimli::DW_TAG_array_type => self.array(ty, &entry, part),
            gimli::DW_TAG_subrange_type => {
                let of = self.debug.type_of(ty.unit, &entry);
                self.value(of, Part { depth: part.depth + 1, ..part })
            }
            gimli::DW_TAG_structure_type | gimli::DW_TAG_class_type | gimli::DW_TAG_union_type => {
                self.structure(ty, &entry, part)
            }
            gimli::DW_TAG_ptr_to_member_type => Ok(unsupported("pointers to members")),
            tag => Ok(unsupported(&format!("type {tag}"))),
        }
    }

    fn scalar(&mut self, ty: Cursor<'e, 'b>, entry: &Entry<'b>, part: Part<'_>) -> Read {
        let encoding = match entry.attr_value(gimli::DW_AT_encoding) {
            Some(AttributeValue::Encoding(encoding)) => encoding,
            _ => return Ok(unsupported("a base type without an encoding")),
        };
        let name = self.debug.name(ty.unit, entry)?.unwrap_or_default();
        let Some(size) = byte_size(entry) else {
            return Ok(unsupported(&format!("type {name} without a size")));
        };
        if size == 0 {
            return Ok(Value::Tuple { members: Vec::new(), omitted: 0 });
        }
        let is_float = matches!(encoding, gimli::DW_ATE_float | gimli::DW_ATE_complex_float);
        if encoding == gimli::DW_ATE_complex_float {
            return self.complex(size, part, &name);
        }
        let bits = match self.bits(part, size, is_float, &name)? {
            Ok(bits) => bits,
            Err(reason) => return Ok(Value::Unknown(reason)),
        };
        let width = match part.bits {
            Some(field) => field.size,
            // Zig has integers of any number of bits.
            None => {
                match entry.attr_value(gimli::DW_AT_bit_size).and_then(|size| size.udata_value()) {
                    Some(bits) if bits > 0 && bits <= size.saturating_mul(8) => bits,
                    _ => size.saturating_mul(8),
                }
            }
        };
        Ok(match encoding {
            gimli::DW_ATE_boolean => match bytes::unsigned(bits, width) {
                0 => Value::Boolean(false),
                1 => Value::Boolean(true),
                more => Value::Unsigned(more),
            },
            gimli::DW_ATE_signed_char | gimli::DW_ATE_unsigned_char
                if name == "char" && size == 1 && part.bits.is_none() =>
            {
                Value::Byte(u8::try_from(bytes::unsigned(bits, 8)).unwrap_or_default())
            }
            gimli::DW_ATE_signed | gimli::DW_ATE_signed_char | gimli::DW_ATE_signed_fixed => {
                Value::Signed(bytes::signed(bits, width))
            }
            gimli::DW_ATE_unsigned
            | gimli::DW_ATE_unsigned_char
            | gimli::DW_ATE_unsigned_fixed
            | gimli::DW_ATE_address => Value::Unsigned(bytes::unsigned(bits, width)),
            gimli::DW_ATE_UTF | gimli::DW_ATE_UCS | gimli::DW_ATE_ASCII => {
                let code = u32::try_from(bytes::unsigned(bits, width)).ok();
                match code.and_then(char::from_u32) {
                    // A unit of a multi-byte sequence or of a surrogate pair is not a character.
                    Some(c) if size > 1 || c.is_ascii() => Value::Character(c),
                    _ => Value::Unsigned(bytes::unsigned(bits, width)),
                }
            }
            gimli::DW_ATE_float => bytes::float(bits, size)
                .unwrap_or_else(|| unsupported(&format!("floats of {size} bytes"))),
            other => unsupported(&format!("encoding {other} of type {name}")),
        })
    }

    fn complex(&mut self, size: u64, part: Part<'_>, name: &str) -> Read {
        let half = size / 2;
        let read = |offset| -> Read {
            let part = Part { offset: part.offset.wrapping_add(offset), ..part };
            Ok(match self.bits(part, half, true, name)? {
                Ok(bits) => bytes::float(bits, half)
                    .unwrap_or_else(|| unsupported(&format!("floats of {half} bytes"))),
                Err(reason) => Value::Unknown(reason),
            })
        };
        Ok(Value::Complex(Box::new([read(0)?, read(half)?])))
    }

    fn enumeration(&mut self, ty: Cursor<'e, 'b>, entry: &Entry<'b>, part: Part<'_>) -> Read {
        let Some(size) = self.debug.size_of(ty)? else {
            return Ok(unsupported("an enumeration without a size"));
        };
        let bits = match self.bits(part, size, false, "an enumeration")? {
            Ok(bits) => bits,
            Err(reason) => return Ok(Value::Unknown(reason)),
        };
        let width = part.bits.map_or(size.saturating_mul(8), |field| field.size);
        let bits = bytes::unsigned(bits, width);
        let children = self.children(ty)?;
        let mut signed = self.is_signed(ty, entry)?;
        for child in children.iter() {
            let Some(value) = child.attr_value(gimli::DW_AT_const_value) else { continue };
            let Some(number) = constant(&value)? else { continue };
            signed |= number < 0;
            if bytes::unsigned(number.cast_unsigned(), width) == bits
                && let Some(name) = self.debug.name(ty.unit, child)?
            {
                return Ok(Value::Enumerator { name, number });
            }
        }
        Ok(match signed {
            true => Value::Signed(bytes::signed(bits, width)),
            false => Value::Unsigned(bits),
        })
    }

    /// Returns whether the underlying type of an enumeration is signed.
    fn is_signed(&self, ty: Cursor<'e, 'b>, entry: &Entry<'b>) -> gimli::Result<bool> {
        let Some(of) = self.debug.type_of(ty.unit, entry) else { return Ok(false) };
        let Some((_, of)) = self.debug.strip(of)? else { return Ok(false) };
        Ok(matches!(
            of.attr_value(gimli::DW_AT_encoding),
            Some(AttributeValue::Encoding(gimli::DW_ATE_signed | gimli::DW_ATE_signed_char))
        ))
    }

    fn pointer(&mut self, ty: Cursor<'e, 'b>, entry: &Entry<'b>, part: Part<'_>) -> Read {
        let address = match self.address(part)? {
            Ok(address) => address,
            Err(reason) => return Ok(Value::Unknown(reason)),
        };
        let target = match self.debug.type_of(ty.unit, entry) {
            Some(of) if address != 0 && part.pointers > 0 => self.target(of, address, part)?,
            _ => None,
        };
        Ok(Value::Pointer { address, target: target.map(Box::new) })
    }

    /// Reads the value at the address that a pointer holds. Returns `None` for `void` and functions.
    fn target(
        &mut self,
        of: Cursor<'e, 'b>,
        address: u64,
        part: Part<'_>,
    ) -> Result<Option<Value>, Stop> {
        let Some((ty, entry)) = self.debug.strip(of)? else { return Ok(None) };
        match entry.tag() {
            gimli::DW_TAG_subroutine_type | gimli::DW_TAG_unspecified_type => return Ok(None),
            gimli::DW_TAG_base_type if self.is_char(ty, &entry)? => {
                return Ok(Some(match self.c_string(address)? {
                    Ok(text) => Value::Text(text),
                    Err(reason) => Value::Unknown(reason),
                }));
            }
            // A type that is only declared.
            _ if entry.attr_value(gimli::DW_AT_declaration).is_some() => return Ok(None),
            // Such as `()` in Rust.
            gimli::DW_TAG_base_type if byte_size(&entry) == Some(0) => return Ok(None),
            _ => {}
        }
        let storage = Storage::Memory(address);
        let part = Part {
            storage: &storage,
            offset: 0,
            bits: None,
            depth: part.depth + 1,
            pointers: part.pointers - 1,
        };
        self.value(Some(ty), part).map(Some)
    }

    /// Returns whether a type is the `char` of C, or the `char8_t` of C++.
    fn is_char(&self, ty: Cursor<'e, 'b>, entry: &Entry<'b>) -> gimli::Result<bool> {
        let name = match entry.attr_value(gimli::DW_AT_encoding) {
            Some(AttributeValue::Encoding(
                gimli::DW_ATE_signed_char | gimli::DW_ATE_unsigned_char,
            )) => "char",
            Some(AttributeValue::Encoding(gimli::DW_ATE_UTF)) => "char8_t",
            _ => return Ok(false),
        };
        let is_one_byte = byte_size(entry) == Some(1);
        Ok(is_one_byte && self.debug.name(ty.unit, entry)?.as_deref() == Some(name))
    }

    /// Returns the direct children of a type. They are kept, because the elements of an array have the same type.
    fn children(&self, of: Cursor<'e, 'b>) -> Result<Children<'b>, Stop> {
        let key = (std::ptr::from_ref(of.unit.unit).addr(), of.at.0);
        if let Some(children) = self.known_children.borrow().get(&key) {
            return Ok(children.clone());
        }
        let children = Rc::new(self.debug.children(of)?);
        let mut known = self.known_children.borrow_mut();
        let attributes = children.iter().map(|child| child.attrs().len() + 1).sum::<usize>();
        let all = self.known_attributes.get() + attributes;
        if all > MAX_MEMBER_ATTRIBUTES {
            known.clear();
            self.known_fields.borrow_mut().clear();
            self.known_attributes.set(attributes);
        } else {
            self.known_attributes.set(all);
        }
        known.insert(key, children.clone());
        Ok(children)
    }

    fn array(&mut self, ty: Cursor<'e, 'b>, entry: &Entry<'b>, part: Part<'_>) -> Read {
        let Some(of) = self.debug.type_of(ty.unit, entry) else {
            return Ok(unsupported("an array without an element type"));
        };
        let mut dimensions = Vec::new();
        for child in self.children(ty)?.iter() {
            if is_dimension(child.tag()) {
                match self.count(ty.unit, child)? {
                    Ok(count) => dimensions.push(count),
                    Err(reason) => return Ok(Value::Unknown(reason)),
                }
            }
        }
        if dimensions.is_empty() {
            return Ok(unsupported("an array without dimensions"));
        }
        if entry.has_attr(gimli::DW_AT_bit_stride) {
            return Ok(unsupported("an array whose elements are not whole bytes"));
        }
        let stride = entry.attr_value(gimli::DW_AT_byte_stride).and_then(|x| x.udata_value());
        let size = match stride {
            Some(stride) => Some(stride),
            None => self.debug.size_of(of)?,
        };
        let Some(size) = size else {
            return Ok(unsupported("an array of elements without a size"));
        };
        self.dimension(of, size, &dimensions, part)
    }

    /// Returns the number of elements in a dimension of an array, which a variable may hold.
    fn count(
        &self,
        unit: UnitRef<'e, BudgetReader<'b>>,
        dimension: &Entry<'b>,
    ) -> Result<Result<u64, Unknown>, Stop> {
        let default_lower = self.debug.language(unit)?.default_lower_bound();
        if let Some(count) = constant_count(dimension, default_lower) {
            return Ok(Ok(count));
        }
        let (attribute, plus) = match dimension.attr_value(gimli::DW_AT_count) {
            Some(count) => (Some(count), 0),
            None => {
                let lower = match dimension.attr_value(gimli::DW_AT_lower_bound) {
                    Some(lower) => lower.sdata_value(),
                    None => Some(default_lower),
                };
                let Some(lower) = lower else {
                    let what = "an array with a variable lower bound".into();
                    return Ok(Err(Unknown::Unsupported(what)));
                };
                (dimension.attr_value(gimli::DW_AT_upper_bound), 1 - i128::from(lower))
            }
        };
        let Some(attribute) = attribute else {
            // A flexible array member, or an array behind a pointer.
            return Ok(Err(Unknown::Unsupported("an array without a length".into())));
        };
        let location = match self.debug.follow(unit, Some(attribute.clone())) {
            Some(variable) => match variable.entry()?.attr_value(gimli::DW_AT_location) {
                Some(location) => location,
                None => return Ok(Err(Unknown::OptimizedOut)),
            },
            None => attribute,
        };
        let Location { storage, used } = self.evaluator.locate(location)?;
        self.has_used_local.set(self.has_used_local.get() || used.is_in_local);
        match used.doubt {
            Some(Doubt::Reused(place)) => {
                let what =
                    format!("an array whose length is in {place}, which may have been reused");
                return Ok(Err(Unknown::Unsupported(what)));
            }
            Some(Doubt::Unknown(reason)) => return Ok(Err(reason)),
            None => {}
        }
        let part = Part { storage: &storage, offset: 0, bits: None, depth: 1, pointers: 0 };
        // Clang describes the size of a variable-length array as an `unsigned long`, which has 4 bytes at least.
        let size = match &storage {
            Storage::Number(number) if number.extends => 8,
            Storage::Number(number) => u64::from(number.bytes.max(1)),
            _ => unit.encoding().address_size.into(),
        };
        Ok(self.bits(part, size, false, "the length of an array")?.map(|bits| {
            let bound =
                i128::from(u64::try_from(bytes::unsigned(bits, size * 8)).unwrap_or(u64::MAX));
            u64::try_from((bound + plus).max(0)).unwrap_or(u64::MAX)
        }))
    }

    /// Reads an array with these dimensions. `size` is the size of an element in bytes.
    fn dimension(
        &mut self,
        of: Cursor<'e, 'b>,
        size: u64,
        dimensions: &[u64],
        part: Part<'_>,
    ) -> Read {
        let Some((count, inner)) = dimensions.split_first() else {
            return self.value(Some(of), part);
        };
        // An array of arrays makes values before it reaches the elements.
        let Some(left) = self.left.checked_sub(1) else { return Ok(Value::Omitted) };
        self.left = left;
        self.debug.take_steps(1 + dimensions.len() as u64)?;
        if part.depth > self.limits.depth {
            return Ok(Value::Omitted);
        }
        let stride = inner.iter().try_fold(size, |size, count| size.checked_mul(*count));
        let Some(stride) = stride else {
            return Ok(unsupported("an array larger than the address space"));
        };
        if inner.is_empty()
            && let Some((ty, entry)) = self.debug.strip(of)?
            && entry.tag() == gimli::DW_TAG_base_type
            && self.is_char(ty, &entry)?
        {
            return self.char_array(*count, part);
        }
        let mut elements = Vec::new();
        for i in 0..(*count).min(self.limits.elements) {
            if self.left == 0 {
                break;
            }
            let offset = i.checked_mul(stride).and_then(|at| part.offset.checked_add(at));
            let Some(offset) = offset else { break };
            let part = Part { offset, depth: part.depth + 1, ..part };
            elements.push(self.dimension(of, size, inner, part)?);
        }
        Ok(Value::Sequence { elements, length: *count })
    }

    fn char_array(&mut self, count: u64, part: Part<'_>) -> Read {
        let len = count.min(self.limits.text);
        let bytes = match self.bytes(part.storage, part.offset, len)? {
            Ok(bytes) => bytes,
            Err(reason) => return Ok(Value::Unknown(reason)),
        };
        let address = None;
        let (bytes, length) = match bytes.iter().position(|byte| *byte == 0) {
            Some(end) => (bytes.get(..end).unwrap_or_default().to_vec(), Some(end as u64)),
            None => (bytes, (len == count).then_some(count)),
        };
        Ok(Value::Text(Text { bytes, length, unread: None, address }))
    }

    fn structure(&mut self, ty: Cursor<'e, 'b>, entry: &Entry<'b>, part: Part<'_>) -> Read {
        if entry.attr_value(gimli::DW_AT_declaration).is_some() {
            let name = self.debug.name(ty.unit, entry)?.unwrap_or_default();
            return Ok(unsupported(&format!("type {name} is only declared")));
        }
        let language = self.debug.language(ty.unit)?;
        let special = match language {
            Language::Rust => self.rust_structure(ty, entry, part)?,
            Language::Zig => self.zig_structure(ty, entry, part)?,
            Language::OneBased | Language::Other => None,
        };
        match special {
            Some(value) => Ok(value),
            None => {
                let fields = self.fields(ty)?;
                self.record(&fields, part, language)
            }
        }
    }

    /// Returns the base classes and data members of a structure.
    fn fields(&self, ty: Cursor<'e, 'b>) -> Result<Fields<'e, 'b>, Stop> {
        let key = (std::ptr::from_ref(ty.unit.unit).addr(), ty.at.0);
        if let Some(fields) = self.known_fields.borrow().get(&key) {
            return Ok(fields.clone());
        }
        let mut fields = Vec::new();
        for entry in self.children(ty)?.iter() {
            let is_base = entry.tag() == gimli::DW_TAG_inheritance;
            // A static member has its value elsewhere. DWARF 4 marks it so.
            let is_static =
                entry.has_attr(gimli::DW_AT_external) || entry.has_attr(gimli::DW_AT_declaration);
            if (entry.tag() != gimli::DW_TAG_member && !is_base) || is_static {
                continue;
            }
            let ty_of = self.debug.type_of(ty.unit, entry);
            let name = match (self.debug.name(ty.unit, entry)?, is_base) {
                (Some(name), _) => Some(name),
                (None, true) => Some(self.debug.type_name(ty_of)?),
                (None, false) => None,
            };
            let is_artificial = entry.has_attr(gimli::DW_AT_artificial);
            fields.push(Field { name, ty: ty_of, entry: entry.clone(), is_artificial });
        }
        let fields = Rc::new(fields);
        self.known_fields.borrow_mut().insert(key, fields.clone());
        Ok(fields)
    }

    /// Reads the members of a structure.
    fn record(&mut self, fields: &[Field<'e, 'b>], part: Part<'_>, language: Language) -> Read {
        let is_tuple = language == Language::Rust
            && !fields.is_empty()
            && fields
                .iter()
                .enumerate()
                .all(|(i, field)| field.name.as_deref() == Some(format!("__{i}").as_str()));
        let shown = usize::try_from(self.limits.elements).unwrap_or(usize::MAX);
        let (count, mut members) = (fields.len(), Vec::new());
        for field in fields.iter().take(shown) {
            if self.left == 0 {
                break;
            }
            let value = self.field(field, part)?;
            members.push(Member { name: field.name.clone(), value });
        }
        let omitted = count - members.len();
        Ok(match is_tuple {
            true => {
                let members = members.into_iter().map(|member| member.value).collect();
                Value::Tuple { members, omitted }
            }
            false => Value::Record { members, omitted },
        })
    }

    /// Reads a member of a structure.
    fn field(&mut self, field: &Field<'e, 'b>, part: Part<'_>) -> Read {
        let inner = match self.field_part(field, part)? {
            Ok(inner) => inner,
            Err(reason) => return Ok(Value::Unknown(reason)),
        };
        // Does not follow the pointer to the table of virtual functions, which the compiler made.
        let is_table = field.is_artificial
            && field.name.as_deref().is_some_and(|name| name.starts_with("_vptr"));
        let pointers = if is_table { 0 } else { inner.pointers };
        self.value(field.ty, Part { pointers, ..inner })
    }

    /// Returns the part of a structure that a member is.
    fn field_part<'p>(
        &self,
        field: &Field<'e, 'b>,
        part: Part<'p>,
    ) -> Result<Result<Part<'p>, Unknown>, Stop> {
        let entry = &field.entry;
        let number = |name| {
            let value: Option<AttributeValue<_>> = entry.attr_value(name);
            value.and_then(|value| value.udata_value())
        };
        let offset = match entry.attr_value(gimli::DW_AT_data_member_location) {
            None => 0,
            Some(location) => {
                match (location.udata_value(), location.exprloc_value(), part.storage) {
                    (Some(offset), ..) => offset,
                    (None, Some(expression), Storage::Memory(address)) => {
                        // The address of a virtual base class is in the object.
                        let object = address.wrapping_add(part.offset);
                        let mut used = UsedPlaces::default();
                        match self.evaluator.evaluate(expression, Some(object), &mut used)? {
                            _ if used.depend_on_frame() => {
                                return Ok(Err(Unknown::Unsupported("place of a member".into())));
                            }
                            Storage::Memory(found) => found.wrapping_sub(object),
                            Storage::Unknown(reason) => return Ok(Err(reason)),
                            _ => return Ok(Err(Unknown::Unsupported("place of a member".into()))),
                        }
                    }
                    _ => return Ok(Err(Unknown::Unsupported("place of a member".into()))),
                }
            }
        };
        let mut inner = Part {
            offset: part.offset.wrapping_add(offset),
            bits: None,
            depth: part.depth + 1,
            ..part
        };
        let Some(size) = number(gimli::DW_AT_bit_size) else { return Ok(Ok(inner)) };
        let begin = match (number(gimli::DW_AT_data_bit_offset), number(gimli::DW_AT_bit_offset)) {
            (Some(begin), _) => begin,
            (None, Some(from_top)) => {
                // Up to DWARF 3, bits are counted from the most significant bit of the storage unit.
                let of_type = match field.ty {
                    Some(ty) => self.debug.size_of(ty)?,
                    None => None,
                };
                let unit = number(gimli::DW_AT_byte_size).or(of_type).unwrap_or(0);
                let begin = unit.checked_mul(8).and_then(|bits| {
                    from_top.checked_add(size).and_then(|used| bits.checked_sub(used))
                });
                let Some(begin) = begin else {
                    return Ok(Err(Unknown::Malformed("a bit-field outside its type".into())));
                };
                begin
            }
            (None, None) => 0,
        };
        inner.offset = inner.offset.wrapping_add(begin / 8);
        inner.bits = Some(BitField { begin: begin % 8, size });
        Ok(Ok(inner))
    }
}

/// Returns whether a type is not made of other values.
fn is_scalar(tag: gimli::DwTag) -> bool {
    tag == gimli::DW_TAG_base_type || tag == gimli::DW_TAG_enumeration_type || is_pointer(tag)
}

fn unsupported(what: &str) -> Value {
    Value::Unknown(Unknown::Unsupported(what.into()))
}

/// Returns a constant of up to 128 bits.
fn constant(value: &AttributeValue<BudgetReader<'_>>) -> gimli::Result<Option<i128>> {
    Ok(match value {
        AttributeValue::Data16(bits) => Some(bits.cast_signed()),
        AttributeValue::Block(block) => {
            let bytes = gimli::Reader::to_slice(block)?;
            let mut bits = [0; 16];
            match bits.get_mut(..bytes.len()) {
                Some(part) => {
                    part.copy_from_slice(&bytes);
                    Some(i128::from_le_bytes(bits))
                }
                None => None,
            }
        }
        AttributeValue::Udata(value) => Some((*value).into()),
        value => match value.sdata_value() {
            Some(value) => Some(value.into()),
            None => value.udata_value().map(Into::into),
        },
    })
}
