//! An instance.

use corestream::{GlobalIndex, MemoryIndex, ModuleIndex};
use serde::{Deserialize, Serialize};

use super::{Counts, listed_index};

/// An instance of a module, with its memories and globals. An unknown index is `null`.
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
    /// Converts an instance of a dump. With `counts`, an index that the dump does not list becomes unknown.
    pub(super) fn new(instance: corestream::Instance, counts: Option<Counts>) -> Self {
        let module = instance.module.map(|module| module.0);
        let [memories, globals] = [counts.map(|of| of.memories), counts.map(|of| of.globals)];
        let memory =
            |index: Option<MemoryIndex>| listed_index(index.map(|index| index.0), memories);
        let global = |index: Option<GlobalIndex>| listed_index(index.map(|index| index.0), globals);
        Self {
            module: listed_index(module, counts.map(|counts| counts.modules)),
            memories: instance.memories.into_iter().map(memory).collect(),
            globals: instance.globals.into_iter().map(global).collect(),
        }
    }

    /// Converts to the library's instance.
    pub fn into_instance(self) -> corestream::Instance {
        corestream::Instance::new(self.module.map(ModuleIndex))
            .with_memories(self.memories.into_iter().map(|index| index.map(MemoryIndex)))
            .with_globals(self.globals.into_iter().map(|index| index.map(GlobalIndex)))
    }
}
