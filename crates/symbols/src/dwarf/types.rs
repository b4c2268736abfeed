//! Types: qualifiers, names, sizes, and the language of their unit.

use gimli::{AttributeValue, DwTag, UnitRef};

use super::Debug;
use super::units::{Cursor, Entry};
use crate::budget::BudgetReader;
use crate::limits::{MAX_NAME_CHARS, MAX_TYPE_STEPS};

/// The language of a unit, where values depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Rust,
    Zig,
    /// A language whose arrays begin at index 1 (DWARF 5, table 7.17).
    OneBased,
    Other,
}

impl Language {
    /// Returns the lower bound of arrays that have none.
    pub fn default_lower_bound(self) -> i64 {
        i64::from(self == Self::OneBased)
    }
}

impl<'b> Debug<'b> {
    /// Returns the language of a unit.
    ///
    /// # Errors
    /// Returns an error if the unit is malformed.
    pub fn language(&self, unit: UnitRef<'_, BudgetReader<'b>>) -> gimli::Result<Language> {
        let key = std::ptr::from_ref(unit.unit).addr();
        if let Some(known) = self.languages.borrow().get(&key) {
            return Ok(*known);
        }
        let found = self.read_language(unit)?;
        self.languages.borrow_mut().insert(key, found);
        Ok(found)
    }

    fn read_language(&self, unit: UnitRef<'_, BudgetReader<'b>>) -> gimli::Result<Language> {
        let root = unit.entry(unit.header.root_offset())?;
        let language = root.attr_value(gimli::DW_AT_language);
        match language {
            Some(AttributeValue::Language(gimli::DW_LANG_Rust)) => return Ok(Language::Rust),
            Some(AttributeValue::Language(
                gimli::DW_LANG_Ada83
                | gimli::DW_LANG_Ada95
                | gimli::DW_LANG_Cobol74
                | gimli::DW_LANG_Cobol85
                | gimli::DW_LANG_Fortran77
                | gimli::DW_LANG_Fortran90
                | gimli::DW_LANG_Fortran95
                | gimli::DW_LANG_Fortran03
                | gimli::DW_LANG_Fortran08
                | gimli::DW_LANG_Fortran18
                | gimli::DW_LANG_Modula2
                | gimli::DW_LANG_Modula3
                | gimli::DW_LANG_Pascal83
                | gimli::DW_LANG_PLI,
            )) => return Ok(Language::OneBased),
            _ => {}
        }
        // Zig has no code of its own in the DWARF that LLVM writes for it.
        let producer = match root.attr_value(gimli::DW_AT_producer) {
            Some(producer) => unit.attr_string(producer)?,
            None => return Ok(Language::Other),
        };
        let is_zig = gimli::Reader::to_string_lossy(&producer)?.starts_with("zig ");
        Ok(if is_zig { Language::Zig } else { Language::Other })
    }

    /// Returns the type of an entry, or `None` if it has none, which means `void`.
    pub fn type_of<'d>(
        &'d self,
        unit: UnitRef<'d, BudgetReader<'b>>,
        entry: &Entry<'b>,
    ) -> Option<Cursor<'d, 'b>> {
        self.follow(unit, entry.attr_value(gimli::DW_AT_type))
    }

    /// Returns the type behind typedefs and qualifiers, or `None` if it is `void`.
    ///
    /// # Errors
    /// Returns an error if the types are malformed or form a cycle.
    pub fn strip<'d>(
        &'d self,
        mut ty: Cursor<'d, 'b>,
    ) -> gimli::Result<Option<(Cursor<'d, 'b>, Entry<'b>)>> {
        for _ in 0..MAX_TYPE_STEPS {
            let entry = ty.entry()?;
            if !is_alias(entry.tag()) {
                return self.definition(ty, entry).map(Some);
            }
            match self.type_of(ty.unit, &entry) {
                Some(of) => ty = of,
                None => return Ok(None),
            }
        }
        Err(gimli::Error::UnsupportedTypeOperation)
    }

    /// Returns the definition of a type that is only declared here and defined in a type unit.
    fn definition<'d>(
        &'d self,
        ty: Cursor<'d, 'b>,
        entry: Entry<'b>,
    ) -> gimli::Result<(Cursor<'d, 'b>, Entry<'b>)> {
        let signature = entry.attr_value(gimli::DW_AT_signature);
        match self.follow(ty.unit, signature) {
            Some(found) => {
                let entry = found.entry()?;
                Ok((found, entry))
            }
            None => Ok((ty, entry)),
        }
    }

    /// Returns the size of a type in bytes, if it is known.
    ///
    /// # Errors
    /// Returns an error if the types are malformed.
    pub fn size_of(&self, ty: Cursor<'_, 'b>) -> gimli::Result<Option<u64>> {
        self.size_within(ty, 0)
    }

    fn size_within(&self, ty: Cursor<'_, 'b>, steps: usize) -> gimli::Result<Option<u64>> {
        if steps > MAX_TYPE_STEPS {
            return Ok(None);
        }
        let Some((ty, entry)) = self.strip(ty)? else { return Ok(None) };
        if let Some(size) = byte_size(&entry) {
            return Ok(Some(size));
        }
        match entry.tag() {
            tag if is_pointer(tag) => Ok(Some(ty.unit.encoding().address_size.into())),
            gimli::DW_TAG_array_type => {
                let Some(of) = self.type_of(ty.unit, &entry) else { return Ok(None) };
                let Some(mut size) = self.size_within(of, steps + 1)? else { return Ok(None) };
                let lower = self.language(ty.unit)?.default_lower_bound();
                for child in self.children(ty)? {
                    if is_dimension(child.tag()) {
                        let Some(count) = constant_count(&child, lower) else { return Ok(None) };
                        let Some(product) = size.checked_mul(count) else { return Ok(None) };
                        size = product;
                    }
                }
                Ok(Some(size))
            }
            gimli::DW_TAG_enumeration_type | gimli::DW_TAG_subrange_type => {
                match self.type_of(ty.unit, &entry) {
                    Some(of) => self.size_within(of, steps + 1),
                    None => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    /// Returns the name of a type as its language writes it, or as C does where it has no name.
    ///
    /// # Errors
    /// Returns an error if the types are malformed.
    pub fn type_name(&self, ty: Option<Cursor<'_, 'b>>) -> gimli::Result<String> {
        self.type_name_within(ty, 0)
    }

    fn type_name_within(&self, ty: Option<Cursor<'_, 'b>>, steps: usize) -> gimli::Result<String> {
        let Some(ty) = ty else { return Ok("void".into()) };
        if steps > MAX_TYPE_STEPS {
            return Ok("...".into());
        }
        let (ty, entry) = self.definition(ty, ty.entry()?)?;
        if let Some(name) = self.name(ty.unit, &entry)? {
            return Ok(name);
        }
        let of = || self.type_name_within(self.type_of(ty.unit, &entry), steps + 1);
        let name = match entry.tag() {
            gimli::DW_TAG_const_type => match of()? {
                pointer if pointer.ends_with('*') => format!("{pointer} const"),
                other => format!("const {other}"),
            },
            gimli::DW_TAG_volatile_type => format!("volatile {}", of()?),
            gimli::DW_TAG_restrict_type => format!("{} restrict", of()?),
            gimli::DW_TAG_atomic_type => format!("_Atomic {}", of()?),
            gimli::DW_TAG_pointer_type => match self.array_behind(ty.unit, &entry)? {
                Some((array, of_array)) => {
                    let element = self.type_of(array.unit, &of_array);
                    let element = self.type_name_within(element, steps + 1)?;
                    format!("{element} (*){}", self.dimensions(array)?)
                }
                None => match of()? {
                    pointer if pointer.ends_with('*') => format!("{pointer}*"),
                    other => format!("{other} *"),
                },
            },
            gimli::DW_TAG_reference_type => format!("{} &", of()?),
            gimli::DW_TAG_rvalue_reference_type => format!("{} &&", of()?),
            gimli::DW_TAG_ptr_to_member_type => format!("{} ::*", of()?),
            gimli::DW_TAG_subroutine_type => format!("{} ()", of()?),
            gimli::DW_TAG_array_type => of()? + &self.dimensions(ty)?,
            gimli::DW_TAG_structure_type => "struct".into(),
            gimli::DW_TAG_class_type => "class".into(),
            gimli::DW_TAG_union_type => "union".into(),
            gimli::DW_TAG_enumeration_type => "enum".into(),
            _ => "?".into(),
        };
        Ok(crate::demangle::truncate(&name))
    }
}

impl<'b> Debug<'b> {
    /// Returns the array without a name that a pointer points to, if it does.
    fn array_behind<'d>(
        &'d self,
        unit: UnitRef<'d, BudgetReader<'b>>,
        pointer: &Entry<'b>,
    ) -> gimli::Result<Option<(Cursor<'d, 'b>, Entry<'b>)>> {
        let Some(target) = self.type_of(unit, pointer) else { return Ok(None) };
        let entry = target.entry()?;
        let is_array = entry.tag() == gimli::DW_TAG_array_type
            && entry.attr_value(gimli::DW_AT_name).is_none();
        Ok(is_array.then_some((target, entry)))
    }

    /// Returns the dimensions of an array in the syntax of C.
    fn dimensions(&self, array: Cursor<'_, 'b>) -> gimli::Result<String> {
        let mut text = String::new();
        let lower = self.language(array.unit)?.default_lower_bound();
        for child in self.children(array)? {
            if is_dimension(child.tag()) && text.len() < MAX_NAME_CHARS {
                match constant_count(&child, lower) {
                    Some(count) => text += &format!("[{count}]"),
                    None => text += "[]",
                }
            }
        }
        Ok(text)
    }
}

/// Returns whether an entry is another name of a type, or qualifies it.
fn is_alias(tag: DwTag) -> bool {
    matches!(
        tag,
        gimli::DW_TAG_typedef
            | gimli::DW_TAG_const_type
            | gimli::DW_TAG_volatile_type
            | gimli::DW_TAG_restrict_type
            | gimli::DW_TAG_atomic_type
            | gimli::DW_TAG_immutable_type
            | gimli::DW_TAG_shared_type
            | gimli::DW_TAG_packed_type
            | gimli::DW_TAG_template_alias
    )
}

/// Returns whether values of a type are addresses.
pub fn is_pointer(tag: DwTag) -> bool {
    matches!(
        tag,
        gimli::DW_TAG_pointer_type
            | gimli::DW_TAG_reference_type
            | gimli::DW_TAG_rvalue_reference_type
    )
}

/// Returns whether an entry is a dimension of an array.
pub fn is_dimension(tag: DwTag) -> bool {
    matches!(
        tag,
        gimli::DW_TAG_subrange_type
            | gimli::DW_TAG_enumeration_type
            | gimli::DW_TAG_generic_subrange
    )
}

/// Returns the size attribute of a type, in bytes.
pub fn byte_size(entry: &Entry<'_>) -> Option<u64> {
    entry.attr_value(gimli::DW_AT_byte_size)?.udata_value()
}

/// Returns the constant number of elements in a dimension of an array. `default_lower` is the lower bound that the
/// language implies.
pub fn constant_count(dimension: &Entry<'_>, default_lower: i64) -> Option<u64> {
    if let Some(count) = dimension.attr_value(gimli::DW_AT_count) {
        return count.udata_value();
    }
    let upper = dimension.attr_value(gimli::DW_AT_upper_bound)?;
    let lower = dimension.attr_value(gimli::DW_AT_lower_bound);
    let lower = lower.map_or(Some(default_lower), |lower| lower.sdata_value())?;
    // The upper bound of an array without elements is -1.
    upper.sdata_value()?.checked_sub(lower)?.checked_add(1)?.try_into().ok()
}
