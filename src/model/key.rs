//! The identity of an engine's object within this process.

use std::any::TypeId;

/// The identity of a module within this process: two modules with the same key are the same.
///
/// An engine can tell whether two modules are the same without their bytes, by a number or an address. A dump does not
/// contain the key. [`CoreDump::merge`](crate::CoreDump::merge) compares it.
///
/// ```
/// use corestream::ModuleKey;
///
/// /// The module type of an engine.
/// struct EngineModule { number: u64 }
///
/// let module = EngineModule { number: 7 };
/// let key = ModuleKey::new::<EngineModule>(module.number);
/// assert_eq!(key, ModuleKey::new::<EngineModule>(7));
/// // Each engine counts on its own.
/// assert_ne!(key, ModuleKey::new::<std::path::Path>(7));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModuleKey {
    engine: TypeId,
    id: u64,
}

impl ModuleKey {
    /// Returns the key of a module of the type `T` with the number `id`.
    ///
    /// No two modules of this type may have the same number while their dumps exist, even if they belong to different
    /// instances of the engine. An address of the module is such a number if the module outlives the dumps.
    pub fn new<T: ?Sized + 'static>(id: u64) -> Self {
        Self { engine: TypeId::of::<T>(), id }
    }
}
