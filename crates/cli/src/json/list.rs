//! A JSON array that is read into memory, but written item by item.
//!
//! # Problem
//!
//! One type must serve both directions: a manifest that the tool reads, and a report that it writes. A manifest is small
//! and bounded, so its lists can be in memory. But a report describes a dump, which can have millions of frames or
//! segments. Collected as JSON values, they would need many times the memory of the dump's index.
//!
//! # Solution
//!
//! A [`List`] is either in memory or lazy. Serde fills lists in memory when it reads. A lazy list has a function that
//! returns an iterator over the dump. Serializing the list calls the function and writes each item as it comes, so only
//! one item is in memory. The function can be called again: `is_empty` does so for fields that are omitted when empty.
//!
//! Reading a dump can fail in the middle of a list. The error ends the serialization, and the JSON written so far is
//! incomplete. The caller then reports the error.

use std::fmt;

use corestream::Error;
use serde::ser::{self, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A JSON array.
pub enum List<'d, T> {
    /// The items in memory, as they were read.
    InMemory(Vec<T>),
    /// A function that reads the items from a dump. It is called each time the list is written.
    Lazy(Box<dyn Fn() -> Items<'d, T> + 'd>),
}

type Items<'d, T> = Box<dyn Iterator<Item = Result<T, Error>> + 'd>;

impl<'d, T> List<'d, T> {
    /// Creates a list of the items that `items` yields. `items` is called each time the list is used.
    pub fn lazy<I>(items: impl Fn() -> I + 'd) -> Self
    where
        I: Iterator<Item = Result<T, Error>> + 'd,
    {
        Self::Lazy(Box::new(move || Box::new(items())))
    }

    /// Returns whether the list has no items.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::InMemory(items) => items.is_empty(),
            Self::Lazy(items) => items().next().is_none(),
        }
    }

    /// Returns the items in memory. A lazy list has none.
    pub fn items(&self) -> &[T] {
        match self {
            Self::InMemory(items) => items,
            Self::Lazy(_) => &[],
        }
    }

    /// Returns the items in memory, as [`items`](Self::items) does.
    pub fn into_items(self) -> Vec<T> {
        match self {
            Self::InMemory(items) => items,
            Self::Lazy(_) => Vec::new(),
        }
    }
}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self::InMemory(Vec::new())
    }
}

impl<T: fmt::Debug> fmt::Debug for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InMemory(items) => items.fmt(f),
            Self::Lazy(items) => f.debug_list().entries(items()).finish(),
        }
    }
}

impl<T: Serialize> Serialize for List<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::InMemory(items) => serializer.collect_seq(items),
            Self::Lazy(items) => {
                let mut sequence = serializer.serialize_seq(None)?;
                for item in items() {
                    sequence.serialize_element(&item.map_err(ser::Error::custom)?)?;
                }
                sequence.end()
            }
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<'_, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::InMemory)
    }
}
