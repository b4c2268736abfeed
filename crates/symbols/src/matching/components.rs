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
//! Calls between component instances pass through adapters, which the engine makes. If a dump has identities, modules
//! without one are adapters or have nothing to do with components, and no core module is compared with them.
//!
//! **Cost.** One hash of each core module, and one lookup for each module of the dump. The comparisons of core modules with
//! kinds have a limit in frames and in bytes of code.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use corestream::{ModuleIdentity, ModuleIndex};

use super::{Matcher, known};
use crate::limits::{MAX_COMPARED_FRAMES, MAX_DECODED_BYTES};
use crate::module::Module;
use crate::symbol_file::{Cause, Error, SymbolFile, dump_error, mismatch};

/// The work of a comparison with the frames of a module, whatever their number, as a number of frames.
const FRAMES_PER_KIND: usize = 16;

/// The files of each module.
type FilesOfModule = BTreeMap<usize, Vec<usize>>;

/// The modules of a dump that can have the same core module.
struct Kinds {
    kinds: Vec<Vec<usize>>,
    of_module: HashMap<usize, usize>,
    /// Whether the dump has identities.
    has_identities: bool,
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
        let frames = self.facts().map_err(failed)?.get(&(module.0 as usize));
        let fits = |part: &&(usize, &Module<'_>)| {
            frames.is_some_and(|frames| self.find_misfit(part.1, frames).is_none())
        };
        let found = only(with_code.iter())
            .or_else(|| only(with_code.iter().filter(named)))
            .or_else(|| only(with_code.iter().filter(fits)));
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
        // A file that the user has named for a module stays, unless it has the same code.
        let is_free = |module: usize, of: &Module<'_>| {
            let mut files = of_module.get(&module).into_iter().flatten();
            !matched.contains_key(&module)
                && files.all(|file| {
                    let file = self.read.get(*file);
                    file.is_none_or(|file| !file.has_code() || file.has_same_functions(of))
                })
        };
        let has_frames = |kind: &[usize]| kind.iter().any(|module| facts.contains_key(module));
        let mut used = HashSet::new();
        for (kind, part) in self.find_named(open, &kinds)? {
            let (Some(modules), Some(of)) = (kinds.kinds.get(kind), self.read.get(part)) else {
                continue;
            };
            // A name alone is no evidence against a recorded identity.
            if has_frames(modules) || !kinds.has_identities {
                let free: Vec<_> = modules.iter().filter(|i| is_free(**i, of)).collect();
                if !free.is_empty() {
                    used.insert(part);
                    found.extend(free.into_iter().map(|module| (*module, part)));
                }
            }
        }

        let (mut frames_left, mut bytes_left) = (MAX_COMPARED_FRAMES, MAX_DECODED_BYTES);
        let mut kinds_of: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        let mut parts_of: HashMap<usize, usize> = HashMap::new();
        let with_frames: BTreeSet<_> =
            facts.keys().filter_map(|module| kinds.of_module.get(module).copied()).collect();
        for (part, of) in open.iter().filter(|(part, _)| !used.contains(part)) {
            for kind in &with_frames {
                let modules = kinds.kinds.get(*kind).map_or(&[][..], Vec::as_slice);
                // Looking at a module costs as much as a frame, also if the module has been matched.
                let Some(left) = frames_left.checked_sub(modules.len()) else { return Ok(found) };
                frames_left = left;
                let is_open = |i: &usize| is_free(*i, of) && !found.contains_key(i);
                if !modules.iter().any(is_open) {
                    continue;
                }
                let frames = modules.iter().filter_map(|module| facts.get(module));
                let count = frames.clone().map(|frames| frames.len() + FRAMES_PER_KIND).sum();
                let decoded = of.decoded();
                let Some(left) = frames_left.checked_sub(count) else { return Ok(found) };
                frames_left = left;
                let mut frames = frames;
                if frames.all(|frames| self.find_misfit(of, frames).is_none()) {
                    kinds_of.entry(*part).or_default().insert(*kind);
                    *parts_of.entry(*kind).or_default() += 1;
                }
                let Some(left) = bytes_left.checked_sub(of.decoded().saturating_sub(decoded))
                else {
                    return Ok(found);
                };
                bytes_left = left;
            }
        }
        for (part, fitting) in kinds_of {
            let kind = only(fitting.iter()).filter(|kind| parts_of.get(kind) == Some(&1));
            let modules = kind.and_then(|kind| kinds.kinds.get(*kind));
            let of = self.read.get(part);
            for module in modules.into_iter().flatten() {
                if of.is_some_and(|of| is_free(*module, of)) {
                    found.insert(*module, part);
                }
            }
        }
        Ok(found)
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
    ) -> corestream::Result<BTreeMap<usize, usize>> {
        let mut parts_of_name: HashMap<_, Vec<usize>> = HashMap::new();
        for (part, module) in open {
            if let Some(name) = module.name {
                parts_of_name.entry(name).or_default().push(*part);
            }
        }
        let mut kinds_of: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        let mut parts_of: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (i, name) in self.dump.modules().enumerate() {
            let Some(name) = known(name)? else { break };
            let part = parts_of_name.get(name.as_bytes()).and_then(|parts| only(parts.iter()));
            if let (Some(part), Some(kind)) = (part, kinds.of_module.get(&i)) {
                kinds_of.entry(*part).or_default().insert(*kind);
                parts_of.entry(*kind).or_default().insert(*part);
            }
        }
        let named = kinds_of.into_iter().filter_map(|(part, kinds)| {
            let kind = *only(kinds.iter())?;
            only(parts_of.get(&kind)?.iter()).map(|_| (kind, part))
        });
        Ok(named.collect())
    }
}

/// Returns the only item.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next();
    first.filter(|_| items.next().is_none())
}
