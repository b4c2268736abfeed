//! The units of one file's debugging information: by offset, by type signature, and by the id of a split unit.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use gimli::{
    AttributeValue, DebugInfoOffset, DebugTypeSignature, Dwarf, DwoId, Unit, UnitHeader,
    UnitOffset, UnitRef, UnitType,
};

use crate::budget::BudgetReader;

/// An entry of the debugging information.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'d, 'b> {
    pub unit: UnitRef<'d, BudgetReader<'b>>,
    pub at: UnitOffset<usize>,
}

/// An entry that was read.
pub type Entry<'b> = gimli::DebuggingInformationEntry<BudgetReader<'b>>;

/// The value of an attribute.
pub type Attribute<'b> = AttributeValue<BudgetReader<'b>>;

impl<'d, 'b> Cursor<'d, 'b> {
    /// Reads the entry.
    ///
    /// # Errors
    /// Returns an error if there is no well-formed entry.
    pub fn entry(&self) -> gimli::Result<Entry<'b>> {
        self.unit.entry(self.at)
    }
}

/// The units of a file.
pub struct Units<'b> {
    pub dwarf: Arc<Dwarf<BudgetReader<'b>>>,
    /// The headers in the order of the file. Headers from `.debug_types` come last.
    headers: Vec<UnitHeader<BudgetReader<'b>>>,
    /// The parsed units, in the order of `headers`.
    parsed: Vec<OnceCell<Option<Unit<BudgetReader<'b>>>>>,
    /// The type units: indices of headers, and the offsets of the types.
    signatures: HashMap<u64, (usize, UnitOffset<usize>)>,
}

impl<'b> Units<'b> {
    /// Reads the headers of all units.
    ///
    /// # Errors
    /// Returns an error if a header is malformed.
    pub fn read(dwarf: Arc<Dwarf<BudgetReader<'b>>>) -> gimli::Result<Self> {
        let (mut headers, mut signatures) = (Vec::new(), HashMap::new());
        let mut units = dwarf.units();
        while let Some(header) = units.next()? {
            headers.push(header);
        }
        let mut types = dwarf.type_units();
        while let Some(header) = types.next()? {
            headers.push(header);
        }
        for (i, header) in headers.iter().enumerate() {
            if let UnitType::Type { type_signature, type_offset }
            | UnitType::SplitType { type_signature, type_offset } = header.type_()
            {
                signatures.entry(type_signature.0).or_insert((i, type_offset));
            }
        }
        let parsed = headers.iter().map(|_| OnceCell::new()).collect();
        Ok(Self { dwarf, headers, parsed, signatures })
    }

    /// Returns the number of units.
    pub fn len(&self) -> usize {
        self.headers.len()
    }

    /// Returns the unit with an index, or `None` if it is malformed.
    pub fn get(&self, index: usize) -> Option<UnitRef<'_, BudgetReader<'b>>> {
        let parse = || self.dwarf.unit(self.headers.get(index)?.clone()).ok();
        let unit = self.parsed.get(index)?.get_or_init(parse).as_ref()?;
        Some(UnitRef::new(&self.dwarf, unit))
    }

    /// Returns whether a unit is a type unit.
    pub fn is_type_unit(&self, index: usize) -> bool {
        self.headers.get(index).is_some_and(|header| {
            matches!(header.type_(), UnitType::Type { .. } | UnitType::SplitType { .. })
        })
    }

    /// Returns the id that a split unit shares with its skeleton.
    pub fn dwo_id(&self, index: usize) -> Option<DwoId> {
        self.get(index)?.dwo_id
    }

    /// Returns the index of the unit with a header at this offset.
    pub fn at_header(&self, offset: DebugInfoOffset<usize>) -> Option<usize> {
        let found = self.position(offset)?;
        (self.headers.get(found)?.debug_info_offset() == Some(offset)).then_some(found)
    }

    /// Returns the entry at an offset of `.debug_info`.
    pub fn entry_at(&self, offset: DebugInfoOffset<usize>) -> Option<Cursor<'_, 'b>> {
        let index = self.position(offset)?;
        let at = offset.to_unit_offset(self.headers.get(index)?)?;
        Some(Cursor { unit: self.get(index)?, at })
    }

    /// Returns the type with a signature.
    pub fn type_with(&self, signature: DebugTypeSignature) -> Option<Cursor<'_, 'b>> {
        let (index, at) = *self.signatures.get(&signature.0)?;
        Some(Cursor { unit: self.get(index)?, at })
    }

    /// Returns the index of the last unit that starts at or before an offset of `.debug_info`.
    fn position(&self, offset: DebugInfoOffset<usize>) -> Option<usize> {
        let starts = |header: &UnitHeader<_>| {
            header
                .debug_info_offset()
                .is_some_and(|start: DebugInfoOffset<usize>| start.0 <= offset.0)
        };
        self.headers.partition_point(starts).checked_sub(1)
    }
}
