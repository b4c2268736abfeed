//! Split DWARF: the debugging information that compilers leave out of the module, in `.dwo` files or in a `.dwp` package
//! of them.
//!
//! The module has a skeleton unit for each split unit, with the same id. Only the skeleton has addresses.

use std::sync::Arc;

use gimli::{DebugTypeSignature, Dwarf, DwarfPackage, DwoId, SectionId};

use super::units::{Cursor, Units};
use crate::budget::{Budget, BudgetReader};
use crate::limits::MAX_SPLIT_UNITS;
use crate::module::Module;

/// The units of split DWARF files.
#[derive(Default)]
pub struct Split<'b> {
    files: Vec<Units<'b>>,
    /// The file and the index of each split compile unit, sorted by id.
    by_id: Vec<(u64, usize, usize)>,
}

/// Returns whether a file is a `.dwo` or `.dwp` file.
pub fn is_split_file(file: &Module<'_>) -> bool {
    file.debug.contains_key(".debug_info.dwo") || is_package(file)
}

fn is_package(file: &Module<'_>) -> bool {
    file.debug.contains_key(".debug_cu_index")
}

impl<'b> Split<'b> {
    /// Adds the units of a `.dwo` or `.dwp` file. `parent` is the debugging information of the module.
    ///
    /// # Errors
    /// Returns an error if the file is malformed.
    pub fn add(
        &mut self,
        file: &Module<'b>,
        parent: &Dwarf<BudgetReader<'b>>,
        budget: &Budget,
    ) -> gimli::Result<()> {
        let section = |name: Option<&str>| {
            let bytes = name.and_then(|name| file.debug.get(name).copied()).unwrap_or_default();
            Ok::<_, gimli::Error>(BudgetReader::new(bytes, budget))
        };
        if !is_package(file) {
            let mut dwarf = Dwarf::load(|id: SectionId| section(id.dwo_name()))?;
            dwarf.make_dwo(parent);
            return self.add_units(dwarf);
        }
        // The indices of a package have no `.dwo` in their names.
        let named = |id: SectionId| section(id.dwo_name().or_else(|| Some(id.name())));
        let package = DwarfPackage::load(named, BudgetReader::new(&[], budget))?;
        for i in 1..=package.cu_index.unit_count() {
            self.add_units(package.cu_sections(i, parent)?)?;
        }
        for i in 1..=package.tu_index.unit_count() {
            self.add_units(package.tu_sections(i, parent)?)?;
        }
        Ok(())
    }

    fn add_units(&mut self, dwarf: Dwarf<BudgetReader<'b>>) -> gimli::Result<()> {
        if self.files.len() >= MAX_SPLIT_UNITS {
            return Ok(());
        }
        let units = Units::read(Arc::new(dwarf))?;
        for unit in 0..units.len() {
            if let Some(id) = units.dwo_id(unit) {
                self.by_id.push((id.0, self.files.len(), unit));
            }
        }
        self.files.push(units);
        Ok(())
    }

    /// Sorts the units by id. Call this before `find`.
    pub fn sort(&mut self) {
        self.by_id.sort_unstable();
    }

    /// Returns the file that has the unit with an id, and the unit's index in it.
    pub fn find(&self, id: DwoId) -> Option<(&Units<'b>, usize)> {
        let first = self.by_id.partition_point(|(other, ..)| *other < id.0);
        let (found, file, unit) = *self.by_id.get(first)?;
        if found == id.0 { Some((self.files.get(file)?, unit)) } else { None }
    }

    /// Returns the number of files, where each unit of a package counts.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Returns whether a predicate holds for any of the files.
    ///
    /// # Errors
    /// Returns the first error of the predicate.
    pub fn any(
        &self,
        mut predicate: impl FnMut(&Units<'b>) -> gimli::Result<bool>,
    ) -> gimli::Result<bool> {
        for units in &self.files {
            if predicate(units)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the file with this debugging information.
    pub fn file_of(&self, dwarf: &Dwarf<BudgetReader<'b>>) -> Option<&Units<'b>> {
        self.files.iter().find(|units| std::ptr::eq(Arc::as_ptr(&units.dwarf), dwarf))
    }

    /// Returns the type with a signature, in any of the files.
    pub fn type_with(&self, signature: DebugTypeSignature) -> Option<Cursor<'_, 'b>> {
        self.files.iter().find_map(|units| units.type_with(signature))
    }
}
