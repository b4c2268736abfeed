//! Modules and their instances.

use super::identity::ModuleIdentity;
use super::index::{GlobalIndex, MemoryIndex, ModuleIndex};

/// A module that took part in the process.
///
/// ```
/// use corestream::Module;
///
/// assert_eq!(Module::new("guest.wasm").name_or_anonymous(0), "guest.wasm");
/// assert_eq!(Module::anonymous().name_or_anonymous(3), "<anonymous-module-3>");
/// assert_eq!(Module::from("guest.wasm"), Module::new("guest.wasm"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[must_use]
#[non_exhaustive]
pub struct Module {
    /// Its name; a dump has `<anonymous-module-N>` for `None`, where N is the index of the module.
    pub name: Option<String>,
    /// What tells it from other modules, as far as it is known.
    pub identity: ModuleIdentity,
}

impl Module {
    /// Returns a module of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..Self::default() }
    }

    /// Returns a module without a name.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Returns the same module with this identity.
    pub fn with_identity(mut self, identity: ModuleIdentity) -> Self {
        self.identity = identity;
        self
    }

    /// Returns the name in a dump: the module's own, or `<anonymous-module-N>`, where N is `index`.
    pub fn name_or_anonymous(&self, index: usize) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => format!("<anonymous-module-{index}>"),
        }
    }
}

impl From<&str> for Module {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Module {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

/// An instance of a module. An unknown index is `None`, and `u32::MAX` in a dump.
///
/// ```
/// use corestream::{Instance, MemoryIndex, ModuleIndex};
///
/// let instance = Instance::new(ModuleIndex(0)).with_memories([Some(MemoryIndex(2)), None]);
/// assert_eq!(instance.module, Some(ModuleIndex(0)));
/// assert_eq!(instance.memories, [Some(MemoryIndex(2)), None]);
/// assert_eq!(Instance::new(None), Instance::default());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[must_use]
#[non_exhaustive]
pub struct Instance {
    /// The module that it is an instance of.
    pub module: Option<ModuleIndex>,
    /// Its memories in the order of its index space: shared and imported ones count.
    pub memories: Vec<Option<MemoryIndex>>,
    /// Its globals in the order of its index space.
    pub globals: Vec<Option<GlobalIndex>>,
}

impl Instance {
    /// Returns an instance of `module`, `None` if it is unknown, without memories and globals.
    pub fn new(module: impl Into<Option<ModuleIndex>>) -> Self {
        Self { module: module.into(), ..Self::default() }
    }

    /// Returns the instance with these memories, in the order of its index space.
    ///
    /// Takes known indices, `[first, second]`, or some that may be unknown, `[Some(first), None]`.
    pub fn with_memories<I>(mut self, memories: impl IntoIterator<Item = I>) -> Self
    where
        I: Into<Option<MemoryIndex>>,
    {
        self.memories = memories.into_iter().map(Into::into).collect();
        self
    }

    /// Returns the instance with these globals, in the order of its index space.
    pub fn with_globals<I>(mut self, globals: impl IntoIterator<Item = I>) -> Self
    where
        I: Into<Option<GlobalIndex>>,
    {
        self.globals = globals.into_iter().map(Into::into).collect();
        self
    }
}
