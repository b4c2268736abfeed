//! A list that is read into memory, and written without being there.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A JSON array.
pub enum List<'d, T> {
    /// Items in memory, as they were read.
    Read(Vec<T>),
    /// Makes the items of a dump whenever they are written.
    Made(Box<dyn Fn() -> Items<'d, T> + 'd>),
}

type Items<'d, T> = Box<dyn Iterator<Item = T> + 'd>;

impl<'d, T> List<'d, T> {
    /// Returns the list of the items that `make` returns, which is called for each use.
    pub fn made<I: Iterator<Item = T> + 'd>(make: impl Fn() -> I + 'd) -> Self {
        Self::Made(Box::new(move || Box::new(make())))
    }

    /// Returns whether it has no items.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Read(items) => items.is_empty(),
            Self::Made(make) => make().next().is_none(),
        }
    }

    /// Returns what `of` makes of each item.
    pub fn map<R>(&self, of: impl Fn(&T) -> R) -> Vec<R> {
        match self {
            Self::Read(items) => items.iter().map(of).collect(),
            Self::Made(make) => make().map(|item| of(&item)).collect(),
        }
    }
}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self::Read(Vec::new())
    }
}

impl<'d, T: 'd> IntoIterator for List<'d, T> {
    type Item = T;
    type IntoIter = Items<'d, T>;

    fn into_iter(self) -> Self::IntoIter {
        match self {
            Self::Read(items) => Box::new(items.into_iter()),
            Self::Made(make) => make(),
        }
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
            Self::Made(make) => serializer.collect_seq(make()),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<'_, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::Read)
    }
}
