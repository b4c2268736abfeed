//! Walks a plan and yields the parts of the dump. What is yielded is what was planned.

mod data;
mod index;
mod sections;

pub(crate) use data::{Part, Parts};
pub(crate) use index::Index;
pub(crate) use sections::prelude;
