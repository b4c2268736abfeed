//! Modules and their instances.

use super::index::{GlobalIndex, MemoryIndex, ModuleIndex};

/// A module that took part in the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name; `None` is written as `<anonymous-module-N>`, N being its index.
    pub name: Option<String>,
}

impl Module {
    /// The name as it is written: the module's own, or `<anonymous-module-N>`.
    pub fn name_or_anonymous(&self, index: usize) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => format!("<anonymous-module-{index}>"),
        }
    }
}

/// An instance of a module. What is `None` is not known, and `u32::MAX` in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Instance {
    /// The module that it is an instance of.
    pub module: Option<ModuleIndex>,
    /// Its memories in the order of its index space: shared and imported ones count.
    pub memories: Vec<Option<MemoryIndex>>,
    /// Its globals in the order of its index space.
    pub globals: Vec<Option<GlobalIndex>>,
}

impl Instance {
    /// An instance of `module` without memories and globals.
    pub fn of(module: ModuleIndex) -> Self {
        Self { module: Some(module), ..Self::default() }
    }

    /// The same with these memories, in the order of the instance's index space.
    ///
    /// Takes indices that are known, `[first, second]`, or may not be, `[Some(first), None]`.
    pub fn with_memories<I>(mut self, memories: impl IntoIterator<Item = I>) -> Self
    where
        I: Into<Option<MemoryIndex>>,
    {
        self.memories = memories.into_iter().map(Into::into).collect();
        self
    }

    /// The same with these globals, in the order of the instance's index space.
    pub fn with_globals<I>(mut self, globals: impl IntoIterator<Item = I>) -> Self
    where
        I: Into<Option<GlobalIndex>>,
    {
        self.globals = globals.into_iter().map(Into::into).collect();
        self
    }
}
