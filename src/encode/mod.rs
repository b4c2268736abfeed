//! Encodes a plan: walks it and yields the parts of the dump, exactly as planned.

mod data;
mod header;
mod index;
mod name;
mod sections;

pub(crate) use data::{DumpPart, DumpParts};
pub(crate) use index::IndexEncoder;
pub(crate) use sections::encode_prelude;
