//! Typed indices, so that two index spaces cannot be confused.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

macro_rules! index {
    ($($(#[$doc:meta])+ $name:ident)*) => {$(
        $(#[$doc])+
        ///
        /// ```
        #[doc = concat!("use corestream::", stringify!($name), ";")]
        ///
        #[doc = concat!("let index: ", stringify!($name), " = \"7\".parse()?;")]
        #[doc = concat!("assert_eq!(index, ", stringify!($name), "(7));")]
        /// assert_eq!((u32::from(index), index.to_string()), (7, "7".into()));
        /// # Ok::<(), std::num::ParseIntError>(())
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                text.parse().map(Self)
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
    /// The position of a module in a [`CoreDump`](crate::CoreDump), from 0.
    ModuleIndex
    /// The position of an instance in a [`CoreDump`](crate::CoreDump), from 0.
    InstanceIndex
    /// The position of a memory in a [`CoreDump`](crate::CoreDump) or in a [`CoreDumpFile`](crate::CoreDumpFile), from
    /// 0.
    ///
    /// If a dump has no room for all memories of a guest, the indices in the `CoreDump` and in the `CoreDumpFile`
    /// differ.
    MemoryIndex
    /// The position of a global in a [`CoreDump`](crate::CoreDump), from 0.
    GlobalIndex
    /// The index of a memory in the dump that a [`Plan`](crate::Plan) writes, in the index space of that module.
    ///
    /// It can differ from the [`MemoryIndex`], because a description may have more memories than a dump can have.
    /// [`Plan::memories`](crate::Plan::memories) maps one to the other.
    ///
    /// ```
    /// use corestream::{CoreDump, Dumper, DumpMemoryIndex, Memory, MemoryImage, MemoryType};
    ///
    /// let mut dump = CoreDump::new("guest.wasm");
    /// let memory = dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&[7])));
    /// let plan = Dumper::new().plan(&dump)?;
    /// assert_eq!(plan.segments()[0].memory, DumpMemoryIndex(0));
    /// assert_eq!(plan.memories().nth(0), Some(memory));
    /// # Ok::<(), corestream::Error>(())
    /// ```
    DumpMemoryIndex
}
