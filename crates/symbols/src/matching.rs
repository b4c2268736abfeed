//! Matching the modules of a dump with files.
//!
//! **Problem.** A file from another build of the guest often has a function with the index of a frame, and an
//! instruction at its offset. Names and lines from it are plausible and false.
//!
//! **Idea.** If the dump records the identity of the module, its build id or its SHA-256, the identity decides. Otherwise
//! all of the dump must fit the file: each frame's function must have a body with an instruction at the frame's offset, a
//! call where the frame called another one, and locals of the types that the dump recorded. One frame that does not fit
//! proves that the file is not the module. Frames that fit prove nothing, so the match is only plausible.
//!
//! The SHA-256 of a file changes when its debugging information is removed, so a different one proves nothing either.
//!
//! Debugging information in a file of its own must describe the functions of the code: the two files must have the same
//! build id, or nearly all functions that it describes must begin and end where functions of the code do.
//!
//! **Cost.** One pass over the frames, of which at most [`MAX_CHECKED_FRAMES`] are checked, and one over the code of each
//! function with a frame. A dump can have a million modules with the identity of one file, so a file is hashed once, and
//! no more code than [`MAX_DECODED_BYTES`](super::limits::MAX_DECODED_BYTES) is compared.

mod components;

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use corestream::read::Producer;
use corestream::{CoreDumpFile, Frame, ModuleIdentity, ModuleIndex, Value};
use sha2::{Digest, Sha256};
use wasmparser::ValType;

use super::component::{ExpandedFiles, expand_components};
use super::dwarf::{functions, split};
use super::instances::{Instances, known};
use super::limits::{MAX_CHECKED_FRAMES, MAX_CHECKED_LOCALS};
use super::module::Module;
use super::symbol_file::{Cause, Error, SymbolFile, dump_error, mismatch};

/// The files of a module, and whether they are from the build that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModuleMatch {
    /// The module.
    pub module: ModuleIndex,
    /// The index of the file with the code, among the files that were passed. `None` if no file has code.
    pub code: Option<usize>,
    /// The index of the file with the debugging information, if there is one.
    pub debug: Option<usize>,
    /// Whether the files are from the build that ran.
    pub verdict: Verdict,
}

/// Whether files are from the build of a module that ran.
///
/// ```
/// use corestream_symbols::{Mismatch, Verdict};
///
/// let mismatch = Mismatch::new(Some((0, 1)), "function 7 has no call at 0x12");
/// assert_eq!(mismatch.to_string(), "frame 1 of thread 0: function 7 has no call at 0x12");
/// assert!(!Verdict::Mismatch(mismatch).is_usable());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The identity that the dump records for the module is that of the files.
    Certain,
    /// The dump does not record an identity that decides, and no frame contradicts the file. At most
    /// [`MAX_CHECKED_FRAMES`] frames of the dump are compared, and only if a file has code.
    Plausible,
    /// The file is from another build or program.
    Mismatch(Mismatch),
}

impl Verdict {
    /// Returns whether facts from the file can be shown: whether this is not a mismatch.
    pub fn is_usable(&self) -> bool {
        !matches!(self, Self::Mismatch(_))
    }
}

/// The proof that a file is not the module that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mismatch {
    /// The index of the file, among the files that were passed. `None` if it is not known.
    pub file: Option<usize>,
    /// The thread and the frame that do not fit, as indices. `None` if the identity differs, or if the debugging
    /// information is not that of the code.
    pub frame: Option<(usize, usize)>,
    /// What does not fit.
    pub reason: String,
}

impl Mismatch {
    /// Creates a mismatch, of a frame if there is one.
    pub fn new(frame: Option<(usize, usize)>, reason: impl Into<String>) -> Self {
        Self { file: None, frame, reason: reason.into() }
    }

    /// Sets the file that does not fit, as an index among the files that were passed.
    #[must_use]
    pub fn with_file(self, file: usize) -> Self {
        Self { file: Some(file), ..self }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((thread, frame)) = self.frame {
            write!(f, "frame {frame} of thread {thread}: ")?;
        }
        f.write_str(&self.reason)
    }
}

/// Finds the module of each file, and checks that the files are from the build that ran.
///
/// A file belongs to the module that [`SymbolFile::with_module`] names. Otherwise it belongs to the module with its
/// identity, to the only module, to the module with its name, to the module of another file with its build id or of a
/// file that refers to it, or to the only module whose frames fit it. Split DWARF files belong to all modules and are
/// not in the result.
///
/// The core modules of a [component](crate::Component) are matched one by one: by identity if the dump records one that
/// decides, otherwise by name or frames that fit one core module and no other. A core module that matches nothing is not
/// used. `code` and `debug` are then the index of the component's file.
///
/// ```
/// # use corestream::{CoreDump, CoreDumpFile, Dumper, Instance, Frame, Thread};
/// use corestream_symbols::{SymbolFile, Verdict, match_modules};
///
/// # let mut dump = CoreDump::new("guest.wasm");
/// # let module = dump.add_module("guest.wasm");
/// # let instance = dump.add_instance(Instance::new(module));
/// # dump.add_thread(Thread::new("main").with_frames([Frame::new(instance, 0, 1)]));
/// # let bytes = Dumper::new().plan(&dump)?.to_vec()?;
/// // The dump has a frame, and this module has no function.
/// let dump = CoreDumpFile::from_slice(&bytes)?;
/// let files = [SymbolFile::new("guest.wasm", b"\0asm\x01\0\0\0\x0a\x01\0")];
/// let matches = match_modules(&files, &dump)?;
/// let Verdict::Mismatch(mismatch) = &matches[0].verdict else { panic!() };
/// assert_eq!(mismatch.to_string(), "frame 0 of thread 0: has no function 0, only 0 functions");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Returns an error if a file matches no module, if two files with different code match the same module, or if the dump
/// cannot be read.
pub fn match_modules(
    files: &[SymbolFile<'_>],
    dump: &CoreDumpFile<'_>,
) -> Result<Vec<ModuleMatch>, Error> {
    let expanded = expand_components(files)?;
    let read: Vec<_> = expanded.files().iter().map(|file| Module::read(file.bytes)).collect();
    let matches = match_read(expanded.files(), &read, &RefCell::new(Instances::new(dump)))?;
    Ok(matches.into_iter().map(|found| found.with_origins(&expanded)).collect())
}

impl ModuleMatch {
    /// Returns the match with the indices of the files that the caller passed.
    pub(crate) fn with_origins(self, expanded: &ExpandedFiles<'_>) -> Self {
        let origin = |file: Option<usize>| file.and_then(|file| expanded.origin(file));
        let verdict = match self.verdict {
            Verdict::Mismatch(mismatch) => {
                Verdict::Mismatch(Mismatch { file: origin(mismatch.file), ..mismatch })
            }
            verdict => verdict,
        };
        Self { module: self.module, code: origin(self.code), debug: origin(self.debug), verdict }
    }
}

/// Finds the module of each file. `read` has the content of the files. Components are replaced by their core modules.
pub fn match_read(
    files: &[SymbolFile<'_>],
    read: &[Module<'_>],
    instances: &RefCell<Instances<'_>>,
) -> Result<Vec<ModuleMatch>, Error> {
    let dump = instances.borrow().dump();
    let hashes = files.iter().map(|_| OnceCell::new()).collect();
    let matcher = Matcher {
        files,
        read,
        instances,
        dump,
        hashes,
        facts: OnceCell::new(),
        companions: RefCell::default(),
        same_functions: RefCell::default(),
    };
    let mut of_module: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut open = Vec::new();
    for (i, (file, module)) in files.iter().zip(read).enumerate() {
        if split::is_split_file(module) || file.part.is_some() {
            continue;
        }
        match matcher.modules_of(i, file, module).map_err(|cause| Error::new(file.path, cause))? {
            Found::Modules(modules) => {
                for module in modules {
                    of_module.entry(module).or_default().push(i);
                }
            }
            Found::Nothing(cause) => open.push((i, file, module, cause)),
        }
    }
    matcher.match_components(&mut of_module)?;
    for (i, file, module, cause) in open {
        let at = |cause| Error::new(file.path, cause);
        let mut found = matcher.related(file, module, &of_module);
        if found.is_empty() {
            found.push(matcher.only_fitting(module).map_err(at)?.ok_or_else(|| at(cause))?);
        }
        for module in found {
            of_module.entry(module).or_default().push(i);
        }
    }
    of_module.into_iter().map(|(module, files)| matcher.decide(module, &files)).collect()
}

/// The modules to which a file belongs, or the cause why none is found.
enum Found {
    Modules(Vec<usize>),
    Nothing(Cause),
}

struct Matcher<'m, 'b, 'd> {
    files: &'m [SymbolFile<'b>],
    read: &'m [Module<'b>],
    instances: &'m RefCell<Instances<'d>>,
    dump: &'d CoreDumpFile<'d>,
    /// The SHA-256 of each file.
    hashes: Vec<OnceCell<[u8; 32]>>,
    /// The facts about the frames, by module.
    facts: OnceCell<BTreeMap<usize, Vec<FrameFacts>>>,
    /// The results for each file with code and its companion.
    companions: RefCell<HashMap<(usize, usize), Option<Mismatch>>>,
    /// Whether two files have the same functions. A dump can have a million modules with the same two files.
    same_functions: RefCell<HashMap<(usize, usize), bool>>,
}

impl Matcher<'_, '_, '_> {
    fn modules_of(
        &self,
        of: usize,
        file: &SymbolFile<'_>,
        module: &Module<'_>,
    ) -> Result<Found, Cause> {
        let failed = |error: corestream::Error| dump_error(&error);
        let one = |index: usize| Ok(Found::Modules(vec![index]));
        if let Some(index) = file.module {
            self.dump.module(index).map_err(failed)?;
            return one(index.0 as usize);
        }
        let mut identical = Vec::new();
        for (i, identity) in self.dump.module_identities().enumerate() {
            let Some(identity) = known(identity).map_err(failed)? else { break };
            if self.is_identical(&identity, of) {
                identical.push(i);
            }
        }
        if !identical.is_empty() {
            return Ok(Found::Modules(identical));
        }
        if self.dump.modules().len() == 1 {
            return one(0);
        }
        let mut named = Vec::new();
        for (i, name) in self.dump.modules().enumerate() {
            if has_name(file, module, &name.map_err(failed)?) {
                named.push(i);
            }
        }
        match named[..] {
            [index] => one(index),
            [] => Ok(Found::Nothing(mismatch("matches no module of the dump; pass INDEX=FILE"))),
            _ => Err(mismatch("several modules of the dump have this name; pass INDEX=FILE")),
        }
    }

    /// Returns the modules of another file that belongs to this one: they have the same build id, or one of them names
    /// the other as the file with its debugging information.
    fn related(
        &self,
        file: &SymbolFile<'_>,
        module: &Module<'_>,
        of_module: &BTreeMap<usize, Vec<usize>>,
    ) -> Vec<usize> {
        let is_related = |other: &usize| {
            let (Some(of), Some(path)) = (self.read.get(*other), self.files.get(*other)) else {
                return false;
            };
            (module.build_id.is_some() && module.build_id == of.build_id)
                || names_file(of.external, file.path)
                || names_file(module.external, path.path)
        };
        let related = of_module.iter().filter(|(_, others)| others.iter().any(is_related));
        related.map(|(index, _)| *index).collect()
    }

    /// Returns the only module with frames that fit a file.
    fn only_fitting(&self, module: &Module<'_>) -> Result<Option<usize>, Cause> {
        if !module.has_code() {
            return Ok(None);
        }
        let frames = self.facts().map_err(|error| dump_error(&error))?;
        let mut fitting =
            frames.iter().filter(|(_, frames)| self.find_misfit(module, frames).is_none());
        let found = fitting.next().map(|(index, _)| *index);
        Ok(found.filter(|_| fitting.next().is_none()))
    }

    /// Decides which of the files of a module has its code and which its debugging information, and whether they are
    /// from the build that ran.
    fn decide(&self, index: usize, files: &[usize]) -> Result<ModuleMatch, Error> {
        let (mut code, mut debug): (Option<usize>, Option<usize>) = (None, None);
        for i in files {
            let (Some(module), Some(file)) = (self.read.get(*i), self.files.get(*i)) else {
                continue;
            };
            let has_debug = module.debug.contains_key(".debug_info");
            let other_code = code.is_some_and(|code| {
                module.has_code() && code != *i && !self.have_same_functions(code, *i)
            });
            let is_needless =
                code.is_some() && !has_debug && (debug.is_none() || !module.has_code());
            if other_code || (has_debug && debug.is_some()) || is_needless {
                // The user has not named the core modules of a component.
                if file.part.is_some() && file.module.is_none() {
                    continue;
                }
                let cause = mismatch(format!("module {index} already has a file"));
                return Err(Error::new(file.path, cause));
            }
            // Addresses in debugging information are those of its own file, if it has code.
            if module.has_code() && (code.is_none() || has_debug) {
                code = Some(*i);
            }
            if has_debug {
                debug = Some(*i);
            }
        }
        let module = ModuleIndex(u32::try_from(index).unwrap_or(u32::MAX));
        let path = files.first().and_then(|i| self.files.get(*i)).map_or(Path::new(""), |f| f.path);
        let verdict = self.verdict(module, files, code, debug);
        let verdict = verdict.map_err(|error| Error::new(path, dump_error(&error)))?;
        Ok(ModuleMatch { module, code, debug, verdict })
    }

    fn verdict(
        &self,
        index: ModuleIndex,
        files: &[usize],
        code: Option<usize>,
        debug: Option<usize>,
    ) -> corestream::Result<Verdict> {
        let identity = known(self.dump.module_identity(index))?.unwrap_or_default();
        let build_id = |i: usize| self.read.get(i).and_then(|module| module.build_id);
        for i in files {
            if let (Some(recorded), Some(found)) = (&identity.build_id, build_id(*i))
                && found != &recorded[..]
            {
                let (found, recorded) = (hex(found), hex(recorded));
                let reason = format!("its build id is {found}, but the module has {recorded}");
                return Ok(Verdict::Mismatch(Mismatch::new(None, reason).with_file(*i)));
            }
        }
        let module = code.and_then(|code| Some((code, self.read.get(code)?)));
        if let (Some((code, module)), Some(debug)) = (module, debug)
            && let Some(mismatch) = self.find_foreign_companion(code, module, debug)
        {
            return Ok(Verdict::Mismatch(mismatch));
        }
        let has_code = |i: usize| self.read.get(i).is_some_and(Module::has_code);
        // The files of a module with code have the same functions.
        let is_code_identical =
            files.iter().any(|i| has_code(*i) && self.is_identical(&identity, *i));
        let is_of_code = |debug: usize| {
            Some(debug) == code
                || self.is_identical(&identity, debug)
                || (build_id(debug).is_some() && build_id(debug) == code.and_then(build_id))
        };
        if is_code_identical && debug.is_none_or(is_of_code) {
            return Ok(Verdict::Certain);
        }
        let Some((code, module)) = module else { return Ok(Verdict::Plausible) };
        let facts = self.facts()?.get(&(index.0 as usize));
        let misfit = facts.and_then(|frames| self.find_misfit(module, frames));
        Ok(match misfit {
            Some(mismatch) => Verdict::Mismatch(mismatch.with_file(code)),
            None => Verdict::Plausible,
        })
    }

    /// Returns a mismatch if the debugging information in a file of its own is not that of the code.
    fn find_foreign_companion(
        &self,
        code: usize,
        module: &Module<'_>,
        debug: usize,
    ) -> Option<Mismatch> {
        if let Some(known) = self.companions.borrow().get(&(code, debug)) {
            return known.clone();
        }
        let found = self.compare_companion(code, module, debug);
        self.companions.borrow_mut().insert((code, debug), found.clone());
        found
    }

    fn compare_companion(
        &self,
        code: usize,
        module: &Module<'_>,
        debug: usize,
    ) -> Option<Mismatch> {
        let companion = self.read.get(debug).filter(|_| debug != code)?;
        let path = self.files.get(code).map_or(String::new(), |of| of.path.display().to_string());
        let reason = match (companion.build_id, module.build_id) {
            (Some(found), Some(of_code)) if found == of_code => return None,
            (Some(found), Some(of_code)) => {
                format!("its build id is {}, but {path} has {}", hex(found), hex(of_code))
            }
            _ => {
                let address = functions::find_foreign(companion, module)?;
                format!("it has a function at code offset {address:#x} that {path} does not have")
            }
        };
        Some(Mismatch::new(None, reason).with_file(debug))
    }

    /// Returns whether a recorded identity is that of a file.
    fn is_identical(&self, identity: &ModuleIdentity, file: usize) -> bool {
        let build_id = self.read.get(file).and_then(|module| module.build_id);
        if identity.build_id.is_some() && identity.build_id.as_deref() == build_id {
            return true;
        }
        identity.sha256.is_some_and(|recorded| self.hash(file) == Some(recorded))
    }

    /// Returns the SHA-256 of the module that a file is or was made from.
    fn hash(&self, file: usize) -> Option<[u8; 32]> {
        let (hash, of) = (self.hashes.get(file)?, self.files.get(file)?);
        Some(of.sha256.unwrap_or_else(|| *hash.get_or_init(|| Sha256::digest(of.bytes).into())))
    }

    /// Returns whether two files have the same functions.
    fn have_same_functions(&self, a: usize, b: usize) -> bool {
        let compare = || {
            let modules = self.read.get(a).zip(self.read.get(b));
            modules.is_some_and(|(a, b)| a.has_same_functions(b))
        };
        *self.same_functions.borrow_mut().entry((a, b)).or_insert_with(compare)
    }

    /// Returns the facts about the frames of each module.
    fn facts(&self) -> corestream::Result<&BTreeMap<usize, Vec<FrameFacts>>> {
        match self.facts.get() {
            Some(facts) => Ok(facts),
            None => {
                let facts = self.read_facts()?;
                Ok(self.facts.get_or_init(|| facts))
            }
        }
    }

    fn read_facts(&self) -> corestream::Result<BTreeMap<usize, Vec<FrameFacts>>> {
        let is_only_module = self.dump.modules().len() == 1;
        let mut frames: BTreeMap<usize, Vec<FrameFacts>> = BTreeMap::new();
        let mut left = MAX_CHECKED_FRAMES;
        let mut locals_left = MAX_CHECKED_LOCALS;
        for (thread, of) in self.dump.threads().enumerate() {
            let Some(of) = known(of)? else { break };
            for (i, frame) in of.frames().enumerate() {
                let Some(frame) = known(frame)? else { break };
                let Some(more) = left.checked_sub(1) else { return Ok(frames) };
                left = more;
                let module = match frame.instance {
                    Some(instance) => match self.instances.borrow_mut().module(instance)? {
                        Ok(Some(module)) => module.0 as usize,
                        _ => continue,
                    },
                    None if is_only_module => 0,
                    None => continue,
                };
                let facts = FrameFacts::new((thread, i), &frame, &mut locals_left);
                frames.entry(module).or_default().push(facts);
            }
        }
        Ok(frames)
    }

    /// Returns the first frame, in the order of the dump, that does not fit a module.
    fn find_misfit(&self, module: &Module<'_>, frames: &[FrameFacts]) -> Option<Mismatch> {
        let mut locals_left = MAX_CHECKED_LOCALS;
        self.find_misfit_within(module, frames, &mut locals_left)
    }

    /// Returns the first frame that does not fit a module. `locals_left` is the number of locals that may still be checked.
    fn find_misfit_within(
        &self,
        module: &Module<'_>,
        frames: &[FrameFacts],
        locals_left: &mut usize,
    ) -> Option<Mismatch> {
        let exact = self.dump.producer() == Producer::Corestream && !self.dump.is_rewritten();
        let mut by_function: HashMap<u32, Vec<(u32, bool)>> = HashMap::new();
        for frame in frames {
            let caller = frame.position.1 > 0;
            by_function.entry(frame.function).or_default().push((frame.offset, caller));
        }
        let mut misfits = HashMap::new();
        for (function, offsets) in &mut by_function {
            offsets.sort_unstable();
            offsets.dedup();
            if let Some(misfit) = module.find_foreign_offset(*function, offsets, exact) {
                misfits.insert(*function, misfit);
            }
        }
        frames.iter().find_map(|frame| {
            let here = (frame.offset, frame.position.1 > 0);
            let of_code = misfits.get(&frame.function).filter(|(misfit, _)| *misfit == here);
            let reason = match of_code {
                Some((_, reason)) => reason.clone(),
                None if exact => frame.find_wrong_local(module, locals_left)?,
                None => return None,
            };
            Some(Mismatch::new(Some(frame.position), reason))
        })
    }
}

/// The facts about a frame that are compared with a file.
struct FrameFacts {
    /// The thread and the frame.
    position: (usize, usize),
    function: u32,
    offset: u32,
    /// The types of the locals; `None` for a missing value. Empty beyond [`MAX_CHECKED_LOCALS`].
    locals: Box<[Option<ValType>]>,
}

impl FrameFacts {
    /// `left` is the number of locals that may still be kept.
    fn new(position: (usize, usize), frame: &Frame, left: &mut usize) -> Self {
        let ty = |value: &Value| match value {
            Value::I32(_) => Some(ValType::I32),
            Value::I64(_) => Some(ValType::I64),
            Value::F32(_) => Some(ValType::F32),
            Value::F64(_) => Some(ValType::F64),
            _ => None,
        };
        let locals = match left.checked_sub(frame.locals.len()) {
            Some(rest) => {
                *left = rest;
                frame.locals.iter().map(ty).collect()
            }
            None => Box::default(),
        };
        Self { position, function: frame.function, offset: frame.offset, locals }
    }

    /// Returns a message if the recorded locals cannot be those of the function. `left` is the number of locals that may
    /// still be checked.
    fn find_wrong_local(&self, module: &Module<'_>, left: &mut usize) -> Option<String> {
        if self.locals.is_empty() || *left == 0 {
            return None;
        }
        let function = self.function;
        let declared = module.locals(function)?.types;
        *left = left.saturating_sub(declared.len());
        // A dump may have only the first locals.
        if declared.len() < self.locals.len() {
            let (declared, recorded) = (declared.len(), self.locals.len());
            return Some(format!(
                "function {function} has {declared} locals, and the frame has {recorded}"
            ));
        }
        let wrong = self.locals.iter().zip(&declared).position(|(recorded, declared)| {
            recorded.is_some_and(|recorded| recorded != *declared)
        })?;
        let (recorded, declared) = (self.locals.get(wrong)?.as_ref()?, declared.get(wrong)?);
        Some(format!(
            "local {wrong} of function {function} is declared as {declared}, and the frame has an {recorded}"
        ))
    }
}

/// Returns whether a module of the dump has the name of a file, or the name in its name section.
fn has_name(file: &SymbolFile<'_>, module: &Module<'_>, name: &str) -> bool {
    let file_name = Path::new(name).file_name();
    (file_name.is_some() && file_name == file.path.file_name())
        || module.name == Some(name.as_bytes())
}

/// Returns whether a reference to a file with debugging information, which is a URL or a path, names this file.
fn names_file(reference: Option<&str>, path: &Path) -> bool {
    let name = reference.and_then(|reference| reference.rsplit('/').next());
    name.is_some_and(|name| !name.is_empty() && path.file_name() == Some(name.as_ref()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
