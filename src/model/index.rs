//! Indices, each typed by what it counts.

use std::fmt;

macro_rules! index {
    ($(#[$doc:meta] $name:ident)*) => {$(
        #[$doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<u32> for $name {
            fn from(index: u32) -> Self {
                Self(index)
            }
        }

        impl From<$name> for u32 {
            fn from(index: $name) -> Self {
                index.0
            }
        }
    )*};
}

index! {
    /// The position of a module in a [`CoreDump`], from 0.
    ModuleIndex
    /// The position of an instance in a [`CoreDump`], from 0.
    InstanceIndex
    /// The position of a memory in a [`CoreDump`], from 0.
    MemoryIndex
    /// The position of a global in a [`CoreDump`], from 0.
    GlobalIndex
}
