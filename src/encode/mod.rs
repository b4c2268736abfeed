//! Walks a plan and yields the parts of the dump. What is yielded is what was planned.

mod data;
mod header;
mod index;
mod name;
mod sections;

pub(crate) use data::{Part, Parts};
pub(crate) use index::Index;
pub(crate) use sections::prelude;
