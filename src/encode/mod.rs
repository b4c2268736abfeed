//! Walks a plan and yields the pieces of the dump. What is emitted is what was planned.

mod data;
mod index;
mod sections;

pub(crate) use data::Pieces;
pub(crate) use index::Index;
pub(crate) use sections::prelude;
