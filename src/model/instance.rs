//! Modules and their instances.

use super::identity::ModuleIdentity;
use super::index::{GlobalIndex, MemoryIndex, ModuleIndex};
use super::key::ModuleKey;

/// A module of the process.
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
    /// The name. For `None`, a dump has the name `<anonymous-module-N>`, where N is the index of the module.
    pub name: Option<String>,
    /// The build id and the hash of the module, if known.
    pub identity: ModuleIdentity,
    /// The identity of the module within this process. A dump does not contain it.
    pub key: Option<ModuleKey>,
}

impl Module {
    /// Returns a module called `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..Self::default() }
    }

    /// Returns a module without a name.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Sets the identity.
    pub fn with_identity(mut self, identity: ModuleIdentity) -> Self {
        self.identity = identity;
        self
    }

    /// Sets the identity within this process.
    pub fn with_key(mut self, key: ModuleKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Returns the name that a dump has for the module: its name, or `<anonymous-module-N>`, where N is `index`.
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

/// An instance of a module.
///
/// Unknown indices are `None`. In a dump they are `u32::MAX`.
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
    /// The module, if known.
    pub module: Option<ModuleIndex>,
    /// The memories in the order of the instance's index space, including imported and shared memories.
    pub memories: Vec<Option<MemoryIndex>>,
    /// The globals in the order of the instance's index space, including imported globals.
    pub globals: Vec<Option<GlobalIndex>>,
}

impl Instance {
    /// Returns an instance of `module` (`None` if unknown) without memories and globals.
    pub fn new(module: impl Into<Option<ModuleIndex>>) -> Self {
        Self { module: module.into(), ..Self::default() }
    }

    /// Sets the memories, in the order of the index space.
    ///
    /// Takes known indices, such as `[first, second]`, or options, such as `[Some(first), None]`.
    pub fn with_memories<I>(mut self, memories: impl IntoIterator<Item = I>) -> Self
    where
        I: Into<Option<MemoryIndex>>,
    {
        self.memories = memories.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the globals, in the order of the index space.
    pub fn with_globals<I>(mut self, globals: impl IntoIterator<Item = I>) -> Self
    where
        I: Into<Option<GlobalIndex>>,
    {
        self.globals = globals.into_iter().map(Into::into).collect();
        self
    }
}
