//! The symbols of a dump: what the files say about its frames.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use corestream::{CoreDumpFile, Frame, InstanceIndex, ModuleIndex};

use super::dwarf::location::{Evaluator, FunctionSite, Stop, Storage};
use super::dwarf::units::{Cursor, Entry};
use super::dwarf::{CodePosition, CodePositions, Debug, split};
use super::frame_state::FrameState;
use super::instances::{Instances, known};
use super::limits::{MAX_CACHED_POSITIONS, MAX_STATIC_UNITS};
use super::matching::{ModuleMatch, Verdict, match_read};
use super::module::{Module, Place};
use super::reader::{Reader, ValueLimits};
use super::symbol_file::{Error, SymbolFile};
use super::value::{Unknown, Value};

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
    /// The parameters and locals that are in scope, those of outer scopes first.
    pub variables: Vec<Variable>,
}

impl Position {
    pub(crate) fn without_variables(position: CodePosition) -> Self {
        let CodePosition { function, file, line, column, sites: _ } = position;
        Self { function, file, line, column, variables: Vec::new() }
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
    /// Whether the location uses a local.
    pub(crate) in_local: bool,
    /// The DWARF address from which on the variable is said to be in a local, and the local.
    pub(crate) claim: Option<(u64, u32)>,
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
    module: usize,
    unit: usize,
}

impl StaticUnit {
    /// Returns the instance.
    pub fn instance(&self) -> InstanceIndex {
        self.instance
    }
}

/// A module of the dump, with its files.
struct SymbolicModule<'b> {
    path: String,
    /// The index of the file with the code.
    code: usize,
    debug: Option<Debug<'b>>,
}

/// A frame, with the file of its module.
#[derive(Clone, Copy)]
struct FrameSite<'f, 'b> {
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
    /// The modules that have files.
    modules: BTreeMap<usize, SymbolicModule<'b>>,
    matches: Vec<ModuleMatch>,
    warnings: Vec<String>,
    limits: ValueLimits,
    cache: RefCell<HashMap<(usize, u64), Arc<CodePositions>>>,
}

impl fmt::Debug for Symbols<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = self.modules.iter().map(|(index, of)| (index, &of.path));
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
        let read: Vec<_> = files.iter().map(|file| Module::read(file.bytes)).collect();
        let instances = RefCell::new(Instances::new(dump));
        let matches = match_read(files, &read, &instances)?;
        let path =
            |i: usize| files.get(i).map_or(String::new(), |file| file.path.display().to_string());
        let mut warnings = Vec::new();
        let mut split_files = Vec::new();
        for (i, module) in read.iter().enumerate() {
            if let Some(fault) = &module.fault {
                warnings.push(format!("{}: only partly read: {fault}", path(i)));
            }
            if split::is_split_file(module) {
                split_files.push((path(i), module));
            }
        }
        let split_files: Vec<_> =
            split_files.iter().map(|(path, module)| (path.as_str(), *module)).collect();
        let mut modules = BTreeMap::new();
        for found in &matches {
            let index = found.module.0 as usize;
            let first = found.code.or(found.debug);
            let name = first.map_or(String::new(), path);
            if let Verdict::Mismatch(mismatch) = &found.verdict {
                warnings.push(format!("{name} is not module {index} of the dump: {mismatch}"));
                continue;
            }
            let code = found.code.and_then(|code| Some((code, read.get(code)?)));
            let Some((code, module)) = code else {
                let what = "has no code; also pass the module that ran";
                warnings.push(format!("{name}: {what}"));
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
            modules.insert(index, SymbolicModule { path: name, code, debug });
        }
        let (limits, cache) = (ValueLimits::default(), RefCell::default());
        let count = dump.modules().len();
        let files = read;
        Ok(Self { instances, count, files, modules, matches, warnings, limits, cache })
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
        let of = |module: usize| {
            let of = self.modules.get(&module)?;
            Some((module, of, self.files.get(of.code)?))
        };
        let Some((module, of, code)) = module.and_then(of) else { return Ok(None) };
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
            match self.positions(module, debug, place) {
                Ok(positions) => {
                    let site = FrameSite { debug, code, place, frame, caller };
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
        module: usize,
        debug: &Debug<'b>,
        place: Place,
    ) -> Result<Arc<CodePositions>, String> {
        let key = (module, place.address);
        if let Some(found) = self.cache.borrow().get(&key) {
            return Ok(found.clone());
        }
        let found = Arc::new(debug.positions(place)?);
        let mut cache = self.cache.borrow_mut();
        if cache.len() >= MAX_CACHED_POSITIONS {
            cache.clear();
        }
        cache.insert(key, found.clone());
        Ok(found)
    }

    /// Adds the source positions of a frame, with the values of their variables.
    fn read_frame(
        &self,
        site: &FrameSite<'_, 'b>,
        found: &CodePositions,
        resolved: &mut Resolved,
    ) -> corestream::Result<()> {
        let FrameSite { debug, code, place, frame, caller } = *site;
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
                let function = FunctionSite { entry: function, address, assignments: &assignments };
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
            let position = Position::without_variables(position.clone());
            resolved.positions.push(Position { variables, ..position });
        }
        if evaluator.is_some_and(|evaluator| evaluator.has_wrong_type()) {
            let variables = resolved.positions.iter_mut().flat_map(|at| &mut at.variables);
            for variable in variables.filter(|variable| variable.in_local) {
                variable.address = None;
                variable.value = Value::Unknown(Unknown::Renumbered);
            }
        }
        if let Some(path) = &found.missing_split {
            let line = "the functions and variables are in another file; also pass that file";
            resolved.problem.get_or_insert(format!("{line}: {path}"));
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
            in_local: false,
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
        let storage = match entry.attr_value(gimli::DW_AT_location) {
            Some(location) => evaluator.locate(location)?,
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
        let (reused, claim) = (evaluator.reused(), evaluator.claim());
        let uses_locals = evaluator.uses_locals();
        let value = Reader::new(evaluator, self.limits).variable(ty, &storage)?;
        variable.in_local = uses_locals;
        // Several variables can be calculated from one local.
        let is_plain = matches!(&storage, Storage::Number(number) if !number.extends);
        variable.claim = claim.filter(|_| is_plain);
        variable.value = match reused {
            Some(place) if !matches!(value, Value::Unknown(_)) => {
                variable.address = None;
                Value::Unknown(Unknown::Reused { place, value: Box::new(value) })
            }
            _ => value,
        };
        Ok(())
    }

    /// Returns the compile units whose static variables [`read_statics`](Self::read_statics) returns.
    ///
    /// # Errors
    /// Returns an error as [`resolve`](Self::resolve) does.
    pub fn static_units(&self, scope: StaticScope) -> corestream::Result<Vec<StaticUnit>> {
        let mut units = Vec::new();
        if self.modules.values().all(|of| of.debug.is_none()) {
            return Ok(units);
        }
        match scope {
            StaticScope::Frames => {
                let mut seen = HashSet::new();
                let dump = self.instances.borrow().dump();
                for thread in dump.threads() {
                    let Some(thread) = known(thread)? else { break };
                    for (i, frame) in thread.frames().enumerate() {
                        let Some(frame) = known(frame)? else { break };
                        if let Some(unit) = self.static_unit(&frame, i)?
                            && seen.insert(unit)
                        {
                            units.push(unit);
                        }
                        if units.len() >= MAX_STATIC_UNITS {
                            return Ok(units);
                        }
                    }
                }
            }
            StaticScope::All => {
                let count = self.instances.borrow().dump().instances().len();
                for instance in (0..).map(InstanceIndex).take(count) {
                    let module = self.instances.borrow_mut().module(instance)?;
                    let Ok(Some(ModuleIndex(module))) = module else { continue };
                    let module = module as usize;
                    let Some(debug) = self.modules.get(&module).and_then(|of| of.debug.as_ref())
                    else {
                        continue;
                    };
                    for unit in (0..debug.unit_count()).filter(|unit| !debug.is_type_unit(*unit)) {
                        if units.len() >= MAX_STATIC_UNITS {
                            return Ok(units);
                        }
                        units.push(StaticUnit { instance, module, unit });
                    }
                }
            }
        }
        Ok(units)
    }

    /// Returns the compile unit of a frame.
    fn static_unit(&self, frame: &Frame, index: usize) -> corestream::Result<Option<StaticUnit>> {
        let (Ok(Some(module)), Some(instance)) = (self.module_of(frame)?, frame.instance) else {
            return Ok(None);
        };
        let Some(of) = self.modules.get(&module) else { return Ok(None) };
        let Some(debug) = &of.debug else { return Ok(None) };
        let Some(code) = self.files.get(of.code) else { return Ok(None) };
        let Ok(Some(place)) = code.place(frame.function, frame.offset, index > 0) else {
            return Ok(None);
        };
        let found = self.positions(module, debug, place).ok();
        let unit = found.and_then(|found| found.function).map(|(unit, _)| unit);
        Ok(unit.map(|unit| StaticUnit { instance, module, unit }))
    }

    /// Returns the path of a compile unit's source file.
    pub fn static_unit_name(&self, unit: &StaticUnit) -> Option<String> {
        let debug = self.modules.get(&unit.module)?.debug.as_ref()?;
        let of = debug.unit(unit.unit)?;
        let root = of.entry(of.header.root_offset()).ok()?;
        debug.name(of, &root).ok().flatten()
    }

    /// Returns the static variables of a compile unit: those that belong to no function.
    ///
    /// # Errors
    /// Returns an error as [`resolve`](Self::resolve) does.
    pub fn read_statics(&self, unit: &StaticUnit) -> corestream::Result<Vec<Variable>> {
        let debug = self.modules.get(&unit.module).and_then(|of| of.debug.as_ref());
        let Some((debug, of)) = debug.and_then(|debug| Some((debug, debug.unit(unit.unit)?)))
        else {
            return Ok(Vec::new());
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
            Err(Stop::Debug(_)) => return Ok(Vec::new()),
        };
        let mut variables = Vec::new();
        for site in debug.statics(of).unwrap_or_default() {
            let kind = VariableKind::Static;
            let read = self.read_variable(&evaluator, site.cursor, kind, Some(site.name))?;
            variables.extend(read);
        }
        Ok(variables)
    }
}

/// Marks variables that claim the same local from the same instruction on. At most the last one is right.
fn doubt_shared_locals(variables: &mut [Variable]) {
    let mut claims = HashMap::new();
    for claim in variables.iter().filter_map(|variable| variable.claim) {
        *claims.entry(claim).or_insert(0) += 1;
    }
    for variable in variables {
        let Some(claim) = variable.claim else { continue };
        if claims.get(&claim).is_some_and(|count| *count > 1)
            && !matches!(variable.value, Value::Unknown(_))
        {
            let value = std::mem::replace(&mut variable.value, Value::Omitted);
            let place = format!("local {}", claim.1);
            variable.address = None;
            variable.value = Value::Unknown(Unknown::Reused { place, value: Box::new(value) });
        }
    }
}
