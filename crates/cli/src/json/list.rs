//! A list that is read into memory, and written without being there.

use std::fmt;

use corestream::Error;
use serde::ser::{self, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A JSON array.
pub enum List<'d, T> {
    /// Items in memory, as they were read.
    Read(Vec<T>),
    /// Makes the items of a dump whenever they are written; the first that cannot be read ends that.
    Made(Box<dyn Fn() -> Items<'d, T> + 'd>),
}

type Items<'d, T> = Box<dyn Iterator<Item = Result<T, Error>> + 'd>;

impl<'d, T> List<'d, T> {
    /// Returns the list of the items that `make` returns, which is called for each use.
    pub fn made<I>(make: impl Fn() -> I + 'd) -> Self
    where
        I: Iterator<Item = Result<T, Error>> + 'd,
    {
        Self::Made(Box::new(move || Box::new(make())))
    }

    /// Returns whether it has no items.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Read(items) => items.is_empty(),
            Self::Made(make) => make().next().is_none(),
        }
    }

    /// Returns the items that were read; a list that is made has none.
    pub fn items(&self) -> &[T] {
        match self {
            Self::Read(items) => items,
            Self::Made(_) => &[],
        }
    }

    /// Returns the items that were read, as [`items`](Self::items) does.
    pub fn into_items(self) -> Vec<T> {
        match self {
            Self::Read(items) => items,
            Self::Made(_) => Vec::new(),
        }
    }
}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self::Read(Vec::new())
    }
}

impl<T: fmt::Debug> fmt::Debug for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(items) => items.fmt(f),
            Self::Made(make) => f.debug_list().entries(make()).finish(),
        }
    }
}

impl<T: Serialize> Serialize for List<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Read(items) => serializer.collect_seq(items),
            Self::Made(make) => {
                let mut sequence = serializer.serialize_seq(None)?;
                for item in make() {
                    sequence.serialize_element(&item.map_err(ser::Error::custom)?)?;
                }
                sequence.end()
            }
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<'_, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::Read)
    }
}
