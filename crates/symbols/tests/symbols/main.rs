//! The tests of the symbols crate, one module per subject.

mod components;
mod instances;
mod matching;
mod traits;
