//! The symbols of a dump: what the files say about its frames.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use corestream::{CoreDumpFile, Frame, InstanceIndex, ModuleIndex};

use super::component::expand_components;
use super::dwarf::location::{Doubt, Evaluator, FunctionSite, Piece, Stop, Storage, UsedPlaces};
use super::dwarf::units::{Cursor, Entry};
use super::dwarf::{CodePosition, CodePositions, Debug, locals, split};
use super::frame_state::FrameState;
use super::instances::{Instances, known};
use super::limits::{
    MAX_CACHED_POSITION_BYTES, MAX_CHECKED_FUNCTIONS, MAX_MEMBERS, MAX_STATIC_UNITS, MAX_VARIABLES,
};
use super::matching::{ModuleMatch, Verdict, match_read};
use super::module::{Module, Place};
use super::reader::{Reader, ValueLimits};
use super::symbol_file::{Error, SymbolFile};
use super::value::{FramePlace, Unknown, Value};

/// A source position of a frame, in one function. A frame has several of them if functions are inlined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Position {
    /// The demangled name of the function.
    pub function: Option<String>,
    /// The path of the source file, as the compiler recorded it.
    pub file: Option<String>,
    /// The line, starting at 1.
    pub line: Option<u32>,
    /// The column, starting at 1.
    pub column: Option<u32>,
    /// The MD5 hash of the source file, if the compiler recorded it (DWARF 5).
    pub file_md5: Option<[u8; 16]>,
    /// The parameters and locals that are in scope, those of outer scopes first.
    pub variables: Vec<Variable>,
}

impl Position {
    pub(crate) fn without_variables(position: CodePosition) -> Self {
        let CodePosition { function, file, line, column, file_md5, sites: _, has_more: _ } =
            position;
        Self { function, file, line, column, file_md5, variables: Vec::new() }
    }
}

/// A variable with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Variable {
    /// The name in the source. For a static variable, with the namespaces around it.
    pub name: String,
    /// The kind of the variable.
    pub kind: VariableKind,
    /// The name of the type as its language writes it.
    pub type_name: String,
    /// The address of the variable, if it is in memory.
    pub address: Option<u64>,
    /// The value.
    pub value: Value,
    /// Whether the location is in a local, or relative to a frame base in a local.
    pub(crate) is_in_local: bool,
    /// The locals and operands in which the variable is.
    pub(crate) places: Vec<FramePlace>,
    /// Whether the places may not hold the variable.
    pub(crate) is_doubtful: bool,
    /// Whether the compiler kept only parts of the variable.
    pub(crate) is_partial: bool,
    /// The DWARF address from which on the variable is said to be in a local, and the local.
    pub(crate) claim: Option<(u64, u32)>,
}

impl Variable {
    /// Marks a known value as possibly overwritten.
    fn doubt(&mut self, place: FramePlace) {
        self.is_doubtful = true;
        if !matches!(self.value, Value::Unknown(_)) {
            let value = Box::new(std::mem::replace(&mut self.value, Value::Omitted));
            self.address = None;
            self.value = Value::Unknown(Unknown::Reused { place, value });
        }
    }
}

/// The kind of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VariableKind {
    /// A parameter of a function.
    Parameter,
    /// A variable of a function, which may be static.
    Local,
    /// A variable that belongs to no function.
    Static,
}

/// The function, the lines and the variables of a frame ([`Symbols::resolve`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// The function of the frame.
    pub name: Option<String>,
    /// The source positions, from the innermost inlined function to the function of the frame.
    pub positions: Vec<Position>,
    /// The reason why other information is missing, if it is.
    pub problem: Option<String>,
    /// Whether the variables are in a split DWARF file that was not given.
    pub(crate) is_split_missing: bool,
}

/// Which static variables are listed ([`Symbols::static_units`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StaticScope {
    /// Static variables of compile units with a frame.
    #[default]
    Frames,
    /// Static variables of all compile units.
    All,
}

/// A compile unit with static variables, in one instance of its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StaticUnit {
    instance: InstanceIndex,
    build: usize,
    unit: usize,
}

/// The compile units with static variables ([`Symbols::static_units`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StaticUnits {
    /// The compile units.
    pub units: Vec<StaticUnit>,
    /// Whether there are more than [`MAX_STATIC_UNITS`], which are not listed.
    pub has_more: bool,
}

/// The static variables of a compile unit ([`Symbols::read_statics`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statics {
    /// The variables.
    pub variables: Vec<Variable>,
    /// The reason why others are missing, if some are.
    pub problem: Option<String>,
}

impl StaticUnit {
    /// Returns the instance.
    pub fn instance(&self) -> InstanceIndex {
        self.instance
    }
}

/// The files of a build. Several modules of a dump can be of one build.
struct Build<'b> {
    path: String,
    /// The index of the file with the code.
    code: usize,
    debug: Option<Debug<'b>>,
}

/// A frame, with the file of its module.
#[derive(Clone, Copy)]
struct FrameSite<'f, 'b> {
    /// The index of the build.
    build: usize,
    debug: &'f Debug<'b>,
    code: &'f Module<'b>,
    place: Place,
    frame: &'f Frame,
    /// Whether the frame called a younger one.
    caller: bool,
}

/// The symbols of a dump, from the files of its modules. The [crate] documentation has an example.
pub struct Symbols<'b> {
    instances: RefCell<Instances<'b>>,
    /// The number of modules in the dump: up to a million.
    count: usize,
    files: Vec<Module<'b>>,
    builds: Vec<Build<'b>>,
    /// The index of the build of each module that has files.
    modules: BTreeMap<usize, usize>,
    matches: Vec<ModuleMatch>,
    warnings: Vec<String>,
    limits: ValueLimits,
    cache: RefCell<PositionCache>,
    /// The builds whose locals cannot be trusted, with the reason. `None` until it is needed.
    distrusted: RefCell<Option<HashMap<usize, Unknown>>>,
}

/// The code positions looked up before, by build and DWARF address.
#[derive(Default)]
struct PositionCache {
    positions: HashMap<(usize, u64), Arc<CodePositions>>,
    bytes: usize,
}

/// The places of a frame that may not hold the variables that the debugging information assigns to them
/// ([`Symbols::unreliable_places`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnreliablePlaces {
    /// No place is known to be unreliable.
    #[default]
    None,
    /// These places.
    Some(BTreeSet<FramePlace>),
    /// All locals and operands.
    All,
}

impl UnreliablePlaces {
    /// Returns whether a place is one of these.
    ///
    /// ```
    /// use corestream_symbols::{FramePlace, UnreliablePlaces};
    ///
    /// assert!(!UnreliablePlaces::None.contains(FramePlace::Local(0)));
    /// assert!(UnreliablePlaces::All.contains(FramePlace::Local(0)));
    /// ```
    pub fn contains(&self, place: FramePlace) -> bool {
        match self {
            Self::None => false,
            Self::Some(places) => places.contains(&place),
            Self::All => true,
        }
    }
}

impl fmt::Debug for Symbols<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |build: &usize| self.builds.get(*build).map(|build| &build.path);
        let paths = self.modules.iter().map(|(index, build)| (index, path(build)));
        f.debug_map().entries(paths).finish()
    }
}

impl<'b> Symbols<'b> {
    /// Matches files with the modules of a dump, as [`match_modules`](crate::match_modules) does. A file that is not
    /// from the build that ran is not used, and there is a warning.
    ///
    /// # Errors
    /// Returns the errors of [`match_modules`](crate::match_modules).
    pub fn new(files: &[SymbolFile<'b>], dump: &'b CoreDumpFile<'b>) -> Result<Self, Error> {
        let expanded = expand_components(files)?;
        let files = expanded.files();
        let read: Vec<_> = files.iter().map(|file| Module::read(file.bytes)).collect();
        let instances = RefCell::new(Instances::new(dump));
        let matches = match_read(files, &read, &instances)?;
        let path = |i: usize| files.get(i).map_or(String::new(), ToString::to_string);
        let mut warnings = expanded.warnings().to_vec();
        let used: HashSet<_> =
            matches.iter().flat_map(|found| [found.code, found.debug]).flatten().collect();
        let mut split_files = Vec::new();
        for (i, module) in read.iter().enumerate() {
            let is_unused_part =
                files.get(i).is_some_and(|file| file.part.is_some()) && !used.contains(&i);
            if let Some(fault) = module.fault.as_ref().filter(|_| !is_unused_part) {
                warnings.push(format!("{}: only partly read: {fault}", path(i)));
            }
            if split::is_split_file(module) {
                split_files.push((path(i), module));
            }
        }
        let split_files: Vec<_> =
            split_files.iter().map(|(path, module)| (path.as_str(), *module)).collect();
        let mut modules = BTreeMap::new();
        let mut builds = Vec::new();
        let mut known: HashMap<_, Option<usize>> = HashMap::new();
        for found in &matches {
            let index = found.module.0 as usize;
            let first = found.code.or(found.debug);
            let name = first.map_or(String::new(), path);
            if let Verdict::Mismatch(mismatch) = &found.verdict {
                let name = mismatch.file.map_or(name, path);
                warnings.push(format!("{name} is not module {index} of the dump: {mismatch}"));
                continue;
            }
            if let Some(build) = known.get(&(found.code, found.debug)) {
                modules.extend(build.map(|build| (index, build)));
                continue;
            }
            let code = found.code.and_then(|code| Some((code, read.get(code)?)));
            let Some((code, module)) = code else {
                let what = "has no code; also pass the module that ran";
                warnings.push(format!("{name}: {what}"));
                known.insert((found.code, found.debug), None);
                continue;
            };
            let debug = found.debug.and_then(|debug| read.get(debug));
            let debug = match debug {
                Some(module) => {
                    let warn = &mut |warning| warnings.push(warning);
                    Debug::read(module, &split_files, warn).unwrap_or_else(|cause| {
                        let path = found.debug.map_or(String::new(), path);
                        let what = "cannot use its debugging information";
                        warnings.push(format!("{path}: {what}: {cause}"));
                        None
                    })
                }
                None => None,
            };
            if let (None, Some(external)) = (&debug, module.external) {
                let line = "its debugging information is in another file; also pass that file";
                warnings.push(format!("{name}: {line}: {external}"));
            }
            known.insert((found.code, found.debug), Some(builds.len()));
            modules.insert(index, builds.len());
            builds.push(Build { path: name, code, debug });
        }
        let matches = matches.into_iter().map(|found| found.with_origins(&expanded)).collect();
        Ok(Self {
            instances,
            count: dump.modules().len(),
            files: read,
            builds,
            modules,
            matches,
            warnings,
            limits: ValueLimits::default(),
            cache: RefCell::default(),
            distrusted: RefCell::default(),
        })
    }

    /// Sets the limits on the values of variables.
    #[must_use]
    pub fn with_limits(self, limits: ValueLimits) -> Self {
        Self { limits, ..self }
    }

    /// Returns the modules that have files, in order.
    pub fn matches(&self) -> &[ModuleMatch] {
        &self.matches
    }

    /// Returns warnings about parts of the files that cannot be used, one line each.
    pub fn warnings(&self) -> impl ExactSizeIterator<Item = &str> {
        self.warnings.iter().map(String::as_str)
    }

    /// Returns the function, lines and variables of a frame, or `None` if its module has no file from the build that
    /// ran.
    ///
    /// `index` is the position of the frame in its thread. The youngest frame is 0.
    ///
    /// Parts that a damaged dump has lost are unknown. They are not an error.
    ///
    /// # Errors
    /// Returns an error if the source of the dump fails ([`ErrorKind::Input`](corestream::ErrorKind::Input)), if memory
    /// runs out, or if the operation was cancelled.
    pub fn resolve(&self, frame: &Frame, index: usize) -> corestream::Result<Option<Resolved>> {
        if self.modules.is_empty() {
            return Ok(None);
        }
        let module = match self.module_of(frame)? {
            Ok(module) => module,
            Err(problem) => {
                let problem = Some(problem);
                return Ok(Some(Resolved { problem, ..Resolved::default() }));
            }
        };
        let Some((build, of, code)) = module.and_then(|module| self.build_of(module)) else {
            return Ok(None);
        };
        let mut resolved = Resolved::default();
        let caller = index > 0;
        let place = match code.place(frame.function, frame.offset, caller) {
            Ok(place) => place,
            Err(cause) => {
                resolved.problem = Some(format!("{}: {cause}", of.path));
                return Ok(Some(resolved));
            }
        };
        resolved.name = code.function_name(frame.function).map(|name| super::demangle(&name));
        if let (Some(debug), Some(place)) = (&of.debug, place) {
            debug.begin_frame();
            match self.positions(build, debug, place) {
                Ok(positions) => {
                    let site = FrameSite { build, debug, code, place, frame, caller };
                    self.read_frame(&site, &positions, &mut resolved)?;
                }
                Err(cause) => {
                    let what = "debugging information";
                    resolved.problem = Some(format!("{}: {what}: {cause}", of.path));
                }
            }
        }
        let outer = resolved.positions.last();
        resolved.name = resolved.name.or_else(|| outer?.function.clone());
        Ok(Some(resolved))
    }

    /// Returns the locals and operands of a frame that may hold other values than the debugging information says: an
    /// optimizing compiler has reused them, or a tool has renumbered the locals. [`resolve`](Self::resolve) gives no values
    /// that are in them. A debugger that reads the debugging information itself should not read these places.
    ///
    /// The places of a variable of which the compiler kept only parts are included, because LLDB 22 shows the missing parts
    /// as zeros. If the variables are in a split DWARF file that was not given, all places are included, since a debugger may
    /// find the file.
    ///
    /// `index` is the position of the frame in its thread. The youngest frame is 0.
    ///
    /// # Errors
    /// Returns an error as [`resolve`](Self::resolve) does.
    pub fn unreliable_places(
        &self,
        frame: &Frame,
        index: usize,
    ) -> corestream::Result<UnreliablePlaces> {
        let module = self.module_of(frame)?.unwrap_or_default();
        let Some((build, ..)) = module.and_then(|module| self.build_of(module)) else {
            return Ok(UnreliablePlaces::None);
        };
        if self.distrust(build)?.is_some() {
            return Ok(UnreliablePlaces::All);
        }
        let resolved = self.resolve(frame, index)?.unwrap_or_default();
        if resolved.is_split_missing {
            return Ok(UnreliablePlaces::All);
        }
        let mut places = BTreeSet::new();
        for variable in resolved.positions.iter().flat_map(|position| &position.variables) {
            let is_wrong = matches!(variable.value, Value::Unknown(Unknown::WrongType(_)));
            if variable.is_doubtful || variable.is_partial || is_wrong {
                places.extend(&variable.places);
            }
        }
        match places.is_empty() {
            true => Ok(UnreliablePlaces::None),
            false => Ok(UnreliablePlaces::Some(places)),
        }
    }

    /// Returns the build of a module, if it has files: its index, its files, and the one with the code.
    fn build_of(&self, module: usize) -> Option<(usize, &Build<'b>, &Module<'b>)> {
        let index = *self.modules.get(&module)?;
        let build = self.builds.get(index)?;
        Some((index, build, self.files.get(build.code)?))
    }

    /// Returns the reason why no local of a build can be trusted, if there is one.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read.
    fn distrust(&self, build: usize) -> corestream::Result<Option<Unknown>> {
        if let Some(found) = &*self.distrusted.borrow() {
            return Ok(found.get(&build).cloned());
        }
        let found = self.find_distrusted()?;
        let reason = found.get(&build).cloned();
        *self.distrusted.borrow_mut() = Some(found);
        Ok(reason)
    }

    /// Compares the locals in the units of all frames with those of the code.
    fn find_distrusted(&self) -> corestream::Result<HashMap<usize, Unknown>> {
        let (mut functions, mut units) = (HashSet::new(), HashSet::new());
        let mut distrusted = HashMap::new();
        let dump = self.instances.borrow().dump();
        for thread in dump.threads() {
            let Some(thread) = known(thread)? else { break };
            for (i, frame) in thread.frames().enumerate() {
                let Some(frame) = known(frame)? else { break };
                let Ok(Some(module)) = self.module_of(&frame)? else { continue };
                let Some((build, of, code)) = self.build_of(module) else { continue };
                if functions.contains(&(build, frame.function)) || distrusted.contains_key(&build) {
                    continue;
                }
                if functions.len() >= MAX_CHECKED_FUNCTIONS {
                    distrusted.insert(build, Unknown::TooMuchWork);
                    continue;
                }
                functions.insert((build, frame.function));
                let Ok(Some(place)) = code.place(frame.function, frame.offset, i > 0) else {
                    continue;
                };
                let Some(debug) = &of.debug else { continue };
                let Some(unit) = debug.unit_at(place) else { continue };
                if !units.insert((build, unit)) {
                    continue;
                }
                let Some(unit) = debug.unit(unit) else { continue };
                match locals::has_disagreement(debug, unit, code) {
                    Ok(false) => {}
                    Ok(true) => {
                        distrusted.insert(build, Unknown::Renumbered);
                    }
                    Err(error) => {
                        // Malformed debugging information proves nothing.
                        if debug.unknown(error) == Unknown::TooMuchWork {
                            distrusted.insert(build, Unknown::TooMuchWork);
                        }
                    }
                }
            }
        }
        Ok(distrusted)
    }

    /// Returns the module of a frame, if it is known, or the reason why it cannot be determined.
    fn module_of(&self, frame: &Frame) -> corestream::Result<Result<Option<usize>, String>> {
        match frame.instance {
            Some(instance) => {
                let module = self.instances.borrow_mut().module(instance)?;
                Ok(module.map(|module| module.map(|module| module.0 as usize)))
            }
            // The instance is unknown, but the dump has only one module.
            None => Ok(Ok((self.count == 1).then_some(0))),
        }
    }

    /// Returns the source positions of a code position, from the cache if it was looked up before.
    fn positions(
        &self,
        build: usize,
        debug: &Debug<'b>,
        place: Place,
    ) -> Result<Arc<CodePositions>, String> {
        let key = (build, place.address);
        if let Some(found) = self.cache.borrow().positions.get(&key) {
            return Ok(found.clone());
        }
        let found = Arc::new(debug.positions(place)?);
        let mut cache = self.cache.borrow_mut();
        if cache.bytes > MAX_CACHED_POSITION_BYTES {
            *cache = PositionCache::default();
        }
        cache.bytes += found.byte_len();
        cache.positions.insert(key, found.clone());
        Ok(found)
    }

    /// Adds the source positions of a frame, with the values of their variables.
    fn read_frame(
        &self,
        site: &FrameSite<'_, 'b>,
        found: &CodePositions,
        resolved: &mut Resolved,
    ) -> corestream::Result<()> {
        let FrameSite { build, debug, code, place, frame, caller } = *site;
        let assignments = code.assignments(frame.function);
        let unit = found.function.and_then(|(unit, function)| Some((debug.unit(unit)?, function)));
        let state = FrameState {
            instances: &self.instances,
            instance: frame.instance,
            frame: Some(frame),
            caller,
        };
        let evaluator = match unit {
            Some((unit, function)) => {
                let address = place.address;
                let assignments = assignments.as_deref();
                let function = FunctionSite { entry: function, address, assignments };
                match Evaluator::new(debug, unit, state, Some(function)) {
                    Ok(evaluator) => Some(evaluator),
                    Err(Stop::Dump(error)) => return Err(error),
                    Err(Stop::Debug(error)) => {
                        resolved.problem = Some(debug.describe(error));
                        None
                    }
                }
            }
            None => None,
        };
        for position in &found.positions {
            let mut variables = Vec::new();
            if let Some(evaluator) = &evaluator {
                for site in &position.sites {
                    let kind = match site.parameter {
                        true => VariableKind::Parameter,
                        false => VariableKind::Local,
                    };
                    let cursor = site.cursor(evaluator.unit);
                    variables.extend(self.read_variable(evaluator, cursor, kind, None)?);
                }
            }
            doubt_shared_locals(&mut variables);
            if position.has_more {
                let line = format!("only the first {MAX_VARIABLES} variables are shown");
                resolved.problem.get_or_insert(line);
            }
            let position = Position::without_variables(position.clone());
            resolved.positions.push(Position { variables, ..position });
        }
        let variables = resolved.positions.iter_mut().flat_map(|at| &mut at.variables);
        let mut in_locals: Vec<_> = variables.filter(|variable| variable.is_in_local).collect();
        if !in_locals.is_empty()
            && let Some(reason) = self.distrust(build)?
        {
            for variable in &mut in_locals {
                variable.address = None;
                variable.value = Value::Unknown(reason.clone());
            }
        }
        if let Some(path) = &found.missing_split {
            let line = "the functions and variables are in another file; also pass that file";
            resolved.problem.get_or_insert(format!("{line}: {path}"));
            resolved.is_split_missing = true;
        }
        Ok(())
    }

    /// Reads a variable. Returns `None` if it has no name.
    fn read_variable(
        &self,
        evaluator: &Evaluator<'_, '_, 'b, 'b>,
        cursor: Cursor<'_, 'b>,
        kind: VariableKind,
        name: Option<String>,
    ) -> corestream::Result<Option<Variable>> {
        let mut variable = Variable {
            name: String::new(),
            kind,
            type_name: String::new(),
            address: None,
            value: Value::Omitted,
            is_in_local: false,
            places: Vec::new(),
            is_doubtful: false,
            is_partial: false,
            claim: None,
        };
        let result = self.read_value(evaluator, cursor, name, &mut variable);
        match result {
            Ok(()) => {}
            Err(Stop::Dump(error)) => return Err(error),
            Err(Stop::Debug(error)) => {
                variable.value = Value::Unknown(evaluator.debug.unknown(error));
                // The error may have come before the name.
                if variable.name.is_empty() {
                    variable.name = "?".into();
                }
            }
        }
        Ok(Some(variable).filter(|variable| !variable.name.is_empty()))
    }

    fn read_value(
        &self,
        evaluator: &Evaluator<'_, '_, 'b, 'b>,
        cursor: Cursor<'_, 'b>,
        name: Option<String>,
        variable: &mut Variable,
    ) -> Result<(), Stop> {
        let debug = evaluator.debug;
        let entry: Entry<'b> = cursor.entry()?;
        // A variable of an inlined function has its name and type in the abstract instance of the function, and the
        // definition of a class member has them in its declaration.
        let mut origins = Vec::new();
        let unit = evaluator.unit;
        for name in [gimli::DW_AT_abstract_origin, gimli::DW_AT_specification] {
            if let Some(origin) = debug.follow(unit, entry.attr_value(name)) {
                origins.push((origin.unit, origin.entry()?));
            }
        }
        let own = debug.name(unit, &entry)?;
        variable.name = match name.or(own) {
            Some(name) => name,
            None => {
                let mut name = None;
                for (unit, origin) in &origins {
                    name = name.or(debug.name(*unit, origin)?);
                }
                name.unwrap_or_default()
            }
        };
        let of_origin = || origins.iter().find_map(|(unit, origin)| debug.type_of(*unit, origin));
        let ty = debug.type_of(unit, &entry).or_else(of_origin);
        variable.type_name = debug.type_name(ty)?;
        let mut used = UsedPlaces::default();
        let storage = match entry.attr_value(gimli::DW_AT_location) {
            Some(location) => {
                let location = evaluator.locate(location)?;
                used = location.used;
                location.storage
            }
            None => {
                let constant = entry.attr_value(gimli::DW_AT_const_value).or_else(|| {
                    let mut origins = origins.iter();
                    origins.find_map(|(_, origin)| origin.attr_value(gimli::DW_AT_const_value))
                });
                match constant {
                    Some(value) => Storage::constant(&value)?,
                    None => Storage::Unknown(Unknown::OptimizedOut),
                }
            }
        };
        if let Storage::Memory(address) = storage {
            variable.address = Some(address);
        }
        variable.places = used.places().collect();
        if let (Storage::Pieces(pieces), Some(ty)) = (&storage, ty) {
            let is_missing = |piece: &Piece| matches!(piece.storage, Storage::Unknown(_));
            let len: u64 = pieces.iter().map(|piece| piece.bytes).sum();
            let is_short = debug.size_of(ty)?.is_some_and(|size| size > len);
            variable.is_partial = is_short || pieces.iter().any(is_missing);
        }
        // Several variables can be calculated from one local.
        let is_plain = matches!(&storage, Storage::Number(number) if !number.extends);
        variable.claim = used.range_start_and_local().filter(|_| is_plain);
        let mut reader = Reader::new(evaluator, self.limits);
        variable.value = reader.variable(ty, &storage)?;
        variable.is_in_local = used.is_in_local || reader.has_used_local();
        match used.doubt {
            Some(Doubt::Reused(place)) => variable.doubt(place),
            Some(Doubt::Unknown(reason)) => {
                variable.is_doubtful = true;
                variable.address = None;
                variable.value = Value::Unknown(reason);
            }
            None => {}
        }
        Ok(())
    }

    /// Returns the compile units in `scope`, for [`read_statics`](Self::read_statics).
    ///
    /// # Errors
    /// Returns an error as [`resolve`](Self::resolve) does.
    pub fn static_units(&self, scope: StaticScope) -> corestream::Result<StaticUnits> {
        let mut found = StaticUnits::default();
        if self.builds.iter().all(|build| build.debug.is_none()) {
            return Ok(found);
        }
        let units = &mut found.units;
        match scope {
            StaticScope::Frames => {
                let mut seen = HashSet::new();
                let dump = self.instances.borrow().dump();
                for thread in dump.threads() {
                    let Some(thread) = known(thread)? else { break };
                    for (i, frame) in thread.frames().enumerate() {
                        let Some(frame) = known(frame)? else { break };
                        let Some(unit) = self.static_unit(&frame, i)? else { continue };
                        if !seen.insert(unit) {
                            continue;
                        }
                        if units.len() >= MAX_STATIC_UNITS {
                            found.has_more = true;
                            return Ok(found);
                        }
                        units.push(unit);
                    }
                }
            }
            StaticScope::All => {
                let count = self.instances.borrow().dump().instances().len();
                for instance in (0..).map(InstanceIndex).take(count) {
                    let module = self.instances.borrow_mut().module(instance)?;
                    let Ok(Some(ModuleIndex(module))) = module else { continue };
                    let Some((build, of, _)) = self.build_of(module as usize) else { continue };
                    let Some(debug) = &of.debug else { continue };
                    for unit in (0..debug.unit_count()).filter(|unit| !debug.is_type_unit(*unit)) {
                        if units.len() >= MAX_STATIC_UNITS {
                            found.has_more = true;
                            return Ok(found);
                        }
                        units.push(StaticUnit { instance, build, unit });
                    }
                }
            }
        }
        Ok(found)
    }

    /// Returns the compile unit of a frame.
    fn static_unit(&self, frame: &Frame, index: usize) -> corestream::Result<Option<StaticUnit>> {
        let (Ok(Some(module)), Some(instance)) = (self.module_of(frame)?, frame.instance) else {
            return Ok(None);
        };
        let Some((build, of, code)) = self.build_of(module) else { return Ok(None) };
        let Some(debug) = &of.debug else { return Ok(None) };
        let Ok(Some(place)) = code.place(frame.function, frame.offset, index > 0) else {
            return Ok(None);
        };
        let found = self.positions(build, debug, place).ok();
        let unit = found.and_then(|found| found.function).map(|(unit, _)| unit);
        Ok(unit.map(|unit| StaticUnit { instance, build, unit }))
    }

    /// Returns the path of a compile unit's source file.
    pub fn static_unit_name(&self, unit: &StaticUnit) -> Option<String> {
        let debug = self.builds.get(unit.build)?.debug.as_ref()?;
        let of = debug.unit(unit.unit)?;
        let root = of.entry(of.header.root_offset()).ok()?;
        debug.name(of, &root).ok().flatten()
    }

    /// Returns the static variables of a compile unit: those that belong to no function.
    ///
    /// # Errors
    /// Returns an error as [`resolve`](Self::resolve) does.
    pub fn read_statics(&self, unit: &StaticUnit) -> corestream::Result<Statics> {
        let debug = self.builds.get(unit.build).and_then(|of| of.debug.as_ref());
        let Some(debug) = debug else { return Ok(Statics::default()) };
        let failed = |problem: String| Statics { problem: Some(problem), ..Statics::default() };
        let Some(of) = debug.unit(unit.unit) else {
            return Ok(failed("the debugging information of the unit is malformed".into()));
        };
        debug.begin_frame();
        let state = FrameState {
            instances: &self.instances,
            instance: Some(unit.instance),
            frame: None,
            // No frame has changed the globals since the guest stopped.
            caller: false,
        };
        let evaluator = match Evaluator::new(debug, of, state, None) {
            Ok(evaluator) => evaluator,
            Err(Stop::Dump(error)) => return Err(error),
            Err(Stop::Debug(error)) => return Ok(failed(debug.describe(error))),
        };
        let found = match debug.statics(of) {
            Ok(found) => found,
            Err(error) => return Ok(failed(debug.describe(error))),
        };
        let mut variables = Vec::new();
        for site in found.sites {
            let kind = VariableKind::Static;
            let read = self.read_variable(&evaluator, site.cursor, kind, Some(site.name))?;
            variables.extend(read);
        }
        let problem =
            found.has_more.then(|| format!("only the first {MAX_MEMBERS} variables are shown"));
        Ok(Statics { variables, problem })
    }
}

/// Marks variables that claim the same local from the same instruction on. At most the last one is right.
fn doubt_shared_locals(variables: &mut [Variable]) {
    let mut claims = HashMap::new();
    for claim in variables.iter().filter_map(|variable| variable.claim) {
        *claims.entry(claim).or_insert(0) += 1;
    }
    for variable in variables {
        if let Some(claim) = variable.claim
            && claims.get(&claim).is_some_and(|count| *count > 1)
        {
            variable.doubt(FramePlace::Local(claim.1));
        }
    }
}
