//! Matching the core modules of components.
//!
//! **Problem.** A component has core modules that the dump does not have, or has several times: a core module with
//! several instances has a module of the dump for each. A composed component contains the same core module again and
//! again. And a person may have the component with its debugging information while a stripped one ran, so that no
//! identity decides.
//!
//! **Idea.** The core modules of a component are matched together. The recorded identities decide for all modules that
//! have the identity of a core module. The rest is open on both sides, and modules of the dump with the same identity are
//! one *kind*. A core module belongs to the kind with its name. Otherwise it belongs to a kind if all frames of that kind
//! fit this core module and no other, and it fits no other kind. A core module that belongs nowhere is not used. A
//! component of which no core module is used is an error.
//!
//! In a dump, the name of a core module in a nested component follows the path of the component instance, as in
//! `outer/inner:module`. The last part of such a name decides too, but only if the frames fit: the path is not compared,
//! so the name can be that of a core module of another component. Names are chosen by the component. Therefore a name
//! decides only if no other core module and no other kind has it.
//!
//! Calls between component instances pass through adapters, which the engine makes. If a dump has identities, modules
//! without one are adapters or have nothing to do with components, and no core module is compared with them.
//!
//! **Cost.** One hash of each core module, and a few lookups for each module of the dump. The comparisons of core modules
//! with kinds are a product of two numbers from untrusted files, so they have a limit in frames and in bytes of code. A
//! dump can have a million modules of one kind. A comparison walks only the modules with frames, and takes its cost from
//! the limit before it starts.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::iter;

use corestream::{ModuleIdentity, ModuleIndex};

use super::{FrameFacts, Matcher, known};
use crate::limits::{MAX_CHECKED_LOCALS, MAX_COMPARED_FRAMES, MAX_DECODED_BYTES};
use crate::module::Module;
use crate::symbol_file::{Cause, Error, SymbolFile, dump_error, mismatch};

/// The work of a comparison with the frames of a module, whatever their number, as a number of frames.
const FRAMES_PER_MODULE: usize = 16;

/// The maximum number of `:` in the last part of a name, and the one before it. Tools make core modules with names such as
/// `wit-component:adapter:wasi_snapshot_preview1`.
const MAX_COLONS: usize = 4;

/// The names of modules of the dump that are compared with the name of a core module.
#[derive(Clone, Copy)]
enum Names {
    Whole,
    /// Also the last part of a name with the path of a component instance.
    WithLastParts,
}

/// The files of each module.
type FilesOfModule = BTreeMap<usize, Vec<usize>>;

/// The modules of a dump that can have the same core module.
struct Kinds {
    kinds: Vec<Vec<usize>>,
    of_module: HashMap<usize, usize>,
    /// Whether the dump has identities.
    has_identities: bool,
}

/// The frames of the modules of a kind.
#[derive(Default)]
struct KindFrames<'f> {
    of_modules: Vec<&'f [FrameFacts]>,
    /// The work of a comparison with all of them, as a number of frames.
    cost: usize,
}

impl<'f> KindFrames<'f> {
    /// Adds the frames of a module.
    fn add(&mut self, frames: &'f [FrameFacts]) {
        self.of_modules.push(frames);
        self.cost += frames.len() + FRAMES_PER_MODULE;
    }
}

/// A kind with frames. Core modules are compared with it if some of its modules are open.
#[derive(Default)]
struct OpenKind<'f> {
    frames: KindFrames<'f>,
    /// The lists of files that open modules have, each once. A million modules usually have the same one.
    files: BTreeSet<&'f [usize]>,
}

/// The remaining work for comparisons of core modules with kinds.
struct Budget {
    frames: usize,
    bytes: u64,
}

impl Budget {
    fn new() -> Self {
        Self { frames: MAX_COMPARED_FRAMES, bytes: MAX_DECODED_BYTES }
    }

    /// Takes the work for a number of frames. Returns `None` if less is left.
    fn take(&mut self, frames: usize) -> Option<()> {
        self.frames = self.frames.checked_sub(frames)?;
        Some(())
    }
}

/// The core modules of a component, as indices of files. Each has other bytes.
struct Parts<'m, 'b> {
    file: &'m SymbolFile<'b>,
    distinct: Vec<usize>,
}

impl<'m, 'b> Matcher<'m, 'b, '_> {
    /// Adds the core modules of all components to the files of modules.
    ///
    /// # Errors
    /// Returns an error if no core module of a component belongs to a module, or if the dump cannot be read.
    pub(super) fn match_components(&self, of_module: &mut FilesOfModule) -> Result<(), Error> {
        for parts in self.components() {
            let file = parts.file;
            let matched = match file.module {
                Some(module) => self.part_of(&parts, module).map(|part| vec![(module, part)]),
                None => self.match_component(&parts, of_module),
            };
            for (module, part) in matched.map_err(|cause| Error::new(file.path, cause))? {
                // Some core modules only fill tables, and have no functions to show.
                if self.read.get(part).is_some_and(|of| of.has_code() || !of.debug.is_empty()) {
                    of_module.entry(module.0 as usize).or_default().push(part);
                }
            }
        }
        Ok(())
    }

    /// Returns the components among the files. Files with the same component and the same module index belong together.
    fn components(&self) -> Vec<Parts<'m, 'b>> {
        let mut components: Vec<Parts<'_, '_>> = Vec::new();
        let mut positions = HashMap::new();
        let mut seen = HashSet::new();
        for (i, file) in self.files.iter().enumerate() {
            let Some(part) = file.part else { continue };
            let key = (part.component.as_ptr(), file.path, file.module);
            let position = *positions.entry(key).or_insert(components.len());
            if position == components.len() {
                components.push(Parts { file, distinct: Vec::new() });
            }
            if let Some(parts) = components.get_mut(position)
                && seen.insert((position, file.bytes))
            {
                parts.distinct.push(i);
            }
        }
        components
    }

    /// Returns the core module that is a given module of the dump.
    fn part_of(&self, parts: &Parts<'_, '_>, module: ModuleIndex) -> Result<usize, Cause> {
        let failed = |error: corestream::Error| dump_error(&error);
        let name = self.dump.module(module).map_err(failed)?;
        let identity = known(self.dump.module_identity(module)).map_err(failed)?;
        let identity = identity.unwrap_or_default();
        let identical = parts.distinct.iter().find(|part| self.is_identical(&identity, **part));
        if let Some(part) = identical {
            return Ok(*part);
        }
        let with_code: Vec<_> = self.with_code(&parts.distinct).collect();
        let named = |part: &&(usize, &Module<'_>)| part.1.name == Some(name.as_bytes());
        let mut frames = KindFrames::default();
        let of_module = self.facts().map_err(failed)?.get(&(module.0 as usize));
        of_module.into_iter().for_each(|of_module| frames.add(of_module));
        let has_frames = of_module.is_some();
        let budget = RefCell::new(Budget::new());
        // A core module that is not compared could fit too, so it counts as one that fits.
        let fits = |part: &&(usize, &Module<'_>)| {
            has_frames && self.fits(part.1, &frames, &mut budget.borrow_mut()).unwrap_or(true)
        };
        let last_parts: Vec<_> = last_parts(&name).collect();
        let has_last_part = |part: &&(usize, &Module<'_>)| {
            last_parts.iter().any(|name| part.1.name == Some(name.as_bytes()))
        };
        let found = only(with_code.iter())
            .or_else(|| only(with_code.iter().filter(named)))
            .or_else(|| only(with_code.iter().filter(fits)))
            .or_else(|| {
                only(with_code.iter().filter(has_last_part))
                    .filter(|part| !has_frames || fits(part))
            });
        found.map(|(part, _)| *part).ok_or_else(|| {
            mismatch(format!(
                "cannot tell which of its core modules is module {module} of the dump; extract that one with \
                 `wasm-tools component unbundle`, and pass {module}=MODULE.wasm"
            ))
        })
    }

    /// Returns the modules of the dump that core modules of a component belong to, with these core modules.
    fn match_component(
        &self,
        parts: &Parts<'_, '_>,
        of_module: &FilesOfModule,
    ) -> Result<Vec<(ModuleIndex, usize)>, Cause> {
        let mut matched = self.find_identical(&parts.distinct).map_err(|e| dump_error(&e))?;
        let used: HashSet<_> = matched.values().copied().collect();
        let open: Vec<_> = parts.distinct.iter().copied().filter(|i| !used.contains(i)).collect();
        let open: Vec<_> = self.with_code(&open).collect();
        if !open.is_empty() {
            let added = self.match_open(&open, &matched, of_module);
            matched.extend(added.map_err(|error| dump_error(&error))?);
        }
        if matched.is_empty() {
            return Err(mismatch(
                "no core module of this component matches a module of the dump; pass the component that ran, or \
                 INDEX=FILE",
            ));
        }
        let index = |(module, part)| Some((ModuleIndex(u32::try_from(module).ok()?), part));
        Ok(matched.into_iter().filter_map(index).collect())
    }

    /// Returns those of the files that have code.
    fn with_code(&self, files: &[usize]) -> impl Iterator<Item = (usize, &'m Module<'b>)> {
        let read = |i: &usize| Some((*i, self.read.get(*i)?));
        files.iter().filter_map(read).filter(|(_, module)| module.has_code())
    }

    /// Returns the modules whose recorded identity is that of a core module, with these core modules.
    fn find_identical(&self, parts: &[usize]) -> corestream::Result<BTreeMap<usize, usize>> {
        let mut found = BTreeMap::new();
        let mut by_build = HashMap::new();
        for part in parts {
            let build_id = self.read.get(*part).and_then(|module| module.build_id);
            by_build.entry(build_id).or_insert(*part);
        }
        let by_build = |id: &ModuleIdentity| by_build.get(&Some(id.build_id.as_deref()?)).copied();
        // Hashes are expensive, and a dump may have none.
        let mut by_hash: Option<HashMap<[u8; 32], usize>> = None;
        for (i, identity) in self.dump.module_identities().enumerate() {
            let Some(identity) = known(identity)? else { break };
            let part = identity.sha256.and_then(|sha256| {
                let by_hash = by_hash.get_or_insert_with(|| {
                    let hash = |part: &usize| Some((self.hash(*part)?, *part));
                    parts.iter().rev().filter_map(hash).collect()
                });
                by_hash.get(&sha256).copied()
            });
            found.extend(part.or_else(|| by_build(&identity)).map(|part| (i, part)));
        }
        Ok(found)
    }

    /// Matches core modules that no identity decides about with the other modules of the dump: `matched` are those of
    /// this component.
    fn match_open(
        &self,
        open: &[(usize, &Module<'_>)],
        matched: &BTreeMap<usize, usize>,
        of_module: &FilesOfModule,
    ) -> corestream::Result<BTreeMap<usize, usize>> {
        let kinds = self.kinds()?;
        let facts = self.facts()?;
        let mut found = BTreeMap::new();
        let files_of = |module: usize| of_module.get(&module).map_or(&[][..], Vec::as_slice);
        let is_free = |module: usize, part: usize| {
            !matched.contains_key(&module) && self.may_add(part, files_of(module))
        };
        let mut open_kinds: BTreeMap<usize, OpenKind<'_>> = BTreeMap::new();
        for (module, frames) in facts {
            let kind = kinds.of_module.get(module).copied();
            kind.into_iter()
                .for_each(|kind| open_kinds.entry(kind).or_default().frames.add(frames));
        }
        let mut budget = Budget::new();
        let mut used = HashSet::new();
        for names in [Names::Whole, Names::WithLastParts] {
            for (kind, part) in self.find_named(open, &kinds, names)? {
                let (Some(modules), Some(of)) = (kinds.kinds.get(kind), self.read.get(part)) else {
                    continue;
                };
                let frames = open_kinds.get(&kind).map(|of| &of.frames);
                // A name alone is no evidence against a recorded identity.
                if used.contains(&part) || (frames.is_none() && kinds.has_identities) {
                    continue;
                }
                if let (Names::WithLastParts, Some(frames)) = (names, frames) {
                    match self.fits(of, frames, &mut budget) {
                        Some(true) => {}
                        Some(false) => continue,
                        None => return Ok(found),
                    }
                }
                let is_open = |i: &&usize| is_free(**i, part) && !found.contains_key(*i);
                let free: Vec<_> = modules.iter().filter(is_open).collect();
                if !free.is_empty() {
                    used.insert(part);
                    found.extend(free.into_iter().map(|module| (*module, part)));
                }
            }
        }
        for (kind, of) in &mut open_kinds {
            let modules = kinds.kinds.get(*kind).into_iter().flatten();
            let is_open = |i: &&usize| !matched.contains_key(i) && !found.contains_key(i);
            of.files = modules.filter(is_open).map(|module| files_of(*module)).collect();
        }
        // Most modules have been matched, and must not use up the budget for the others.
        open_kinds.retain(|_, of| !of.files.is_empty());
        let mut kinds_of: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        let mut parts_of: HashMap<usize, usize> = HashMap::new();
        for (part, of) in open.iter().filter(|(part, _)| !used.contains(part)) {
            for (kind, open_kind) in &open_kinds {
                let lists = &open_kind.files;
                let cost = lists.iter().map(|files| files.len()).sum::<usize>() + lists.len();
                if budget.take(cost).is_none() {
                    return Ok(found);
                }
                if !lists.iter().any(|files| self.may_add(*part, files)) {
                    continue;
                }
                match self.fits(of, &open_kind.frames, &mut budget) {
                    Some(true) => {
                        kinds_of.entry(*part).or_default().insert(*kind);
                        *parts_of.entry(*kind).or_default() += 1;
                    }
                    Some(false) => {}
                    // Without all comparisons, none of the core modules is known to be the only one that fits.
                    None => return Ok(found),
                }
            }
        }
        for (part, fitting) in kinds_of {
            let kind = only(fitting.iter()).filter(|kind| parts_of.get(kind) == Some(&1));
            let modules = kind.and_then(|kind| kinds.kinds.get(*kind));
            for module in modules.into_iter().flatten() {
                if is_free(*module, part) && !found.contains_key(module) {
                    found.insert(*module, part);
                }
            }
        }
        Ok(found)
    }

    /// Returns whether a core module may become another file of a module with these files. A file that the user has named
    /// for a module stays, unless it has the same code.
    fn may_add(&self, part: usize, files: &[usize]) -> bool {
        files.iter().all(|file| {
            let has_code = self.read.get(*file).is_some_and(Module::has_code);
            !has_code || self.have_same_functions(*file, part)
        })
    }

    /// Returns whether all frames of a kind fit a core module, or `None` if the budget is used up.
    fn fits(&self, of: &Module<'_>, frames: &KindFrames<'_>, budget: &mut Budget) -> Option<bool> {
        budget.take(frames.cost)?;
        let decoded = of.decoded();
        // A frame with one local can have a function with 50,000. Comparing a local costs as much as a frame.
        let all_locals = budget.frames.min(MAX_CHECKED_LOCALS);
        let mut locals_left = all_locals;
        let fits = frames
            .of_modules
            .iter()
            .all(|frames| self.find_misfit_within(of, frames, &mut locals_left).is_none());
        budget.take(all_locals - locals_left)?;
        budget.bytes = budget.bytes.checked_sub(of.decoded() - decoded)?;
        (budget.frames > 0).then_some(fits)
    }

    /// Returns the modules of the dump by kind.
    fn kinds(&self) -> corestream::Result<Kinds> {
        let mut of_identity: HashMap<ModuleIdentity, usize> = HashMap::new();
        let mut kinds: Vec<Vec<usize>> = Vec::new();
        let mut of_module = HashMap::new();
        for (i, identity) in self.dump.module_identities().enumerate() {
            let Some(identity) = known(identity)? else { break };
            if identity == ModuleIdentity::default() {
                continue;
            }
            let kind = *of_identity.entry(identity).or_insert(kinds.len());
            if kind == kinds.len() {
                kinds.push(Vec::new());
            }
            of_module.insert(i, kind);
            kinds.get_mut(kind).into_iter().for_each(|kind| kind.push(i));
        }
        let has_identities = !kinds.is_empty();
        if !has_identities {
            kinds = (0..self.dump.modules().len()).map(|module| vec![module]).collect();
            of_module = (0..kinds.len()).map(|module| (module, module)).collect();
        }
        Ok(Kinds { kinds, of_module, has_identities })
    }

    /// Returns the kinds with a module that has the name of a core module, with these core modules. Neither the name nor
    /// the kind is that of another.
    fn find_named(
        &self,
        open: &[(usize, &Module<'_>)],
        kinds: &Kinds,
        names: Names,
    ) -> corestream::Result<BTreeMap<usize, usize>> {
        let mut parts_of_name: HashMap<_, Vec<usize>> = HashMap::new();
        for (part, module) in open {
            if let Some(name) = module.name {
                let parts = parts_of_name.entry(name).or_default();
                // Two are enough for a name that decides nothing.
                if parts.len() < 2 {
                    parts.push(*part);
                }
            }
        }
        let mut kinds_of: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        let mut parts_of: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (i, name) in self.dump.modules().enumerate() {
            let Some(name) = known(name)? else { break };
            let Some(kind) = kinds.of_module.get(&i) else { continue };
            let last = match names {
                Names::Whole => None,
                Names::WithLastParts => Some(last_parts(&name)),
            };
            for name in iter::once(&*name).chain(last.into_iter().flatten()) {
                for part in parts_of_name.get(name.as_bytes()).into_iter().flatten() {
                    kinds_of.entry(*part).or_default().insert(*kind);
                    parts_of.entry(*kind).or_default().insert(*part);
                }
            }
        }
        let named = kinds_of.into_iter().filter_map(|(part, kinds)| {
            let kind = *only(kinds.iter())?;
            only(parts_of.get(&kind)?.iter()).map(|_| (kind, part))
        });
        Ok(named.collect())
    }
}

/// Returns the names that a core module can have if a module of the dump has the name `PATH:NAME`, which `(X)` and `[N]`
/// may follow. The component chooses all parts of the name, and each may have a `:`, so there are several.
fn last_parts(name: &str) -> impl Iterator<Item = &str> {
    // The names in an adapter's name are those of others.
    let name = Some(name).filter(|name| !name.starts_with("adapter("));
    let number = name.and_then(|name| name.strip_suffix(']')?.rsplit_once('['));
    let without_number =
        number.filter(|(_, number)| number.parse::<u32>().is_ok()).map(|(name, _)| name);
    let label = |name: &str| name.strip_suffix(')')?.rfind('(');
    let without_label = move |name| label(name).and_then(|end| name.get(..end));
    let names = [name, without_number].into_iter().flatten();
    let names = names.flat_map(move |name| [Some(name), without_label(name)]).flatten();
    names.flat_map(|name| {
        let after = name.rmatch_indices(':').take(MAX_COLONS);
        iter::once(name).chain(after.filter_map(|(colon, _)| name.get(colon + 1..)))
    })
}

/// Returns the only item.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next();
    first.filter(|_| items.next().is_none())
}
