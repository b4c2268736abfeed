//! A cache of the instances of a dump.
//!
//! A dump is untrusted. An instance can have a million globals, and a million frames can alternate between two such
//! instances. Decoding the instance for each frame, or for each variable in a global, would take quadratic time.
//!
//! Therefore one pass over all instances keeps the module and the first memory of each, which is all that most frames
//! need. This takes 8 bytes for each of at most [`MAX_LISTED`](corestream::limits::MAX_LISTED) instances. The globals
//! of an instance are not kept. Looking up a variable in a global decodes the instance once, and caches the value.

use std::collections::HashMap;

use corestream::limits::UNKNOWN_INDEX;
use corestream::{
    CoreDumpFile, Error, ErrorKind, Global, GlobalIndex, Instance, InstanceIndex, MemoryIndex,
    ModuleIndex, Result,
};

use super::limits::MAX_KNOWN_GLOBALS;

/// Returns the value, or `None` if the dump does not have it: because it is damaged, not listed or excluded.
///
/// # Errors
/// Returns an error that does not concern the dump's contents: its source failed, memory ran out, or the operation was
/// cancelled.
pub fn known<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_of_dump(error.kind()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns whether an error of this kind concerns the contents of a dump, and not the reading.
pub fn is_of_dump(kind: ErrorKind) -> bool {
    use ErrorKind::{Damaged, Excluded, Format, Option, Truncated, Unsupported};

    matches!(kind, Format | Damaged | Truncated | Unsupported | Excluded | Option)
}

/// The properties of an instance that most frames need. [`UNKNOWN_INDEX`] means an unknown index.
#[derive(Clone, Copy)]
struct Summary {
    module: u32,
    memory: u32,
}

/// The instances of a dump.
pub struct Instances<'d> {
    dump: &'d CoreDumpFile<'d>,
    /// `None` until the first lookup.
    listed: Option<Listed>,
    /// The instance decoded last.
    last: Option<(InstanceIndex, Instance)>,
    /// The globals, by instance and index.
    globals: HashMap<(InstanceIndex, u32), Option<Global>>,
}

/// Summaries of the instances before the first damaged one.
struct Listed {
    summaries: Vec<Summary>,
    /// The reason why the rest cannot be decoded, if there is a rest.
    fault: Option<String>,
}

impl<'d> Instances<'d> {
    pub fn new(dump: &'d CoreDumpFile<'d>) -> Self {
        Self { dump, listed: None, last: None, globals: HashMap::new() }
    }

    pub fn dump(&self) -> &'d CoreDumpFile<'d> {
        self.dump
    }

    /// Returns the module of an instance, or `None` if it is unknown or the dump does not list the instance.
    ///
    /// The inner error is a message: why the module cannot be determined in a damaged dump.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read.
    pub fn module(&mut self, index: InstanceIndex) -> Result<Result<Option<ModuleIndex>, String>> {
        if let Some(summary) = self.summary(index)? {
            return Ok(Ok(known_index(summary.module).map(ModuleIndex)));
        }
        let is_listed = (index.0 as usize) < self.dump.instances().len();
        let fault = self.listed()?.fault.clone();
        Ok(fault.filter(|_| is_listed).map_or(Ok(None), Err))
    }

    /// Returns the first memory of an instance, if known.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read.
    pub fn memory(&mut self, index: InstanceIndex) -> Result<Option<MemoryIndex>> {
        let summary = self.summary(index)?;
        Ok(summary.and_then(|summary| known_index(summary.memory)).map(MemoryIndex))
    }

    /// Returns the global with index `global` of an instance, if known.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read.
    pub fn global(&mut self, index: InstanceIndex, global: u32) -> Result<Option<Global>> {
        if let Some(value) = self.globals.get(&(index, global)) {
            return Ok(*value);
        }
        let value = match self.global_index(index, global)? {
            Some(global) => known(self.dump.global(global))?,
            None => None,
        };
        if self.globals.len() >= MAX_KNOWN_GLOBALS {
            self.globals.clear();
        }
        self.globals.insert((index, global), value);
        Ok(value)
    }

    /// Returns the index of the global in the dump.
    fn global_index(&mut self, index: InstanceIndex, global: u32) -> Result<Option<GlobalIndex>> {
        let instance = match &self.last {
            Some((last, instance)) if *last == index => Some(instance),
            _ => match known(self.dump.instance(index))? {
                Some(instance) => Some(&self.last.insert((index, instance)).1),
                None => None,
            },
        };
        Ok(instance.and_then(|of| of.globals.get(global as usize).copied().flatten()))
    }

    fn summary(&mut self, index: InstanceIndex) -> Result<Option<Summary>> {
        Ok(self.listed()?.summaries.get(index.0 as usize).copied())
    }

    fn listed(&mut self) -> Result<&Listed> {
        match &mut self.listed {
            Some(listed) => Ok(listed),
            none => Ok(none.insert(Listed::of(self.dump)?)),
        }
    }
}

impl Listed {
    /// Decodes all instances once.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read.
    fn of(dump: &CoreDumpFile<'_>) -> Result<Self> {
        let instances = dump.instances();
        let mut summaries = Vec::new();
        summaries.try_reserve_exact(instances.len()).map_err(|_| {
            Error::new(ErrorKind::OutOfMemory, "cannot allocate a table of instances")
        })?;
        for instance in instances {
            let instance = match instance {
                Ok(instance) => instance,
                Err(error) if is_of_dump(error.kind()) => {
                    return Ok(Self { summaries, fault: Some(error.to_string()) });
                }
                Err(error) => return Err(error),
            };
            let module = instance.module.map_or(UNKNOWN_INDEX, |module| module.0);
            let memory = instance.memories.first().copied().flatten();
            let memory = memory.map_or(UNKNOWN_INDEX, |memory| memory.0);
            summaries.push(Summary { module, memory });
        }
        Ok(Self { summaries, fault: None })
    }
}

fn known_index(index: u32) -> Option<u32> {
    (index != UNKNOWN_INDEX).then_some(index)
}
