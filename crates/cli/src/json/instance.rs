//! An instance.

use corestream::read::InstanceView;
use corestream::{GlobalIndex, MemoryIndex, ModuleIndex};
use serde::{Deserialize, Serialize};

use super::{Counts, List, listed};

/// An instance of a module, with its memories and globals; an index that is not known is `null`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance<'d> {
    module: Option<u32>,
    #[serde(default)]
    memories: List<'d, Option<u32>>,
    #[serde(default)]
    globals: List<'d, Option<u32>>,
}

impl<'d> Instance<'d> {
    /// Describes an instance of a dump. With `counts`, an index of what the dump does not list is not known.
    pub(super) fn new(instance: InstanceView<'d>, counts: Option<Counts>) -> Self {
        let module = instance.module().map(|module| module.0);
        let globals = instance.clone();
        Self {
            module: listed(module, counts.map(|counts| counts.modules)),
            memories: List::made(move || {
                let count = counts.map(|counts| counts.memories);
                instance.memories().map(move |index| listed(index.map(|index| index.0), count))
            }),
            globals: List::made(move || {
                let count = counts.map(|counts| counts.globals);
                globals.globals().map(move |index| listed(index.map(|index| index.0), count))
            }),
        }
    }

    /// Returns the instance of the library.
    pub fn into_instance(self) -> corestream::Instance {
        corestream::Instance::new(self.module.map(ModuleIndex))
            .with_memories(self.memories.into_iter().map(|index| index.map(MemoryIndex)))
            .with_globals(self.globals.into_iter().map(|index| index.map(GlobalIndex)))
    }
}
