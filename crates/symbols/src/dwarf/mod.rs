//! The DWARF of a module: the source positions of its code, and the entries of its variables.

pub mod files;
pub mod functions;
pub mod locals;
pub mod location;
pub mod number;
pub mod scope;
pub mod split;
pub mod statics;
pub mod types;
pub mod units;

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use addr2line::{Context, LookupContinuation, LookupResult};
use gimli::{AttributeValue, Dwarf, SectionId, Unit, UnitOffset, UnitRef};

use self::files::FileHashes;
use self::scope::Site;
use self::split::Split;
use self::statics::StaticSites;
use self::types::Language;
use self::units::{Attribute, Cursor, Entry, Units};
use super::budget::{Budget, BudgetReader};
use super::demangle::{demangle, truncate};
use super::limits::{
    MAX_CACHED_FILES, MAX_ENTRY_DEPTH, MAX_MEMBER_ATTRIBUTES, MAX_MEMBERS, MAX_MORE_STEPS,
    MAX_STEPS_PER_BYTE, MAX_STEPS_PER_FRAME, MAX_VARIABLES,
};
use super::module::{Module, Place, SIZE_FIELD};
use super::value::Unknown;

/// The debugging information of a module.
pub struct Debug<'b> {
    context: Context<BudgetReader<'b>>,
    main: Units<'b>,
    split: Split<'b>,
    /// The split unit of each skeleton in `main`, with the addresses of the skeleton.
    whole: Vec<OnceCell<Option<Unit<BudgetReader<'b>>>>>,
    budget: Budget,
    /// The languages of units by the address of the unit.
    languages: RefCell<HashMap<usize, Language>>,
    /// The hashes of source files by the index of the unit.
    file_hashes: RefCell<HashMap<usize, Arc<FileHashes>>>,
}

/// The source position of a code position, in one function.
#[derive(Clone, Debug)]
pub struct CodePosition {
    /// The demangled name of the function.
    pub function: Option<String>,
    pub file: Option<String>,
    pub line: Option<u32>,
    pub column: Option<u32>,
    /// The MD5 hash of the source file, if it is recorded.
    pub file_md5: Option<[u8; 16]>,
    /// The variables in scope.
    pub sites: Vec<Site>,
    /// Whether there are more variables in scope than the limit.
    pub has_more: bool,
}

impl CodePosition {
    /// Returns the size in bytes of the position, roughly.
    fn byte_len(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        size_of::<Self>()
            + text(&self.function)
            + text(&self.file)
            + self.sites.len() * size_of::<Site>()
    }
}

/// The source positions of a code position, from the innermost inlined function to the function of the frame.
#[derive(Clone, Debug, Default)]
pub struct CodePositions {
    pub positions: Vec<CodePosition>,
    /// The index of the unit, and the entry of the frame's function.
    pub function: Option<(usize, UnitOffset<usize>)>,
    /// The path of the split DWARF file that has the variables, if it was not given.
    pub missing_split: Option<String>,
}

impl CodePositions {
    /// Returns the size in bytes of the positions, roughly.
    pub fn byte_len(&self) -> usize {
        let positions: usize = self.positions.iter().map(CodePosition::byte_len).sum();
        size_of::<Self>() + positions
    }
}

impl<'b> Debug<'b> {
    /// Reads the debugging sections of `module`, and of its split DWARF files. Returns `None` if there are none.
    /// `warn` takes warnings about split files.
    ///
    /// # Errors
    /// Returns a message if the debugging information cannot be used.
    pub fn read(
        module: &Module<'b>,
        split_files: &[(&str, &Module<'b>)],
        warn: &mut impl FnMut(String),
    ) -> Result<Option<Self>, String> {
        let sections = &module.debug;
        if !sections.contains_key(".debug_info") {
            return Ok(None);
        }
        let len = |module: &Module<'_>| -> u64 {
            module.debug.values().map(|section| section.len() as u64).sum()
        };
        let all: u64 = len(module) + split_files.iter().map(|(_, file)| len(file)).sum::<u64>();
        let budget = Budget::new(all * MAX_STEPS_PER_BYTE + MAX_MORE_STEPS);
        let load = |id: SectionId| match id {
            // `.debug_aranges` may list addresses that the units do not have, and only the units were checked.
            SectionId::DebugAranges => BudgetReader::new(&[], &budget),
            _ => BudgetReader::new(sections.get(id.name()).copied().unwrap_or_default(), &budget),
        };
        let loaded: gimli::Result<_> = Dwarf::load(|id| Ok::<_, gimli::Error>(load(id)));
        let read = loaded.and_then(|dwarf| {
            let dwarf = Arc::new(dwarf);
            let main = Units::read(dwarf.clone())?;
            let mut split = Split::default();
            for (path, file) in split_files {
                if let Err(error) = split.add(file, &dwarf, &budget) {
                    let error = Self::message(&budget, error);
                    warn(format!("{path}: cannot use its debugging information: {error}"));
                }
            }
            split.sort();
            if is_too_deep(&main, &budget)? || split.any(|units| is_too_deep(units, &budget))? {
                return Ok(None);
            }
            let context = Context::from_arc_dwarf(dwarf)?;
            let whole = (0..main.len()).map(|_| OnceCell::new()).collect();
            let (languages, file_hashes) = (RefCell::default(), RefCell::default());
            let budget = budget.clone();
            Ok(Some(Self { context, main, split, whole, budget, languages, file_hashes }))
        });
        match read {
            Ok(Some(debug)) => Ok(Some(debug)),
            Ok(None) => Err(format!("has entries nested more than {MAX_ENTRY_DEPTH} levels deep")),
            Err(error) => Err(Self::message(&budget, error)),
        }
    }

    /// Returns the message for an error in debugging information with this budget.
    fn message(budget: &Budget, error: gimli::Error) -> String {
        match budget.is_exceeded() {
            true => "exceeds the limit of work for debugging information".into(),
            false => error.to_string(),
        }
    }

    /// Returns the message for an error.
    pub fn describe(&self, error: gimli::Error) -> String {
        Self::message(&self.budget, error)
    }

    /// Returns the reason why a value is unknown after an error.
    pub fn unknown(&self, error: gimli::Error) -> Unknown {
        match self.budget.is_exceeded() {
            true => Unknown::TooMuchWork,
            false => Unknown::Malformed(error.to_string()),
        }
    }

    /// Allows for the work of another frame.
    pub fn begin_frame(&self) {
        self.budget.grant(MAX_STEPS_PER_FRAME);
    }

    /// Takes steps from the budget.
    ///
    /// # Errors
    /// Returns an error if the budget is spent.
    pub fn take_steps(&self, steps: u64) -> gimli::Result<()> {
        self.budget.take(steps)
    }

    /// Returns the source positions of a code position.
    ///
    /// # Errors
    /// Returns a message if the debugging information cannot be used.
    pub fn positions(&self, place: Place) -> Result<CodePositions, String> {
        self.find(place).map_err(|error| self.describe(error))
    }

    /// Returns the index of the unit that has a code position, if there is one.
    pub fn unit_at(&self, place: Place) -> Option<usize> {
        let unit = self.load_split(self.context.find_dwarf_and_unit(place.address));
        self.index_of(unit?)
    }

    fn find(&self, Place { address, body }: Place) -> gimli::Result<CodePositions> {
        let mut frames = self.load_split(self.context.find_frames(address))?;
        let unit = self.load_split(self.context.find_dwarf_and_unit(address));
        let mut result = CodePositions::default();
        let index = unit.and_then(|unit| self.index_of(unit));
        let unit = index.and_then(|index| self.unit(index));
        let mut found = Vec::new();
        while let Some(frame) = frames.next()? {
            found.push(frame);
        }
        // The last position is that of the frame's function.
        let function = found.last().and_then(|frame| frame.dw_die_offset);
        if let (Some(function), Some(unit), Some(body)) = (function, unit, body)
            && let Some(begin) = unit.entry(function)?.attr_value(gimli::DW_AT_low_pc)
            && let Some(begin) = unit.attr_address(begin)?
            && body.checked_sub(begin).is_none_or(|before| before > SIZE_FIELD)
        {
            // The entry starts elsewhere: it describes a function that the linker removed, whose address range now
            // overlaps others.
            return Ok(result);
        }
        result.function = index.zip(function);
        for frame in found {
            let location = frame.location.as_ref();
            let name = frame.function.as_ref().and_then(|name| name.raw_name().ok());
            let mut sites = match (frame.dw_die_offset, unit) {
                (Some(entry), Some(unit)) => scope::sites(unit, entry, address, &self.budget)?,
                _ => Vec::new(),
            };
            let has_more = sites.len() > MAX_VARIABLES;
            sites.truncate(MAX_VARIABLES);
            let file = location.and_then(|location| location.file).map(truncate);
            let hashes = match index {
                // Positions are useful without hashes.
                Some(index) => self.file_hashes(index).unwrap_or_default(),
                None => Arc::default(),
            };
            result.positions.push(CodePosition {
                function: name.map(|name| demangle(&name)),
                file_md5: file.as_ref().and_then(|file| hashes.get(file).copied()),
                file,
                line: location.and_then(|location| location.line),
                column: location.and_then(|location| location.column).filter(|column| *column > 0),
                sites,
                has_more,
            });
        }
        if let Some(index) = index {
            result.missing_split = self.missing_split(index)?;
        }
        Ok(result)
    }

    /// Returns the hashes of the source files of a unit of the module, by path.
    fn file_hashes(&self, index: usize) -> gimli::Result<Arc<FileHashes>> {
        if let Some(known) = self.file_hashes.borrow().get(&index) {
            return Ok(known.clone());
        }
        let found = match self.main.get(index) {
            Some(unit) => Arc::new(files::file_hashes(unit)?),
            None => Arc::default(),
        };
        let mut known = self.file_hashes.borrow_mut();
        if known.values().map(|hashes| hashes.len()).sum::<usize>() > MAX_CACHED_FILES {
            known.clear();
        }
        known.insert(index, found.clone());
        Ok(found)
    }

    /// Gives split units to a lookup that asks for them.
    fn load_split<L>(&self, lookup: LookupResult<L>) -> L::Output
    where
        L: LookupContinuation<Buf = BudgetReader<'b>>,
    {
        let mut lookup = lookup;
        loop {
            match lookup {
                LookupResult::Output(output) => return output,
                LookupResult::Load { load, continuation } => {
                    let found = self.split.find(load.dwo_id);
                    lookup = continuation.resume(found.map(|(units, _)| units.dwarf.clone()));
                }
            }
        }
    }

    /// Returns the number of units in the module.
    pub fn unit_count(&self) -> usize {
        self.main.len()
    }

    /// Returns whether the unit with an index is a type unit.
    pub fn is_type_unit(&self, index: usize) -> bool {
        self.main.is_type_unit(index)
    }

    /// Returns the unit with an index. For a skeleton, this is the split unit if its file was given.
    pub fn unit(&self, index: usize) -> Option<UnitRef<'_, BudgetReader<'b>>> {
        let skeleton = self.main.get(index)?;
        let Some((units, unit)) = skeleton.dwo_id.and_then(|id| self.split.find(id)) else {
            return Some(skeleton);
        };
        let make = || {
            let mut whole = self.unit_of(units, unit)?;
            whole.copy_relocated_attributes(skeleton.unit);
            Some(whole)
        };
        let whole = self.whole.get(index)?.get_or_init(make).as_ref()?;
        Some(UnitRef::new(&units.dwarf, whole))
    }

    fn unit_of(&self, units: &Units<'b>, index: usize) -> Option<Unit<BudgetReader<'b>>> {
        units.dwarf.unit(units.get(index)?.header.clone()).ok()
    }

    /// Returns the index of a unit that the lookup of an address has found.
    fn index_of(&self, unit: UnitRef<'_, BudgetReader<'b>>) -> Option<usize> {
        if std::ptr::eq(unit.dwarf, Arc::as_ptr(&self.main.dwarf)) {
            return self.main.at_header(unit.header.debug_info_offset()?);
        }
        let id = unit.dwo_id?;
        self.budget.take(self.main.len() as u64).ok()?;
        (0..self.main.len()).find(|index| self.main.dwo_id(*index) == Some(id))
    }

    /// Returns the path of the split DWARF file of a unit, if the unit has one that was not given.
    fn missing_split(&self, index: usize) -> gimli::Result<Option<String>> {
        let Some(unit) = self.main.get(index) else { return Ok(None) };
        let Some(id) = unit.dwo_id else { return Ok(None) };
        if self.split.find(id).is_some() {
            return Ok(None);
        }
        let name = match unit.dwo_name()? {
            Some(name) => truncate(&gimli::Reader::to_string_lossy(&unit.attr_string(name)?)?),
            None => "a split DWARF file".into(),
        };
        Ok(Some(name))
    }

    /// Returns the entry that an attribute of an entry in `unit` refers to, if there is one.
    pub fn follow<'d>(
        &'d self,
        unit: UnitRef<'d, BudgetReader<'b>>,
        reference: Option<Attribute<'b>>,
    ) -> Option<Cursor<'d, 'b>> {
        let file = || match std::ptr::eq(unit.dwarf, Arc::as_ptr(&self.main.dwarf)) {
            true => Some(&self.main),
            false => self.split.file_of(unit.dwarf),
        };
        let reference = reference?;
        if let AttributeValue::UnitRef(at) = reference {
            return Some(Cursor { unit, at });
        }
        // The files are searched one after the other.
        self.budget.take(self.split.len() as u64).ok()?;
        match reference {
            AttributeValue::DebugInfoRef(offset) => file()?.entry_at(offset),
            AttributeValue::DebugTypesRef(signature) => {
                let own = file().and_then(|file| file.type_with(signature));
                own.or_else(|| self.main.type_with(signature))
                    .or_else(|| self.split.type_with(signature))
            }
            _ => None,
        }
    }

    /// Returns the name of an entry, or `None` if it has none or an empty one.
    ///
    /// # Errors
    /// Returns an error if the name is malformed.
    pub fn name(
        &self,
        unit: UnitRef<'_, BudgetReader<'b>>,
        entry: &Entry<'b>,
    ) -> gimli::Result<Option<String>> {
        let Some(name) = entry.attr_value(gimli::DW_AT_name) else { return Ok(None) };
        let name = truncate(&gimli::Reader::to_string_lossy(&unit.attr_string(name)?)?);
        Ok(Some(name).filter(|name| !name.is_empty()))
    }

    /// Returns the static variables of a unit.
    ///
    /// # Errors
    /// Returns an error if the entries are malformed.
    pub fn statics<'d>(
        &'d self,
        unit: UnitRef<'d, BudgetReader<'b>>,
    ) -> gimli::Result<StaticSites<'d, 'b>> {
        statics::static_sites(self, unit)
    }

    /// Returns the direct children of an entry.
    ///
    /// # Errors
    /// Returns an error if an entry is malformed, or if there are more than [`MAX_MEMBERS`] children or
    /// [`MAX_MEMBER_ATTRIBUTES`] of their attributes.
    pub fn children(&self, of: Cursor<'_, 'b>) -> gimli::Result<Vec<Entry<'b>>> {
        let mut entries = of.unit.entries_raw(Some(of.at))?;
        let top = entries.next_depth();
        let mut children = Vec::new();
        let mut current = Entry::null();
        let mut attributes = 0;
        while !entries.is_empty() {
            let depth = entries.next_depth();
            let is_parent = entries.next_offset() == of.at;
            if depth <= top && !is_parent {
                break;
            }
            if !entries.read_entry(&mut current)? {
                continue;
            }
            self.budget.take(current.attrs().len() as u64)?;
            if is_parent && !current.has_children() {
                break;
            }
            if depth == top + 1 {
                attributes += current.attrs().len();
                if children.len() >= MAX_MEMBERS || attributes > MAX_MEMBER_ATTRIBUTES {
                    return Err(self.budget.exceed());
                }
                children.push(current.clone());
            }
        }
        Ok(children)
    }
}

/// Returns whether entries are nested too deeply.
///
/// # Errors
/// Returns an error if the entries cannot be read, or have more zero-length attributes than the budget allows.
fn is_too_deep(units: &Units<'_>, budget: &Budget) -> gimli::Result<bool> {
    for index in 0..units.len() {
        let Some(unit) = units.get(index) else { continue };
        let mut entries = unit.entries_raw(None)?;
        while !entries.is_empty() {
            if entries.next_depth() > MAX_ENTRY_DEPTH {
                return Ok(true);
            }
            if let Some(abbreviation) = entries.read_abbreviation()? {
                budget.take(abbreviation.attributes().len() as u64)?;
                entries.skip_attributes(abbreviation.attributes())?;
            }
        }
    }
    Ok(false)
}
