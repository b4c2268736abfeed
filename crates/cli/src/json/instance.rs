//! An instance.

use corestream::{GlobalIndex, MemoryIndex, ModuleIndex};
use serde::{Deserialize, Serialize};

use super::{Counts, listed};

/// An instance of a module, with its memories and globals; an index that is not known is `null`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    module: Option<u32>,
    #[serde(default)]
    memories: Vec<Option<u32>>,
    #[serde(default)]
    globals: Vec<Option<u32>>,
}

impl Instance {
    /// Describes an instance of a dump. With `counts`, an index of what the dump does not list is not known.
    pub(super) fn new(instance: corestream::Instance, counts: Option<Counts>) -> Self {
        let module = instance.module.map(|module| module.0);
        let [memories, globals] = [counts.map(|of| of.memories), counts.map(|of| of.globals)];
        let memory = |index: Option<MemoryIndex>| listed(index.map(|index| index.0), memories);
        let global = |index: Option<GlobalIndex>| listed(index.map(|index| index.0), globals);
        Self {
            module: listed(module, counts.map(|counts| counts.modules)),
            memories: instance.memories.into_iter().map(memory).collect(),
            globals: instance.globals.into_iter().map(global).collect(),
        }
    }

    /// Returns the instance of the library.
    pub fn into_instance(self) -> corestream::Instance {
        corestream::Instance::new(self.module.map(ModuleIndex))
            .with_memories(self.memories.into_iter().map(|index| index.map(MemoryIndex)))
            .with_globals(self.globals.into_iter().map(|index| index.map(GlobalIndex)))
    }
}
